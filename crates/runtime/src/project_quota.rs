//! Project quotas: a bound on what all files of a directory tree take together.
//!
//! The calls, as whoever keeps such trees needs them. Not here: which trees, and which project each gets.

use std::os::fd::BorrowedFd;

use crate::sys;

pub use crate::sys::ProjectSpace;

/// Whether the filesystem of an open file or directory counts what projects take and refuses them more than they may have.
///
/// # Errors
/// The kernel's.
pub fn is_enforced(place: BorrowedFd<'_>) -> std::io::Result<bool> {
    Ok(sys::projects_are_bounded(place)?)
}

/// The project that what is made in an open directory will belong to, if the directory hands on its own.
///
/// # Errors
/// The kernel's: ENOTTY or EOPNOTSUPP on a filesystem without projects.
pub fn of_directory(directory: BorrowedFd<'_>) -> std::io::Result<Option<u32>> {
    Ok(sys::project_of(directory)?)
}

/// Has an open directory, and what is made in it from now on, belong to a project.
///
/// # Errors
/// As [`of_directory`]; EPERM without the right.
pub fn give(directory: BorrowedFd<'_>, project: u32) -> std::io::Result<()> {
    Ok(sys::give_to_project(directory, project)?)
}

/// What all files of a project take, on the filesystem of an open file or directory.
///
/// # Errors
/// The kernel's: ENOSYS or ESRCH where projects aren't counted.
pub fn usage(place: BorrowedFd<'_>, project: u32) -> std::io::Result<ProjectSpace> {
    Ok(sys::project_usage(place, project)?)
}

/// Sets how much all files of a project may take, on the filesystem of an open file or directory; zero is no limit but the
/// administrator's own (xfs: what is set for project 0). Bytes are rounded down to whole KiB, and by xfs up to its blocks.
///
/// # Errors
/// As [`usage`]; EPERM without the right.
pub fn limit(place: BorrowedFd<'_>, project: u32, most: ProjectSpace) -> std::io::Result<()> {
    Ok(sys::limit_project(place, project, most)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_filesystem_without_quotas_bounds_nothing() {
        let procfs = std::fs::File::open("/proc/self").unwrap();
        assert!(!is_enforced(procfs.as_fd()).unwrap());
        assert!(usage(procfs.as_fd(), 7).is_err());
        assert!(of_directory(procfs.as_fd()).is_err());
        assert!(give(procfs.as_fd(), 7).is_err());
        let most = ProjectSpace { bytes: 1 << 20, inodes: 10 };
        assert!(limit(procfs.as_fd(), 7, most).is_err());
    }
}
