//! The mounts of layers that are EROFS images: one a layer, shared by all containers, so that its pages are in memory
//! once.
//!
//! A mount is made when a container first needs the layer and kept for as long as anything holds the layer. Then it is
//! idle: the next container of the same image finds it, until [`MOST_IDLE`] others have become idle after it or the layer
//! is collected. Each takes one descriptor, and some kernel memory.
//!
//! | kernel | where a mount is |
//! |---|---|
//! | 6.15 and newer | nowhere: overlay takes its descriptor |
//! | older | on the layer's directory, in a mount namespace that only threads of ours go into ([`Stage`]) |
//!
//! In both the host's mount table never shows it, and nothing is left when this process ends, however it ends; what
//! containers have mounted above it goes on.
//! Not here: which layers are held (`layers`), overlay (`rootfs`).

mod image;
mod probe;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

pub use image::LoopDevices;

use probe::{Abilities, Naming};

use super::form::LayerSettings;
use super::verity::Verity;
use crate::digest::Digest;
use crate::mounting::{Failure, Stage, attach};

/// Mounts that are kept though nothing holds their layers: enough for the images that a node's jobs run again and again,
/// and a fraction of the descriptors that even a hard limit of 1024 leaves.
const MOST_IDLE: usize = 128;

/// How layers are mounted here.
#[derive(Debug)]
pub(super) struct Mounting {
    dir: PathBuf,
    loop_devices: Option<LoopDevices>,
    verity: Option<Verity>,
    as_on_older_kernels: bool,
    abilities: OnceLock<Abilities>,
    stage: Mutex<Option<Arc<Stage>>>,
}

impl Mounting {
    /// `dir` is a directory of the store to try things in.
    pub(super) fn new(dir: PathBuf, settings: &LayerSettings) -> Mounting {
        let LayerSettings { loop_devices, verity, as_on_older_kernels, .. } = settings.clone();
        let (abilities, stage) = (OnceLock::new(), Mutex::default());
        Mounting { dir, loop_devices, verity, as_on_older_kernels, abilities, stage }
    }

    /// What can be done here; tried out once, and again for as long as it fails.
    pub(super) fn abilities(&self) -> Result<&Abilities, Failure> {
        if let Some(known) = self.abilities.get() {
            return Ok(known);
        }
        let mut found = probe::probe(&self.dir, self.loop_devices.as_ref(), self.verity.as_ref())?;
        if self.as_on_older_kernels {
            found.naming = Naming::Staged;
        }
        Ok(self.abilities.get_or_init(|| found))
    }

    /// What seals images, where they can be.
    pub(super) fn verity(&self) -> Option<&Verity> {
        self.verity.as_ref().filter(|_| self.abilities.get().is_some_and(|abilities| abilities.seals))
    }

    /// The namespace that mounts are attached in; none where they are attached nowhere.
    fn stage(&self) -> Result<Option<Arc<Stage>>, Failure> {
        if self.abilities()?.naming == Naming::Detached {
            return Ok(None);
        }
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stage) = &*stage {
            return Ok(Some(Arc::clone(stage)));
        }
        Ok(Some(Arc::clone(stage.insert(Arc::new(Stage::new()?)))))
    }

    /// The same, if anything has been mounted there.
    pub(super) fn used_stage(&self) -> Option<Arc<Stage>> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Mounts the image at `path`, which is in the layer's directory `dir`.
    fn mount(&self, path: &Path, dir: &Path) -> Result<Mounted, Failure> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let image = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| ("open", errno.into()))?;
        let root = self.abilities()?.mounter.mount(&image)?;
        let stage = self.stage()?;
        if let Some(stage) = &stage {
            stage.within(|| attach(&root, dir))?;
        }
        Ok(Mounted { root, staged: stage.map(|stage| (stage, dir.to_owned())) })
    }
}

/// A mounted image.
#[derive(Debug)]
struct Mounted {
    root: OwnedFd,
    /// Where it is attached.
    staged: Option<(Arc<Stage>, PathBuf)>,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Some((stage, dir)) = &self.staged else { return };
        let detach = || {
            rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .map_err(|errno| ("detach", errno.into()))
        };
        if let Err((_, cause)) = stage.within(detach) {
            // A layer that was collected took its directory with it, and the kernel the mount with that.
            tracing::debug!(layer = %dir.display(), %cause, "a layer was not mounted any more");
        }
    }
}

/// The mount of one layer, made by whoever needs it first.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<Mounted>>);

impl Slot {
    /// The mount's root. Two threads that want it mount it once.
    pub(super) fn root(&self, mounting: &Mounting, path: &Path, dir: &Path) -> Result<OwnedFd, Failure> {
        let mut mounted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mounted = match &mut *mounted {
            Some(mounted) => mounted,
            none => none.insert(mounting.mount(path, dir)?),
        };
        mounted.root.try_clone().map_err(|cause| ("clone the descriptor of", cause))
    }
}

/// All mounts, by layer. Whoever takes a slot out of it drops it after letting go of the lock that this is behind:
/// unmounting takes a millisecond.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: HashMap<Digest, Arc<Slot>>,
    /// Layers with a slot that nothing holds, the longest idle first.
    idle: VecDeque<Digest>,
}

impl Table {
    /// The slot of a layer that the caller holds.
    pub(super) fn slot(&mut self, diff_id: &Digest) -> Arc<Slot> {
        Arc::clone(self.slots.entry(diff_id.clone()).or_default())
    }

    /// Something holds the layer.
    pub(super) fn held(&mut self, diff_id: &Digest) {
        self.idle.retain(|idle| idle != diff_id);
    }

    /// Nothing holds the layer any more. The answer is what has been idle for too long.
    pub(super) fn released(&mut self, diff_id: &Digest) -> Option<Arc<Slot>> {
        if self.slots.contains_key(diff_id) {
            self.idle.push_back(diff_id.clone());
        }
        if self.idle.len() <= MOST_IDLE {
            return None;
        }
        self.idle.pop_front().and_then(|longest| self.slots.remove(&longest))
    }

    /// The layer is gone, or is another one now.
    pub(super) fn forget(&mut self, diff_id: &Digest) -> Option<Arc<Slot>> {
        self.held(diff_id);
        self.slots.remove(diff_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_mounts_are_kept_up_to_a_number() {
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        let mut table = Table::default();
        assert!(table.released(&digest(0)).is_none(), "never mounted, so there is nothing to keep");
        for n in 0..=MOST_IDLE {
            table.slot(&digest(n));
        }
        for n in 0..MOST_IDLE {
            assert!(table.released(&digest(n)).is_none());
        }
        // The first is in use again, so that another one is the longest idle.
        table.held(&digest(0));
        assert!(table.released(&digest(MOST_IDLE)).is_none());
        assert!(table.released(&digest(0)).is_some());
        let kept = |table: &Table, n: usize| table.slots.contains_key(&digest(n));
        assert_eq!([0, 1, 2].map(|n| kept(&table, n)), [true, false, true]);
        assert!(table.forget(&digest(2)).is_some());
        assert_eq!((table.slots.len(), table.idle.len()), (MOST_IDLE - 1, MOST_IDLE - 1));
    }
}
