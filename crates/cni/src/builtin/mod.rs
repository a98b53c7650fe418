//! CNI plugins that are served in-process, over netlink: the same code answers in the daemon and as an executable.
//!
//! | part | what it does |
//! |---|---|
//! | `portmap`, `masquerade`, `tables`, `nft`, `localnet`, `conntrack` | host ports, and pods' way out |
//! | `bridge` | pods on a bridge: links, and the addresses and routes on them |
//! | `ipam`, `host_local` | which addresses |
//! | `loopback` | the loopback interface |
//! | `owner` | whose an entry or a link is |
//! | `fields` | what is common to reading configurations |
//! | `link`, `address`, `route`, `vlan`, `neighbour` | rtnetlink |
//! | `netlink`, `steps`, `netns`, `sysctl`, `patience` | what they stand on |
//!
//! Everything here blocks for as long as the kernel needs, and acts on the network namespace of the calling thread.

mod address;
mod bridge;
mod conntrack;
mod fields;
mod host_local;
mod ipam;
mod link;
mod localnet;
mod loopback;
mod masquerade;
mod neighbour;
mod netlink;
mod netns;
mod nft;
mod owner;
mod patience;
mod portmap;
mod route;
mod steps;
mod sysctl;
mod tables;
mod vlan;

#[cfg(test)]
pub(crate) use self::tables::netns as hosts;

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Map, Value};

pub(crate) use self::fields::{ipam, masquerades};
pub(crate) use self::ipam::Ipam;
use self::owner::Owner;
pub(crate) use self::patience::Patience;
#[cfg(test)]
pub(crate) use self::tables::broken;
pub(crate) use self::tables::{Changes, Inventory, Mark, have_others_meddled};
use crate::attachment::AttachmentId;
use crate::error::Error;
use crate::request::Request;

/// A plugin that is served in-process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Loopback,
    Bridge,
    HostLocal,
    Portmap,
}

/// A field of a configuration that asks for what isn't served in-process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unserved {
    /// The field, with its value where that matters: `backend: iptables`.
    pub(crate) field: String,
}

impl Kind {
    /// The plugin of that type.
    pub(crate) fn of(plugin: &str) -> Option<Kind> {
        match plugin {
            "loopback" => Some(Kind::Loopback),
            "bridge" => Some(Kind::Bridge),
            "host-local" => Some(Kind::HostLocal),
            "portmap" => Some(Kind::Portmap),
            _ => None,
        }
    }

    /// Whether all that a configuration asks for is served.
    ///
    /// # Errors
    /// [`Unserved`], naming the first field that isn't.
    pub(crate) fn serves(self, config: &Map<String, Value>) -> Result<(), Unserved> {
        match self {
            Kind::Loopback => Ok(()),
            Kind::Bridge => bridge::serves(config),
            Kind::HostLocal => host_local::serves(config),
            Kind::Portmap => portmap::serves(config),
        }
    }
}

/// Carries out a call. ADD returns the result, in the request's version; the other verbs nothing.
///
/// # Errors
/// What the kernel, the disk or the configuration refuse; for CHECK, what isn't as it was made.
pub(crate) fn run(kind: Kind, request: &Request, executed: &dyn Ipam) -> Result<Option<Value>, Error> {
    let in_version = |result: crate::result::NetworkResult| result.to_version(request.version());
    match kind {
        Kind::Loopback => loopback::run(request),
        Kind::Bridge => bridge::run(request, executed).map(|result| result.map(in_version)),
        Kind::HostLocal => host_local::run(request).map(|result| result.map(in_version)),
        Kind::Portmap => portmap::run(request),
    }
}

/// A plugin's field that isn't null, as plugins find theirs: its name in any case.
pub(crate) fn field<'a>(config: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields::get(config, name)
}

/// The first half of a DEL: afterwards nothing reaches the namespace, nor leaves it. What ADD made is still there.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn cut(kind: Kind, request: &Request) -> Result<(), Error> {
    match kind {
        Kind::Loopback | Kind::HostLocal => Ok(()),
        Kind::Bridge => bridge::cut(request),
        Kind::Portmap => portmap::cut(request),
    }
}

/// Whether the first half of a DEL is all of it.
pub(crate) fn ends_with_cut(plugin: &str) -> bool {
    Kind::of(plugin) == Some(Kind::Portmap)
}

/// Makes again what an attachment had in the tables, if anything of it is missing; its result is the request's `prevResult`.
/// Returns whether there was.
///
/// # Errors
/// What the kernel or the configuration refuse.
pub(crate) fn restore(kind: Kind, request: &Request, inventory: &Inventory) -> Result<bool, Error> {
    match kind {
        Kind::Loopback | Kind::HostLocal => Ok(false),
        Kind::Bridge => bridge::restore(request, inventory),
        Kind::Portmap => portmap::restore(request, inventory),
    }
}

/// Ends that the host's loopback network is routed where nobody guards it any more.
///
/// # Errors
/// [`Error::Kernel`].
pub(crate) fn shut_unguarded() -> Result<(), Error> {
    tables::shut_unguarded()
}

/// Whether an owner, as the tables name it, is of that network, and none of those attachments.
pub(crate) fn is_stranger(owner: &str, network: &str, known: &HashSet<AttachmentId>) -> bool {
    Owner::left_over(network, known)(owner)
}

/// Takes away what an owner has in the tables who has no link on the host: it came with somebody's saved rules. Returns whether
/// that is so.
///
/// # Errors
/// [`Error::Kernel`].
pub(crate) fn vacate(owner: &str) -> Result<bool, Error> {
    if bridge::has_link(owner)? {
        return Ok(false);
    }
    portmap::vacate(owner)?;
    masquerade::vacate(owner).map(|()| true)
}

/// Whether the tables are there that masquerade and host ports of these addresses stand in.
///
/// # Errors
/// [`Error::Kernel`].
pub(crate) fn has_tables(addresses: &[IpAddr]) -> Result<bool, Error> {
    tables::is_installed(addresses.iter().copied())
}

/// Takes the tables away if nobody has anything in them.
///
/// # Errors
/// [`Error::Kernel`].
pub(crate) fn clear_tables() -> Result<(), Error> {
    tables::clear_if_unused()
}

/// Deletes a bridge that was made for the built-in network and has no port. Returns whether no port of it is left.
///
/// # Errors
/// [`Error::Kernel`].
pub(crate) fn clear_bridge(name: &str) -> Result<bool, Error> {
    bridge::clear_bridge(name)
}

/// The MTU of the link that the host's default route goes by, in bytes; `None` where there is no such route.
///
/// # Errors
/// [`Error::Kernel`].
pub(crate) fn default_mtu() -> Result<Option<u32>, Error> {
    route::default_route_mtu(&mut link::socket()?)
}
