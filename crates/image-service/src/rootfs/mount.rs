//! Mounting a container's root filesystem: an overlay that is attached to nothing.
//!
//! | kernel | how the layers are named |
//! |---|---|
//! | 6.13 and newer | `lowerdir+` by descriptor |
//! | 6.8 and newer | `lowerdir+` by path, through `/proc/self/fd` |
//! | older | `lowerdir=` in mount(2), in a mount namespace of a thread's own, cloned from there by `open_tree` |
//!
//! Layers with mapped ids are mounts of their own, as those are that are EROFS images. Mounts that are attached nowhere
//! can be named since 6.15. Before that the images are attached in a mount namespace of ours, the [`Stage`], and all of
//! the above takes place there; mapped layers are attached over themselves in a copy of it.
//!
//! Options: `index=off`, because a layer may come back under the same name after it was collected and an index would
//! call that stale; `metacopy=off` and `redirect_dir=off`, whatever the kernel's configuration says, because both make
//! overlay follow names found in attributes of the layers. `xino=on`, because layers that are images are filesystems of their
//! own: without it files of each would be on another device, and `tar --one-file-system` in a container would pass over them.
//! Not here: where the mount goes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags};

use super::ids::{self, IdMap};
use super::{Durability, UPPER, WORK};
use crate::error::Error;
use crate::mounting::{
    Context, Failure, Stage, in_private_namespace, is_unknown, open_place, proc_path, reopen,
};

/// Options that every mount gets.
const OPTIONS: [(&str, &str); 4] =
    [("index", "off"), ("metacopy", "off"), ("redirect_dir", "off"), ("xino", "on")];

/// Mounts overlays in the way that this kernel can.
#[derive(Debug)]
pub(super) struct Mounter {
    empty: PathBuf,
    durability: Durability,
    /// The first way that worked.
    way: OnceLock<Way>,
    /// The first that worked with mapped ids.
    mapped_way: OnceLock<Way>,
}

/// The layers of a root filesystem.
pub(super) struct Lowers<'a> {
    /// Their directories, from the top downwards.
    pub(super) plain: &'a [OwnedFd],
    /// The namespace in which those that are images are attached.
    pub(super) stage: Option<&'a Stage>,
    /// How their ids are to be mapped.
    pub(super) ids: Option<&'a IdMap>,
    /// The SELinux context of all that is seen through the mount.
    pub(super) label: Option<&'a str>,
}

/// How the kernel is told about layers; see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Descriptors,
    Paths,
    PrivateNamespace,
}

/// The directories of one overlay.
struct Parts<'a> {
    lowers: Vec<&'a OwnedFd>,
    stage: Option<&'a Stage>,
    /// Clones of them with mapped ids, and how to map.
    mapped: Option<(Vec<OwnedFd>, &'a IdMap)>,
    /// The upper directory and overlay's own; a mount without them can't be written to.
    writable: Option<(OwnedFd, OwnedFd)>,
    /// A directory to mount on where the kernel wants one.
    dir: &'a Path,
    durability: Durability,
    /// The SELinux context of all files.
    label: Option<&'a str>,
}

impl Mounter {
    pub(super) fn new(empty: PathBuf, durability: Durability) -> Mounter {
        Mounter { empty, durability, way: OnceLock::new(), mapped_way: OnceLock::new() }
    }

    /// Mounts `lowers` below the container's directory `dir`.
    pub(super) fn mount(&self, container: &str, dir: &Path, lowers: Lowers<'_>) -> Result<OwnedFd, Error> {
        let open = |name| open_place(&dir.join(name)).map_err(|cause| (OPEN, cause));
        let writable = || Ok((open(UPPER)?, open(WORK)?));
        let mounted = writable().and_then(|writable| self.overlay(dir, lowers, Some(writable)));
        mounted.map_err(|failure| error(container, failure))
    }

    /// Mounts `lowers` read-only for the container with the directory `dir`.
    pub(super) fn view(&self, container: &str, dir: &Path, lowers: Lowers<'_>) -> Result<OwnedFd, Error> {
        self.overlay(dir, lowers, None).map_err(|failure| error(container, failure))
    }

    fn overlay(
        &self,
        dir: &Path,
        lowers: Lowers<'_>,
        writable: Option<(OwnedFd, OwnedFd)>,
    ) -> Result<OwnedFd, Failure> {
        // Overlay takes no fewer directories: one below another, two where none is above them.
        let least = if writable.is_some() { 1 } else { 2 };
        let empty = match lowers.plain.len() < least {
            true => Some(open_place(&self.empty).map_err(|cause| (OPEN, cause))?),
            false => None,
        };
        let plain: Vec<&OwnedFd> = lowers.plain.iter().chain(&empty).collect();
        let mapped = match lowers.ids {
            Some(map) => Some((ids::mapped(&plain, lowers.stage, map)?, map)),
            None => None,
        };
        let known = if mapped.is_some() { &self.mapped_way } else { &self.way };
        let (durability, label) = (self.durability, lowers.label);
        let parts = Parts { lowers: plain, stage: lowers.stage, mapped, writable, dir, durability, label };
        if let Some(way) = known.get() {
            return parts.mount(*way);
        }
        let mut outcome = parts.mount(Way::Descriptors).map(|fd| (Way::Descriptors, fd));
        for way in [Way::Paths, Way::PrivateNamespace] {
            outcome = match outcome {
                Err((_, cause)) if is_unknown(&cause) => parts.mount(way).map(|fd| (way, fd)),
                other => other,
            };
        }
        let (way, mount) = outcome?;
        let _ = known.set(way);
        Ok(mount)
    }
}

fn error(container: &str, (action, cause): Failure) -> Error {
    Error::RootfsMount { container: container.to_owned(), action, cause }
}

impl Parts<'_> {
    fn attributes(&self) -> MountAttrFlags {
        match self.writable {
            Some(_) => MountAttrFlags::empty(),
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        }
    }

    fn mount(&self, way: Way) -> Result<OwnedFd, Failure> {
        match way {
            Way::Descriptors | Way::Paths => self.by_context(way),
            Way::PrivateNamespace => self.by_private_namespace(),
        }
    }

    fn by_context(&self, way: Way) -> Result<OwnedFd, Failure> {
        let lowers = match &self.mapped {
            Some((mapped, _)) => mapped.iter().collect(),
            None => self.lowers.clone(),
        };
        match self.stage {
            // Mapped ones are attached nowhere: if they can be named, then wherever this thread is.
            Some(stage) if self.mapped.is_none() => stage.within(|| {
                let lowers = open_again(&self.lowers)?;
                let writable = self.writable_here()?;
                self.create(way, &lowers.iter().collect::<Vec<_>>(), writable.as_ref())
            }),
            _ => self.create(way, &lowers, self.writable.as_ref()),
        }
    }

    fn create(
        &self,
        way: Way,
        lowers: &[&OwnedFd],
        writable: Option<&(OwnedFd, OwnedFd)>,
    ) -> Result<OwnedFd, Failure> {
        let context = Context::open("overlay")?;
        let configured = self.configure(&context, way, (lowers, writable));
        context.mount(configured, self.attributes())
    }

    fn configure(
        &self,
        context: &Context,
        way: Way,
        (lowers, writable): (&[&OwnedFd], Option<&(OwnedFd, OwnedFd)>),
    ) -> rustix::io::Result<()> {
        let set = |key: &str, dir: &OwnedFd| match way {
            Way::Descriptors => context.set_fd(key, dir),
            Way::Paths | Way::PrivateNamespace => context.set(key, &proc_path(dir)),
        };
        context.set("source", "overlay")?;
        lowers.iter().try_for_each(|lower| set("lowerdir+", lower))?;
        if let Some((upper, work)) = writable {
            set("upperdir", upper)?;
            set("workdir", work)?;
        }
        for (key, value) in OPTIONS {
            context.set(key, value)?;
        }
        if let Some(label) = self.label {
            context.set("context", label)?;
        }
        match self.durability {
            Durability::Volatile if self.writable.is_none() => Ok(()),
            Durability::Synced => Ok(()),
            Durability::Volatile => context.set_flag("volatile"),
        }
    }

    /// The directories that can be written to, opened again in the mount namespace of this thread.
    fn writable_here(&self) -> Result<Option<(OwnedFd, OwnedFd)>, Failure> {
        let open = |dir: &OwnedFd| reopen(dir).map_err(|cause| (OPEN, cause));
        self.writable.as_ref().map(|(upper, work)| Ok((open(upper)?, open(work)?))).transpose()
    }

    /// Mounts on a directory in a mount namespace that only a short-lived thread is in, and takes the mount from there.
    fn by_private_namespace(&self) -> Result<OwnedFd, Failure> {
        let failed = |errno: Errno| ("mount", errno.into());
        in_private_namespace(self.stage, || {
            if let Some((_, map)) = &self.mapped {
                let attach = |lower| attach_mapped(lower, map);
                self.lowers.iter().try_for_each(attach).map_err(|cause| (ids::MAPPING, cause))?;
            }
            // Overlay takes directories of the caller's own namespace only, so all are opened again here.
            let lowers = open_again(&self.lowers)?;
            let writable = self.writable_here()?;
            let mut options = options(&lowers, writable.as_ref(), self.durability);
            if let Some(label) = self.label {
                // Quoted, since there are commas in it.
                options += &format!(",context=\"{label}\"");
            }
            let options = std::ffi::CString::new(options).map_err(|cause| ("mount", cause.into()))?;
            let target = self.dir.join(WORK);
            let flags = if writable.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
            rustix::mount::mount("overlay", &target, "overlay", flags, &*options).map_err(failed)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            rustix::mount::open_tree(CWD, &target, flags).map_err(failed)
        })
    }
}

const OPEN: &str = "open a directory of";

/// The directories behind descriptors, in the mount namespace of this thread.
fn open_again(dirs: &[&OwnedFd]) -> Result<Vec<OwnedFd>, Failure> {
    dirs.iter().map(|dir| reopen(dir).map_err(|cause| (OPEN, cause))).collect()
}

/// The options as one text, which must fit a page: enough for some 200 layers by these short paths.
fn options(lowers: &[OwnedFd], writable: Option<&(OwnedFd, OwnedFd)>, durability: Durability) -> String {
    let lowers: Vec<String> = lowers.iter().map(proc_path).collect();
    let mut text = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = writable {
        text += &format!(",upperdir={},workdir={}", proc_path(upper), proc_path(work));
    }
    for (key, value) in OPTIONS {
        text += &format!(",{key}={value}");
    }
    if durability == Durability::Volatile && writable.is_some() {
        text += ",volatile";
    }
    text
}

/// Puts a clone of a directory's mount with mapped ids over the directory, in the mount namespace of this thread.
fn attach_mapped(dir: &&OwnedFd, map: &IdMap) -> io::Result<()> {
    let here = reopen(dir)?;
    let clone = ids::map_clone(&here, map)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(&clone, "", &here, "", both)?)
}

#[cfg(test)]
mod tests;
