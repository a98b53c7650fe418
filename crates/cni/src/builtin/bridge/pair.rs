//! Pairs of interfaces between a bridge and what hangs on it: made, named, found again and deleted.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::conf::{Conf, Vlans};
use crate::builtin::link::{self, Link, Mac, Port, VethPair};
use crate::builtin::netlink::Socket;
use crate::builtin::netns::Namespace;
use crate::builtin::owner::{Owner, hash};
use crate::builtin::patience::Patience;
use crate::builtin::steps::Steps;
use crate::builtin::sysctl;
use crate::builtin::vlan::{self, Membership};
use crate::error::Error;
use crate::request::Request;
use crate::result::Interface;

/// How long a port may take to let packets pass once both of its ends are up.
const OPERATIONAL_DEADLINE: Duration = Duration::from_millis(2500);
/// The first bytes of hardware addresses that are made from IP addresses, as kubenet had them.
const MAC_PREFIX: [u8; 2] = [0x0a, 0x58];

/// Makes the pair of an attachment, the host's end up and in its bridge.
///
/// # Errors
/// [`Error::Kernel`]; nothing of it is left then.
pub(super) fn make(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &Link,
    request: &Request,
    namespace: &Namespace,
) -> Result<(), Error> {
    let owner = Owner::of(request);
    let host_name = host_interface(&owner);
    let pair = VethPair {
        host_name: &host_name,
        bridge: bridge.index,
        peer_name: &request.ifname,
        peer_netns: Some(namespace.as_fd()),
        peer_mac: conf.mac,
        mtu: conf.mtu,
    };
    link::create_veth(socket, &pair)?;
    let port = Port {
        name: &host_name,
        hairpin: conf.hairpin,
        isolated: conf.isolated,
        has_ipv6: sysctl::has_ipv6(conf.mtu.unwrap_or(sysctl::IPV6_MTU)),
        alias: &owner.comment(),
    };
    let outcome = set_up(socket, &port, &conf.vlans);
    if outcome.is_err() {
        // The failure says more than this one's would.
        let _ = link::delete(socket, &host_name);
    }
    outcome
}

fn set_up(socket: &mut Socket, port: &Port<'_>, vlans: &Vlans) -> Result<(), Error> {
    let mut steps = Steps::default();
    if vlans.are_used() {
        join_vlans(socket, &mut steps, port.name, vlans)?;
    }
    link::set_up_port(&mut steps, port);
    steps.run(socket)
}

fn join_vlans(socket: &mut Socket, steps: &mut Steps, port: &str, vlans: &Vlans) -> Result<(), Error> {
    let index = link::expect(socket, port)?.index;
    if !vlans.keep_default {
        for id in vlan::of_port(socket, index)? {
            vlan::leave(steps, index, id);
        }
    }
    for id in &vlans.trunk {
        vlan::join(steps, index, *id, Membership::Tagged);
    }
    // Untagged packets of a trunk belong to VLAN 1 unless another is chosen.
    let native = if vlans.native == 0 { 1 } else { vlans.native };
    vlan::join(steps, index, native, Membership::Native);
    Ok(())
}

/// The host's own interface in a VLAN of the bridge, `cni0.100`: where the gateway of that VLAN is. It stays, as the bridge
/// does.
pub(super) fn ensure_vlan_interface(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &Link,
    vlan: u16,
) -> Result<Link, Error> {
    let name = format!("{}.{vlan}", conf.bridge);
    let host_name = veth_name(&format!("vlan {name}"));
    match link::find(socket, &name)? {
        // The last step sets it up. One that is down and somebody else's is theirs to see to.
        Some(link) if link.is_up || link::find(socket, &host_name)?.is_none() => return Ok(link),
        // Somebody was killed, or is at it at this moment: what follows may be done twice.
        Some(_) => {}
        None => make_vlan_interface(socket, &name, &host_name, bridge)?,
    }
    let has_ipv6 = sysctl::has_ipv6(bridge.mtu);
    let port = Port { name: &host_name, hairpin: false, isolated: false, has_ipv6, alias: &name };
    set_up(socket, &port, &Vlans { trunk: Vec::new(), ..conf.vlans.clone() })?;
    let mut steps = Steps::default();
    link::set_up(&mut steps, &name);
    steps.run(socket)?;
    link::expect(socket, &name)
}

/// Makes the pair, both ends down; one that is there by now is fine.
fn make_vlan_interface(socket: &mut Socket, name: &str, host_name: &str, bridge: &Link) -> Result<(), Error> {
    let pair = VethPair {
        host_name,
        bridge: bridge.index,
        peer_name: name,
        peer_netns: None,
        peer_mac: None,
        mtu: Some(bridge.mtu),
    };
    match link::create_veth(socket, &pair) {
        Err(Error::Kernel { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The host's end of an attachment once packets pass it, at once or soon after both ends are up.
///
/// # Errors
/// [`Error::Unlike`] when they don't.
pub(super) fn expect_operational(socket: &mut Socket, host_name: &str) -> Result<Link, Error> {
    let mut patience = Patience::new(OPERATIONAL_DEADLINE);
    loop {
        let link = link::expect(socket, host_name)?;
        if link.is_operational {
            return Ok(link);
        }
        if !patience.pause() {
            let problem = "doesn't become operational".to_owned();
            return Err(Error::Unlike { subject: "bridge port", name: host_name.to_owned(), problem });
        }
    }
}

/// Deletes the pair of an attachment, whoever made it.
pub(super) fn delete(socket: &mut Socket, request: &Request) -> Result<(), Error> {
    if link::delete(socket, &host_interface(&Owner::of(request)))? {
        return Ok(());
    }
    let namespace = Namespace::open_if_there(request.netns.as_deref())?;
    let ifname = &request.ifname;
    let inside = |namespace: Namespace| namespace.enter(|| link::delete(&mut link::socket()?, ifname));
    if namespace.map(inside).transpose()? == Some(true) {
        return Ok(());
    }
    for other in others_on_host(request) {
        if link::find(socket, &other.name)?.is_some_and(|link| is_that(&link, &other)) {
            link::delete(socket, &other.name)?;
        }
    }
    Ok(())
}

/// Has the bridge take no more packets from an attachment, nor send it any.
pub(super) fn block(socket: &mut Socket, request: &Request) -> Result<(), Error> {
    if link::block_port(socket, &host_interface(&Owner::of(request)))? {
        return Ok(());
    }
    for other in others_on_host(request) {
        if link::find(socket, &other.name)?.is_some_and(|link| is_that(&link, &other)) {
            link::block_port(socket, &other.name)?;
        }
    }
    Ok(())
}

/// The host's interfaces in the result of ADD: where another plugin, or an older version, has chosen the name.
pub(super) fn others_on_host(request: &Request) -> Vec<Interface> {
    // A result that can't be read names nothing.
    let result = request.previous().ok().flatten().unwrap_or_default();
    result.interfaces.into_iter().filter(|interface| interface.sandbox.is_empty()).collect()
}

/// Whether a link is that of a result and no other that got its name since: names of four random bytes come again.
fn is_that(link: &Link, interface: &Interface) -> bool {
    link.kind == "veth" && (interface.mac.is_empty() || interface.mac == link.shown_mac())
}

/// Deletes the pairs of a network's attachments whose owners' comments are left over.
pub(super) fn retain(socket: &mut Socket, network: &str, is_left_over: impl Fn(&str) -> bool) -> Vec<Error> {
    let links = match link::list(socket) {
        Ok(links) => links,
        Err(error) => return vec![error],
    };
    let is_leftover = |link: &&Link| {
        // The alias can be changed by others; together with the name that was made from it, it can be relied on.
        veth_name(&link.alias) == link.name && is_left_over(&link.alias)
    };
    let leftovers: Vec<&Link> = links.iter().filter(is_leftover).collect();
    if !leftovers.is_empty() {
        let names: Vec<&str> = leftovers.iter().map(|link| link.alias.as_str()).collect();
        tracing::warn!(network, ?names, "interfaces without an owner");
    }
    leftovers.iter().filter_map(|link| link::delete(socket, &link.name).err()).collect()
}

/// Whether an attachment has its pair, by the comment of its owner.
pub(super) fn is_there(socket: &mut Socket, owner: &str) -> Result<bool, Error> {
    Ok(link::find(socket, &veth_name(owner))?.is_some_and(|link| link.alias == owner))
}

/// The name of the host's end: found again without a record, different for every attachment, and one that firewalls and
/// other tools know to be a pod's.
pub(super) fn host_interface(owner: &Owner) -> String {
    veth_name(&owner.comment())
}

fn veth_name(of: &str) -> String {
    format!("veth{:011x}", hash(of.as_bytes()) & 0xfff_ffff_ffff)
}

/// The hardware address inside, made from the IP address: that has the same one whoever gets it later, so that no
/// neighbour remembers a wrong one.
pub(super) fn mac_for(address: IpAddr) -> Mac {
    let [first, second] = MAC_PREFIX;
    let [a, b, c, d] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    [first, second, a, b, c, d]
}

/// The path as it stands in a result.
pub(super) fn shown(netns: Option<&Path>) -> String {
    netns.map(|netns| netns.display().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ() {
        let owner = |network: &str, container_id: &str| Owner {
            network: network.into(),
            container_id: container_id.into(),
            ifname: "eth0".into(),
        };
        let name = host_interface(&owner("n", "a"));
        assert!(name.len() == 15 && name.starts_with("veth"), "{name}");
        assert_ne!(name, host_interface(&owner("n", "b")));
        assert_ne!(name, host_interface(&owner("m", "a")));
    }

    #[test]
    fn a_name_alone_is_no_identity() {
        let link = Link {
            index: 3,
            name: "vethaabbccdd".into(),
            mtu: 1500,
            mac: Some([2, 0, 0, 0, 0, 1]),
            kind: "veth".into(),
            vlan_filtering: false,
            master: None,
            peer: None,
            is_up: true,
            is_promiscuous: false,
            is_operational: true,
            alias: String::new(),
        };
        let interface = |mac: &str| Interface { mac: mac.into(), ..Interface::default() };
        assert!(is_that(&link, &interface("02:00:00:00:00:01")));
        assert!(is_that(&link, &interface("")));
        assert!(!is_that(&link, &interface("02:00:00:00:00:02")));
        assert!(!is_that(&Link { kind: "bridge".into(), ..link }, &interface("")));
    }

    #[test]
    fn hardware_addresses_come_from_ip_addresses() {
        assert_eq!(link::show_mac(mac_for([10, 1, 2, 3].into())), "0a:58:0a:01:02:03");
        assert_eq!(link::show_mac(mac_for("fd00::102:304".parse().unwrap())), "0a:58:01:02:03:04");
    }
}
