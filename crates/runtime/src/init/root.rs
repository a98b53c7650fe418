//! A mount namespace that holds the container's root and nothing else.

use std::os::fd::BorrowedFd;

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
    let attach = |errno| Failure::system(FailedStep::AttachRoot, errno, "/");
    let pivot = |errno| Failure::system(FailedStep::PivotRoot, errno, "/");
    move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(attach)?;
    fchdir(root).map_err(attach)?;
    // pivot_root(2): with the same directory twice the old root ends up stacked on the new one, where "."
    // finds it.
    pivot_root(".", ".").map_err(pivot)?;
    unmount(".", UnmountFlags::DETACH).map_err(pivot)?;
    fchdir(root).map_err(pivot)
}
