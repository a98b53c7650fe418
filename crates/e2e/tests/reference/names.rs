//! Making what two sides left comparable: names, hardware addresses and paths that are random or a test's own become what
//! they stand for. Not here: reading, comparing.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde_json::{Map, Value};

use crate::scratch::Place;

/// What the kernel counts or measures, says twice, or numbers in the order of its own work.
const VOLATILE: [&str; 22] = [
    "ifindex",
    "link_index",
    "link_netnsid",
    "bridge_id",
    "root_id",
    "designated_port",
    "id",
    "no",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "tentative",
    "used",
    "confirmed",
    "updated",
    "probes",
    "refcnt",
    "multicast_router",
];

/// What has been learned about a case's random names. It grows with every snapshot, as results and files speak of what is
/// gone, too.
#[derive(Default)]
pub(crate) struct Names {
    /// What the case itself says of hardware addresses is no accident.
    said: String,
    /// Text → what it stands for.
    known: BTreeMap<String, String>,
}

impl Names {
    /// `said`: all that the case says; `paths`: its own directories.
    pub(crate) fn new(said: String, paths: &[(String, String)]) -> Names {
        Names { said, known: paths.iter().cloned().collect() }
    }

    /// Learns from the links of all namespaces.
    pub(crate) fn learn(&mut self, snapshots: &BTreeMap<Place, Value>) {
        let host = links(&snapshots[&Place::Host]);
        for (place, snapshot) in snapshots.iter().filter(|(place, _)| matches!(place, Place::Pod(_))) {
            for inside in links(snapshot) {
                let is_peer = |outside: &&&Value| {
                    inside["link_index"].is_u64()
                        && outside["ifindex"] == inside["link_index"]
                        && outside["link_index"] == inside["ifindex"]
                };
                if let Some(outside) = host.iter().find(is_peer) {
                    let meaning = format!("<veth of {} in {}>", text(inside, "ifname"), place.name());
                    self.known.insert(text(outside, "ifname").to_owned(), meaning);
                }
            }
        }
        let all: Vec<(String, &Value)> = snapshots
            .iter()
            .flat_map(|(place, snapshot)| links(snapshot).into_iter().map(|link| (place.name(), link)))
            .collect();
        for (place, link) in &all {
            self.learn_hardware_address(place, link, &all);
        }
        for (place, link) in &all {
            self.learn_link_local(place, link);
        }
    }

    fn learn_hardware_address(&mut self, place: &str, link: &Value, all: &[(String, &Value)]) {
        let address = text(link, "address");
        if address == "00:00:00:00:00:00" || self.said.contains(address) {
            return;
        }
        // A bridge without one of its own takes over the lowest of its ports', whichever that is.
        let bridges = all.iter().filter(|(_, other)| other["linkinfo"]["info_kind"] == "bridge");
        let is_shared = |bridge: &Value| {
            let is_port = |port: &Value| port["master"] == bridge["ifname"];
            let is_taken_over =
                all.iter().any(|(_, port)| is_port(port) && port["address"] == bridge["address"]);
            is_taken_over && (is_port(link) || link["ifname"] == bridge["ifname"])
        };
        let shared = bridges.into_iter().any(|(_, bridge)| is_shared(bridge));
        let name = self.meaning(text(link, "ifname"));
        let meaning =
            if shared { "<mac of a port>".to_owned() } else { format!("<mac of {name} in {place}>") };
        self.known.insert(address.to_owned(), meaning);
    }

    fn learn_link_local(&mut self, place: &str, link: &Value) {
        let name = self.meaning(text(link, "ifname"));
        for address in link["addr_info"].as_array().into_iter().flatten() {
            let local = text(address, "local");
            let made_of = |hardware: &str| made_of(hardware).is_some_and(|made| made == local);
            if !local.starts_with("fe80::") || made_of_any(&self.said, &made_of) {
                continue;
            }
            let own = if made_of(text(link, "address")) { "its mac" } else { "an earlier mac" };
            self.known.entry(local.to_owned()).or_insert(format!("<fe80 of {name} in {place} by {own}>"));
        }
    }

    fn meaning(&self, name: &str) -> String {
        self.known.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }

    /// The same with meanings for names, and without what can't be compared.
    pub(crate) fn plain(&self, value: &Value) -> Value {
        // The longest first: one path may begin with another.
        let mut known: Vec<_> =
            self.known.iter().map(|(name, meaning)| (name.as_str(), meaning.as_str())).collect();
        known.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        plain(&known, value)
    }

    /// A snapshot that can be compared: links by name, the rest in an order of its own.
    pub(crate) fn comparable(&self, snapshot: &Value) -> Value {
        let Value::Object(mut plain) = self.plain(snapshot) else { return Value::Null };
        let links = plain.remove("links").unwrap_or_default();
        let by_name = links.as_array().into_iter().flatten().map(|link| {
            let mut link = link.clone();
            if link["linkinfo"]["info_kind"] == "bridge" && link["operstate"] == "UNKNOWN" {
                // What a bridge says that had its carrier from the beginning.
                link["operstate"] = "UP".into();
            }
            let addresses = link["addr_info"].take();
            let address_of = |address: &Value| format!("{}/{}", text(address, "local"), address["prefixlen"]);
            let addresses = addresses.as_array().into_iter().flatten();
            link["addr_info"] = addresses.map(|address| (address_of(address), address.clone())).collect();
            link["flags"] = link["flags"].to_string().into();
            (text(&link, "ifname").to_owned(), link)
        });
        let by_name: Map<_, _> = by_name.collect();
        for value in plain.values_mut() {
            if let Value::Array(items) = value {
                items.retain(|item| (item["state"].is_null() || is_lasting(item)) && !follows(item));
                *value = Value::Object(items.iter().map(|item| (key_of(item), item.clone())).collect());
            }
        }
        plain.insert("links".into(), Value::Object(by_name));
        Value::Object(plain)
    }
}

fn plain(known: &[(&str, &str)], value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(replace(known, text)),
        Value::Array(items) => Value::Array(items.iter().map(|item| plain(known, item)).collect()),
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, _)| !VOLATILE.contains(&key.as_str()));
            let plain = kept.map(|(key, value)| {
                // Sysctls are many, and speak of nothing by name.
                let value = if key.starts_with("ipv") { value.clone() } else { plain(known, value) };
                (replace(known, key), value)
            });
            Value::Object(plain.collect())
        }
        other => other.clone(),
    }
}

fn replace(known: &[(&str, &str)], text: &str) -> String {
    known.iter().fold(text.to_owned(), |text, (name, meaning)| text.replace(name, meaning))
}

/// What a route, rule, neighbour or VLAN is known by among its like.
fn key_of(item: &Value) -> String {
    const KEYS: [&str; 10] =
        ["dst", "table", "type", "gateway", "dev", "ifname", "lladdr", "priority", "metric", "src"];
    let known = KEYS.iter().filter_map(|key| item.get(key)).map(|value| value.to_string().replace('"', ""));
    known.collect::<Vec<_>>().join(" ")
}

/// Whether a neighbour was entered, rather than heard of.
fn is_lasting(neighbour: &Value) -> bool {
    neighbour["state"].as_array().into_iter().flatten().any(|state| state == "PERMANENT")
}

/// Whether a route is only what an address of IPv6 brings along, some time after it.
fn follows(route: &Value) -> bool {
    route["table"] == "local" && text(route, "dst").contains(':') && route["type"] != "multicast"
        || text(route, "dst").starts_with("<fe80")
}

fn links(snapshot: &Value) -> Vec<&Value> {
    snapshot["links"].as_array().into_iter().flatten().collect()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// The link-local address that the kernel makes of a hardware address (RFC 4291, appendix A).
fn made_of(hardware: &str) -> Option<String> {
    let bytes: Option<Vec<u8>> = hardware.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let [a, b, c, d, e, f] = *bytes?.as_slice() else { return None };
    let groups = [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
    Some(Ipv6Addr::new(0xfe80, 0, 0, 0, groups[0], groups[1], groups[2], groups[3]).to_string())
}

/// Whether any of the hardware addresses in `said` is the one.
fn made_of_any(said: &str, is_it: &impl Fn(&str) -> bool) -> bool {
    said.as_bytes().windows(17).filter_map(|window| std::str::from_utf8(window).ok()).any(is_it)
}
