//! crictl, where it has been built, does with a node what its users do; [`terminal`] has what they do in one.

mod terminal;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use e2e::{Network, Node, needs};
use serde_json::{Value, json};

/// crictl against one node.
struct Crictl<'n> {
    node: &'n Node,
}

impl Crictl<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let endpoint = format!("unix://{}", self.node.socket().display());
        let mut command = Command::new("crictl");
        command.args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint, "--timeout", "30s"]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    async fn output(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().expect("crictl runs")).await.unwrap()
    }

    /// What it prints; it must end well.
    async fn says(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "crictl {arguments:?}: {out}{err}");
        out.trim().to_owned()
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.says(arguments).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("crictl {arguments:?}: {error}: {text}"))
    }

    fn write(&self, name: &str, value: &Value) -> String {
        let path: PathBuf = self.node.path(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path.display().to_string()
    }
}

#[tokio::test]
async fn the_whole_way() {
    needs!("crictl");
    let node = Node::start(Network::BuiltIn).await;
    let crictl = Crictl { node: &node };
    let image = crictl.node.registry.image("busybox:latest");
    assert!(crictl.says(&["version"]).await.contains("RuntimeName:  knarr"));
    let info = crictl.json(&["info"]).await;
    let conditions = info["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|condition| condition["status"] == true), "{conditions:?}");

    crictl.says(&["pull", &image]).await;
    assert!(crictl.says(&["images"]).await.contains("busybox"));
    let inspected = crictl.json(&["inspecti", &image]).await;
    assert_eq!(inspected["status"]["repoTags"][0], image);
    assert!(inspected["info"]["imageSpec"]["config"]["Env"].is_array(), "{inspected}");

    let logs = crictl.node.path("logs");
    std::fs::create_dir_all(&logs).unwrap();
    let sandbox = json!({
        "metadata": { "name": "crictl", "uid": "crictl-uid", "namespace": "e2e", "attempt": 1 },
        "hostname": "crictl", "log_directory": logs,
        "linux": { "cgroup_parent": crictl.node.cgroup_parent(), "security_context": { "namespace_options": { "pid": 1 } } },
    });
    let script = "echo started; trap 'exit 0' TERM; while :; do usleep 10000; done";
    let container = json!({
        "metadata": { "name": "main" }, "image": { "image": image }, "command": ["sh", "-c", script],
        "log_path": "main.log", "linux": { "security_context": { "namespace_options": { "pid": 1 } } },
    });
    let (sandbox, container) =
        (crictl.write("pod.json", &sandbox), crictl.write("container.json", &container));

    let mut events = crictl.command(&["events"]).stdout(Stdio::piped()).spawn().expect("crictl events");
    let pod = crictl.says(&["runp", &sandbox]).await;
    assert!(crictl.says(&["pods"]).await.contains("Ready"));
    let inspected = crictl.json(&["inspectp", &pod]).await;
    assert_eq!(inspected["status"]["state"], "SANDBOX_READY");
    assert!(inspected["info"]["pid"].as_u64().is_some(), "{inspected}");
    let id = crictl.says(&["create", &pod, &container, &sandbox]).await;
    crictl.says(&["start", &id]).await;
    assert!(crictl.says(&["ps"]).await.contains("Running"));
    let inspected = crictl.json(&["inspect", &id]).await;
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    assert!(inspected["info"]["pid"].as_u64().is_some_and(|pid| pid > 1), "{inspected}");
    assert_eq!(inspected["info"]["runtimeSpec"]["process"]["args"][0], "sh", "{inspected}");

    e2e::until(e2e::node::PATIENCE, "the log line", || async {
        let text = crictl.says(&["logs", &id]).await;
        if text == "started" { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(crictl.says(&["exec", "--sync", &id, "hostname"]).await, "crictl");
    crictl.says(&["update", "--memory", "33554432", &id]).await;
    let inspected = crictl.json(&["inspect", &id]).await;
    assert_eq!(inspected["status"]["resources"]["linux"]["memoryLimitInBytes"], "33554432", "{inspected}");
    crictl.says(&["stop", &id]).await;
    assert!(crictl.says(&["ps", "-a"]).await.contains("Exited"));
    crictl.says(&["rm", &id]).await;
    crictl.says(&["stopp", &pod]).await;
    crictl.says(&["rmp", &pod]).await;
    assert_eq!(crictl.says(&["pods", "-q"]).await, "");
    crictl.says(&["rmi", &image]).await;
    assert_eq!(crictl.says(&["images", "-q"]).await, "");

    events.kill().unwrap();
    let streamed = events.wait_with_output().unwrap();
    let streamed = String::from_utf8_lossy(&streamed.stdout).into_owned();
    for kind in [
        "CONTAINER_CREATED_EVENT",
        "CONTAINER_STARTED_EVENT",
        "CONTAINER_STOPPED_EVENT",
        "CONTAINER_DELETED_EVENT",
    ] {
        assert!(streamed.contains(kind), "no {kind} in {streamed}");
    }
}
