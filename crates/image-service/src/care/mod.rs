//! Care of what is kept: damage is looked for and repaired.
//!
//! ```text
//! rounds: a layer after the other, slowly ─┐
//! a mount that fails: its layers, at once ─┼─► damaged? ─► set aside, its images unlisted ─► fetched again ─► listed again
//! on demand: the layers of an image ───────┘                       └─ in vain: tried again later, and by the next pull
//! ```
//!
//! An image that lacks a layer isn't listed, so that nothing is started from it; kubelet's next pull fetches just that
//! layer, if we haven't by then. We ask for the manifest that the image came by, with the credentials that the node is
//! configured with: those that came with a pull are long forgotten.
//! Not here: how damage is found (`layers`), how layers are fetched (`pull`).

mod look;
mod round;

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::sync::{Notify, watch};

use crate::auth::Login;
use crate::blocking;
use crate::catalog::{Catalog, Lacking};
use crate::digest::Digest;
use crate::error::{Error, chain};
use crate::image::{Image, ImageId};
use crate::layers::{Condition, Layers};
use crate::mounting::errno_of;
use crate::pull::Pulls;

use round::{Next, Round};

/// How what is kept is cared for.
#[derive(Debug, Clone)]
pub struct CareSettings {
    /// Time in which every layer is looked at once; none, and they are looked at on demand only. Scrubs of file systems and
    /// disk arrays come once a month too (Debian's of ZFS and mdadm).
    pub period: Option<Duration>,
    /// Bytes a second that are read for it, at most: a fraction of what the slowest disks of servers read.
    pub bytes_per_second: u64,
    /// Whether what is damaged or missing is fetched again without being asked.
    pub repair: bool,
}

impl Default for CareSettings {
    fn default() -> CareSettings {
        CareSettings {
            period: Some(Duration::from_secs(30 * 24 * 3600)),
            bytes_per_second: 20 << 20,
            repair: true,
        }
    }
}

/// Wait before a layer that couldn't be fetched is tried again; it doubles up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(60);
const LAST_WAIT: Duration = Duration::from_secs(3600);
/// Time for which a layer that was found whole isn't suspected by failures that name none.
const TRUST: Duration = Duration::from_secs(3600);

/// What a check of an image found.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The image.
    pub id: ImageId,
    /// Its layers, the lowest first, and what is the matter with each.
    pub layers: Vec<(Digest, Condition)>,
    /// Whether what was damaged has been fetched again; without damage, nothing.
    pub repaired: Option<Result<(), Arc<Error>>>,
}

/// The care of one store.
#[derive(Debug)]
pub(crate) struct Care {
    settings: watch::Sender<CareSettings>,
    layers: Layers,
    catalog: Arc<Catalog>,
    /// Where the round is written down.
    round: PathBuf,
    suspects: Mutex<BTreeSet<Digest>>,
    /// Layers that were found whole lately, and when.
    whole: Mutex<HashMap<Digest, Instant>>,
    woken: Notify,
}

impl Care {
    pub(crate) fn new(
        settings: CareSettings,
        images: &Path,
        (layers, catalog): (Layers, Arc<Catalog>),
    ) -> Care {
        let round = images.join("check.json");
        let (suspects, whole, woken) = (Mutex::default(), Mutex::default(), Notify::new());
        let settings = watch::Sender::new(settings);
        Care { settings, layers, catalog, round, suspects, whole, woken }
    }

    /// Cares by these settings from the next layer on.
    pub(crate) fn change_over(&self, settings: CareSettings) {
        self.settings.send_replace(settings);
        // What was not to be repaired may be now.
        self.woken.notify_one();
    }

    /// Has those layers looked at that may be the reason why something failed: the one that the failure names, else those that
    /// it was about.
    pub(crate) fn hear(&self, error: &Error, about: impl FnOnce() -> Vec<Digest>) {
        let named = match error {
            Error::LayerMissing { diff_id } => Some(diff_id.clone()),
            Error::Store { path, cause, .. } if may_be_damage(cause) => self.layers.at(path),
            _ => None,
        };
        let suspects = match (named, error) {
            (Some(diff_id), _) => vec![diff_id],
            (
                None,
                Error::Store { cause, .. } | Error::RootfsMount { cause, .. } | Error::Volume { cause, .. },
            ) if is_damage(cause) => self.not_looked_at(about()),
            _ => return,
        };
        self.suspects().extend(suspects);
        self.woken.notify_one();
    }

    /// Those of the layers that weren't found whole a short time ago: a container that fails again and again would have them read
    /// again and again.
    fn not_looked_at(&self, mut layers: Vec<Digest>) -> Vec<Digest> {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.retain(|_, since| since.elapsed() < TRUST);
        layers.retain(|diff_id| !whole.contains_key(diff_id));
        layers
    }

    fn suspects(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all layers of an image now, as fast as it goes, and repairs it.
    ///
    /// Safe to cancel.
    pub(crate) async fn check(&self, pulls: &Pulls, image: &Image) -> Checked {
        let mut layers = Vec::new();
        for diff_id in &image.layers {
            let missing = || Condition::Damaged("it is missing".to_owned());
            let condition = self.inspect(diff_id, None).await.unwrap_or_else(missing);
            layers.push((diff_id.clone(), condition));
        }
        let damaged = layers.iter().any(|(_, condition)| matches!(condition, Condition::Damaged(_)));
        let mut repaired = None;
        for lacking in self.look_again().await {
            if damaged && lacking.id == image.id {
                repaired = Some(repair(pulls, &lacking).await.map_err(Arc::new));
            }
        }
        self.look_again().await;
        Checked { id: image.id.clone(), layers, repaired }
    }

    /// Cares, for ever.
    pub(crate) async fn run(&self, pulls: &Pulls) -> Infallible {
        let (_, never) = tokio::join!(self.rounds(), self.mend(pulls));
        never
    }

    /// Looks at one layer after the other.
    async fn rounds(&self) -> Infallible {
        let mut settings = self.settings.subscribe();
        // The other end is ours: it isn't gone while we wait, here and below.
        let _ = settings.wait_for(|settings| settings.period.is_some()).await;
        let path = self.round.clone();
        let Ok(mut round) = blocking("reading the round of checks", move || Ok(Round::read(&path))).await
        else {
            return std::future::pending().await;
        };
        loop {
            let CareSettings { period, bytes_per_second, .. } = settings.borrow_and_update().clone();
            let Some(period) = period else {
                let _ = settings.changed().await;
                continue;
            };
            match round.next(period, &self.layers.all()) {
                Next::Wait(time) => {
                    let _elapsed = tokio::time::timeout(time, settings.changed()).await;
                }
                Next::Layer(diff_id) => {
                    self.inspect(&diff_id, Some(bytes_per_second)).await;
                    round.done(diff_id);
                }
            }
            let (written, path) = (round.clone(), self.round.clone());
            // It is about nothing but time, and nobody waits for it.
            let write = move || {
                written.write(&path);
                Ok(())
            };
            let _ = blocking("writing the round of checks", write).await;
        }
    }

    /// The images that lack layers; the others are listed from now on. On a thread for it: the catalogue may be being written.
    async fn look_again(&self) -> Vec<Lacking> {
        let (catalog, layers) = (Arc::clone(&self.catalog), self.layers.clone());
        let looked = blocking("looking for lost layers", move || Ok(catalog.look_again(&layers))).await;
        looked.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look which images have lost layers");
            Vec::new()
        })
    }

    /// Looks at a layer, and takes it out of the store if it is damaged.
    async fn inspect(&self, diff_id: &Digest, rate: Option<u64>) -> Option<Condition> {
        let condition = look::look(&self.layers, diff_id, rate).await?;
        match &condition {
            Condition::Unseen(why) => {
                tracing::warn!(layer = %diff_id, %why, "a layer cannot be looked at");
            }
            Condition::Whole => {
                let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
                whole.insert(diff_id.clone(), Instant::now());
            }
            Condition::Damaged(_) | Condition::Unknown => {}
        }
        if let Condition::Damaged(damage) = &condition {
            tracing::error!(layer = %diff_id, %damage, "a layer is damaged");
            let (layers, damaged) = (self.layers.clone(), diff_id.clone());
            let aside = blocking("setting a layer aside", move || layers.set_aside(&damaged)).await;
            if let Err(error) = aside {
                tracing::error!(layer = %diff_id, %error, "a damaged layer cannot be set aside");
            }
            self.look_again().await;
            self.woken.notify_one();
        }
        Some(condition)
    }

    /// Fetches again what lacks, whenever something does.
    async fn mend(&self, pulls: &Pulls) -> Infallible {
        let mut wait = FIRST_WAIT;
        loop {
            let suspects = std::mem::take(&mut *self.suspects());
            for diff_id in suspects {
                self.inspect(&diff_id, None).await;
            }
            let mut failed = false;
            for lacking in self.look_again().await {
                let is_wanted = self.settings.borrow().repair;
                if is_wanted {
                    let repaired = repair(pulls, &lacking).await;
                    failed |= repaired.is_err_and(|error| !matches!(error, Error::NoOrigin { .. }));
                }
                // A layer of one image may be another's too.
                self.look_again().await;
            }
            tokio::select! {
                () = self.woken.notified() => wait = FIRST_WAIT,
                () = tokio::time::sleep(wait), if failed => wait = LAST_WAIT.min(wait * 2),
            }
        }
    }
}

/// Whether a failure of reading or mounting may come of what is on the disk.
fn may_be_damage(cause: &io::Error) -> bool {
    is_damage(cause) || [Errno::NODATA, Errno::INVAL].into_iter().any(|errno| errno_of(cause) == Some(errno))
}

/// Whether the kernel says that what is on the disk can't be read, or makes no sense as a file system.
fn is_damage(cause: &io::Error) -> bool {
    [Errno::IO, Errno::UCLEAN, Errno::BADMSG].into_iter().any(|errno| errno_of(cause) == Some(errno))
}

/// Fetches the layers that an image lacks, as if somebody pulled it by its digest.
async fn repair(pulls: &Pulls, lacking: &Lacking) -> Result<(), Error> {
    let mut outcome = Err(Error::NoOrigin { image: lacking.id.clone() });
    for name in &lacking.origins {
        outcome = pulls.watch(name.clone(), Login::anonymous()).outcome().await.map(drop);
        if outcome.is_ok() {
            tracing::info!(image = %lacking.id, %name, "layers that an image had lost are back");
            return Ok(());
        }
    }
    if let Err(error) = &outcome {
        tracing::warn!(image = %lacking.id, error = chain(error), "an image has lost layers, and they cannot be fetched");
    }
    outcome
}
