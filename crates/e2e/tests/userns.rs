//! Pods with a user namespace: who is who on either side, and whose the files are.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use e2e::cri::{self, ContainerConfig, IdMapping, Int64Value, Mount, NamespaceMode, UserNamespace};
use e2e::{Client, Network, Node, config};

/// The first user on the host.
const OUTSIDE: u32 = 1_000_000;

fn mapping(host_id: u32) -> Vec<IdMapping> {
    vec![IdMapping { host_id, container_id: 0, length: 65_536 }]
}

fn users() -> UserNamespace {
    UserNamespace { mode: NamespaceMode::Pod as i32, uids: mapping(OUTSIDE), gids: mapping(OUTSIDE) }
}

fn options(sandbox: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    let context = sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
    context.namespace_options.as_mut().unwrap()
}

/// A pod in which scripts are run.
struct Pod {
    node: Node,
    client: Client,
    sandbox: cri::PodSandboxConfig,
    id: String,
}

impl Pod {
    async fn new(network: Network, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Self {
        let node = Node::start(network).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let mut sandbox = node.pod();
        options(&mut sandbox).userns_options = Some(users());
        change(&mut sandbox);
        let id = client.run_pod(sandbox.clone()).await.unwrap();
        Self { node, client, sandbox, id }
    }

    fn wanted(&self, name: &str, command: &[&str]) -> ContainerConfig {
        let mut wanted = self.node.busybox(name, command);
        let of_pod = self.sandbox.linux.as_ref().unwrap().security_context.as_ref().unwrap();
        config::security(&mut wanted).namespace_options.clone_from(&of_pod.namespace_options);
        wanted
    }

    async fn waiting(&self, name: &str, change: impl FnOnce(&mut ContainerConfig)) -> String {
        let mut wanted = self.wanted(name, &["sleep", "1000"]);
        change(&mut wanted);
        let id = self.client.create(&self.id, wanted, &self.sandbox).await.unwrap();
        self.client.start(&id).await.unwrap();
        id
    }

    async fn sh(&self, container: &str, script: &str) -> String {
        let output = self.client.exec(container, &["sh", "-c", script], 20).await.unwrap();
        assert_eq!(output.exit_code, 0, "{script}: {output:?}");
        output.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The processes of the pod's containers: those that sleep.
    fn sleepers(&self) -> Vec<i32> {
        let found = self.node.traces().processes().into_iter();
        found.filter(|(_, command)| command.starts_with("sleep 1000")).map(|(pid, _)| pid).collect()
    }
}

fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(field)).unwrap().to_owned();
    found.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

fn volume(pod: &Pod, mapped: Option<u32>) -> (PathBuf, Mount) {
    let host = pod.node.path("volume");
    std::fs::create_dir_all(&host).unwrap();
    for (name, uid) in [("roots", 0), ("users", 1000)] {
        std::fs::write(host.join(name), name).unwrap();
        chown(host.join(name), Some(uid), Some(uid)).unwrap();
    }
    let ids = mapped.map(mapping).unwrap_or_default();
    let mount = Mount {
        container_path: "/volume".into(),
        host_path: host.display().to_string(),
        uid_mappings: ids.clone(),
        gid_mappings: ids,
        ..Default::default()
    };
    (host, mount)
}

#[tokio::test]
async fn root_inside_is_nobody_outside() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let one = pod.waiting("one", |_| {}).await;
    let two = pod.waiting("two", |c| config::security(c).run_as_user = Some(Int64Value { value: 33 })).await;
    assert_eq!(pod.sh(&one, "id -u; id -g; cat /proc/1/uid_map").await, format!("0 0 0 {OUTSIDE} 65536"));
    assert_eq!(pod.sh(&two, "id -u").await, "33");
    let mut outside: Vec<u32> = pod
        .sleepers()
        .into_iter()
        .map(|pid| status(pid, "Uid:").split(' ').next().unwrap().parse().unwrap())
        .collect();
    outside.sort_unstable();
    assert_eq!(outside, [OUTSIDE, OUTSIDE + 33]);
    let namespace = "for n in user net ipc uts; do readlink /proc/self/ns/$n; done";
    assert_eq!(pod.sh(&one, namespace).await, pod.sh(&two, namespace).await, "one for the pod");
    let host = std::fs::read_link("/proc/self/ns/user").unwrap();
    assert!(!pod.sh(&one, namespace).await.contains(host.to_str().unwrap()));
    let shown = pod.client.pod(&pod.id).await.unwrap().linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(shown.userns_options, Some(users()));
    let log = Path::new(&pod.sandbox.log_directory).join("one.log");
    assert_eq!(owner(&log), (0, 0), "logs stay the host's");
}

#[tokio::test]
async fn files_belong_to_the_right_ones_on_both_sides() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let (host, mount) = volume(&pod, Some(OUTSIDE));
    let id = pod.waiting("main", |c| c.mounts.push(mount)).await;
    let owners = "stat -c '%u:%g' / /bin /bin/busybox /volume/roots /volume/users /etc/hosts /etc/resolv.conf /etc/hostname";
    assert_eq!(pod.sh(&id, owners).await, "0:0 0:0 0:0 0:0 1000:1000 0:0 0:0 0:0");
    pod.sh(&id, "cat /etc/hosts /etc/resolv.conf /etc/hostname").await;
    let made = "echo x > /volume/new; echo y > /new; echo y > /others; chown 1000:1000 /volume/new /others; stat -c %u /new /others /volume/new";
    assert_eq!(pod.sh(&id, made).await, "0 1000 1000");
    assert_eq!(owner(&host.join("new")), (1000, 1000), "on the volume as without a user namespace");
    assert_eq!(owner(&host.join("roots")), (0, 0), "nothing was changed");
    let upper = pod.node.path("root/containers").join(&id).join("upper");
    assert_eq!(
        owner(&upper.join("new")),
        (OUTSIDE, OUTSIDE),
        "its own files are nobody's that the host knows"
    );
    assert_eq!(owner(&upper.join("others")), (OUTSIDE + 1000, OUTSIDE + 1000));
    assert_eq!(owner(&upper), (OUTSIDE, OUTSIDE));
}

#[tokio::test]
async fn a_volume_without_mappings_stays_the_hosts() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let (_, mount) = volume(&pod, None);
    let id = pod.waiting("main", |c| c.mounts.push(mount)).await;
    assert_eq!(
        pod.sh(&id, "stat -c %u /volume/roots; touch /volume/x || echo refused").await,
        "65534 refused"
    );
}

#[tokio::test]
async fn a_mount_can_be_mapped_in_a_pod_without_a_user_namespace() {
    let pod = Pod::new(Network::BuiltIn, |sandbox| options(sandbox).userns_options = None).await;
    let (_, mount) = volume(&pod, Some(7000));
    let shown = mount.uid_mappings.clone();
    let id = pod.waiting("main", |c| c.mounts.push(mount)).await;
    assert_eq!(pod.sh(&id, "stat -c %u /volume/roots /volume/users").await, "7000 8000");
    assert_eq!(pod.client.container(&id).await.unwrap().mounts[0].uid_mappings, shown);
}

#[tokio::test]
async fn an_ordinary_container_has_all_it_needs() {
    let pod = Pod::new(Network::BuiltIn, |sandbox| {
        sandbox.linux.as_mut().unwrap().sysctls =
            [("net.ipv4.ip_unprivileged_port_start".into(), "80".into())].into();
    })
    .await;
    let id = pod
        .waiting("main", |c| {
            let context = config::security(c);
            context.masked_paths = vec!["/proc/keys".into(), "/sys/firmware".into()];
            context.readonly_paths = vec!["/proc/sys".into()];
            context.no_new_privs = true;
            c.linux.as_mut().unwrap().resources =
                Some(cri::LinuxContainerResources { oom_score_adj: 900, ..Default::default() });
        })
        .await;
    assert_eq!(
        pod.sh(&id, "head -c 3 /dev/zero | wc -c; echo x > /dev/null; stat -c '%u %t:%T' /dev/null").await,
        "3 0 1:3"
    );
    assert_eq!(pod.sh(&id, "stat -f -c %T /proc /sys /dev/shm /dev/pts").await, "proc sysfs tmpfs devpts");
    assert_eq!(
        pod.sh(&id, "cat /proc/1/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start").await,
        "900 80"
    );
    assert_eq!(pod.sh(&id, "cat /proc/keys; ls /sys/class/net").await, "eth0 lo");
    assert_eq!(
        pod.sh(&id, "(echo 1 > /proc/sys/net/ipv4/ip_default_ttl) 2>/dev/null || echo read-only").await,
        "read-only"
    );
    assert_eq!(pod.sh(&id, "mkdir /sys/fs/cgroup/x 2>/dev/null || mkdir /sys/fs/cgroup/memory/x 2>/dev/null || echo read-only").await, "read-only");
    assert_eq!(pod.sh(&id, "hostname").await, pod.sandbox.hostname);
    assert_eq!(
        pod.sh(&id, "mount | grep -c ' /dev/mqueue '; touch /dev/shm/x /dev/x; echo again > /dev/stdout")
            .await,
        "1 again"
    );
}

#[tokio::test]
async fn the_network_works() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let script = "while :; do echo hello | nc -l -p 8080; done";
    let server = pod.wanted("server", &["sh", "-c", script]);
    let server = pod.client.create(&pod.id, server, &pod.sandbox).await.unwrap();
    pod.client.start(&server).await.unwrap();
    let ip = pod.client.pod(&pod.id).await.unwrap().network.unwrap().ip;
    let id = pod.waiting("main", |_| {}).await;
    e2e::until(e2e::node::PATIENCE, "an answer", || async {
        let output = pod.client.exec(&id, &["nc", "-w", "2", &ip, "8080"], 10).await.unwrap();
        if output.stdout.trim() == "hello" { Ok(()) } else { Err(output) }
    })
    .await;
    let gateway = format!("{}.1", pod.node.subnet());
    pod.sh(&id, &format!("ping -c 1 -W 5 {gateway} >/dev/null && echo there")).await;
}

#[tokio::test]
async fn plugins_find_its_network() {
    let pod = Pod::new(Network::Plugins, |_| {}).await;
    let id = pod.waiting("main", |_| {}).await;
    assert!(pod.sh(&id, "ip addr show eth0").await.contains(&pod.node.subnet()));
}

#[tokio::test]
async fn the_hosts_network_can_be_used() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let id = pod.waiting("main", |_| {}).await;
    let inside = pod.sh(&id, "readlink /proc/self/ns/net").await;
    assert_eq!(inside, std::fs::read_link("/proc/self/ns/net").unwrap().to_string_lossy());
    assert_eq!(
        pod.sh(&id, "id -u; test -e /sys/class/net/lo && touch /sys/x 2>/dev/null || echo read-only").await,
        "0 read-only"
    );
    assert_eq!(pod.sh(&id, "cut -d' ' -f2 /proc/mounts | grep -cx /sys/fs/cgroup").await, "1");
}

#[tokio::test]
async fn a_shared_process_namespace_and_terminals_work() {
    let pod = Pod::new(Network::BuiltIn, |sandbox| options(sandbox).pid = NamespaceMode::Pod as i32).await;
    let one = pod.waiting("one", |_| {}).await;
    pod.waiting("two", |c| c.tty = true).await;
    assert_eq!(pod.sh(&one, "ps -o comm | grep -c sleep").await, "2");
    assert_eq!(pod.sh(&one, "grep CapEff /proc/1/status").await, "CapEff: 0000000000000000");
    let target = Pod::new(Network::BuiltIn, |_| {}).await;
    let first = target.waiting("first", |_| {}).await;
    let joined = target
        .waiting("second", |c| {
            let options = config::security(c).namespace_options.as_mut().unwrap();
            options.pid = NamespaceMode::Target as i32;
            options.target_id.clone_from(&first);
        })
        .await;
    assert_eq!(target.sh(&joined, "ps -o comm | grep -c sleep").await, "2");
}

#[tokio::test]
async fn a_daemon_that_comes_back_goes_on_with_it() {
    let mut pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let running = pod.waiting("running", |_| {}).await;
    let created = pod.wanted("created", &["sleep", "1000"]);
    let created = pod.client.create(&pod.id, created, &pod.sandbox).await.unwrap();
    pod.node.kill_daemon();
    pod.node.start_daemon();
    pod.client = pod.node.client();
    let map = format!("0 {OUTSIDE} 65536");
    assert_eq!(pod.sh(&running, "cat /proc/self/uid_map; touch /x; stat -c %u /x").await, format!("{map} 0"));
    pod.client.start(&created).await.unwrap();
    assert_eq!(
        pod.sh(&created, "cat /proc/self/uid_map; touch /x; stat -c %u / /x").await,
        format!("{map} 0 0")
    );
    let later = pod.waiting("later", |_| {}).await;
    assert_eq!(pod.sh(&later, "stat -c %u /").await, "0");
    pod.client.stop_pod(&pod.id).await.unwrap();
    pod.client.remove_pod(&pod.id).await.unwrap();
    // That nothing is left is what the node looks for when it goes.
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_by_field() {
    let node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    type Change = fn(&mut cri::PodSandboxConfig);
    let refused: [(&str, Change); 8] = [
        ("userns_options.uids", |s| options(s).userns_options.as_mut().unwrap().uids.clear()),
        ("userns_options.gids", |s| {
            options(s).userns_options.as_mut().unwrap().gids.extend(mapping(5_000_000))
        }),
        ("userns_options.uids[0]", |s| options(s).userns_options.as_mut().unwrap().uids[0].container_id = 1),
        ("userns_options.gids[0]", |s| options(s).userns_options.as_mut().unwrap().gids[0].length = 0),
        ("userns_options.uids[0]", |s| {
            options(s).userns_options.as_mut().unwrap().uids[0].host_id = u32::MAX
        }),
        ("userns_options.mode", |s| {
            options(s).userns_options.as_mut().unwrap().mode = NamespaceMode::Container as i32
        }),
        ("namespace_options.pid", |s| options(s).pid = NamespaceMode::Node as i32),
        ("security_context.privileged", |s| {
            s.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        }),
    ];
    for (field, change) in refused {
        let mut sandbox = node.pod();
        options(&mut sandbox).userns_options = Some(users());
        change(&mut sandbox);
        let status = client.run_pod(sandbox).await.expect_err(field);
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        assert!(status.message().contains(field), "{field}: {status}");
    }
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut sandbox = node.pod();
    options(&mut sandbox).userns_options = Some(users());
    let pod = client.run_pod(sandbox.clone()).await.unwrap();
    type Wish = fn(&mut ContainerConfig);
    let refused: [(&str, Wish); 4] = [
        ("userns_options", |c| {
            let other = UserNamespace { uids: mapping(9), ..users() };
            config::security(c).namespace_options.as_mut().unwrap().userns_options = Some(other);
        }),
        ("userns_options", |c| {
            let node = UserNamespace { mode: NamespaceMode::Node as i32, ..Default::default() };
            config::security(c).namespace_options.as_mut().unwrap().userns_options = Some(node);
        }),
        ("run_as_user", |c| config::security(c).run_as_user = Some(Int64Value { value: 65_536 })),
        ("mounts[0].gidMappings", |c| {
            c.mounts.push(Mount {
                container_path: "/x".into(),
                host_path: "/".into(),
                uid_mappings: mapping(9),
                ..Default::default()
            });
        }),
    ];
    for (field, change) in refused {
        let mut wanted = node.busybox("bad", &["true"]);
        change(&mut wanted);
        let status = client.create(&pod, wanted, &sandbox).await.expect_err(field);
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        assert!(status.message().contains(field), "{field}: {status}");
    }
}

#[tokio::test]
async fn the_node_says_that_it_can() {
    let node = Node::start(Network::None).await;
    let request = cri::StatusRequest { verbose: false };
    let status = node.client().runtime.clone().status(request).await.unwrap().into_inner();
    let handlers = status.runtime_handlers;
    assert!(
        handlers.iter().all(|handler| handler.features.as_ref().unwrap().user_namespaces),
        "{handlers:?}"
    );
    let features = e2e::newest::Newest::of(&node.client()).status().await.unwrap().features.unwrap();
    assert!(features.user_namespaces_host_network, "{features:?}");
    let doctor = std::process::Command::new(e2e::node::binary("knarr")).arg("doctor").output().unwrap();
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("ids of files can be mapped"), "{text}");
}

#[tokio::test]
async fn users_of_ones_own_go_with_the_network_of_the_host() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let one = pod.waiting("one", |_| {}).await;
    assert_eq!(pod.sh(&one, "id -u; cat /proc/1/uid_map").await, format!("0 0 {OUTSIDE} 65536"));
    let inside = pod.sh(&one, "readlink /proc/self/ns/net").await;
    let outside = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(inside, outside.display().to_string());
}

#[tokio::test]
async fn hooks_run_as_who_is_who_and_those_that_could_not_see_the_root_are_refused() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let hook = |moment: &str| serde_json::json!({ "hookName": moment, "path": "/bin/sh", "args": ["sh", "-c", "id -u >/tmp/hook"] });
    let device = |name: &str, moment: &str| serde_json::json!({ "name": name, "containerEdits": { "hooks": [hook(moment)] } });
    let file = serde_json::json!({
        "cdiVersion": "1.0.0", "kind": "v.com/hook",
        "devices": [device("start", "startContainer"), device("create", "createContainer"), device("runtime", "createRuntime")],
    });
    let directory = pod.node.path("cdi-run");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hook.json"), file.to_string()).unwrap();
    let asks = |name: &str| vec![cri::CdiDevice { name: format!("v.com/hook={name}") }];
    let id = pod.waiting("start", |wanted| wanted.cdi_devices = asks("start")).await;
    assert_eq!(pod.sh(&id, "cat /tmp/hook; stat -c %u /tmp/hook").await, "0 0", "root in there");
    for name in ["create", "runtime"] {
        let mut wanted = pod.wanted(name, &["true"]);
        wanted.cdi_devices = asks(name);
        let refused = pod.client.create(&pod.id, wanted, &pod.sandbox).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().starts_with("CDI_devices: hooks: "), "{refused}");
    }
}
