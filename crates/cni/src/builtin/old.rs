//! The built-in network: bridge, addresses, masquerade and host ports in-process over netlink, without a plugin binary.
//!
//! | part | what it does | the plugin that does the same |
//! |---|---|---|
//! | `host_local` | addresses | `host-local` |
//! | `bridge`, `link` | links, addresses and routes on them | `bridge` |
//! | `firewall`, `nft`, `conntrack` | masquerade, host ports | `portmap` |
//! | `netlink`, `netns`, `sysctl` | what they stand on | |
//!
//! The bridge and the tables come with the first attachment, and go a while after the last: pods that follow one another
//! find them there.
//!
//! Detaching is two things. [`Builtin::isolate`] cuts the pod off, which takes no time: its port is blocked, its
//! host ports lead nowhere. [`Builtin::remove`] deletes the link, which takes the kernel tens of milliseconds (it waits for
//! every reader of the device), and frees the addresses after that.
//!
//! Everything here blocks for as long as the kernel needs, and acts on the network namespace of the calling thread.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::bridge::{self, Address, Joining};
use super::firewall::Firewall;
use super::host_local::{Pool, Range};
use super::link::{self, Link, Mac};
use super::netns::Namespace;
use super::{conntrack, netlink};
use crate::attachment::{Attachment, AttachmentId, PortMapping, is_identifier, is_ifname};
use crate::error::Error;
use crate::result::{Cidr, Interface, IpConfig, NetworkResult, Route};

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
    /// Sees whether these settings can be used.
    ///
    /// # Errors
    /// [`Error::InvalidBuiltin`], naming the field.
    pub fn check(&self) -> Result<(), Error> {
        let invalid = |field, value: &str| Err(Error::InvalidBuiltin { field, value: value.to_owned() });
        if !is_identifier(&self.name) {
            return invalid("name", &self.name);
        }
        if !is_ifname(&self.bridge) || !self.bridge.is_ascii() {
            return invalid("bridge", &self.bridge);
        }
        // 68 is the least that IPv4 works with (RFC 791), 1280 IPv6 (RFC 8200).
        let least =
            if self.subnets.iter().any(|subnet| !subnet.network.address.is_ipv4()) { 1280 } else { 68 };
        if let Some(mtu) = self.mtu.filter(|mtu| !(least..=65535).contains(mtu)) {
            return invalid("mtu", &mtu.to_string());
        }
        let families: HashSet<bool> =
            self.subnets.iter().map(|subnet| subnet.network.address.is_ipv4()).collect();
        if self.subnets.is_empty() || families.len() != self.subnets.len() {
            let shown: Vec<String> = self.subnets.iter().map(|subnet| subnet.network.to_string()).collect();
            return invalid("subnets", &shown.join(", "));
        }
        self.ranges().map(drop)
    }

    fn ranges(&self) -> Result<Vec<Range>, Error> {
        let range = |subnet: &Subnet| {
            Range::of(subnet.network, subnet.gateway).ok_or_else(|| {
                let gateway = subnet.gateway.map(|gateway| format!(" with gateway {gateway}"));
                let value = format!("{}{}", subnet.network, gateway.unwrap_or_default());
                Error::InvalidBuiltin { field: "subnet", value }
            })
        };
        self.subnets.iter().map(range).collect()
    }
}

/// The built-in network at work.
#[derive(Debug)]
pub(crate) struct Builtin {
    network: BuiltinNetwork,
    ranges: Vec<Range>,
    pool: Pool,
    firewall: Firewall,
    /// Held while bridge and tables come or go.
    ground: Mutex<Ground>,
}

/// What all attachments stand on, and who stands on it.
#[derive(Debug)]
struct Ground {
    users: HashMap<AttachmentId, Published>,
    /// How many have come so far.
    arrivals: u64,
    /// The MTU, once bridge and tables have been made by us.
    made: Option<u32>,
}

/// The host ports of an attachment, and the addresses that they lead to; made again when somebody takes the tables away.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    pub(crate) mappings: Vec<PortMapping>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A time at which nobody was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Idle {
    arrivals: u64,
}

impl Builtin {
    /// The network, with those who are attached to it already. Nothing is made yet.
    pub(crate) fn open(
        network: BuiltinNetwork,
        state_dir: &Path,
        users: HashMap<AttachmentId, Published>,
    ) -> Result<Builtin, Error> {
        let ranges = network.ranges()?;
        let pool = Pool::open(state_dir.join("addresses").join(&network.name), &network.name)?;
        let firewall = Firewall::new(&network.bridge, &ranges);
        let ground = Mutex::new(Ground { users, arrivals: 0, made: None });
        Ok(Builtin { network, ranges, pool, firewall, ground })
    }

    /// Attaches. What a failure leaves is removed by [`Builtin::isolate`] and [`Builtin::remove`].
    pub(crate) fn add(&self, attachment: &Attachment) -> Result<NetworkResult, Error> {
        let Some(netns) = &attachment.netns else {
            return Err(Error::InvalidAttachment { field: "network namespace", value: String::new() });
        };
        let namespace = Namespace::open(netns)?;
        let addresses = self.reserve(attachment)?;
        let mut socket = bridge::socket()?;
        let bridge = self.stand(&mut socket, attachment.id())?;
        let joining = Joining {
            network: &self.network,
            bridge,
            attachment,
            namespace: &namespace,
            addresses: &addresses,
        };
        let mac = joining.join(&mut socket)?;
        let pod: Vec<IpAddr> = addresses.iter().map(|(cidr, _)| cidr.address).collect();
        self.firewall.publish(&attachment.port_mappings, &pod)?;
        conntrack::forget_ports(&attachment.port_mappings, &pod)?;
        let published = Published { mappings: attachment.port_mappings.clone(), addresses: pod };
        self.ground().users.insert(attachment.id(), published);
        Ok(self.result(attachment, mac, bridge.mtu, &addresses))
    }

    fn reserve(&self, attachment: &Attachment) -> Result<Vec<Address>, Error> {
        let id = attachment.id();
        let wanted = wanted(attachment)?;
        let mut addresses = Vec::new();
        for (index, range) in self.ranges.iter().enumerate() {
            let v4 = range.gateway.is_ipv4();
            let wanted = wanted.iter().copied().find(|address| address.is_ipv4() == v4);
            let address = self.pool.reserve(index, range, &id, wanted)?;
            addresses.push((Cidr { address, prefix: range.subnet.prefix }, range.gateway));
        }
        Ok(addresses)
    }

    /// Sees that there is ground to stand on: made by the first, and again where somebody took it away.
    fn stand(&self, socket: &mut netlink::Socket, id: AttachmentId) -> Result<Link, Error> {
        let mut ground = self.ground();
        ground.users.entry(id).or_default();
        ground.arrivals += 1;
        self.lay(socket, &mut ground)
    }

    fn lay(&self, socket: &mut netlink::Socket, ground: &mut Ground) -> Result<Link, Error> {
        let link = match (ground.made, link::find(socket, &self.network.bridge)?) {
            (Some(mtu), Some(link)) => Link { mtu, ..link },
            _ => {
                let link = bridge::set_up(socket, &self.network, &self.ranges)?;
                // Its rules may be of an older version.
                self.firewall.install()?;
                link
            }
        };
        if !self.firewall.is_installed()? {
            tracing::warn!(
                network = self.network.name,
                "the nftables tables were taken away and are made anew"
            );
            self.firewall.remove()?;
            self.firewall.install()?;
            for user in ground.users.values() {
                self.firewall.publish(&user.mappings, &user.addresses)?;
            }
        }
        ground.made = Some(link.mtu);
        Ok(link)
    }

    /// Cuts off. Returns what failed; the rest is done.
    pub(crate) fn isolate(&self, attachment: &Attachment, result: Option<&NetworkResult>) -> Vec<Error> {
        let mut failures = Vec::new();
        match self.addresses_of(attachment, result) {
            Ok(addresses) if !attachment.port_mappings.is_empty() && !addresses.is_empty() => {
                failures.extend(self.firewall.withdraw(&addresses).err());
                failures.extend(conntrack::forget_pod(&attachment.port_mappings, &addresses).err());
            }
            outcome => failures.extend(outcome.err()),
        }
        let host_name = bridge::host_interface(&self.network.bridge, &attachment.id());
        let blocked = bridge::socket().and_then(|mut socket| link::block_port(&mut socket, &host_name));
        failures.extend(blocked.err());
        failures
    }

    /// Removes what is left of an attachment that has been cut off.
    pub(crate) fn remove(
        &self,
        attachment: &Attachment,
        result: Option<&NetworkResult>,
    ) -> Result<(), Error> {
        let id = attachment.id();
        let host_name = bridge::host_interface(&self.network.bridge, &id);
        link::delete(&mut bridge::socket()?, &host_name)?;
        // Last: who gets an address next must find nothing of its former owner.
        self.pool.release(&id, &self.addresses_of(attachment, result)?)?;
        self.ground().users.remove(&id);
        Ok(())
    }

    fn addresses_of(
        &self,
        attachment: &Attachment,
        result: Option<&NetworkResult>,
    ) -> Result<Vec<IpAddr>, Error> {
        match result {
            Some(result) => Ok(result.addresses()),
            None => self.pool.owned(&attachment.id()),
        }
    }

    /// Since when nobody has been attached; `None` while somebody is.
    pub(crate) fn idle_since(&self) -> Option<Idle> {
        let ground = self.ground();
        ground.users.is_empty().then_some(Idle { arrivals: ground.arrivals })
    }

    /// Takes bridge and tables away, if nobody has come since.
    pub(crate) fn clear(&self, idle: Idle) -> Result<(), Error> {
        let mut ground = self.ground();
        if !ground.users.is_empty() || ground.arrivals != idle.arrivals {
            return Ok(());
        }
        ground.made = None;
        self.firewall.remove()?;
        link::delete(&mut bridge::socket()?, &self.network.bridge)
    }

    /// Sees whether an attachment is as it was made.
    pub(crate) fn check(&self, attachment: &Attachment, result: &NetworkResult) -> Result<(), Error> {
        let addresses: Vec<Cidr> = result.ips.iter().map(|ip| ip.address).collect();
        bridge::check(&self.network, attachment, &addresses)
    }

    /// Gives back the addresses of those who aren't kept, takes away the ground that nobody stands on, and mends that of the others.
    pub(crate) fn collect(&self, kept: &HashSet<AttachmentId>) -> Vec<Error> {
        let cleared = self.idle_since().map_or(Ok(()), |idle| self.clear(idle));
        let mut failures: Vec<Error> = cleared.and_then(|()| self.mend()).err().into_iter().collect();
        match self.pool.retain(|owner| kept.contains(owner)) {
            Ok(released) => {
                if !released.is_empty() {
                    tracing::warn!(network = self.network.name, ?released, "addresses without an owner");
                }
            }
            Err(error) => failures.push(error),
        }
        failures
    }

    /// Makes again what was taken away under those who are attached.
    fn mend(&self) -> Result<(), Error> {
        let mut ground = self.ground();
        if ground.users.is_empty() {
            return Ok(());
        }
        self.lay(&mut bridge::socket()?, &mut ground).map(drop)
    }

    fn result(&self, attachment: &Attachment, mac: Mac, mtu: u32, addresses: &[Address]) -> NetworkResult {
        let host = Interface { name: self.network.bridge.clone(), ..Interface::default() };
        let port = bridge::host_interface(&self.network.bridge, &attachment.id());
        let port = Interface { name: port, mtu: Some(mtu), ..Interface::default() };
        let inside = Interface {
            name: attachment.ifname.clone(),
            mac: bridge::show_mac(mac),
            mtu: Some(mtu),
            sandbox: attachment.netns.as_deref().unwrap_or(Path::new("")).display().to_string(),
            ..Interface::default()
        };
        let ip = |(address, gateway): &Address| IpConfig {
            address: *address,
            gateway: Some(*gateway),
            interface: Some(2),
        };
        let route = |(address, gateway): &Address| {
            let any = if address.address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            Cidr::parse(any).map(|any| Route { gw: Some(*gateway), ..Route::to(any) })
        };
        NetworkResult {
            interfaces: vec![host, port, inside],
            ips: addresses.iter().map(ip).collect(),
            routes: addresses.iter().filter_map(route).collect(),
            ..NetworkResult::default()
        }
    }

    fn ground(&self) -> MutexGuard<'_, Ground> {
        self.ground.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses asked for, with or without a prefix length.
fn wanted(attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
    let parse = |text: &String| {
        let address = text.split_once('/').map_or(text.as_str(), |(address, _)| address);
        let invalid = || Error::InvalidAttachment { field: "address", value: text.clone() };
        address.parse().map_err(|_| invalid())
    };
    attachment.ips.iter().map(parse).collect()
}

/// The loopback interface of a namespace: set up, if it isn't yet.
///
/// # Errors
/// [`Error::Namespace`], [`Error::Kernel`].
pub(crate) fn loopback(netns: &Path) -> Result<NetworkResult, Error> {
    Namespace::open(netns)?.enter(|| link::set_up(&mut bridge::socket()?, "lo"))?;
    let interface =
        Interface { name: "lo".into(), sandbox: netns.display().to_string(), ..Interface::default() };
    let ips = ["127.0.0.1/8", "::1/128"].into_iter().filter_map(Cidr::parse);
    let ips = ips.map(|address| IpConfig { address, gateway: None, interface: Some(0) }).collect();
    Ok(NetworkResult { interfaces: vec![interface], ips, ..NetworkResult::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnets: &[&str]) -> BuiltinNetwork {
        let subnet = |text: &&str| Subnet { network: Cidr::parse(text).unwrap(), gateway: None };
        BuiltinNetwork {
            name: "knarr".into(),
            bridge: "knarr0".into(),
            subnets: subnets.iter().map(subnet).collect(),
            mtu: None,
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        network(&["10.88.0.0/16"]).check().unwrap();
        network(&["fd00:88::/64", "10.88.0.0/16"]).check().unwrap();
        let refused = |network: BuiltinNetwork| network.check().unwrap_err().to_string();
        assert!(refused(network(&[])).contains("subnets"));
        assert!(refused(network(&["10.0.0.0/8", "11.0.0.0/8"])).contains("subnets"));
        assert!(refused(network(&["10.0.0.0/31"])).contains("10.0.0.0/31"));
        let long = BuiltinNetwork { bridge: "a-very-long-bridge".into(), ..network(&["10.0.0.0/8"]) };
        assert!(refused(long).contains("bridge"));
        let climbing = BuiltinNetwork { name: "../x".into(), ..network(&["10.0.0.0/8"]) };
        assert!(refused(climbing).contains("name"));
        let narrow = BuiltinNetwork { mtu: Some(576), ..network(&["fd00::/64"]) };
        assert!(refused(narrow).contains("mtu"));
    }
}
