//! From a name to a catalogue entry.
//!
//! ```text
//! name ─► manifest for this machine (resolve) ─► configuration ─► layers that lack, several at once (layer) ─► catalogue
//! ```
//!
//! The image is visible once all its layers are on the disk. After a failure that may pass, layers that are whole stay
//! for the next try; after any other, they go.
//! Not here: one request to a registry (`registry`), unpacking (`layers`).

mod budget;
mod chunk;
mod fetches;
mod inlet;
mod join;
mod layer;
mod progress;
mod resolve;
mod room;
mod spool;
mod stage;
mod statistics;
mod work;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::auth::{Credentials, Login};
use crate::blocking::blocking;
use crate::catalog::{Catalog, NewImage};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::image::ImageId;
use crate::layers::{Layer, Layers};
use crate::manifest::Platform;
use crate::reference::Reference;
use crate::registry::{Registries, Repository};
use crate::rootfs::RootFilesystems;

pub use join::PullWatch;
pub use progress::{LayerProgress, LayerState, PullProgress, PullStage, PullStatistics};
pub use statistics::PullTotals;

use budget::Budget;
use fetches::Fetches;
pub(crate) use join::Pulls;
use layer::{Fetching, LayerFetch};
use progress::Progress;
use resolve::Resolved;
pub(crate) use room::Room;
use spool::Spools;
use stage::stage;
use statistics::Totals;

/// What to pull, and who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// The image's name as the user wrote it.
    pub reference: String,
    /// Credentials for the registry, if any were given.
    pub credentials: Option<Credentials>,
}

/// What pulls work with.
#[derive(Debug)]
pub(crate) struct Puller {
    config: Config,
    catalog: Arc<Catalog>,
    layers: Layers,
    registries: Arc<Registries>,
    fetches: Arc<Fetches>,
    budget: Arc<Budget>,
    spools: Arc<Spools>,
    room: Arc<Room>,
    totals: Totals,
    /// Pulls begun so far.
    begun: AtomicU64,
}

impl Puller {
    /// Readies pulls into the store below `images`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn open(
        config: Config,
        images: &Path,
        registries: Arc<Registries>,
        (catalog, layers, rootfs): (Arc<Catalog>, Layers, RootFilesystems),
    ) -> Result<Puller, Error> {
        let spools = Arc::new(Spools::open(images, &config.limits)?);
        Ok(Puller {
            budget: Arc::new(Budget::new(&config.limits)),
            room: Arc::new(Room::new(images, (layers.clone(), rootfs), Arc::clone(&spools))),
            spools,
            config,
            catalog,
            layers,
            registries,
            fetches: Arc::default(),
            totals: Totals::default(),
            begun: AtomicU64::new(0),
        })
    }

    /// What makes room on a full disk.
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Removes what was kept of layers that nobody goes on with. Blocks.
    pub(crate) fn sweep(&self) {
        self.spools.sweep();
    }

    /// Nobody pulls any more.
    fn rest(&self) {
        (self.config.at_rest)();
    }

    pub(crate) fn totals(&self) -> PullTotals {
        self.totals.now()
    }

    /// Pulls an image. Cancelled, it leaves no half-made layer.
    ///
    /// # Errors
    /// Whatever failed first.
    async fn pull(&self, reference: &Reference, login: Login, progress: &Progress) -> Result<ImageId, Error> {
        let outcome = self.fetch(reference, login, progress).await;
        progress.set_stage(if outcome.is_ok() { PullStage::Done } else { PullStage::Failed });
        let statistics = progress.statistics();
        self.totals.add(&statistics, outcome.is_ok());
        match &outcome {
            Ok(id) => statistics.log(reference, id),
            Err(error) if !may_pass(error.kind()) => self.clean_up().await,
            Err(_) => {}
        }
        outcome
    }

    /// Fetches the image; once more where a full disk can have room.
    async fn fetch(
        &self,
        reference: &Reference,
        login: Login,
        progress: &Progress,
    ) -> Result<ImageId, Error> {
        let before = self.room.now();
        let outcome = self.fetch_once(reference, login.clone(), progress).await;
        let Err(error @ Error::NoSpace { .. }) = outcome else { return outcome };
        let room = Arc::clone(&self.room);
        if !blocking("making room", move || Ok(room.make(before))).await? {
            return Err(error);
        }
        tracing::info!(image = %reference, %error, "tries again, after making room on a full disk");
        self.fetch_once(reference, login, progress).await
    }

    async fn fetch_once(
        &self,
        reference: &Reference,
        login: Login,
        progress: &Progress,
    ) -> Result<ImageId, Error> {
        let (repository, resolved) = stage("pull_resolve", async {
            let repository = Arc::new(self.registries.open(reference, login).await?);
            let resolved = resolve::resolve(&repository, reference, &Platform::host()).await?;
            Ok((repository, resolved))
        })
        .await?;
        progress.set_stage(PullStage::Fetching);
        let layers = stage("pull_layers", self.fetch_layers(&repository, &resolved, progress)).await?;
        progress.set_stage(PullStage::Recording);
        let names = vec![reference.clone(), reference.with_digest(resolved.digest)];
        let Resolved { id, config, manifest, size_bytes, .. } = resolved;
        let image = NewImage { id, config, manifest: Some(manifest), size_bytes, names, nameless: false };
        let (catalog, store) = (Arc::clone(&self.catalog), self.layers.clone());
        let added = blocking("adding an image to the catalogue", move || {
            let added = catalog.add(image);
            if catalog.lacks() {
                // A layer that came with this one may be one that others had lost.
                catalog.look_again(&store);
            }
            // Only now may they be collected: the catalogue has them.
            drop(layers);
            added
        });
        Ok(stage("pull_record", added).await?.id.clone())
    }

    /// All layers of the image, held.
    async fn fetch_layers(
        &self,
        repository: &Arc<Repository>,
        resolved: &Resolved,
        progress: &Progress,
    ) -> Result<Vec<Layer>, Error> {
        let (working, mut ended) = mpsc::channel(1);
        let mut layers = Vec::new();
        let mut lacking = Vec::new();
        let with = self.fetching(repository, working);
        for ((diff_id, blob), meter) in resolved.layers.iter().zip(progress.set_layers(&resolved.layers)) {
            match self.layers.get(diff_id) {
                Some(layer) => {
                    meter.already_here();
                    layers.push(layer);
                }
                None => lacking.push(LayerFetch {
                    with: with.clone(),
                    diff_id: diff_id.clone(),
                    blob: blob.clone(),
                    meter,
                }),
            }
        }
        drop(with);
        // The largest first: begun last, it would be worked on alone in the end.
        lacking.sort_by_key(|fetch| std::cmp::Reverse(fetch.blob.size));
        let mut fetches = JoinSet::new();
        lacking.into_iter().for_each(|fetch| drop(fetches.spawn(fetch.run())));
        let outcome = collect(&mut fetches, layers).await;
        // The first failure ends the others. Told only when their threads have ended, it leaves nothing half-made.
        fetches.shutdown().await;
        let _ = ended.recv().await;
        if outcome.as_ref().is_err_and(|error| !keeps_bytes(error.kind())) {
            self.spools.forget(resolved.layers.iter().map(|(_, blob)| &blob.digest));
        }
        outcome
    }

    fn fetching(&self, repository: &Arc<Repository>, working: mpsc::Sender<()>) -> Fetching {
        Fetching {
            repository: Arc::clone(repository),
            layers: self.layers.clone(),
            fetches: Arc::clone(&self.fetches),
            budget: Arc::clone(&self.budget),
            spools: Arc::clone(&self.spools),
            limits: self.config.limits.clone(),
            pull: self.begun.fetch_add(1, Ordering::Relaxed),
            _working: working,
        }
    }

    async fn clean_up(&self) {
        let (catalog, layers) = (Arc::clone(&self.catalog), self.layers.clone());
        if let Err(error) = blocking("collecting layers", move || catalog.collect(&layers)).await {
            tracing::warn!(%error, "cannot remove the layers of a pull that failed");
        }
    }
}

/// Adds what the tasks fetch to `layers`, up to the first failure.
async fn collect(
    fetches: &mut JoinSet<Result<Layer, Error>>,
    mut layers: Vec<Layer>,
) -> Result<Vec<Layer>, Error> {
    while let Some(fetched) = fetches.join_next().await {
        layers.push(fetched.unwrap_or(Err(Error::ShuttingDown))?);
    }
    Ok(layers)
}

/// Whether bytes that have come are good for the next attempt.
fn keeps_bytes(kind: ErrorKind) -> bool {
    may_pass(kind) || matches!(kind, ErrorKind::NoSpace | ErrorKind::Exhausted)
}

/// Whether kubelet's next try may work without anybody doing anything.
fn may_pass(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded)
}
