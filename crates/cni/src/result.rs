//! What a plugin's ADD comes to: the types of 1.1.0, which we and our callers read.
//!
//! What a plugin printed is kept beside as it was, for `prevResult`. The other published forms are `forms`' affair.

mod cidr;
mod forms;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::cidr::Cidr;

/// The outcome of an ADD (SPEC.md section 5, "ADD Success").
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkResult {
    /// The version of the specification that this form follows.
    pub cni_version: String,
    /// The interfaces made, on the host and in the namespace.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub interfaces: Vec<Interface>,
    /// The addresses given.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub ips: Vec<IpConfig>,
    /// The routes made.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub routes: Vec<Route>,
    /// Name service settings that come with the network.
    #[serde(deserialize_with = "null_is_default")]
    pub dns: Dns,
}

/// An interface made by a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU in bytes; since 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace that it is in; empty on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// A socket file standing for it; since 1.1.0.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// The PCI device behind it; since 1.1.0.
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address given by a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Address and prefix length.
    pub address: Cidr,
    /// The gateway for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gateway: Option<IpAddr>,
    /// The interface that has it, an index into the result's interfaces.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub interface: Option<usize>,
}

/// A route made by a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: Cidr,
    /// The next hop; the address's gateway when `None`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gw: Option<IpAddr>,
    /// Its MTU in bytes; since 1.1.0, as are those below.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mtu: Option<u32>,
    /// The maximal segment size to advertise, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub advmss: Option<u32>,
    /// Its priority; lower wins.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub priority: Option<u32>,
    /// Its table.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub table: Option<u32>,
    /// Its scope (rtnetlink(7), `rtm_scope`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scope: Option<u8>,
}

/// Name service settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers' addresses.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default", alias = "searches")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub options: Vec<String>,
}

impl NetworkResult {
    /// The addresses that belong to an interface inside the namespace, in the plugins' order. Loopback's lead nowhere from
    /// outside, and are left out.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let inside = |ip: &&IpConfig| match ip.interface.and_then(|index| self.interfaces.get(index)) {
            // Plugins that name no interface mean the one that was asked for.
            None => true,
            Some(interface) => !interface.sandbox.is_empty(),
        };
        let addresses = self.ips.iter().filter(inside).map(|ip| ip.address.address);
        addresses.filter(|address| !address.is_loopback()).collect()
    }

    /// The addresses that an interface inside the namespace has, in the plugins' order.
    pub(crate) fn addresses_of(&self, ifname: &str) -> Vec<Cidr> {
        let inside = |index: usize| {
            let interface = self.interfaces.get(index);
            interface.is_some_and(|interface| interface.name == ifname && !interface.sandbox.is_empty())
        };
        // Plugins that name no interface mean the one that was asked for.
        let its = self.ips.iter().filter(|ip| ip.interface.is_none_or(inside));
        its.map(|ip| ip.address).collect()
    }
}

impl Route {
    /// A route without a detail.
    pub(crate) fn to(dst: Cidr) -> Route {
        Route { dst, gw: None, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Go's encoder prints a nil slice as `null`; plugins written in it do.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::version::Version;

    #[test]
    fn addresses_of_host_interfaces_are_not_the_pods() {
        let result = NetworkResult::parse(
            &json!({"cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [{"address": "10.1.0.1/16", "interface": 0}, {"address": "10.1.0.5/16", "interface": 1}]}),
            Version::V1_0_0,
        )
        .unwrap();
        assert_eq!(result.addresses(), ["10.1.0.5".parse::<IpAddr>().unwrap()]);
    }
}
