//! The nftables tables of a network namespace, `knarr` in each family: what all networks share, and whose each entry is.
//!
//! | chain | hook | what |
//! |---|---|---|
//! | `guard` | prerouting, raw | drops what comes by the interfaces in `localnet` for the host's own loopback network (CVE-2020-8558) |
//! | `prerouting`, `output` | dstnat | what goes to this host goes through `host-ports` |
//! | `host-ports` | | looks up `ports-of-address`, then `ports`, and sends the connection to the pod |
//! | `postrouting` | srcnat | looks up `hairpin`, then `masqueraded`, and goes on in the chain that is there |
//!
//! The rules are the same for everybody; an attachment costs entries of the four maps, which have its owner as their comment.
//! `portmap` and `masquerade` say which entries. The chains that `hairpin` and `masqueraded` lead to are made with the first entry
//! that leads there, and go with the last.
//!
//! **Every change is bound to the generation of tables that it was thought out for**: read, decide, and have the kernel do it if
//! nothing has changed since; else from the beginning. So nobody takes away what another process has put there meanwhile, whatever
//! the two are. Rules of others (a forward policy of drop, for one) are the others' affair.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use super::link::octets;
use super::localnet;
use super::netlink::Socket;
use super::nft::{self, Batch, Datatype, Entry, Family, Hook, MapType, Part, REGISTER, Rule, Side, Table};
use crate::attachment::Protocol;
use crate::error::Error;
use crate::result::Cidr;

const NAME: &str = "knarr";
const HOST_PORTS: &str = "host-ports";
/// Stands beside the first rule; another version makes all rules anew.
const LAYOUT: &str = "layout 1";

/// Hooks and priorities (linux/netfilter_ipv4.h).
const GUARD: Hook = Hook { kind: "filter", number: 0, priority: -300 };
const PREROUTING: Hook = Hook { kind: "nat", number: 0, priority: -100 };
const OUTPUT: Hook = Hook { kind: "nat", number: 3, priority: -100 };
const POSTROUTING: Hook = Hook { kind: "nat", number: 4, priority: 100 };

/// How often a change is thought out anew because another came before it. Each time somebody got on.
const ATTEMPTS: usize = 10_000;
/// What the kernel answers when the tables have changed since that generation.
const OUTRUN: i32 = rustix::io::Errno::RESTART.raw_os_error();

/// Lets the threads of a process take turns, as only one could succeed.
static TURN: Mutex<()> = Mutex::new(());

/// A map of our tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Map {
    /// Protocol and host port to address and port of a pod.
    Ports,
    /// The same with an address of the host before.
    PortsOfAddress,
    /// Protocol, address and port of a pod, and host port to the chain that tells whose source address can't stay.
    Hairpin,
    /// A pod's address to the chain of its subnet, where what leaves the subnet gets an address of the host.
    Masquerade,
    /// The interfaces that `localnet` lets the host's loopback network be routed by, as long as the table is there.
    Localnet,
}

pub(super) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
const MAPS: [Map; 5] = [Map::Ports, Map::PortsOfAddress, Map::Hairpin, Map::Masquerade, Map::Localnet];

impl Map {
    fn name(self) -> &'static str {
        match self {
            Map::Ports => "ports",
            Map::PortsOfAddress => "ports-of-address",
            Map::Hairpin => "hairpin",
            Map::Masquerade => "masqueraded",
            Map::Localnet => "localnet",
        }
    }

    fn kind(self, family: Family) -> MapType {
        let address = match family {
            Family::Ipv4 => Part::Ipv4Address,
            Family::Ipv6 => Part::Ipv6Address,
        };
        let place = Some(Datatype::of(&[address, Part::Port]));
        let kind = |key: &[Part], value| MapType { key: Datatype::of(key), value };
        match self {
            Map::Ports => kind(&[Part::Protocol, Part::Port], place),
            Map::PortsOfAddress => kind(&[address, Part::Protocol, Part::Port], place),
            Map::Hairpin => kind(&[Part::Protocol, address, Part::Port, Part::Port], Some(Datatype::VERDICT)),
            Map::Masquerade => kind(&[address], Some(Datatype::VERDICT)),
            Map::Localnet => MapType { key: Datatype::INTERFACE, value: None },
        }
    }
}

/// An entry and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Placed {
    pub(super) family: Family,
    pub(super) map: Map,
    pub(super) entry: Entry,
}

/// A chain that entries lead to.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) family: Family,
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
}

/// What an owner is to have in these maps: this and nothing else.
pub(super) struct Wish<'a> {
    pub(super) owner: String,
    pub(super) maps: &'a [Map],
    pub(super) entries: Vec<Placed>,
    /// The chains that the entries lead to.
    pub(super) branches: Vec<Branch>,
    /// Whether an entry of somebody else is left over, and is to go.
    pub(super) stale: &'a dyn Fn(&Placed) -> bool,
    /// Whether an entry of somebody else can't stand beside these, though its key is another.
    pub(super) clashes: &'a dyn Fn(&Placed) -> bool,
    /// What to say when somebody else has such an entry, or one of the keys.
    pub(super) taken: &'a dyn Fn(&Placed) -> Error,
}

/// A change, thought out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    remove: Vec<Placed>,
    add: Vec<Placed>,
    /// Those that nothing leads to before, and those to which nothing does afterwards.
    new_branches: Vec<(Family, String)>,
    old_branches: Vec<(Family, String)>,
}

/// Gives an owner what it is to have; what it has already stays untouched. All of it or nothing.
///
/// # Errors
/// What the wish says of a key that is taken, [`Error::Kernel`].
pub(super) fn grant(wish: &Wish<'_>) -> Result<(), Error> {
    let stand: HashSet<Family> = wish.entries.iter().map(|placed| placed.family).collect();
    change(wish.maps, |socket, found| {
        let plan = plan(found, wish)?;
        let mut batch = Batch::default();
        for family in FAMILIES.into_iter().filter(|family| stand.contains(family)) {
            if !stands(socket, family).map_err(failed("read nftables table"))? {
                install(&mut batch, family);
            }
        }
        encode(&mut batch, &plan, &wish.branches);
        let stale = plan.remove.iter().filter(|placed| placed.entry.comment != wish.owner);
        for placed in stale.filter(|placed| placed.map != Map::Localnet) {
            tracing::warn!(owner = placed.entry.comment, "an entry of the tables was left over");
        }
        Ok((batch, ()))
    })
}

/// The entries of a wish that aren't as they should be.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn lacking(wish: &Wish<'_>) -> Result<Vec<Placed>, Error> {
    let mut socket = open()?;
    let found = read(&mut socket, wish.maps).map_err(failed("read nftables table"))?;
    let stands = |family| stands(&mut socket, family).map_err(failed("read nftables table"));
    let standing: Vec<Result<bool, Error>> = FAMILIES.into_iter().map(stands).collect();
    let standing = standing.into_iter().collect::<Result<Vec<bool>, Error>>()?;
    let stands = |family: Family| FAMILIES.into_iter().zip(&standing).any(|(of, yes)| of == family && *yes);
    let lacks = |placed: &&Placed| !found.contains(placed) || !stands(placed.family);
    Ok(wish.entries.iter().filter(lacks).cloned().collect())
}

/// Removes the entries of those owners from maps; returns them, and those that are left.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn withdraw(maps: &[Map], of: impl Fn(&str) -> bool) -> Result<(Vec<Placed>, Vec<Placed>), Error> {
    change(maps, |_, found| {
        let (remove, left): (Vec<Placed>, Vec<Placed>) =
            found.iter().cloned().partition(|placed| of(&placed.entry.comment));
        let plan = Plan { old_branches: unused(found, &remove, &[]), remove, ..Plan::default() };
        let mut batch = Batch::default();
        encode(&mut batch, &plan, &[]);
        Ok((batch, (plan.remove, left)))
    })
}

/// Sees whether the kernel has nftables at all.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn probe() -> Result<(), Error> {
    nft::generation(&mut open()?).map(drop).map_err(failed("ask the kernel for nftables table"))
}

/// Whether the tables of these addresses' families are there as we made them. Whoever flushes a node's rules takes ours along.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn is_installed(addresses: impl IntoIterator<Item = IpAddr>) -> Result<bool, Error> {
    let families: HashSet<Family> = addresses.into_iter().map(family_of).collect();
    let mut socket = open()?;
    for family in families {
        if !stands(&mut socket, family).map_err(failed("read nftables table"))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Deletes the tables that nobody has an entry in.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn clear_if_unused() -> Result<(), Error> {
    let mut shut = HashSet::new();
    change(&MAPS, |socket, found| {
        let mut batch = Batch::default();
        for family in FAMILIES {
            let here = || found.iter().filter(|placed| placed.family == family);
            let table = table(family);
            let used = here().any(|placed| placed.map != Map::Localnet);
            for interface in here().filter(|placed| placed.map == Map::Localnet) {
                // Before the guard goes. Who came meanwhile has set it already, or will.
                if !used && shut.insert(interface.clone()) {
                    localnet::shut(&interface.entry)?;
                } else if used && shut.remove(interface) {
                    localnet::open(&interface.entry)?;
                }
            }
            if !used && nft::has_table(socket, &table).map_err(failed("read nftables table"))? {
                batch.delete_table(&table);
            }
        }
        Ok((batch, ()))
    })
}

/// Reads the maps, and has the kernel do what is decided on that, if it is still so; else again.
fn change<T>(
    maps: &[Map],
    mut decide: impl FnMut(&mut Socket, &[Placed]) -> Result<(Batch, T), Error>,
) -> Result<T, Error> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut socket = open()?;
    let mut attempts = 0;
    loop {
        let read = nft::generation(&mut socket).and_then(|now| Ok((now, read(&mut socket, maps)?)));
        let (generation, found) = read.map_err(failed("read nftables table"))?;
        let (batch, outcome) = decide(&mut socket, &found)?;
        if batch.is_empty() {
            return Ok(outcome);
        }
        attempts += 1;
        match batch.commit_at(&mut socket, generation) {
            Err(error) if error.raw_os_error() == Some(OUTRUN) && attempts < ATTEMPTS => {}
            done => return done.map(|()| outcome).map_err(failed("change nftables table")),
        }
    }
}

fn read(socket: &mut Socket, maps: &[Map]) -> io::Result<Vec<Placed>> {
    let mut found = Vec::new();
    for family in FAMILIES {
        for map in maps {
            let entries = nft::entries(socket, &table(family), map.name())?;
            found.extend(entries.into_iter().map(|entry| Placed { family, map: *map, entry }));
        }
    }
    Ok(found)
}

fn plan(found: &[Placed], wish: &Wish<'_>) -> Result<Plan, Error> {
    let wanted: HashSet<&Placed> = wish.entries.iter().collect();
    let place = |placed: &Placed| (placed.family, placed.map, placed.entry.key.clone());
    let places: HashSet<_> = wish.entries.iter().map(place).collect();
    let mut remove = Vec::new();
    let mut there = HashSet::new();
    for placed in found {
        if wanted.contains(placed) {
            there.insert(placed);
        } else if placed.entry.comment == wish.owner || (wish.stale)(placed) {
            remove.push(placed.clone());
        } else if places.contains(&place(placed)) || (wish.clashes)(placed) {
            return Err((wish.taken)(placed));
        }
    }
    let add: Vec<Placed> = wish.entries.iter().filter(|placed| !there.contains(placed)).cloned().collect();
    let before: HashSet<_> = found.iter().filter_map(branch_of).collect();
    let mut new_branches: Vec<_> =
        add.iter().filter_map(branch_of).filter(|branch| !before.contains(branch)).collect();
    new_branches.sort_by(|one, other| one.1.cmp(&other.1));
    new_branches.dedup();
    let old_branches = unused(found, &remove, &add);
    Ok(Plan { remove, add, new_branches, old_branches })
}

/// The chains that only what is removed leads to.
fn unused(found: &[Placed], remove: &[Placed], add: &[Placed]) -> Vec<(Family, String)> {
    let removed: HashSet<&Placed> = remove.iter().collect();
    let left = found.iter().filter(|placed| !removed.contains(placed)).chain(add);
    let used: HashSet<_> = left.filter_map(branch_of).collect();
    let mut unused: Vec<_> =
        remove.iter().filter_map(branch_of).filter(|branch| !used.contains(branch)).collect();
    unused.sort_by(|one, other| one.1.cmp(&other.1));
    unused.dedup();
    unused
}

fn branch_of(placed: &Placed) -> Option<(Family, String)> {
    placed.entry.value.chain().map(|chain| (placed.family, chain.to_owned()))
}

fn encode(batch: &mut Batch, plan: &Plan, branches: &[Branch]) {
    for branch in branches {
        let Branch { family, name, rules } = branch;
        if plan.new_branches.iter().any(|(of, new)| of == family && new == name) {
            fill(batch, &table(*family), name, None, rules);
        }
    }
    for family in FAMILIES {
        let table = table(family);
        for map in MAPS {
            let here = |placed: &&Placed| placed.family == family && placed.map == map;
            batch.delete(&table, map.name(), plan.remove.iter().filter(here).map(|placed| &placed.entry));
            batch.add(&table, map.name(), plan.add.iter().filter(here).map(|placed| &placed.entry));
        }
    }
    for (family, name) in &plan.old_branches {
        batch.delete_chain(&table(*family), name);
    }
}

/// Makes what a table consists of beside its entries, or makes it anew.
fn install(batch: &mut Batch, family: Family) {
    let table = table(family);
    batch.table(&table);
    for map in MAPS.into_iter().filter(|map| family == Family::Ipv4 || *map != Map::Localnet) {
        batch.map(&table, map.name(), map.kind(family));
    }
    for (name, hook, rules) in layout(family) {
        fill(batch, &table, name, hook, &rules);
    }
}

fn fill(batch: &mut Batch, table: &Table, name: &str, hook: Option<Hook>, rules: &[Rule]) {
    batch.chain(table, name, hook);
    for rule in rules {
        batch.rule(table, name, rule);
    }
}

/// Whether a table's chains have the rules that they should have.
fn stands(socket: &mut Socket, family: Family) -> io::Result<bool> {
    let rules = nft::rules(socket, &table(family))?;
    let version = rules.iter().any(|(_, comment)| comment == LAYOUT);
    let count = |chain: &str| rules.iter().filter(|(of, _)| of == chain).count();
    Ok(version && layout(family).iter().all(|(chain, _, rules)| count(chain) == rules.len()))
}

type Chain = (&'static str, Option<Hook>, Vec<Rule>);

/// The chains of a table, in an order in which each leads to earlier ones only.
fn layout(family: Family) -> Vec<Chain> {
    let to_host = || Rule::default().for_this_host();
    // There is no way from IPv6's loopback address to another interface and back. Who tries is told so at once, and tries 127.0.0.1.
    let from_host = match family {
        Family::Ipv4 => to_host(),
        Family::Ipv6 => {
            let loopback = octets(Ipv6Addr::LOCALHOST.into());
            to_host().outside(family, Side::Destination, &loopback, 128)
        }
    };
    let mut postrouting: Vec<Rule> = Protocol::ALL.map(|protocol| hairpin(family, protocol)).into();
    postrouting.push(masquerade(family));
    let mut chains = vec![
        (HOST_PORTS, None, vec![to_pod(family, Map::PortsOfAddress), to_pod(family, Map::Ports)]),
        ("prerouting", Some(PREROUTING), vec![to_host().jump(HOST_PORTS).commented(LAYOUT)]),
        ("output", Some(OUTPUT), vec![from_host.jump(HOST_PORTS)]),
        ("postrouting", Some(POSTROUTING), postrouting),
    ];
    if family == Family::Ipv4 {
        // IPv6's loopback address is never taken from outside.
        let loopback = octets(Ipv4Addr::new(127, 0, 0, 0).into());
        let guard = Rule::default().came_by_one_of(Map::Localnet.name());
        let guard = guard.within(family, Side::Destination, &loopback, 8).drop_packet();
        chains.push(("guard", Some(GUARD), vec![guard]));
    }
    chains
}

fn to_pod(family: Family, map: Map) -> Rule {
    // The key's parts lie in adjacent registers, and so do the value's.
    let mut rule = Rule::default();
    let mut next = REGISTER;
    if map == Map::PortsOfAddress {
        rule = rule.load_destination(family, REGISTER);
        next += registers(family);
    }
    let rule = rule.load_service(next).lookup(map.name(), REGISTER, REGISTER);
    rule.redirect(family, REGISTER, REGISTER + registers(family))
}

/// A rule for each protocol, so that nft knows of the port what it needs to load a table that it has listed.
fn hairpin(family: Family, protocol: Protocol) -> Rule {
    let rule = Rule::default().over(protocol.number()).destination_changed().load_protocol(REGISTER);
    let next = REGISTER + 1 + registers(family);
    let rule = rule.load_destination(family, REGISTER + 1).load_port(next).load_original_port(next + 1);
    rule.branch(Map::Hairpin.name(), REGISTER)
}

fn masquerade(family: Family) -> Rule {
    Rule::default().load_source(family, REGISTER).branch(Map::Masquerade.name(), REGISTER)
}

/// How many registers an address takes.
fn registers(family: Family) -> u32 {
    match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 4,
    }
}

fn table(family: Family) -> Table {
    Table { family, name: NAME.to_owned() }
}

/// The name of a subnet's chain: without colons, which nft doesn't take in names.
pub(super) fn chain_name(what: &str, of: Cidr) -> String {
    format!("{what}-{}", subnet(of)).replace(':', "-")
}

/// The network that an address lies in.
pub(super) fn subnet(of: Cidr) -> Cidr {
    let prefix = u32::from(of.prefix);
    let address = match of.address {
        IpAddr::V4(v4) => {
            let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
            IpAddr::from(Ipv4Addr::from_bits(v4.to_bits() & !hosts))
        }
        IpAddr::V6(v6) => {
            let hosts = u128::MAX.checked_shr(prefix).unwrap_or(0);
            IpAddr::from(Ipv6Addr::from_bits(v6.to_bits() & !hosts))
        }
    };
    Cidr { address, ..of }
}

pub(super) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}

fn open() -> Result<Socket, Error> {
    Socket::netfilter().map_err(failed("open netlink socket for nftables table"))
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Kernel { action, subject: NAME.to_owned(), source }
}

#[cfg(test)]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared with the tests of the crate"
)]
#[path = "../../tests/support/netns.rs"]
pub(super) mod netns;

#[cfg(test)]
pub(super) mod ground;
#[cfg(test)]
mod tests;
