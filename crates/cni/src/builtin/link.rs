//! Links over rtnetlink (rtnetlink(7); linux/if_link.h): what there is, and changes that any link takes.
//!
//! Bridges with their ports, pairs and hardware addresses are below. What belongs on which link is the affair of `bridge` and
//! `loopback`; addresses and routes have modules of their own.

mod bridge;
mod mac;
mod veth;

use std::io;
use std::net::IpAddr;

pub(super) use self::bridge::{
    NewBridge, Port, block_port, create_bridge, filter_vlans, make_promiscuous, set_up_port,
};
pub(super) use self::mac::{Mac, parse_mac, show_mac};
pub(super) use self::veth::{VethPair, create_veth};
use super::netlink::{DUMP, Message, Socket, attribute, u32_at};
use super::steps::Steps;
use crate::error::Error;

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
pub(super) const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_VLAN_FILTERING: u16 = 7;

const AF_UNSPEC: u8 = 0;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFF_PROMISC: u32 = 0x100;
/// linux/if.h, RFC 2863.
const IF_OPER_UP: u8 = 6;

/// The size of ifinfomsg.
pub(super) const IFINFOMSG: usize = 16;

/// What the kernel says of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) mac: Option<Mac>,
    /// `bridge`, `veth` …; empty for hardware.
    pub(super) kind: String,
    pub(super) vlan_filtering: bool,
    /// The bridge that it is a port of.
    pub(super) master: Option<u32>,
    /// The index of its other end, in the namespace where that is.
    pub(super) peer: Option<u32>,
    pub(super) is_up: bool,
    pub(super) is_promiscuous: bool,
    /// Whether packets pass: for a veth pair, when both ends are up.
    pub(super) is_operational: bool,
    /// What `ip link` shows as its alias.
    pub(super) alias: String,
}

impl Link {
    /// Its hardware address as it is written; empty when it has none.
    pub(super) fn shown_mac(&self) -> String {
        self.mac.map(show_mac).unwrap_or_default()
    }
}

/// Opens the calling thread's rtnetlink socket.
pub(super) fn socket() -> Result<Socket, Error> {
    Socket::route().map_err(|source| failed("open", "rtnetlink socket", source))
}

pub(super) fn ifinfomsg(family: u8, index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG] {
    let mut head = [0; IFINFOMSG];
    head[0] = family;
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

/// A change of the link of that name.
fn change(name: &str, flags: u32) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &ifinfomsg(AF_UNSPEC, 0, flags, flags));
    message.attributes.put_str(IFLA_IFNAME, name);
    message
}

/// The link of that name; `None` when there is none.
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let mut message = Message::new(RTM_GETLINK, 0, &ifinfomsg(AF_UNSPEC, 0, 0, 0));
    message.attributes.put_str(IFLA_IFNAME, name);
    found(socket.request(message)).map_err(|source| failed("find link", name, source))
}

/// The link of that name, which has to be there.
pub(super) fn expect(socket: &mut Socket, name: &str) -> Result<Link, Error> {
    let absent = || failed("find link", name, io::Error::from_raw_os_error(nodev()));
    find(socket, name)?.ok_or_else(absent)
}

/// The link of that index; `None` when there is none.
pub(super) fn with_index(socket: &mut Socket, index: u32) -> io::Result<Option<Link>> {
    found(socket.request(Message::new(RTM_GETLINK, 0, &ifinfomsg(AF_UNSPEC, index, 0, 0))))
}

/// All links of the namespace.
pub(super) fn list(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let answers = socket.request(Message::new(RTM_GETLINK, DUMP, &ifinfomsg(AF_UNSPEC, 0, 0, 0)));
    let answers = answers.map_err(|source| failed("list", "links", source))?;
    Ok(answers.iter().filter_map(|answer| parse(answer)).collect())
}

fn found(answers: io::Result<Vec<Vec<u8>>>) -> io::Result<Option<Link>> {
    match answers {
        Err(error) if is_absent(&error) => Ok(None),
        answers => Ok(answers?.first().and_then(|answer| parse(answer))),
    }
}

fn parse(answer: &[u8]) -> Option<Link> {
    let get = |kind| attribute(answer, IFINFOMSG, kind);
    let number = |kind| get(kind).and_then(|value| u32_at(value, 0));
    let flags = u32_at(answer, 8)?;
    let info = |kind| get(IFLA_LINKINFO).and_then(|info| attribute(info, 0, kind));
    let filtering = info(IFLA_INFO_DATA).and_then(|data| attribute(data, 0, IFLA_BR_VLAN_FILTERING));
    let kind = info(IFLA_INFO_KIND).map(text).unwrap_or_default();
    Some(Link {
        index: u32_at(answer, 4)?,
        name: get(IFLA_IFNAME).map(text)?,
        mtu: number(IFLA_MTU)?,
        mac: get(IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
        vlan_filtering: kind == "bridge" && filtering.is_some_and(|value| value.first() == Some(&1)),
        kind,
        master: number(IFLA_MASTER),
        peer: number(IFLA_LINK),
        is_up: flags & IFF_UP != 0,
        is_promiscuous: flags & IFF_PROMISC != 0,
        is_operational: get(IFLA_OPERSTATE).and_then(|state| state.first()) == Some(&IF_OPER_UP),
        alias: get(IFLA_IFALIAS).map(text).unwrap_or_default(),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// Gives a link a hardware address for good.
pub(super) fn set_mac(steps: &mut Steps, name: &str, mac: Mac) {
    let mut message = change(name, 0);
    message.attributes.put(IFLA_ADDRESS, &mac);
    steps.push("set hardware address of", name, message);
}

/// Deletes a link; one that is gone is fine. Returns whether it was there.
pub(super) fn delete(socket: &mut Socket, name: &str) -> Result<bool, Error> {
    let mut message = Message::new(RTM_DELLINK, 0, &ifinfomsg(AF_UNSPEC, 0, 0, 0));
    message.attributes.put_str(IFLA_IFNAME, name);
    match socket.request(message) {
        Err(error) if is_absent(&error) => Ok(false),
        outcome => outcome.map(|_| true).map_err(|source| failed("delete link", name, source)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nodev())
}

fn nodev() -> i32 {
    rustix::io::Errno::NODEV.raw_os_error()
}

/// Sets a link up.
pub(super) fn set_up(steps: &mut Steps, name: &str) {
    steps.push("set up link", name, change(name, IFF_UP));
}

/// Sets a link down.
pub(super) fn set_down(steps: &mut Steps, name: &str) {
    let mut message = Message::new(RTM_NEWLINK, 0, &ifinfomsg(AF_UNSPEC, 0, 0, IFF_UP));
    message.attributes.put_str(IFLA_IFNAME, name);
    steps.push("set down link", name, message);
}

/// The address as it stands in packets and messages.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn failed(action: &'static str, subject: &str, source: io::Error) -> Error {
    Error::Kernel { action, subject: subject.to_owned(), source }
}
