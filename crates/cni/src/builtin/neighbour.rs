//! What the host remembers of its neighbours (linux/neighbour.h).

use std::net::IpAddr;

use super::link::{AF_INET, AF_INET6, octets};
use super::netlink::{Message, Socket};

const RTM_DELNEIGH: u16 = 29;
const NDA_DST: u16 = 1;

/// Has the kernel forget who had an address on a link: a hardware address of former days, or that nobody answered a moment ago,
/// for which it would refuse connections to who has it now.
pub(super) fn forget(socket: &mut Socket, link: u32, address: IpAddr) {
    let mut head = [0; 12];
    head[0] = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    head[4..8].copy_from_slice(&link.to_ne_bytes());
    let mut message = Message::new(RTM_DELNEIGH, 0, &head);
    message.attributes.put(NDA_DST, &octets(address));
    // Mostly it knows nothing of it, which is an error; anything else costs a few seconds at worst.
    let _ = socket.request(message);
}
