//! What the tables consist of beside their entries: maps, chains, rules.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::attachment::Protocol;
use crate::builtin::link::octets;
use crate::builtin::nft::{Batch, Datatype, Family, Hook, MapType, Part, REGISTER, Rule, Side, Table};
use crate::result::Cidr;

pub(super) const NAME: &str = "knarr";
const HOST_PORTS: &str = "host-ports";
/// Stands beside the first rule; another version makes all rules anew.
const LAYOUT: &str = "layout 2";

/// Hooks and priorities (linux/netfilter_ipv4.h).
const GUARD: Hook = Hook { kind: "filter", number: 0, priority: -300 };
const PREROUTING: Hook = Hook { kind: "nat", number: 0, priority: -100 };
const OUTPUT: Hook = Hook { kind: "nat", number: 3, priority: -100 };
const POSTROUTING: Hook = Hook { kind: "nat", number: 4, priority: 100 };

/// A map of our tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::builtin) enum Map {
    /// Protocol and host port to address and port of a pod.
    Ports,
    /// The same with an address of the host before.
    PortsOfAddress,
    /// Protocol, address and port of a pod, and host port to the chain that tells whose source address can't stay.
    Hairpin,
    /// A pod's address to the chain of its subnet, where what leaves the subnet gets an address of the host.
    Masquerade,
    /// The addresses that entries of the maps before lead to.
    Pods,
    /// The interfaces that `localnet` lets the host's loopback network be routed by, as long as the table is there.
    Localnet,
}

pub(super) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
/// The maps whose entries are attachments'; those that mostly have some first.
pub(super) const OWNED: [Map; 5] =
    [Map::Masquerade, Map::Pods, Map::Ports, Map::PortsOfAddress, Map::Hairpin];

/// The maps of a family's table.
pub(super) fn maps(family: Family) -> impl Iterator<Item = (Family, Map)> {
    let localnet = (family == Family::Ipv4).then_some(Map::Localnet);
    OWNED.into_iter().chain(localnet).map(move |map| (family, map))
}

impl Map {
    pub(super) fn name(self) -> &'static str {
        match self {
            Map::Ports => "ports",
            Map::PortsOfAddress => "ports-of-address",
            Map::Hairpin => "hairpin",
            Map::Masquerade => "masqueraded",
            Map::Pods => "pods",
            Map::Localnet => "localnet",
        }
    }

    fn kind(self, family: Family) -> MapType {
        let address = match family {
            Family::Ipv4 => Part::Ipv4Address,
            Family::Ipv6 => Part::Ipv6Address,
        };
        let place = Some(Datatype::of(&[address, Part::Port]));
        let kind = |key: &[Part], value| MapType { key: Datatype::of(key), value };
        match self {
            Map::Ports => kind(&[Part::Protocol, Part::Port], place),
            Map::PortsOfAddress => kind(&[address, Part::Protocol, Part::Port], place),
            Map::Hairpin => kind(&[Part::Protocol, address, Part::Port, Part::Port], Some(Datatype::VERDICT)),
            Map::Masquerade => kind(&[address], Some(Datatype::VERDICT)),
            Map::Pods => kind(&[address], None),
            Map::Localnet => MapType { key: Datatype::INTERFACE, value: None },
        }
    }
}

/// Makes what a table consists of beside its entries, or makes it anew.
pub(super) fn install(batch: &mut Batch, family: Family) {
    let table = table(family);
    batch.table(&table);
    for (_, map) in maps(family) {
        batch.map(&table, map.name(), map.kind(family));
    }
    for (name, hook, rules) in layout(family) {
        fill(batch, &table, name, hook, &rules);
    }
}

pub(super) fn fill(batch: &mut Batch, table: &Table, name: &str, hook: Option<Hook>, rules: &[Rule]) {
    batch.chain(table, name, hook);
    for rule in rules {
        batch.rule(table, name, rule);
    }
}

/// Whether these are the rules that a table's chains should have, and those of others' chains.
pub(super) fn stands(rules: &[(String, String)], family: Family) -> bool {
    let version = rules.iter().any(|(_, comment)| comment == LAYOUT);
    let count = |chain: &str| rules.iter().filter(|(of, _)| of == chain).count();
    version && layout(family).iter().all(|(chain, _, rules)| count(chain) == rules.len())
}

type Chain = (&'static str, Option<Hook>, Vec<Rule>);

/// The chains of a table, in an order in which each leads to earlier ones only.
fn layout(family: Family) -> Vec<Chain> {
    let to_host = || Rule::default().for_this_host();
    // There is no way from IPv6's loopback address to another interface and back. Who tries is told so at once, and tries 127.0.0.1.
    let from_host = match family {
        Family::Ipv4 => to_host(),
        Family::Ipv6 => {
            let loopback = octets(Ipv6Addr::LOCALHOST.into());
            to_host().outside(family, Side::Destination, &loopback, 128)
        }
    };
    let mut postrouting: Vec<Rule> = Protocol::ALL.map(|protocol| hairpin(family, protocol)).into();
    postrouting.push(masquerade(family));
    let mut chains = vec![
        (HOST_PORTS, None, vec![to_pod(family, Map::PortsOfAddress), to_pod(family, Map::Ports)]),
        ("prerouting", Some(PREROUTING), vec![to_host().jump(HOST_PORTS).commented(LAYOUT)]),
        ("output", Some(OUTPUT), vec![from_host.jump(HOST_PORTS)]),
        ("postrouting", Some(POSTROUTING), postrouting),
    ];
    if family == Family::Ipv4 {
        // IPv6's loopback address is never taken from outside.
        let loopback = octets(Ipv4Addr::new(127, 0, 0, 0).into());
        let guard = Rule::default().came_by_one_of(Map::Localnet.name());
        let guard = guard.within(family, Side::Destination, &loopback, 8).drop_packet();
        chains.push(("guard", Some(GUARD), vec![guard]));
    }
    chains
}

fn to_pod(family: Family, map: Map) -> Rule {
    // The key's parts lie in adjacent registers, and so do the value's.
    let mut rule = Rule::default();
    let mut next = REGISTER;
    if map == Map::PortsOfAddress {
        rule = rule.load_destination(family, REGISTER);
        next += registers(family);
    }
    let rule = rule.load_service(next).lookup(map.name(), REGISTER, REGISTER);
    rule.redirect(family, REGISTER, REGISTER + registers(family))
}

/// A rule for each protocol, so that nft knows of the port what it needs to load a table that it has listed.
fn hairpin(family: Family, protocol: Protocol) -> Rule {
    let rule = Rule::default().over(protocol.number()).destination_changed().load_protocol(REGISTER);
    let next = REGISTER + 1 + registers(family);
    let rule = rule.load_destination(family, REGISTER + 1).load_port(next).load_original_port(next + 1);
    rule.branch(Map::Hairpin.name(), REGISTER)
}

fn masquerade(family: Family) -> Rule {
    Rule::default().load_source(family, REGISTER).branch(Map::Masquerade.name(), REGISTER)
}

/// How many registers an address takes.
fn registers(family: Family) -> u32 {
    match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 4,
    }
}

pub(super) fn table(family: Family) -> Table {
    Table { family, name: NAME.to_owned() }
}

/// The name of a subnet's chain: without colons, which nft doesn't take in names.
pub(in crate::builtin) fn chain_name(what: &str, of: Cidr) -> String {
    format!("{what}-{}", of.network()).replace(':', "-")
}
