//! Runtime handlers: what a pod can ask for by name.

use e2e::{Client, Network, Node, config, newest};
use k8s_cri::v1::*;
use proto::runtime::v1 as newer;
use tonic::{Code, Status};

/// Gives a node these handlers, as its operator would: into the file, and a new start.
fn configure(node: &mut Node, handlers: &str) {
    node.stop_daemon();
    let path = node.path("knarr.toml");
    let before = std::fs::read_to_string(&path).expect("the configuration");
    let kept = before.split("\n[handlers").next().expect("a part");
    std::fs::write(&path, format!("{kept}\n{handlers}")).expect("writing the configuration");
    node.start_daemon();
}

async fn run(client: &Client, pod: &PodSandboxConfig, handler: &str) -> Result<String, Status> {
    let request = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: handler.to_owned() };
    Ok(client.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

/// The annotations of the specification in a verbose status.
fn annotations(
    info: &std::collections::HashMap<String, String>,
) -> serde_json::Map<String, serde_json::Value> {
    let info: serde_json::Value = serde_json::from_str(&info["info"]).expect("JSON");
    let spec = ["runtimeSpec", "spec"].iter().find_map(|key| info.get(key)).expect("a specification");
    spec["annotations"].as_object().expect("annotations").clone()
}

#[tokio::test]
async fn handlers_of_the_internal_runtime_have_defaults_of_their_own() {
    let mut node = Node::start(Network::BuiltIn).await;
    let own = "\
        [handlers.own]\n\
        privileged_without_host_devices = true\n\
        container_annotations = [\"example.com/passed\"]\n\
        pod_annotations = [\"example.com/of-pod\"]\n\
        default_capabilities = [\"CHOWN\"]\n\
        unset_seccomp = \"runtime-default\"\n\
        default_sysctls = { \"net.ipv4.ip_unprivileged_port_start\" = \"77\" }\n\
        default_ulimits = { nofile = { soft = 321, hard = 654 } }\n";
    configure(&mut node, own);
    let client = node.client();
    let mut wanted = node.pod();
    wanted.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("a context").privileged =
        true;
    wanted.annotations = [("example.com/of-pod", "yes"), ("example.com/passed", "no, of a container")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let pod = run(&client, &wanted, "own").await.expect("a pod");
    assert_eq!(client.pod(&pod).await.expect("a status").runtime_handler, "own");
    assert!(client.pods().await.expect("a list").iter().all(|item| item.runtime_handler == "own"));

    let mut ordinary = node.busybox("ordinary", &["sleep", "1000"]);
    ordinary.annotations = [("example.com/passed", "yes"), ("example.com/passed-by", "no")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    client.pull(&node.registry.image("busybox:latest")).await.expect("a pull");
    let id = client.create(&pod, ordinary, &wanted).await.expect("a container");
    client.start(&id).await.expect("a start");
    let check = "grep -E '^(CapBnd|Seccomp):' /proc/self/status | tr -d '\\t\\n'; ulimit -Sn; ulimit -Hn; \
                 cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let seen = client.exec(&id, &["sh", "-c", check], 10).await.expect("an exec");
    assert_eq!(seen.stdout, "CapBnd:0000000000000001Seccomp:2321\n654\n77\n");
    let verbose = ContainerStatusRequest { container_id: id, verbose: true };
    let info = client.runtime.clone().container_status(verbose).await.expect("a status").into_inner().info;
    let annotations = annotations(&info);
    assert_eq!(annotations["example.com/passed"], "yes");
    assert_eq!(annotations["example.com/of-pod"], "yes");
    assert_eq!(annotations.get("example.com/passed-by"), None, "a name is a name, not a beginning");

    let mut privileged = node.busybox("privileged", &["sleep", "1000"]);
    config::security(&mut privileged).privileged = true;
    let id = client.create(&pod, privileged, &wanted).await.expect("a container");
    client.start(&id).await.expect("a start");
    let nodes = client.exec(&id, &["sh", "-c", "ls /dev | tr '\\n' ' '"], 10).await.expect("an exec");
    assert!(nodes.stdout.contains("null") && !nodes.stdout.contains("kmsg"), "{}", nodes.stdout);
}

/// Creates a container with a mount that is read-only with all below it, which not every runtime can do.
async fn create_read_only(
    node: &Node,
    client: &Client,
    (pod, sandbox): (&str, &PodSandboxConfig),
) -> Result<String, Status> {
    let mount = newer::Mount {
        container_path: "/data".to_owned(),
        host_path: "/tmp".to_owned(),
        readonly: true,
        recursive_read_only: true,
        ..Default::default()
    };
    let plain = newest::container(&node.busybox("read-only", &["sleep", "1000"]));
    let wanted = newer::ContainerConfig { mounts: vec![mount], ..plain };
    newest::Newest::of(client).create(pod, wanted, sandbox).await
}

#[tokio::test]
async fn the_node_says_which_handlers_there_are() {
    let mut node = Node::start(Network::None).await;
    configure(&mut node, "[handlers.a]\n[handlers.b]\n");
    let client = node.client();
    let status = client.runtime.clone().status(StatusRequest { verbose: false }).await.expect("a status");
    let handlers = status.into_inner().runtime_handlers;
    let names: Vec<_> = handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(names, ["", "a", "b", "knarr"]);
    assert!(handlers.iter().all(|handler| handler.features == handlers[0].features), "{handlers:?}");
    let refused = run(&client, &node.pod(), "kata").await.expect_err("there is none");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let message = refused.message();
    assert!(message.contains("runtime_handler") && message.contains("\"a\", \"b\", \"knarr\""), "{message}");
}

#[tokio::test]
async fn pods_of_a_handler_that_is_gone_stay_what_they_are_and_can_be_removed() {
    let mut node = Node::start(Network::None).await;
    configure(&mut node, "[handlers.gone]\ndefault_capabilities = [\"CHOWN\"]\n");
    let client = node.client();
    let wanted = node.pod();
    let pod = run(&client, &wanted, "gone").await.expect("a pod");
    configure(&mut node, "");
    let client = node.client();
    assert_eq!(client.pod(&pod).await.expect("a status").runtime_handler, "gone");
    client.pull(&node.registry.image("busybox:latest")).await.expect("a pull");
    let id = client.create(&pod, node.busybox("c", &["sleep", "1000"]), &wanted).await.expect("a container");
    client.start(&id).await.expect("a start");
    let seen = client.exec(&id, &["grep", "CapBnd", "/proc/self/status"], 10).await.expect("an exec");
    assert_eq!(seen.stdout.trim(), "CapBnd:\t0000000000000001", "what it was made with");
    // Nor does it lose what its runtime can do when its handler's name comes to mean another one, which can't.
    configure(&mut node, "[handlers.gone]\nruntime = \"/bin/true\"\n");
    let client = node.client();
    create_read_only(&node, &client, (&pod, &wanted)).await.expect("a container of the internal runtime");
    client.stop_pod(&pod).await.expect("a stop");
    client.remove_pod(&pod).await.expect("a removal");
    // And one of that other gets nothing from the internal one when the name is gone.
    let pod = run(&client, &wanted, "gone").await.expect("a pod");
    configure(&mut node, "");
    let client = node.client();
    let refused =
        create_read_only(&node, &client, (&pod, &wanted)).await.expect_err("it never said it could");
    assert!(refused.message().starts_with("RROUnsupported: mounts[0].recursive_read_only"), "{refused}");
    client.remove_pod(&pod).await.expect("a removal");
    let refused = run(&client, &node.pod(), "gone").await.expect_err("there is none");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[test]
fn the_doctor_looks_at_runtimes_and_the_check_at_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("knarr.toml");
    let knarr = |arguments: &[&str]| {
        let output =
            std::process::Command::new(e2e::node::binary("knarr")).args(arguments).arg(&file).output();
        let output = output.expect("the built knarr binary");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    std::fs::write(&file, "[handlers.broken]\nruntime = \"/bin/false\"\n").expect("written");
    let said = knarr(&["doctor", "--config"]);
    assert!(said.lines().any(|line| line.starts_with("without  handler broken")), "{said}");
    assert!(knarr(&["config", "check"]).ends_with(": ok\n"), "whether a program works is the doctor's");
    std::fs::write(&file, "[handlers.x]\nruntime = \"runc\"\n").expect("written");
    let said = knarr(&["config", "check"]);
    assert!(said.contains("handlers.x.runtime"), "{said}");
}
