//! Pods that one daemon attached and another finds.

use std::collections::HashSet;
use std::fs;

use cni::{Error, Protocol};

use crate::support::netns::{Netns, on_own_host, sh};
use crate::support::{Node, shown};
use crate::{at, network, pod, port, state};

/// Changes what is recorded of the only attachment.
fn rewrite(node: &Node, change: impl FnOnce(&mut serde_json::Value)) {
    let record = &node.records()[0];
    let mut value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    change(&mut value);
    fs::write(record, value.to_string()).unwrap();
}

#[test]
fn another_daemon_finds_what_one_left_and_keeps_it() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", vec![port(8080, Protocol::Tcp)]).await;
        drop(networks);
        let networks = node.open_builtin(network());
        let second = pod(&networks, "second", Vec::new()).await;
        assert_ne!(first.ips, second.ips);
        second.netns.ask_tcp(at(first.ips[0], 80)).unwrap();
        Netns::current().ask_tcp("127.0.0.1:8080".parse().unwrap()).unwrap();
        drop(networks);
        // Neither is valid any more: a collection leaves nothing of them.
        let networks = node.open_builtin(network());
        networks.gc(HashSet::new).await.unwrap();
        assert_eq!(state(), before);
        assert!(node.records().is_empty());
    });
}

#[test]
fn a_detach_that_was_not_finished_is_collected() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", Vec::new()).await;
        // As after a crash behind the answer to DEL.
        rewrite(&node, |record| record["detached"] = true.into());
        drop(networks);
        let networks = node.open_builtin(network());
        assert!(matches!(networks.check(&first.attachment).await, Err(Error::NotAttached { .. })));
        networks.gc(move || [first.attachment.id()].into()).await.unwrap();
        assert_eq!(state(), before);
        assert!(node.records().is_empty());
    });
}

#[test]
fn an_attachment_cut_short_is_cleaned_up_by_its_owner_alone() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", vec![port(8080, Protocol::Tcp)]).await;
        drop(networks);
        rewrite(&node, |record| record["result"] = serde_json::Value::Null);
        let networks = node.open_builtin(network());
        networks.del(&first.attachment).await.unwrap();
        networks.settle().await.unwrap();
        assert_eq!(state(), before);
        assert!(!node.path("state/addresses/test/10.231.0.2").exists());
    });
}

#[test]
fn what_a_daemon_of_old_attached_is_detached() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", Vec::new()).await;
        drop(networks);
        // Its interfaces had other names, its results no hardware addresses of the host's, its records no word on the means.
        rewrite(&node, |record| {
            let port = &mut record["result"]["interfaces"][1];
            sh(&format!("ip link set {} name knarr0123456789", port["name"].as_str().unwrap()));
            *port = serde_json::json!({"name": "knarr0123456789", "mtu": 1500});
            record.as_object_mut().unwrap().remove("native");
        });
        let networks = node.open_builtin(network());
        networks.check(&first.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        networks.del(&first.attachment).await.unwrap();
        assert!(Netns::current().ask_tcp(at(first.ips[0], 80)).is_err());
        networks.settle().await.unwrap();
        assert_eq!(state(), before);
        assert!(node.records().is_empty());
    });
}
