//! Addresses of links over rtnetlink (linux/if_addr.h).

use std::io;
use std::net::IpAddr;

use super::link::{AF_INET, AF_INET6, failed, octets};
use super::netlink::{CREATE, DUMP, EXCL, Message, Socket, attribute, u32_at};
use super::steps::Steps;
use crate::error::Error;
use crate::result::Cidr;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
/// The size of ifaddrmsg.
const IFADDRMSG: usize = 8;

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) link: u32,
    pub(super) address: Cidr,
    /// Whether it isn't usable yet, as the kernel looks for another host that has it.
    pub(super) is_tentative: bool,
    /// Whether there is such a host.
    pub(super) is_duplicate: bool,
}

/// Whether the kernel is to look for another host that has an IPv6 address, which keeps it unusable for a second or so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detection {
    /// We hand it out once only.
    Skip,
    Perform,
}

/// All addresses of the namespace.
pub(super) fn list(socket: &mut Socket) -> Result<Vec<Held>, Error> {
    let answers = socket.request(Message::new(RTM_GETADDR, DUMP, &[0; IFADDRMSG]));
    let answers = answers.map_err(|source| failed("list", "addresses", source))?;
    Ok(answers.iter().filter_map(|answer| parse(answer)).collect())
}

fn parse(answer: &[u8]) -> Option<Held> {
    let get = |kind| attribute(answer, IFADDRMSG, kind);
    // On a link with a peer, the address is the peer's.
    let bytes = get(IFA_LOCAL).or_else(|| get(IFA_ADDRESS))?;
    let address = match *answer.first()? {
        AF_INET => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    let flags = get(IFA_FLAGS).and_then(|flags| u32_at(flags, 0)).unwrap_or(0);
    Some(Held {
        link: u32_at(answer, 4)?,
        address: Cidr { address, prefix: *answer.get(1)? },
        is_tentative: flags & IFA_F_TENTATIVE != 0,
        is_duplicate: flags & IFA_F_DADFAILED != 0,
    })
}

/// Gives a link an address.
pub(super) fn add(steps: &mut Steps, link: u32, address: Cidr, detection: Detection) {
    steps.push("add address", address, add_message(link, address, detection));
}

/// The same at once; one that it has already is fine. Returns whether it is new.
pub(super) fn ensure(socket: &mut Socket, link: u32, address: Cidr) -> Result<bool, Error> {
    match socket.request(add_message(link, address, Detection::Skip)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        outcome => {
            outcome.map(|_| true).map_err(|source| failed("add address", &address.to_string(), source))
        }
    }
}

/// Takes an address from a link; one that it hasn't got is fine.
pub(super) fn delete(socket: &mut Socket, link: u32, address: Cidr) -> Result<(), Error> {
    match socket.request(message(RTM_DELADDR, 0, link, address)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
        outcome => outcome.map(drop).map_err(|source| failed("remove address", &address.to_string(), source)),
    }
}

fn message(kind: u16, flags: u16, link: u32, address: Cidr) -> Message {
    let family = if address.address.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut head = vec![family, address.prefix, 0, 0];
    head.extend(link.to_ne_bytes());
    let mut message = Message::new(kind, flags, &head);
    let bytes = octets(address.address);
    message.attributes.put(IFA_LOCAL, &bytes).put(IFA_ADDRESS, &bytes);
    message
}

fn add_message(link: u32, address: Cidr, detection: Detection) -> Message {
    let mut message = message(RTM_NEWADDR, CREATE | EXCL, link, address);
    match address.address {
        // A network of two has no broadcast address (RFC 3021).
        IpAddr::V4(v4) if address.prefix < 31 => {
            let broadcast = v4.to_bits() | (u32::MAX >> address.prefix);
            message.attributes.put(IFA_BROADCAST, &broadcast.to_be_bytes());
        }
        IpAddr::V6(_) if detection == Detection::Skip => {
            message.attributes.put_u32(IFA_FLAGS, IFA_F_NODAD);
        }
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    message
}
