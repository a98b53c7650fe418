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
//! `portmap` and `masquerade` say which entries, `layout` which rules. The chains that `hairpin` and `masqueraded` lead to are made with the first entry
//! that leads there, and go with the last, unless somebody else's rule leads there as well.
//!
//! **Every change is bound to the generation of tables that it was thought out for**: read, decide, and have the kernel do it if
//! nothing has changed since; else from the beginning, if nothing is to be done as well. So nobody takes away what another process has put there meanwhile, whatever
//! the two are. Rules of others (a forward policy of drop, for one) are the others' affair.

mod changes;
mod layout;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use self::changes::Changes;
use self::layout::{FAMILIES, MAPS, NAME, fill, install, stands, table};
pub(super) use self::layout::{Map, chain_name};
use super::localnet;
use super::netlink::Socket;
use super::nft::{self, Batch, Entry, Family, Rule};
use crate::error::Error;

/// How often a change is thought out anew because another came before it. Each time somebody got on.
const ATTEMPTS: usize = 10_000;
/// What is tried first.
const ASK: &str = "ask the kernel for nftables table";
/// What the kernel answers when the tables have changed since that generation.
const OUTRUN: i32 = rustix::io::Errno::RESTART.raw_os_error();

/// What it answers when a chain that is to go is led to by what isn't ours: a rule of an operator's, for one.
const BUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

/// Lets the threads of a process take turns, as only one could succeed.
static TURN: Mutex<()> = Mutex::new(());

/// What the kernel answers who asks for nftables where it has none: to a netlink socket without nfnetlink
/// (net/netlink/af_netlink.c, `netlink_create`), to a message without nf_tables (net/netfilter/nfnetlink.c,
/// `nfnetlink_rcv_msg`), to messages of a kind that it doesn't take at all.
const WITHOUT_NFTABLES: [rustix::io::Errno; 3] =
    [rustix::io::Errno::PROTONOSUPPORT, rustix::io::Errno::INVAL, rustix::io::Errno::OPNOTSUPP];

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
    let turn = Turn::take(Socket::netfilter).map_err(failed(ASK))?;
    change(turn, wish.maps, |socket, found| {
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
    let turn = Turn::take(Socket::netfilter).map_err(failed(ASK))?;
    change(turn, wish.maps, |socket, found| {
        let stands = |family| stands(socket, family).map_err(failed("read nftables table"));
        let standing: Vec<Result<bool, Error>> = FAMILIES.into_iter().map(stands).collect();
        let standing = standing.into_iter().collect::<Result<Vec<bool>, Error>>()?;
        let stands =
            |family: Family| FAMILIES.into_iter().zip(&standing).any(|(of, yes)| of == family && *yes);
        let lacks = |placed: &&Placed| !found.contains(placed) || !stands(placed.family);
        Ok((Batch::default(), wish.entries.iter().filter(lacks).cloned().collect()))
    })
}

/// Removes the entries of those owners from maps; returns them, and those that are left. A kernel without nftables has none.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn withdraw(maps: &[Map], of: impl Fn(&str) -> bool) -> Result<(Vec<Placed>, Vec<Placed>), Error> {
    let Some(turn) = Turn::if_any(Socket::netfilter)? else { return Ok((Vec::new(), Vec::new())) };
    change(turn, maps, |_, found| {
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
        if !stands(&mut socket, family).map_err(failed("read nftables table"))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Deletes the tables that nobody has an entry in. A kernel without nftables has none.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn clear_if_unused() -> Result<(), Error> {
    let Some(turn) = Turn::if_any(Socket::netfilter)? else { return Ok(()) };
    let mut shut = HashSet::new();
    change(turn, &MAPS, |socket, found| {
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

/// A thread's turn to change tables.
struct Turn {
    socket: Socket,
    /// The generation that the tables were in when the turn came.
    generation: u32,
    _held: MutexGuard<'static, ()>,
}

impl Turn {
    /// Waits for it.
    fn take(open: impl FnOnce() -> io::Result<Socket>) -> io::Result<Turn> {
        let held = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut socket = open()?;
        let generation = nft::generation(&mut socket)?;
        Ok(Turn { socket, generation, _held: held })
    }

    /// The same for who has something to take away; `None` where the kernel has no nftables, and so nothing of ours.
    fn if_any(open: impl FnOnce() -> io::Result<Socket>) -> Result<Option<Turn>, Error> {
        match Turn::take(open) {
            Err(error) if lacks_nftables(&error) => Ok(None),
            turn => turn.map(Some).map_err(failed(ASK)),
        }
    }
}

/// Whether the question for the generation, which can't be asked wrongly, says that there is nobody to answer it.
fn lacks_nftables(error: &io::Error) -> bool {
    WITHOUT_NFTABLES.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Reads the maps, and has the kernel do what is decided on that, if it is still so; else again.
fn change<T>(
    turn: Turn,
    maps: &[Map],
    mut decide: impl FnMut(&mut Socket, &[Placed]) -> Result<(Batch, T), Error>,
) -> Result<T, Error> {
    let Turn { mut socket, mut generation, _held } = turn;
    for _ in 1..ATTEMPTS {
        let found = read(&mut socket, maps).map_err(failed("read nftables table"))?;
        let (mut batch, outcome) = decide(&mut socket, &found)?;
        if batch.is_empty() {
            // What was read in several parts may have been changed between two of them.
            let now = nft::generation(&mut socket).map_err(failed(ASK))?;
            if now == std::mem::replace(&mut generation, now) {
                return Ok(outcome);
            }
            continue;
        }
        let mut done = batch.commit_at(&mut socket, generation);
        if done.as_ref().is_err_and(|error| error.raw_os_error() == Some(BUSY)) {
            // Whoever needs it next fills it anew.
            batch.keep_chains();
            done = batch.commit_at(&mut socket, generation);
        }
        match done {
            Err(error) if error.raw_os_error() == Some(OUTRUN) => {}
            done => return done.map(|()| outcome).map_err(failed("change nftables table")),
        }
        generation = nft::generation(&mut socket).map_err(failed(ASK))?;
    }
    Err(failed("change nftables table")(io::Error::from_raw_os_error(OUTRUN)))
}

fn read(socket: &mut Socket, maps: &[Map]) -> io::Result<Vec<Placed>> {
    let mut found = Vec::new();
    for family in FAMILIES {
        for map in maps {
            let entries = nft::entries(socket, &table(family), map.name())?;
            found.extend(entries.into_iter().map(|entry| Placed { family, map: *map, entry }));
        }
    }
    Ok(once_each(found))
}

/// A map that grows at the moment may be listed with an entry in the old place and in the new one.
fn once_each(mut found: Vec<Placed>) -> Vec<Placed> {
    let mut seen = HashSet::new();
    found.retain(|placed| seen.insert(placed.clone()));
    found
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
