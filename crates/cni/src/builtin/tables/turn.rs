//! Turns at changing the tables: look, decide, and have the kernel do it if nothing has changed since. And looks for which nobody
//! has to wait for theirs.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard};

use super::layout::{FAMILIES, maps, table};
use super::{ASK, Place, Placed, READ, Sight, failed};
use crate::builtin::netlink::Socket;
use crate::builtin::nft::{self, Batch};
use crate::error::Error;
use crate::locks::locked;

/// How often a change is thought out anew because another came before it. Each time somebody got on.
const ATTEMPTS: usize = 10_000;
/// How often who only looks does so because we have changed something meanwhile.
const ROUNDS: usize = 5;
/// What the kernel answers when the tables have changed since that generation.
const OUTRUN: i32 = rustix::io::Errno::RESTART.raw_os_error();

/// What it answers when a chain that is to go is led to by what isn't ours: a rule of an operator's, for one.
const BUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

/// Lets the threads of a process take turns, as only one could succeed. What they have done so far, by the network namespace.
static TURN: Mutex<BTreeMap<u64, Done>> = Mutex::new(BTreeMap::new());
/// The calling thread's network namespace.
const NETNS: &str = "/proc/thread-self/ns/net";

/// What the kernel answers who asks for nftables where it has none: to a netlink socket without nfnetlink
/// (net/netlink/af_netlink.c, `netlink_create`), to a message without nf_tables (net/netfilter/nfnetlink.c,
/// `nfnetlink_rcv_msg`), to messages of a kind that it doesn't take at all.
const WITHOUT_NFTABLES: [rustix::io::Errno; 3] =
    [rustix::io::Errno::PROTONOSUPPORT, rustix::io::Errno::INVAL, rustix::io::Errno::OPNOTSUPP];

/// What this process has done to the tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// How often it has changed them: each time they come to the next generation.
    pub(super) changes: u32,
    /// What it has added to them less what it has removed, as [`nft::sum`] has it.
    pub(super) sum: u64,
}

/// A thread's turn to change tables.
pub(super) struct Turn {
    socket: Socket,
    /// The generation that the tables were in when the turn came.
    generation: u32,
    netns: u64,
    done: MutexGuard<'static, BTreeMap<u64, Done>>,
}

impl Turn {
    /// Waits for it.
    pub(super) fn take(open: impl FnOnce() -> io::Result<Socket>) -> io::Result<Turn> {
        let done = locked(&TURN);
        let mut socket = open()?;
        let generation = nft::generation(&mut socket)?;
        // Without /proc all are taken for one, which they are in a daemon.
        let netns = std::fs::metadata(NETNS).map_or(0, |metadata| metadata.ino());
        Ok(Turn { socket, generation, netns, done })
    }

    /// The same for who has something to take away; `None` where the kernel has no nftables, and so nothing of ours.
    pub(super) fn if_any(open: impl FnOnce() -> io::Result<Socket>) -> Result<Option<Turn>, Error> {
        match Turn::take(open) {
            Err(error) if lacks_nftables(&error) => Ok(None),
            turn => turn.map(Some).map_err(failed(ASK)),
        }
    }
}

/// Looks, as far as this process has no hand in what is seen: with the generation that the tables were in before, and what it had
/// done until then. Nobody has to wait for their turn meanwhile, and so we may change something as well: it is looked again then, a
/// few times; `None` if that wasn't enough. What others change meanwhile raises the generation.
pub(super) fn look<T>(
    mut tell: impl FnMut(&mut Socket, u32, Done) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    for _ in 0..ROUNDS {
        let Turn { mut socket, generation, netns, done } =
            Turn::take(Socket::netfilter).map_err(failed(ASK))?;
        let before = done.get(&netns).copied().unwrap_or_default();
        drop(done);
        let told = tell(&mut socket, generation, before)?;
        if locked(&TURN).get(&netns).copied().unwrap_or_default() == before {
            return Ok(Some(told));
        }
    }
    Ok(None)
}

/// Whether the question for the generation, which can't be asked wrongly, says that there is nobody to answer it.
pub(super) fn lacks_nftables(error: &io::Error) -> bool {
    WITHOUT_NFTABLES.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Looks, and has the kernel do what is decided on that, if it is still so; else again.
pub(super) fn change<T>(
    turn: Turn,
    sight: Sight<'_>,
    mut decide: impl FnMut(&mut Socket, &[Placed]) -> Result<(Batch, T), Error>,
) -> Result<T, Error> {
    let Turn { mut socket, mut generation, netns, mut done } = turn;
    for _ in 1..ATTEMPTS {
        let found = read(&mut socket, sight).map_err(failed(READ))?;
        let (mut batch, outcome) = decide(&mut socket, &found)?;
        if batch.is_empty() {
            // What was read in several parts may have been changed between two of them.
            let now = nft::generation(&mut socket).map_err(failed(ASK))?;
            if now == std::mem::replace(&mut generation, now) {
                return Ok(outcome);
            }
            continue;
        }
        let mut committed = batch.commit_at(&mut socket, generation);
        if committed.as_ref().is_err_and(|error| error.raw_os_error() == Some(BUSY)) {
            // Whoever needs it next fills it anew.
            batch.keep_chains();
            committed = batch.commit_at(&mut socket, generation);
        }
        match committed {
            Ok(()) => {
                let done = done.entry(netns).or_default();
                done.changes = done.changes.wrapping_add(1);
                done.sum = done.sum.wrapping_add(batch.sum());
                return Ok(outcome);
            }
            Err(error) if error.raw_os_error() == Some(OUTRUN) => {}
            Err(error) => return Err(failed("change nftables table")(error)),
        }
        generation = nft::generation(&mut socket).map_err(failed(ASK))?;
    }
    Err(failed("change nftables table")(io::Error::from_raw_os_error(OUTRUN)))
}

pub(super) fn read(socket: &mut Socket, sight: Sight<'_>) -> io::Result<Vec<Placed>> {
    let mut found = Vec::new();
    match sight {
        Sight::Maps(looked_at) => {
            for (family, map) in
                FAMILIES.into_iter().flat_map(maps).filter(|(_, map)| looked_at.contains(map))
            {
                let entries = nft::entries(socket, &table(family), map.name())?;
                found.extend(entries.into_iter().map(|entry| Placed { family, map, entry }));
            }
        }
        Sight::Places(places) => {
            for Place { family, map, key } in places {
                let entry = nft::entry_at(socket, &table(*family), (map.name(), key))?;
                found.extend(entry.map(|entry| Placed { family: *family, map: *map, entry }));
            }
        }
    }
    Ok(once_each(found))
}

/// A map that grows at the moment may be listed with an entry in the old place and in the new one.
pub(super) fn once_each(mut found: Vec<Placed>) -> Vec<Placed> {
    let mut seen = HashSet::new();
    found.retain(|placed| seen.insert(placed.clone()));
    found
}
