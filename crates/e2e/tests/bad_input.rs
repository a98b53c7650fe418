//! Wrong requests, broken images, dying plugins: a clear error with the right code, nothing left behind, and the retry works.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use e2e::cri::{self, ContainerConfig, Int64Value, Mount};
use e2e::{Client, Network, Node, config};
use tonic::{Code, Status};

/// A pod to try containers in.
struct Bench {
    node: Node,
    client: Client,
    sandbox: cri::PodSandboxConfig,
    pod: String,
}

impl Bench {
    async fn new() -> Self {
        let node = Node::start(Network::None).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let sandbox = node.pod();
        let pod = client.run_pod(sandbox.clone()).await.unwrap();
        Self { node, client, sandbox, pod }
    }

    async fn create(&self, change: impl FnOnce(&mut ContainerConfig)) -> Result<String, Status> {
        let mut wanted = self.node.busybox("main", &["true"]);
        change(&mut wanted);
        self.client.create(&self.pod, wanted, &self.sandbox).await
    }

    /// The change is refused with this code and these words, nothing is kept, and the same name works without it.
    async fn refused(&self, code: Code, words: &[&str], change: impl FnOnce(&mut ContainerConfig)) {
        let status = self.create(change).await.expect_err("a refusal");
        assert_status(&status, code, words);
        assert!(self.client.containers().await.unwrap().is_empty(), "nothing is kept after {status}");
        let id = self.create(|_| {}).await.expect("the retry works");
        self.client.start(&id).await.unwrap();
        assert_eq!(self.client.exited(&id).await.reason, "Completed");
        self.client.remove(&id).await.unwrap();
    }
}

fn assert_status(status: &Status, code: Code, words: &[&str]) {
    assert_eq!(status.code(), code, "{status}");
    for word in words {
        assert!(status.message().contains(word), "no \"{word}\" in: {}", status.message());
    }
}

#[tokio::test]
async fn containers_that_cannot_be_made_are_refused_by_name() {
    let bench = Bench::new().await;
    bench
        .refused(Code::InvalidArgument, &["metadata.name"], |c| c.metadata.as_mut().unwrap().name.clear())
        .await;
    bench
        .refused(Code::InvalidArgument, &["log_path", "../../escape.log"], |c| {
            c.log_path = "../../escape.log".into()
        })
        .await;
    let mount = |container_path: &str, host_path: &str| {
        let mount = Mount {
            container_path: container_path.into(),
            host_path: host_path.into(),
            ..Default::default()
        };
        move |config: &mut ContainerConfig| config.mounts.push(mount)
    };
    bench
        .refused(Code::InvalidArgument, &["mounts[0].container_path", "relative"], mount("relative", "/tmp"))
        .await;
    for (target, why) in [("/", "the root itself"), ("/data/..", "the root itself"), ("/proc/x", "/proc")] {
        let place = &["mounts[0].container_path", why];
        bench.refused(Code::InvalidArgument, place, mount(target, "/tmp")).await;
    }
    type Paths = fn(&mut cri::LinuxContainerSecurityContext) -> &mut Vec<String>;
    let lists: [(&str, Paths); 2] = [
        ("linux.security_context.masked_paths[1]", |context| &mut context.masked_paths),
        ("linux.security_context.readonly_paths[1]", |context| &mut context.readonly_paths),
    ];
    for (field, paths) in lists {
        let relative = |config: &mut ContainerConfig| {
            *paths(config::security(config)) = vec!["/proc/keys".into(), "proc/keys".into()];
        };
        bench.refused(Code::InvalidArgument, &[field], relative).await;
    }
    bench
        .refused(Code::InvalidArgument, &["command[1]"], |c| c.command = vec!["true".into(), "a\0b".into()])
        .await;
    bench.refused(Code::InvalidArgument, &["args[0]"], |c| c.args = vec!["a\0b".into()]).await;
    bench
        .refused(Code::InvalidArgument, &["mounts[0].host_path", "relative"], mount("/data", "relative"))
        .await;
    bench
        .refused(
            Code::InvalidArgument,
            &["mounts[0].host_path", "/does/not/exist"],
            mount("/data", "/does/not/exist"),
        )
        .await;
    bench
        .refused(Code::InvalidArgument, &["nobody-here"], |c| {
            config::security(c).run_as_username = "nobody-here".into();
        })
        .await;
    bench
        .refused(Code::InvalidArgument, &["run_as_group"], |c| {
            config::security(c).run_as_group = Some(Int64Value { value: 5 });
        })
        .await;
    let limits = |change: fn(&mut cri::LinuxContainerResources)| {
        move |config: &mut ContainerConfig| {
            change(config.linux.get_or_insert_default().resources.get_or_insert_default());
        }
    };
    let (invalid, field) = (Code::InvalidArgument, "linux.resources.cpu_period");
    bench.refused(invalid, &[field, "999"], limits(|limits| limits.cpu_period = 999)).await;
    let field = "linux.resources.cpuset_cpus";
    bench.refused(invalid, &[field, "zero"], limits(|limits| limits.cpuset_cpus = "zero".into())).await;
    let field = "linux.resources.unified";
    let freeze = |limits: &mut cri::LinuxContainerResources| {
        limits.unified.insert("cgroup.freeze".into(), "1".into());
    };
    bench.refused(invalid, &[field, "cgroup.freeze"], limits(freeze)).await;
    bench
        .refused(Code::NotFound, &["no-such-image"], |c| {
            c.image = Some(e2e::client::image_spec("127.0.0.1:1/no-such-image:v1"));
        })
        .await;
}

#[tokio::test]
async fn commands_that_cannot_run_say_which_and_why() {
    let bench = Bench::new().await;
    for (command, why) in [("/no/such/command", "no such file"), ("/etc/not-executable", "permission denied")]
    {
        let id = bench.create(|c| c.command = vec![command.into()]).await.unwrap();
        let status = bench.client.start(&id).await.expect_err("it can't start");
        assert!(status.message().contains(command), "{status}");
        assert!(status.message().to_lowercase().contains(why), "{status}");
        let exited = bench.client.container(&id).await.unwrap();
        assert_eq!(exited.reason, "StartError", "{exited:?}");
        assert_ne!(exited.exit_code, 0);
        assert!(exited.message.contains(command), "{exited:?}");
        bench.client.remove(&id).await.unwrap();
    }
    let id = bench.create(|_| {}).await.unwrap();
    bench.client.start(&id).await.unwrap();
}

#[tokio::test]
async fn a_stopped_pod_takes_no_container() {
    let bench = Bench::new().await;
    bench.client.stop_pod(&bench.pod).await.unwrap();
    let status = bench.create(|_| {}).await.expect_err("the pod is stopped");
    assert_status(&status, Code::FailedPrecondition, &[&bench.pod]);
}

#[tokio::test]
async fn pods_that_cannot_be_made_as_asked_are_refused_by_path() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    type Change = fn(&mut cri::PodSandboxConfig);
    let cases: [(&str, Change); 4] = [
        ("annotations[\"kubernetes.io/egress-bandwidth\"]", |config| {
            config.annotations = [("kubernetes.io/egress-bandwidth".into(), "fast".into())].into();
        }),
        ("port_mappings[0].host_port", |config| {
            config.port_mappings = vec![cri::PortMapping { host_port: -1, ..Default::default() }];
        }),
        ("linux.security_context.apparmor", |config| {
            let kind = cri::security_profile::ProfileType::Localhost as i32;
            let profile = cri::SecurityProfile { profile_type: kind, localhost_ref: "mine".into() };
            sandbox_security(config).apparmor = Some(profile);
        }),
        ("linux.security_context.supplemental_groups_policy", |config| {
            sandbox_security(config).supplemental_groups_policy = 7;
        }),
    ];
    for (field, change) in cases {
        let mut config = node.pod();
        change(&mut config);
        let status = client.run_pod(config).await.expect_err(field);
        assert_status(&status, Code::InvalidArgument, &[field]);
        assert!(client.pods().await.unwrap().is_empty(), "nothing is kept after {status}");
    }
    // What kubelet sends for a Pod that says runAsGroup alone.
    let mut config = node.pod();
    sandbox_security(&mut config).run_as_group = Some(Int64Value { value: 3000 });
    client.run_pod(config).await.expect("a pod");
}

fn sandbox_security(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("made by the node")
}

#[tokio::test]
async fn a_pod_with_limits_of_its_traffic_comes_and_goes() {
    let node = Node::start(Network::Plugins).await;
    let client = node.client();
    let mut config = node.pod();
    config.annotations = [("kubernetes.io/ingress-bandwidth".into(), "1.5M".into())].into();
    let pod = client.run_pod(config).await.unwrap();
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
}

#[tokio::test]
async fn an_unknown_runtime_handler_is_refused() {
    let node = Node::start(Network::None).await;
    let request = cri::RunPodSandboxRequest { config: Some(node.pod()), runtime_handler: "gvisor".into() };
    let status = node.client().runtime.run_pod_sandbox(request).await.expect_err("a refusal");
    assert_status(&status, Code::InvalidArgument, &["runtime_handler", "gvisor"]);
    assert!(node.client().pods().await.unwrap().is_empty());
}

/// The text in which kubelet looks for its words, as its client makes it of an answer (cri-client, `PullImage`).
fn as_kubelet_sees(status: &Status) -> String {
    match status.code() {
        Code::Unknown => status.message().to_owned(),
        code => format!("rpc error: code = {code:?} desc = {}", status.message()),
    }
}

#[tokio::test]
async fn images_that_cannot_be_pulled_say_why() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let pull = |reference: &str| {
        let (client, reference) = (client.clone(), reference.to_owned());
        async move { client.pull(&reference).await.expect_err("no such image") }
    };
    assert_status(&pull("UPPER/case").await, Code::InvalidArgument, &["UPPER/case"]);
    let unavailable = pull("127.0.0.1:1/nobody/listens:v1").await;
    assert_status(&unavailable, Code::Unknown, &["127.0.0.1:1"]);
    assert!(as_kubelet_sees(&unavailable).starts_with("RegistryUnavailable"), "{unavailable}");
    let handled = cri::ImageSpec { runtime_handler: "gvisor".into(), ..e2e::client::image_spec("busybox") };
    let request = cri::PullImageRequest { image: Some(handled), ..Default::default() };
    let refused = client.images.clone().pull_image(request).await.expect_err("a refusal");
    assert_status(&refused, Code::InvalidArgument, &["image.runtime_handler", "gvisor"]);
    let missing = node.registry.image("missing:v1");
    assert_status(&pull(&missing).await, Code::NotFound, &["missing"]);
    let listed = client.images.clone().list_images(cri::ListImagesRequest { filter: None }).await.unwrap();
    assert!(listed.into_inner().images.is_empty());
}

#[tokio::test]
async fn broken_plugins_fail_the_pod_and_the_next_attempt_works() {
    let node = Node::start(Network::Plugins).await;
    let client = node.client();
    let good = std::fs::read_to_string(network_file(&node)).unwrap();
    // The first plugin of the chain is replaced by one that is broken in its own way, by its type alone.
    for (name, text, words) in [
        ("e2e-crashes", "#!/bin/sh\nkill -9 $$\n", "e2e-crashes"),
        ("e2e-garbage", "#!/bin/sh\n[ $CNI_COMMAND = DEL ] || echo garbage\n", "e2e-garbage"),
        (
            "e2e-refuses",
            "#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\necho '{\"code\": 100, \"msg\": \"no more addresses\"}'; exit 1\n",
            "no more addresses",
        ),
    ] {
        write_plugin(&node, name, text);
        use_conflist(&node, &client, &good.replace("\"type\":\"bridge\"", &format!("\"type\":\"{name}\"")))
            .await;
        let config = node.pod();
        let status = client.run_pod(config.clone()).await.expect_err("the network is broken");
        assert_status(&status, Code::Internal, &[words]);
        use_conflist(&node, &client, &good).await;
        let pod = client.run_pod(config).await.expect("the retry works");
        client.stop_pod(&pod).await.unwrap();
        client.remove_pod(&pod).await.unwrap();
    }
}

#[tokio::test]
async fn a_plugin_that_is_missing_or_hangs_says_so_and_the_next_attempt_works() {
    let mut node = Node::start(Network::Plugins).await;
    node.stop_daemon();
    // The last section of the file is the network's.
    let mut file = std::fs::File::options().append(true).open(node.path("knarr.toml")).unwrap();
    // Long enough for the plugins that work.
    let deadline = e2e::patience(std::time::Duration::from_secs(5)).as_secs();
    writeln!(file, "plugin_deadline = {deadline}").unwrap();
    node.start_daemon();
    let client = node.client();
    let good = std::fs::read_to_string(network_file(&node)).unwrap();
    let with = |name: &str| good.replace("\"type\":\"bridge\"", &format!("\"type\":\"{name}\""));
    write_plugin(&node, "e2e-hangs", "#!/bin/sh\n[ $CNI_COMMAND = DEL ] || sleep 1000\n");
    write_plugin(&node, "e2e-hangs-always", "#!/bin/sh\nsleep 1000\n");
    for (name, code) in [
        ("e2e-missing", Code::Unavailable),
        ("e2e-hangs", Code::DeadlineExceeded),
        ("e2e-hangs-always", Code::DeadlineExceeded),
    ] {
        use_conflist(&node, &client, &with(name)).await;
        let config = node.pod();
        let status = client.run_pod(config.clone()).await.expect_err("the network is broken");
        assert_status(&status, code, &[name]);
        use_conflist(&node, &client, &good).await;
        // What could not be undone is undone now, with a plugin that answers.
        std::fs::remove_file(node.path("plugins").join(name)).ok();
        write_plugin(&node, name, "#!/bin/sh\nexit 0\n");
        let pod = client.run_pod(config).await.expect("the retry works");
        client.stop_pod(&pod).await.unwrap();
        client.remove_pod(&pod).await.unwrap();
    }
}

fn write_plugin(node: &Node, name: &str, text: &str) {
    let path = node.path("plugins").join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The node's only network configuration.
fn network_file(node: &Node) -> std::path::PathBuf {
    let files = std::fs::read_dir(node.path("cni")).unwrap().map(|entry| entry.unwrap().path());
    let mut lists = files.filter(|path| path.extension().is_some_and(|extension| extension == "conflist"));
    lists.next().expect("a configuration")
}

/// Replaces the configuration and waits until the daemon has taken it up, which its status shows by the network's name.
async fn use_conflist(node: &Node, client: &Client, text: &str) {
    static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let name = format!("e2e-try-{}", SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let mut conflist: serde_json::Value = serde_json::from_str(text).unwrap();
    conflist["name"] = name.clone().into();
    let beside = node.path("cni/10-e2e.new");
    std::fs::write(&beside, conflist.to_string()).unwrap();
    std::fs::rename(&beside, network_file(node)).unwrap();
    e2e::until(e2e::node::PATIENCE, "the new network configuration", || async {
        let request = cri::StatusRequest { verbose: true };
        let status = client.runtime.clone().status(request).await.unwrap().into_inner();
        if status.info["network"].contains(&name) { Ok(()) } else { Err(status.info) }
    })
    .await;
}

#[tokio::test]
async fn a_node_without_a_network_configuration_says_so() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let status =
        client.runtime.clone().status(cri::StatusRequest { verbose: false }).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    let network = conditions.iter().find(|condition| condition.r#type == "NetworkReady").unwrap();
    assert!(!network.status && network.reason == "NetworkPluginNotReady", "{network:?}");
    let logs = node.path("logs");
    let wanted = config::pod("networked", &node.cgroup_parent(), &logs);
    let refused = client.run_pod(wanted).await.expect_err("there is no network");
    assert_status(&refused, Code::Unavailable, &["network"]);
    assert!(client.pods().await.unwrap().is_empty());
}
