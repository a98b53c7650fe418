//! Connections that have not shown a token yet. There is a place for so many; when all are taken the next one gets that of the one
//! that has waited longest, among those of the address that holds most places: who opens connections and says nothing on them
//! keeps nobody waiting, and loses its own.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How many there may be.
pub(crate) const STRANGERS: usize = 64;

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
        let free = Arc::clone(&self.places).try_acquire_owned().ok();
        let counted = match free {
            Some(counted) => counted,
            None => {
                self.make_room();
                let Ok(counted) = Arc::clone(&self.places).acquire_owned().await else {
                    // Never closed.
                    return std::future::pending().await;
                };
                counted
            }
        };
        let leave = Arc::new(Notify::new());
        lock(&self.waiting).push(Waiting { address, leave: Arc::clone(&leave) });
        Place { leave, waiting: Arc::clone(&self.waiting), _counted: counted }
    }

    fn make_room(&self) {
        let mut waiting = lock(&self.waiting);
        let of = |address: IpAddr| waiting.iter().filter(|other| other.address == address).count();
        // The last of the largest is taken, so the first comes last.
        let first_of_most =
            (0..waiting.len()).rev().max_by_key(|at| waiting.get(*at).map(|one| of(one.address)));
        if let Some(at) = first_of_most {
            waiting.remove(at).leave.notify_one();
        }
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

    #[tokio::test]
    async fn the_oldest_of_the_address_with_most_places_makes_room() {
        let strangers = Strangers::default();
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let honest = strangers.place(address(1)).await;
        let mut places = Vec::new();
        for _ in 1..STRANGERS {
            places.push(strangers.place(address(2)).await);
        }
        assert!(places.iter().chain([&honest]).all(|place| place.wanted().now_or_never().is_none()));
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
