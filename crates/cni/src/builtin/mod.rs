//! The built-in network: bridge, addresses, masquerade and host ports in-process over netlink.

use std::net::IpAddr;

use crate::result::Cidr;

/// Settings of the built-in bridge network.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The network's address and prefix length.
    pub network: Cidr,
    /// The bridge's own address; the subnet's first when `None`.
    pub gateway: Option<IpAddr>,
}
