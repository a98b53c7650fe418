//! `knarr image rm` and `prune`.

use e2e::{Network, Node};
use serde_json::Value;

use crate::command::{image, pushed, run};

/// A container of an image, not started, in a pod.
async fn used(node: &Node, name: &str) -> (String, String) {
    let client = node.client();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let mut wanted = node.busybox("user", &["true"]);
    wanted.image = Some(e2e::client::image_spec(name));
    let container = client.create(&pod, wanted, &config).await.unwrap();
    (pod, container)
}

#[tokio::test]
async fn rm_takes_a_tag_then_the_image() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let (one, two) =
        (pushed(&node, "two names", "commands/n:1").await, pushed(&node, "two names", "commands/n:2").await);
    let id = client.pull(&one).await.unwrap();
    assert_eq!(client.pull(&two).await.unwrap(), id);
    assert_eq!(run(&node, &["image", "rm", &one]).well(), format!("untagged {one}\n"));
    let left = run(&node, &["image", "ls", "--json"]).json();
    assert_eq!(left[0]["tags"], Value::from(vec![two.clone()]));
    let other = pushed(&node, "other", "commands/other:1").await;
    let other_id = client.pull(&other).await.unwrap();
    let ran = run(&node, &["image", "rm", &other, "nothing", &two]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stdout, format!("removed {other_id}\nremoved {id}\n"));
    assert_eq!(ran.stderr, "knarr: image \"nothing\" does not exist\n");
    assert_eq!(run(&node, &["image", "ls", "-q"]).well(), "");
}

#[tokio::test]
async fn what_is_used_stays_unless_it_must_go() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let name = pushed(&node, "used", "commands/used:1").await;
    let id = client.pull(&name).await.unwrap();
    let (_, container) = used(&node, &name).await;
    let listed = run(&node, &["image", "ls", "--json"]).json();
    assert_eq!(listed[0]["users"][0]["containerId"], Value::from(container.clone()));
    assert!(run(&node, &["image", "ls"]).well().contains("1 container"));
    let complaint = run(&node, &["image", "rm", &name]).complaint();
    assert!(complaint.contains("is not removed: container \"user\" of pod"), "{complaint}");
    assert_eq!(run(&node, &["image", "prune", "--all"]).well(), "freed 0 B\n");
    assert_eq!(run(&node, &["image", "rm", "--force", &name]).well(), format!("removed {id}\n"));
    // The container has what it was made of.
    assert!(client.pods().await.unwrap().len() == 1);
    client.remove(&container).await.unwrap();
}

#[tokio::test]
async fn prune_removes_what_nothing_uses() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let name = pushed(&node, "old", "commands/pruned:1").await;
    let old = client.pull(&name).await.unwrap();
    image("new").push(node.registry.address(), "commands/pruned:1").await;
    let new = client.pull(&name).await.unwrap();
    let text = run(&node, &["image", "prune", "--dry-run"]).well();
    assert!(text.starts_with(&format!("would remove {old}")) && text.contains("would free"), "{text}");
    assert_eq!(run(&node, &["image", "ls", "-q"]).well().lines().count(), 2);
    let done = run(&node, &["image", "prune", "--json"]).json();
    assert_eq!((&done["images"][0]["id"], &done["dryRun"]), (&Value::from(old), &Value::from(false)));
    assert!(done["freedBytes"].as_u64().unwrap() < 100_000, "the shared layer is needed: {done}");
    let done = run(&node, &["image", "prune", "-a", "--json"]).json();
    assert_eq!(done["images"][0]["id"], Value::from(new));
    assert!(done["freedBytes"].as_u64().unwrap() > 390_000, "{done}");
    assert_eq!(run(&node, &["image", "ls", "-q"]).well(), "");
}
