//! Looking at mount sources and seccomp profiles, any of which may be on a network filesystem whose server is gone: then the look never
//! returns, and its thread is lost until the server is back.
//!
//! So that the same few paths, asked for again and again, can't take all threads: one look at a time at a path, where whoever comes
//! while it hangs is refused; and only so many looks at once, so that all else that needs a thread still finds one.
//!
//! Not here: what is looked for (see `container::check`, `container::start`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::Span;

use crate::error::Error;
use crate::shared::{Shared, within};

/// How many threads may look at sources at once: an eighth of tokio's pool of 512.
const SEATS: usize = 64;

/// How long a look may take before it counts as hanging for those who want the same path. A healthy one takes microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// The looks that are under way.
#[derive(Debug)]
pub(crate) struct Sources {
    /// Each path that is being looked at, and since when.
    looking: Mutex<HashMap<PathBuf, Instant>>,
    ended: Condvar,
    seats: Arc<Semaphore>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { looking: Mutex::default(), ended: Condvar::new(), seats: Arc::new(Semaphore::new(SEATS)) }
    }
}

impl Sources {
    /// Begins a look at a path. Blocks for [`PATIENCE`] at most while another one is under way.
    ///
    /// # Errors
    /// [`Error::Deadline`] naming the path, when the other one hangs.
    fn look(&self, path: &Path) -> Result<Look<'_>, Error> {
        let mut looking = self.looking();
        while let Some(begun) = looking.get(path) {
            let waited = begun.elapsed();
            let Some(left) = PATIENCE.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return Err(hangs(path, waited));
            };
            looking = match self.ended.wait_timeout(looking, left) {
                Ok((looking, _)) => looking,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        looking.insert(path.to_owned(), Instant::now());
        Ok(Look { sources: self, path: path.to_owned() })
    }

    fn looking(&self) -> MutexGuard<'_, HashMap<PathBuf, Instant>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hangs(path: &Path, after: Duration) -> Error {
    Error::Deadline { step: "looking at the file of the host", subject: path.display().to_string(), after }
}

/// A look at a path; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    sources: &'a Sources,
    path: PathBuf,
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.sources.looking().remove(&self.path);
        self.sources.ended.notify_all();
    }
}

/// Who looks: for the thread that does it.
#[derive(Debug)]
pub(crate) struct Looker {
    shared: Arc<Shared>,
    last: Arc<Mutex<PathBuf>>,
}

impl Looker {
    /// To be called before a path is touched; the answer is to be kept while it is.
    ///
    /// # Errors
    /// As for [`Sources::look`].
    pub(crate) fn at(&self, path: &Path) -> Result<Look<'_>, Error> {
        path.clone_into(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.sources.look(path)
    }
}

/// Does work that touches mount sources, on a thread of its own and with the deadline for it. Safe to cancel: work that has begun goes
/// on to its end.
///
/// # Errors
/// Those of the work, and [`Error::Deadline`], which names the path that did not answer.
pub(crate) async fn on_sources<T: Send + 'static>(
    shared: &Arc<Shared>,
    (step, subject): (&'static str, &str),
    work: impl FnOnce(&Looker) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let after = shared.config.deadlines.sources;
    let last = Arc::<Mutex<PathBuf>>::default();
    let looker = Looker { shared: shared.clone(), last: last.clone() };
    let seated = async {
        let seats = shared.sources.seats.clone();
        let seat = seats.acquire_owned().await.map_err(|cause| Error::step(step, subject, cause))?;
        let span = Span::current();
        let task = tokio::task::spawn_blocking(move || {
            let _kept_to_the_end = seat;
            span.in_scope(|| work(&looker))
        });
        task.await.map_err(|cause| Error::step(step, subject, cause))?
    };
    within((step, subject, after), seated).await.map_err(|error| {
        let last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Error::Deadline { step: late, after, .. } if late == step && *last != Path::new("") => {
                hangs(&last, after)
            }
            other => other,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_hangs_is_looked_at_once() {
        let sources = Sources::default();
        let (dead, other) = (Path::new("/dead"), Path::new("/other"));
        let hanging = sources.look(dead).unwrap();
        let refused = sources.look(dead).unwrap_err();
        assert!(matches!(&refused, Error::Deadline { subject, .. } if subject == "/dead"), "{refused}");
        let begun = Instant::now();
        sources.look(dead).unwrap_err();
        assert!(begun.elapsed() < PATIENCE / 2, "from then on at once");
        drop(sources.look(other).unwrap());
        drop(hanging);
        drop(sources.look(dead).unwrap());
    }

    #[test]
    fn a_look_that_ends_lets_the_next_one_in() {
        let sources = Sources::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| drop(sources.look(Path::new("/shared")).expect("each in its turn")));
            }
        });
        assert!(sources.looking().is_empty());
    }
}
