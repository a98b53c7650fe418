//! What a container may not see or change, and the kernel's settings for it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::devices::is_null;
use super::filesystems::{clone_mount, context, make, place};
use super::handles::Procfs;
use super::path::Root;
use super::process::{outside, path_text};
use crate::plan::{Access, MountAttributes};
use crate::{FailedStep, Failure, sys};

pub(super) fn hostname(name: &str) -> Result<(), Failure> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|errno| Failure::system(FailedStep::Hostname, errno, name))
}

pub(super) fn domainname(name: &str) -> Result<(), Failure> {
    rustix::system::setdomainname(name.as_bytes())
        .map_err(|errno| Failure::system(FailedStep::Hostname, errno, name))
}

pub(crate) fn sysctl(procfs: &Procfs, name: &str, value: &str) -> Result<(), Failure> {
    let path = crate::plan::sysctl::path(name).ok_or_else(|| outside(FailedStep::Sysctl, name))?;
    procfs
        .write(&format!("sys/{path}"), value.as_bytes())
        .map_err(|errno| Failure::system(FailedStep::Sysctl, errno, name))
}

/// Whether a path that was not found needs no protection: it is not there, or the kernel keeps it from the root of a user
/// namespace, and so from everybody in there. On any other file system a refusal says nothing of those who come later: a
/// server or FUSE may let them in.
fn is_passed_over(errno: Errno, path: &Path) -> bool {
    match errno {
        Errno::NOENT | Errno::NOTDIR => true,
        Errno::ACCESS => path.starts_with("/proc") || path.starts_with("/sys"),
        _ => false,
    }
}

/// Hides a file behind the null device and a directory behind an empty one. What is not there needs no mask.
pub(super) fn mask(
    root: &Root,
    path: &Path,
    (empty, label): (&mut Option<OwnedFd>, Option<&str>),
) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::MaskPath, errno, path_text(path));
    let target = match root.find(path) {
        Err(errno) if is_passed_over(errno, path) => return Ok(()),
        other => other.map_err(failed)?,
    };
    if FileType::from_raw_mode(fstat(&target).map_err(failed)?.st_mode) == FileType::Directory {
        return mask_directory(&target, (empty, label)).map_err(failed);
    }
    let null = root.find_plain(Path::new("/dev/null")).map_err(failed)?;
    if !is_null(&null).map_err(failed)? {
        return Err(outside(FailedStep::MaskPath, "/dev/null"));
    }
    let mount = clone_mount(&null).map_err(failed)?;
    place(&mount, &target).map_err(failed)
}

/// The first masked directory gets a new filesystem, the others further mounts of it.
fn mask_directory(
    target: &OwnedFd,
    (empty, label): (&mut Option<OwnedFd>, Option<&str>),
) -> Result<(), Errno> {
    if let Some(empty) = empty {
        return place(clone_mount(&*empty)?, target);
    }
    let attributes = MountAttributes {
        access: Access::ReadOnly,
        nosuid: true,
        nodev: true,
        noexec: true,
        ..MountAttributes::default()
    };
    let options = [("source", Some("tmpfs")), ("mode", Some("755")), ("size", Some("0"))];
    let options: Vec<_> = options.into_iter().chain(context(label)).collect();
    let made = make("tmpfs", &options, &attributes)?;
    place(&made, target)?;
    *empty = Some(made);
    Ok(())
}

/// Puts a read-only mount of a path over itself.
pub(super) fn read_only(root: &Root, path: &Path) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::ReadonlyPath, errno, path_text(path));
    let target = match root.find(path) {
        Err(errno) if is_passed_over(errno, path) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(&target, "", flags).map_err(failed)?;
    let attributes = MountAttributes { access: Access::RecursiveReadOnly, ..MountAttributes::default() };
    let (_, all) = sys::attribute_bits(&attributes);
    sys::set_attributes(mount.as_fd(), all, sys::Reach::All).map_err(failed)?;
    place(&mount, &target).map_err(failed)
}
