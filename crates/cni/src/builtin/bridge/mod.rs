//! Pods on a bridge of the host's: the plugin `bridge`.
//!
//! | part | what it does |
//! |---|---|
//! | `conf` | reads the configuration |
//! | `ground` | bridge, gateways' addresses, forwarding: what all attachments stand on; it stays |
//! | `pair` | an attachment's two interfaces |
//! | `inside` | settings, addresses and routes of the one in the namespace |
//! | `check` | compares all of it with a result |
//!
//! Detaching is two things. [`cut`] blocks the port, which takes no time; [`run`] for DEL deletes the link, which takes the
//! kernel tens of milliseconds (it waits for every reader of the device), and frees the addresses after that.

mod check;
mod conf;
mod ground;
mod inside;
mod pair;

use std::net::IpAddr;

use serde_json::{Map, Value};

use self::conf::Conf;
pub(super) use self::ground::clear_bridge;
use self::inside::Inside;
use super::Unserved;
use super::address::Detection;
use super::fields;
use super::ipam::{Delegate, Ipam};
use super::link::{self, Link};
use super::masquerade;
use super::netlink::Socket;
use super::netns::Namespace;
use super::owner::Owner;
use super::tables::Inventory;
use crate::command::Command;
use crate::error::Error;
use crate::request::Request;
use crate::result::{Cidr, Interface, NetworkResult, Route};

/// Whether all that the configuration asks for is served.
pub(super) fn serves(config: &Map<String, Value>) -> Result<(), Unserved> {
    conf::serves(config)
}

/// Carries out a call; ADD returns bridge, both interfaces, addresses and routes.
///
/// # Errors
/// [`Error::PluginConf`], [`Error::PluginEnvironment`], [`Error::Namespace`], [`Error::OwnNamespace`], [`Error::Kernel`],
/// [`Error::Unlike`], and those of the plugin that gives addresses.
pub(super) fn run(request: &Request, executed: &dyn Ipam) -> Result<Option<NetworkResult>, Error> {
    let ipam = conf::ipam(request);
    let ipam = ipam.as_deref().map(|kind| Delegate { kind, request, executed });
    match request.command {
        Command::Add => add(request, &Conf::read(request)?, ipam.as_ref()).map(Some),
        // What ADD refuses must not keep an attachment from being taken away: its configuration isn't looked at.
        Command::Del => {
            pair::delete(&mut link::socket()?, request)?;
            leave(request, ipam.as_ref()).map(|()| None)
        }
        Command::Check => check(request, &Conf::read(request)?, ipam.as_ref()).map(|()| None),
        Command::Gc => collect(request, ipam.as_ref()).map(|()| None),
        Command::Status => {
            Conf::read(request)?;
            ipam.map(|ipam| ipam.ask(Command::Status)).transpose().map(|_| None)
        }
    }
}

fn check(request: &Request, conf: &Conf, ipam: Option<&Delegate<'_>>) -> Result<(), Error> {
    let namespace = Namespace::open(request.netns()?)?;
    ipam.map(|ipam| ipam.ask(Command::Check)).transpose()?;
    let result = check::links(request, conf, &namespace)?;
    if conf.masquerade { masquerade::check(&Owner::of(request), &addresses(&result)) } else { Ok(()) }
}

/// The first half of a DEL: nothing passes between the bridge and the namespace any more.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn cut(request: &Request) -> Result<(), Error> {
    pair::block(&mut link::socket()?, request)
}

/// Makes again what somebody took away from the tables. Returns whether anything was missing.
///
/// # Errors
/// [`Error::PluginConf`], [`Error::PluginEnvironment`], [`Error::Kernel`].
pub(super) fn restore(request: &Request, inventory: &Inventory) -> Result<bool, Error> {
    let (owner, addresses) = (Owner::of(request), addresses(&request.previous()?.unwrap_or_default()));
    let is_missing = Conf::read(request)?.masquerade && masquerade::is_missing(&owner, &addresses, inventory);
    if is_missing {
        masquerade::add(&owner, &addresses)?;
    }
    Ok(is_missing)
}

/// Whether an attachment has its link, by the comment of its owner.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn has_link(owner: &str) -> Result<bool, Error> {
    pair::is_there(&mut link::socket()?, owner)
}

fn addresses(result: &NetworkResult) -> Vec<Cidr> {
    result.ips.iter().map(|ip| ip.address).collect()
}

/// What is left of an attachment whose link is gone. The address comes last: who gets it next must find nothing of its
/// former owner.
fn leave(request: &Request, ipam: Option<&Delegate<'_>>) -> Result<(), Error> {
    let owner = Owner::of(request);
    // A result that can't be read names nothing.
    let known = addresses(&request.previous().ok().flatten().unwrap_or_default());
    let all_gone = !known.is_empty() && masquerade::remove_of(&owner, &known)?;
    // What isn't found by a result, which another plugin may have changed, is found by its owner.
    if !all_gone && (known.is_empty() || fields::masquerades(&request.config)) {
        masquerade::remove(&owner)?;
    }
    ipam.map(|ipam| ipam.ask(Command::Del)).transpose().map(drop)
}

fn add(request: &Request, conf: &Conf, ipam: Option<&Delegate<'_>>) -> Result<NetworkResult, Error> {
    let namespace = Namespace::open(request.netns()?)?;
    namespace.refuse_own()?;
    let mut socket = link::socket()?;
    let bridge = ground::ensure_bridge(&mut socket, conf)?;
    pair::make(&mut socket, conf, &bridge, request, &namespace)?;
    let joining = Joining { request, conf, bridge, namespace };
    let given = match ipam.map(Delegate::add).transpose() {
        Ok(given) => given.unwrap_or_default(),
        Err(error) => {
            let _ = pair::delete(&mut socket, request);
            return Err(error);
        }
    };
    joining.join(&mut socket, given).inspect_err(|_| {
        // The first failure says why; what can't be undone is left to the DEL that follows.
        let undone = pair::delete(&mut socket, request).and_then(|()| leave(request, ipam));
        if let Err(error) = undone {
            tracing::debug!(error = crate::error::chain(&error), "a failed ADD left something behind");
        }
    })
}

/// An attachment whose interfaces are there.
struct Joining<'a> {
    request: &'a Request,
    conf: &'a Conf,
    bridge: Link,
    namespace: Namespace,
}

impl Joining<'_> {
    /// Puts what was given where it belongs.
    fn join(&self, socket: &mut Socket, given: NetworkResult) -> Result<NetworkResult, Error> {
        let mut result = given;
        let (inside, of_vlan) = match &self.conf.ipam {
            Some(kind) => self.with_addresses(socket, kind, &mut result)?,
            None => (self.without_addresses()?, None),
        };
        let host_name = pair::host_interface(&Owner::of(self.request));
        let host = if self.conf.without_interface {
            link::expect(socket, &host_name)?
        } else {
            pair::expect_operational(socket, &host_name)?
        };
        // Without a gateway's address its hardware address has changed with the port.
        let bridge = link::expect(socket, &self.conf.bridge)?;
        let sandbox = pair::shown(self.request.netns.as_deref());
        result.interfaces = vec![shown(&bridge), shown(&host), Interface { sandbox, ..shown(&inside) }];
        result.interfaces.extend(of_vlan);
        if let Some(dns) = &self.conf.dns {
            result.dns = dns.clone();
        }
        Ok(result)
    }

    fn without_addresses(&self) -> Result<Link, Error> {
        let ifname = &self.request.ifname;
        if self.conf.without_interface {
            return self.namespace.enter(|| link::expect(&mut link::socket()?, ifname));
        }
        self.namespace.enter(|| inside::set_up(ifname))
    }

    fn with_addresses(
        &self,
        socket: &mut Socket,
        ipam: &str,
        result: &mut NetworkResult,
    ) -> Result<(Link, Option<Interface>), Error> {
        if result.ips.is_empty() {
            return Err(self.request.invalid(format!("'{ipam}' gave no address")));
        }
        complete(self.conf, result);
        let of_vlan = if self.conf.is_gateway {
            ground::ensure_gateways(socket, self.conf, &self.bridge, &result.ips)?
        } else {
            None
        };
        let first = result.ips.first().map(|ip| ip.address.address);
        let inside = Inside {
            ifname: &self.request.ifname,
            mac: if self.conf.mac.is_some() { None } else { first.map(pair::mac_for) },
            ips: &result.ips,
            routes: &result.routes,
            detection: if self.conf.detect_duplicates { Detection::Perform } else { Detection::Skip },
        };
        let inside = self.namespace.enter(|| inside.configure())?;
        if self.conf.masquerade {
            masquerade::add(&Owner::of(self.request), &addresses(result))?;
        }
        Ok((inside, of_vlan))
    }
}

/// Where the interface inside stands in the result, behind the bridge and the port.
const INSIDE: usize = 2;

/// Adds what goes without saying: the gateway is the subnet's first address, and the way out goes by it.
fn complete(conf: &Conf, result: &mut NetworkResult) {
    for ip in &mut result.ips {
        ip.interface = Some(INSIDE);
        if conf.is_gateway && ip.gateway.is_none() {
            ip.gateway = Some(first_of(ip.address));
        }
    }
    if !conf.is_default_gateway {
        return;
    }
    for any in ["0.0.0.0/0", "::/0"].into_iter().filter_map(Cidr::parse) {
        let v4 = any.address.is_ipv4();
        let stated = result.routes.iter().any(|route| route.dst.network() == any && route.gw.is_some());
        let first = result.ips.iter().find(|ip| ip.address.address.is_ipv4() == v4);
        if let (false, Some(ip)) = (stated, first) {
            result.routes.push(Route { gw: ip.gateway, ..Route::to(any) });
        }
    }
}

/// The first address of a subnet behind the network's own.
fn first_of(cidr: Cidr) -> IpAddr {
    match cidr.network().address {
        IpAddr::V4(v4) => IpAddr::from(v4.to_bits().wrapping_add(1).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from(v6.to_bits().wrapping_add(1).to_be_bytes()),
    }
}

fn shown(link: &Link) -> Interface {
    let mac = link.shown_mac();
    Interface { name: link.name.clone(), mac, mtu: Some(link.mtu), ..Interface::default() }
}

/// Removes what belongs to no valid attachment of the network.
fn collect(request: &Request, ipam: Option<&Delegate<'_>>) -> Result<(), Error> {
    let keep = request.valid_attachments()?;
    let left_over = Owner::left_over(request.network(), &keep);
    let mut failures = pair::retain(&mut link::socket()?, request.network(), left_over);
    failures.extend(masquerade::retain(request.network(), &keep).err());
    // The address of a link that couldn't be deleted is still in use.
    if failures.is_empty() {
        failures.extend(ipam.and_then(|ipam| ipam.ask(Command::Gc).err()));
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Collect { failures }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::result::IpConfig;
    use serde_json::json;

    fn completed(config: Value, ips: &[&str], routes: &[(&str, Option<&str>)]) -> NetworkResult {
        let config = config.as_object().unwrap().clone();
        let conf = Conf::read(&Request::about_network("bridge", Command::Add, config)).unwrap();
        let ip =
            |text: &&str| IpConfig { address: Cidr::parse(text).unwrap(), gateway: None, interface: None };
        let route = |(dst, gw): &(&str, Option<&str>)| Route {
            gw: gw.map(|gw| gw.parse().unwrap()),
            ..Route::to(Cidr::parse(dst).unwrap())
        };
        let mut result = NetworkResult {
            ips: ips.iter().map(ip).collect(),
            routes: routes.iter().map(route).collect(),
            ..NetworkResult::default()
        };
        complete(&conf, &mut result);
        result
    }

    #[test]
    fn gateways_and_default_routes_are_made_up_where_asked_for() {
        let result = completed(json!({"isGateway": true}), &["10.1.2.3/24"], &[]);
        assert_eq!(result.ips[0].gateway, Some([10, 1, 2, 1].into()));
        assert!(result.routes.is_empty());
        let both = completed(json!({"isDefaultGateway": true}), &["10.1.2.3/24", "fd00::5/64"], &[]);
        let shown: Vec<String> =
            both.routes.iter().map(|route| format!("{} {:?}", route.dst, route.gw)).collect();
        assert_eq!(shown, ["0.0.0.0/0 Some(10.1.2.1)", "::/0 Some(fd00::1)"]);
        // One that is stated with its gateway stands for itself.
        let stated = [("0.0.0.0/0", Some("10.1.2.9"))];
        let stated = completed(json!({"isDefaultGateway": true}), &["10.1.2.3/24"], &stated);
        assert_eq!(stated.routes.len(), 1);
        let plain = completed(json!({}), &["10.1.2.3/24"], &[]);
        assert_eq!((plain.ips[0].gateway, plain.ips[0].interface), (None, Some(2)));
    }
}
