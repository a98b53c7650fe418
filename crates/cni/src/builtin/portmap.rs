//! Host ports: the plugin `portmap`, by entries of nftables maps instead of rules.
//!
//! | field | what it means here |
//! |---|---|
//! | `runtimeConfig.portMappings` | `hostPort` (0 or none: not mapped), `containerPort`, `protocol` (tcp, udp or sctp; tcp if none), `hostIP` (of one family; unspecified: every address of it; `::1` is refused: the kernel has no way from there to another interface) |
//! | `snat` | whether connections from the host's loopback and from the pod's own subnet work (default) |
//! | `masqAll` | all connections get the host's address |
//! | `markMasqBit` | without effect: packets are told apart without a mark, so that no bit is taken |
//! | `backend` | `nftables`, which is what this is |
//! | `conditionsV4`, `conditionsV6`, `externalSetMarkChain` | iptables' own: not served |
//!
//! Unlike the reference plugin, a host port that another pod has is refused: all of the request's are mapped or none. As with
//! bind(2), the port of one address and that of all are the same port; a pod that has both finds that of the address first.
//!
//! `wanted` reads what is to be mapped, `way` writes it down. Not here: the tables (`tables`), the connections that the kernel
//! remembers (`conntrack`).

mod wanted;
pub(super) mod way;

use std::collections::HashSet;

use serde_json::{Map as Fields, Value};

use self::wanted::Wanted;
use self::way::Way;
use super::owner::Owner;
use super::tables::{self, Inventory, Map, Sight};
use super::{Unserved, conntrack, fields, localnet};
use crate::command::Command;
use crate::error::{Error, chain};
use crate::request::Request;

/// The maps that attachments have entries in.
const OWNED: Sight<'static> = Sight::Maps(&[Map::Pods, Map::Ports, Map::PortsOfAddress, Map::Hairpin]);

/// Whether all that the configuration asks for is served.
///
/// # Errors
/// [`Unserved`].
pub(super) fn serves(config: &Fields<String, Value>) -> Result<(), Unserved> {
    let unserved = |field: String| Err(Unserved { field });
    for field in ["conditionsV4", "conditionsV6"] {
        let empty = fields::get(config, field).is_none_or(|value| value == &Value::Array(Vec::new()));
        if !empty {
            return unserved(field.to_owned());
        }
    }
    if fields::get(config, "externalSetMarkChain").is_some() {
        return unserved("externalSetMarkChain".to_owned());
    }
    match fields::get(config, "backend") {
        None => Ok(()),
        Some(Value::String(name)) if name == "nftables" => Ok(()),
        Some(other) => unserved(format!("backend: {}", other.as_str().unwrap_or("?"))),
    }
}

/// Carries out a call; ADD returns the result that it was given.
///
/// # Errors
/// [`Error::PluginConf`], [`Error::HostPortTaken`], [`Error::Unlike`], [`Error::Kernel`]; of STATUS [`Error::NotReady`].
pub(super) fn run(request: &Request) -> Result<Option<Value>, Error> {
    match request.command {
        Command::Add => add(request).map(Some),
        Command::Del => cut(request).map(|()| None),
        Command::Check => check(request).map(|()| None),
        Command::Gc => {
            let keep = request.valid_attachments()?;
            withdraw(Owner::left_over(request.network(), &keep), Vec::new()).map(|()| None)
        }
        Command::Status => {
            let usable = tables::probe();
            usable.map(|()| None).map_err(|error| Error::NotReady { reason: chain(&error) })
        }
    }
}

/// Withdraws the host ports; there may be none.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn cut(request: &Request) -> Result<(), Error> {
    let owner = Owner::of(request).comment();
    let told = match Wanted::of(request) {
        Ok(wanted) if wanted.is_nothing() && !wanted.finds(|of| of == owner)? => return Ok(()),
        // What is in the tables counts. But that it is there no more doesn't mean that its connections were forgotten.
        Ok(wanted) => wanted.ways,
        Err(_) => Vec::new(),
    };
    withdraw(|of| of == owner, told)
}

/// Makes again what somebody took away of an attachment's host ports. Returns whether anything was missing.
///
/// # Errors
/// Those of ADD.
pub(super) fn restore(request: &Request, inventory: &Inventory) -> Result<bool, Error> {
    let wanted = Wanted::of(request)?;
    if wanted.ways.is_empty() {
        return Ok(false);
    }
    let interface = wanted.localnet()?;
    let lacks = wanted.wish(request, interface.as_ref(), |wish| Ok(inventory.lacks(wish)))?;
    let is_missing = lacks || interface.is_some_and(|interface| !localnet::is_open(&interface.entry));
    if is_missing {
        map(request, &wanted)?;
    }
    Ok(is_missing)
}

fn add(request: &Request) -> Result<Value, Error> {
    let wanted = Wanted::of(request)?;
    // Who wants none may have the address of one who had some, and was never detached.
    if !wanted.ways.is_empty() || wanted.finds(|_| true)? {
        map(request, &wanted)?;
    }
    // There is one, or it would have been refused.
    Ok(request.config.get("prevResult").cloned().unwrap_or_default())
}

fn map(request: &Request, wanted: &Wanted) -> Result<(), Error> {
    let interface = wanted.localnet()?;
    wanted.wish(request, interface.as_ref(), tables::grant)?;
    if let Some(interface) = interface {
        localnet::open(&interface.entry)?;
    }
    if let Err(error) = conntrack::forget_strays(&wanted.ways) {
        // Who sent before from the same port goes on to be sent where that went. A kernel that doesn't tell must keep no pod.
        tracing::warn!(error = chain(&error), "connections to new host ports may lead elsewhere for a while");
    }
    Ok(())
}

fn check(request: &Request) -> Result<(), Error> {
    let wanted = Wanted::of(request)?;
    if wanted.ways.is_empty() {
        return Ok(());
    }
    let lacking = wanted.wish(request, None, tables::lacking)?;
    match lacking.iter().find_map(way::service_of) {
        None => Ok(()),
        Some((port, protocol)) => Err(Error::Unlike {
            subject: "host port",
            name: format!("{port}/{}", protocol.name()),
            problem: "doesn't lead to the pod".to_owned(),
        }),
    }
}

/// Removes entries, and then the connections by them; also by those ways that are told, unless they are another's now.
fn withdraw(of: impl Fn(&str) -> bool, told: Vec<Way>) -> Result<(), Error> {
    let (removed, left) = tables::withdraw(OWNED, of)?;
    let anothers: HashSet<Way> = left.iter().filter_map(Way::of).collect();
    let told = told.into_iter().filter(|way| !anothers.contains(way));
    let ways: HashSet<Way> = removed.iter().filter_map(Way::of).chain(told).collect();
    if let Err(error) = conntrack::forget_ways(&ways) {
        tracing::warn!(error = chain(&error), "connections by withdrawn host ports may live on for a while");
    }
    Ok(())
}

/// Withdraws whatever that owner has.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn vacate(owner: &str) -> Result<(), Error> {
    withdraw(|of| of == owner, Vec::new())
}

#[cfg(test)]
mod tests;
