//! Collection of images when the disk fills up: of those that nothing uses, the one goes first that was not used for longest.
//!
//! Off by default, as kubelet collects by itself. An image counts as used when it is pulled, when a container is made of it, and
//! as long as there is one: the time is that of its record's file, which costs a start no sync and outlives the daemon. After
//! a power cut it may be half a minute too old.
//! Not here: who uses an image now (whoever asks for a collection says so), layers without an image (`layers`).

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::catalog::Catalog;
use crate::error::Error;
use crate::image::{Image, ImageId};
use crate::layers::{Layers, store};

/// When images that nothing uses are removed without being asked for.
#[derive(Debug, Clone)]
pub struct CollectSettings {
    /// Percent of their file system that must be in use; none, and nothing is removed. It goes down to five less, as with
    /// kubelet's own defaults (85 and 80).
    pub above: Option<u8>,
    /// Time since its last use that an image is left alone: between its pull and its first container nobody uses it. Kubelet
    /// has the same by default.
    pub min_age: Duration,
}

impl Default for CollectSettings {
    fn default() -> CollectSettings {
        CollectSettings { above: None, min_age: Duration::from_secs(120) }
    }
}

/// Percent that collecting goes down by.
const DOWN: u64 = 5;

/// Age of an image's last use from which on it is written down anew while the image is in use.
const STALE: Duration = Duration::from_secs(600);

/// Longest wait for what was removed before to be deleted.
const DELETING: Duration = Duration::from_secs(30);

/// What is collected from.
pub(crate) struct Collector<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) layers: &'a Layers,
    /// The directory of images.
    pub(crate) images: &'a Path,
    pub(crate) settings: &'a CollectSettings,
}

impl Collector<'_> {
    /// Removes images but those `in_use` until the disk is as empty as it should be, or there is none left that may go. The
    /// answer is what was removed. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`]; what was removed until then is.
    pub(crate) fn run(&self, in_use: &HashSet<ImageId>) -> Result<Vec<Arc<Image>>, Error> {
        let Some(above) = self.settings.above.map(u64::from) else { return Ok(Vec::new()) };
        in_use.iter().filter(|id| self.age(id) > STALE).for_each(|id| self.catalog.used(id));
        if self.excess(above)? == 0 {
            return Ok(Vec::new());
        }
        // What is only waiting to be deleted makes room, too.
        self.layers.settle(DELETING);
        let mut excess = self.excess(above)?;
        let mut removed = Vec::new();
        for image in self.candidates(in_use) {
            if excess == 0 {
                break;
            }
            // Used since it was looked at.
            if self.age(&image.id) < self.settings.min_age {
                continue;
            }
            let before = self.layers.disk()?.bytes;
            self.catalog.remove(&image.id)?;
            self.catalog.collect(self.layers)?;
            let freed = before.saturating_sub(self.layers.disk()?.bytes);
            tracing::info!(image = %image.id, names = ?image.repo_tags, freed, "removed an unused image, as the disk is too full");
            excess = excess.saturating_sub(freed);
            removed.push(image);
        }
        Ok(removed)
    }

    /// Bytes to be freed: none as long as no more than `above` percent are in use.
    fn excess(&self, above: u64) -> Result<u64, Error> {
        let disk = rustix::fs::statvfs(self.images);
        let disk = disk.map_err(|errno| store("look at the disk of", self.images, errno.into()))?;
        let percent = |percent: u64| disk.f_blocks / 100 * percent;
        // As kubelet counts it: what only root may still use is in use.
        let used = disk.f_blocks.saturating_sub(disk.f_bavail);
        let excess = if used > percent(above) { used - percent(above.saturating_sub(DOWN)) } else { 0 };
        Ok(excess * disk.f_frsize)
    }

    /// Images that may go, in the order in which they do.
    fn candidates(&self, in_use: &HashSet<ImageId>) -> Vec<Arc<Image>> {
        let aged = |image: Arc<Image>| (self.age(&image.id), image);
        let may_go = |(age, image): &(Duration, Arc<Image>)| {
            !image.pinned && !in_use.contains(&image.id) && *age >= self.settings.min_age
        };
        let mut images: Vec<_> = self.catalog.all_kept().into_iter().map(aged).filter(may_go).collect();
        images.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
        images.into_iter().map(|(_, image)| image).collect()
    }

    /// Time since the last use; none for what was used in the future of a clock that was wrong.
    fn age(&self, id: &ImageId) -> Duration {
        let used = self.catalog.last_used(id);
        used.and_then(|used| SystemTime::now().duration_since(used).ok()).unwrap_or_default()
    }
}
