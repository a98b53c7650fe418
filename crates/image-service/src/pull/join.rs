//! One pull for all that want the same image.
//!
//! A pull belongs to the service and not to a caller: callers wait for its outcome and may go away. Pulls of the same
//! full name by the same identity are one; another identity's is its own, since it may not be let in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Puller;
use crate::auth::Login;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageId;
use crate::reference::Reference;

type Outcome = Result<ImageId, Arc<Error>>;
type Waiting = watch::Receiver<Option<Outcome>>;
type Key = (Reference, Digest);
type UnderWay = Arc<Mutex<HashMap<Key, Waiting>>>;

/// The pulls under way. They end with this value.
#[derive(Debug)]
pub(crate) struct Pulls {
    puller: Arc<Puller>,
    under_way: UnderWay,
    tasks: Mutex<JoinSet<()>>,
}

impl Pulls {
    pub(crate) fn new(puller: Puller) -> Pulls {
        Pulls { puller: Arc::new(puller), under_way: UnderWay::default(), tasks: Mutex::default() }
    }

    /// Pulls an image, or waits for the pull of it that is under way. Safe to cancel: the pull goes on.
    ///
    /// # Errors
    /// [`Error::Pull`].
    pub(crate) async fn pull(&self, reference: Reference, login: Login) -> Result<ImageId, Error> {
        let mut waiting = self.join_or_begin(&reference, login);
        let outcome = match waiting.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        let outcome = outcome.unwrap_or_else(|| Err(Arc::new(Error::ShuttingDown)));
        outcome.map_err(|cause| Error::Pull { image: reference.to_string(), cause })
    }

    fn join_or_begin(&self, reference: &Reference, login: Login) -> Waiting {
        let key = (reference.clone(), login.identity().clone());
        let mut under_way = lock(&self.under_way);
        if let Some(waiting) = under_way.get(&key) {
            return waiting.clone();
        }
        let (tell, waiting) = watch::channel(None);
        under_way.insert(key.clone(), waiting.clone());
        drop(under_way);
        let listed = Listed { under_way: Arc::clone(&self.under_way), key };
        let puller = Arc::clone(&self.puller);
        let reference = reference.clone();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Tasks that have ended are taken out here: nobody waits for them otherwise.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let outcome = puller.pull(&reference, login).await.map_err(Arc::new);
            // A caller that comes after this begins anew; one that came before gets this outcome.
            drop(listed);
            tell.send_replace(Some(outcome));
        });
        waiting
    }
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

fn lock(under_way: &UnderWay) -> MutexGuard<'_, HashMap<Key, Waiting>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}
