//! Attachments one after another leave the pool, the journal, the host and the process as they were.
//!
//! A few of them; `KNARR_CNI_CYCLES` says how many: 10,000 by hand, some eight minutes for each engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and says how long it took"
)]

#[allow(dead_code, reason = "sequences have more engines")]
#[path = "sequences/engine.rs"]
mod engine;
mod support;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use cni::{Networks, PortMapping, Protocol};

use engine::Engine;
use support::netns::{Netns, on_own_host};
use support::snapshot::{difference, snapshot};
use support::{Node, attachment, shown, until};

/// So many pods take turns.
const NAMESPACES: usize = 16;

fn cycles() -> usize {
    std::env::var("KNARR_CNI_CYCLES").map_or(100, |number| number.parse().expect("a number"))
}

/// What this process has open.
#[derive(Debug, Clone, Copy)]
struct Open {
    sockets: usize,
    others: usize,
    threads: usize,
}

impl Open {
    fn now() -> Open {
        let entries =
            |dir: &str| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        let descriptors = entries("/proc/self/fd");
        let is_socket = |path: &&PathBuf| {
            fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        };
        let sockets = descriptors.iter().filter(is_socket).count();
        Open { sockets, others: descriptors.len() - sockets, threads: entries("/proc/self/task").len() }
    }

    /// Each thread that works keeps its netfilter sockets while it is there: no more than it uses at once.
    fn is_no_more_than(&self, first: &Open) -> bool {
        self.others == first.others && self.sockets <= first.sockets + 2 * self.threads
    }
}

/// By a program whose only test it is: descriptors are counted.
#[test]
fn ten_thousand_leave_everything_as_it_was() {
    for engine in [Engine::BuiltIn, Engine::Native] {
        on_own_host(move || one_after_another(engine));
    }
}

/// The namespaces are the same each time, so that the next would meet what is left in one. They take turns, as an interface
/// leaves its namespace behind the answer.
async fn one_after_another(engine: Engine) {
    let (node, start) = (Node::new(), Instant::now());
    let namespaces: Vec<Netns> = (0..NAMESPACES).map(|_| Netns::bare()).collect();
    engine.prepare(&node, false);
    let inside = || -> Vec<Vec<String>> { namespaces.iter().map(|netns| netns.run(snapshot)).collect() };
    let (before, pods) = (snapshot(), inside());
    let networks = Networks::open(engine.config(&node, false)).unwrap();
    let mut descriptors = None;
    for cycle in 0..cycles() {
        let netns = cycle % NAMESPACES;
        let mut pod = attachment(&format!("pod{netns}"), &namespaces[netns].path());
        pod.port_mappings =
            vec![PortMapping { host_port: 8080, container_port: 80, protocol: Protocol::Tcp, host_ip: None }];
        let added = networks.add(&pod).await;
        added.unwrap_or_else(|error| panic!("{cycle}: {}", shown(&error)));
        networks.del(&pod).await.unwrap_or_else(|error| panic!("{cycle}: {}", shown(&error)));
        if cycle % 500 == 20 {
            networks.settle().await.unwrap();
            let open = Open::now();
            let first = descriptors.get_or_insert(open);
            assert!(open.is_no_more_than(first), "descriptors after {cycle}: {open:?}, {first:?} at first");
        }
    }
    networks.settle().await.unwrap();
    until("all to be as it was", || engine.left(&node, &before), Vec::is_empty).await;
    for (pod, left) in pods.iter().zip(inside()) {
        assert_eq!(difference(pod, &left), Vec::<String>::new());
    }
    println!("{engine:?}: {} attachments in {:?}", cycles(), start.elapsed());
}
