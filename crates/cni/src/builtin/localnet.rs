//! The host's loopback network, 127.0.0.0/8, routed to pods: what connects to a host port there leaves with a loopback address as
//! long as nobody has given it another, which the kernel lets by no interface unless `route_localnet` is set on it
//! (Documentation/networking/ip-sysctl).
//!
//! With that setting alone whoever sits at the interface would reach what listens on the host's loopback (CVE-2020-8558), so it is set
//! only on an interface that stands in the set `localnet` of the tables, whose guard drops such packets; and it is taken back
//! before the guard goes. Whoever has set it otherwise, an operator or another runtime's plugin, is let be.

use std::io;
use std::net::IpAddr;

use super::link::{self, failed, octets};
use super::netlink::{Message, Socket, attribute, u32_at};
use super::nft::{Entry, Family, Value};
use super::sysctl;
use super::tables::{Map, Placed};
use crate::error::Error;

const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
const RTMSG: usize = 12;
/// An interface's name in the tables.
const IFNAMSIZ: usize = 16;
const COMMENT: &str = "route_localnet";
/// What it is set to. The kernel takes any number but 0 for a yes (net/ipv4/devinet.c, `DEVINET_SYSCTL_FLUSHING_ENTRY`;
/// include/linux/inetdevice.h, `IN_DEV_NET_ROUTE_LOCALNET`), and everybody else writes 1: so that this one tells who has set it. It is
/// written with the setting itself, ends with the interface, and nobody who flushes tables or is killed can part the two.
const OURS: &str = "107";
const SHUT: &str = "0";
/// Where interfaces have it, and settings that are no interface's.
const DIRECTORY: &str = "ipv4/conf";
const NO_INTERFACES: [&str; 2] = ["all", "default"];

/// The entry of the interface that an IPv4 address is reached by; `None` when that is no neighbour of the host: a pod's interface
/// is meant, never the way to the world.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn interface_to(address: IpAddr) -> Result<Option<Placed>, Error> {
    let mut socket = link::socket()?;
    let found = route(&mut socket, address).and_then(|index| match index {
        None => Ok(None),
        Some(index) => link::with_index(&mut socket, index),
    });
    let found = found.map_err(|source| failed("find route to", &address.to_string(), source))?;
    Ok(found.map(|link| placed(&link.name)))
}

/// The interface that the kernel sends by.
fn route(socket: &mut Socket, address: IpAddr) -> io::Result<Option<u32>> {
    let destination = octets(address);
    let bits = u8::try_from(destination.len() * 8).unwrap_or(0);
    let family = if address.is_ipv4() { link::AF_INET } else { link::AF_INET6 };
    let mut message = Message::new(RTM_GETROUTE, 0, &[family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.attributes.put(RTA_DST, &destination);
    let answers = match socket.request(message) {
        Err(error) if is_unreachable(&error) => return Ok(None),
        answers => answers?,
    };
    let by = |kind| answers.first().and_then(|answer| attribute(answer, RTMSG, kind));
    let far = by(RTA_GATEWAY).or_else(|| by(RTA_VIA)).is_some();
    Ok(by(RTA_OIF).filter(|_| !far).and_then(|index| u32_at(index, 0)))
}

fn is_unreachable(error: &io::Error) -> bool {
    let unreachable = [io::ErrorKind::NetworkUnreachable, io::ErrorKind::HostUnreachable];
    unreachable.contains(&error.kind())
}

fn placed(interface: &str) -> Placed {
    let mut key = interface.as_bytes().to_vec();
    key.resize(IFNAMSIZ, 0);
    let entry = Entry { key, value: Value::Nothing, comment: COMMENT.to_owned() };
    Placed { family: Family::Ipv4, map: Map::Localnet, entry }
}

/// Whether an entry's interface is gone.
pub(super) fn is_gone(placed: &Placed) -> bool {
    placed.map == Map::Localnet && !sysctl::exists(&setting(&placed.entry))
}

/// Lets the loopback network be routed by that interface, unless somebody has done so.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn open(interface: &Entry) -> Result<(), Error> {
    let setting = setting(interface);
    match sysctl::get(&setting).as_deref() {
        None | Some(SHUT) => sysctl::set(&setting, OURS),
        Some(_) => Ok(()),
    }
}

/// Ends that, unless somebody else has done so, too.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn shut(interface: &Entry) -> Result<(), Error> {
    let setting = setting(interface);
    if sysctl::get(&setting).as_deref() == Some(OURS) { sysctl::set(&setting, SHUT) } else { Ok(()) }
}

/// The entries of the interfaces that it is routed by because of us, whether they stand in the tables or not.
pub(super) fn opened() -> Vec<Entry> {
    let names = sysctl::list(DIRECTORY).into_iter().filter(|name| !NO_INTERFACES.contains(&name.as_str()));
    let entries = names.map(|name| placed(&name).entry);
    entries.filter(|entry| sysctl::get(&setting(entry)).as_deref() == Some(OURS)).collect()
}

fn setting(interface: &Entry) -> String {
    let name = interface.key.split(|byte| *byte == 0).next().unwrap_or_default();
    format!("{DIRECTORY}/{}/route_localnet", String::from_utf8_lossy(name))
}

#[cfg(test)]
mod tests;
