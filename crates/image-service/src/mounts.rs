//! Images that an operator has mounted on the node, read-only, to look into them.
//!
//! ```text
//! <root>/images/mounts/<random>/mount.json   image, layers, and where it is mounted
//! <root>/images/mounts/<random>/top          what overlay shows where no layer says anything
//! ```
//!
//! Such a mount is the kernel's: it stays when the daemon goes. A daemon that comes finds it by its record and holds its
//! layers again before anything is collected. One that isn't mounted any more (after a boot, or because somebody unmounted it
//! by other means) is forgotten when that is noticed: at the start, and before each look.
//! Not here: mounts for containers (`rootfs`), which are attached to nothing that the node sees.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{MoveMountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, ImageId};
use crate::layers::{Layer, Layers, make_private_dir, store};
use crate::mounting::proc_path;
use crate::names;
use crate::rootfs::RootFilesystems;

/// What asks statx(2) for a mount's number that is never used again, which the library doesn't know yet (linux/stat.h).
const MNT_ID_UNIQUE: u32 = 0x4000;

const RECORD: &str = "mount.json";
const VERSION: u32 = 1;

/// A mounted image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    version: u32,
    /// The image.
    pub image: ImageId,
    /// Where it is mounted.
    pub target: PathBuf,
    /// What tells it from whatever else is mounted there.
    mount_id: u64,
    layers: Vec<Digest>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Mounts {
    dir: PathBuf,
    held: Mutex<Vec<Held>>,
}

#[derive(Debug)]
struct Held {
    mount: ImageMount,
    dir: PathBuf,
    /// Keeps them from being collected.
    _layers: Vec<Layer>,
}

impl Mounts {
    /// Takes up the mounts that are there still, and forgets the others.
    pub(crate) fn open(dir: &Path, layers: &Layers) -> Result<Mounts, Error> {
        make_private_dir(dir)?;
        let mut held = Vec::new();
        for entry in fs::read_dir(dir).map_err(|cause| store("read", dir, cause))? {
            let dir = entry.map_err(|cause| store("read", dir, cause))?.path();
            match read(&dir).filter(is_mounted) {
                Some(mount) => {
                    let layers = mount.layers.iter().filter_map(|diff_id| layers.get(diff_id)).collect();
                    held.push(Held { mount, dir, _layers: layers });
                }
                None => forget(&dir),
            }
        }
        Ok(Mounts { dir: dir.to_owned(), held: Mutex::new(held) })
    }

    /// Mounts an image on the directory `target`.
    ///
    /// # Errors
    /// [`Error::MountTarget`], [`Error::LayerMissing`], [`Error::RootfsMount`], [`Error::NoSpace`], [`Error::Store`].
    pub(crate) fn mount(
        &self,
        image: &Image,
        target: &Path,
        (layers, roots): (&Layers, &RootFilesystems),
    ) -> Result<(), Error> {
        let failed =
            |action| move |cause: io::Error| Error::MountTarget { action, path: target.to_owned(), cause };
        let place = open_target(target).map_err(failed("open"))?;
        // Of what is open: the path may lead elsewhere by now.
        let target = fs::read_link(proc_path(&place)).map_err(failed("resolve"))?;
        let get = |id: &Digest| layers.get(id).ok_or_else(|| Error::LayerMissing { diff_id: id.clone() });
        let found: Vec<Layer> = image.layers.iter().map(get).collect::<Result<_, _>>()?;
        let dir = self.dir.join(names::unique());
        make_private_dir(&dir)?;
        let made = self.attach(image, (&target, &place), (found, roots), &dir);
        if made.is_err() {
            forget(&dir);
        }
        made
    }

    fn attach(
        &self,
        image: &Image,
        (target, place): (&Path, &OwnedFd),
        (layers, roots): (Vec<Layer>, &RootFilesystems),
        dir: &Path,
    ) -> Result<(), Error> {
        let failed =
            |action| move |cause: io::Error| Error::MountTarget { action, path: target.to_owned(), cause };
        let mount = roots.view(&format!("(image {})", image.id), dir, &layers)?;
        let mount_id = mount_id(&mount).map_err(failed("identify the mount for"))?;
        let target = target.to_owned();
        let mount_record = ImageMount {
            version: VERSION,
            image: image.id.clone(),
            target,
            mount_id,
            layers: image.layers.clone(),
        };
        let text = serde_json::to_vec(&mount_record).map_err(io::Error::from);
        // Before it is mounted: a mount without a record would lose its layers.
        let written = text.and_then(|text| fs::write(dir.join(RECORD), text));
        written.map_err(|cause| store("write the record in", dir, cause))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&mount, "", place, "", flags).map_err(|e| failed("mount on")(e.into()))?;
        self.held().push(Held { mount: mount_record, dir: dir.to_owned(), _layers: layers });
        Ok(())
    }

    /// Unmounts the image that is mounted on `target`.
    ///
    /// # Errors
    /// [`Error::NotMounted`]; [`Error::MountTarget`], while somebody is in it.
    pub(crate) fn unmount(&self, target: &Path) -> Result<(), Error> {
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        self.forget_unmounted();
        let mut held = self.held();
        let at = held.iter().rposition(|held| held.mount.target == target);
        let at = at.ok_or_else(|| Error::NotMounted { path: target.clone() })?;
        rustix::mount::unmount(&target, UnmountFlags::NOFOLLOW).map_err(|errno| Error::MountTarget {
            action: "unmount",
            path: target,
            cause: errno.into(),
        })?;
        let gone = held.remove(at);
        drop(held);
        forget(&gone.dir);
        Ok(())
    }

    /// What is mounted now.
    pub(crate) fn all(&self) -> Vec<ImageMount> {
        self.forget_unmounted();
        self.held().iter().map(|held| held.mount.clone()).collect()
    }

    /// Lets go of what somebody else has unmounted.
    pub(crate) fn forget_unmounted(&self) {
        let mut held = self.held();
        let (kept, gone) = std::mem::take(&mut *held).into_iter().partition(|held| is_mounted(&held.mount));
        *held = kept;
        drop(held);
        let gone: Vec<Held> = gone;
        gone.iter().for_each(|held| forget(&held.dir));
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_target(path: &Path) -> io::Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an absolute path"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn read(dir: &Path) -> Option<ImageMount> {
    let mount: ImageMount = serde_json::from_slice(&fs::read(dir.join(RECORD)).ok()?).ok()?;
    (mount.version == VERSION).then_some(mount)
}

fn forget(dir: &Path) {
    if let Err(cause) = fs::remove_dir_all(dir) {
        tracing::warn!(directory = %dir.display(), %cause, "cannot remove what is left of a mounted image");
    }
}

/// Whether the mount is where its record says. Nothing is looked at that could hang: the mount is one of ours, or another is
/// there.
fn is_mounted(mount: &ImageMount) -> bool {
    let opened = rustix::fs::openat(CWD, &mount.target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.ok().and_then(|place| mount_id(&place).ok()) == Some(mount.mount_id)
}

/// The kernel's number of the mount that a descriptor is in: since Linux 6.8 one that no other mount gets, before that the lowest
/// that is free, so that whatever is mounted next in the place of an image may pass for it.
fn mount_id(place: &OwnedFd) -> io::Result<u64> {
    let wanted = StatxFlags::MNT_ID | StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
    let found = rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, wanted)?;
    let told = StatxFlags::from_bits_retain(found.stx_mask).intersects(wanted);
    told.then_some(found.stx_mnt_id).ok_or_else(|| io::Error::other("the kernel doesn't tell its number"))
}
