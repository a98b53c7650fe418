//! `knarr pull`.

use std::io::Read;
use std::process::Stdio;

use e2e::{Network, Node};

use crate::command::{Ran, knarr, pushed, run};

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
async fn progress_goes_to_standard_error() {
    let node = Node::start(Network::None).await;
    let name = pushed(&node, "progress", "commands/progress:1").await;
    let ran = run(&node, &["pull", &name]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (Some(0), 1), "{ran:?}");
    let done = |ran: &Ran, word: &str| ran.stderr.lines().filter(|line| line.ends_with(word)).count();
    assert!(done(&ran, ": done") == 2 && !ran.stderr.contains('\x1b'), "{ran:?}");
    let again = run(&node, &["pull", &name]);
    assert_eq!(
        (again.stdout.as_str(), done(&again, ": here already")),
        (ran.stdout.as_str(), 2),
        "{again:?}"
    );
}

/// On a terminal there is a bar, which is gone when the pull is over.
#[tokio::test]
async fn a_terminal_gets_a_bar() {
    let node = Node::start(Network::None).await;
    let name = pushed(&node, "bar", "commands/bar:1").await;
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut pull =
        knarr(&node, &["pull", &name]).stdout(Stdio::piped()).stderr(terminal.slave).spawn().unwrap();
    assert!(pull.wait().unwrap().success());
    let mut shown = Vec::new();
    // Ends with EIO when the last of the other side is gone.
    let _end = std::fs::File::from(terminal.master).read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("2 of 2 layers") && shown.ends_with("\r\x1b[K"), "{shown:?}");
}

#[tokio::test]
async fn a_pull_that_fails_says_why_once() {
    let node = Node::start(Network::None).await;
    let name = node.registry.image("commands/nowhere:1");
    let complaint = run(&node, &["pull", "--quiet", &name]).complaint();
    assert!(complaint.starts_with("knarr: cannot pull image") && complaint.contains("404"), "{complaint}");
    let complaint = run(&node, &["pull", "UPPER"]).complaint();
    assert!(complaint.contains("\"UPPER\" is not an image reference"), "{complaint}");
}
