//! What attachments that are served in-process stand on together: the tables, and the bridge of the built-in network.
//!
//! It comes with the first of them, by itself, and goes a while after the last, for it takes longer to make and to take away
//! than all of a pod's share. Whether anybody stands on it is asked of the kernel: entries in the tables, ports of the bridge.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;

use crate::builtin::{self, Mark};
use crate::carrier::blocking;
use crate::claim::Claim;
use crate::error::{Error, chain};
use crate::locks::locked;

/// How long it outlives its last pod.
const LINGER: Duration = Duration::from_secs(3);

/// Tables and bridges of this daemon's.
#[derive(Debug)]
pub(crate) struct Ground {
    /// Where those who stand on it are recorded.
    records: PathBuf,
    /// Held for writing while it is taken away: nobody comes or goes then.
    quiet: Arc<RwLock<()>>,
    /// How many have come or gone so far.
    moves: AtomicU64,
    laid: watch::Sender<Laid>,
    /// The bridges that go with their last port: those of the built-in network, of this configuration and earlier ones. Each is
    /// claimed; the right to an earlier one is given back with it.
    bridges: Mutex<BTreeMap<String, Right>>,
    /// The MTU of the host's way out as the first one found it: all of a network have the same.
    mtu: Mutex<Option<u32>>,
    lingering: Mutex<Lingering>,
}

/// For whom there are tables.
#[derive(Debug, Default, Clone)]
pub(crate) struct Laid {
    /// Of each family one address that has had entries in the tables: where they have been made, and not been taken away by
    /// us since.
    addresses: Vec<IpAddr>,
    /// How often somebody has said that there are.
    times: u64,
}

/// Waits until it may go. The task holds nothing of us while it waits, and is aborted with us.
#[derive(Debug, Default)]
struct Lingering {
    /// Whether there is a task that will see who comes or goes from now on.
    is_waiting: bool,
    tasks: JoinSet<()>,
}

/// The right to a bridge.
#[derive(Debug)]
enum Right {
    /// Held as long as the daemon.
    Configured,
    Earlier(#[expect(dead_code, reason = "held, not used")] Claim),
    /// None: an earlier one that was another daemon's when it was looked at.
    Anothers,
}

impl Ground {
    /// Nothing is made yet.
    pub(crate) fn new(records: PathBuf, quiet: Arc<RwLock<()>>) -> Ground {
        Ground {
            records,
            quiet,
            moves: AtomicU64::new(0),
            laid: watch::Sender::default(),
            bridges: Mutex::default(),
            mtu: Mutex::default(),
            lingering: Mutex::default(),
        }
    }

    /// Somebody comes.
    pub(crate) fn arrive(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether anybody has come or gone.
    pub(crate) fn is_used(&self) -> bool {
        self.moves.load(Ordering::Relaxed) > 0
    }

    /// The configured bridge, which is claimed, is to go with its last port.
    pub(crate) fn own_bridge(&self, bridge: &str) {
        locked(&self.bridges).insert(bridge.to_owned(), Right::Configured);
    }

    /// So is the bridge of an earlier configuration, unless another daemon has claimed it since.
    pub(crate) fn own_former_bridge(&self, bridge: &str) {
        let mut bridges = locked(&self.bridges);
        if bridges.contains_key(bridge) {
            return;
        }
        match Claim::take(bridge, &self.records) {
            Ok(claim) => drop(bridges.insert(bridge.to_owned(), Right::Earlier(claim))),
            Err(error) => {
                if matches!(error, Error::BridgeTaken { .. }) {
                    bridges.insert(bridge.to_owned(), Right::Anothers);
                }
                tracing::info!(
                    bridge,
                    error = chain(&error),
                    "a bridge of former times is another's to delete"
                );
            }
        }
    }

    /// The tables have been made for somebody with these addresses.
    pub(crate) fn lay(&self, addresses: &[IpAddr]) {
        self.laid.send_if_modified(|laid| {
            laid.times += 1;
            let before = laid.addresses.len();
            for address in addresses {
                if !laid.addresses.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
                    laid.addresses.push(*address);
                }
            }
            laid.addresses.len() > before
        });
    }

    /// For whom the tables have been made is to be told anew.
    pub(crate) fn forget(&self) {
        self.laid.send_if_modified(|laid| {
            laid.addresses.clear();
            // Who watches learns what comes of it.
            false
        });
    }

    /// Tells whether there are tables ([`Laid::is_any`]), whenever that changes.
    pub(crate) fn laid(&self) -> watch::Receiver<Laid> {
        self.laid.subscribe()
    }

    /// Whether somebody took the tables away that were made for those who are there.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub(crate) async fn is_flushed(&self) -> Result<bool, Error> {
        let laid = self.laid.borrow().clone();
        laid.is_flushed().await
    }

    /// The MTU of the host's way out; `None` when it has none.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub(crate) async fn mtu(&self) -> Result<Option<u32>, Error> {
        let known = *locked(&self.mtu);
        if known.is_some() {
            return Ok(known);
        }
        let found = blocking(builtin::default_mtu).await?;
        *locked(&self.mtu) = found;
        Ok(found)
    }

    /// Somebody has gone: takes away what nobody stands on any more, a while after the last has come or gone.
    pub(crate) fn leave(self: &Arc<Self>) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        let mut lingering = locked(&self.lingering);
        if std::mem::replace(&mut lingering.is_waiting, true) {
            return;
        }
        while lingering.tasks.try_join_next().is_some() {}
        let (ground, mut seen) = (Arc::downgrade(self), self.moves.load(Ordering::Relaxed));
        lingering.tasks.spawn(async move {
            loop {
                tokio::time::sleep(LINGER).await;
                let Some(ground) = ground.upgrade() else { return };
                let before = std::mem::replace(&mut seen, ground.moves.load(Ordering::Relaxed));
                let Ok(_quiet) = ground.quiet.try_write() else { continue };
                if before != ground.moves.load(Ordering::Relaxed) {
                    continue;
                }
                for error in ground.clear().await {
                    tracing::warn!(error = chain(&error), "what no pod stands on can't be taken away");
                }
                if ground.needs_no_more(seen) {
                    return;
                }
            }
        });
    }

    /// Whether the task that waits may end: whoever goes either was before that, or finds that nobody waits any more.
    fn needs_no_more(&self, seen: u64) -> bool {
        let mut lingering = locked(&self.lingering);
        lingering.is_waiting = self.moves.load(Ordering::Relaxed) != seen;
        !lingering.is_waiting
    }

    /// Takes away what nobody stands on, now. The caller sees to it that nobody comes or goes.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    pub(crate) async fn clear(&self) -> Vec<Error> {
        let bridges = self.bridges();
        let Laid { addresses, times } = self.laid.borrow().clone();
        let cleared = blocking(move || {
            let clear = |bridge: String| (builtin::clear_bridge(&bridge), bridge);
            let gone: Vec<(Result<bool, Error>, String)> = bridges.into_iter().map(clear).collect();
            builtin::clear_tables()?;
            Ok((gone, standing(addresses)?))
        });
        match cleared.await {
            Ok((gone, left)) => {
                self.laid.send_if_modified(|laid| laid.keep(left, times));
                if gone.iter().all(|(gone, _)| matches!(gone, Ok(true))) {
                    *locked(&self.mtu) = None;
                }
                self.give_back(
                    gone.iter().filter(|(gone, _)| matches!(gone, Ok(true))).map(|(_, name)| name),
                );
                gone.into_iter().filter_map(|(gone, _)| gone.err()).collect()
            }
            Err(error) => vec![error],
        }
    }

    /// Those that are ours to delete.
    fn bridges(&self) -> Vec<String> {
        let held = locked(&self.bridges);
        let ours = held.iter().filter(|(_, right)| !matches!(right, Right::Anothers));
        ours.map(|(bridge, _)| bridge.clone()).collect()
    }

    /// Bridges of earlier configurations on which nobody stands are anybody's.
    fn give_back<'a>(&self, bridges: impl Iterator<Item = &'a String>) {
        let mut held = locked(&self.bridges);
        for bridge in bridges {
            if matches!(held.get(bridge), Some(Right::Earlier(_))) {
                held.remove(bridge);
            }
        }
    }
}

impl Laid {
    /// Whether there are any.
    pub(crate) fn is_any(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Whether somebody took one of them away.
    ///
    /// Not cancel safe: what the kernel is at goes on.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub(crate) async fn is_flushed(&self) -> Result<bool, Error> {
        if self.addresses.is_empty() {
            return Ok(false);
        }
        let addresses = self.addresses.clone();
        blocking(move || builtin::has_tables(&addresses).map(|there| !there)).await
    }

    /// Whether others have changed anything of ours since that mark, and the next mark ([`builtin::have_others_meddled`]).
    ///
    /// Not cancel safe: what the kernel is at goes on.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub(crate) async fn have_others_meddled(
        self,
        since: Option<Mark>,
    ) -> Result<Option<(Mark, bool)>, Error> {
        blocking(move || builtin::have_others_meddled(since, &self.addresses)).await
    }

    /// Those are left, unless somebody has said otherwise since that number of times. Returns whether that is news.
    fn keep(&mut self, left: Vec<IpAddr>, times: u64) -> bool {
        let is_news = self.times == times && self.addresses != left;
        if is_news {
            self.addresses = left;
        }
        is_news
    }
}

/// Those of the addresses whose family's tables are there.
fn standing(addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Error> {
    let mut left = Vec::new();
    for address in addresses {
        if builtin::has_tables(&[address])? {
            left.push(address);
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground() -> Arc<Ground> {
        Arc::new(Ground::new(PathBuf::new(), Arc::default()))
    }

    /// What nobody takes away then stays until the next collection.
    #[tokio::test]
    async fn who_goes_at_the_last_moment_is_waited_for_too() {
        let ground = ground();
        ground.leave();
        let seen = ground.moves.load(Ordering::Relaxed);
        // While the ground is being cleared, or just after: there is a task still, which is about to end.
        ground.leave();
        assert!(!ground.needs_no_more(seen), "it has to wait for this one as well");
        assert_eq!(locked(&ground.lingering).tasks.len(), 1);
        assert!(ground.needs_no_more(ground.moves.load(Ordering::Relaxed)));
        ground.leave();
        assert_eq!(locked(&ground.lingering).tasks.len(), 2, "a new one waits");
        let weak = Arc::downgrade(&ground);
        drop(ground);
        assert!(weak.upgrade().is_none(), "nobody who waits keeps it");
    }

    #[tokio::test]
    async fn what_is_laid_meanwhile_is_not_forgotten() {
        let (ground, v4, v6) = (ground(), "10.9.0.2".parse().unwrap(), "fd00::2".parse().unwrap());
        ground.lay(&[v4, v6]);
        let told = ground.laid();
        let Laid { times, .. } = told.borrow().clone();
        ground.lay(&["10.9.0.3".parse().unwrap()]);
        ground.laid.send_if_modified(|laid| laid.keep(Vec::new(), times));
        assert_eq!(told.borrow().addresses, [v4, v6]);
        ground.forget();
        assert!(!told.borrow().is_any() && !told.has_changed().unwrap());
        ground.lay(&[v6]);
        assert!(told.borrow().is_any() && told.has_changed().unwrap());
    }
}
