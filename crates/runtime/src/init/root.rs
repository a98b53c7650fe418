//! A mount namespace that holds the container's root and nothing else.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount};
use rustix::process::{fchdir, pivot_root};

use crate::{FailedStep, Failure};

/// Cuts the namespace off from the host's, so that nothing done here reaches it.
pub(crate) fn isolate_mounts() -> Result<(), Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| Failure::system(FailedStep::IsolateMounts, errno, "/"))
}

/// Makes a detached mount the root and lets go of everything of the host's.
///
/// It is attached on top of the old root: the two need no directory of the host's between them, and none of
/// the image's afterwards.
pub(crate) fn pivot_into(root: BorrowedFd<'_>) -> Result<(), Failure> {
    attach_at(root, Path::new("/"))?;
    change_to(root)
}

/// Makes a detached mount visible at a directory.
pub(super) fn attach_at(root: BorrowedFd<'_>, place: &Path) -> Result<(), Failure> {
    move_mount(root, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| Failure::system(FailedStep::AttachRoot, errno, place.to_string_lossy()))
}

/// Makes an attached mount the root and lets go of everything of the host's.
pub(super) fn change_to(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let pivot = |errno| Failure::system(FailedStep::PivotRoot, errno, "/");
    fchdir(root).map_err(pivot)?;
    // pivot_root(2): with the same directory twice the old root ends up stacked on the new one, where "."
    // finds it.
    pivot_root(".", ".").map_err(pivot)?;
    unmount(".", UnmountFlags::DETACH).map_err(pivot)?;
    fchdir(root).map_err(pivot)
}
