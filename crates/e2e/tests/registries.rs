//! `knarr registry explain`: where an image would come from, asked of a running daemon.
//!
//! Not here: what there is to tell (`image-service`'s own tests), and how it is worded (`cri-server`'s).

use std::process::{Command, Output, Stdio};

use e2e::cri::ListImagesRequest;
use e2e::{Network, Node, Setup, node};
use serde_json::Value;

fn explain(node: &Node, arguments: &[&str]) -> Output {
    let mut command = Command::new(node::binary("knarr"));
    command.args(["registry", "explain"]).args(arguments).stdin(Stdio::null());
    command.arg("--endpoint").arg(format!("unix://{}", node.socket().display())).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_person_and_a_script_are_told_and_the_exit_status_says_whether_it_works() {
    let node = Node::start(Network::None).await;
    let image = node.registry.image("busybox:latest");
    let ran = explain(&node, &[&image]);
    let told = text(&ran.stdout);
    assert!(ran.status.success(), "{told}{}", text(&ran.stderr));
    assert!(told.starts_with(&image) && told.contains("the registry itself"), "{told}");
    assert!(told.contains("A pull would take sha256:"), "{told}");

    let ran = explain(&node, &["--json", &image]);
    let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(json["reference"], image.as_str());
    assert_eq!(json["hosts"][0]["probe"]["exchanges"][0]["status"], 200, "{json}");
    // A pull finds what was explained.
    let mut client = node.client();
    client.pull(&image).await.unwrap();
    let digest = json["meant"]["digest"].as_str().unwrap();
    let listed = client.images.list_images(ListImagesRequest { filter: None }).await.unwrap().into_inner();
    let mut known = listed.images.iter().flat_map(|image| &image.repo_digests);
    assert!(known.any(|known| known.ends_with(digest)), "{listed:?}");

    let lacking = node.registry.image("busybox:lacking");
    let ran = explain(&node, &[&lacking]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran.stdout).contains("404 Not Found"), "{}", text(&ran.stdout));
    assert!(text(&ran.stdout).ends_with("A pull would fail: nobody says what the name means.\n"));
    let ran = explain(&node, &["not an image"]);
    assert_eq!(ran.status.code(), Some(1));
    let told = text(&ran.stderr);
    assert!(told.starts_with("knarr: \"not an image\" is not an image reference: "), "{told}");
    assert_eq!(told.matches("is not an image reference").count(), 1, "{told}");
}

#[tokio::test]
async fn a_node_s_credentials_are_told_by_their_source_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, r#"{"auths":{"127.0.0.1:1":{"username":"node","password":"s3cret"}}}"#).unwrap();
    let section = format!("[registry]\ncredentials = \"{}\"", file.display());
    let node = Setup::new(Network::None).section(&section).start().await;
    let ran = explain(&node, &["127.0.0.1:1/a:x"]);
    let told = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1));
    let expected = format!("the entry \"127.0.0.1:1\" of \"{}\" (user \"node\")", file.display());
    assert!(told.contains(&expected) && !told.contains("s3cret"), "{told}");
    let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
    assert!(!log.contains("s3cret"), "{log}");
}
