//! The kernel's project quotas as what bounds the image service's writable layers.

use std::io;
use std::os::fd::BorrowedFd;

use image_service::Usage;
use image_service::rootfs::ProjectQuotas;
use sandbox::project_quota::{self, ProjectSpace};

/// Projects of this machine's filesystems.
#[derive(Debug)]
pub(crate) struct Projects;

impl ProjectQuotas for Projects {
    fn is_enforced(&self, place: BorrowedFd<'_>) -> io::Result<bool> {
        project_quota::is_enforced(place)
    }

    fn of_directory(&self, directory: BorrowedFd<'_>) -> io::Result<Option<u32>> {
        project_quota::of_directory(directory)
    }

    fn give(&self, directory: BorrowedFd<'_>, project: u32) -> io::Result<()> {
        project_quota::give(directory, project)
    }

    fn usage(&self, place: BorrowedFd<'_>, project: u32) -> io::Result<Usage> {
        let ProjectSpace { bytes, inodes } = project_quota::usage(place, project)?;
        Ok(Usage { bytes, inodes })
    }

    fn limit(&self, place: BorrowedFd<'_>, project: u32, most: Usage) -> io::Result<()> {
        let Usage { bytes, inodes } = most;
        project_quota::limit(place, project, ProjectSpace { bytes, inodes })
    }
}
