//! Images that containers have as volumes: read-only mounts of all layers of an image, or of one place in it.
//!
//! While a container has an image as a volume, its layers aren't collected, as those of its root aren't.
//! Not here: where the mount goes, and its flags but for read-only.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MoveMountFlags;

use super::ids::IdMap;
use super::mount::Lowers;
use super::record::ImageRecord;
use super::{Inner, RootFilesystems, Rootfs, WORK, all_there, attributes, check_id, visible};
use crate::digest::Digest;
use crate::error::Error;
use crate::layers::{Layer, make_private_dir, store};
use crate::mounting::{Failure, clone_mount, in_private_namespace, open_place};

/// Below a container's directory: a directory for each image with what its topmost layer doesn't say.
const IMAGES: &str = "images";

/// What a path of an image may be resolved by: the image's root is its end, and what is no path leads nowhere.
pub(super) const IN_IMAGE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// How often a path is looked up while others rename and mount: each time is a matter of microseconds.
const ATTEMPTS: usize = 128;

impl RootFilesystems {
    /// Keeps the layers of images for a container with a root filesystem, so that they can be mounted as volumes: each
    /// image with its layers from the lowest upwards. Replaces what was kept for it before.
    ///
    /// # Errors
    /// [`Error::RootfsMissing`], [`Error::LayerMissing`], [`Error::NoSpace`], [`Error::Store`].
    pub fn hold_images(&self, container: &str, images: &[(Digest, Vec<Digest>)]) -> Result<(), Error> {
        check_id(container)?;
        let inner = &*self.inner;
        let dir = inner.dir.join(container);
        let get =
            |id: &Digest| inner.layers.get(id).ok_or_else(|| Error::LayerMissing { diff_id: id.clone() });
        let mut held = Vec::with_capacity(images.len());
        let mut records = Vec::with_capacity(images.len());
        for (at, (id, layers)) in images.iter().enumerate() {
            let found: Vec<Layer> = visible(layers).iter().map(get).collect::<Result<_, _>>()?;
            inner.make_top(&dir.join(IMAGES).join(at.to_string()), &found)?;
            held.push(found);
            records.push(ImageRecord { id: id.clone(), layers: layers.clone() });
        }
        let mut containers = inner.containers();
        let rootfs = containers
            .get_mut(container)
            .ok_or_else(|| Error::RootfsMissing { container: container.to_owned() })?;
        let record = rootfs.record.with_images(records);
        record.replace(&dir).map_err(|cause| store("write the record of", &dir, cause))?;
        rootfs.record = Arc::new(record);
        let before = std::mem::replace(&mut rootfs.images, held.into());
        drop(containers);
        // Lets go of layers, which takes the lock of another map.
        drop(before);
        Ok(())
    }

    /// Mounts what is at a path of an image that is kept for a container, read-only and detached; all of it for an empty
    /// path. Links are followed inside the image. With `ids`, files belong to those whom these map their owners to.
    ///
    /// # Errors
    /// [`Error::ImagePath`] when nothing can be found there, [`Error::RootfsMissing`], [`Error::ImageMissing`] for an
    /// image that isn't kept for it, [`Error::LayerMissing`], [`Error::RootfsMount`].
    pub fn mount_image(
        &self,
        container: &str,
        (image, path): (&Digest, &Path),
        (ids, label): (Option<&IdMap>, Option<&str>),
    ) -> Result<OwnedFd, Error> {
        let inner = &*self.inner;
        let rootfs = inner.rootfs(container)?;
        let (at, layers) = find(&rootfs, image)?;
        let dir = inner.dir.join(container);
        let top = dir.join(IMAGES).join(at.to_string());
        let mount = inner.view(container, (&top, layers), (ids, label))?;
        if path.as_os_str().is_empty() {
            return Ok(mount);
        }
        let failed = |cause| Error::ImagePath { image: image.clone(), path: path.to_owned(), cause };
        let place = find_in(&mount, path, OFlags::PATH).map_err(|errno| failed(errno.into()))?;
        part(&mount, &place, &dir.join(WORK)).map_err(|(_, cause)| failed(cause))
    }

    /// A read-only, detached mount of layers that somebody holds, from the lowest upwards; `dir` is for what overlay shows where
    /// they say nothing. `name` is for errors.
    ///
    /// # Errors
    /// [`Error::LayerMissing`], [`Error::RootfsMount`], [`Error::NoSpace`], [`Error::Store`].
    pub(crate) fn view(&self, name: &str, dir: &Path, layers: &[Layer]) -> Result<OwnedFd, Error> {
        let inner = &*self.inner;
        let top = dir.join("top");
        let ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let visible: Vec<Layer> = visible(&ids)
            .iter()
            .filter_map(|id| layers.iter().find(|layer| layer.diff_id == *id).cloned())
            .collect();
        inner.make_top(&top, &visible)?;
        let mut lowers = vec![open_place(&top).map_err(|cause| store("open", &top, cause))?];
        lowers.extend(inner.lowers(&visible)?);
        let stage = inner.layers.stage();
        let lowers = Lowers { plain: &lowers, stage: stage.as_deref(), ids: None, label: None };
        inner.mounter.view(name, dir, lowers)
    }

    /// A read-only mount of what a container's root began as. Not the root once more: overlay empties the directory that
    /// it works in when it is mounted, under the feet of the mount that the container has.
    pub(super) fn own_image(&self, container: &str) -> Result<OwnedFd, Error> {
        let inner = &*self.inner;
        let rootfs = inner.rootfs(container)?;
        all_there(rootfs.record.layers(), &rootfs.layers)?;
        let top = inner.dir.join(container).join(IMAGES).join("own");
        inner.make_top(&top, &rootfs.layers)?;
        inner.view(container, (&top, &rootfs.layers), (None, None))
    }
}

impl Inner {
    /// Makes the directory with what the topmost of these layers doesn't say.
    fn make_top(&self, top: &Path, layers: &[Layer]) -> Result<(), Error> {
        make_private_dir(top)?;
        attributes::copy(top, layers, &self.lowers(layers)?)
            .map_err(|cause| store("set the attributes of", top, cause))
    }

    fn view(
        &self,
        container: &str,
        (top, layers): (&Path, &[Layer]),
        (ids, label): (Option<&IdMap>, Option<&str>),
    ) -> Result<OwnedFd, Error> {
        let mut lowers = vec![open_place(top).map_err(|cause| store("open", top, cause))?];
        lowers.extend(self.lowers(layers)?);
        let stage = self.layers.stage();
        let lowers = Lowers { plain: &lowers, stage: stage.as_deref(), ids, label };
        self.mounter.view(container, &self.dir.join(container), lowers)
    }
}

fn find<'r>(rootfs: &'r Rootfs, image: &Digest) -> Result<(usize, &'r [Layer]), Error> {
    let mut kept = rootfs.record.images().iter().zip(&*rootfs.images).enumerate();
    let (at, (record, layers)) = kept
        .find(|(_, (record, _))| record.id == *image)
        .ok_or_else(|| Error::ImageMissing { image: image.to_string() })?;
    all_there(&record.layers, layers)?;
    Ok((at, layers))
}

/// Opens what is at a path of a root, links followed inside of it.
pub(super) fn find_in(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), IN_IMAGE) {
            // Anything was renamed or mounted anywhere meanwhile, and the kernel cannot tell whether `..` still leads inside.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// A place of a detached mount as a detached mount of its own.
fn part(mount: &OwnedFd, place: &OwnedFd, spot: &Path) -> Result<OwnedFd, Failure> {
    match clone_mount(place.as_fd()) {
        // Before Linux 6.15 what is attached nowhere can't be cloned.
        Err(Errno::INVAL) => part_attached(mount, place, spot),
        cloned => cloned.map_err(|errno| ("clone a part of", errno.into())),
    }
}

/// The same by way of a mount namespace of its own, where the mount is attached on the directory `spot` for a moment.
fn part_attached(mount: &OwnedFd, place: &OwnedFd, spot: &Path) -> Result<OwnedFd, Failure> {
    let failed = |errno: Errno| -> Failure { ("clone a part of", io::Error::from(errno)) };
    in_private_namespace(None, || {
        rustix::mount::move_mount(mount, "", CWD, spot, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(failed)?;
        clone_mount(place.as_fd()).map_err(failed)
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::rootfs::Durability;
    use crate::rootfs::mount::Mounter;

    /// `..` is looked up again when others rename meanwhile, as all processes of a node do.
    #[test]
    fn a_climbing_link_is_found_whatever_else_happens() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../../data", dir.path().join("climb")).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let root = open_place(dir.path()).unwrap();
        let names = ["one", "two"].map(|name| dir.path().join(name));
        std::fs::write(&names[0], "").unwrap();
        let (plain, deadline) = (OFlags::PATH | OFlags::CLOEXEC, Instant::now() + Duration::from_secs(10));
        let done = AtomicBool::new(false);
        let (mut interrupted, mut failed) = (0, None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::fs::rename(&names[0], &names[1]).unwrap();
                    std::fs::rename(&names[1], &names[0]).unwrap();
                }
            });
            while interrupted < 10 && failed.is_none() && Instant::now() < deadline {
                let once = rustix::fs::openat2(&root, "climb", plain, Mode::empty(), IN_IMAGE);
                interrupted += usize::from(once.is_err_and(|errno| errno == Errno::AGAIN));
                failed = find_in(&root, Path::new("climb"), OFlags::PATH).err();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(failed, None);
        if interrupted == 0 {
            println!("skipped: nothing was renamed during any lookup");
        }
    }

    /// Both ways to a part of a mount give the same, and one that nobody can write to.
    #[test]
    fn a_part_is_had_on_every_kernel() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["empty", "work", "layer/etc/inner"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("layer/etc/file"), "content").unwrap();
        let mounter = Mounter::new(dir.path().join("empty"), Durability::default());
        let view = || {
            let lower = open_place(&dir.path().join("layer")).unwrap();
            let lowers = Lowers { plain: &[lower], stage: None, ids: None, label: None };
            mounter.view("c", dir.path(), lowers).unwrap()
        };
        let spot = dir.path().join("work");
        for way in [part, part_attached] {
            let mount = view();
            let place = find_in(&mount, Path::new("etc"), OFlags::PATH).unwrap();
            let etc = way(&mount, &place, &spot).unwrap();
            drop((mount, place));
            let path = format!("/proc/self/fd/{}", etc.as_raw_fd());
            assert_eq!(std::fs::read_to_string(format!("{path}/file")).unwrap(), "content");
            let refused = std::fs::write(format!("{path}/new"), "").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
            let mount = view();
            let place = find_in(&mount, Path::new("/etc/../etc/file"), OFlags::PATH).unwrap();
            let file = way(&mount, &place, &spot).unwrap();
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            assert_eq!(std::fs::read_to_string(path).unwrap(), "content");
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(dir.path().to_str().unwrap()), "{table}");
    }
}
