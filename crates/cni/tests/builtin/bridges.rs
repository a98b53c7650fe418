//! Whose a bridge is, and what becomes of pods when somebody meddles with it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cni::{BuiltinNetwork, Error, Networks};

use crate::support::netns::{on_own_host, sh};
use crate::support::{Node, shown};
use crate::{at, network, pod, state, subnet};
#[test]
fn a_link_that_somebody_took_off_the_bridge_is_detached_all_the_same() {
    on_own_host(|| async {
        let node = Node::new();
        let before = state();
        let networks = node.open_builtin(network());
        for broken in
            ["ip link set \"$link\" down", "ip link set \"$link\" nomaster", "ip link delete knarrtest0"]
        {
            let pod = pod(&networks, "pod", Vec::new()).await;
            sh(&format!(
                "link=$(ip -br link show type veth | awk '{{print $1}}' | cut -d@ -f1 | head -1); {broken}"
            ));
            networks.del(&pod.attachment).await.unwrap_or_else(|error| panic!("{broken}: {}", shown(&error)));
            networks.settle().await.unwrap();
            assert_eq!(state(), before, "{broken}");
        }
    });
}

#[test]
fn a_bridge_is_one_daemons() {
    on_own_host(|| async {
        let (node, other) = (Node::new(), Node::new());
        let networks = node.open_builtin(network());
        let config = cni::Config { builtin: Some(network()), ..other.config() };
        assert!(matches!(Networks::open(config.clone()), Err(Error::BridgeTaken { .. })));
        drop(networks);
        Networks::open(config).unwrap();
    });
}

/// Pods outlive their daemon: another one, started meanwhile, would take them for leftovers.
#[test]
fn a_bridge_stays_one_daemons_while_its_pods_are_there_and_it_is_away() {
    on_own_host(|| async {
        let (node, other) = (Node::new(), Node::new());
        let config = cni::Config { builtin: Some(network()), ..other.config() };
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", Vec::new()).await;
        drop(networks);
        let refused = Networks::open(config.clone()).unwrap_err();
        assert!(shown(&refused).contains(node.path("state").to_str().unwrap()), "{}", shown(&refused));
        let networks = node.open_builtin(network());
        first.netns.ask_tcp(at(first.ips[0], 80)).unwrap();
        networks.del(&first.attachment).await.unwrap();
        networks.settle().await.unwrap();
        drop(networks);
        let networks = Networks::open(config).unwrap();
        let second = pod(&networks, "second", Vec::new()).await;
        drop(networks);
        // Nobody comes back to a directory that is gone.
        drop(other);
        node.open_builtin(network());
        drop(second);
    });
}

/// A child of this process that has been made, and is no other program yet, has the same open files.
#[test]
fn a_bridge_that_is_just_being_given_up_is_waited_for() {
    on_own_host(|| async {
        let node = Node::new();
        let networks = node.open_builtin(network());
        let first = pod(&networks, "first", Vec::new()).await;
        drop(networks);
        let namespace = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let path = PathBuf::from(format!("/run/knarr-bridges/knarrtest0@{namespace}"));
        let held = fs::File::open(&path).unwrap();
        held.lock().unwrap();
        let letting_go = std::thread::spawn(move || {
            let is_it = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|open| open == path);
            let opened = || fs::read_dir("/proc/self/fd").unwrap().flatten().map(is_it);
            while opened().filter(|is_it| *is_it).count() < 2 {
                std::thread::yield_now();
            }
            drop(held);
        });
        let networks = node.open_builtin(network());
        letting_go.join().unwrap();
        networks.del(&first.attachment).await.unwrap();
        networks.settle().await.unwrap();
    });
}

/// Who is stopped in the middle of claiming is no reason not to start.
#[test]
fn who_holds_the_turn_to_claim_keeps_nobody_for_long() {
    on_own_host(|| async {
        let node = Node::new();
        drop(node.open_builtin(network()));
        let turn = fs::File::open("/run/knarr-bridges").unwrap();
        turn.lock().unwrap();
        let networks = node.open_builtin(network());
        let refused = Networks::open(cni::Config { builtin: Some(network()), ..Node::new().config() });
        assert!(matches!(refused, Err(Error::BridgeTaken { .. })));
        drop((networks, turn));
    });
}

#[test]
fn a_bridge_that_somebody_else_made_stays() {
    on_own_host(|| async {
        let node = Node::new();
        sh("ip link add knarrtest0 type bridge; ip link set knarrtest0 mtu 1400 alias 'the operator'");
        let networks = node.open_builtin(network());
        // Before there has been any pod, and after the last.
        networks.gc(HashSet::new).await.unwrap();
        let before = sh("ip -d link show knarrtest0");
        assert!(before.contains("mtu 1400"));
        let first = pod(&networks, "first", Vec::new()).await;
        first.netns.ask_tcp(at(first.ips[0], 80)).unwrap();
        networks.del(&first.attachment).await.unwrap();
        networks.settle().await.unwrap();
        networks.gc(HashSet::new).await.unwrap();
        assert!(sh("ip link show knarrtest0").contains("alias the operator"));
        // One that somebody made a port of is in use, whoever made the bridge.
        sh("ip link delete knarrtest0");
        let second = pod(&networks, "second", Vec::new()).await;
        assert!(sh("ip link show knarrtest0").contains("alias knarr"));
        sh("ip link add other type veth peer name peer; ip link set other master knarrtest0");
        networks.del(&second.attachment).await.unwrap();
        networks.settle().await.unwrap();
        sh("ip link show knarrtest0; ip link delete other");
        networks.settle().await.unwrap();
        assert!(!sh("ip -br link").contains("knarrtest0"));
    });
}

#[test]
fn the_bridge_of_an_earlier_configuration_goes_unless_it_is_anothers_now() {
    on_own_host(|| async {
        let (node, other) = (Node::new(), Node::new());
        let before = state();
        let later = BuiltinNetwork {
            bridge: "knarrtest1".into(),
            subnets: vec![subnet("10.232.0.0", 24)],
            ..network()
        };
        for taken in [true, false] {
            let networks = node.open_builtin(network());
            let first = pod(&networks, "first", Vec::new()).await;
            drop(networks);
            let claimed = taken.then(|| {
                // Whose it was gets lost, for one, when /run is another: in a container.
                let namespace = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
                fs::remove_file(format!("/run/knarr-bridges/knarrtest0@{namespace}")).unwrap();
                other.open_builtin(network())
            });
            let networks = node.open_builtin(later.clone());
            networks.del(&first.attachment).await.unwrap();
            networks.settle().await.unwrap();
            assert_eq!(sh("ip -br link").contains("knarrtest0"), taken);
            // Nobody is kept from it any more.
            let claimed = claimed.unwrap_or_else(|| other.open_builtin(network()));
            claimed.settle().await.unwrap();
            assert_eq!(state(), before);
        }
    });
}
