//! What is left of pods that are gone, or that never came to be: nothing.

use std::fs;

use cni::{Error, Protocol};

use crate::support::netns::{Netns, on_own_host, sh};
use crate::support::{Node, attachment, until};
use crate::{Pod, at, network, pod, port, state};
#[test]
fn nothing_is_left_after_the_last_pod() {
    on_own_host(|| async {
        let node = Node::new();
        // Sysctls apart, which stay as every network leaves them.
        let before = state();
        let networks = node.open_builtin(network());
        for round in 0..3 {
            let ports = vec![port(8080, Protocol::Tcp), port(8080, Protocol::Udp)];
            let first = pod(&networks, &format!("first{round}"), ports).await;
            let second = pod(&networks, &format!("second{round}"), Vec::new()).await;
            networks.del(&first.attachment).await.unwrap();
            assert!(sh("ip -br link").contains("knarrtest0"));
            // The namespace of the second goes before it is detached.
            let Pod { netns, attachment, .. } = second;
            drop(netns);
            networks.del(&attachment).await.unwrap();
            networks.del(&attachment).await.unwrap();
            networks.settle().await.unwrap();
            assert_eq!(state(), before);
        }
        assert!(node.records().is_empty());
        let files = fs::read_dir(node.path("state/addresses/test")).unwrap();
        let mut names: Vec<_> = files.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    });
}

#[test]
fn the_ground_goes_by_itself_a_while_after_the_last_pod() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", Vec::new()).await;
        networks.del(&first.attachment).await.unwrap();
        // Cut off at once, though the interface takes its time.
        assert!(Netns::current().ask_tcp(at(first.ips[0], 80)).is_err());
        until("state", state, |state| *state == before).await;
        pod(&networks, "second", Vec::new()).await;
    });
}

#[test]
fn what_is_no_namespace_is_refused() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        for path in ["/etc/passwd", "/nonexistent"] {
            let error = networks.add(&attachment("first", path.as_ref())).await.unwrap_err();
            assert!(matches!(error, Error::Namespace { .. }), "{error}");
        }
        assert_eq!(state(), before);
        assert!(node.records().is_empty());
    });
}
