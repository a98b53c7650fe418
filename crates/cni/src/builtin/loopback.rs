//! The loopback interface of a namespace: the plugin `loopback`. A pod's is born with it up, so that there is little to do.

use serde_json::Value;

use super::netns::Namespace;
use super::steps::Steps;
use super::{address, link};
use crate::command::Command;
use crate::error::Error;
use crate::request::Request;
use crate::result::{Cidr, Interface, IpConfig, NetworkResult};

/// What the interface is called, whatever the request says.
const NAME: &str = "lo";

/// Carries out a call; ADD returns the result so far, or the interface where there is none.
///
/// # Errors
/// [`Error::Namespace`], [`Error::OwnNamespace`], [`Error::Kernel`], [`Error::Unlike`].
pub(super) fn run(request: &Request) -> Result<Option<Value>, Error> {
    match request.command {
        Command::Add => {
            let held = open(request)?.enter(set_up)?;
            let previous = request.config.get("prevResult").filter(|previous| !previous.is_null());
            let own = || result(request, &held).to_version(request.version());
            Ok(Some(previous.cloned().unwrap_or_else(own)))
        }
        Command::Del => {
            if let Some(namespace) = Namespace::open_if_there(request.netns.as_deref())? {
                namespace.enter(set_down)?;
            }
            Ok(None)
        }
        Command::Check => check(request).map(|()| None),
        Command::Gc | Command::Status => Ok(None),
    }
}

fn open(request: &Request) -> Result<Namespace, Error> {
    let namespace = Namespace::open(request.netns()?)?;
    namespace.refuse_own()?;
    Ok(namespace)
}

/// Sets it up, and returns its addresses: those of IPv6 are missing where that is switched off.
fn set_up() -> Result<Vec<Cidr>, Error> {
    let mut socket = link::socket()?;
    let mut steps = Steps::default();
    link::set_up(&mut steps, NAME);
    steps.run(&mut socket)?;
    let index = link::expect(&mut socket, NAME)?.index;
    let held = address::list(&mut socket)?.into_iter().filter(|held| held.link == index);
    Ok(held.map(|held| held.address).collect())
}

fn set_down() -> Result<(), Error> {
    let mut steps = Steps::default();
    link::set_down(&mut steps, NAME);
    steps.run(&mut link::socket()?)
}

fn check(request: &Request) -> Result<(), Error> {
    let is_up = open(request)?.enter(|| Ok(link::expect(&mut link::socket()?, NAME)?.is_up))?;
    let down = || Error::Unlike { subject: "link", name: NAME.into(), problem: "is down".into() };
    if is_up { Ok(()) } else { Err(down()) }
}

fn result(request: &Request, held: &[Cidr]) -> NetworkResult {
    let sandbox = request.netns.as_deref().map(|netns| netns.display().to_string()).unwrap_or_default();
    let mac = "00:00:00:00:00:00".to_owned();
    let interface = Interface { name: NAME.into(), mac, sandbox, ..Interface::default() };
    let ip = |address: &Cidr| IpConfig { address: *address, gateway: None, interface: Some(0) };
    let ips = held.iter().map(ip).collect();
    NetworkResult { interfaces: vec![interface], ips, ..NetworkResult::default() }
}
