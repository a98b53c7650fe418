//! Whether an attachment is still as ADD made it.

use super::conf::Conf;
use super::pair;
use crate::builtin::address;
use crate::builtin::link::{self, Link};
use crate::builtin::netlink::Socket;
use crate::builtin::netns::Namespace;
use crate::builtin::route;
use crate::error::Error;
use crate::request::Request;
use crate::result::{Interface, NetworkResult};

/// Compares links, addresses and routes with the result of ADD.
///
/// # Errors
/// [`Error::Unlike`], naming the first difference; [`Error::PluginConf`] without a result.
pub(super) fn links(request: &Request, conf: &Conf, namespace: &Namespace) -> Result<NetworkResult, Error> {
    let result = request.previous()?.ok_or_else(|| request.invalid("'prevResult' is missing".into()))?;
    let mut socket = link::socket()?;
    let bridge = bridge(&mut socket, conf, &result)?;
    let inside = result.interfaces.iter().find(|one| one.name == request.ifname && !one.sandbox.is_empty());
    let inside = inside.ok_or_else(|| unlike("interface", &request.ifname, "isn't in 'prevResult'"))?;
    let found = namespace.enter(|| contents(inside, &result))?;
    port(&mut socket, request, &bridge, &found)?;
    Ok(result)
}

fn bridge(socket: &mut Socket, conf: &Conf, result: &NetworkResult) -> Result<Link, Error> {
    let known = result.interfaces.iter().find(|one| one.name == conf.bridge && one.sandbox.is_empty());
    let known = known.ok_or_else(|| unlike("bridge", &conf.bridge, "isn't in 'prevResult'"))?;
    let found = there(socket, known)?;
    if found.kind != "bridge" {
        return Err(unlike("link", &conf.bridge, "is no bridge"));
    }
    if found.is_promiscuous != conf.promiscuous {
        return Err(unlike("bridge", &conf.bridge, "isn't as 'promiscMode' says"));
    }
    Ok(found)
}

/// Inside the namespace.
fn contents(inside: &Interface, result: &NetworkResult) -> Result<Link, Error> {
    let mut socket = link::socket()?;
    let found = there(&mut socket, inside)?;
    if found.kind != "veth" {
        return Err(unlike("link", &inside.name, "is no veth"));
    }
    let held = address::list(&mut socket)?;
    for ip in &result.ips {
        let has = |address| held.iter().any(|held| held.link == found.index && held.address == address);
        if !has(ip.address) {
            return Err(unlike("address", &ip.address.to_string(), &format!("isn't on '{}'", inside.name)));
        }
    }
    let routes = route::list(&mut socket)?;
    for wanted in &result.routes {
        let dst = wanted.dst.network();
        let fits = |gateway| wanted.gw.is_none() || dst.prefix == 0 || wanted.gw == gateway;
        if !routes.iter().any(|known| known.dst == dst && fits(known.gateway)) {
            return Err(unlike("route", &wanted.dst.to_string(), "is missing"));
        }
    }
    Ok(found)
}

/// The host's end: the other of what is inside, and in the bridge.
fn port(socket: &mut Socket, request: &Request, bridge: &Link, inside: &Link) -> Result<(), Error> {
    for interface in pair::others_on_host(request) {
        let Some(found) = link::find(socket, &interface.name)? else { continue };
        let is_pair = found.peer == Some(inside.index) && inside.peer == Some(found.index);
        if found.kind == "veth" && is_pair {
            if found.master != Some(bridge.index) {
                return Err(unlike("link", &found.name, "isn't in its bridge"));
            }
            return there(socket, &interface).map(drop);
        }
    }
    Err(unlike("bridge port of", &request.ifname, "is missing"))
}

fn there(socket: &mut Socket, known: &Interface) -> Result<Link, Error> {
    let found = link::find(socket, &known.name)?;
    let found = found.ok_or_else(|| unlike("link", &known.name, "is missing"))?;
    if !known.mac.is_empty() && known.mac != found.shown_mac() {
        let problem = format!("has the hardware address {}, not {}", found.shown_mac(), known.mac);
        return Err(unlike("link", &known.name, &problem));
    }
    Ok(found)
}

fn unlike(subject: &'static str, name: &str, problem: &str) -> Error {
    Error::Unlike { subject, name: name.to_owned(), problem: problem.to_owned() }
}
