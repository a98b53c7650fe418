//! Seed systems: kinds of networks that people build, each by CNI configuration alone and with real pods of the built
//! daemon. Every node has a network namespace of its own for a host, so that the real one stays untouched.
//!
//! | file | what |
//! |---|---|
//! | `modes` | bridge, host, none, shared |
//! | `ports` | published ports, from everywhere |
//! | `side_by_side` | several networks, several ranges, both families |
//! | `two` | a pod on two networks |
//! | `chains` | chains with other plugins: firewall, tuning, bandwidth, static, ptp |
//! | `segment` | macvlan on a physical segment, an interface of the host's lent to a pod |
//! | `overlay` | vxlan between two nodes |
//!
//! Not here: what a single plugin does, which is held against the reference plugins in `cni`'s tests and in `reference`.

/// Leaves the test, as skipped, when the node is a peer's.
macro_rules! needs_own_node {
    () => {
        if let Err(reason) = e2e::needs::own_node() {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// Tests, each of which takes the kind of plugins that serve it: as programs of Debian's, or in-process.
macro_rules! by_every_kind_of_plugins {
    ($($test:ident),+ $(,)?) => {
        mod by_plugins {
            $(#[tokio::test] async fn $test() { needs_own_node!(); super::$test(e2e::Network::Plugins).await; })+
        }
        mod native {
            $(#[tokio::test] async fn $test() { needs_own_node!(); super::$test(e2e::Network::Native).await; })+
        }
    };
}

mod chains;
mod modes;
mod overlay;
mod ports;
mod rig;
mod segment;
mod side_by_side;
mod traffic;
mod two;
