//! Another configuration while pods run: what is applied, what waits, and what changes nothing.

use e2e::{Client, Network, Node, Setup, node, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::runtime::v1 as cri;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use serde_json::Value;

use super::command::at;

/// Writes a file that is laid over the node's configuration.
fn lay(node: &Node, text: &str) {
    let directory = node.path("knarr.toml.d");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("50-test.toml"), text).unwrap();
}

async fn running(client: &Client) -> Value {
    let request = cri::StatusRequest { verbose: true };
    let status = RuntimeServiceClient::new(client.channel()).status(request).await.unwrap().into_inner();
    serde_json::from_str(&status.info["config"]).unwrap()
}

async fn with_handler(client: &Client, node: &Node, handler: &str) -> Result<String, tonic::Status> {
    let request =
        e2e::cri::RunPodSandboxRequest { config: Some(node.pod()), runtime_handler: handler.to_owned() };
    Ok(client.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

#[tokio::test]
async fn what_can_be_changed_is_in_effect_at_once_and_pods_go_on() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    assert_eq!(at(&node, &["config", "reload"]).well(), "nothing has changed\n");
    let old = client.run_pod(node.pod()).await.unwrap();

    // A registry by another name, which nothing knows yet.
    client.pull("mirrored.test/busybox:latest").await.unwrap_err();
    with_handler(&client, &node, "strict").await.unwrap_err();
    let hosts = node.path("other-certs.d/mirrored.test");
    std::fs::create_dir_all(&hosts).unwrap();
    let mirror =
        format!("[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]", node.registry.address());
    std::fs::write(hosts.join("hosts.toml"), mirror).unwrap();
    let dir = node.path("other-certs.d").display().to_string();
    lay(
        &node,
        &format!(
            "registry_config_dir = \"{dir}\"\nlog_level = \"error\"\nroot = \"/elsewhere\"\n[handlers.strict]\n\
             unset_seccomp = \"runtime-default\"\n[images]\npinned = [\"mirrored.test/busybox:latest\"]"
        ),
    );
    let told = at(&node, &["config", "reload"]).well();
    for line in [
        "applied        registry_config_dir",
        "applied        log_level",
        "applied        handlers",
        "applied        images.pinned",
    ] {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }
    assert!(told.lines().any(|told| told.starts_with("needs restart  root (")), "{told}");

    client.pull("mirrored.test/busybox:latest").await.unwrap();
    let images =
        client.images.clone().list_images(e2e::cri::ListImagesRequest { filter: None }).await.unwrap();
    assert!(images.into_inner().images.iter().all(|image| image.pinned), "pinned from now on");
    with_handler(&client, &node, "strict").await.unwrap();
    let now = running(&client).await;
    assert_eq!(now["log_level"], "error");
    assert_eq!(now["root"], node.path("root").to_str().unwrap(), "what waits is not what it runs by");
    assert_eq!(client.pod(&old).await.unwrap().id, old);

    // It goes the way that it came.
    std::fs::remove_file(node.path("knarr.toml.d/50-test.toml")).unwrap();
    at(&node, &["config", "reload"]).well();
    let refused = with_handler(&client, &node, "strict").await.unwrap_err();
    assert!(refused.message().contains("\"strict\" is not configured"), "{refused}");
    assert_eq!(running(&client).await["log_level"], "debug");
}

#[tokio::test]
async fn the_level_of_the_log_changes() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let versions = || {
        let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
        log.lines().filter(|line| line.contains("method=\"Version\"")).count()
    };
    let version = || async {
        let request = e2e::cri::VersionRequest { version: "v1".to_owned() };
        client.runtime.clone().version(request).await.unwrap();
    };
    version().await;
    until(node::PATIENCE, "a line about the call", || async {
        if versions() == 1 { Ok(()) } else { Err(versions()) }
    })
    .await;
    lay(&node, "log_level = \"info\"");
    at(&node, &["config", "reload"]).well();
    version().await;
    lay(&node, "log_level = \"trace\"");
    at(&node, &["config", "reload"]).well();
    // `knarr config reload` asks for no version; of these two only the second call is at a level that is logged.
    version().await;
    until(node::PATIENCE, "one more line", || async {
        if versions() == 2 { Ok(()) } else { Err(versions()) }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_configuration_changes_nothing_and_says_all_that_is_wrong() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let before = running(&client).await;
    lay(&node, "log_level = \"info\"\nlog_frmat = \"json\"\n[network]\nnetworks = 0\n");
    let complaint = at(&node, &["config", "reload"]).complaint();
    let file = node.path("knarr.toml.d/50-test.toml").display().to_string();
    assert!(
        complaint
            .contains(&format!("{file}:2:1: log_frmat: there is no such key; did you mean \"log_format\"?")),
        "{complaint}"
    );
    assert!(complaint.contains(&format!("{file}:4:12: network.networks: must be 1 to 16")), "{complaint}");
    assert_eq!(running(&client).await, before, "nothing of it, not even what is right");
    let log = node.log_tail();
    assert!(log.contains("the configuration stays what it was"), "{log}");
    lay(&node, "log_level = \"info\"");
    at(&node, &["config", "reload"]).well();
    assert_eq!(running(&client).await["log_level"], "info");
}

#[tokio::test]
async fn a_part_that_can_not_follow_keeps_all_others_as_they_were() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let before = running(&client).await;
    // The kernel can't watch what leads nowhere.
    let circle = node.path("circle");
    std::os::unix::fs::symlink(&circle, &circle).unwrap();
    lay(&node, &format!("log_level = \"info\"\ncni_conf_dir = \"{}\"\n[handlers.more]", circle.display()));
    let complaint = at(&node, &["config", "reload"]).complaint();
    assert!(complaint.contains("opening the pod network") && complaint.contains("circle"), "{complaint}");
    assert_eq!(running(&client).await, before);
    with_handler(&client, &node, "more").await.unwrap_err();
}

#[tokio::test]
async fn pods_are_made_while_the_configuration_is_read_again_and_again() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let pods = async {
        for _ in 0..20 {
            let pod = with_handler(&client, &node, "knarr").await.unwrap();
            client.stop_pod(&pod).await.unwrap();
            client.remove_pod(&pod).await.unwrap();
        }
    };
    let reloads = async {
        for round in 0..20 {
            let level = if round % 2 == 0 { "info" } else { "debug" };
            lay(
                &node,
                &format!(
                    "log_level = \"{level}\"\n[handlers.h{round}]\n[logs]\nrate_limit = {}",
                    2048 + round
                ),
            );
            kill(Pid::from_raw(node.pid().cast_signed()), Signal::SIGHUP).unwrap();
            until(node::PATIENCE, "the handler", || async {
                let handlers = running(&client).await["handlers"].clone();
                if handlers[format!("h{round}")].is_object() { Ok(()) } else { Err(handlers) }
            })
            .await;
        }
    };
    tokio::join!(pods, reloads);
}

#[tokio::test]
async fn a_hangup_has_the_configuration_read_again() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    lay(&node, "log_level = \"trace\"");
    kill(Pid::from_raw(node.pid().cast_signed()), Signal::SIGHUP).unwrap();
    until(node::PATIENCE, "the other level", || async {
        let now = running(&client).await;
        if now["log_level"] == "trace" { Ok(()) } else { Err(now["log_level"].clone()) }
    })
    .await;
    // A wrong one doesn't end it.
    lay(&node, "log_level = \"loud\"");
    kill(Pid::from_raw(node.pid().cast_signed()), Signal::SIGHUP).unwrap();
    until(node::PATIENCE, "a word about the wrong level", || async {
        let log = node.log_tail();
        if log.contains("50-test.toml:1:13: log_level: must be one of") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(running(&client).await["log_level"], "trace");
}

#[tokio::test]
async fn networks_are_those_of_the_new_directory_and_pods_of_the_old_end_well() {
    let node = Setup::new(Network::Native).start().await;
    let client = node.client();
    let ready = || async {
        let status = client.runtime.clone().status(e2e::cri::StatusRequest { verbose: false }).await.unwrap();
        let conditions = status.into_inner().status.unwrap().conditions;
        conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap().status
    };
    assert!(ready().await);
    let pod = client.run_pod(node.pod()).await.unwrap();
    assert!(!client.pod(&pod).await.unwrap().network.unwrap().ip.is_empty());
    let empty = node.path("empty");
    std::fs::create_dir(&empty).unwrap();
    lay(&node, &format!("cni_conf_dir = \"{}\"\n[network]\nplugin_deadline = 7", empty.display()));
    let told = at(&node, &["config", "reload"]).well();
    assert_eq!(told, "applied        cni_conf_dir\napplied        network.plugin_deadline\n");
    assert!(!ready().await, "nothing is configured there");
    client.run_pod(node.pod()).await.unwrap_err();
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    // The new directory is watched.
    let file = std::fs::read_dir(node.path("cni")).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&file, empty.join("10-net.conflist")).unwrap();
    until(node::PATIENCE, "a network", || async { if ready().await { Ok(()) } else { Err("not ready") } })
        .await;
    client.run_pod(node.pod()).await.unwrap();
}
