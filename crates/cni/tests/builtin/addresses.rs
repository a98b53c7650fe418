//! Addresses: of many at once, and of one after another.

use std::collections::HashSet;

use cni::{Attachment, BuiltinNetwork, Error};

use crate::support::netns::{Netns, on_own_host};
use crate::support::{Node, attachment};
use crate::{network, pod, state, subnet};
#[test]
fn many_at_once_get_different_addresses() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        let namespaces: Vec<Netns> = (0..40).map(|_| Netns::new()).collect();
        let attachments: Vec<Attachment> = namespaces
            .iter()
            .enumerate()
            .map(|(n, netns)| attachment(&format!("pod{n}"), &netns.path()))
            .collect();
        let adding: Vec<_> = attachments
            .iter()
            .map(|attachment| {
                let (networks, attachment) = (networks.clone(), attachment.clone());
                tokio::spawn(async move { networks.add(&attachment).await })
            })
            .collect();
        let mut addresses = HashSet::new();
        for adding in adding {
            addresses.extend(adding.await.unwrap().unwrap().ips);
        }
        assert_eq!(addresses.len(), 80);
        let deleting: Vec<_> = attachments
            .iter()
            .map(|attachment| {
                let (networks, attachment) = (networks.clone(), attachment.clone());
                tokio::spawn(async move { networks.del(&attachment).await })
            })
            .collect();
        for deleting in deleting {
            deleting.await.unwrap().unwrap();
        }
        networks.settle().await.unwrap();
        assert_eq!(state(), before);
    });
}

#[test]
fn addresses_run_out_with_a_word_and_come_back() {
    on_own_host(|| async {
        let node = Node::new();
        let small = BuiltinNetwork { subnets: vec![subnet("10.232.0.0", 30)], ..network() };
        let networks = node.open_builtin(small);
        let first = pod(&networks, "first", Vec::new()).await;
        let netns = Netns::new();
        let second = attachment("second", &netns.path());
        let error = networks.add(&second).await.unwrap_err();
        assert!(matches!(error, Error::AddressesExhausted { .. }), "{error}");
        networks.del(&first.attachment).await.unwrap();
        networks.settle().await.unwrap();
        assert_eq!(networks.add(&second).await.unwrap().ips, first.ips);
    });
}

/// By its answer a DEL says that the address can be had, though the link that has it takes its time to go.
#[test]
fn the_addresses_of_those_who_have_left_are_there_for_the_next() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let small = BuiltinNetwork { subnets: vec![subnet("10.232.0.0", 30)], ..network() };
        let networks = node.open_builtin(small);
        for round in 0..10 {
            let pod = pod(&networks, &format!("pod{round}"), Vec::new()).await;
            networks.del(&pod.attachment).await.unwrap();
        }
        networks.settle().await.unwrap();
        assert_eq!(state(), before);
    });
}

#[test]
fn a_full_range_is_there_for_as_many_as_have_left_it() {
    on_own_host(|| async {
        let node = Node::new();
        let small = BuiltinNetwork { subnets: vec![subnet("10.232.0.0", 28)], ..network() };
        let networks = node.open_builtin(small);
        let namespaces: Vec<Netns> = (0..13).map(|_| Netns::new()).collect();
        let all = |round: &str| {
            let named = |(n, netns): (usize, &Netns)| attachment(&format!("{round}{n}"), &netns.path());
            namespaces.iter().enumerate().map(named).collect::<Vec<Attachment>>()
        };
        let (first, second) = (all("first"), all("second"));
        for attachment in &first {
            networks.add(attachment).await.unwrap();
        }
        let error = networks.add(&attachment("another", &Netns::new().path())).await.unwrap_err();
        assert!(matches!(error, Error::AddressesExhausted { .. }), "{error}");
        for attachment in &first {
            networks.del(attachment).await.unwrap();
        }
        let adding = second.iter().map(|attachment| {
            let (networks, attachment) = (networks.clone(), attachment.clone());
            tokio::spawn(async move { networks.add(&attachment).await })
        });
        for added in adding.collect::<Vec<_>>() {
            added.await.unwrap().unwrap();
        }
    });
}
