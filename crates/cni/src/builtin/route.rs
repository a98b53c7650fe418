//! Routes over rtnetlink (linux/rtnetlink.h).

use std::io;
use std::net::IpAddr;

use super::link::{self, AF_INET, AF_INET6, failed, octets};
use super::netlink::{CREATE, DUMP, Message, Socket, attribute, u32_at};
use super::steps::Steps;
use crate::error::Error;
use crate::result::{Cidr, Route};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RT_TABLE_UNSPEC: u8 = 0;
const RT_TABLE_MAIN: u8 = 254;
/// What `ip route` and the reference plugins use.
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// The size of rtmsg.
const RTMSG: usize = 12;

/// A route of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) dst: Cidr,
    pub(super) gateway: Option<IpAddr>,
    link: Option<u32>,
    table: u32,
    priority: u32,
    is_unicast: bool,
}

/// Adds a route by a link; beside others to the same destination, if there are.
pub(super) fn add(steps: &mut Steps, link: u32, route: &Route) {
    let v4 = route.dst.address.is_ipv4();
    let table = route.table.unwrap_or(u32::from(RT_TABLE_MAIN));
    let head = [
        if v4 { AF_INET } else { AF_INET6 },
        route.dst.prefix,
        0,
        0,
        u8::try_from(table).unwrap_or(RT_TABLE_UNSPEC),
        RTPROT_BOOT,
        route.scope.unwrap_or(0),
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let mut message = Message::new(RTM_NEWROUTE, CREATE, &head);
    let attributes = &mut message.attributes;
    if route.dst.prefix > 0 {
        attributes.put(RTA_DST, &octets(route.dst.network().address));
    }
    attributes.put_u32(RTA_OIF, link).put_u32(RTA_TABLE, table);
    if let Some(gateway) = route.gw {
        attributes.put(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(priority) = route.priority.filter(|priority| *priority > 0) {
        attributes.put_u32(RTA_PRIORITY, priority);
    }
    let metrics = [(RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss)];
    if metrics.iter().any(|(_, value)| value.is_some()) {
        attributes.nest(RTA_METRICS, |nested| {
            for (kind, value) in metrics {
                if let Some(value) = value {
                    nested.put_u32(kind, value);
                }
            }
        });
    }
    let by = route.gw.map(|gateway| format!(" by {gateway}")).unwrap_or_default();
    steps.push("add route", format!("{}{by}", route.dst), message);
}

/// The routes of the namespace, of all tables.
pub(super) fn list(socket: &mut Socket) -> Result<Vec<Known>, Error> {
    let failed = |source| failed("list", "routes", source);
    let mut routes = Vec::new();
    for family in [AF_INET, AF_INET6] {
        routes.extend(list_of(socket, family).map_err(failed)?);
    }
    Ok(routes)
}

fn list_of(socket: &mut Socket, family: u8) -> io::Result<Vec<Known>> {
    let mut head = [0; RTMSG];
    head[0] = family;
    let answers = socket.request(Message::new(RTM_GETROUTE, DUMP, &head))?;
    Ok(answers.iter().filter_map(|answer| parse(answer)).collect())
}

fn parse(answer: &[u8]) -> Option<Known> {
    let get = |kind| attribute(answer, RTMSG, kind);
    let number = |kind| get(kind).and_then(|value| u32_at(value, 0));
    let family = *answer.first()?;
    let address = |bytes: &[u8]| -> Option<IpAddr> {
        match family {
            AF_INET => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
            AF_INET6 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
            _ => None,
        }
    };
    let any = if family == AF_INET { address(&[0; 4]) } else { address(&[0; 16]) };
    Some(Known {
        dst: Cidr { address: get(RTA_DST).and_then(address).or(any)?, prefix: *answer.get(1)? },
        gateway: get(RTA_GATEWAY).and_then(address),
        link: number(RTA_OIF),
        table: number(RTA_TABLE).unwrap_or(u32::from(*answer.get(4)?)),
        priority: number(RTA_PRIORITY).unwrap_or(0),
        is_unicast: *answer.get(7)? == RTN_UNICAST,
    })
}

/// The MTU of the link that the host's default route goes by; `None` where there is no such route.
pub(super) fn default_route_mtu(socket: &mut Socket) -> Result<Option<u32>, Error> {
    let wrap = |source| failed("read MTU of", "default route", source);
    for family in [AF_INET, AF_INET6] {
        let routes = list_of(socket, family).map_err(wrap)?;
        let ways_out = routes.iter().filter_map(|route| {
            let is_default =
                route.dst.prefix == 0 && route.table == u32::from(RT_TABLE_MAIN) && route.is_unicast;
            is_default.then_some((route.priority, route.link?))
        });
        if let Some((_, link)) = ways_out.min() {
            return link::with_index(socket, link).map(|link| link.map(|link| link.mtu)).map_err(wrap);
        }
    }
    Ok(None)
}
