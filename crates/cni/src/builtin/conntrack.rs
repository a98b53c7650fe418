//! Connections that the kernel remembers though they should lead elsewhere now (linux/netfilter/nfnetlink_conntrack.h).
//!
//! The kernel looks at our tables for the first packet of a connection only. So who goes on sending from the same port is sent on
//! where the first packet went: to the host before a port was published, to an address that is another pod's by now. When a port is
//! published that matters for UDP alone, which has no end that the kernel could see; when it is withdrawn, for all protocols:
//! nothing answers any more, and the next pod must not get what was meant for the former.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;

use super::address;
use super::link::{self, octets};
use super::netlink::{Attributes, DUMP, Message, Socket, attribute};
use super::portmap::way::Way;
use crate::attachment::Protocol;
use crate::error::Error;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_FILTER_F_IP_SRC: u32 = 1;
const CTA_FILTER_F_PROTO_NUM: u32 = 1 << 3;
const CTA_FILTER_F_PROTO_SRC_PORT: u32 = 1 << 4;
const CTA_FILTER_F_PROTO_DST_PORT: u32 = 1 << 5;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NFGENMSG: usize = 4;

/// Forgets what goes to the host ports of these ways from before, and not along them. What only passes this host, or goes along
/// them already, is left alone.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn forget_strays(ways: &[Way]) -> Result<(), Error> {
    for v4 in [true, false] {
        let udp = |way: &&Way| way.protocol == Protocol::Udp && way.pod.is_ipv4() == v4;
        let ways: HashSet<Way> = ways.iter().filter(udp).cloned().collect();
        if ways.is_empty() {
            continue;
        }
        let host = address::list(&mut link::socket()?)?;
        let host: HashSet<IpAddr> = host.iter().map(|held| held.address.address).collect();
        let ports: HashSet<(u16, Option<IpAddr>)> =
            ways.iter().map(|way| (way.host_port, way.host_ip)).collect();
        let filter = Filter { pod: None, pod_port: None, ..Filter::of(&ways) };
        forget(v4, filter, |connection| {
            let to_host = connection.wanted.is_loopback() || host.contains(&connection.wanted);
            let port = |host_ip| ports.contains(&(connection.wanted_port, host_ip));
            let ours = port(None) || port(Some(connection.wanted));
            connection.protocol == Protocol::Udp && to_host && ours && !connection.went_along(&ways)
        })?;
    }
    Ok(())
}

/// Forgets what went along these ways.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn forget_ways(ways: &HashSet<Way>) -> Result<(), Error> {
    let pods: HashSet<IpAddr> = ways.iter().map(|way| way.pod).collect();
    for pod in pods {
        let filter = Filter::of(ways.iter().filter(|way| way.pod == pod));
        forget(pod.is_ipv4(), filter, |connection| connection.went_along(ways))?;
    }
    Ok(())
}

/// What all connections that are looked for have in common: the kernel tells of no others, so that one port of a busy node isn't
/// looked for among all that the node remembers. Kernels before 5.8 tell of everything; it is compared here again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Filter {
    protocol: Option<Protocol>,
    host_port: Option<u16>,
    pod: Option<IpAddr>,
    pod_port: Option<u16>,
}

impl Filter {
    fn of<'a>(ways: impl IntoIterator<Item = &'a Way> + Clone) -> Filter {
        let protocol = common(ways.clone().into_iter().map(|way| way.protocol));
        // The kernel compares ports of a protocol that it is told.
        let port = |of: fn(&Way) -> u16| protocol.and_then(|_| common(ways.clone().into_iter().map(of)));
        Filter {
            protocol,
            host_port: port(|way| way.host_port),
            pod: common(ways.clone().into_iter().map(|way| way.pod)),
            pod_port: port(|way| way.pod_port),
        }
    }

    /// Writes what of the tuples is to be compared.
    fn put(self, into: &mut Attributes) {
        let (mut original, mut reply) = (0, 0);
        into.nest(CTA_TUPLE_ORIG, |tuple| {
            if let Some(protocol) = self.protocol {
                original |= put_service(tuple, protocol, (CTA_PROTO_DST_PORT, self.host_port));
            }
        });
        into.nest(CTA_TUPLE_REPLY, |tuple| {
            // Of IPv6 addresses the kernel tells all but the one that is asked for (net/netfilter/nf_conntrack_netlink.c,
            // `ctnetlink_filter_match_tuple`).
            if let Some(pod) = self.pod.filter(IpAddr::is_ipv4) {
                reply |= CTA_FILTER_F_IP_SRC;
                tuple.nest(CTA_TUPLE_IP, |ip| {
                    ip.put(CTA_IP_V4_SRC, &octets(pod));
                });
            }
            if let (Some(protocol), Some(_)) = (self.protocol, self.pod_port) {
                reply |= put_service(tuple, protocol, (CTA_PROTO_SRC_PORT, self.pod_port));
            }
        });
        into.nest(CTA_FILTER, |flags| {
            flags.put_u32(CTA_FILTER_ORIG_FLAGS, original).put_u32(CTA_FILTER_REPLY_FLAGS, reply);
        });
    }
}

/// Returns the flags by which it is compared.
fn put_service(tuple: &mut Attributes, protocol: Protocol, (kind, port): (u16, Option<u16>)) -> u32 {
    tuple.nest(CTA_TUPLE_PROTO, |service| {
        service.put(CTA_PROTO_NUM, &[protocol.number()]);
        if let Some(port) = port {
            service.put(kind, &port.to_be_bytes());
        }
    });
    match port {
        None => CTA_FILTER_F_PROTO_NUM,
        Some(_) if kind == CTA_PROTO_SRC_PORT => CTA_FILTER_F_PROTO_NUM | CTA_FILTER_F_PROTO_SRC_PORT,
        Some(_) => CTA_FILTER_F_PROTO_NUM | CTA_FILTER_F_PROTO_DST_PORT,
    }
}

/// What they all are, if they are all the same.
fn common<T: PartialEq>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next()?;
    all.all(|other| other == first).then_some(first)
}

/// A connection as the kernel remembers it.
#[derive(Debug, PartialEq, Eq)]
struct Connection {
    protocol: Protocol,
    /// Where it was meant to go.
    wanted: IpAddr,
    wanted_port: u16,
    /// Where it goes.
    found: IpAddr,
    found_port: u16,
}

impl Connection {
    /// None for a protocol without ports.
    fn parse(message: &[u8]) -> Option<Connection> {
        let part = |tuple, of, kind: u16| {
            let tuple = attribute(message, NFGENMSG, tuple)?;
            attribute(tuple, 0, of).and_then(|inner| attribute(inner, 0, kind))
        };
        let address = |tuple, v4, v6| match part(tuple, CTA_TUPLE_IP, v4) {
            Some(bytes) => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
            None => part(tuple, CTA_TUPLE_IP, v6)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        };
        let port = |tuple, kind| {
            part(tuple, CTA_TUPLE_PROTO, kind)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
        };
        Some(Connection {
            protocol: Protocol::numbered(*part(CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_NUM)?.first()?)?,
            wanted: address(CTA_TUPLE_ORIG, CTA_IP_V4_DST, CTA_IP_V6_DST)?,
            wanted_port: port(CTA_TUPLE_ORIG, CTA_PROTO_DST_PORT)?,
            found: address(CTA_TUPLE_REPLY, CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
            found_port: port(CTA_TUPLE_REPLY, CTA_PROTO_SRC_PORT)?,
        })
    }

    /// Whether it went along one of these ways.
    fn went_along(&self, ways: &HashSet<Way>) -> bool {
        let way = |host_ip| Way {
            protocol: self.protocol,
            host_ip,
            host_port: self.wanted_port,
            pod: self.found,
            pod_port: self.found_port,
        };
        ways.contains(&way(None)) || ways.contains(&way(Some(self.wanted)))
    }
}

/// Has the kernel find what may match, in one family, and deletes what does one by one, while more is told: a node may remember
/// millions.
fn forget(v4: bool, filter: Filter, matches: impl Fn(&Connection) -> bool) -> Result<(), Error> {
    let outcome = Socket::netfilter().and_then(|list| {
        let mut message = request(IPCTNL_MSG_CT_GET, DUMP, v4);
        filter.put(&mut message.attributes);
        let (mut socket, mut outcome) = (Socket::netfilter()?, Ok(()));
        list.stream(message, |found| {
            if Connection::parse(found).is_some_and(|connection| matches(&connection)) {
                outcome = delete(&mut socket, v4, found);
            }
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome
    });
    let subject = if v4 { "IPv4" } else { "IPv6" }.to_owned();
    outcome.map_err(|source| Error::Kernel { action: "forget connections over", subject, source })
}

/// Deletes a connection that was found; one that is gone is fine.
fn delete(socket: &mut Socket, v4: bool, found: &[u8]) -> io::Result<()> {
    let mut delete = request(IPCTNL_MSG_CT_DELETE, 0, v4);
    for kind in [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID] {
        if let Some(value) = attribute(found, NFGENMSG, kind) {
            delete.attributes.put(kind, value);
        }
    }
    match socket.request(delete) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn request(kind: u16, flags: u16, v4: bool) -> Message {
    let family = if v4 { 2 } else { 10 };
    Message::new(NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, &[family, 0, 0, 0])
}
