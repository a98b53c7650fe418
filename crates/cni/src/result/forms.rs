//! The published forms of a result, 0.1.0 to 1.1.0: read into the newest one, and put into whichever a plugin speaks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Cidr, Dns, IpConfig, NetworkResult, Route, null_is_default};
use crate::version::Version;

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
