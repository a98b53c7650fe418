//! What a request wants mapped: read, and as a wish to the tables.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use serde::Deserialize;

use super::way::{self, Snat, Way, leads_to};
use crate::attachment::Protocol;
use crate::builtin::owner::Owner;
use crate::builtin::tables::{self, Branch, Map, Place, Placed, Sight, Wish};
use crate::builtin::{fields, localnet};
use crate::error::Error;
use crate::request::Request;
use crate::result::{Cidr, Interface, NetworkResult};

const ALL: Sight<'static> =
    Sight::Maps(&[Map::Pods, Map::Ports, Map::PortsOfAddress, Map::Hairpin, Map::Localnet]);
/// The highest bit of a packet's mark.
const LAST_BIT: u64 = 31;

/// What a request wants mapped.
#[derive(Debug)]
pub(super) struct Wanted {
    snat: Snat,
    /// The pod's, one of each family.
    addresses: Vec<Cidr>,
    /// Whether the pod is a neighbour in a LAN of the host's: it has no interface on the host (macvlan, ipvlan).
    is_in_lan: bool,
    pub(super) ways: Vec<Way>,
}

/// As it stands in the request (CONVENTIONS.md, "portMappings").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    #[serde(default)]
    host_port: u16,
    container_port: u16,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default, rename = "hostIP")]
    host_ip: Option<String>,
}

impl Wanted {
    pub(super) fn of(request: &Request) -> Result<Wanted, Error> {
        let Some(previous) = request.previous()? else {
            return Err(request.invalid("prevResult is missing: this plugin comes after another".to_owned()));
        };
        let mappings: Vec<Mapping> = request.runtime_config("portMappings")?.unwrap_or_default();
        let addresses = addresses(request, &previous);
        let mut ways = Vec::new();
        for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
            ways.extend(mapping.ways(request, &addresses)?);
        }
        let is_inside = |interface: &Interface| !interface.sandbox.is_empty();
        // Plugins of old versions name no interface at all.
        let is_in_lan = !previous.interfaces.is_empty() && previous.interfaces.iter().all(is_inside);
        Ok(Wanted { snat: snat(request)?, addresses, is_in_lan, ways })
    }

    /// Whether no port is to be mapped; unknown where there are no addresses to map any to.
    pub(super) fn is_nothing(&self) -> bool {
        self.ways.is_empty() && !self.addresses.is_empty()
    }

    /// Whether there are entries that lead to its addresses, of such an owner. The same question however many others have some.
    pub(super) fn finds(&self, of: impl Fn(&str) -> bool) -> Result<bool, Error> {
        let places: Vec<Place> = self.addresses.iter().map(|cidr| way::place_of(cidr.address)).collect();
        Ok(tables::find(&places)?.iter().any(|placed| of(&placed.entry.comment)))
    }

    /// The interface towards the pod, when the host's loopback is to reach it.
    pub(super) fn localnet(&self) -> Result<Option<Placed>, Error> {
        let reached = |way: &&Way| {
            let by_loopback = way.host_ip.is_none_or(|host| host.is_loopback());
            way.pod.is_ipv4() && by_loopback && self.snat != Snat::Nobodys && !self.is_in_lan
        };
        let way = self.ways.iter().find(reached);
        way.map_or(Ok(None), |way| localnet::interface_to(way.pod))
    }

    pub(super) fn wish<T>(
        &self,
        request: &Request,
        interface: Option<&Placed>,
        work: impl FnOnce(&Wish<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let owner = Owner::of(request).comment();
        let (entries, branches) = self.entries(&owner)?;
        let services = |map| {
            let here = entries.iter().filter(move |placed| placed.map == map);
            here.map(|placed| (placed.family, way::service_of(placed))).collect::<HashSet<_>>()
        };
        let (of_all, of_one) = (services(Map::Ports), services(Map::PortsOfAddress));
        let clashes = |placed: &Placed| {
            let service = (placed.family, way::service_of(placed));
            match placed.map {
                Map::Ports => of_one.contains(&service),
                Map::PortsOfAddress => of_all.contains(&service),
                Map::Hairpin | Map::Masquerade | Map::Pods | Map::Localnet => false,
            }
        };
        let ours = |placed: &Placed| self.addresses.iter().any(|cidr| leads_to(placed, cidr.address));
        work(&Wish {
            owner,
            sight: ALL,
            entries: entries.into_iter().chain(interface.cloned()).collect(),
            branches,
            // An address has one owner: who had it before is gone, whether it was detached or not.
            stale: &|placed| ours(placed) || localnet::is_gone(placed),
            clashes: &clashes,
            taken: &taken,
        })
    }

    /// Each entry once, though several mappings may need it.
    fn entries(&self, owner: &str) -> Result<(Vec<Placed>, Vec<Branch>), Error> {
        let mut entries: HashMap<_, Placed> = HashMap::new();
        let mut branches: Vec<Branch> = Vec::new();
        for way in &self.ways {
            let prefix = self.addresses.iter().find(|cidr| cidr.address == way.pod).map(|cidr| cidr.prefix);
            let (hairpin, branch) = way.hairpin(self.snat, prefix.unwrap_or(u8::MAX), owner).unzip();
            let is_new = |branch: &Branch| {
                branches.iter().all(|one| (one.family, &one.name) != (branch.family, &branch.name))
            };
            branches.extend(branch.filter(is_new));
            for placed in hairpin.into_iter().chain([way.entry(owner), way.pod_entry(owner)]) {
                let place = (placed.family, placed.map, placed.entry.key.clone());
                if entries.get(&place).is_some_and(|other| *other != placed) {
                    let (port, protocol) = (way.host_port, way.protocol.name());
                    let mapping = format!("{port}/{protocol}");
                    return Err(Error::PortMapping { mapping, problem: "is to lead to two ports" });
                }
                entries.insert(place, placed);
            }
        }
        Ok((entries.into_values().collect(), branches))
    }
}

impl Mapping {
    /// The ways that it asks for: one to each address of the pod whose family is that of the host's.
    fn ways(&self, request: &Request, pod: &[Cidr]) -> Result<Vec<Way>, Error> {
        let invalid = |problem| Err(request.invalid(format!("runtimeConfig.portMappings: {problem}")));
        if self.container_port == 0 {
            return invalid("containerPort is 0".to_owned());
        }
        let name = self.protocol.as_deref().filter(|name| !name.is_empty()).unwrap_or("tcp");
        let Some(protocol) = Protocol::named(name) else { return invalid(format!("protocol is '{name}'")) };
        let host: Option<IpAddr> = match self.host_ip.as_deref().filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => match text.parse::<IpAddr>() {
                // IPv4 may be written as IPv6.
                Ok(host) => Some(host.to_canonical()),
                Err(_) => return invalid(format!("hostIP is '{text}'")),
            },
        };
        if host.is_some_and(|host| host.is_ipv6() && host.is_loopback()) {
            let mapping = format!("[::1]:{}/{}", self.host_port, protocol.name());
            let problem =
                "can't lead to a pod: the kernel has no way from IPv6's loopback address to an interface";
            return Err(Error::PortMapping { mapping, problem });
        }
        let same_family = |cidr: &&Cidr| host.is_none_or(|host| host.is_ipv4() == cidr.address.is_ipv4());
        let way = |cidr: &Cidr| Way {
            protocol,
            host_ip: host.filter(|host| !host.is_unspecified()),
            host_port: self.host_port,
            pod: cidr.address,
            pod_port: self.container_port,
        };
        Ok(pod.iter().filter(same_family).map(way).collect())
    }
}

/// The first address of each family that the pod has on the interface which this is about.
pub(super) fn addresses(request: &Request, previous: &NetworkResult) -> Vec<Cidr> {
    let pods = previous.addresses_of(&request.ifname);
    let first = |v4| pods.iter().find(|cidr| cidr.address.is_ipv4() == v4).copied();
    [first(true), first(false)].into_iter().flatten().collect()
}

pub(super) fn snat(request: &Request) -> Result<Snat, Error> {
    let value = |field: &str| fields::get(&request.config, field);
    let flag = |field: &str, default| match value(field) {
        None => Ok(default),
        Some(value) => {
            value.as_bool().ok_or_else(|| request.invalid(format!("{field}: {value} isn't true or false")))
        }
    };
    if let Some(bit) = value("markMasqBit").filter(|bit| bit.as_u64().is_none_or(|bit| bit > LAST_BIT)) {
        return Err(request.invalid(format!("markMasqBit: {bit} isn't a bit of a mark, 0 to {LAST_BIT}")));
    }
    Ok(match (flag("snat", true)?, flag("masqAll", false)?) {
        (false, _) => Snat::Nobodys,
        (true, false) => Snat::Near,
        (true, true) => Snat::Everybodys,
    })
}

fn taken(placed: &Placed) -> Error {
    let (port, protocol) = way::service_of(placed).unwrap_or((0, Protocol::Tcp));
    Error::HostPortTaken { port, protocol: protocol.name(), owner: placed.entry.comment.clone() }
}
