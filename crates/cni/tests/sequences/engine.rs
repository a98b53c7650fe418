//! Who makes the networks of a sequence, and what is particular to each.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cni::{BuiltinNetwork, Cidr, Config, Subnet};
use serde_json::{Value, json};

use crate::support::snapshot::{difference, snapshot};
use crate::support::{Node, files};

/// Who makes the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// The built-in network.
    BuiltIn,
    /// The plugins that we serve ourselves, from a configuration, and a scripted one between them.
    Native,
    /// Scripted plugins, executed.
    Scripted,
    /// Debian's, executed, and a scripted one between them.
    Debian,
}

impl Engine {
    /// The plugins that can be taken away.
    pub(crate) fn plugins(self) -> &'static [&'static str] {
        match self {
            Engine::BuiltIn => &[],
            Engine::Native => &["rule"],
            Engine::Scripted => &["link", "rule", "table"],
            Engine::Debian => &["bridge", "rule", "portmap"],
        }
    }

    /// How long it takes to attach, usually.
    pub(crate) fn usual(self) -> Duration {
        match self {
            Engine::BuiltIn | Engine::Native => Duration::from_millis(6),
            Engine::Scripted => Duration::from_millis(40),
            Engine::Debian => Duration::from_millis(200),
        }
    }

    /// The daemon's configuration.
    pub(crate) fn config(self, node: &Node, other: bool) -> Config {
        let builtin = (self == Engine::BuiltIn).then(|| builtin(other));
        let native = self == Engine::Native;
        Config { bin_dirs: vec![node.path("bin")], builtin, native, ..node.config() }
    }

    /// The directories as they are on a well node.
    pub(crate) fn prepare(self, node: &Node, other: bool) {
        for dir in ["leases", "orders"] {
            fs::create_dir_all(node.path(dir)).unwrap();
        }
        for plugin in self.plugins() {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/plugins/plugin.sh");
            let _ = std::os::unix::fs::symlink(script, node.path("bin").join(plugin));
        }
        if self == Engine::Debian {
            let _ = std::os::unix::fs::symlink("/usr/lib/cni/host-local", node.path("bin/host-local"));
        }
        if self != Engine::BuiltIn {
            node.conf("10-sequence.conflist", &self.conflist(node, other));
        }
    }

    fn conflist(self, node: &Node, other: bool) -> Value {
        let (name, version) = if other { ("other", "1.0.0") } else { ("sequence", "1.1.0") };
        let rule = json!({"type": "rule"});
        let plugins = match (self, other) {
            (Engine::Scripted, false) => vec![json!({"type": "link"}), rule, json!({"type": "table"})],
            (Engine::Scripted, true) => vec![json!({"type": "link"}), json!({"type": "table"})],
            // All served, which is detached in two halves, or with an executed one among them, which isn't.
            (Engine::Native, false) => vec![self.bridge(node, other), portmap()],
            _ => vec![self.bridge(node, other), rule, portmap()],
        };
        json!({"cniVersion": version, "name": name, "plugins": plugins})
    }

    fn bridge(self, node: &Node, other: bool) -> Value {
        let (four, six) = if other { (237, "fd00:237::/64") } else { (236, "fd00:236::/64") };
        json!({
            "type": "bridge", "bridge": format!("cniseq{four}"), "isGateway": true, "hairpinMode": true,
            // Rules of Debian's 1.1.1 stay when the pod's namespace is gone before it is asked to delete them.
            "ipMasq": self == Engine::Native,
            "ipam": {"type": "host-local", "dataDir": node.path("leases"),
                     "ranges": [[{"subnet": format!("10.{four}.0.0/24")}], [{"subnet": six}]],
                     "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]},
        })
    }

    /// Takes away what the pods are connected by.
    pub(crate) fn delete_bridge(self) -> &'static str {
        match self {
            Engine::BuiltIn => "ip link delete knarrseq0; ip link delete knarrseq1",
            Engine::Scripted => "ip link delete vpod1; ip link delete vpod2",
            Engine::Native | Engine::Debian => "ip link delete cniseq236; ip link delete cniseq237",
        }
    }

    /// What pods have left of links, addresses, routes and rules since then, and of files.
    pub(crate) fn left(self, node: &Node, before: &[String]) -> Vec<String> {
        let changed = difference(before, &snapshot());
        let mut left: Vec<String> = changed.into_iter().filter(|line| self.is_pods(line)).collect();
        let found = files(&node.path("state")).into_iter().chain(files(&node.path("leases")));
        left.extend(found.map(|path| format!("file: {}", path.display())));
        left
    }

    /// Whether a line of the host's state has to go with its pod. Configured bridges stay for the next, and Debian's plugins
    /// leave chains as well.
    fn is_pods(self, line: &str) -> bool {
        let has = |words: &[&str]| words.iter().any(|word| line.contains(word));
        let is_bridges = has(&["cniseq236", "cniseq237"]) && !has(&["master"]);
        match self {
            Engine::BuiltIn | Engine::Scripted => true,
            Engine::Native => !is_bridges,
            Engine::Debian => {
                has(&["CNI-DN-", "veth", "dnat", "10.236.0.", "10.237.0.", "pod"])
                    && !has(&["0.0/24"])
                    && !is_bridges
            }
        }
    }
}

fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}})
}

fn builtin(other: bool) -> BuiltinNetwork {
    let subnet = |address: String, prefix| Subnet {
        network: Cidr { address: address.parse().unwrap(), prefix },
        gateway: None,
    };
    let number = if other { 239 } else { 238 };
    BuiltinNetwork {
        name: if other { "other".into() } else { "sequence".into() },
        bridge: if other { "knarrseq1".into() } else { "knarrseq0".into() },
        subnets: vec![subnet(format!("10.{number}.0.0"), 24), subnet(format!("fd00:{number}::"), 64)],
        mtu: None,
    }
}
