//! A hundred attachments at once.

use std::collections::HashSet;
use std::net::IpAddr;

use cni::{Attachment, Networks, PortMapping, Protocol};

use crate::engine::Engine;
use crate::support::netns::{Netns, on_own_host};
use crate::support::snapshot::snapshot;
use crate::support::{Node, attachment, shown, until};

const AT_ONCE: u16 = 100;

fn port(host_port: u16) -> Vec<PortMapping> {
    vec![PortMapping { host_port, container_port: 80, protocol: Protocol::Tcp, host_ip: None }]
}

fn a_hundred_at_once(engine: Engine) {
    on_own_host(move || async move {
        let node = Node::new();
        engine.prepare(&node, false);
        let before = snapshot();
        let networks = Networks::open(engine.config(&node, false)).unwrap();
        let pods: Vec<(Netns, Attachment)> = (0..AT_ONCE)
            .map(|number| {
                let netns = Netns::bare();
                let port_mappings = port(9000 + number);
                let attachment =
                    Attachment { port_mappings, ..attachment(&format!("pod{number}"), &netns.path()) };
                (netns, attachment)
            })
            .collect();
        let adding: Vec<_> = pods
            .iter()
            .map(|(_, attachment)| {
                let (networks, attachment) = (networks.clone(), attachment.clone());
                tokio::spawn(async move { networks.add(&attachment).await })
            })
            .collect();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for adding in adding {
            let added = adding.await.unwrap().unwrap_or_else(|error| panic!("{}", shown(&error)));
            addresses.extend(added.ips);
        }
        let different: HashSet<&IpAddr> = addresses.iter().collect();
        // One of each family.
        assert_eq!((addresses.len(), different.len()), (2 * usize::from(AT_ONCE), 2 * usize::from(AT_ONCE)));
        let deleting: Vec<_> = pods
            .iter()
            .map(|(_, attachment)| {
                let (networks, attachment) = (networks.clone(), attachment.clone());
                tokio::spawn(async move { networks.del(&attachment).await })
            })
            .collect();
        for deleting in deleting {
            deleting.await.unwrap().unwrap_or_else(|error| panic!("{}", shown(&error)));
        }
        networks.settle().await.unwrap();
        until("all to be as it was", || engine.left(&node, &before), Vec::is_empty).await;
    });
}

#[test]
fn a_hundred_at_once_on_the_built_in_network() {
    a_hundred_at_once(Engine::BuiltIn);
}

#[test]
fn a_hundred_at_once_by_plugins_served_in_process() {
    a_hundred_at_once(Engine::Native);
}

#[test]
fn a_hundred_at_once_by_debians_plugins() {
    if crate::support::installed() {
        a_hundred_at_once(Engine::Debian);
    }
}
