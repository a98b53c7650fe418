//! The built-in network: a chain of our own plugins that a few settings stand for, so that a node needs no configuration.
//!
//! What of it comes and goes with the pods is `ground`'s affair, whose the bridge is `claim`'s.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::attachment::{is_identifier, is_ifname};
use crate::conf::{self, NetworkConf};
use crate::error::Error;
use crate::result::Cidr;

/// Settings of the built-in bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltinNetwork {
    /// The network's name, as it is shown and as its addresses are kept under.
    pub name: String,
    /// The bridge interface's name on the host, at most 15 bytes. Two daemons on a machine need two.
    pub bridge: String,
    /// One IPv4 subnet, one IPv6 subnet, or one of each; a pod gets an address of each, in this order.
    pub subnets: Vec<Subnet>,
    /// The MTU in bytes; that of the host's default route when `None`.
    pub mtu: Option<u32>,
}

/// A subnet of the built-in network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The network's address and prefix length.
    pub network: Cidr,
    /// The bridge's own address; the subnet's first when `None`.
    pub gateway: Option<IpAddr>,
}

impl BuiltinNetwork {
    /// Sees whether these settings can be used.
    ///
    /// # Errors
    /// [`Error::InvalidBuiltin`], naming the field.
    pub fn check(&self) -> Result<(), Error> {
        let invalid = |field, value: &str| Err(Error::InvalidBuiltin { field, value: value.to_owned() });
        if !is_identifier(&self.name) {
            return invalid("name", &self.name);
        }
        if !is_ifname(&self.bridge) || !self.bridge.is_ascii() {
            return invalid("bridge", &self.bridge);
        }
        // 68 is the least that IPv4 works with (RFC 791), 1280 IPv6 (RFC 8200).
        let least =
            if self.subnets.iter().any(|subnet| !subnet.network.address.is_ipv4()) { 1280 } else { 68 };
        if let Some(mtu) = self.mtu.filter(|mtu| !(least..=65535).contains(mtu)) {
            return invalid("mtu", &mtu.to_string());
        }
        let families: HashSet<bool> =
            self.subnets.iter().map(|subnet| subnet.network.address.is_ipv4()).collect();
        if self.subnets.is_empty() || families.len() != self.subnets.len() {
            let shown: Vec<String> = self.subnets.iter().map(|subnet| subnet.network.to_string()).collect();
            return invalid("subnets", &shown.join(", "));
        }
        match self.subnets.iter().find(|subnet| !subnet.is_usable()) {
            None => Ok(()),
            Some(Subnet { network, gateway: None }) => invalid("subnet", &network.to_string()),
            Some(Subnet { network, gateway: Some(gateway) }) => {
                invalid("subnet", &format!("{network} with gateway {gateway}"))
            }
        }
    }

    /// The chain of plugins that it is; addresses are kept below the directory.
    ///
    /// # Errors
    /// [`Error::InvalidConf`], which [`BuiltinNetwork::check`] rules out.
    pub(crate) fn conf(&self, addresses: &Path, mtu: Option<u32>) -> Result<NetworkConf, Error> {
        let range = |subnet: &Subnet| match subnet.gateway {
            Some(gateway) => json!([{"subnet": subnet.network.network(), "gateway": gateway}]),
            None => json!([{"subnet": subnet.network.network()}]),
        };
        let ranges: Vec<Value> = self.subnets.iter().map(range).collect();
        let chain = json!({
            "cniVersion": "1.1.0",
            "name": self.name,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": self.bridge,
                    // A bridge that is made for it is known again, and goes with its last port.
                    "knarr.marked": true,
                    "isDefaultGateway": true,
                    "ipMasq": true,
                    // A pod that reaches itself by its host port or service comes back by the port that it left by.
                    "hairpinMode": true,
                    "mtu": self.mtu.or(mtu),
                    "capabilities": {"ips": true, "mac": true},
                    "ipam": {"type": "host-local", "dataDir": addresses, "ranges": ranges},
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        conf::parse(Path::new("built-in network"), &chain)
    }
}

impl Subnet {
    /// Whether it has addresses left beside its gateway, which has to be one of its own.
    fn is_usable(&self) -> bool {
        let width = if self.network.address.is_ipv4() { 32 } else { 128 };
        let gateway = self.gateway.is_none_or(|gateway| {
            self.network.contains(gateway) && gateway != self.network.network().address
        });
        self.network.prefix <= width - 2 && gateway
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnets: &[&str]) -> BuiltinNetwork {
        let subnet = |text: &&str| Subnet { network: Cidr::parse(text).unwrap(), gateway: None };
        BuiltinNetwork {
            name: "knarr".into(),
            bridge: "knarr0".into(),
            subnets: subnets.iter().map(subnet).collect(),
            mtu: None,
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        network(&["10.88.0.0/16"]).check().unwrap();
        network(&["fd00:88::/64", "10.88.0.0/16"]).check().unwrap();
        let refused = |network: BuiltinNetwork| network.check().unwrap_err().to_string();
        assert!(refused(network(&[])).contains("subnets"));
        assert!(refused(network(&["10.0.0.0/8", "11.0.0.0/8"])).contains("subnets"));
        assert!(refused(network(&["10.0.0.0/31"])).contains("10.0.0.0/31"));
        let long = BuiltinNetwork { bridge: "a-very-long-bridge".into(), ..network(&["10.0.0.0/8"]) };
        assert!(refused(long).contains("bridge"));
        let climbing = BuiltinNetwork { name: "../x".into(), ..network(&["10.0.0.0/8"]) };
        assert!(refused(climbing).contains("name"));
        let narrow = BuiltinNetwork { mtu: Some(576), ..network(&["fd00::/64"]) };
        assert!(refused(narrow).contains("mtu"));
        let foreign = Subnet { gateway: Some([11, 0, 0, 1].into()), ..network(&["10.0.0.0/8"]).subnets[0] };
        let foreign = BuiltinNetwork { subnets: vec![foreign], ..network(&[]) };
        assert!(refused(foreign).contains("11.0.0.1"));
    }

    #[test]
    fn the_settings_stand_for_a_chain_of_plugins() {
        let conf = network(&["10.88.1.2/16"]).conf(Path::new("/x"), Some(1400)).unwrap();
        let kinds: Vec<&str> = conf.plugins.iter().map(|plugin| plugin.kind.as_str()).collect();
        assert_eq!(kinds, ["bridge", "portmap"]);
        assert_eq!(conf.plugins[0].fields["mtu"], 1400);
        assert_eq!(conf.plugins[0].fields["ipam"]["ranges"], json!([[{"subnet": "10.88.0.0/16"}]]));
    }
}
