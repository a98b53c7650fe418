//! CNI plugins that are served in-process, over netlink: the same code answers in the daemon and as an executable.
//!
//! | part | what it does |
//! |---|---|
//! | `portmap`, `masquerade`, `tables`, `nft`, `localnet`, `conntrack` | host ports, and pods' way out |
//! | `bridge`, `link` | links, addresses and routes on them |
//! | `host_local` | addresses |
//! | `owner` | whose an entry or a link is |
//! | `netlink`, `netns`, `sysctl` | what they stand on |
//!
//! Everything here blocks for as long as the kernel needs, and acts on the network namespace of the calling thread.

mod bridge;
mod conntrack;
mod firewall;
mod host_local;
mod link;
mod localnet;
mod masquerade;
mod netlink;
mod netns;
mod nft;
mod old;
mod owner;
mod portmap;
mod sysctl;
mod tables;

use serde_json::{Map, Value};

pub(crate) use self::old::{Builtin, Published, loopback};
pub use self::old::{BuiltinNetwork, Subnet};
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

/// Who is asked for addresses when it isn't `host-local`: an executed plugin.
pub(crate) trait Ipam {
    /// Has the request carried out; ADD returns what was printed.
    ///
    /// # Errors
    /// What the plugin answers.
    fn call(&self, request: &Request) -> Result<Option<Value>, Error>;
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
            Kind::Loopback | Kind::Bridge | Kind::HostLocal => Ok(()),
            Kind::Portmap => portmap::serves(config),
        }
    }
}

/// Carries out a call. ADD returns the result, in the request's version; the other verbs nothing.
///
/// # Errors
/// What the kernel, the disk or the configuration refuse; for CHECK, what isn't as it was made.
pub(crate) fn run(kind: Kind, request: &Request, _ipam: &dyn Ipam) -> Result<Option<Value>, Error> {
    match kind {
        Kind::Loopback | Kind::Bridge | Kind::HostLocal => Ok(None),
        Kind::Portmap => portmap::run(request),
    }
}

/// The first half of a DEL: afterwards nothing reaches the namespace, nor leaves it. What it made is still there.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn cut(kind: Kind, request: &Request) -> Result<(), Error> {
    match kind {
        Kind::Loopback | Kind::Bridge | Kind::HostLocal => Ok(()),
        Kind::Portmap => portmap::cut(request),
    }
}
