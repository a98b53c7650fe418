//! Links, addresses and routes over rtnetlink (rtnetlink(7); linux/if_link.h, if_addr.h, rtnetlink.h).
//!
//! What belongs on which link is `bridge`'s affair.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{APPEND, Attributes, CREATE, DUMP, EXCL, Message, REPLACE, Socket, attribute, u32_at};
use super::sysctl;
use crate::error::Error;
use crate::result::Cidr;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_FLUSH: u16 = 24;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_LOCKED: u16 = 39;
const BR_STATE_DISABLED: u8 = 0;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;

const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;

/// The sizes of ifinfomsg, ifaddrmsg and rtmsg.
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// What the kernel says of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mtu: u32,
}

/// A veth pair to be made: one end a port of a bridge, the other in a namespace.
#[derive(Debug)]
pub(super) struct VethPair<'a> {
    pub(super) host_name: &'a str,
    pub(super) bridge: u32,
    pub(super) peer_name: &'a str,
    pub(super) peer_netns: BorrowedFd<'a>,
    pub(super) peer_mac: Mac,
    pub(super) mtu: u32,
}

fn ifinfomsg(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut head = vec![AF_UNSPEC, 0, 0, 0];
    head.extend(index.to_ne_bytes());
    head.extend(flags.to_ne_bytes());
    head.extend(change.to_ne_bytes());
    head
}

/// The link of that name; `None` when there is none.
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let mut message = Message::new(RTM_GETLINK, 0, &ifinfomsg(0, 0, 0));
    message.attributes.put_str(IFLA_IFNAME, name);
    found(socket.request(message)).map_err(|source| failed("find link", name, source))
}

fn with_index(socket: &mut Socket, index: u32) -> io::Result<Option<Link>> {
    found(socket.request(Message::new(RTM_GETLINK, 0, &ifinfomsg(index, 0, 0))))
}

fn found(answers: io::Result<Vec<Vec<u8>>>) -> io::Result<Option<Link>> {
    let answers = match answers {
        Err(error) if is_absent(&error) => return Ok(None),
        answers => answers?,
    };
    let link = answers.first().and_then(|answer| {
        let mtu = attribute(answer, IFINFOMSG, IFLA_MTU).and_then(|mtu| u32_at(mtu, 0))?;
        Some(Link { index: u32_at(answer, 4)?, mtu })
    });
    Ok(link)
}

/// Makes a bridge, set up and with a hardware address of its own: else it would take its ports', and change with them.
pub(super) fn create_bridge(socket: &mut Socket, name: &str, mac: Mac, mtu: u32) -> Result<(), Error> {
    let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL, &ifinfomsg(0, IFF_UP, IFF_UP));
    message.attributes.put_str(IFLA_IFNAME, name).put(IFLA_ADDRESS, &mac).put_u32(IFLA_MTU, mtu).nest(
        IFLA_LINKINFO,
        |info| {
            info.put_str(IFLA_INFO_KIND, "bridge");
        },
    );
    match socket.request(message) {
        // Made by another daemon's thread meanwhile, or left by an earlier one of ours.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome.map(drop).map_err(|source| failed("create bridge", name, source)),
    }
}

/// Makes the pair, the host's end up and in its bridge; the peer is born in its namespace, so that it is never seen on
/// the host.
pub(super) fn create_veth(socket: &mut Socket, pair: &VethPair<'_>) -> Result<(), Error> {
    let mut create = Message::new(RTM_NEWLINK, CREATE | EXCL, &ifinfomsg(0, 0, 0));
    create
        .attributes
        .put_str(IFLA_IFNAME, pair.host_name)
        .put_u32(IFLA_MTU, pair.mtu)
        .put_u32(IFLA_MASTER, pair.bridge)
        .nest(IFLA_LINKINFO, |info| {
            info.put_str(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest_after(VETH_INFO_PEER, &ifinfomsg(0, 0, 0), |peer| peer_of(pair, peer));
            });
        });
    socket.request(create).map_err(|source| failed("create veth pair", pair.host_name, source))?;
    // A pod that reaches itself by its host port or service comes back by the port that it left by.
    let mut hairpin = Message::new(RTM_NEWLINK, 0, &ifinfomsg(0, 0, 0));
    hairpin.attributes.put_str(IFLA_IFNAME, pair.host_name).nest(IFLA_LINKINFO, |info| {
        info.put_str(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
            data.put(IFLA_BRPORT_MODE, &[1]);
        });
    });
    if sysctl::has_ipv6(pair.mtu) {
        hairpin.attributes.nest(IFLA_AF_SPEC, without_link_local);
    }
    let up = up_message(pair.host_name);
    let outcome = socket.request_all(vec![hairpin, up]);
    outcome.map_err(|refused| failed("set up bridge port", pair.host_name, refused.source))
}

fn peer_of(pair: &VethPair<'_>, peer: &mut Attributes) {
    let netns = u32::try_from(pair.peer_netns.as_raw_fd()).unwrap_or(u32::MAX);
    peer.put_str(IFLA_IFNAME, pair.peer_name)
        .put_u32(IFLA_MTU, pair.mtu)
        .put(IFLA_ADDRESS, &pair.peer_mac)
        .put_u32(IFLA_NET_NS_FD, netns);
}

/// The host's end is a bridge's port and needs no address, nor the messages that come of having one.
fn without_link_local(families: &mut Attributes) {
    families.nest(u16::from(AF_INET6), |inet6| {
        inet6.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
    });
}

/// Has a bridge take no more packets from a port, nor send any there; a port that is gone is fine.
///
/// Unlike deleting the link, setting it down or taking it out of the bridge this makes the kernel wait for no reader of the
/// device. The state alone wouldn't do: the bridge enables a port again when it hears late of its carrier.
pub(super) fn block_port(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let mut message = Message::new(RTM_NEWLINK, 0, &ifinfomsg(0, 0, 0));
    message.attributes.put_str(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |info| {
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
        Err(error) if is_absent(&error) || is_cut_off(&error) => Ok(()),
        outcome => outcome.map(drop).map_err(|source| failed("block bridge port", name, source)),
    }
}

/// What the kernel says of a link that is no port of a bridge any more, or is down: nothing passes there.
fn is_cut_off(error: &io::Error) -> bool {
    let cut_off = [rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::NETDOWN];
    cut_off.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Deletes a link; one that is gone is fine.
pub(super) fn delete(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let mut message = Message::new(RTM_DELLINK, 0, &ifinfomsg(0, 0, 0));
    message.attributes.put_str(IFLA_IFNAME, name);
    match socket.request(message) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome.map(drop).map_err(|source| failed("delete link", name, source)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Gives a link an address, if it hasn't got it.
pub(super) fn add_address(socket: &mut Socket, link: u32, address: Cidr) -> Result<(), Error> {
    let request = socket.request(address_message(link, address));
    request.map(drop).map_err(|source| failed("add address", &address.to_string(), source))
}

fn address_message(link: u32, address: Cidr) -> Message {
    let family = family(address.address);
    let mut head = vec![family, address.prefix, 0, 0];
    head.extend(link.to_ne_bytes());
    let mut message = Message::new(RTM_NEWADDR, CREATE | REPLACE, &head);
    let bytes = octets(address.address);
    message.attributes.put(IFA_LOCAL, &bytes).put(IFA_ADDRESS, &bytes);
    match address.address {
        IpAddr::V4(v4) => {
            let hosts = u32::MAX.checked_shr(u32::from(address.prefix)).unwrap_or(0);
            message.attributes.put(IFA_BROADCAST, &(v4.to_bits() | hosts).to_be_bytes());
        }
        // We hand it out once only; looking for duplicates would keep it unusable for a second.
        IpAddr::V6(_) => {
            message.attributes.put_u32(IFA_FLAGS, IFA_F_NODAD);
        }
    }
    message
}

/// Sets a link up with addresses and default routes, at once.
pub(super) fn configure(
    socket: &mut Socket,
    name: &str,
    link: u32,
    addresses: &[(Cidr, IpAddr)],
) -> Result<(), Error> {
    let mut messages = vec![Message::new(RTM_NEWLINK, 0, &ifinfomsg(link, IFF_UP, IFF_UP))];
    let mut actions = vec![("set up link", name.to_owned())];
    for (address, gateway) in addresses {
        messages.push(address_message(link, *address));
        actions.push(("add address", address.to_string()));
        messages.push(default_route(link, *gateway));
        actions.push(("add default route by", gateway.to_string()));
    }
    socket.request_all(messages).map_err(|refused| {
        let (action, subject) = actions.swap_remove(refused.index.min(actions.len() - 1));
        Error::Kernel { action, subject, source: refused.source }
    })
}

/// Sets a link up.
pub(super) fn set_up(socket: &mut Socket, name: &str) -> Result<(), Error> {
    socket.request(up_message(name)).map(drop).map_err(|source| failed("set up link", name, source))
}

fn up_message(name: &str) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &ifinfomsg(0, IFF_UP, IFF_UP));
    message.attributes.put_str(IFLA_IFNAME, name);
    message
}

fn default_route(link: u32, gateway: IpAddr) -> Message {
    let head = [family(gateway), 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0];
    let mut message = Message::new(RTM_NEWROUTE, CREATE | APPEND, &head);
    message.attributes.put(RTA_GATEWAY, &octets(gateway)).put_u32(RTA_OIF, link);
    message
}

/// Whether a link has that address.
pub(super) fn has_address(socket: &mut Socket, link: u32, address: Cidr) -> Result<bool, Error> {
    let mut head = vec![family(address.address), 0, 0, 0];
    head.extend(0u32.to_ne_bytes());
    let answers = socket.request(Message::new(RTM_GETADDR, DUMP, &head));
    let answers = answers.map_err(|source| failed("find address", &address.to_string(), source))?;
    let wanted = octets(address.address);
    Ok(answers.iter().any(|answer| {
        u32_at(answer, 4) == Some(link)
            && answer.get(1) == Some(&address.prefix)
            && attribute(answer, IFADDRMSG, IFA_ADDRESS) == Some(&wanted)
    }))
}

/// The MTU of the link that the host's default route goes by; `None` where there is no such route.
pub(super) fn default_route_mtu(socket: &mut Socket) -> Result<Option<u32>, Error> {
    let wrap = |source| failed("read MTU of", "default route", source);
    for family in [AF_INET, AF_INET6] {
        let mut head = [0; RTMSG];
        (head[0], head[4]) = (family, RT_TABLE_MAIN);
        let answers = socket.request(Message::new(RTM_GETROUTE, DUMP, &head)).map_err(wrap)?;
        let routes = answers.iter().filter_map(|answer| {
            let of_main = answer.get(1) == Some(&0) && answer.get(4) == Some(&RT_TABLE_MAIN);
            let number = |kind| attribute(answer, RTMSG, kind).and_then(|value| u32_at(value, 0));
            let unicast = answer.get(7) == Some(&RTN_UNICAST);
            if of_main && unicast {
                Some((number(RTA_PRIORITY).unwrap_or(0), number(RTA_OIF)?))
            } else {
                None
            }
        });
        if let Some((_, link)) = routes.min() {
            return with_index(socket, link).map(|link| link.map(|link| link.mtu)).map_err(wrap);
        }
    }
    Ok(None)
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// The address as it stands in packets and messages.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn failed(action: &'static str, subject: &str, source: io::Error) -> Error {
    Error::Kernel { action, subject: subject.to_owned(), source }
}
