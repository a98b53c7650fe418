//! A daemon that starts serves at once, whatever its forerunner left at work.

use e2e::{Network, Node, Setup, node, until};
use serde_json::json;

/// Hangs in DEL while there is a file beside it that says so.
const HANGS: &str = r#"#!/bin/sh
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.2/24"}]}' ;;
DEL) if [ -e "${0%/plugins/*}/hang" ]; then
    echo "$$" > "${0%/plugins/*}/hanging"
    while [ -e "${0%/plugins/*}/hang" ]; do sleep 0.05; done
  fi ;;
esac"#;

#[tokio::test]
async fn it_serves_at_once_while_a_detach_of_its_forerunner_hangs() {
    let setup =
        Setup::new(Network::Plugins).plugin("hangs", HANGS).conflist("net", json!([{ "type": "hangs" }]));
    let mut node = setup.start().await;
    let client = node.client();
    let (stays, goes) =
        (client.run_pod(node.pod()).await.unwrap(), client.run_pod(node.pod()).await.unwrap());
    std::fs::write(node.path("hang"), "").unwrap();
    let (asked, pod) = (client.clone(), goes.clone());
    let _stop = tokio::spawn(async move { asked.stop_pod(&pod).await });
    until(node::PATIENCE, "the plugin to hang", async || {
        if node.path("hanging").exists() { Ok(()) } else { Err("not yet") }
    })
    .await;
    node.kill_daemon();
    node.start_daemon();
    let client = node.client();
    let ready = |pods: &[e2e::cri::PodSandbox], id: &str| {
        let ready = e2e::cri::PodSandboxState::SandboxReady as i32;
        pods.iter().find(|pod| pod.id == id).map(|pod| pod.state == ready)
    };
    let pods = client.pods().await.unwrap();
    assert_eq!((ready(&pods, &stays), ready(&pods, &goes)), (Some(true), Some(false)), "{pods:?}");
    // It was left a while for its end, which others don't wait for: and so didn't the word that it serves.
    until(node::PATIENCE, "the plugin to be ended", async || {
        let log = log(&node);
        if log.contains(ENDS) { Ok(()) } else { Err(log) }
    })
    .await;
    let log = log(&node);
    let second = log.rfind("serving address=\"unix").unwrap();
    assert!(second < log.find(ENDS).unwrap(), "it waited for what it ended before it served");
    std::fs::remove_file(node.path("hang")).unwrap();
    let another = client.run_pod(node.pod()).await.unwrap();
    for pod in [stays, goes, another] {
        client.stop_pod(&pod).await.unwrap();
        client.remove_pod(&pod).await.unwrap();
    }
}

/// What the daemon says when it ends a plugin of its forerunner's.
const ENDS: &str = "ends a CNI plugin that a killed daemon left running";

fn log(node: &Node) -> String {
    std::fs::read_to_string(node.path("daemon.log")).unwrap()
}
