//! The plugin `bridge` as an executable is called, on a "host" of each test's own: what isn't everyday.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::netns::{Netns, on_own_host, sh};
use tempfile::TempDir;

/// A host with one pod's namespace.
struct Host {
    leases: TempDir,
    pod: Netns,
}

impl Host {
    fn new() -> Host {
        Host { leases: tempfile::tempdir().unwrap(), pod: Netns::new() }
    }

    /// A configuration with these fields, and addresses unless `ipam` is among them.
    fn conf(&self, more: Value) -> Value {
        let ipam = json!({"type": "host-local", "dataDir": self.leases.path(), "subnet": "10.236.0.0/24"});
        let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "bridge": "br9", "ipam": ipam});
        conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        conf
    }

    /// Calls the plugin: what it printed, or its error object.
    fn call(
        &self,
        verb: &str,
        container: &str,
        netns: Option<PathBuf>,
        conf: &Value,
    ) -> Result<Value, Value> {
        let plugin = conf["type"].as_str().unwrap_or("bridge");
        let get = |name: &str| match name {
            "CNI_COMMAND" => Some(verb.to_owned()),
            "CNI_CONTAINERID" => Some(container.to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_NETNS" => netns.as_ref().map(|path| path.display().to_string()),
            "CNI_PATH" => Some("/nonexistent".to_owned()),
            _ => None,
        };
        let (mut printed, input) = (Vec::new(), conf.to_string());
        let code = cni::executable::run(plugin, &get, &mut input.as_bytes(), &mut printed);
        let answer = serde_json::from_slice(&printed).unwrap_or_default();
        if code == std::process::ExitCode::SUCCESS { Ok(answer) } else { Err(answer) }
    }

    fn add(&self, conf: &Value) -> Value {
        let added = self.call("ADD", "pod", Some(self.pod.path()), conf);
        added.unwrap_or_else(|error| panic!("{error}"))
    }

    fn del(&self, conf: &Value) {
        self.call("DEL", "pod", Some(self.pod.path()), conf).unwrap_or_else(|error| panic!("{error}"));
    }

    fn inside(&self, command: &str) -> String {
        self.pod.run(|| sh(command))
    }

    fn leases(&self) -> usize {
        let entries = std::fs::read_dir(self.leases.path().join("net")).into_iter().flatten();
        entries
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("10."))
            .count()
    }
}

fn with_previous(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

fn host_name(result: &Value) -> String {
    result["interfaces"][1]["name"].as_str().unwrap().to_owned()
}

#[test]
fn a_segment_without_addresses() {
    on_own_host(|| async {
        let host = Host::new();
        let conf = host.conf(json!({"ipam": {}}));
        let result = host.add(&conf);
        assert!(result.get("ips").is_none() && result["interfaces"].as_array().unwrap().len() == 3);
        assert!(host.inside("ip -br link show eth0").contains("UP"));
        host.call("CHECK", "pod", Some(host.pod.path()), &with_previous(&conf, &result)).unwrap();
        host.del(&conf);
        // An interface that others, a virtual machine's for one, will set up.
        let conf = host.conf(json!({"ipam": {}, "disableContainerInterface": true}));
        host.add(&conf);
        assert!(host.inside("ip -br link show eth0").contains("DOWN"));
        host.del(&conf);
    });
}

#[test]
fn long_names_fit_beside_a_link() {
    on_own_host(|| async {
        let host = Host::new();
        let (network, containers) = ("n".repeat(200), ["a", "b"].map(|last| "c".repeat(199) + last));
        let conf = host.conf(json!({"name": network}));
        let others = Netns::new();
        for (container, netns) in containers.iter().zip([&host.pod, &others]) {
            host.call("ADD", container, Some(netns.path()), &conf).unwrap_or_else(|error| panic!("{error}"));
        }
        let links = || sh("ip -o link show type veth").lines().count();
        let gc = |valid: &[String]| {
            let mut conf = conf.clone();
            let listed = valid.iter().map(|container| json!({"containerID": container, "ifname": "eth0"}));
            conf["cni.dev/valid-attachments"] = listed.collect();
            host.call("GC", "", None, &conf).unwrap_or_else(|error| panic!("{error}"));
        };
        assert_eq!(links(), 2);
        gc(&containers);
        assert_eq!(links(), 2, "both are valid");
        gc(&containers[1..]);
        assert_eq!(links(), 1);
        assert!(others.run(|| sh("ip -o link show eth0")).contains("eth0"), "the valid one stays");
        // Found by its name alone.
        host.call("DEL", &containers[1], None, &conf).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(links(), 0);
    });
}

#[test]
fn what_the_host_was_told_of_an_address_is_not_forgotten() {
    on_own_host(|| async {
        let host = Host::new();
        let ranges = json!([[{"subnet": "10.236.0.0/24"}], [{"subnet": "fd00:236::/64"}]]);
        let ipam = json!({"type": "host-local", "dataDir": host.leases.path(), "ranges": ranges});
        let conf = host.conf(json!({"isGateway": true, "ipam": ipam}));
        host.add(&conf);
        host.del(&conf);
        let told = [("10.236.0.3", "permanent"), ("fd00:236::3", "permanent")];
        let known = [("10.236.0.4", "stale"), ("fd00:236::4", "stale")];
        for (address, state) in told.into_iter().chain(known) {
            sh(&format!("ip neighbour replace {address} lladdr 02:00:00:00:00:99 dev br9 nud {state}"));
        }
        let held = |address: &str| !sh(&format!("ip neighbour show to {address} dev br9")).is_empty();
        host.add(&conf);
        assert!(told.iter().all(|(address, _)| held(address)), "{}", sh("ip neighbour"));
        host.del(&conf);
        host.add(&conf);
        assert!(!known.iter().any(|(address, _)| held(address)), "{}", sh("ip neighbour"));
        host.del(&conf);
    });
}

/// Whether the kernel's bridges can tell VLANs apart; says so when they can't.
fn has_vlans() -> bool {
    let can = sh("ip link add try0 type bridge vlan_filtering 1 && ip link delete try0 && echo yes || true");
    if can.is_empty() {
        println!("skipped: the kernel has no CONFIG_BRIDGE_VLAN_FILTERING");
    }
    !can.is_empty()
}

#[test]
fn ports_in_vlans() {
    on_own_host(|| async {
        if !has_vlans() {
            return;
        }
        let host = Host::new();
        let conf =
            host.conf(json!({"isGateway": true, "vlan": 100, "vlanTrunk": [{"minID": 200, "maxID": 202}]}));
        let result = host.add(&conf);
        let vlans = sh(&format!("bridge -j vlan show dev {}", host_name(&result)));
        let vlans: Value = serde_json::from_str(&vlans).unwrap();
        let ids: Vec<u64> =
            vlans[0]["vlans"].as_array().unwrap().iter().map(|vlan| vlan["vlan"].as_u64().unwrap()).collect();
        assert_eq!(ids, [100, 200, 201, 202]);
        assert!(vlans[0]["vlans"][0]["flags"].to_string().contains("PVID"), "{vlans}");
        // The gateway is in that VLAN, and the pod reaches it.
        assert_eq!(result["interfaces"][3]["name"], "br9.100");
        assert!(sh("ip -br address show br9.100").contains("10.236.0.1/24"));
        assert!(sh("ip -d link show br9").contains("vlan_filtering 1"));
        host.inside("busybox ping -c 1 -W 5 10.236.0.1");
        host.del(&conf);
        assert!(sh("ip -br link").contains("br9.100"), "it stays for the others");
        let kept = host.conf(json!({"vlan": 100, "preserveDefaultVlan": true}));
        let result = host.add(&kept);
        assert!(sh(&format!("bridge vlan show dev {}", host_name(&result))).contains(" 1 "));
        host.del(&kept);
    });
}

#[test]
fn an_interface_in_a_vlan_that_was_half_made_is_finished() {
    on_own_host(|| async {
        if !has_vlans() {
            return;
        }
        let host = Host::new();
        let conf = host.conf(json!({"isGateway": true, "vlan": 100}));
        host.add(&conf);
        host.del(&conf);
        // As a plugin leaves it that is killed behind its first step.
        let pair: Value = serde_json::from_str(&sh("ip -j link show br9.100")).unwrap();
        let port = pair[0]["link"].as_str().unwrap();
        sh(&format!("bridge vlan del dev {port} vid 100; ip link set {port} down; ip link set br9.100 down"));
        host.add(&conf);
        host.inside("busybox ping -c 1 -W 5 10.236.0.1");
        host.del(&conf);
    });
}

#[test]
fn ports_that_do_not_see_each_other_and_bridges_that_see_everything() {
    on_own_host(|| async {
        let host = Host::new();
        let conf = host.conf(json!({"portIsolation": true, "promiscMode": true}));
        let result = host.add(&conf);
        assert!(sh(&format!("bridge -d link show dev {}", host_name(&result))).contains("isolated on"));
        assert!(sh("ip link show br9").contains("PROMISC"));
        host.call("CHECK", "pod", Some(host.pod.path()), &with_previous(&conf, &result)).unwrap();
        sh("ip link set br9 promisc off");
        let error =
            host.call("CHECK", "pod", Some(host.pod.path()), &with_previous(&conf, &result)).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains("promiscMode"), "{error}");
    });
}

/// The kernel has a bridge take the lowest hardware address of its ports: what pods have learnt of their gateway would be wrong.
#[test]
fn a_bridge_that_is_there_keeps_its_own_hardware_address() {
    on_own_host(|| async {
        let host = Host::new();
        let mac = || sh("ip -br link show br9").split_whitespace().nth(2).unwrap().to_owned();
        // Drawn at random by the kernel, and by us for ports: one that nearly every port's is below.
        sh("ip link add br9 up type bridge");
        while !mac().starts_with('f') {
            sh("ip link delete br9; ip link add br9 up type bridge");
        }
        let own = mac();
        let result = host.add(&host.conf(json!({"isGateway": true})));
        assert_eq!((mac(), result["interfaces"][0]["mac"].as_str()), (own.clone(), Some(own.as_str())));
    });
}

#[test]
fn an_address_that_the_bridge_has_already_gives_way_when_told() {
    on_own_host(|| async {
        let host = Host::new();
        sh(
            "ip link add br9 type bridge; ip address add 10.99.0.1/24 dev br9; sysctl -qw net.ipv6.conf.br9.accept_ra=1",
        );
        let error = host.call("ADD", "pod", Some(host.pod.path()), &host.conf(json!({"isGateway": true})));
        let error = error.unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains("10.99.0.1/24"), "{error}");
        assert!(host.leases() == 0 && !sh("ip -br link").contains("veth"), "a failure leaves nothing");
        assert!(!host.inside("ip -br link").contains("eth0"));
        host.add(&host.conf(json!({"isGateway": true, "forceAddress": true})));
        let addresses = sh("ip -br address show br9");
        assert!(addresses.contains("10.236.0.1/24") && !addresses.contains("10.99.0.1"), "{addresses}");
        // Whoever made the bridge: no pod on it tells the host its way out.
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/br9/accept_ra").trim(), "0");
    });
}

#[test]
fn an_address_that_somebody_else_has_is_found_out() {
    on_own_host(|| async {
        let host = Host::new();
        let v6 = json!({"type": "host-local", "dataDir": host.leases.path(), "subnet": "fd00:236::/64"});
        let conf = host.conf(json!({"isGateway": true, "enabledad": true, "ipam": v6}));
        let result = host.add(&conf);
        let address = result["ips"][0]["address"].as_str().unwrap().to_owned();
        assert!(!host.inside("ip address show eth0").contains("tentative"));
        host.del(&conf);
        // Somebody on the segment who took the next one.
        assert_eq!(address, "fd00:236::2/64");
        let squatter = Netns::new();
        sh(&format!("ip link add sq0 type veth peer name eth0 netns {}", squatter.path().display()));
        sh("ip link set sq0 master br9 up");
        squatter.run(|| {
            sh("ip link set eth0 up; ip -6 address add fd00:236::3/64 dev eth0 nodad");
        });
        let error = host.call("ADD", "pod", Some(host.pod.path()), &conf).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains("fd00:236::3"), "{error}");
        assert!(!sh("ip -br link").contains("veth") && !host.inside("ip -br link").contains("eth0"));
    });
}

#[test]
fn a_link_is_found_by_whatever_is_known_of_it() {
    on_own_host(|| async {
        let host = Host::new();
        let conf = host.conf(json!({"isGateway": true}));
        let gone = |how: &str| {
            assert!(
                !sh("ip -br link").contains("veth") && host.leases() == 0,
                "{how}: {}",
                sh("ip -br link")
            );
        };
        let renamed = |result: &Value| sh(&format!("ip link set {} name vethabad1dea", host_name(result)));
        host.add(&conf);
        host.call("DEL", "pod", None, &conf).unwrap();
        gone("by its name, without a namespace");
        renamed(&host.add(&conf));
        host.del(&conf);
        gone("inside the namespace");
        let mut result = host.add(&conf);
        renamed(&result);
        result["interfaces"][1]["name"] = "vethabad1dea".into();
        host.call("DEL", "pod", None, &with_previous(&conf, &result)).unwrap();
        gone("by the result");
        // A name alone isn't enough: it may be another's by now.
        result["interfaces"][1]["mac"] = "02:00:00:00:00:99".into();
        renamed(&host.add(&conf));
        host.call("DEL", "pod", None, &with_previous(&conf, &result)).unwrap();
        assert!(sh("ip -br link").contains("vethabad1dea"));
        host.del(&conf);
    });
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    on_own_host(|| async {
        let host = Host::new();
        let conf = host.conf(json!({}));
        sh("ip link add eth0 type bridge");
        for verb in ["ADD", "DEL"] {
            let error = host.call(verb, "pod", Some(Netns::current().path()), &conf).unwrap_err();
            assert_eq!(error["code"], 8, "{error}");
        }
        assert!(sh("ip -br link").contains("eth0"), "what the host needs is still there");
        assert_eq!(host.leases(), 0);
    });
}

#[test]
fn what_is_collected_is_the_networks_own() {
    on_own_host(|| async {
        let (host, other) = (Host::new(), Host::new());
        let conf = host.conf(json!({"isGateway": true, "ipMasq": true}));
        host.add(&conf);
        let kept = Netns::new();
        host.call("ADD", "kept", Some(kept.path()), &conf).unwrap();
        let mut foreign = other.conf(json!({}));
        foreign["name"] = "other".into();
        other.add(&foreign);
        let mut gc = conf.clone();
        gc["cni.dev/valid-attachments"] = json!([{"containerID": "kept", "ifname": "eth0"}]);
        host.call("GC", "", None, &gc).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((host.leases(), sh("ip -br link").matches("veth").count()), (1, 2));
        let ruleset = sh("nft list ruleset");
        assert!(ruleset.contains("net/kept/eth0") && !ruleset.contains("net/pod/eth0"), "{ruleset}");
        assert!(!host.inside("ip -br link").contains("eth0"));
        host.call("STATUS", "", None, &conf).unwrap();
        // The tables go with the last that has something in them.
        host.call("DEL", "kept", Some(kept.path()), &conf).unwrap();
        assert_eq!(sh("nft list ruleset"), "");
    });
}

#[test]
fn what_the_host_knew_of_an_address_is_forgotten_for_who_has_it_now() {
    on_own_host(|| async {
        let host = Host::new();
        let conf = host.conf(json!({"isGateway": true}));
        host.add(&conf);
        host.del(&conf);
        // As somebody with a hardware address of their own left it.
        sh("ip neighbour replace 10.236.0.3 lladdr 02:00:00:00:00:99 dev br9 nud stale");
        let result = host.add(&conf);
        assert_eq!(result["ips"][0]["address"], "10.236.0.3/24");
        assert!(!sh("ip neighbour").contains("02:00:00:00:00:99"), "{}", sh("ip neighbour"));
    });
}

#[test]
fn what_is_not_served_is_refused_but_taken_away() {
    on_own_host(|| async {
        let host = Host::new();
        let before = sh("ip -br link; nft list ruleset");
        let made = host.add(&host.conf(json!({"ipMasq": true})));
        for (plugin, field) in [
            ("portmap", json!({"conditionsV4": ["-s", "192.0.2.0/24"]})),
            ("portmap", json!({"externalSetMarkChain": "MARK"})),
            ("portmap", json!({"backend": "iptables"})),
            ("bridge", json!({"macspoofchk": true})),
            ("bridge", json!({"ipMasq": true, "ipMasqBackend": "iptables"})),
        ] {
            let mut conf = with_previous(&host.conf(field.clone()), &made);
            conf["type"] = plugin.into();
            conf["cni.dev/valid-attachments"] = json!([]);
            let netns = || Some(host.pod.path());
            for verb in ["ADD", "CHECK", "STATUS"] {
                assert_eq!(
                    host.call(verb, "other", netns(), &conf).unwrap_err()["code"],
                    2,
                    "{verb} {field}"
                );
            }
            for (verb, container) in [("GC", ""), ("DEL", "pod"), ("DEL", "never")] {
                let answer = host.call(verb, container, netns(), &conf);
                answer.unwrap_or_else(|error| panic!("{verb} {field}: {error}"));
            }
        }
        sh("ip link delete br9");
        assert_eq!(sh("ip -br link; nft list ruleset"), before);
        assert_eq!(host.leases(), 0);
    });
}
