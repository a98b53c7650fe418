//! Bridges, and how they treat their ports (linux/if_link.h, linux/if_bridge.h).

use std::io;

use super::{
    AF_INET6, AF_UNSPEC, IFF_PROMISC, IFF_UP, IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_BR_VLAN_FILTERING,
    IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, Mac, RTM_NEWLINK,
    change, failed, ifinfomsg, is_absent, set_up,
};
use crate::builtin::netlink::{CREATE, EXCL, Message, Socket};
use crate::builtin::steps::Steps;
use crate::error::Error;

const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
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

/// A bridge to be made.
#[derive(Debug, Clone, Copy)]
pub(in crate::builtin) struct NewBridge<'a> {
    pub(in crate::builtin) name: &'a str,
    /// The kernel's choice when `None`; it then changes with the ports.
    pub(in crate::builtin) mac: Option<Mac>,
    pub(in crate::builtin) mtu: Option<u32>,
    pub(in crate::builtin) vlan_filtering: bool,
    pub(in crate::builtin) promiscuous: bool,
    pub(in crate::builtin) alias: Option<&'a str>,
}

/// How a bridge treats one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::builtin) struct Port<'a> {
    pub(in crate::builtin) name: &'a str,
    pub(in crate::builtin) hairpin: bool,
    pub(in crate::builtin) isolated: bool,
    /// Whether the port itself speaks IPv6, which it has no need to.
    pub(in crate::builtin) has_ipv6: bool,
    pub(in crate::builtin) alias: &'a str,
}

/// Makes a bridge and sets it up. One that is there by now is fine.
pub(in crate::builtin) fn create_bridge(socket: &mut Socket, bridge: &NewBridge<'_>) -> Result<(), Error> {
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
pub(in crate::builtin) fn filter_vlans(steps: &mut Steps, bridge: &str) {
    let mut message = change(bridge, 0);
    message.attributes.nest(IFLA_LINKINFO, |info| {
        info.put_str(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
            data.put(IFLA_BR_VLAN_FILTERING, &[1]);
        });
    });
    steps.push("filter VLANs of bridge", bridge, message);
}

/// Has a link take all packets, whomever they are for.
pub(in crate::builtin) fn make_promiscuous(steps: &mut Steps, name: &str) {
    steps.push("make promiscuous", name, change(name, IFF_PROMISC));
}

/// Sets a port up with all that its bridge has to know.
pub(in crate::builtin) fn set_up_port(steps: &mut Steps, port: &Port<'_>) {
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
pub(in crate::builtin) fn block_port(socket: &mut Socket, name: &str) -> Result<bool, Error> {
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
