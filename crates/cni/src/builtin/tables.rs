//! The nftables tables of a network namespace, `knarr` in each family: what all networks share, and whose each entry is.
//!
//! | chain | hook | what |
//! |---|---|---|
//! | `guard` | prerouting, raw | drops what comes by the interfaces in `localnet` for the host's own loopback network (CVE-2020-8558), or as if from there |
//! | `prerouting`, `output` | dstnat | what goes to this host goes through `host-ports` |
//! | `host-ports` | | looks up `ports-of-address`, then `ports`, and sends the connection to the pod |
//! | `postrouting` | srcnat | looks up `hairpin`, then `masqueraded`, and goes on in the chain that is there |
//!
//! The rules are the same for everybody; an attachment costs entries of the four maps, which have its owner as their comment. Who
//! has host ports stands in `pods` as well, by address: those who have none needn't look through everybody's.
//! `portmap` and `masquerade` say which entries, `layout` which rules, `plan` what has to be changed, `turn` when, `inventory` what is missing. The chains that `hairpin` and `masqueraded` lead to are made with the first entry
//! that leads there, and go with the last, unless somebody else's rule leads there as well.
//!
//! **Every change is bound to the generation of tables that it was thought out for**: read, decide, and have the kernel do it if
//! nothing has changed since; else from the beginning, if nothing is to be done as well. So nobody takes away what another process has put there meanwhile, whatever
//! the two are. Rules of others (a forward policy of drop, for one) are the others' affair.

mod changes;
mod inventory;
mod layout;
mod plan;
mod turn;
mod unguarded;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

pub(crate) use self::changes::Changes;
#[cfg(test)]
pub(crate) use self::inventory::broken;
pub(crate) use self::inventory::{Inventory, Mark, have_others_meddled};
use self::layout::{FAMILIES, NAME, OWNED, fill, install, stands, table};
pub(super) use self::layout::{Map, chain_name};
use self::plan::{Plan, branch_of, encode, plan, unused};
use self::turn::{Turn, change, lacks_nftables, read};
use super::localnet;
use super::netlink::Socket;
use super::nft::{self, Batch, Entry, Family, Rule};
use crate::error::Error;

/// What is tried first.
const ASK: &str = "ask the kernel for nftables table";
const READ: &str = "read nftables table";
/// An entry and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Placed {
    pub(super) family: Family,
    pub(super) map: Map,
    pub(super) entry: Entry,
}

/// Where an entry stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) family: Family,
    pub(super) map: Map,
    pub(super) key: Vec<u8>,
}

/// What is looked at before something is decided.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sight<'a> {
    /// All entries of these maps.
    Maps(&'a [Map]),
    /// Those of these places, however many others there are.
    Places(&'a [Place]),
}

/// A chain that entries lead to.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) family: Family,
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
}

/// What an owner is to have as far as is looked: this and nothing else.
pub(super) struct Wish<'a> {
    pub(super) owner: String,
    pub(super) sight: Sight<'a>,
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

/// Gives an owner what it is to have; what it has already stays untouched. All of it or nothing.
///
/// # Errors
/// What the wish says of a key that is taken, [`Error::Kernel`].
pub(super) fn grant(wish: &Wish<'_>) -> Result<(), Error> {
    let stand: HashSet<Family> = wish.entries.iter().map(|placed| placed.family).collect();
    let mut has_new_guard = false;
    let turn = Turn::take(Socket::netfilter).map_err(failed(ASK))?;
    change(turn, wish.sight, |socket, found| {
        let plan = plan(found, wish)?;
        let mut batch = Batch::default();
        for family in FAMILIES.into_iter().filter(|family| stand.contains(family)) {
            let rules = nft::rules(socket, &table(family)).map_err(failed(READ))?;
            if !stands(&rules, family) {
                install(&mut batch, family);
                has_new_guard |= family == Family::Ipv4;
            }
            // One without rules is new, or somebody has flushed it.
            let is_filled = |branch: &Branch| rules.iter().any(|(chain, _)| *chain == branch.name);
            for branch in wish.branches.iter().filter(|branch| branch.family == family && !is_filled(branch))
            {
                fill(&mut batch, &table(family), &branch.name, None, &branch.rules);
            }
        }
        encode(&mut batch, &plan, &nobodys(socket, wish.sight, found, &plan)?);
        let stale = plan.remove.iter().filter(|placed| placed.entry.comment != wish.owner);
        for placed in stale.filter(|placed| placed.map != Map::Localnet) {
            tracing::warn!(owner = placed.entry.comment, "an entry of the tables was left over");
        }
        Ok((batch, ()))
    })?;
    if has_new_guard { unguarded::shut() } else { Ok(()) }
}

/// The entries of a wish that aren't as they should be.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn lacking(wish: &Wish<'_>) -> Result<Vec<Placed>, Error> {
    let turn = Turn::take(Socket::netfilter).map_err(failed(ASK))?;
    change(turn, wish.sight, |socket, found| {
        let mut standing = HashSet::new();
        for family in wish.entries.iter().map(|placed| placed.family).collect::<HashSet<_>>() {
            let rules = nft::rules(socket, &table(family)).map_err(failed(READ))?;
            standing.extend(stands(&rules, family).then_some(family));
        }
        let lacks = |placed: &&Placed| !found.contains(placed) || !standing.contains(&placed.family);
        Ok((Batch::default(), wish.entries.iter().filter(lacks).cloned().collect()))
    })
}

/// Removes the entries of those owners; returns them, and those that are left of what was looked at. A kernel without nftables
/// has none.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn withdraw(
    sight: Sight<'_>,
    of: impl Fn(&str) -> bool,
) -> Result<(Vec<Placed>, Vec<Placed>), Error> {
    let Some(turn) = Turn::if_any(Socket::netfilter)? else { return Ok((Vec::new(), Vec::new())) };
    change(turn, sight, |socket, found| {
        let (remove, left): (Vec<Placed>, Vec<Placed>) =
            found.iter().cloned().partition(|placed| of(&placed.entry.comment));
        let plan = Plan { remove, add: Vec::new() };
        let mut batch = Batch::default();
        encode(&mut batch, &plan, &nobodys(socket, sight, found, &plan)?);
        Ok((batch, (plan.remove, left)))
    })
}

/// The entries that stand at these places; a kernel without nftables has none.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn find(places: &[Place]) -> Result<Vec<Placed>, Error> {
    let found = Socket::netfilter().and_then(|mut socket| read(&mut socket, Sight::Places(places)));
    match found {
        Err(error) if lacks_nftables(&error) => Ok(Vec::new()),
        found => found.map_err(failed(READ)),
    }
}

/// The chains that nothing leads to any more once that is done.
fn nobodys(
    socket: &mut Socket,
    sight: Sight<'_>,
    found: &[Placed],
    plan: &Plan,
) -> Result<Vec<(Family, String)>, Error> {
    let mut chains = unused(found, plan);
    if let Sight::Places(_) = sight {
        // Others lead there who weren't looked at.
        let mut references = Vec::new();
        for (family, name) in &chains {
            references.push(nft::references(socket, &table(*family), name).map_err(failed(READ))?);
        }
        let mut references = references.into_iter();
        chains.retain(|chain| {
            let going = plan.remove.iter().filter(|placed| branch_of(placed).as_ref() == Some(chain)).count();
            references.next().is_some_and(|count| count <= going)
        });
    }
    Ok(chains)
}

/// Sees whether the kernel has nftables at all.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn probe() -> Result<(), Error> {
    nft::generation(&mut open()?).map(drop).map_err(failed(ASK))
}

/// Whether the tables of these addresses' families are there as we made them. Whoever flushes a node's rules takes ours along.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn is_installed(addresses: impl IntoIterator<Item = IpAddr>) -> Result<bool, Error> {
    let families: HashSet<Family> = addresses.into_iter().map(family_of).collect();
    let mut socket = open()?;
    for family in families {
        let rules = nft::rules(&mut socket, &table(family)).map_err(failed(READ))?;
        if !stands(&rules, family) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ends what is open without a guard.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn shut_unguarded() -> Result<(), Error> {
    #[cfg(test)]
    broken::look(broken::SHUTTING)?;
    unguarded::shut()
}

/// Deletes the tables that nobody has an entry in, and ends what others deleted before us. A kernel without nftables has none.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn clear_if_unused() -> Result<(), Error> {
    let Some(turn) = Turn::if_any(Socket::netfilter)? else { return Ok(()) };
    let mut shut = HashSet::new();
    let has_guard = change(turn, Sight::Maps(&[]), |socket, _| {
        let mut batch = Batch::default();
        let mut has_guard = false;
        for family in FAMILIES {
            let table = table(family);
            if !nft::has_table(socket, &table).map_err(failed(READ))? {
                continue;
            }
            let used = is_used(&table)?;
            let opened = nft::entries(socket, &table, Map::Localnet.name()).map_err(failed(READ))?;
            for interface in &opened {
                // Before the guard goes. Who came meanwhile has set it already, or will.
                if !used && shut.insert(interface.clone()) {
                    localnet::shut(interface)?;
                } else if used && shut.remove(interface) {
                    localnet::open(interface)?;
                }
            }
            has_guard |= used && family == Family::Ipv4;
            if !used {
                batch.delete(&table, Map::Localnet.name(), opened.iter());
                batch.delete_table(&table);
            }
        }
        Ok((batch, has_guard))
    })?;
    if has_guard { Ok(()) } else { unguarded::shut() }
}

/// Whether anybody has an entry in a table.
fn is_used(table: &nft::Table) -> Result<bool, Error> {
    for map in OWNED {
        if nft::has_entries(open()?, table, map.name()).map_err(failed(READ))? {
            return Ok(true);
        }
    }
    Ok(false)
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
pub(crate) mod netns;

#[cfg(test)]
pub(super) mod ground;
#[cfg(test)]
mod tests;
