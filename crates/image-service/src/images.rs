//! The one handle that the daemon holds: calls, and which part of the crate answers each.

mod roots;

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::auth::Login;
use crate::blocking::blocking;
use crate::care::{Care, Checked};
use crate::catalog::Catalog;
use crate::collection::{CollectSettings, Collector};
use crate::config::Config;
use crate::error::Error;
use crate::image::{FilesystemUsage, Image, ImageId};
use crate::inspect::{self, ImageDisk, Inspection, PruneRequest, Pruned};
use crate::layers::Layers;
use crate::load::{LoadRequest, LoadedImage, Loader};
use crate::mounts::{ImageMount, Mounts};
use crate::pull::{PullProgress, PullRequest, PullTotals, PullWatch, Puller, Pulls};
use crate::reference::Reference;
use crate::registry::{Explanation, Registries};
use crate::rootfs::{Durability, RootFilesystems};
use crate::save::{SaveRequest, Saver};
use crate::space::Space;
use crate::usage::Usage;

/// The image service. Cheap to clone; all clones are the same service, and pulls under way end with the last one.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    /// Instead of that of `config`.
    collect: Mutex<CollectSettings>,
    catalog: Arc<Catalog>,
    layers: Layers,
    rootfs: RootFilesystems,
    mounts: Mounts,
    registries: Arc<Registries>,
    pulls: Pulls,
    care: Care,
    space: Arc<Space>,
}

impl Images {
    /// Opens the images below the configured root, making its directories where they lack. What a crash left half-made
    /// is removed; a record that can't be read is set aside. Blocks for a moment.
    ///
    /// # Errors
    /// [`Error::Store`] names the directory that can't be used.
    pub fn open(config: Config) -> Result<Images, Error> {
        let images = config.root.join("images");
        let layers = Layers::open_as(&images, config.layers.clone())?;
        let catalog = Arc::new(Catalog::open(&images.join("catalog"), &config.pinned, &layers)?);
        let containers = config.root.join("containers");
        let rootfs = RootFilesystems::open(
            &containers,
            layers.clone(),
            Durability::default(),
            config.writable.clone(),
        )?;
        let mounts = Mounts::open(&images.join("mounts"), &layers)?;
        let registries = Arc::new(Registries::new(&config));
        let kept = (Arc::clone(&catalog), layers.clone(), rootfs.clone());
        let puller = Puller::open(config.clone(), &images, Arc::clone(&registries), kept)?;
        let pulls = Pulls::new(puller, config.limits.pulls);
        let care = Care::new(config.care.clone(), &images, (layers.clone(), Arc::clone(&catalog)));
        let space = Arc::new(Space::new(&images, layers.clone(), rootfs.clone(), config.usage_age));
        let collect = Mutex::new(config.collect.clone());
        let inner =
            Inner { config, collect, catalog, layers, rootfs, mounts, registries, pulls, care, space };
        Ok(Images { inner: Arc::new(inner) })
    }

    /// Does by another configuration what begins from now on, as far as that can change: where registries are configured and as whom
    /// they are asked, which images are pinned, how damage is looked for, when unused images are removed. The rest of it stays as it was opened.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Thread`]; nothing has changed then.
    pub async fn change_over(&self, config: Config) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let change = move || {
            inner.catalog.pin(&config.pinned);
            inner.registries.change_over(&config);
            inner.care.change_over(config.care);
            *inner.collect.lock().unwrap_or_else(PoisonError::into_inner) = config.collect;
            Ok(())
        };
        blocking("changing the image service's settings", change).await
    }

    /// Fetches an image, or brings it up to date, and returns its id. A pull of the same name by the same asker that is
    /// under way is joined.
    ///
    /// Safe to cancel: the pull goes on, and the next call joins it or finds its work done.
    ///
    /// # Errors
    /// [`Error::BadReference`], [`Error::BadCredentials`], and [`Error::Pull`] whose [`Error::kind`] says what to do.
    pub async fn pull(&self, request: PullRequest) -> Result<ImageId, Error> {
        self.watch_pull(request)?.outcome().await
    }

    /// As [`Images::pull`], with a view of how far it has come. The pull goes on when the view is dropped. To be called within
    /// the runtime.
    ///
    /// # Errors
    /// [`Error::BadReference`], [`Error::BadCredentials`].
    pub fn watch_pull(&self, request: PullRequest) -> Result<PullWatch, Error> {
        let reference: Reference = request.reference.parse()?;
        let login = request.credentials.as_ref().map_or_else(|| Ok(Login::anonymous()), Login::new)?;
        Ok(self.inner.pulls.watch(reference, login))
    }

    /// How far the pulls under way have come.
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.inner.pulls.now()
    }

    /// What all pulls cost since the service was opened.
    pub fn pull_totals(&self) -> PullTotals {
        self.inner.pulls.puller().totals()
    }

    /// What a pull would do: which hosts it would ask for the image, in what order, as whom and why, and what each of them
    /// answers when it is asked now. Ends after a minute at the latest; changes nothing.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::BadReference`], [`Error::BadCredentials`], [`Error::RegistryConfig`].
    pub async fn explain(&self, request: PullRequest) -> Result<Explanation, Error> {
        let reference: Reference = request.reference.parse()?;
        let login = match &request.credentials {
            Some(credentials) => Login::new(credentials)?,
            None => Login::anonymous(),
        };
        self.inner.registries.explain(&reference, login).await
    }

    /// The image with this name, id, or unambiguous beginning of an id; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::AmbiguousId`], or [`Error::BadReference`] for a text that can be neither.
    pub fn status(&self, image: &str) -> Result<Option<Arc<Image>>, Error> {
        self.inner.catalog.find(image)
    }

    /// The same, and where there is none, one that has lost layers and so isn't listed: to remove it.
    ///
    /// # Errors
    /// As there.
    pub fn kept(&self, image: &str) -> Result<Option<Arc<Image>>, Error> {
        self.inner.catalog.find_kept(image)
    }

    /// All images, or those that `filter` names as [`Images::status`] understands it, in the order of their ids.
    pub fn list(&self, filter: Option<&str>) -> Vec<Arc<Image>> {
        match filter {
            None => self.inner.catalog.all(),
            Some(name) => self.status(name).ok().flatten().into_iter().collect(),
        }
    }

    /// The image's configuration as the registry had it, JSON.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], or [`Error::Store`] when its file can't be read.
    pub async fn config_json(&self, id: &ImageId) -> Result<String, Error> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        blocking("reading a configuration", move || inner.catalog.config_text(&id)).await
    }

    /// What the layers of every image take on the disk. Kept in memory: never reads the disk.
    pub fn disk(&self) -> BTreeMap<ImageId, ImageDisk> {
        inspect::disk(&self.inner.catalog.all(), &self.inner.layers)
    }

    /// All there is to tell of an image.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::AmbiguousId`], [`Error::BadReference`], [`Error::Store`].
    pub async fn inspect(&self, image: &str) -> Result<Inspection, Error> {
        let image = self.there(image)?;
        let inner = Arc::clone(&self.inner);
        blocking("inspecting an image", move || inspect::inspect(&inner.catalog, &inner.layers, image)).await
    }

    /// Takes a tag from an image that has another one. False if it hasn't, and for what is no tag of an image.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn untag(&self, name: &str) -> Result<bool, Error> {
        let Ok(name) = name.parse::<Reference>() else { return Ok(false) };
        let inner = Arc::clone(&self.inner);
        blocking("removing a name", move || inner.catalog.untag(&name)).await
    }

    /// Removes the images that nothing uses: nothing that the request names, and no mount. Pinned ones stay.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Store`]; what was removed until then is.
    pub async fn prune(&self, mut request: PruneRequest) -> Result<Pruned, Error> {
        let inner = Arc::clone(&self.inner);
        let prune = move || {
            request.in_use.extend(inner.mounts.all().into_iter().map(|mount| mount.image));
            inspect::prune(&inner.catalog, &inner.layers, &request)
        };
        blocking("removing images", prune).await
    }

    /// Removes images that nothing uses, if the disk is fuller than [`Config::collect`] says: neither those that are given, nor
    /// mounted or pinned ones. The answer is what was removed.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Store`]; what was removed until then is.
    pub async fn collect_unused(&self, mut in_use: HashSet<ImageId>) -> Result<Vec<Arc<Image>>, Error> {
        let inner = Arc::clone(&self.inner);
        let collect = move || {
            in_use.extend(inner.mounts.all().into_iter().map(|mount| mount.image));
            let Inner { catalog, layers, config, .. } = &*inner;
            let settings = inner.collect.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (images, settings) = (&config.root.join("images"), &settings);
            Collector { catalog, layers, images, settings }.run(&in_use)
        };
        blocking("removing images that nothing uses", collect).await
    }

    /// Mounts an image on a directory of the node, read-only, where it stays until it is unmounted, whatever becomes of the
    /// image or of this process.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::MountTarget`], [`Error::LayerMissing`], [`Error::RootfsMount`], [`Error::NoSpace`],
    /// [`Error::Store`].
    pub async fn mount(&self, image: &str, target: &Path) -> Result<(), Error> {
        let image = self.there(image)?;
        let (inner, target) = (Arc::clone(&self.inner), target.to_owned());
        let mount = move || inner.mounts.mount(&image, &target, (&inner.layers, &inner.rootfs));
        blocking("mounting an image", mount).await
    }

    /// Unmounts the image that is mounted on a directory of the node.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::NotMounted`]; [`Error::MountTarget`], while somebody is in it.
    pub async fn unmount(&self, target: &Path) -> Result<(), Error> {
        let (inner, target) = (Arc::clone(&self.inner), target.to_owned());
        blocking("unmounting an image", move || inner.mounts.unmount(&target)).await
    }

    /// Images that are mounted on directories of the node.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub async fn mounts(&self) -> Result<Vec<ImageMount>, Error> {
        let inner = Arc::clone(&self.inner);
        blocking("looking at mounts", move || Ok(inner.mounts.all())).await
    }

    fn there(&self, image: &str) -> Result<Arc<Image>, Error> {
        self.status(image)?.ok_or_else(|| Error::ImageMissing { image: image.to_owned() })
    }

    /// Writes images to `out` as one archive, on a thread of its own. The archive is good when this returns without an error.
    ///
    /// Safe to cancel: it goes on until `out` fails.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::AmbiguousId`], [`Error::BadReference`], [`Error::NoRecipe`] for a layer of an older
    /// version, [`Error::LayerDigest`] for a damaged one, [`Error::NoSpace`], [`Error::Store`], [`Error::Output`].
    pub async fn save(&self, request: SaveRequest, mut out: Box<dyn Write + Send>) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let save = move || {
            let Inner { catalog, layers, .. } = &*inner;
            Saver { catalog, layers, spool: &inner.ingest() }.save(&request, &mut *out)
        };
        blocking("saving images", save).await
    }

    /// Reads images from an archive, on a thread of its own: a tar of an OCI layout, or one of `docker save`, which may be
    /// compressed. All of its images for this machine are there when this returns, or none (unless the catalogue can't be written
    /// any more when some of them are in it).
    ///
    /// Safe to cancel: it goes on until `archive` fails.
    ///
    /// # Errors
    /// [`Error::ArchiveRefused`], [`Error::ArchiveRead`], [`Error::NoPlatform`], [`Error::BadReference`]; those of documents
    /// and layers, as for a pull; [`Error::NoSpace`], [`Error::Store`].
    pub async fn load(
        &self,
        request: LoadRequest,
        archive: Box<dyn BufRead + Send>,
    ) -> Result<Vec<LoadedImage>, Error> {
        let inner = Arc::clone(&self.inner);
        let load = move || {
            let Inner { catalog, layers, .. } = &*inner;
            let (limits, room) = (&inner.config.limits, inner.pulls.puller().room());
            Loader { catalog, layers, limits, room, spool: &inner.ingest() }.load(&request, archive)
        };
        blocking("loading images", load).await
    }

    /// Removes an image with all its names. An unknown one is fine. Containers made of it keep their layers; the disk
    /// space of others comes back in the background.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Store`] when the catalogue can't be changed, [`Error::AmbiguousId`], [`Error::BadReference`].
    pub async fn remove(&self, image: &str) -> Result<(), Error> {
        let image = self.kept(image)?;
        let inner = Arc::clone(&self.inner);
        let remove = move || {
            // One that is gone may have left its layers: an earlier removal of it was cut off in between.
            if let Some(image) = image {
                inner.catalog.remove(&image.id)?;
            }
            inner.catalog.collect(&inner.layers).map(|_| ())
        };
        blocking("removing an image", remove).await
    }

    /// Removes the layers that no image and no container needs: those of pulls that failed for the moment and were not tried
    /// again, and, after a day, what such pulls had fetched of others. Forgets secrets that are good no more. To be called from
    /// time to time.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn collect(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let collect = move || {
            inner.mounts.forget_unmounted();
            inner.pulls.puller().sweep();
            inner.registries.sweep();
            inner.catalog.collect(&inner.layers).map(drop)
        };
        blocking("collecting layers", collect).await
    }

    /// Looks at every byte of an image's layers. A damaged one is taken out of the store and fetched again; while it lacks,
    /// the image isn't listed, but can be checked all the same.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::AmbiguousId`], [`Error::BadReference`].
    pub async fn check(&self, image: &str) -> Result<Checked, Error> {
        let found = self.kept(image)?.ok_or_else(|| Error::ImageMissing { image: image.to_owned() })?;
        Ok(self.inner.care.check(&self.inner.pulls, &found).await)
    }

    /// Looks for damage from time to time, as configured, and fetches again what is damaged or missing. To be polled
    /// for as long as the service is used.
    pub async fn take_care(&self) -> Infallible {
        self.inner.care.run(&self.inner.pulls).await
    }

    /// What the files of all layers take. Kept in memory: never reads the disk.
    pub fn layers_usage(&self) -> Usage {
        self.inner.layers.usage()
    }

    /// Use of the disk by images, with all that is kept of them and for them, as it was a second ago at most.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Store`] names the directory that can't be read.
    pub async fn filesystem_usage(&self) -> Result<FilesystemUsage, Error> {
        self.inner.space.sum_images().await
    }

    /// Use of the disk by the writable layers of containers, each as old as [`Config::usage_age`] allows.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Store`] names the directory that can't be read.
    pub async fn container_filesystem_usage(&self) -> Result<FilesystemUsage, Error> {
        self.inner.space.sum_containers().await
    }

    /// Throws a container's writable layer away. Idempotent.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// [`Error::Store`]; releasing can be tried again.
    pub async fn release_rootfs(&self, container: &str) -> Result<(), Error> {
        let (inner, container) = (Arc::clone(&self.inner), container.to_owned());
        let release = move || {
            inner.rootfs.release(&container)?;
            inner.space.forget(&container);
            Ok(())
        };
        blocking("releasing a root filesystem", release).await
    }

    /// Throws away the writable layers of all containers but these. Layers of images wait for [`Images::collect`]: this is asked
    /// for when the daemon starts, and what a pull had fetched before its end is there for its next attempt.
    ///
    /// Safe to cancel: it goes on to the end.
    ///
    /// # Errors
    /// The first failure, after all others have been tried.
    pub async fn retain_rootfs(&self, known: &[String]) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let known: HashSet<String> = known.iter().cloned().collect();
        let retain = move || inner.rootfs.retain(&known).map(|_| ());
        blocking("releasing root filesystems", retain).await
    }

    /// Use of the disk by a container's writable layer, as old as [`Config::usage_age`] allows.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::RootfsMissing`], [`Error::Store`].
    pub async fn rootfs_usage(&self, container: &str) -> Result<FilesystemUsage, Error> {
        if let Some(kept) = self.inner.space.container_kept(container) {
            return Ok(kept);
        }
        let (inner, container) = (Arc::clone(&self.inner), container.to_owned());
        blocking("measuring a writable layer", move || inner.space.container(&container)).await
    }
}

impl Inner {
    /// Where files are that nobody wants after a crash.
    fn ingest(&self) -> PathBuf {
        self.config.root.join("images/ingest")
    }
}
