//! VLANs of bridge ports (linux/if_bridge.h, `IFLA_BRIDGE_VLAN_INFO`).

use super::link::{IFINFOMSG, IFLA_AF_SPEC, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK, failed, ifinfomsg};
use super::netlink::{DUMP, Message, Socket, attribute, attributes, u16_at, u32_at};
use super::steps::Steps;
use crate::error::Error;

const AF_BRIDGE: u8 = 7;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_BRVLAN: u32 = 1 << 1;
const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_FLAGS_MASTER: u16 = 1;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;

/// How packets of a VLAN pass a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    /// With a tag in both directions.
    Tagged,
    /// Without one: what comes in untagged belongs to this VLAN, and leaves untagged.
    Native,
}

/// Makes a port a member of a VLAN.
pub(super) fn join(steps: &mut Steps, port: u32, vlan: u16, membership: Membership) {
    let flags = match membership {
        Membership::Tagged => 0,
        Membership::Native => BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED,
    };
    steps.push("join VLAN", vlan, message(RTM_SETLINK, port, vlan, flags));
}

/// Takes a port out of a VLAN.
pub(super) fn leave(steps: &mut Steps, port: u32, vlan: u16) {
    steps.push("leave VLAN", vlan, message(RTM_DELLINK, port, vlan, 0));
}

fn message(kind: u16, port: u32, vlan: u16, flags: u16) -> Message {
    let mut message = Message::new(kind, 0, &ifinfomsg(AF_BRIDGE, port, 0, 0));
    let mut info = flags.to_ne_bytes().to_vec();
    info.extend(vlan.to_ne_bytes());
    message.attributes.nest(IFLA_AF_SPEC, |bridge| {
        bridge.put(IFLA_BRIDGE_FLAGS, &BRIDGE_FLAGS_MASTER.to_ne_bytes());
        bridge.put(IFLA_BRIDGE_VLAN_INFO, &info);
    });
    message
}

/// The VLANs that a port is a member of.
pub(super) fn of_port(socket: &mut Socket, port: u32) -> Result<Vec<u16>, Error> {
    let mut message = Message::new(RTM_GETLINK, DUMP, &ifinfomsg(AF_BRIDGE, 0, 0, 0));
    message.attributes.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN);
    let answers = socket.request(message).map_err(|source| failed("list", "VLANs", source))?;
    let of_port = answers.iter().filter(|answer| u32_at(answer, 4) == Some(port));
    let vlans = of_port.filter_map(|answer| attribute(answer, IFINFOMSG, IFLA_AF_SPEC)).flat_map(|bridge| {
        let infos = attributes(bridge, 0).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO);
        infos.filter_map(|(_, info)| u16_at(info, 2))
    });
    Ok(vlans.collect())
}
