//! What the host remembers of its neighbours (linux/neighbour.h).

use std::net::IpAddr;

use super::link::{AF_INET, AF_INET6, octets};
use super::netlink::{Message, Socket, u16_at};

const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
/// Where `struct ndmsg` has its state, and the states that nobody learns: somebody has said so.
const STATE: usize = 8;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// Has the kernel forget who had an address on a link: a hardware address of former days, or that nobody answered a moment ago,
/// for which it would refuse connections to who has it now. What an operator has told it stays.
pub(super) fn forget(socket: &mut Socket, link: u32, address: IpAddr) {
    let about = |kind| {
        let mut head = [0; 12];
        head[0] = if address.is_ipv4() { AF_INET } else { AF_INET6 };
        head[4..8].copy_from_slice(&link.to_ne_bytes());
        let mut message = Message::new(kind, 0, &head);
        message.attributes.put(NDA_DST, &octets(address));
        message
    };
    // Mostly it knows nothing of it, which is an error; anything else costs a few seconds at worst.
    let Ok(known) = socket.request(about(RTM_GETNEIGH)) else { return };
    let state = known.first().and_then(|entry| u16_at(entry, STATE));
    if state.is_some_and(|state| state & (NUD_NOARP | NUD_PERMANENT) == 0) {
        let _ = socket.request(about(RTM_DELNEIGH));
    }
}
