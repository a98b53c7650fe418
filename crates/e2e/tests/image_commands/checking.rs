//! `knarr image check`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use e2e::{Network, Node};
use serde_json::Value;

use crate::command::{pushed, run};

/// The file with an image's topmost layer.
fn layer(node: &Node, name: &str) -> PathBuf {
    let told = run(node, &["image", "inspect", name]).json();
    let diff_id = told[0]["layers"][1]["diffId"].as_str().unwrap().replace(':', "/");
    let dir = node.path("root/images/layers").join(diff_id);
    [dir.join("layer.erofs"), dir.join("fs/content")].into_iter().find(|path| path.exists()).unwrap()
}

#[tokio::test]
async fn damage_is_found_and_fetched_again_or_told() {
    let node = Node::start(Network::None).await;
    let name = pushed(&node, "checked", "commands/checked:1").await;
    node.client().pull(&name).await.unwrap();
    assert_eq!(run(&node, &["image", "check"]).well(), format!("{name}: 2 layers looked at\n"));
    let damage = |path: PathBuf| {
        let mut byte = [0];
        File::open(&path).unwrap().read_exact_at(&mut byte, 0).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[byte[0] ^ 1], 0).unwrap();
    };
    damage(layer(&node, &name));
    let told = run(&node, &["image", "check", &name]).well();
    assert!(told.contains(" is damaged: ") && told.ends_with(&format!("{name}: fetched again\n")), "{told}");
    let told = run(&node, &["image", "check", "--json", &name]).json();
    assert_eq!((&told[0]["layers"][1]["condition"], &told[0]["repaired"]), (&"whole".into(), &false.into()));
    // One that came in an archive, of which no registry knows.
    let archive = node.path("archive.tar");
    run(&node, &["image", "save", "-o", archive.to_str().unwrap(), "--format", "docker", &name]).well();
    run(&node, &["image", "rm", &name]).well();
    run(&node, &["image", "load", "-i", archive.to_str().unwrap()]).well();
    damage(layer(&node, &name));
    let ran = run(&node, &["image", "check", &name]);
    assert!(ran.code == Some(1) && ran.stdout.contains("not fetched again: nothing tells where"), "{ran:?}");
    assert_eq!(run(&node, &["image", "ls", "--json"]).json(), Value::Array(vec![]));
    // Not listed, it can still be removed.
    assert!(run(&node, &["image", "rm", &name]).well().starts_with("removed "));
    let left = std::fs::read_dir(node.path("root/images/layers/sha256")).unwrap().count();
    assert_eq!((left, run(&node, &["image", "check", &name]).code), (0, Some(1)));
}
