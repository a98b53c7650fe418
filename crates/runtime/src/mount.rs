//! Volumes: a host path as a detached mount that can be handed over by descriptor.
//!
//! Opening can hang on a dead network filesystem, so the daemon calls this on a blocking thread. Attaching is
//! `init`'s work.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::Error;
use crate::plan::{Depth, MountAttributes, Propagation, Source};
use crate::sys;

/// Clones the mount at a source's path, with its flags and propagation set.
///
/// # Errors
/// [`Error::MountSource`] when the path does not exist or cannot be cloned, [`Error::NotShared`] when the
/// host's mount does not propagate as asked.
pub fn open_source(source: &Source) -> Result<OwnedFd, Error> {
    let failed = |operation, errno: Errno| Error::MountSource {
        operation,
        path: source.path.clone(),
        source: errno.into(),
    };
    check_propagation(&source.path, source.propagation)?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if source.depth == Depth::Recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let mount = open_tree(CWD, &source.path, flags).map_err(|errno| failed("open", errno))?;
    sys::set_propagation(mount.as_fd(), source.propagation)
        .map_err(|errno| failed("set propagation of", errno))?;
    apply_attributes(mount.as_fd(), &source.attributes).map_err(|errno| failed("set flags of", errno))?;
    Ok(mount)
}

/// Takes a detached mount that somebody else has made in the place of a source's path, with the source's flags.
///
/// # Errors
/// [`Error::MountSource`] when they can't be set.
pub fn take_source(mount: OwnedFd, source: &Source) -> Result<OwnedFd, Error> {
    let failed = |errno: Errno| Error::MountSource {
        operation: "set flags of",
        path: source.path.clone(),
        source: errno.into(),
    };
    sys::set_propagation(mount.as_fd(), Propagation::Private).map_err(failed)?;
    apply_attributes(mount.as_fd(), &source.attributes).map_err(failed)?;
    Ok(mount)
}

/// Whether the kernel can make a mount read-only with all below it (mount_setattr(2), since Linux 5.12).
pub fn can_be_read_only_with_all_below() -> bool {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    // Changes nothing: without a flag to set the kernel is done before it has looked at a mount.
    root.and_then(|root| sys::set_attributes(root.as_fd(), sys::AttributeBits::default(), sys::Reach::All))
        .is_ok()
}

/// Opens the executable at `path` through a read-only mount of its own that is attached nowhere:
/// `/proc/self/fd/N` of it can be executed, and no process can reach a writable file from the `/proc/PID/exe`
/// of what runs (CVE-2019-5736).
///
/// # Errors
/// [`Error::MountSource`] when the path cannot be opened so.
pub fn open_executable(path: &Path) -> Result<OwnedFd, Error> {
    let attributes = MountAttributes { access: crate::plan::Access::ReadOnly, ..MountAttributes::default() };
    open_source(&Source {
        path: path.to_owned(),
        depth: Depth::Single,
        attributes,
        propagation: Propagation::Private,
        ids: None,
    })
}

/// Sets flags on a mount, keeping those it has already: a volume of a `nosuid` mount stays so.
pub(crate) fn apply_attributes(
    mount: std::os::fd::BorrowedFd<'_>,
    attributes: &MountAttributes,
) -> Result<(), Errno> {
    let (own, recursive) = sys::attribute_bits(attributes);
    if !own.is_empty() {
        sys::set_attributes(mount, own, sys::Reach::One)?;
    }
    if !recursive.is_empty() {
        sys::set_attributes(mount, recursive, sys::Reach::All)?;
    }
    Ok(())
}

/// Has the files of a detached mount, and of the mounts below it, belong to those whom a user namespace maps their
/// owners to, for all who see them through it. Nothing changes on disk. When one of the mounts below can't do it, none
/// of those is mapped.
///
/// # Errors
/// The kernel's: EINVAL for a filesystem that can't do it (network filesystems, overlay, before Linux 6.3 tmpfs) or
/// a mount that is attached already.
pub fn map_ids(
    mount: std::os::fd::BorrowedFd<'_>,
    user_namespace: std::os::fd::BorrowedFd<'_>,
) -> std::io::Result<()> {
    Ok(crate::namespaces::map_ids(mount, user_namespace)?)
}

/// Tries `map` on a clone of the mount that a directory is on.
///
/// # Errors
/// As for [`map_ids`].
pub fn try_mapping(
    directory: &Path,
    map: impl Fn(std::os::fd::BorrowedFd<'_>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    map(open_tree(CWD, directory, flags)?.as_fd())
}

/// A mount receives or shares what is mounted below it only if the host's mount does: asking for it in vain
/// would hide volumes mounted later, so it is refused as Kubernetes' runtimes do.
///
/// Can hang as [`open_source`] can.
///
/// # Errors
/// [`Error::NotShared`], and [`Error::MountSource`] when the path or its mount cannot be looked at.
pub fn check_propagation(path: &Path, propagation: Propagation) -> Result<(), Error> {
    if propagation == Propagation::Private {
        return Ok(());
    }
    let failed =
        |errno: Errno| Error::MountSource { operation: "open", path: path.to_owned(), source: errno.into() };
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let id = sys::mount_id(place.as_fd()).map_err(failed)?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|source_error| {
        Error::MountSource { operation: "look up the mount of", path: path.to_owned(), source: source_error }
    })?;
    let line = table.lines().find(|line| line.split(' ').next() == Some(id.as_str())).unwrap_or_default();
    let (left, _) = line.split_once(" - ").unwrap_or((line, ""));
    let has = |tag: &str| left.split(' ').skip(6).any(|field| field.starts_with(tag));
    match propagation {
        Propagation::Shared if !has("shared:") => {
            Err(Error::NotShared { path: path.to_owned(), wanted: "shared" })
        }
        Propagation::Slave if !has("shared:") && !has("master:") => {
            Err(Error::NotShared { path: path.to_owned(), wanted: "shared or slave" })
        }
        _ => Ok(()),
    }
}
