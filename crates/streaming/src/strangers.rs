//! Connections that have not shown a token yet. There is a place for so many; when all are taken the next one gets that of the one
//! that has had it longest, among those of the address that holds most places: who opens connections and says nothing on them
//! keeps nobody waiting, and loses its own. A burst of clients that have something to say waits its turn: a place is nobody
//! else's for a while.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// How many there may be.
pub(crate) const STRANGERS: usize = 64;

/// How long a place is its connection's whoever else waits: a handshake and a request take a few round trips.
const GRACE: Duration = Duration::from_secs(1);

/// The places.
#[derive(Debug, Clone)]
pub(crate) struct Strangers {
    places: Arc<Semaphore>,
    /// Those that may be asked to leave, in the order of their coming.
    waiting: Arc<Mutex<Vec<Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    address: IpAddr,
    since: Instant,
    leave: Arc<Notify>,
}

/// A place; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    leave: Arc<Notify>,
    waiting: Arc<Mutex<Vec<Waiting>>>,
    _counted: OwnedSemaphorePermit,
}

impl Default for Strangers {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(STRANGERS)), waiting: Arc::default() }
    }
}

impl Strangers {
    /// A place for a connection from this address, which may cost another one its own. Safe to cancel; somebody may have been asked
    /// to leave in vain then.
    pub(crate) async fn place(&self, address: IpAddr) -> Place {
        let mut taken = std::pin::pin!(Arc::clone(&self.places).acquire_owned());
        // Nobody is asked twice for one place.
        let mut asked = None::<Instant>;
        let counted = loop {
            let leaves = asked.into_iter().chain(self.oldest().map(|(_, since)| since)).max();
            tokio::select! {
                biased;
                Ok(counted) = &mut taken => break counted,
                () = sleep_until(leaves.unwrap_or_else(Instant::now) + GRACE) => {
                    self.make_room();
                    asked = Some(Instant::now());
                }
            }
        };
        let leave = Arc::new(Notify::new());
        lock(&self.waiting).push(Waiting { address, since: Instant::now(), leave: Arc::clone(&leave) });
        Place { leave, waiting: Arc::clone(&self.waiting), _counted: counted }
    }

    /// Who is to leave first, by its place in the list, and since when it is there.
    fn oldest(&self) -> Option<(usize, Instant)> {
        let waiting = lock(&self.waiting);
        let of = |address: IpAddr| waiting.iter().filter(|other| other.address == address).count();
        let places = waiting.iter().enumerate();
        // The last of the largest is taken, so the first comes last.
        let first_of_most = places.rev().max_by_key(|(_, one)| of(one.address));
        first_of_most.map(|(at, one)| (at, one.since))
    }

    fn make_room(&self) {
        let Some((at, _)) = self.oldest() else { return };
        lock(&self.waiting).remove(at).leave.notify_one();
    }
}

impl Place {
    /// Waits until somebody else is to have the place. Safe to cancel.
    pub(crate) async fn wanted(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.waiting).retain(|one| !Arc::ptr_eq(&one.leave, &self.leave));
    }
}

fn lock(waiting: &Mutex<Vec<Waiting>>) -> MutexGuard<'_, Vec<Waiting>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_the_address_with_most_places_makes_room() {
        let strangers = Strangers::default();
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let honest = strangers.place(address(1)).await;
        let mut places = Vec::new();
        for _ in 1..STRANGERS {
            places.push(strangers.place(address(2)).await);
        }
        assert!(places.iter().chain([&honest]).all(|place| place.wanted().now_or_never().is_none()));
        tokio::time::advance(GRACE / 2).await;
        assert!(strangers.place(address(3)).now_or_never().is_none());
        assert!(
            places.iter().all(|place| place.wanted().now_or_never().is_none()),
            "nobody is asked so soon"
        );
        tokio::time::advance(GRACE).await;
        for number in 0..3 {
            let mut next = Box::pin(strangers.place(address(3)));
            assert!((&mut next).now_or_never().is_none(), "all places are taken");
            let asked: Vec<bool> =
                places.iter().map(|place| place.wanted().now_or_never().is_some()).collect();
            assert_eq!(asked.iter().position(|asked| *asked), Some(0), "{number}");
            assert_eq!(asked.iter().filter(|asked| **asked).count(), 1, "{number}");
            places.remove(0);
            places.push(next.await);
        }
        assert!(honest.wanted().now_or_never().is_none());
        drop(places);
        assert_eq!(strangers.places.available_permits(), STRANGERS - 1);
    }
}
