//! What is heard of a failure: it is answered or logged, not both, and never twice.

use std::collections::HashSet;
use std::fs;

use cni::{Config, Networks, Status};
use serde_json::json;

use crate::rig::{Chain, Pod, Rig};
use crate::support::log::Log;
use crate::support::netns::{Netns, on_own_host};
use crate::support::{Node, attachment, shown, until};

#[test]
fn what_is_answered_is_not_logged_as_well() {
    on_own_host(|| async {
        let log = Log::default();
        let _listening = tracing::subscriber::set_default(log.clone());
        let rig = Rig::new(Chain::Scripted, "1.0.0");
        let (networks, pod) = (rig.open(), Pod::new("pod1"));
        networks.add(&pod.attachment).await.unwrap();
        rig.order("rule", "DEL before error");
        for error in
            [networks.del(&pod.attachment).await.unwrap_err(), networks.gc(HashSet::new).await.unwrap_err()]
        {
            assert_eq!(shown(&error).matches("out of leases").count(), 1, "{}", shown(&error));
        }
        assert_eq!(log.said("out of leases"), 0);
        // What is put off isn't answered.
        rig.heal();
        rig.order("rule", "missing");
        networks.del(&pod.attachment).await.unwrap();
        assert_eq!(log.said("'rule' isn't in"), 1);
        rig.heal();
        networks.del(&pod.attachment).await.unwrap();
    });
}

/// Behind an answer nobody else tells of it.
#[test]
fn what_fails_behind_an_answer_is_logged_once() {
    on_own_host(|| async {
        let log = Log::default();
        let _listening = tracing::subscriber::set_default(log.clone());
        let node = Node::new();
        let ipam = json!({"type": "host-local", "dataDir": node.path("leases"), "subnet": "10.234.0.0/24"});
        let conf = json!({"cniVersion": "1.1.0", "name": "net",
            "plugins": [{"type": "bridge", "bridge": "cnisaid0", "ipam": ipam}]});
        node.conf("10-net.conflist", &conf);
        let networks = Networks::open(Config { native: true, ..node.config() }).unwrap();
        let ready = Status::Ready { network: "net".into() };
        until("status", || networks.status(), |status| *status == ready).await;
        let netns = Netns::new();
        let pod = attachment("pod1", &netns.path());
        networks.add(&pod).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        let lock = node.path("leases/net/lock");
        fs::remove_file(&lock).unwrap();
        fs::create_dir(&lock).unwrap();
        networks.del(&pod).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        networks.settle().await.unwrap();
        assert_eq!(log.said("Is a directory"), 1, "{:#?}", log.0.lock().unwrap());
        fs::remove_dir(&lock).unwrap();
        networks.gc(HashSet::new).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        assert!(node.records().is_empty());
    });
}
