//! One pull for all that want the same image.
//!
//! A pull belongs to the service and not to a caller: callers wait for its outcome and may go away. Pulls of the same
//! full name by the same identity are one; another identity's is its own, since it may not be let in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use super::Puller;
use super::progress::{Progress, PullProgress};
use crate::auth::Login;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageId;
use crate::reference::Reference;

type Outcome = Result<ImageId, Arc<Error>>;
type Waiting = watch::Receiver<Option<Outcome>>;
type Key = (Reference, Digest);
type UnderWay = Arc<Mutex<HashMap<Key, Pull>>>;

/// A pull under way.
#[derive(Debug, Clone)]
struct Pull {
    outcome: Waiting,
    progress: Arc<Progress>,
}

/// The pulls under way. They end with this value.
#[derive(Debug)]
pub(crate) struct Pulls {
    puller: Arc<Puller>,
    under_way: UnderWay,
    tasks: Mutex<JoinSet<()>>,
    /// Of those that are carried out at once.
    places: Arc<Semaphore>,
    /// How many there may be with those that wait.
    most: usize,
}

/// For each pull that is carried out, how many may wait: a node's pods start with a few dozen images.
const WAITING: usize = 16;

impl Pulls {
    /// With so many carried out at once.
    pub(crate) fn new(puller: Puller, at_once: usize) -> Pulls {
        Pulls {
            puller: Arc::new(puller),
            under_way: UnderWay::default(),
            tasks: Mutex::default(),
            places: Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))),
            most: at_once.saturating_mul(1 + WAITING),
        }
    }

    /// Begins to pull an image, or finds the pull of it that is under way.
    pub(crate) fn watch(&self, reference: Reference, login: Login) -> PullWatch {
        let pull = self.join_or_begin(&reference, login);
        PullWatch { image: reference.to_string(), pull, seen: None }
    }

    /// The pulls under way.
    pub(crate) fn now(&self) -> Vec<PullProgress> {
        lock(&self.under_way).values().map(|pull| pull.progress.now()).collect()
    }

    pub(crate) fn puller(&self) -> &Arc<Puller> {
        &self.puller
    }

    fn join_or_begin(&self, reference: &Reference, login: Login) -> Pull {
        let key = (reference.clone(), login.identity().clone());
        let mut under_way = lock(&self.under_way);
        if let Some(pull) = under_way.get(&key) {
            return pull.clone();
        }
        let progress = Arc::new(Progress::new(reference.to_string()));
        if under_way.len() >= self.most {
            let refused = Err(Arc::new(Error::TooManyPulls { pulls: under_way.len() }));
            return Pull { outcome: watch::channel(Some(refused)).1, progress };
        }
        let (tell, outcome) = watch::channel(None);
        let pull = Pull { outcome, progress: Arc::clone(&progress) };
        under_way.insert(key.clone(), pull.clone());
        drop(under_way);
        let listed = Listed { under_way: Arc::clone(&self.under_way), key };
        let (puller, all) = (Arc::clone(&self.puller), Arc::clone(&self.under_way));
        let places = Arc::clone(&self.places);
        let reference = reference.clone();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Tasks that have ended are taken out here: nobody waits for them otherwise.
        while tasks.try_join_next().is_some() {}
        // Whoever asks first: those who join hear the outcome.
        let request = Span::current();
        let work = async move {
            // Never closed.
            let turn = places.acquire_owned().await;
            let outcome = puller.pull(&reference, login, &progress).await.map_err(Arc::new);
            // A caller that comes after this begins anew; one that came before gets this outcome.
            drop((listed, turn));
            tell.send_replace(Some(outcome));
            if lock(&all).is_empty() {
                puller.rest();
            }
        };
        tasks.spawn(work.instrument(request));
        pull
    }
}

/// Shortest time between two looks at a pull: more often than this nobody wants to know.
const LOOK: Duration = Duration::from_millis(100);

/// A view of one pull. Dropped, it changes nothing: the pull goes on.
#[derive(Debug)]
pub struct PullWatch {
    image: String,
    pull: Pull,
    seen: Option<PullProgress>,
}

impl PullWatch {
    /// How far it has come.
    pub fn now(&self) -> PullProgress {
        self.pull.progress.now()
    }

    /// How far it has come, told when something has changed since the last call, at most ten times a second; nothing when
    /// the pull has ended. Safe to cancel.
    pub async fn changed(&mut self) -> Option<PullProgress> {
        loop {
            if self.seen.is_some() {
                let ended = self.pull.outcome.wait_for(Option::is_some);
                if tokio::time::timeout(LOOK, ended).await.is_ok() {
                    return None;
                }
            }
            let now = self.now();
            if !self.seen.as_ref().is_some_and(|seen| is_same(seen, &now)) {
                self.seen = Some(now.clone());
                return Some(now);
            }
        }
    }

    /// Waits for its end. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Pull`].
    pub async fn outcome(mut self) -> Result<ImageId, Error> {
        let outcome = match self.pull.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        let outcome = outcome.unwrap_or_else(|| Err(Arc::new(Error::ShuttingDown)));
        outcome.map_err(|cause| Error::Pull { image: self.image, cause })
    }
}

/// Whether nothing has changed but the time.
fn is_same(one: &PullProgress, other: &PullProgress) -> bool {
    let retries = one.statistics.retries == other.statistics.retries;
    one.stage == other.stage && one.layers == other.layers && retries
}

/// The entry of a pull under way; it goes when the pull ends, however that happens.
struct Listed {
    under_way: UnderWay,
    key: Key,
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.key);
    }
}

fn lock(under_way: &UnderWay) -> MutexGuard<'_, HashMap<Key, Pull>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}
