//! A way from a port of the host to a pod: as the tables have it.

use std::net::IpAddr;

use crate::attachment::Protocol;
use crate::builtin::link::octets;
use crate::builtin::nft::{Entry, Family, Rule, Side, Value};
use crate::builtin::tables::{self, Branch, Map, Place, Placed, family_of};
use crate::result::Cidr;

/// What leads from a port of the host to one of a pod's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::builtin) struct Way {
    pub(in crate::builtin) protocol: Protocol,
    /// The host's address; any when `None`. Of the pod's family.
    pub(in crate::builtin) host_ip: Option<IpAddr>,
    pub(in crate::builtin) host_port: u16,
    pub(in crate::builtin) pod: IpAddr,
    pub(in crate::builtin) pod_port: u16,
}

/// Whose source address is changed on a way, so that answers come back by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snat {
    Nobodys,
    /// That of what comes from the host's loopback, and from the pod's subnet: its answer would else bypass us.
    Near,
    Everybodys,
}

impl Way {
    /// The entry that leads there.
    pub(super) fn entry(&self, comment: &str) -> Placed {
        let mut key = Vec::new();
        let map = match self.host_ip {
            Some(host) => {
                key.extend(octets(host));
                Map::PortsOfAddress
            }
            None => Map::Ports,
        };
        key.extend(service(self.protocol, self.host_port));
        self.placed(map, key, Value::Data(place(self.pod, self.pod_port)), comment)
    }

    /// The entry that changes sources on it, and the chain that does.
    pub(super) fn hairpin(&self, snat: Snat, prefix: u8, comment: &str) -> Option<(Placed, Branch)> {
        let branch = branch(snat, Cidr { address: self.pod, prefix })?;
        let [high, low] = self.host_port.to_be_bytes();
        let mut key = vec![self.protocol.number(), 0, 0, 0];
        key.extend(place(self.pod, self.pod_port));
        key.extend([high, low, 0, 0]);
        let placed = self.placed(Map::Hairpin, key, Value::Jump(branch.name.clone()), comment);
        Some((placed, branch))
    }

    /// The entry by which it is found that there are others for the pod's address.
    pub(super) fn pod_entry(&self, comment: &str) -> Placed {
        self.placed(Map::Pods, octets(self.pod), Value::Nothing, comment)
    }

    fn placed(&self, map: Map, key: Vec<u8>, value: Value, comment: &str) -> Placed {
        let entry = Entry { key, value, comment: comment.to_owned() };
        Placed { family: family_of(self.pod), map, entry }
    }

    /// The way that an entry is of; `None` for those of other maps.
    pub(in crate::builtin) fn of(placed: &Placed) -> Option<Way> {
        let host_ip = match placed.map {
            Map::Ports => None,
            Map::PortsOfAddress => Some(address(placed.family, &placed.entry.key)?.0),
            Map::Hairpin | Map::Masquerade | Map::Pods | Map::Localnet => return None,
        };
        let (host_port, protocol) = service_of(placed)?;
        let Value::Data(value) = &placed.entry.value else { return None };
        let (pod, pod_port) = address(placed.family, value)?;
        let pod_port = u16::from_be_bytes(*pod_port.first_chunk()?);
        Some(Way { protocol, host_ip, host_port, pod, pod_port })
    }
}

/// Where it stands that entries lead to that address.
pub(super) fn place_of(pod: IpAddr) -> Place {
    Place { family: family_of(pod), map: Map::Pods, key: octets(pod) }
}

/// Whether an entry leads to that address.
pub(super) fn leads_to(placed: &Placed, pod: IpAddr) -> bool {
    let pod_octets = octets(pod);
    let at = match (placed.map, &placed.entry.value) {
        (Map::Ports | Map::PortsOfAddress, Value::Data(value)) => value.as_slice(),
        (Map::Pods, _) => placed.entry.key.as_slice(),
        (Map::Hairpin, _) => placed.entry.key.get(4..).unwrap_or_default(),
        _ => return false,
    };
    placed.family == family_of(pod) && at.starts_with(&pod_octets)
}

/// The host port that an entry is about.
pub(super) fn service_of(placed: &Placed) -> Option<(u16, Protocol)> {
    let key = &placed.entry.key;
    let [.., high, low, _, _] = key.as_slice() else { return None };
    let protocol = match placed.map {
        Map::Ports | Map::PortsOfAddress => key.last_chunk::<8>()?[0],
        Map::Hairpin => *key.first()?,
        Map::Masquerade | Map::Pods | Map::Localnet => return None,
    };
    Some((u16::from_be_bytes([*high, *low]), Protocol::numbered(protocol)?))
}

fn service(protocol: Protocol, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn place(address: IpAddr, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let mut place = octets(address);
    place.extend([high, low, 0, 0]);
    place
}

/// An address, and what stands behind it.
fn address(family: Family, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::Ipv4 => bytes.split_first_chunk::<4>().map(|(address, rest)| ((*address).into(), rest)),
        Family::Ipv6 => bytes.split_first_chunk::<16>().map(|(address, rest)| ((*address).into(), rest)),
    }
}

fn branch(snat: Snat, pod: Cidr) -> Option<Branch> {
    let family = family_of(pod.address);
    let from = |network: Cidr| {
        let network_octets = octets(network.address);
        Rule::default().within(family, Side::Source, &network_octets, network.prefix).masquerade()
    };
    let near = || {
        // IPv6's loopback address leads to no pod.
        let loopback = Cidr { address: [127, 0, 0, 0].into(), prefix: 8 };
        let loopback = (family == Family::Ipv4).then(|| from(loopback));
        [from(pod.network())].into_iter().chain(loopback).collect()
    };
    let (name, rules) = match snat {
        Snat::Nobodys => return None,
        Snat::Near => (tables::chain_name("hairpin", pod), near()),
        Snat::Everybodys => ("hairpin-all".to_owned(), vec![Rule::default().masquerade()]),
    };
    Some(Branch { family, name, rules })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(host_ip: Option<&str>, pod: &str) -> Way {
        let host_ip = host_ip.map(|text| text.parse().unwrap());
        let pod = pod.parse().unwrap();
        Way { protocol: Protocol::Udp, host_ip, host_port: 0x1f90, pod, pod_port: 80 }
    }

    #[test]
    fn an_entry_is_in_the_map_of_its_host_address() {
        let any = way(None, "10.0.0.2").entry("n/c/eth0");
        assert_eq!((any.map, any.family), (Map::Ports, Family::Ipv4));
        assert_eq!(any.entry.key, [17, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(any.entry.value, Value::Data(vec![10, 0, 0, 2, 0, 80, 0, 0]));
        let one = way(Some("192.0.2.1"), "10.0.0.2").entry("n/c/eth0");
        assert_eq!(one.map, Map::PortsOfAddress);
        assert_eq!(one.entry.key, [192, 0, 2, 1, 17, 0, 0, 0, 0x1f, 0x90, 0, 0]);
    }

    #[test]
    fn a_way_is_read_from_its_entry() {
        for way in [
            way(None, "10.0.0.2"),
            way(Some("127.0.0.1"), "10.0.0.2"),
            way(None, "fd00::2"),
            way(Some("::1"), "fd00::2"),
        ] {
            let placed = way.entry("n/c/eth0");
            assert_eq!(Way::of(&placed).as_ref(), Some(&way));
            assert!(leads_to(&placed, way.pod) && !leads_to(&placed, IpAddr::from([10, 0, 0, 3])));
            let (hairpin, branch) = way.hairpin(Snat::Near, 24, "n/c/eth0").unwrap();
            assert!(leads_to(&hairpin, way.pod) && !leads_to(&hairpin, IpAddr::from([10, 0, 0, 3])));
            assert_eq!(service_of(&hairpin), service_of(&placed));
            assert_eq!(hairpin.entry.value, Value::Jump(branch.name));
            assert_eq!(Way::of(&hairpin), None);
            assert!(way.hairpin(Snat::Nobodys, 24, "n/c/eth0").is_none());
        }
    }
}
