//! `knarr image ls`, `inspect` and `history`.

use e2e::{Network, Node};
use serde_json::Value;

use crate::command::{image, pushed, run};

#[tokio::test]
async fn ls_counts_shared_layers_and_names_users() {
    let node = Node::start(Network::None).await;
    let one = pushed(&node, "one", "commands/one:1").await;
    let two = pushed(&node, "two", "commands/two:1").await;
    let client = node.client();
    let id = client.pull(&one).await.unwrap();
    let alone = run(&node, &["image", "ls", "--json"]).json();
    assert_eq!(alone[0]["uniqueBytes"], alone[0]["diskBytes"]);
    client.pull(&two).await.unwrap();
    let listed = run(&node, &["image", "ls", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    for image in listed.as_array().unwrap() {
        let bytes = |key: &str| image[key].as_u64().unwrap();
        assert!(bytes("sharedBytes") >= 390_000 && bytes("uniqueBytes") < 50_000, "{image}");
        assert_eq!(bytes("sharedBytes") + bytes("uniqueBytes"), bytes("diskBytes"));
        assert_eq!((&image["dangling"], &image["pinned"]), (&Value::from(false), &Value::from(false)));
    }
    let text = run(&node, &["image", "ls"]).well();
    let line = text.lines().find(|line| line.starts_with(&one)).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains(&id["sha256:".len()..][..12]) && text.starts_with("NAME"), "{text}");
    assert_eq!(run(&node, &["image", "ls", &two, "--json"]).json().as_array().unwrap().len(), 1);
    assert!(
        run(&node, &["image", "ls", "nothing"]).complaint().ends_with("image \"nothing\" does not exist")
    );
}

#[tokio::test]
async fn an_image_whose_tag_has_moved_is_shown_without() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let name = pushed(&node, "before", "commands/moving:1").await;
    let old = client.pull(&name).await.unwrap();
    pushed(&node, "after", "commands/moving:1").await;
    let new = client.pull(&name).await.unwrap();
    let listed = run(&node, &["image", "ls", "--json"]).json();
    let of = |id: &str| listed.as_array().unwrap().iter().find(|image| image["id"] == id).cloned().unwrap();
    assert_eq!((&of(&old)["dangling"], &of(&new)["dangling"]), (&Value::from(true), &Value::from(false)));
    let text = run(&node, &["image", "ls"]).well();
    assert!(text.lines().any(|line| line.contains("commands/moving:<none>")), "{text}");
    let text = run(&node, &["image", "ls", "--digests", "--no-trunc"]).well();
    assert!(text.contains("commands/moving@sha256:") && text.contains(&old), "{text}");
}

#[tokio::test]
async fn inspect_has_the_texts_and_the_users() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let digest = image("inspected").push(node.registry.address(), "commands/inspected:1").await;
    let name = node.registry.image("commands/inspected:1");
    let id = client.pull(&name).await.unwrap();
    let told = run(&node, &["image", "inspect", &name]).json();
    let told = &told[0];
    assert_eq!((&told["id"], &told["tags"][0]), (&Value::from(id.clone()), &Value::from(name.clone())));
    assert_eq!(told["config"]["config"]["Labels"]["made"], "here");
    assert_eq!(told["manifest"]["digest"], Value::from(digest));
    let layers = told["layers"].as_array().unwrap();
    let of_manifest = &told["manifest"]["document"]["layers"];
    for (at, layer) in layers.iter().enumerate() {
        assert_eq!(layer["diffId"], told["config"]["rootfs"]["diff_ids"][at]);
        assert_eq!(layer["blob"]["digest"], of_manifest[at]["digest"]);
        assert_eq!((&layer["canBeSaved"], &layer["images"]), (&Value::from(true), &Value::from(1)));
    }
    assert_eq!(layers.len(), 2);
    let ran = run(&node, &["image", "inspect", "nothing", &id]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), "knarr: image \"nothing\" does not exist\n"));
    assert!(ran.stdout.contains(&id));
}

#[tokio::test]
async fn history_shows_what_steps_take() {
    let node = Node::start(Network::None).await;
    let name = pushed(&node, "past", "commands/past:1").await;
    node.client().pull(&name).await.unwrap();
    // These images tell nothing of their steps: their layers are there all the same.
    let steps = run(&node, &["image", "history", "--json", &name]).json();
    let sizes: Vec<u64> =
        steps.as_array().unwrap().iter().map(|step| step["diskBytes"].as_u64().unwrap()).collect();
    assert!(sizes.len() == 2 && sizes[0] < sizes[1], "the last step comes first: {sizes:?}");
    assert_eq!(run(&node, &["image", "history", &name]).well().lines().count(), 3);
}
