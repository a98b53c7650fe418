//! `knarr pull`.

use e2e::{Network, Node};

use crate::command::{pushed, run};

#[tokio::test]
async fn pull_prints_the_id_and_nothing_else() {
    let node = Node::start(Network::None).await;
    let name = pushed(&node, "pulled", "commands/pulled:1").await;
    for arguments in [&["pull", "--quiet", &name][..], &["image", "pull", "--quiet", &name]] {
        let id = run(&node, arguments).well();
        assert!(id.starts_with("sha256:") && id.lines().count() == 1, "{id}");
        assert_eq!(run(&node, &["image", "ls", "-q"]).well(), id);
    }
}

#[tokio::test]
async fn a_pull_that_fails_says_why_once() {
    let node = Node::start(Network::None).await;
    let name = node.registry.image("commands/nowhere:1");
    let complaint = run(&node, &["pull", &name]).complaint();
    assert!(complaint.starts_with("knarr: cannot pull image") && complaint.contains("404"), "{complaint}");
    let complaint = run(&node, &["pull", "UPPER"]).complaint();
    assert!(complaint.contains("\"UPPER\" is not an image reference"), "{complaint}");
}
