//! Addresses from ranges, remembered on this machine: the plugin `host-local`.
//!
//! | part | what it does |
//! |---|---|
//! | `conf` | reads the configuration: sets of ranges, addresses asked for |
//! | `range` | which addresses a set holds, and in which order they are handed out |
//! | `store`; `holders`, `ears` | who has which, on disk; what is remembered of that, and what of it has changed since |

mod conf;
mod ears;
mod holders;
mod range;
mod store;

use std::net::IpAddr;

use serde_json::{Map, Value};

use self::conf::Conf;
use self::range::RangeSet;
use self::store::{Locked, Store};
use super::Unserved;
use crate::attachment::AttachmentId;
use crate::command::Command;
use crate::error::Error;
use crate::request::Request;
use crate::result::{Cidr, Dns, IpConfig, NetworkResult};

/// Whether all that the configuration asks for is served: it is.
pub(super) fn serves(_config: &Map<String, Value>) -> Result<(), Unserved> {
    Ok(())
}

/// Carries out a call; ADD returns the addresses with their routes.
///
/// # Errors
/// [`Error::PluginConf`], [`Error::PluginEnvironment`], [`Error::AddressesExhausted`], [`Error::AddressUnavailable`],
/// [`Error::Unlike`], [`Error::Record`].
pub(super) fn run(request: &Request) -> Result<Option<NetworkResult>, Error> {
    let store = Store::of(conf::dir(request));
    match request.command {
        Command::Add => add(request, &Conf::read(request)?, &store).map(Some),
        // What ADD refuses must not keep an attachment from being taken away: here its configuration isn't looked at.
        Command::Del => {
            let Some(mut locked) = store.lock_if_there()? else { return Ok(None) };
            locked.release(&request.id()).map(|_| None)
        }
        Command::Check => Conf::read(request).and_then(|_| check(request, &store)).map(|()| None),
        Command::Gc => collect(request, &store).map(|()| None),
        // A full range is no reason to say no: pods of the network that is there would be taken away for it.
        Command::Status => Conf::read(request).and_then(|_| store.lock().map(|_| None)),
    }
}

fn collect(request: &Request, store: &Store) -> Result<(), Error> {
    let keep = request.valid_attachments()?;
    let Some(mut locked) = store.lock_if_there()? else { return Ok(()) };
    let released = locked.retain(|holder| holder.is_among(&keep))?;
    if !released.is_empty() {
        tracing::warn!(network = request.network(), ?released, "addresses without an owner");
    }
    Ok(())
}

fn check(request: &Request, store: &Store) -> Result<(), Error> {
    let owned = match store.lock_if_there()? {
        Some(locked) => locked.owned(&request.id()).next().is_some(),
        None => false,
    };
    if owned {
        return Ok(());
    }
    Err(Error::Unlike {
        subject: "container",
        name: request.container_id.clone(),
        problem: "has no address".into(),
    })
}

fn add(request: &Request, conf: &Conf, store: &Store) -> Result<NetworkResult, Error> {
    let dns = match &conf.resolv_conf {
        Some(path) => conf::read_resolv_conf(path)?,
        None => Dns::default(),
    };
    let mut locked = store.lock()?;
    let mut taken = Vec::new();
    match reserve_all(request, conf, &mut locked, &mut taken) {
        Ok(ips) => Ok(NetworkResult { ips, routes: conf.routes.clone(), dns, ..NetworkResult::default() }),
        Err(error) => {
            for address in taken {
                // The first failure says why; what is left of it is the owner's, and goes with the DEL that follows.
                let _ = locked.give_back(address);
            }
            Err(error)
        }
    }
}

/// An address of each set.
fn reserve_all(
    request: &Request,
    conf: &Conf,
    locked: &mut Locked<'_>,
    taken: &mut Vec<IpAddr>,
) -> Result<Vec<IpConfig>, Error> {
    let id = request.id();
    let mut wanted = conf.wanted.clone();
    let mut ips = Vec::new();
    for (index, set) in conf.sets.iter().enumerate() {
        let asked = wanted.iter().position(|address| set.range_of(*address).is_some());
        let address = match asked.map(|at| wanted.swap_remove(at)) {
            Some(address) => reserve_this(conf, set, locked, &id, address)?,
            None => reserve_any(conf, set, locked, &id, index)?,
        };
        locked.remember_last(index, address);
        taken.push(address);
        if let Some(range) = set.range_of(address) {
            let address = Cidr { address, prefix: range.subnet.prefix };
            ips.push(IpConfig { address, gateway: Some(range.gateway), interface: None });
        }
    }
    match wanted.first() {
        Some(address) => Err(unavailable(conf, *address)),
        None => Ok(ips),
    }
}

fn reserve_this(
    conf: &Conf,
    set: &RangeSet,
    locked: &mut Locked<'_>,
    id: &AttachmentId,
    address: IpAddr,
) -> Result<IpAddr, Error> {
    let is_gateway = set.range_of(address).is_some_and(|range| range.gateway == address);
    if is_gateway || locked.is_taken(address) || !locked.take(address, id)? {
        return Err(unavailable(conf, address));
    }
    Ok(address)
}

fn reserve_any(
    conf: &Conf,
    set: &RangeSet,
    locked: &mut Locked<'_>,
    id: &AttachmentId,
    index: usize,
) -> Result<IpAddr, Error> {
    let last = locked.last(index);
    loop {
        // An attachment has one address of a set (SPEC.md section 2, "ADD": a second one is an error).
        if let Some(address) = locked.owned(id).find(|address| set.range_of(*address).is_some()) {
            return Err(Error::AddressHeld { network: conf.network.clone(), address });
        }
        let Some(address) = set.after(last).find(|address| !locked.is_taken(*address)) else {
            let (network, subnet) = (conf.network.clone(), set.to_string());
            return Err(Error::AddressesExhausted { network, subnet });
        };
        // One that turns out to be somebody's is known to be from then on.
        if locked.take(address, id)? {
            return Ok(address);
        }
    }
}

fn unavailable(conf: &Conf, address: IpAddr) -> Error {
    Error::AddressUnavailable { network: conf.network.clone(), address }
}

#[cfg(test)]
mod tests;
