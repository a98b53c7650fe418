//! Links over rtnetlink (rtnetlink(7); linux/if_link.h, linux/if_bridge.h).
//!
//! What belongs on which link is the affair of `bridge` and `loopback`; addresses and routes have modules of their own.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{Attributes, CREATE, DUMP, EXCL, Message, Socket, attribute, u32_at};
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
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_FLUSH: u16 = 24;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRPORT_LOCKED: u16 = 39;
const BR_STATE_DISABLED: u8 = 0;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

const AF_UNSPEC: u8 = 0;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFF_PROMISC: u32 = 0x100;
/// linux/if.h, RFC 2863.
const IF_OPER_UP: u8 = 6;

/// The size of ifinfomsg.
pub(super) const IFINFOMSG: usize = 16;

/// A hardware address.
pub(super) type Mac = [u8; 6];

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

/// A bridge to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewBridge<'a> {
    pub(super) name: &'a str,
    /// The kernel's choice when `None`; it then changes with the ports.
    pub(super) mac: Option<Mac>,
    pub(super) mtu: Option<u32>,
    pub(super) vlan_filtering: bool,
    pub(super) promiscuous: bool,
    pub(super) alias: Option<&'a str>,
}

/// A veth pair to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct VethPair<'a> {
    pub(super) host_name: &'a str,
    /// The bridge that the host's end becomes a port of.
    pub(super) bridge: u32,
    pub(super) peer_name: &'a str,
    /// Where the peer is born, so that it is never seen on the host; beside its other end when `None`.
    pub(super) peer_netns: Option<BorrowedFd<'a>>,
    pub(super) peer_mac: Option<Mac>,
    pub(super) mtu: Option<u32>,
}

/// How a bridge treats one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port<'a> {
    pub(super) name: &'a str,
    pub(super) hairpin: bool,
    pub(super) isolated: bool,
    /// Whether the port itself speaks IPv6, which it has no need to.
    pub(super) has_ipv6: bool,
    pub(super) alias: &'a str,
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

/// Makes a bridge and sets it up. One that is there by now is fine.
pub(super) fn create_bridge(socket: &mut Socket, bridge: &NewBridge<'_>) -> Result<(), Error> {
    let flags = IFF_UP | if bridge.promiscuous { IFF_PROMISC } else { 0 };
    let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL, &ifinfomsg(AF_UNSPEC, 0, flags, flags));
    message.attributes.put_str(IFLA_IFNAME, bridge.name);
    if let Some(mac) = bridge.mac {
        message.attributes.put(IFLA_ADDRESS, &mac);
    }
    if let Some(mtu) = bridge.mtu {
        message.attributes.put_u32(IFLA_MTU, mtu);
    }
    message.attributes.nest(IFLA_LINKINFO, |info| {
        info.put_str(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
            if bridge.vlan_filtering {
                data.put(IFLA_BR_VLAN_FILTERING, &[1]);
            }
        });
    });
    let mut messages = vec![message];
    if let Some(alias) = bridge.alias {
        // The kernel takes none with what it makes. In the same system call, so that nobody is killed between the two; a bridge
        // of that name which somebody else makes at this very moment gets it as well.
        let mut message = change(bridge.name, 0);
        message.attributes.put_str(IFLA_IFALIAS, alias);
        messages.push(message);
    }
    match socket.request_all(messages) {
        Err(refused) if refused.source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome.map_err(|refused| failed("create bridge", bridge.name, refused.source)),
    }
}

/// Has a bridge tell VLANs apart.
pub(super) fn filter_vlans(steps: &mut Steps, bridge: &str) {
    let mut message = change(bridge, 0);
    message.attributes.nest(IFLA_LINKINFO, |info| {
        info.put_str(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
            data.put(IFLA_BR_VLAN_FILTERING, &[1]);
        });
    });
    steps.push("filter VLANs of bridge", bridge, message);
}

/// Has a link take all packets, whomever they are for.
pub(super) fn make_promiscuous(steps: &mut Steps, name: &str) {
    steps.push("make promiscuous", name, change(name, IFF_PROMISC));
}

/// Gives a link a hardware address for good.
pub(super) fn set_mac(steps: &mut Steps, name: &str, mac: Mac) {
    let mut message = change(name, 0);
    message.attributes.put(IFLA_ADDRESS, &mac);
    steps.push("set hardware address of", name, message);
}

/// Makes the pair, both ends down.
pub(super) fn create_veth(socket: &mut Socket, pair: &VethPair<'_>) -> Result<(), Error> {
    let head = ifinfomsg(AF_UNSPEC, 0, 0, 0);
    let mut create = Message::new(RTM_NEWLINK, CREATE | EXCL, &head);
    create.attributes.put_str(IFLA_IFNAME, pair.host_name).put_u32(IFLA_MASTER, pair.bridge);
    put_mtu(&mut create.attributes, pair.mtu);
    create.attributes.nest(IFLA_LINKINFO, |info| {
        info.put_str(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
            data.nest_after(VETH_INFO_PEER, &head, |peer| {
                peer.put_str(IFLA_IFNAME, pair.peer_name);
                put_mtu(peer, pair.mtu);
                if let Some(mac) = pair.peer_mac {
                    peer.put(IFLA_ADDRESS, &mac);
                }
                if let Some(netns) = pair.peer_netns {
                    peer.put_u32(IFLA_NET_NS_FD, u32::try_from(netns.as_raw_fd()).unwrap_or(u32::MAX));
                }
            });
        });
    });
    let made = socket.request(create);
    let subject = || format!("{} with peer {}", pair.host_name, pair.peer_name);
    made.map(drop).map_err(|source| failed("create veth pair", &subject(), source))
}

fn put_mtu(attributes: &mut Attributes, mtu: Option<u32>) {
    if let Some(mtu) = mtu {
        attributes.put_u32(IFLA_MTU, mtu);
    }
}

/// Sets a port up with all that its bridge has to know.
pub(super) fn set_up_port(steps: &mut Steps, port: &Port<'_>) {
    let mut message = change(port.name, 0);
    message.attributes.put_str(IFLA_IFALIAS, port.alias).nest(IFLA_LINKINFO, |info| {
        info.put_str(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
            data.put(IFLA_BRPORT_MODE, &[port.hairpin.into()]);
            data.put(IFLA_BRPORT_ISOLATED, &[port.isolated.into()]);
        });
    });
    if port.has_ipv6 {
        // A bridge's port needs no address, nor the messages that come of having one.
        message.attributes.nest(IFLA_AF_SPEC, |families| {
            families.nest(u16::from(AF_INET6), |inet6| {
                inet6.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
    }
    steps.push("set bridge port", port.name, message);
    set_up(steps, port.name);
}

/// Has a bridge take no more packets from a port, nor send any there. Returns whether there is such a port.
///
/// Unlike deleting the link, setting it down or taking it out of the bridge this makes the kernel wait for no reader of the
/// device. The state alone wouldn't do: the bridge enables a port again when it hears late of its carrier.
pub(super) fn block_port(socket: &mut Socket, name: &str) -> Result<bool, Error> {
    let mut message = change(name, 0);
    message.attributes.nest(IFLA_LINKINFO, |info| {
        info.put_str(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
            data.put(IFLA_BRPORT_STATE, &[BR_STATE_DISABLED]);
            // Learns nobody, takes packets of nobody it hasn't learnt, and gets none that are meant for everybody.
            for (flag, value) in [
                (IFLA_BRPORT_LEARNING, 0),
                (IFLA_BRPORT_UNICAST_FLOOD, 0),
                (IFLA_BRPORT_MCAST_FLOOD, 0),
                (IFLA_BRPORT_BCAST_FLOOD, 0),
                (IFLA_BRPORT_LOCKED, 1),
            ] {
                data.put(flag, &[value]);
            }
            data.put(IFLA_BRPORT_FLUSH, &[]);
        });
    });
    match socket.request(message) {
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) if is_cut_off(&error) => Ok(true),
        outcome => outcome.map(|_| true).map_err(|source| failed("block bridge port", name, source)),
    }
}

/// What the kernel says of a link that is no port of a bridge any more, or is down: nothing passes there.
fn is_cut_off(error: &io::Error) -> bool {
    let cut_off = [rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::NETDOWN];
    cut_off.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
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

/// Reads a hardware address.
pub(super) fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
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

pub(super) fn failed(action: &'static str, subject: &str, source: io::Error) -> Error {
    Error::Kernel { action, subject: subject.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac = [0x0a, 0x58, 0x0a, 1, 2, 3];
        assert_eq!(show_mac(mac), "0a:58:0a:01:02:03");
        assert_eq!(parse_mac("0a:58:0a:01:02:03"), Some(mac));
        for bad in ["", "0a:58:0a:01:02", "0a:58:0a:01:02:03:04", "01:00:00:00:00:00", "xx:58:0a:01:02:03"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
