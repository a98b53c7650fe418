//! Plugins of the node, made with the interface's own library (github.com/containerd/nri): the program in `client_go/`, job `nri`.
//!
//! What plugins may do wrong is tested in `nri`, by plugins of our own.

#[path = "../client_go/program.rs"]
#[allow(dead_code, reason = "what the tests with kubectl's library need")]
mod program;

use std::time::Duration;

use e2e::{Client, Network, Node, until};
use k8s_cri::v1::*;
use program::{ClientGo, Run};
use serde_json::{Value, json};

/// A plugin that runs, with all that it has said.
struct Plugin {
    run: Run,
    said: Vec<Value>,
}

impl Plugin {
    async fn connect(program: ClientGo, node: &Node, plan: Value) -> Self {
        let mut whole = json!({"socket": node.path("nri/nri.sock"), "name": "test", "index": "10"});
        whole.as_object_mut().expect("a plan").extend(plan.as_object().expect("a plan").clone());
        let mut plugin = Self { run: program.run("nri", &whole).await, said: Vec::new() };
        plugin.hears("Synchronize").await;
        plugin
    }

    /// Waits for an event.
    async fn hears(&mut self, event: &str) -> Value {
        loop {
            let report = tokio::time::timeout(Duration::from_secs(60), self.run.report()).await;
            let report = report.unwrap_or_else(|_| panic!("no {event} after {:?}", self.said));
            self.said.push(report.clone());
            if report["event"] == event {
                return report;
            }
        }
    }

    /// The events of a container, or of pods without one, in their order.
    fn events(&self, container: &str) -> Vec<&str> {
        let of = |said: &&Value| said["container"].as_str().unwrap_or_default() == container;
        self.said.iter().filter(of).filter_map(|said| said["event"].as_str()).collect()
    }
}

async fn pod_and_container(node: &Node, command: &[&str]) -> (Client, PodSandboxConfig, String, String) {
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.expect("a pull");
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.expect("a pod");
    let container = client.create(&pod, node.busybox("main", command), &config).await.expect("a container");
    (client, config, pod, container)
}

#[tokio::test]
async fn a_plugin_hears_of_everything_in_order_and_what_it_changes_is_so() {
    let Some(program) = ClientGo::new() else { return };
    let node = Node::start(Network::BuiltIn).await;
    std::fs::create_dir(node.path("given")).expect("a directory");
    std::fs::write(node.path("given/file"), "of the plugin\n").expect("a file");
    let adjust = json!({
        "annotations": {"example.com/by-plugin": "yes"},
        "env": [{"key": "PLUGIN", "value": "here"}, {"key": "-HOME"}],
        "mounts": [{"destination": "/given", "type": "bind", "source": node.path("given"), "options": ["rbind", "ro"]}],
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 222, "soft": 111}],
        "args": ["sh", "-c", "trap 'exit 3' TERM; echo adjusted; while :; do sleep 0.1; done"],
        "linux": {
            "devices": [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": {"value": 438}}],
            "resources": {"cpu": {"shares": {"value": "333"}}, "memory": {"limit": {"value": "99999744"}}, "pids": {"limit": "77"}},
            "oomScoreAdj": {"value": "123"},
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "99"},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
            "scheduler": {"policy": "SCHED_BATCH"},
            "seccompPolicy": {"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": {"value": 95}}]},
        },
    });
    let mut plugin = Plugin::connect(program, &node, json!({"container": "main", "adjust": adjust})).await;
    let (client, _, pod, container) = pod_and_container(&node, &["sleep", "1000"]).await;
    let status = client.runtime.clone().status(StatusRequest { verbose: true }).await.expect("a status");
    let shown: Value = serde_json::from_str(&status.into_inner().info["plugins"]).expect("JSON");
    assert_eq!(shown["plugins"][0]["name"], "10-test", "{shown}");
    client.start(&container).await.expect("a start");
    let check = "echo $PLUGIN ${HOME-none}; cat /given/file; touch /given/x 2>&1 | grep -c Read-only; ulimit -Sn; ulimit -Hn; \
                 test -c /dev/mine && head -c 0 /dev/mine && echo device; cat /proc/1/oom_score_adj; \
                 cat /proc/sys/net/ipv4/ip_unprivileged_port_start; mkdir /x 2>&1 | grep -c 'not supported'";
    let seen = client.exec(&container, &["sh", "-c", check], 20).await.expect("an exec");
    assert_eq!(seen.stdout, "here none\nof the plugin\n1\n111\n222\ndevice\n123\n99\n1\n", "{}", seen.stderr);
    let limits = client.container(&container).await.expect("a status").resources.and_then(|all| all.linux);
    let limits = limits.expect("limits");
    assert_eq!((limits.cpu_shares, limits.memory_limit_in_bytes), (333, 99_999_744));
    client.stop(&container, 20).await.expect("a stop");
    assert_eq!(
        client.container(&container).await.expect("a status").exit_code,
        3,
        "its arguments are the plugin's"
    );
    client.remove(&container).await.expect("a removal");
    client.stop_pod(&pod).await.expect("a stop");
    client.stop_pod(&pod).await.expect("a second stop");
    client.remove_pod(&pod).await.expect("a removal");
    plugin.hears("RemovePodSandbox").await;
    let of_container = [
        "CreateContainer",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "StopContainer",
        "RemoveContainer",
    ];
    assert_eq!(plugin.events("main"), of_container);
    let of_pod = ["Configure", "Synchronize", "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"];
    assert_eq!(plugin.events(""), of_pod);
}

#[tokio::test]
async fn limits_are_what_a_plugin_makes_of_them_and_it_changes_them_by_itself() {
    let Some(program) = ClientGo::new() else { return };
    let node = Node::start(Network::None).await;
    let limits = json!({"cpu": {"shares": {"value": "444"}}});
    let mut plugin = Plugin::connect(program, &node, json!({"limits": limits})).await;
    let (client, _, _, container) = pod_and_container(&node, &["sleep", "1000"]).await;
    client.start(&container).await.expect("a start");
    let shares = async |client: &Client| {
        let status = client.container(&container).await.expect("a status");
        status.resources.and_then(|all| all.linux).map(|limits| limits.cpu_shares)
    };
    let request = UpdateContainerResourcesRequest {
        container_id: container.clone(),
        linux: Some(LinuxContainerResources { cpu_shares: 222, ..Default::default() }),
        ..Default::default()
    };
    client.runtime.clone().update_container_resources(request).await.expect("an update");
    assert_eq!(shares(&client).await, Some(444));
    plugin.hears("PostUpdateContainer").await;
    let update = |id: &str, shares: &str| {
        let resources = json!({"cpu": {"shares": {"value": shares}}});
        json!({"update": [{"containerId": id, "linux": {"resources": resources}}]})
    };
    plugin.run.tell(&update(&container, "555")).await;
    assert_eq!(plugin.hears("UpdateContainers").await.get("failed"), None);
    assert_eq!(shares(&client).await, Some(555));
    plugin.run.tell(&update("nobody", "666")).await;
    assert_eq!(plugin.hears("UpdateContainers").await["failed"], 1);
}

#[tokio::test]
async fn a_refused_pod_and_a_refused_container_leave_nothing_and_may_be_tried_again() {
    let Some(program) = ClientGo::new() else { return };
    let node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.expect("a pull");
    let config = node.pod();
    let mut plugin = Plugin::connect(program, &node, json!({"refuse": "RunPodSandbox"})).await;
    let refused = client.run_pod(config.clone()).await.expect_err("a refusal");
    assert!(refused.message().contains("the test refuses RunPodSandbox"), "{refused}");
    assert!(client.pods().await.expect("a list").is_empty());
    plugin.hears("RemovePodSandbox").await;
    plugin.run.leave().await;
    let mut plugin = Plugin::connect(program, &node, json!({"refuse": "CreateContainer"})).await;
    let pod = client.run_pod(config.clone()).await.expect("a pod");
    let refused = client.create(&pod, node.busybox("main", &["true"]), &config).await.expect_err("a refusal");
    assert!(refused.message().contains("the test refuses CreateContainer"), "{refused}");
    assert!(client.containers().await.expect("a list").is_empty());
    plugin.hears("RemoveContainer").await;
    assert_eq!(plugin.events("main"), ["CreateContainer", "StopContainer", "RemoveContainer"]);
    plugin.run.leave().await;
    client
        .create(&pod, node.busybox("main", &["true"]), &config)
        .await
        .expect("a container without the plugin");
}

#[tokio::test]
async fn a_field_that_is_not_done_is_refused_by_its_name() {
    let Some(program) = ClientGo::new() else { return };
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.expect("a pull");
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.expect("a pod");
    let cases = [
        ("linux.cgroups_path", json!({"linux": {"cgroupsPath": "/elsewhere"}})),
        (
            "linux.namespaces",
            json!({"linux": {"namespaces": [{"type": "network", "path": "/proc/1/ns/net"}]}}),
        ),
        (
            "mounts",
            json!({"mounts": [{"destination": "/m", "type": "bind", "source": "/nowhere", "options": ["bind"]}]}),
        ),
        ("linux.sysctl", json!({"linux": {"sysctl": {"kernel.panic": "1"}}})),
        ("linux.rdt", json!({"linux": {"rdt": {"closId": {"value": "gold"}}}})),
    ];
    for (field, adjust) in cases {
        let plugin = Plugin::connect(program, &node, json!({"container": "main", "adjust": adjust})).await;
        let refused = client.create(&pod, node.busybox("main", &["true"]), &config).await.expect_err(field);
        assert!(refused.message().contains(field), "{field}: {refused}");
        plugin.run.leave().await;
    }
    assert!(client.containers().await.expect("a list").is_empty());
}

#[tokio::test]
async fn a_killed_daemon_finds_its_plugins_again_and_they_all_that_runs() {
    let Some(program) = ClientGo::new() else { return };
    let mut node = Node::start(Network::BuiltIn).await;
    let adjust = json!({"linux": {"resources": {"pids": {"limit": "77"}}}});
    let mut plugin = Plugin::connect(program, &node, json!({"container": "main", "adjust": adjust})).await;
    let (client, config, pod, container) = pod_and_container(&node, &["sleep", "1000"]).await;
    client.start(&container).await.expect("a start");
    let created =
        client.create(&pod, node.busybox("created", &["true"]), &config).await.expect("a container");
    let ended = client.create(&pod, node.busybox("ended", &["true"]), &config).await.expect("a container");
    client.start(&ended).await.expect("a start");
    client.exited(&ended).await;
    node.kill_daemon();
    plugin.hears("End").await;
    node.start_daemon();
    let mut plugin = Plugin::connect(program, &node, json!({})).await;
    let all = plugin.said.last().expect("what there is").clone();
    assert_eq!(all["pods"], json!([pod]));
    let mut expected = [container.clone(), created];
    expected.sort();
    let mut told: Vec<&str> =
        all["containers"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    told.sort_unstable();
    assert_eq!(told, expected);
    let client = node.client();
    client.remove_pod(&pod).await.expect("a removal");
    plugin.hears("RemovePodSandbox").await;
    assert_eq!(plugin.events("main"), ["StopContainer", "RemoveContainer"]);
    assert_eq!(plugin.events("created"), ["StopContainer", "RemoveContainer"]);
    assert_eq!(plugin.events("ended"), ["RemoveContainer"]);
}

#[tokio::test]
async fn a_plugin_that_hangs_or_is_killed_takes_no_pod_along() {
    let Some(program) = ClientGo::new() else { return };
    let node = Node::start(Network::BuiltIn).await;
    let mut hangs = Plugin::connect(program, &node, json!({"hang": "RunPodSandbox"})).await;
    let (client, _, pod, container) = pod_and_container(&node, &["sleep", "1000"]).await;
    hangs.hears("RunPodSandbox").await;
    hangs.hears("End").await;
    let mut killed = Plugin::connect(program, &node, json!({"hang": "StopContainer"})).await;
    client.start(&container).await.expect("a start");
    client.stop(&container, 0).await.expect("a stop");
    killed.hears("StopContainer").await;
    drop(killed);
    client.remove_pod(&pod).await.expect("a removal");
}

#[tokio::test]
async fn plugins_of_the_directory_are_there_before_the_first_pod_and_go_with_the_daemon() {
    let Some(program) = ClientGo::new() else { return };
    let mut node = Node::start(Network::None).await;
    node.stop_daemon();
    for directory in ["nri-plugins", "nri-conf"] {
        std::fs::create_dir(node.path(directory)).expect("a directory");
    }
    let out = node.path("said");
    let script = format!(
        "#!/bin/sh\necho '{{\"stay\": true}}' > {out}.plan\nexec {program} nri < {out}.plan > {out}\n",
        out = out.display(),
        program = program.path().display()
    );
    std::fs::write(node.path("nri-plugins/10-started"), script).expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(node.path("nri-plugins/10-started"), mode).expect("a program");
    std::fs::write(node.path("nri-conf/started.conf"), "what the plugin is told").expect("a configuration");
    node.start_daemon();
    let client = node.client();
    let pod = client.run_pod(node.pod()).await.expect("a pod");
    says(&out, &["what the plugin is told", "RunPodSandbox"]).await;
    client.remove_pod(&pod).await.expect("a removal");
    node.stop_daemon();
    node.start_daemon();
    says(&out, &["Synchronize"]).await;
}

/// Waits until a file has all these words.
async fn says(file: &std::path::Path, words: &[&str]) {
    let look = async || {
        let said = std::fs::read_to_string(file).unwrap_or_default();
        if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said) }
    };
    until(Duration::from_secs(60), "what the plugin says", look).await;
}
