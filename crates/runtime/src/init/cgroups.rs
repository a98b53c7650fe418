//! A container's view of its own cgroups, laid out as on the host: the one tree of version 2, or a directory
//! for each hierarchy of version 1.
//!
//! Each view is a clone of the mount of the container's own directory, taken while the host's tree is in
//! sight. A new mount of cgroup2 would change the host's mount options when made in its cgroup namespace.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::filesystems::{make, place, place_of};
use super::path::Root;
use super::process::path_text;
use crate::cgroup::Cgroup;
use crate::plan::{Access, MountAttributes, NamespaceSource};
use crate::{FailedStep, Failure};

/// One hierarchy, ready to be shown.
pub(super) struct CgroupView {
    /// Its directory below the target; none for the version 2 tree when it is alone.
    name: Option<String>,
    /// Further names, for hierarchies that hold several controllers.
    links: Vec<String>,
    mount: OwnedFd,
}

pub(super) fn views(cgroup: &Cgroup, namespace: &NamespaceSource) -> Result<Vec<CgroupView>, Failure> {
    let mut views = Vec::with_capacity(cgroup.legacy.len() + 1);
    for directory in &cgroup.legacy {
        let links =
            directory.controllers.iter().filter(|name| **name != directory.name && !name.contains('='));
        views.push(CgroupView {
            name: Some(directory.name.clone()),
            links: if directory.controllers.len() > 1 { links.cloned().collect() } else { Vec::new() },
            mount: clone(&directory.directory)?,
        });
    }
    if let Some(unified) = &cgroup.unified {
        let alone = cgroup.legacy.is_empty();
        let source = if alone && *namespace == NamespaceSource::Host {
            tree(unified, cgroup.path())
        } else {
            unified.clone()
        };
        views.push(CgroupView {
            name: (!alone).then(|| "unified".to_owned()),
            links: Vec::new(),
            mount: clone(&source)?,
        });
    }
    Ok(views)
}

/// The mount that a cgroup's directory is in.
fn tree(directory: &Path, path: &str) -> PathBuf {
    let depth = path.split('/').filter(|part| !part.is_empty()).count();
    directory.ancestors().nth(depth).unwrap_or(directory).to_owned()
}

fn clone(directory: &Path) -> Result<OwnedFd, Failure> {
    open_tree(CWD, directory, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|errno| Failure::system(FailedStep::CgroupMount, errno, path_text(directory)))
}

pub(super) fn show(
    root: &Root,
    views: &[CgroupView],
    target: &Path,
    attributes: &MountAttributes,
) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::CgroupMount, errno, path_text(target));
    let target_directory = place_of(root, target, FailedStep::CgroupMount)?;
    for view in views {
        use std::os::fd::AsFd;
        crate::mount::apply_attributes(view.mount.as_fd(), attributes).map_err(failed)?;
    }
    match views {
        [CgroupView { name: None, mount, .. }] => place(mount, &target_directory).map_err(failed),
        several => show_several(several, &target_directory, attributes).map_err(failed),
    }
}

fn show_several(views: &[CgroupView], target: &OwnedFd, attributes: &MountAttributes) -> Result<(), Errno> {
    use std::os::fd::AsFd;
    let writable = MountAttributes { access: Access::ReadWrite, ..*attributes };
    let base =
        make("tmpfs", &[("source", Some("tmpfs")), ("mode", Some("755")), ("size", Some("64k"))], &writable)?;
    place(&base, target)?;
    for view in views {
        let Some(name) = &view.name else { continue };
        mkdirat(&base, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        place(&view.mount, openat(&base, name, flags, Mode::empty())?)?;
        for link in &view.links {
            symlinkat(name.as_str(), &base, link.as_str())?;
        }
    }
    crate::mount::apply_attributes(base.as_fd(), attributes)
}
