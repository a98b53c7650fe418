//! Pairs of links of which each is the other's end (veth(4)).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{
    AF_UNSPEC, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MASTER,
    IFLA_MTU, Mac, RTM_NEWLINK, failed, ifinfomsg,
};
use crate::builtin::netlink::{Attributes, CREATE, EXCL, Message, Socket};
use crate::error::Error;

const IFLA_NET_NS_FD: u16 = 28;
const VETH_INFO_PEER: u16 = 1;

/// A veth pair to be made.
#[derive(Debug, Clone, Copy)]
pub(in crate::builtin) struct VethPair<'a> {
    pub(in crate::builtin) host_name: &'a str,
    /// The bridge that the host's end becomes a port of.
    pub(in crate::builtin) bridge: u32,
    pub(in crate::builtin) peer_name: &'a str,
    /// Where the peer is born, so that it is never seen on the host; beside its other end when `None`.
    pub(in crate::builtin) peer_netns: Option<BorrowedFd<'a>>,
    pub(in crate::builtin) peer_mac: Option<Mac>,
    pub(in crate::builtin) mtu: Option<u32>,
}

/// Makes the pair, both ends down.
pub(in crate::builtin) fn create_veth(socket: &mut Socket, pair: &VethPair<'_>) -> Result<(), Error> {
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
