//! Results of plugins: every published form of them, normalised to the types of 1.1.0.
//!
//! What a plugin printed is kept beside as it was, for `prevResult`; these types are what we and our callers read.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::version::Version;

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

/// An address with the length of its network prefix, `10.1.0.5/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// The prefix length in bits: up to 32 or 128.
    pub prefix: u8,
}

impl Cidr {
    /// Parses `address/prefix`.
    pub(crate) fn parse(text: &str) -> Option<Cidr> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= longest).then_some(Cidr { address, prefix })
    }

    /// The network that the address lies in: the same with all bits beyond the prefix zero.
    pub(crate) fn network(self) -> Cidr {
        let prefix = u32::from(self.prefix);
        let address = match self.address {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
                IpAddr::from((v4.to_bits() & !host).to_be_bytes())
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
                IpAddr::from((v6.to_bits() & !host).to_be_bytes())
            }
        };
        Cidr { address, prefix: self.prefix }
    }

    /// Whether an address lies in the network of this one.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Cidr { address, prefix: self.prefix }.network() == self.network()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Cidr::parse(&text).ok_or_else(|| {
            serde::de::Error::invalid_value(
                serde::de::Unexpected::Str(&text),
                &"an address and prefix length",
            )
        })
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

/// The form of 0.1.0 and 0.2.0.
#[derive(Deserialize)]
struct FirstForm {
    ip4: Option<FirstFormIp>,
    ip6: Option<FirstFormIp>,
    #[serde(default, deserialize_with = "null_is_default")]
    dns: Dns,
}

#[derive(Deserialize)]
struct FirstFormIp {
    ip: Cidr,
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "null_is_default")]
    routes: Vec<Route>,
}

impl NetworkResult {
    /// Reads what a plugin printed. A result without `cniVersion` is taken to be of the configuration's version.
    ///
    /// # Errors
    /// Anything but a result: other JSON, an unknown version, a malformed address, an interface index that names
    /// nothing.
    pub(crate) fn parse(raw: &Value, configured: Version) -> Result<NetworkResult, serde_json::Error> {
        use serde::de::Error;
        let Value::Object(fields) = raw else {
            return Err(serde_json::Error::custom("a result is a JSON object"));
        };
        let version = match fields.get("cniVersion").and_then(Value::as_str).unwrap_or("") {
            "" => configured,
            text => Version::parse(text)
                .ok_or_else(|| serde_json::Error::custom(format!("unknown cniVersion '{text}'")))?,
        };
        let mut result: NetworkResult = if version < Version::V0_3_0 {
            FirstForm::deserialize(raw)?.into()
        } else {
            // 0.3.x and 0.4.0 differ by `ips[].version`, which the address itself tells, and 1.1.0 only adds.
            NetworkResult::deserialize(raw)?
        };
        if result.ips.iter().any(|ip| ip.interface.is_some_and(|index| index >= result.interfaces.len())) {
            return Err(serde_json::Error::custom("an address names an interface that isn't in the result"));
        }
        result.cni_version = Version::V1_1_0.as_str().to_owned();
        Ok(result)
    }

    /// The result in the form of another version, for a plugin that is configured to speak that.
    pub(crate) fn to_version(&self, version: Version) -> Value {
        let mut fields = Map::new();
        fields.insert("cniVersion".into(), version.as_str().into());
        fields.insert("dns".into(), json(&self.dns));
        if version < Version::V0_3_0 {
            self.to_first_form(&mut fields);
        } else {
            let lists = [
                ("interfaces", self.interfaces_for(version)),
                ("ips", self.ips_for(version)),
                ("routes", routes_for(&self.routes, version)),
            ];
            let filled = lists.into_iter().filter(|(_, list)| !list.is_empty());
            fields.extend(filled.map(|(name, list)| (name.to_owned(), Value::Array(list))));
        }
        Value::Object(fields)
    }

    fn interfaces_for(&self, version: Version) -> Vec<Value> {
        let interfaces = self.interfaces.iter().cloned().map(|mut interface| {
            if version < Version::V1_1_0 {
                interface.mtu = None;
                interface.socket_path.clear();
                interface.pci_id.clear();
            }
            json(&interface)
        });
        interfaces.collect()
    }

    fn ips_for(&self, version: Version) -> Vec<Value> {
        let ips = self.ips.iter().map(|ip| {
            let mut value = json(ip);
            if let (true, Value::Object(fields)) = (version < Version::V1_0_0, &mut value) {
                let family = if ip.address.address.is_ipv4() { "4" } else { "6" };
                fields.insert("version".into(), family.into());
            }
            value
        });
        ips.collect()
    }

    /// The first form has room for one address of each family; routes stand below the family's.
    fn to_first_form(&self, fields: &mut Map<String, Value>) {
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.address.is_ipv4() == v4) else { continue };
            let routes: Vec<Route> =
                self.routes.iter().filter(|route| route.dst.address.is_ipv4() == v4).cloned().collect();
            let mut entry = Map::new();
            entry.insert("ip".into(), json(&ip.address));
            if let Some(gateway) = ip.gateway {
                entry.insert("gateway".into(), json(&gateway));
            }
            entry.insert("routes".into(), Value::Array(routes_for(&routes, Version::V0_2_0)));
            fields.insert(key.into(), Value::Object(entry));
        }
    }

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

impl From<FirstForm> for NetworkResult {
    fn from(first: FirstForm) -> Self {
        let mut result = NetworkResult { dns: first.dns, ..NetworkResult::default() };
        for family in [first.ip4, first.ip6].into_iter().flatten() {
            result.ips.push(IpConfig { address: family.ip, gateway: family.gateway, interface: None });
            result.routes.extend(family.routes);
        }
        result
    }
}

fn routes_for(routes: &[Route], version: Version) -> Vec<Value> {
    let routes = routes.iter().cloned().map(|mut route| {
        if version < Version::V1_1_0 {
            route = Route { dst: route.dst, gw: route.gw, ..Route::to(route.dst) };
        }
        json(&route)
    });
    routes.collect()
}

impl Route {
    /// A route without a detail.
    pub(crate) fn to(dst: Cidr) -> Route {
        Route { dst, gw: None, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Our own types have string keys and no failing serialiser: the error case can't be reached.
fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(raw: Value) -> Result<NetworkResult, serde_json::Error> {
        NetworkResult::parse(&raw, Version::V1_0_0)
    }

    #[test]
    fn networks_are_told_from_addresses() {
        let network = |text: &str| Cidr::parse(text).unwrap().network().to_string();
        assert_eq!(network("10.1.2.3/20"), "10.1.0.0/20");
        assert_eq!(network("10.1.2.3/0"), "0.0.0.0/0");
        assert_eq!(network("10.1.2.3/32"), "10.1.2.3/32");
        assert_eq!(network("fd00:1::5/64"), "fd00:1::/64");
        let cidr = Cidr::parse("10.1.2.3/24").unwrap();
        assert!(cidr.contains([10, 1, 2, 200].into()) && !cidr.contains([10, 1, 3, 3].into()));
        assert!(!cidr.contains("::1".parse().unwrap()));
    }

    #[test]
    fn every_published_form_gives_the_same_addresses() {
        let forms = [
            json!({"cniVersion": "0.2.0",
                "ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
                "ip6": {"ip": "fd00::5/64", "gateway": "fd00::1"}, "dns": {}}),
            json!({"cniVersion": "0.3.1", "ips": [
                {"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1"},
                {"version": "6", "address": "fd00::5/64", "gateway": "fd00::1"}],
                "routes": [{"dst": "0.0.0.0/0"}], "dns": {}}),
            json!({"cniVersion": "1.0.0", "ips": [
                {"address": "10.1.0.5/16", "gateway": "10.1.0.1"},
                {"address": "fd00::5/64", "gateway": "fd00::1"}],
                "routes": [{"dst": "0.0.0.0/0"}]}),
            json!({"cniVersion": "1.1.0", "interfaces": null, "ips": [
                {"address": "10.1.0.5/16", "gateway": "10.1.0.1"},
                {"address": "fd00::5/64", "gateway": "fd00::1"}],
                "routes": [{"dst": "0.0.0.0/0"}], "dns": null}),
        ];
        let results: Vec<_> = forms.into_iter().map(|form| parse(form).unwrap()).collect();
        for result in &results {
            assert_eq!(result, &results[0]);
            assert_eq!(
                result.addresses(),
                ["10.1.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]
            );
        }
    }

    #[test]
    fn a_result_survives_being_put_into_every_version() {
        let result = parse(json!({"cniVersion": "1.0.0",
            "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}], "dns": {"nameservers": ["10.0.0.10"]}}))
        .unwrap();
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let raw = result.to_version(Version::parse(version).unwrap());
            assert_eq!(raw["cniVersion"], version);
            assert_eq!(parse(raw).unwrap(), result, "{version}");
        }
    }

    #[test]
    fn details_of_1_1_are_kept_there_and_dropped_before() {
        let result = parse(json!({"cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "mtu": 1400, "sandbox": "/x", "pciID": "0000:00:1f.6"}],
            "ips": [{"address": "10.1.0.5/16", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "mtu": 1400, "table": 100, "scope": 253}]}))
        .unwrap();
        let newest = result.to_version(Version::V1_1_0);
        assert_eq!(newest["interfaces"][0]["mtu"], 1400);
        assert_eq!(newest["routes"][0]["table"], 100);
        let older = result.to_version(Version::V0_4_0);
        assert_eq!(older["interfaces"][0], json!({"name": "eth0", "sandbox": "/x"}));
        assert_eq!(older["routes"][0], json!({"dst": "0.0.0.0/0"}));
        assert_eq!(older["ips"][0]["version"], "4");
    }

    #[test]
    fn addresses_of_host_interfaces_are_not_the_pods() {
        let result = parse(json!({"cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [{"address": "10.1.0.1/16", "interface": 0}, {"address": "10.1.0.5/16", "interface": 1}]}))
        .unwrap();
        assert_eq!(result.addresses(), ["10.1.0.5".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for bad in [
            json!("text"),
            json!([]),
            json!({"cniVersion": "9.0.0"}),
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5"}]}),
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/33"}]}),
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24", "interface": 3}]}),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }
}
