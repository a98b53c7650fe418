//! Connections that the kernel remembers though they lead nowhere any more (linux/netfilter/nfnetlink_conntrack.h).
//!
//! Only for UDP, which has no end that the kernel could see: as long as somebody goes on sending from the same port, the
//! kernel goes on sending it where the first datagram went: to the host before a port was published, to a pod that is
//! gone after it was.

use std::io;
use std::net::IpAddr;

use super::link::octets;
use super::netlink::{Attributes, DUMP, Message, Socket, attribute};
use crate::attachment::{PortMapping, Protocol};
use crate::error::Error;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_FILTER_F_IP_SRC: u32 = 1;
const CTA_FILTER_F_PROTO_NUM: u32 = 1 << 3;
const CTA_FILTER_F_PROTO_DST_PORT: u32 = 1 << 5;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const NFGENMSG: usize = 4;

/// Forgets what went to a host port that leads to these addresses from now on.
pub(super) fn forget_ports(mappings: &[PortMapping], pod: &[IpAddr]) -> Result<(), Error> {
    for mapping in udp(mappings) {
        for address in pod {
            forget(*address, |filter| {
                filter.nest(CTA_TUPLE_ORIG, |tuple| {
                    tuple.nest(CTA_TUPLE_PROTO, |service| {
                        service
                            .put(CTA_PROTO_NUM, &[Protocol::Udp.number()])
                            .put(CTA_PROTO_DST_PORT, &mapping.host_port.to_be_bytes());
                    });
                });
                filter.nest(CTA_FILTER, |flags| {
                    let wanted = CTA_FILTER_F_PROTO_NUM | CTA_FILTER_F_PROTO_DST_PORT;
                    flags.put_u32(CTA_FILTER_ORIG_FLAGS, wanted).put_u32(CTA_FILTER_REPLY_FLAGS, 0);
                });
            })?;
        }
    }
    Ok(())
}

/// Forgets what was answered by these addresses.
pub(super) fn forget_pod(mappings: &[PortMapping], pod: &[IpAddr]) -> Result<(), Error> {
    if udp(mappings).next().is_none() {
        return Ok(());
    }
    for address in pod {
        let source = if address.is_ipv4() { CTA_IP_V4_SRC } else { CTA_IP_V6_SRC };
        forget(*address, |filter| {
            filter.nest(CTA_TUPLE_REPLY, |tuple| {
                tuple.nest(CTA_TUPLE_IP, |ip| {
                    ip.put(source, &octets(*address));
                });
                tuple.nest(CTA_TUPLE_PROTO, |service| {
                    service.put(CTA_PROTO_NUM, &[Protocol::Udp.number()]);
                });
            });
            filter.nest(CTA_FILTER, |flags| {
                let wanted = CTA_FILTER_F_IP_SRC | CTA_FILTER_F_PROTO_NUM;
                flags.put_u32(CTA_FILTER_ORIG_FLAGS, 0).put_u32(CTA_FILTER_REPLY_FLAGS, wanted);
            });
        })?;
    }
    Ok(())
}

fn udp(mappings: &[PortMapping]) -> impl Iterator<Item = &PortMapping> {
    mappings.iter().filter(|mapping| mapping.protocol == Protocol::Udp)
}

/// Has the kernel find what matches, in the address's family, and deletes that one by one.
fn forget(address: IpAddr, filter: impl FnOnce(&mut Attributes)) -> Result<(), Error> {
    let outcome = Socket::netfilter().and_then(|mut socket| {
        let mut message = request(IPCTNL_MSG_CT_GET, DUMP, address);
        filter(&mut message.attributes);
        for found in socket.request(message)? {
            let mut delete = request(IPCTNL_MSG_CT_DELETE, 0, address);
            for kind in [CTA_TUPLE_ORIG, CTA_ZONE] {
                if let Some(value) = attribute(&found, NFGENMSG, kind) {
                    delete.attributes.put(kind, value);
                }
            }
            match socket.request(delete) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    });
    outcome.map_err(|source| Error::Kernel {
        action: "forget connections of",
        subject: address.to_string(),
        source,
    })
}

fn request(kind: u16, flags: u16, address: IpAddr) -> Message {
    let family = if address.is_ipv4() { 2 } else { 10 };
    Message::new(NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, &[family, 0, 0, 0])
}
