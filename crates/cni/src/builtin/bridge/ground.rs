//! The host's side of a network: the bridge itself, the gateways' addresses on it, and forwarding.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;

use super::conf::{Conf, MARK};
use super::pair;
use crate::builtin::address::{self, Held};
use crate::builtin::link::{self, Link, Mac, NewBridge};
use crate::builtin::neighbour;
use crate::builtin::netlink::Socket;
use crate::builtin::steps::Steps;
use crate::builtin::sysctl;
use crate::error::Error;
use crate::result::{Cidr, Interface, IpConfig};

/// The bridge as it should be, made if it isn't there.
pub(super) fn ensure_bridge(socket: &mut Socket, conf: &Conf) -> Result<Link, Error> {
    let name = &conf.bridge;
    let bridge = match link::find(socket, name)? {
        Some(bridge) => bridge,
        None => make_bridge(socket, conf)?,
    };
    if bridge.kind != "bridge" {
        let problem = "is there already, but is no bridge".to_owned();
        return Err(Error::Unlike { subject: "link", name: name.clone(), problem });
    }
    // A router that a pod announces must not become the host's way out (CVE-2020-10749), whoever made the bridge.
    sysctl::try_ensure(&format!("ipv6/conf/{name}/accept_ra"), "0");
    let mut steps = Steps::default();
    if !bridge.is_up {
        link::set_up(&mut steps, name);
    }
    if conf.promiscuous && !bridge.is_promiscuous {
        link::make_promiscuous(&mut steps, name);
    }
    if conf.vlans.are_used() && !bridge.vlan_filtering {
        link::filter_vlans(&mut steps, name);
    }
    steps.run(socket)?;
    Ok(bridge)
}

fn make_bridge(socket: &mut Socket, conf: &Conf) -> Result<Link, Error> {
    let name = &conf.bridge;
    let new = NewBridge {
        name,
        // A gateway's must stay what its pods have learnt; the kernel would have it change with the ports.
        mac: conf.is_gateway.then(random_mac).transpose()?,
        mtu: conf.mtu,
        vlan_filtering: conf.vlans.are_used(),
        promiscuous: conf.promiscuous,
        alias: conf.mark,
    };
    link::create_bridge(socket, &new)?;
    if conf.is_gateway && !conf.detect_duplicates {
        // Nobody else has what follows from an address drawn at random; and until the kernel has made sure, a second or two,
        // it asks for no neighbour, so that nothing from elsewhere would reach the first pod over IPv6.
        sysctl::try_set(&format!("ipv6/conf/{name}/accept_dad"), "0");
    }
    link::expect(socket, name)
}

/// Deletes a bridge that was made for the built-in network, once it has no port. Returns whether nobody stands on it: one that
/// somebody else made stays for whoever that is.
///
/// # Errors
/// [`Error::Kernel`].
pub(in crate::builtin) fn clear_bridge(name: &str) -> Result<bool, Error> {
    let mut socket = link::socket()?;
    let Some(bridge) = link::find(&mut socket, name)? else { return Ok(true) };
    let has_port = |link: &Link| link.master == Some(bridge.index);
    if link::list(&mut socket)?.iter().any(has_port) {
        return Ok(false);
    }
    if bridge.kind == "bridge" && bridge.alias == MARK {
        link::delete(&mut socket, name)?;
    }
    Ok(true)
}

/// Of our own, not of a maker's (IEEE 802, the second lowest bit), and no group's.
fn random_mac() -> Result<Mac, Error> {
    let mut mac = [0; 6];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut mac));
    read.map_err(|source| link::failed("choose", "hardware address", source))?;
    mac[0] = (mac[0] | 2) & !1;
    Ok(mac)
}

/// Gives the bridge, or its interface in the VLAN, the gateways' addresses, and has the host forward. Returns the VLAN's
/// interface where there is one.
pub(super) fn ensure_gateways(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &Link,
    ips: &[IpConfig],
) -> Result<Option<Interface>, Error> {
    let on_bridge = |ip: &IpConfig| Some(Cidr { address: ip.gateway?, ..ip.address });
    let gateways: Vec<Cidr> = ips.iter().filter_map(on_bridge).collect();
    if gateways.is_empty() {
        return Ok(None);
    }
    let of_vlan = match conf.vlans.native {
        0 => None,
        vlan => Some(pair::ensure_vlan_interface(socket, conf, bridge, vlan)?),
    };
    let link = of_vlan.as_ref().unwrap_or(bridge);
    let held = address::list(socket)?;
    for gateway in &gateways {
        ensure_address(socket, conf, link, &held, *gateway)?;
    }
    for ip in ips {
        neighbour::forget(socket, link.index, ip.address.address);
    }
    if gateways.iter().any(|gateway| gateway.address.is_ipv4()) {
        sysctl::ensure("ipv4/ip_forward", "1")?;
    }
    if gateways.iter().any(|gateway| !gateway.address.is_ipv4()) {
        sysctl::forward_ipv6()?;
    }
    Ok(of_vlan.map(|link| Interface {
        mac: link.shown_mac(),
        mtu: Some(link.mtu),
        name: link.name,
        ..Interface::default()
    }))
}

/// An IPv4 address is the only one of its link, an IPv6 address the only one of its network: another stands for a
/// configuration that contradicts this one.
fn ensure_address(
    socket: &mut Socket,
    conf: &Conf,
    link: &Link,
    held: &[Held],
    wanted: Cidr,
) -> Result<(), Error> {
    let on_link: Vec<Cidr> =
        held.iter().filter(|held| held.link == link.index).map(|held| held.address).collect();
    if on_link.contains(&wanted) {
        return Ok(());
    }
    for other in on_link.into_iter().filter(|other| contradicts(*other, wanted)) {
        if !conf.force_address {
            let problem = format!("has the address {other} already, which isn't {wanted}");
            return Err(Error::Unlike { subject: "bridge", name: link.name.clone(), problem });
        }
        address::delete(socket, link.index, other)?;
    }
    if !address::ensure(socket, link.index, wanted)? {
        return Ok(());
    }
    // For good: see `make_bridge`. Not the one that has come with the port since; but a bridge that lost its last port has none.
    let mut steps = Steps::default();
    let mac = match link.mac.filter(|mac| *mac != Mac::default()) {
        Some(own) => Some(own),
        None => link::expect(socket, &link.name)?.mac,
    };
    if let Some(mac) = mac {
        link::set_mac(&mut steps, &link.name, mac);
    }
    steps.run(socket)
}

fn contradicts(other: Cidr, wanted: Cidr) -> bool {
    let overlap = other.contains(wanted.address) || wanted.contains(other.address);
    match (other.address, wanted.address) {
        (IpAddr::V4(_), IpAddr::V4(_)) => true,
        (IpAddr::V6(_), IpAddr::V6(_)) => overlap,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_contradict_each_other() {
        let contradict =
            |one: &str, other: &str| contradicts(Cidr::parse(one).unwrap(), Cidr::parse(other).unwrap());
        assert!(contradict("10.0.0.1/24", "10.0.1.1/24"));
        assert!(contradict("fd00::1/64", "fd00::2/64"));
        assert!(!contradict("fd00::1/64", "fd01::1/64"));
        assert!(!contradict("fe80::1/64", "fd01::1/64"));
        assert!(!contradict("10.0.0.1/24", "fd00::1/64"));
    }
}
