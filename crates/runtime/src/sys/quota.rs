//! Project quotas: which project a file belongs to, and how much all files of a project may take.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;

use super::clone::last_error;

/// Requests of linux/fs.h.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801C_581F;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401C_5820;
/// linux/fs.h: what is made in a directory belongs to the directory's project.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// Commands of linux/quota.h and linux/dqblk_xfs.h.
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
const Q_XGETQSTATV: u32 = 0x5808;
/// The kind of quota, of linux/quota.h.
const PRJQUOTA: u32 = 2;

/// linux/dqblk_xfs.h: projects are counted, and bounded.
const PROJECTS_COUNTED: u16 = 1 << 4;
const PROJECTS_BOUNDED: u16 = 1 << 5;

/// Both limits, of linux/quota.h (QIF_LIMITS).
const BOTH_LIMITS: u32 = 1 | 4;
/// Bytes in which limits are given (linux/quota.h, QIF_DQBLKSIZE).
const BLOCK: u64 = 1024;

/// struct fsxattr of linux/fs.h.
#[derive(Default)]
#[repr(C)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// struct if_dqblk of linux/quota.h.
#[derive(Default)]
#[repr(C)]
struct Quota {
    hard_blocks: u64,
    soft_blocks: u64,
    bytes: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_grace: u64,
    inode_grace: u64,
    valid: u32,
}

/// struct fs_quota_statv of linux/dqblk_xfs.h: what isn't named here is only made room for.
#[repr(C, align(8))]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    rest: [u8; 156],
}

/// Disk space in bytes, and inodes: in use, or allowed; nothing is allowed without an end by zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectSpace {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Whether the filesystem of an open file or directory counts what projects take, and refuses them more than they may have.
pub(crate) fn projects_are_bounded(place: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut state = State { version: 1, padding: 0, flags: 0, rest: [0; 156] };
    const { assert!(size_of::<State>() == 160) };
    // SAFETY: the command writes a struct fs_quota_statv, which `state` is in size; any bits are valid values of its fields.
    match unsafe { quota_call(place, Q_XGETQSTATV, 0, &mut state) } {
        Ok(()) => {
            Ok(state.flags & (PROJECTS_COUNTED | PROJECTS_BOUNDED) == PROJECTS_COUNTED | PROJECTS_BOUNDED)
        }
        // No filesystem with quotas, or with none that are on.
        Err(Errno::NOSYS | Errno::SRCH | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The project that what is made in an open directory will belong to, if the directory hands on its own.
pub(crate) fn project_of(directory: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    let attributes = attributes_of(directory)?;
    Ok((attributes.flags & FS_XFLAG_PROJINHERIT != 0).then_some(attributes.project))
}

/// Has an open directory, and what is made in it, belong to a project.
pub(crate) fn give_to_project(directory: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    let before = attributes_of(directory)?;
    let attributes = Attributes { flags: before.flags | FS_XFLAG_PROJINHERIT, project, ..before };
    // SAFETY: the request reads a struct fsxattr, which `attributes` is in size and layout and which lives through the call;
    // the descriptor is open through it.
    let returned =
        unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSSETXATTR, std::ptr::from_ref(&attributes)) };
    if returned == 0 { Ok(()) } else { Err(last_error()) }
}

/// What all files of a project take, on the filesystem of an open file or directory.
pub(crate) fn project_usage(place: BorrowedFd<'_>, project: u32) -> Result<ProjectSpace, Errno> {
    const { assert!(size_of::<Quota>() == 72) };
    let mut quota = Quota::default();
    // SAFETY: the command writes a struct if_dqblk, which `quota` is in size and layout; any bits are valid values of its fields.
    match unsafe { quota_call(place, Q_GETQUOTA, project, &mut quota) } {
        Ok(()) => Ok(ProjectSpace { bytes: quota.bytes, inodes: quota.inodes }),
        // xfs: nobody ever had it.
        Err(Errno::NOENT) => Ok(ProjectSpace::default()),
        Err(errno) => Err(errno),
    }
}

/// Sets how much all files of a project may take. Bytes are rounded down to whole KiB, and by xfs up to its blocks; for zero, it takes what an
/// administrator has set for project 0.
pub(crate) fn limit_project(place: BorrowedFd<'_>, project: u32, most: ProjectSpace) -> Result<(), Errno> {
    let mut quota = Quota {
        hard_blocks: most.bytes / BLOCK,
        hard_inodes: most.inodes,
        valid: BOTH_LIMITS,
        ..Quota::default()
    };
    // SAFETY: the command reads a struct if_dqblk, which `quota` is in size and layout.
    unsafe { quota_call(place, Q_SETQUOTA, project, &mut quota) }
}

fn attributes_of(directory: BorrowedFd<'_>) -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    const { assert!(size_of::<Attributes>() == 28) };
    // SAFETY: the request writes a struct fsxattr, which `attributes` is in size and layout and which lives through the call;
    // any bits are valid values of its fields. The descriptor is open through the call.
    let returned =
        unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSGETXATTR, std::ptr::from_mut(&mut attributes)) };
    if returned == 0 { Ok(attributes) } else { Err(last_error()) }
}

/// quotactl_fd(2), Linux 5.14: as quotactl, for the filesystem that a descriptor is on.
///
/// # Safety
/// `argument` is what the command reads or writes: struct if_dqblk or struct fs_quota_statv.
unsafe fn quota_call<A>(
    place: BorrowedFd<'_>,
    command: u32,
    project: u32,
    argument: &mut A,
) -> Result<(), Errno> {
    let command = command << 8 | PRJQUOTA;
    // SAFETY: the caller's promise; the descriptor is open and `argument` lives through the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            place.as_raw_fd(),
            command,
            project,
            std::ptr::from_mut(argument),
        )
    };
    if returned == 0 { Ok(()) } else { Err(last_error()) }
}
