//! The daemon's version, over its own service on the socket that CRI has too.

use std::process::Command;

use e2e::{Network, Node, node};

use crate::command::{Ran, run};

#[tokio::test]
async fn the_daemon_answers_on_its_own_service_beside_cri() {
    let node = Node::start(Network::None).await;
    let ran = run(&node, &["version", "--daemon"]);
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!((ran.stdout, ran.stderr), (format!("knarr {own}\ndaemon {own}\n"), String::new()));
    assert_eq!(ran.code, Some(0));
    assert!(node.client().pods().await.unwrap().is_empty(), "CRI is served on the same socket");
}

#[test]
fn without_a_daemon_the_error_names_the_socket_once() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let endpoint = format!("unix://{}", socket.display());
    let command = ["version", "--daemon", "--endpoint", &endpoint];
    let ran: Ran = Command::new(node::binary("knarr")).args(command).output().unwrap().into();
    assert_eq!(ran.code, Some(1));
    let path = socket.display();
    assert_eq!(
        ran.stderr,
        format!("knarr: no daemon answers at \"{path}\": No such file or directory (os error 2)\n")
    );
    let ran: Ran = Command::new(node::binary("knarr"))
        .args(["version", "--daemon", "--endpoint", "127.0.0.1:1"])
        .output()
        .unwrap()
        .into();
    assert!(ran.stderr.contains("must be unix://") && ran.code == Some(1), "{ran:?}");
}
