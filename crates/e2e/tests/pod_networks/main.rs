//! A pod's network as its operator has it: what plugins are told and find about themselves, which networks a pod joins and
//! leaves, what CRI tells of them, and what holds in a pod's namespace by default. Every node has a network namespace of its
//! own for a host, but where the host's is not touched.
//!
//! | file | what |
//! |---|---|
//! | `told` | capabilities, arguments, environment of plugins; the node's pod CIDR |
//! | `joined` | several networks, directories of handlers, statuses, the order of addresses, reconfiguration |
//! | `inside` | kernel parameters, name service |
//! | `ports` | the host port that is none
//! | `reboot` | addresses of the pods that died with the machine |
//!
//! Not here: traffic, which is the seed systems' (`networks`).

mod inside;
mod joined;
mod ports;
mod reboot;
mod told;

use std::sync::Arc;

use e2e::{Netns, Network, Setup};

/// Debian's types of plugins, served in-process.
fn native() -> Setup {
    Setup::new(Network::Plugins).key("native = true")
}

/// A setup on a host of its own, which goes with the test.
fn on_own_host(setup: Setup) -> (Arc<Netns>, Setup) {
    let host = Arc::new(Netns::new());
    let setup = setup.inside(&host);
    (host, setup)
}
