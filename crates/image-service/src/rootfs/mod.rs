//! Root filesystems of containers: the layers of an image below, a directory of the container's own above.
//!
//! ```text
//! <dir>/<container>/upper        what the container writes
//! <dir>/<container>/work         overlay's own
//! <dir>/<container>/images/<n>   what the topmost layer of an image mounted as a volume lacks (see `attributes`)
//! <dir>/<container>/volumes/<n>  a directory for each volume that the image declares
//! <dir>/<container>/rootfs.json  the layers, written before the directory gets its name
//! <dir>/.trash/<random>          renamed away, deleted in the background
//! <dir>/.empty                   the only layer of an image that has none
//! ```
//!
//! A root filesystem is mounted as a detached mount, handed over by descriptor: the host's mount table never shows it,
//! and it ends with its last user. While a container has a root filesystem here, its layers aren't collected, also
//! across restarts.
//!
//! For a container in a user namespace the layers are mounted with their ids mapped, and what it writes belongs to its
//! users as the host knows them: nothing on the container's own layer is the host's root's.
//! Not here: which layers an image has (`catalog`), what is mounted inside the root.
//!
//! Everything here blocks: call it from a blocking thread.

mod attributes;
mod copy;
mod ids;
mod limits;
mod mount;
mod record;
mod views;
mod volumes;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::digest::Digest;
use crate::error::Error;
use crate::gc::Trash;
use crate::layers::{Layer, Layers, make_private_dir, spread_over_disk, store};
use crate::names;
use crate::usage::{self, Usage};

pub use ids::IdMap;
use limits::Limiter;
pub use limits::{ProjectQuotas, WritableLimit};
use mount::{Lowers, Mounter};
use record::Record;

/// Whether what containers write must survive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// `fsync` in a container reaches the disk, and unmounting its root writes everything back.
    #[default]
    Synced,
    /// Overlay's `volatile`: neither. Faster to write and to stop, and enough where a crash of the machine ends all its
    /// containers anyway.
    Volatile,
}

/// The root filesystems of all containers. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct RootFilesystems {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    layers: Layers,
    mounter: Mounter,
    limiter: Limiter,
    trash: Trash,
    containers: Mutex<HashMap<String, Rootfs>>,
}

/// Whom a root filesystem is mounted for.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAs<'a> {
    /// Users, when their ids are mapped.
    pub ids: Option<&'a IdMap>,
    /// The SELinux context that all its files have.
    pub label: Option<&'a str>,
}

/// One container's root filesystem, as it is written down.
#[derive(Debug, Clone)]
struct Rootfs {
    record: Arc<Record>,
    /// Those layers of the record that are in the store; holding them keeps them there.
    layers: Arc<[Layer]>,
    /// The same of each image that the container has as a volume, in the order of the record.
    images: Arc<[Vec<Layer>]>,
}

impl RootFilesystems {
    /// Opens the store of root filesystems in `dir`, making it where it lacks. What a crash left half-made is removed. The
    /// limit is for containers that are made from now on.
    ///
    /// # Errors
    /// [`Error::Store`] names what couldn't be made or read, and says why containers can't be limited.
    pub fn open(
        dir: &Path,
        layers: Layers,
        durability: Durability,
        limit: Option<WritableLimit>,
    ) -> Result<RootFilesystems, Error> {
        make_private_dir(dir)?;
        let limiter = Limiter::new(limit, dir)?;
        spread_over_disk(dir);
        let empty = dir.join(EMPTY);
        make_private_dir(&empty)?;
        let trash = Trash::open(&dir.join(".trash"), layers.confinement())?;
        let mounter = Mounter::new(empty, durability);
        let inner =
            Inner { dir: dir.to_owned(), layers, mounter, limiter, trash, containers: Mutex::default() };
        let containers = inner.read()?;
        *inner.containers() = containers;
        Ok(RootFilesystems { inner: Arc::new(inner) })
    }

    /// Makes the root filesystem of `container` out of `diff_ids`, the layers from the lowest upwards (the order of
    /// `rootfs.diff_ids` in an image's configuration). Made of the same layers before, nothing happens.
    ///
    /// # Errors
    /// [`Error::LayerMissing`], [`Error::RootfsExists`], [`Error::BadContainerId`], [`Error::NoSpace`], [`Error::Store`].
    pub fn prepare(&self, container: &str, diff_ids: &[Digest]) -> Result<(), Error> {
        self.prepare_as(container, diff_ids, None)
    }

    /// Does as [`prepare`](Self::prepare), for users whose ids are mapped.
    ///
    /// # Errors
    /// As there; [`Error::RootfsMount`] when a layer's ids can't be mapped.
    pub fn prepare_as(&self, container: &str, diff_ids: &[Digest], ids: Option<&IdMap>) -> Result<(), Error> {
        check_id(container)?;
        let inner = &*self.inner;
        let record = Record::new(diff_ids.to_vec());
        if let Some(present) = inner.containers().get(container) {
            if present.record.layers() == record.layers() {
                return Ok(());
            }
            return Err(Error::RootfsExists { container: container.to_owned() });
        }
        let get =
            |id: &Digest| inner.layers.get(id).ok_or_else(|| Error::LayerMissing { diff_id: id.clone() });
        let layers: Arc<[Layer]> = visible(diff_ids).iter().map(get).collect::<Result<_, _>>()?;
        let making = inner.dir.join(format!(".new-{}", names::unique()));
        let made = inner.make(&making, (container, &layers, ids), &record);
        let made = made.map_err(|error| inner.limiter.explain(error, &making)).and_then(|()| {
            let target = inner.dir.join(container);
            let mut containers = inner.containers();
            if containers.contains_key(container) {
                return Err(Error::RootfsExists { container: container.to_owned() });
            }
            rustix::fs::rename(&making, &target).map_err(|errno| store("rename", &making, errno.into()))?;
            let rootfs = Rootfs { record: Arc::new(record), layers, images: Arc::default() };
            containers.insert(container.to_owned(), rootfs);
            Ok(())
        });
        if made.is_err() {
            // The first failure is the one to tell; what this one leaves is removed at the next open.
            let _ = inner.trash.discard(&making);
        }
        made
    }

    /// Mounts the container's root filesystem and returns the mount's descriptor, detached: for `move_mount`, or to
    /// open files below. The mount ends when nobody has it any more.
    ///
    /// # Errors
    /// [`Error::RootfsMissing`], [`Error::LayerMissing`], [`Error::RootfsMount`].
    pub fn mount(&self, container: &str) -> Result<OwnedFd, Error> {
        self.mount_as(container, &MountAs::default())
    }

    /// Does as [`mount`](Self::mount), for others than the host: users whose ids are mapped, the same as when it was prepared.
    ///
    /// # Errors
    /// As there.
    pub fn mount_as(&self, container: &str, to: &MountAs<'_>) -> Result<OwnedFd, Error> {
        let inner = &*self.inner;
        let rootfs = inner.rootfs(container)?;
        all_there(rootfs.record.layers(), &rootfs.layers)?;
        let (plain, stage) = (inner.lowers(&rootfs.layers)?, inner.layers.stage());
        let lowers = Lowers { plain: &plain, stage: stage.as_deref(), ids: to.ids, label: to.label };
        inner.mounter.mount(container, &inner.dir.join(container), lowers)
    }

    /// Tries out whether root filesystems can be mounted with mapped ids, on the filesystem that this store is on.
    ///
    /// # Errors
    /// [`Error::RootfsMount`] says what can't be done; [`Error::Store`].
    pub fn try_mapping(&self, ids: &IdMap) -> Result<(), Error> {
        let inner = &*self.inner;
        let name = format!(".new-{}", names::unique());
        let trial = inner.dir.join(&name);
        let made = [trial.clone(), trial.join(UPPER), trial.join(WORK)]
            .iter()
            .try_for_each(|dir| make_private_dir(dir));
        let tried = made
            .and_then(|()| {
                inner.mounter.mount(
                    &name,
                    &trial,
                    Lowers { plain: &[], stage: None, ids: Some(ids), label: None },
                )
            })
            .and_then(|root| ids::check_writable(&root, &name));
        // The outcome of the trial is what counts; what stays is removed at the next open.
        let _ = inner.trash.discard(&trial);
        tried
    }

    /// Removes the container's root filesystem: gone when this returns, its space freed in the background. Of a
    /// container that has none, nothing is removed and that is fine. A mount in use stays usable until its last user
    /// ends, without what was below it.
    ///
    /// # Errors
    /// [`Error::Store`] if it can't be renamed away; [`Error::BadContainerId`].
    pub fn release(&self, container: &str) -> Result<(), Error> {
        check_id(container)?;
        let released = {
            let mut containers = self.inner.containers();
            self.inner.trash.discard(&self.inner.dir.join(container))?;
            containers.remove(container)
        };
        // Lets go of the layers, which takes the lock of another map.
        drop(released);
        Ok(())
    }

    /// Removes the root filesystems of all containers that aren't in `known`, and returns the ids of those removed.
    ///
    /// # Errors
    /// The first failure, after all others have been tried.
    pub fn retain(&self, known: &HashSet<String>) -> Result<Vec<String>, Error> {
        let present = self.containers();
        let mut removed = Vec::new();
        let mut outcome = Ok(());
        for container in present.into_iter().filter(|id| !known.contains(id)) {
            match self.release(&container) {
                Ok(()) => removed.push(container),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome.map(|()| removed)
    }

    /// The layers that the container has, of its root and of images that it has as volumes; none where it isn't known.
    pub(crate) fn layers_of(&self, container: &str) -> Vec<Digest> {
        let containers = self.inner.containers();
        let Some(rootfs) = containers.get(container) else { return Vec::new() };
        let images = rootfs.record.images().iter().flat_map(|image| &image.layers);
        rootfs.record.layers().iter().chain(images).cloned().collect()
    }

    /// Disk space and inodes of what the container has written, volumes of its image included. Reads all of it.
    ///
    /// # Errors
    /// [`Error::RootfsMissing`], [`Error::Store`].
    pub fn usage(&self, container: &str) -> Result<Usage, Error> {
        if !self.inner.containers().contains_key(container) {
            return Err(Error::RootfsMissing { container: container.to_owned() });
        }
        let measure = |path: PathBuf| usage::of_tree(&path).map_err(|cause| store("read", &path, cause));
        let dir = self.inner.dir.join(container);
        let volumes = dir.join(volumes::VOLUMES);
        let of_volumes = if volumes.exists() { measure(volumes)? } else { Usage::default() };
        Ok(measure(dir.join(UPPER))? + of_volumes)
    }

    /// The containers that have a root filesystem.
    pub fn containers(&self) -> Vec<String> {
        self.inner.containers().keys().cloned().collect()
    }

    /// Waits until the disk space of what was released is free, for so long at most.
    pub(crate) fn settle(&self, at_most: Duration) {
        self.inner.trash.settle(at_most);
    }

    /// The directory that all of this is in.
    pub fn path(&self) -> &Path {
        &self.inner.dir
    }
}

const UPPER: &str = "upper";
const WORK: &str = "work";
const EMPTY: &str = ".empty";

impl Inner {
    fn containers(&self) -> MutexGuard<'_, HashMap<String, Rootfs>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the directories and the record of a root filesystem in `dir`, which isn't its final place yet.
    fn make(
        &self,
        dir: &Path,
        (container, layers, ids): (&str, &[Layer], Option<&IdMap>),
        record: &Record,
    ) -> Result<(), Error> {
        make_private_dir(dir)?;
        self.limiter.apply(dir)?;
        for name in [UPPER, WORK] {
            make_private_dir(&dir.join(name))?;
        }
        let upper = dir.join(UPPER);
        let mut lowers = self.lowers(layers)?;
        if let Some(ids) = ids {
            // Seen through them, attributes name the owners that the container's own layer has to have.
            let stage = self.layers.stage();
            let plain: Vec<&OwnedFd> = lowers.iter().collect();
            lowers = ids::mapped(&plain, stage.as_deref(), ids)
                .map_err(|(_, cause)| ids::failed(container, cause))?;
            ids::give_to_root(&upper, &self.dir.join(EMPTY), ids)
                .map_err(|cause| ids::failed(container, cause))?;
        }
        attributes::copy(&upper, layers, &lowers)
            .map_err(|cause| store("set the attributes of", &upper, cause))?;
        // Not synced: after a crash of the machine there is no container left that it could belong to.
        record.write(dir).map_err(|cause| store("write the record of", dir, cause))
    }

    /// The root directories of layers, from the top downwards, down to one that hides all below it.
    fn lowers(&self, layers: &[Layer]) -> Result<Vec<OwnedFd>, Error> {
        let mut lowers = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            lowers.push(self.layers.lower(layer)?);
            if layer.record().opaque_root {
                break;
            }
        }
        Ok(lowers)
    }

    /// Reads the records of all containers; what isn't whole goes to the trash.
    fn read(&self) -> Result<HashMap<String, Rootfs>, Error> {
        let mut containers = HashMap::new();
        for entry in fs::read_dir(&self.dir).map_err(|cause| store("read", &self.dir, cause))? {
            let path = entry.map_err(|cause| store("read", &self.dir, cause))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if matches!(name.as_str(), EMPTY | ".trash") {
                continue;
            }
            match Record::read(&path) {
                Ok(record) if check_id(&name).is_ok() => {
                    containers.insert(name, self.held(Arc::new(record)));
                }
                _ => self.trash.discard_leftover(&path),
            }
        }
        Ok(containers)
    }

    /// A root filesystem with those of its layers that are in the store.
    fn held(&self, record: Arc<Record>) -> Rootfs {
        let held = |layers: &[Digest]| -> Vec<Layer> {
            visible(layers).iter().filter_map(|id| self.layers.get(id)).collect()
        };
        let layers = held(record.layers()).into();
        let images = record.images().iter().map(|image| held(&image.layers)).collect();
        Rootfs { record, layers, images }
    }

    /// A container's root filesystem. Layers that were missing when this process began may be back.
    fn rootfs(&self, container: &str) -> Result<Rootfs, Error> {
        let rootfs = self.containers().get(container).cloned();
        let rootfs = rootfs.ok_or_else(|| Error::RootfsMissing { container: container.to_owned() })?;
        if rootfs.is_whole() {
            return Ok(rootfs);
        }
        let now = self.held(Arc::clone(&rootfs.record));
        if let Some(known) =
            self.containers().get_mut(container).filter(|known| Arc::ptr_eq(&known.record, &now.record))
        {
            known.clone_from(&now);
        }
        // The old value lives on to here: it lets go of layers under no other lock.
        drop(rootfs);
        Ok(now)
    }
}

impl Rootfs {
    fn is_whole(&self) -> bool {
        let mut images = self.record.images().iter().zip(self.images.iter());
        all_there(self.record.layers(), &self.layers).is_ok()
            && images.all(|(image, layers)| all_there(&image.layers, layers).is_ok())
    }
}

/// Checks that every layer is there.
fn all_there(diff_ids: &[Digest], layers: &[Layer]) -> Result<(), Error> {
    let absent = |id: &&Digest| !layers.iter().any(|layer| layer.diff_id == **id);
    match visible(diff_ids).iter().find(absent) {
        Some(lost) => Err(Error::LayerMissing { diff_id: lost.clone() }),
        None => Ok(()),
    }
}

/// The layers without repetitions, each at its highest place: overlay refuses one twice, and what a layer holds or
/// hides further down, it holds and hides further up too.
fn visible(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut seen = HashSet::new();
    let mut layers: Vec<Digest> = diff_ids.iter().rev().filter(|id| seen.insert(*id)).cloned().collect();
    layers.reverse();
    layers
}

/// Ids become file names; those of our own files begin with a dot.
fn check_id(container: &str) -> Result<(), Error> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if container.is_empty()
        || container.len() > 255
        || container.starts_with('.')
        || !container.bytes().all(valid)
    {
        return Err(Error::BadContainerId { container: container.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_files_of_ours() {
        for id in ["a", "0f3c", "my-container_1.2"] {
            assert!(check_id(id).is_ok(), "{id:?}");
        }
        for id in ["", ".", "..", ".trash", "a/b", "../a", "a\0", "ä", &"a".repeat(256)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_repeated_layer_counts_where_it_is_highest() {
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        assert_eq!(visible(&[a.clone(), b.clone(), a.clone()]), [b.clone(), a.clone()]);
        assert_eq!(visible(&[a.clone(), b.clone()]), [a, b]);
    }
}
