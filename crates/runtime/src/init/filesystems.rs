//! New filesystems and volumes, put in their places by descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, fsetxattr, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::handles::{Procfs, is_procfs};
use super::path::{Kind, Root};
use super::process::path_text;
use crate::namespaces::SharedMemory;
use crate::plan::mounts::is_replaceable_proc_file;
use crate::plan::{FilesystemMount, MountAttributes, Propagation};
use crate::{FailedStep, Failure, FailureKind, sys};

/// A filesystem that is attached nowhere yet.
pub(crate) fn make(
    fstype: &str,
    options: &[(&str, Option<&str>)],
    attributes: &MountAttributes,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, *name, *value)?,
            None => fsconfig_set_flag(&context, *name)?,
        }
    }
    fsconfig_create(&context)?;
    let (own, all) = sys::attribute_bits(attributes);
    let flags = MountAttrFlags::from_bits_retain(own.for_new_mount() | all.for_new_mount());
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

pub(crate) fn place(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", both)
}

pub(super) fn mount(root: &Root, mount: &FilesystemMount, label: Option<&str>) -> Result<(), Failure> {
    attach_new(root, mount, &new(mount, label)?)
}

/// A filesystem of a plan's, attached nowhere yet. Those whose files have no labels of their own get the one that is given.
pub(super) fn new(mount: &FilesystemMount, label: Option<&str>) -> Result<OwnedFd, Failure> {
    let failed = |errno| Failure::system(FailedStep::Mount, errno, path_text(&mount.target));
    let options = mount.options.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
    let is_labelled = matches!(mount.fstype.as_str(), "tmpfs" | "devpts");
    let options: Vec<_> = options.chain(context(label.filter(|_| is_labelled))).collect();
    let made = make(&mount.fstype, &options, &mount.attributes).map_err(failed)?;
    if let ("mqueue", Some(label)) = (mount.fstype.as_str(), label) {
        label_root(&made, label).map_err(failed)?;
    }
    Ok(made)
}

/// The option that labels a filesystem as a whole.
pub(crate) fn context(label: Option<&str>) -> Option<(&'static str, Option<&str>)> {
    label.map(|label| ("context", Some(label)))
}

/// An IPC namespace has its one mqueue mounted before anybody could say how it is labelled: only its root can be.
fn label_root(mount: &OwnedFd, label: &str) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(mount, ".", flags, Mode::empty())?;
    fsetxattr(&root, "security.selinux", label.as_bytes(), XattrFlags::empty())
}

pub(super) fn attach_new(root: &Root, mount: &FilesystemMount, made: &OwnedFd) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::Mount, errno, path_text(&mount.target));
    let target = place_of(root, &mount.target, FailedStep::Mount)?;
    place(made, &target).map_err(failed)?;
    match mount.propagation {
        // As it was made.
        Propagation::Private => Ok(()),
        other => sys::change_propagation(made.as_fd(), other, sys::Reach::One).map_err(failed),
    }
}

/// The target of a filesystem. In an image /proc, /sys and /dev are directories or missing: a link there is
/// an attempt to have the runtime write somewhere else (CVE-2019-19921, CVE-2023-28642, CVE-2026-41579).
fn directory(root: &Root, target: &Path) -> Result<OwnedFd, Errno> {
    if ["/proc", "/sys", "/dev"].iter().any(|own| target.starts_with(own)) {
        root.plain_directory(target)
    } else {
        root.directory(target)
    }
}

/// The target of a filesystem, which is procfs only where it says so: a link of the image's may lead there.
pub(super) fn place_of(root: &Root, target: &Path, step: FailedStep) -> Result<OwnedFd, Failure> {
    let failed = |errno| Failure::system(step, errno, path_text(target));
    let found = directory(root, target).map_err(failed)?;
    if target != Path::new("/proc") && is_procfs(&found).map_err(failed)? {
        return Err(over_procfs(step, target));
    }
    Ok(found)
}

fn over_procfs(step: FailedStep, target: &Path) -> Failure {
    Failure { kind: FailureKind::OverProcfs, step, errno: None, subject: path_text(target) }
}

pub(super) fn attach_source(root: &Root, source: &OwnedFd, target: &Path) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::BindMount, errno, path_text(target));
    let is_directory = FileType::from_raw_mode(fstat(source).map_err(failed)?.st_mode) == FileType::Directory;
    let kind = if is_directory { Kind::Directory } else { Kind::File };
    let place_to = root.target(target, kind).map_err(failed)?;
    if target == Path::new("/proc") {
        // Programs and this runtime's own checks take what is there for the kernel's (CVE-2019-16884).
        if !is_procfs(source).map_err(failed)? {
            return Err(over_procfs(FailedStep::BindMount, target));
        }
    } else if is_procfs(&place_to).map_err(failed)? && !is_replaceable_proc_file(target) {
        return Err(over_procfs(FailedStep::BindMount, target));
    }
    place(source, &place_to).map_err(failed)
}

pub(super) fn attach(
    root: &Root,
    mount: &OwnedFd,
    target: &Path,
    attributes: &MountAttributes,
) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::BindMount, errno, path_text(target));
    let place_to = place_of(root, target, FailedStep::BindMount)?;
    crate::mount::apply_attributes(mount.as_fd(), attributes).map_err(failed)?;
    place(mount, &place_to).map_err(failed)
}

/// A further mount of the pod's /dev/shm.
pub(super) fn share_memory(memory: &SharedMemory, procfs: &Procfs) -> Result<OwnedFd, Failure> {
    let failed = |errno| Failure::system(FailedStep::BindMount, errno, "/dev/shm");
    let shared = match &memory.holder {
        None => clone_mount(&memory.mount),
        Some(holder) => clone_held(holder, procfs),
    };
    let mount = shared.map_err(failed)?;
    super::launch::keep_private(&mount).map_err(failed)?;
    Ok(mount)
}

/// Clones a mount that is in the caller's namespace, or (since Linux 6.15) in none.
pub(crate) fn clone_mount(mount: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount, "", flags)
}

/// Clones the root of another mount namespace, from inside of it.
fn clone_held(holder: &OwnedFd, procfs: &Procfs) -> Result<OwnedFd, Errno> {
    let own = procfs.namespace("mnt")?;
    move_into_link_name_space(holder.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let cloned = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount))?;
    cloned
}
