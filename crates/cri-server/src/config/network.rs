//! `[network]`: which networks pods join, what the network may cost, what a pod's network is by default, and the built-in
//! bridge.
//!
//! Not here: the directories of handlers, which are keys of theirs, and what the values do (see `cni`, and `sandbox` for
//! kernel parameters).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fault::must;
use super::{Fault, Faults};

/// `[network]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NetworkConfig {
    /// How long a single CNI plugin may take, in seconds.
    pub(crate) plugin_deadline: u64,
    /// The network of `cni_conf_dir` that goes first, by the name in its file; empty for the first file by name.
    pub(crate) default: String,
    /// How many networks a pod joins, as far as there are so many: the first as `eth0`, the next as `eth1`.
    pub(crate) networks: usize,
    /// Which of a pod's addresses is the one that is told first.
    pub(crate) ip_preference: IpPreference,
    /// Whether everybody in a pod may listen on the ports below 1024.
    pub(crate) unprivileged_ports: bool,
    /// Whether everybody in a pod may send echo requests (ping) without a capability.
    pub(crate) unprivileged_icmp: bool,
    /// Whether `bridge`, `host-local` and `portmap` in CNI configuration files are served in-process rather than executed.
    pub(crate) native: bool,
    /// Whether to use the built-in bridge instead of CNI configuration files. Off unless asked for.
    pub(crate) builtin: bool,
    /// The bridge's name: at most 15 bytes (IFNAMSIZ less its end).
    pub(crate) bridge: String,
    /// One subnet per address family, `address/prefix`; the first is the preferred family.
    pub(crate) subnets: Vec<String>,
    /// How many network namespaces are made before pods need them, 0 to 64; none before the first pod.
    pub(crate) prepared_namespaces: usize,
    /// Whether the node's pod CIDRs, which kubelet tells, are handed to plugins that declare the capability `ipRanges`. The
    /// network isn't ready before kubelet has told them once.
    pub(crate) pod_cidr: bool,
    /// Annotations of pods that plugins are told of, as far as they declare the capability.
    pub(crate) annotations: AnnotationsConfig,
}

/// `[network.annotations]`: the annotations, by their exact names, that ask the first network of a pod for something; empty for
/// none. Who may make pods may then have any address that the plugins take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AnnotationsConfig {
    /// Addresses with commas in between, with or without a prefix length: capability `ips`.
    pub(crate) ips: String,
    /// A hardware address: capability `mac`.
    pub(crate) mac: String,
    /// A GUID of eight bytes: capability `infinibandGUID`.
    pub(crate) infiniband_guid: String,
    /// Ranges of addresses as that capability has them, in JSON: capability `ipRanges`; before the pod CIDRs.
    pub(crate) ip_ranges: String,
}

/// `ip_preference`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IpPreference {
    /// As the network has them.
    Cni,
    /// Those of IPv4 before those of IPv6.
    Ipv4,
    /// Those of IPv6 before those of IPv4.
    Ipv6,
}

/// Below the time that attaching a pod may take as a whole, so that the plugin that hangs can be named.
const PLUGIN_DEADLINES: std::ops::RangeInclusive<u64> = 1..=100;

/// More network namespaces than start at once on any node.
const MOST_PREPARED: usize = 64;

/// More interfaces than anybody gives a pod; each costs an ADD and a DEL.
const NETWORKS: std::ops::RangeInclusive<usize> = 1..=16;

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            plugin_deadline: cni::Config::PLUGIN_DEADLINE.as_secs(),
            default: String::new(),
            networks: 1,
            ip_preference: IpPreference::Cni,
            unprivileged_ports: true,
            unprivileged_icmp: true,
            native: false,
            builtin: false,
            bridge: "knarr0".into(),
            subnets: vec!["10.88.0.0/16".into()],
            prepared_namespaces: 2,
            pod_cidr: false,
            annotations: AnnotationsConfig::default(),
        }
    }
}

impl IpPreference {
    /// Addresses in the order in which they are told; the order within a family is the network's.
    pub(crate) fn sort(self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        match self {
            Self::Cni => {}
            Self::Ipv4 => addresses.sort_by_key(IpAddr::is_ipv6),
            Self::Ipv6 => addresses.sort_by_key(IpAddr::is_ipv4),
        }
        addresses
    }
}

impl NetworkConfig {
    /// Which networks pods join, for `cni`.
    pub(crate) fn selection(&self, handlers: BTreeMap<String, PathBuf>) -> cni::Selection {
        let default = Some(self.default.clone()).filter(|name| !name.is_empty());
        cni::Selection { default, count: self.networks, handlers }
    }

    /// The network for `cni`, when it is on.
    pub(crate) fn enabled(&self) -> Result<Option<cni::BuiltinNetwork>, Fault> {
        if !self.builtin {
            return Ok(None);
        }
        let subnets = self.subnets.iter().map(|subnet| parse_subnet(subnet)).collect::<Result<_, _>>()?;
        Ok(Some(cni::BuiltinNetwork {
            name: self.bridge.clone(),
            bridge: self.bridge.clone(),
            subnets,
            mtu: None,
        }))
    }

    pub(super) fn check(&self) -> Result<(), Faults> {
        let Self { plugin_deadline: deadline, networks, prepared_namespaces: prepared, .. } = *self;
        let bounds = [
            must(PLUGIN_DEADLINES.contains(&deadline), || {
                Fault::value("network.plugin_deadline", "must be 1 to 100 seconds", deadline)
            }),
            must(NETWORKS.contains(&networks), || {
                Fault::value("network.networks", "must be 1 to 16", networks)
            }),
            must(prepared <= MOST_PREPARED, || {
                Fault::value("network.prepared_namespaces", "must be 0 to 64", prepared)
            }),
        ];
        let subnets = self.subnets.iter().map(|subnet| parse_subnet(subnet).map(drop).map_err(Faults::from));
        Faults::all(bounds.into_iter().chain(self.check_bridge()).chain(subnets))
    }

    /// What the built-in bridge must have, and must not be combined with.
    fn check_bridge(&self) -> [Result<(), Faults>; 4] {
        let instead = "is for networks of cni_conf_dir, which network.builtin takes the place of";
        let name = self.bridge.as_str();
        let is_name =
            (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        [
            must(!self.builtin || self.default.is_empty(), || {
                Fault::value("network.default", instead, &self.default)
            }),
            must(!self.builtin || !self.pod_cidr, || Fault::value("network.pod_cidr", instead, "true")),
            must(is_name, || {
                Fault::value("network.bridge", "must be an interface name of 1 to 15 bytes", name)
            }),
            must(!self.builtin || !self.subnets.is_empty(), || {
                Fault::value("network.subnets", "must name at least one subnet", "[]")
            }),
        ]
    }
}

fn parse_subnet(subnet: &str) -> Result<cni::Subnet, Fault> {
    let parsed = subnet.split_once('/').and_then(|(address, prefix)| {
        let address = address.parse::<IpAddr>().ok()?;
        let widest = if address.is_ipv4() { 30 } else { 126 };
        let prefix = prefix.parse::<u8>().ok().filter(|bits| *bits <= widest)?;
        Some(cni::Subnet { network: cni::Cidr { address, prefix }, gateway: None })
    });
    let why = "must be address/prefix with room for pods";
    parsed.ok_or_else(|| Fault::value("network.subnets", why, subnet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_be_honoured_are_refused_with_their_key() {
        type Break = fn(&mut NetworkConfig);
        let broken: [(&str, Break); 8] = [
            ("network.plugin_deadline", |c| c.plugin_deadline = 0),
            ("network.networks", |c| c.networks = 0),
            ("network.networks", |c| c.networks = 17),
            ("network.prepared_namespaces", |c| c.prepared_namespaces = 65),
            ("network.default", |c| (c.builtin, c.default) = (true, "pods".into())),
            ("network.pod_cidr", |c| (c.builtin, c.pod_cidr) = (true, true)),
            ("network.bridge", |c| c.bridge = "much-too-long-for-a-name".into()),
            ("network.subnets", |c| c.subnets = vec!["10.0.0.0/31".into()]),
        ];
        for (key, change) in broken {
            let mut config = NetworkConfig::default();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn addresses_are_told_in_the_order_that_is_preferred() {
        let addresses =
            ["fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap());
        let sorted = |preference: IpPreference| {
            let sorted = preference.sort(addresses.into()).into_iter().map(|address| address.to_string());
            sorted.collect::<Vec<_>>()
        };
        assert_eq!(sorted(IpPreference::Cni), ["fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2"]);
        assert_eq!(sorted(IpPreference::Ipv4), ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]);
        assert_eq!(sorted(IpPreference::Ipv6), ["fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn an_empty_default_is_none() {
        let mut config = NetworkConfig { networks: 3, ..NetworkConfig::default() };
        assert_eq!(config.selection(BTreeMap::new()).default, None);
        config.default = "pods".into();
        let selection = config.selection(BTreeMap::new());
        assert_eq!((selection.default.as_deref(), selection.count), (Some("pods"), 3));
    }
}
