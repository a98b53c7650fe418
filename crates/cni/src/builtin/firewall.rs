//! The network's own nftables tables, one for each family: masquerade, and host ports.
//!
//! | chain | hook | what |
//! |---|---|---|
//! | `guard` | prerouting, raw | drops packets from pods to the host's loopback network |
//! | `prerouting`, `output` | dstnat | what goes to this host goes through `host-ports` |
//! | `host-ports` | | looks up `ports-of-address`, then `ports`, and sends the connection to the pod |
//! | `postrouting` | srcnat | masquerades what leaves the subnet, and what came by a host port from the host's own loopback or from the subnet itself (its answer would else bypass us) |
//!
//! The rules stand for the whole network; a pod's host ports are entries of two maps and a set, so that a pod costs no rule
//! and an entry says whose it is. What comes to a pod by others' rules (a service's) keeps its source: only what is in the
//! set `published` is taken for ours. Rules of others (a forward policy of drop, for one) are the others' affair.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::host_local::Range;
use super::link::octets;
use super::netlink::Socket;
use super::nft::{self, Batch, Datatype, Element, Family, Hook, MapType, Part, REGISTER, Rule, Side, Table};
use crate::attachment::{PortMapping, Protocol};
use crate::error::Error;
use crate::result::Cidr;

const PORTS: &str = "ports";
const PORTS_OF_ADDRESS: &str = "ports-of-address";
const PUBLISHED: &str = "published";
const HOST_PORTS: &str = "host-ports";

/// Hooks and priorities (linux/netfilter_ipv4.h).
const GUARD: Hook = Hook { kind: "filter", number: 0, priority: -300 };
const PREROUTING: Hook = Hook { kind: "nat", number: 0, priority: -100 };
const OUTPUT: Hook = Hook { kind: "nat", number: 3, priority: -100 };
const POSTROUTING: Hook = Hook { kind: "nat", number: 4, priority: 100 };

/// The firewall of one network.
#[derive(Debug)]
pub(super) struct Firewall {
    bridge: String,
    subnets: Vec<Cidr>,
}

impl Firewall {
    /// That of a bridge with these subnets; nothing is done yet.
    pub(super) fn new(bridge: &str, ranges: &[Range]) -> Firewall {
        Firewall { bridge: bridge.to_owned(), subnets: ranges.iter().map(|range| range.subnet).collect() }
    }

    /// The bridge's name tells the tables of two daemons apart.
    fn table(&self, family: Family) -> Table {
        Table { family, name: format!("knarr-{}", self.bridge) }
    }

    /// Makes the tables, or makes them anew; entries of maps stay.
    pub(super) fn install(&self) -> Result<(), Error> {
        let mut batch = Batch::default();
        for subnet in &self.subnets {
            self.add_table(&mut batch, *subnet);
        }
        let outcome = Socket::netfilter().and_then(|mut socket| Ok(batch.commit(&mut socket)?));
        outcome.map_err(|source| self.failed("set up nftables table", source))
    }

    /// Whether all tables are there. Whoever flushes the node's rules takes ours along.
    pub(super) fn is_installed(&self) -> Result<bool, Error> {
        let failed = |source| self.failed("look for nftables table", source);
        let mut socket = Socket::netfilter().map_err(failed)?;
        for subnet in &self.subnets {
            if !nft::has_table(&mut socket, &self.table(family_of(subnet.address))).map_err(failed)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn add_table(&self, batch: &mut Batch, subnet: Cidr) {
        let family = family_of(subnet.address);
        let table = &self.table(family);
        batch.table(table);
        batch.map(table, PORTS, map_type(family, &[]));
        batch.map(table, PORTS_OF_ADDRESS, map_type(family, &[address_part(family)]));
        let published = [address_part(family), Part::Protocol, Part::Port];
        batch.map(table, PUBLISHED, MapType { key: Datatype::of(&published), value: None });
        batch.chain(table, HOST_PORTS, None);
        for (map, of_address) in [(PORTS_OF_ADDRESS, true), (PORTS, false)] {
            batch.rule(table, HOST_PORTS, &host_ports_rule(family, map, of_address));
        }
        for (chain, hook) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
            batch.chain(table, chain, Some(hook));
            batch.rule(table, chain, &Rule::default().for_this_host().jump(HOST_PORTS));
        }
        batch.chain(table, "postrouting", Some(POSTROUTING));
        for rule in self.postrouting(subnet) {
            batch.rule(table, "postrouting", &rule);
        }
        if family == Family::Ipv4 {
            // `route_localnet` on the bridge would else open the host's loopback to pods (CVE-2020-8558).
            batch.chain(table, "guard", Some(GUARD));
            let loopback = octets(Ipv4Addr::new(127, 0, 0, 0).into());
            let guard = Rule::default().came_by(&self.bridge);
            let guard = guard.within(family, Side::Destination, &loopback, 8).drop_packet();
            batch.rule(table, "guard", &guard);
        }
    }

    fn postrouting(&self, subnet: Cidr) -> Vec<Rule> {
        let family = family_of(subnet.address);
        let network = octets(subnet.address);
        let width = address_registers(family);
        let back = || {
            let changed = Rule::default().leaves_by(&self.bridge).destination_changed();
            let loaded = changed.load_destination(family, REGISTER).load_service(REGISTER + width);
            loaded.contained(PUBLISHED, REGISTER)
        };
        let from_subnet = |rule: Rule| rule.within(family, Side::Source, &network, subnet.prefix);
        let leaving =
            from_subnet(Rule::default()).outside(family, Side::Destination, &network, subnet.prefix);
        let (multicast, prefix): (IpAddr, u8) = match family {
            Family::Ipv4 => (Ipv4Addr::new(224, 0, 0, 0).into(), 4),
            Family::Ipv6 => (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        };
        let leaving = leaving.outside(family, Side::Destination, &octets(multicast), prefix);
        let mut rules = vec![leaving.masquerade(), from_subnet(back()).masquerade()];
        if family == Family::Ipv4 {
            let loopback = octets(Ipv4Addr::new(127, 0, 0, 0).into());
            rules.push(back().within(family, Side::Source, &loopback, 8).masquerade());
        }
        rules
    }

    /// Deletes the tables; those that are gone are fine.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let failed = |source| self.failed("delete nftables table", source);
        let mut socket = Socket::netfilter().map_err(failed)?;
        for family in [Family::Ipv4, Family::Ipv6] {
            let mut batch = Batch::default();
            batch.delete_table(&self.table(family));
            match batch.commit(&mut socket).map_err(io::Error::from) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome.map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Leads host ports to a pod's addresses: all of them, or none when one is taken.
    ///
    /// # Errors
    /// [`Error::HostPortTaken`], [`Error::Kernel`].
    pub(super) fn publish(&self, mappings: &[PortMapping], pod: &[IpAddr]) -> Result<(), Error> {
        let mut batch = Batch::default();
        let mut published = Vec::new();
        for mapping in mappings {
            for address in pod {
                let Some((map, element)) = entry(mapping, *address) else { continue };
                let table = self.table(family_of(*address));
                batch.add_element(&table, map, &element);
                batch.add_element(&table, PUBLISHED, &target(mapping, *address));
                published.extend([mapping, mapping]);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let mut socket =
            Socket::netfilter().map_err(|source| self.failed("publish host ports in", source))?;
        batch.commit(&mut socket).map_err(|refused| {
            let taken =
                matches!(refused.source.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy);
            match published.get(refused.index).filter(|_| taken) {
                Some(mapping) => {
                    Error::HostPortTaken { port: mapping.host_port, protocol: mapping.protocol.name() }
                }
                None => self.failed("publish host ports in", refused.source),
            }
        })
    }

    /// Removes every host port that leads to one of these addresses.
    pub(super) fn withdraw(&self, pod: &[IpAddr]) -> Result<(), Error> {
        let failed = |source| self.failed("withdraw host ports from", source);
        let mut socket = Socket::netfilter().map_err(failed)?;
        let mut batch = Batch::default();
        for address in pod {
            let table = self.table(family_of(*address));
            let address = octets(*address);
            for map in [PORTS, PORTS_OF_ADDRESS, PUBLISHED] {
                for element in nft::list(&mut socket, &table, map).map_err(failed)? {
                    let owner = if map == PUBLISHED { &element.key } else { &element.value };
                    if owner.starts_with(&address) {
                        batch.delete_element(&table, map, &element);
                    }
                }
            }
        }
        batch.commit(&mut socket).map_err(|refused| failed(refused.source))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::Kernel { action, subject: self.table(Family::Ipv4).name, source }
    }
}

fn host_ports_rule(family: Family, map: &str, of_address: bool) -> Rule {
    // The key's parts lie in adjacent registers, and so do the value's.
    let width = if of_address { address_registers(family) } else { 0 };
    let mut rule = Rule::default();
    if of_address {
        rule = rule.load_destination(family, REGISTER);
    }
    let rule = rule.load_service(REGISTER + width).lookup(map, REGISTER, REGISTER);
    rule.redirect(family, REGISTER, REGISTER + address_registers(family))
}

fn address_registers(family: Family) -> u32 {
    match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 4,
    }
}

fn address_part(family: Family) -> Part {
    match family {
        Family::Ipv4 => Part::Ipv4Address,
        Family::Ipv6 => Part::Ipv6Address,
    }
}

fn map_type(family: Family, before: &[Part]) -> MapType {
    let key: Vec<Part> = before.iter().copied().chain([Part::Protocol, Part::Port]).collect();
    MapType { key: Datatype::of(&key), value: Some(Datatype::of(&[address_part(family), Part::Port])) }
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}

/// The entry that leads a host port to a pod's address, and the map for it. `None`: the host's address is of the other
/// family.
fn entry(mapping: &PortMapping, pod: IpAddr) -> Option<(&'static str, Element)> {
    let mut value = octets(pod);
    value.extend(port_bytes(mapping.container_port));
    let mut key = Vec::new();
    let map = match mapping.host_ip {
        Some(host) if host.is_ipv4() != pod.is_ipv4() => return None,
        Some(host) if !host.is_unspecified() => {
            key.extend(octets(host));
            PORTS_OF_ADDRESS
        }
        _ => PORTS,
    };
    key.extend(protocol_bytes(mapping.protocol));
    key.extend(port_bytes(mapping.host_port));
    Some((map, Element { key, value }))
}

/// Where a host port leads, as it stands in the set of all such places.
fn target(mapping: &PortMapping, pod: IpAddr) -> Element {
    let mut key = octets(pod);
    key.extend(protocol_bytes(mapping.protocol));
    key.extend(port_bytes(mapping.container_port));
    Element { key, value: Vec::new() }
}

fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn protocol_bytes(protocol: Protocol) -> [u8; 4] {
    [protocol.number(), 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|text| text.parse().unwrap());
        PortMapping { host_port: 0x1f90, container_port: 80, protocol: Protocol::Udp, host_ip }
    }

    #[test]
    fn an_entry_is_in_the_map_of_its_host_address() {
        let pod = IpAddr::from([10, 0, 0, 2]);
        let (map, element) = entry(&mapping(None), pod).unwrap();
        assert_eq!(map, PORTS);
        assert_eq!(element.key, [17, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(element.value, [10, 0, 0, 2, 0, 80, 0, 0]);
        let (map, element) = entry(&mapping(Some("192.0.2.1")), pod).unwrap();
        assert_eq!(map, PORTS_OF_ADDRESS);
        assert_eq!(element.key, [192, 0, 2, 1, 17, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(entry(&mapping(Some("0.0.0.0")), pod).unwrap().0, PORTS);
        assert_eq!(entry(&mapping(Some("::1")), pod), None);
    }
}
