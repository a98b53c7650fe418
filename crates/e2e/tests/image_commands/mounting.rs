//! `knarr image mount` and `unmount`.

use std::process::Command;

use e2e::{Network, Node};
use serde_json::Value;

use crate::command::{pushed, run};

#[tokio::test]
async fn a_mounted_image_outlives_the_image_and_the_daemon() {
    let mut node = Node::start(Network::None).await;
    let name = pushed(&node, "mounted", "commands/mounted:1").await;
    let id = node.client().pull(&name).await.unwrap();
    let directory = node.path("mount");
    std::fs::create_dir(&directory).unwrap();
    let path = directory.to_str().unwrap().to_owned();
    assert_eq!(run(&node, &["image", "mount", &name, &path]).well(), "");
    let read = || std::fs::read_to_string(directory.join("content")).unwrap();
    assert_eq!(read(), "mounted");
    assert_eq!(run(&node, &["image", "prune", "--all"]).well(), "freed 0 B\n");
    assert_eq!(run(&node, &["image", "rm", &name]).well(), format!("removed {id}\n"));
    node.stop_daemon();
    node.start_daemon();
    let mounts = run(&node, &["image", "mount", "--json"]).json();
    assert_eq!(
        (&mounts[0]["image"], &mounts[0]["directory"]),
        (&Value::from(id), &Value::from(path.clone()))
    );
    assert_eq!(read(), "mounted");
    assert_eq!(run(&node, &["image", "unmount", &path]).well(), "");
    assert!(!directory.join("content").exists());
    let complaint = run(&node, &["image", "unmount", &path]).complaint();
    assert!(complaint.starts_with("knarr: no image is mounted on"), "{complaint}");
}

#[tokio::test]
async fn what_cannot_be_mounted_is_told() {
    let node = Node::start(Network::None).await;
    let name = pushed(&node, "mounted", "commands/not-mounted:1").await;
    node.client().pull(&name).await.unwrap();
    let none = node.path("none");
    let complaint = run(&node, &["image", "mount", &name, none.to_str().unwrap()]).complaint();
    assert!(complaint.contains("cannot open") && complaint.contains("No such file"), "{complaint}");
    let complaint = run(&node, &["image", "mount", "nothing", "/mnt"]).complaint();
    assert!(complaint.ends_with("image \"nothing\" does not exist"), "{complaint}");
    let table = Command::new("findmnt").args(["-rno", "TARGET"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&table.stdout).contains(node.path("").to_str().unwrap()));
}
