//! The bridge and what hangs on it: the host's side of a network, and each pod's pair of interfaces.
//!
//! Which addresses a pod gets is `host_local`'s affair, what leads to them from outside `firewall`'s.

use std::net::IpAddr;
use std::os::fd::AsFd;

use super::host_local::Range;
use super::link::{self, Link, Mac, VethPair};
use super::netlink::Socket;
use super::netns::Namespace;
use super::old::BuiltinNetwork;
use super::sysctl;
use crate::attachment::{Attachment, AttachmentId};
use crate::error::Error;
use crate::result::Cidr;

/// Ethernet's, where the host has no default route to learn from.
const DEFAULT_MTU: u32 = 1500;
/// The first bytes of hardware addresses that are made from IPv4 addresses, as kubenet and the bridge plugin have them.
const MAC_PREFIX: [u8; 2] = [0x0a, 0x58];

/// An address that a pod gets, and the gateway that it reaches others by.
pub(super) type Address = (Cidr, IpAddr);

/// Opens the calling thread's rtnetlink socket.
pub(super) fn socket() -> Result<Socket, Error> {
    Socket::route().map_err(|source| Error::Kernel {
        action: "open",
        subject: "rtnetlink socket".into(),
        source,
    })
}

/// Makes the bridge as it should be, whatever is there of it already.
pub(super) fn set_up(socket: &mut Socket, network: &BuiltinNetwork, ranges: &[Range]) -> Result<Link, Error> {
    let bridge = &network.bridge;
    let mtu = match network.mtu {
        Some(mtu) => mtu,
        None => link::default_route_mtu(socket)?.unwrap_or(DEFAULT_MTU),
    };
    if link::find(socket, bridge)?.is_none() {
        let first = ranges.first().map(|range| range.gateway);
        link::create_bridge(socket, bridge, mac_for(first, bridge), mtu)?;
    }
    let made = link::find(socket, bridge)?;
    let made = made.ok_or_else(|| Error::Kernel {
        action: "find link",
        subject: bridge.clone(),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    for range in ranges {
        let address = Cidr { address: range.gateway, prefix: range.subnet.prefix };
        if address.address.is_ipv4() {
            sysctl::ensure("ipv4/ip_forward", "1")?;
            // Host ports answer on the host's own 127.0.0.1 too.
            sysctl::set(&format!("ipv4/conf/{bridge}/route_localnet"), "1")?;
        } else {
            sysctl::forward_ipv6()?;
            sysctl::set(&format!("ipv6/conf/{bridge}/accept_ra"), "0")?;
        }
        link::add_address(socket, made.index, address)?;
    }
    link::set_up(socket, bridge)?;
    Ok(Link { mtu, ..made })
}

/// A namespace that is to be joined to the bridge.
#[derive(Debug)]
pub(super) struct Joining<'a> {
    pub(super) network: &'a BuiltinNetwork,
    pub(super) bridge: Link,
    pub(super) attachment: &'a Attachment,
    pub(super) namespace: &'a Namespace,
    pub(super) addresses: &'a [Address],
}

impl Joining<'_> {
    /// Joins it; returns the hardware address inside.
    pub(super) fn join(&self, socket: &mut Socket) -> Result<Mac, Error> {
        let id = self.attachment.id();
        let peer_mac = match &self.attachment.mac {
            Some(text) => parse_mac(text)
                .ok_or_else(|| Error::InvalidAttachment { field: "hardware address", value: text.clone() })?,
            None => mac_for(self.addresses.first().map(|(cidr, _)| cidr.address), &id.container_id),
        };
        let pair = VethPair {
            host_name: &host_interface(&self.network.bridge, &id),
            bridge: self.bridge.index,
            peer_name: &self.attachment.ifname,
            peer_netns: self.namespace.as_fd(),
            peer_mac,
            mtu: self.bridge.mtu,
        };
        link::create_veth(socket, &pair)?;
        self.namespace.enter(|| configure(&self.attachment.ifname, self.addresses))?;
        Ok(peer_mac)
    }
}

/// Inside the namespace.
fn configure(ifname: &str, addresses: &[Address]) -> Result<(), Error> {
    // A neighbour's router advertisement must not become the pod's default route (CVE-2020-10749).
    sysctl::set(&format!("ipv6/conf/{ifname}/accept_ra"), "0")?;
    let mut socket = socket()?;
    let link = link::find(&mut socket, ifname)?.ok_or_else(|| Error::Kernel {
        action: "find link",
        subject: ifname.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    link::configure(&mut socket, ifname, link.index, addresses)
}

/// Sees whether both ends are there with their addresses.
pub(super) fn check(
    network: &BuiltinNetwork,
    attachment: &Attachment,
    addresses: &[Cidr],
) -> Result<(), Error> {
    let absent = |action, subject: &str| Error::Kernel {
        action,
        subject: subject.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    };
    let host_name = host_interface(&network.bridge, &attachment.id());
    if link::find(&mut socket()?, &host_name)?.is_none() {
        return Err(absent("find link", &host_name));
    }
    let Some(netns) = &attachment.netns else { return Ok(()) };
    let ifname = &attachment.ifname;
    Namespace::open(netns)?.enter(|| {
        let mut socket = socket()?;
        let link = link::find(&mut socket, ifname)?.ok_or_else(|| absent("find link", ifname))?;
        for address in addresses {
            if !link::has_address(&mut socket, link.index, *address)? {
                return Err(absent("find address", &address.to_string()));
            }
        }
        Ok(())
    })
}

/// The name of the host's end: found again without a record, and different for every attachment of every bridge.
pub(super) fn host_interface(bridge: &str, id: &AttachmentId) -> String {
    let text = format!("{bridge} {} {}", id.container_id, id.ifname);
    format!("knarr{:010x}", hash(text.as_bytes()) & 0xff_ffff_ffff)
}

/// From the address where it is IPv4, so that an address that another pod gets later still has the same hardware address:
/// no neighbour remembers a wrong one.
fn mac_for(address: Option<IpAddr>, name: &str) -> Mac {
    let last: [u8; 4] = match address {
        Some(IpAddr::V4(v4)) => v4.octets(),
        Some(IpAddr::V6(v6)) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
        None => (hash(name.as_bytes()) as u32).to_be_bytes(),
    };
    let [first, second] = MAC_PREFIX;
    let [a, b, c, d] = last;
    [first, second, a, b, c, d]
}

/// FNV-1a, 64 bits: spreads names, keeps nothing secret, and stays the same from version to version.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    // The lowest bit marks groups.
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

/// A hardware address as it is written.
pub(super) fn show_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ() {
        let id = |name: &str| AttachmentId { container_id: name.into(), ifname: "eth0".into() };
        let name = host_interface("knarr0", &id("a"));
        assert_eq!(name.len(), 15);
        assert_ne!(name, host_interface("knarr0", &id("b")));
        assert_ne!(name, host_interface("knarr1", &id("a")));
    }

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac = mac_for(Some(IpAddr::from([10, 1, 2, 3])), "");
        assert_eq!(show_mac(mac), "0a:58:0a:01:02:03");
        assert_eq!(parse_mac("0a:58:0a:01:02:03"), Some(mac));
        for bad in ["", "0a:58:0a:01:02", "0a:58:0a:01:02:03:04", "01:00:00:00:00:00", "xx:58:0a:01:02:03"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
