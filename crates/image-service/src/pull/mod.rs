//! From a name to a catalogue entry.
//!
//! ```text
//! name ─► manifest for this machine (resolve) ─► configuration ─► layers that lack, several at once (layer) ─► catalogue
//! ```
//!
//! The image is visible once all its layers are on the disk. After a failure that may pass, layers that are whole stay
//! for the next try; after any other, they go.
//! Not here: one request to a registry (`registry`), unpacking (`layers`).

mod join;
mod layer;
mod resolve;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};
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
use crate::registry::{Access, Repository, Tokens};

pub(crate) use join::Pulls;
use layer::{Fetches, LayerFetch};
use resolve::Resolved;

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
    tokens: Arc<Tokens>,
    fetches: Arc<Fetches>,
}

impl Puller {
    pub(crate) fn new(config: Config, catalog: Arc<Catalog>, layers: Layers) -> Puller {
        Puller { config, catalog, layers, tokens: Arc::default(), fetches: Arc::default() }
    }

    /// Pulls an image. Cancelled, it leaves no half-made layer.
    ///
    /// # Errors
    /// Whatever failed first.
    async fn pull(&self, reference: &Reference, login: Login) -> Result<ImageId, Error> {
        let begun = Instant::now();
        let outcome = self.fetch(reference, login).await;
        match &outcome {
            Ok(fetched) => {
                let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(image = %reference, id = %fetched.id, layers = fetched.new_layers, milliseconds, "pulled");
            }
            Err(error) if !may_pass(error.kind()) => self.clean_up().await,
            Err(_) => {}
        }
        outcome.map(|fetched| fetched.id)
    }

    async fn fetch(&self, reference: &Reference, login: Login) -> Result<Fetched, Error> {
        let access = Access {
            config_dir: self.config.registry_config_dir.clone(),
            login,
            tokens: Arc::clone(&self.tokens),
            limits: self.config.limits.clone(),
        };
        let repository = Arc::new(Repository::open(reference, access).await?);
        let resolved = resolve::resolve(&repository, reference, &Platform::host()).await?;
        let (layers, new_layers) = self.fetch_layers(&repository, &resolved).await?;
        let names = vec![reference.clone(), reference.with_digest(resolved.digest)];
        let Resolved { id, config, manifest, size_bytes, .. } = resolved;
        let image = NewImage { id, config, manifest: Some(manifest), size_bytes, names, nameless: false };
        let catalog = Arc::clone(&self.catalog);
        let added = blocking("adding an image to the catalogue", move || {
            let added = catalog.add(image);
            // Only now may they be collected: the catalogue has them.
            drop(layers);
            added
        });
        Ok(Fetched { id: added.await?.id.clone(), new_layers })
    }

    /// All layers of the image, held, and the number of those that had to be fetched.
    async fn fetch_layers(
        &self,
        repository: &Arc<Repository>,
        resolved: &Resolved,
    ) -> Result<(Vec<Layer>, usize), Error> {
        let slots = Arc::new(Semaphore::new(self.config.limits.connections.max(1)));
        let (working, mut ended) = mpsc::channel(1);
        let mut layers = Vec::new();
        let mut fetches = JoinSet::new();
        for (diff_id, blob) in &resolved.layers {
            if let Some(layer) = self.layers.get(diff_id) {
                layers.push(layer);
                continue;
            }
            let fetch = LayerFetch {
                repository: Arc::clone(repository),
                layers: self.layers.clone(),
                fetches: Arc::clone(&self.fetches),
                slots: Arc::clone(&slots),
                working: working.clone(),
                diff_id: diff_id.clone(),
                blob: blob.clone(),
            };
            fetches.spawn(fetch.run());
        }
        drop(working);
        let new = fetches.len();
        let outcome = collect(&mut fetches, layers).await;
        // The first failure ends the others. Told only when their threads have ended, it leaves nothing half-made.
        fetches.shutdown().await;
        let _ = ended.recv().await;
        outcome.map(|layers| (layers, new))
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

/// What a pull found or fetched.
struct Fetched {
    id: ImageId,
    new_layers: usize,
}

/// Whether kubelet's next try may work without anybody doing anything.
fn may_pass(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded)
}
