//! mount_setattr(2), and the number of a mount.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use super::clone::last_error;
use crate::plan::{Access, AccessTime, MountAttributes, Propagation};

/// Flags to set on a mount, as struct mount_attr has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AttributeBits {
    set: u64,
    clear: u64,
}

impl AttributeBits {
    pub(crate) fn is_empty(self) -> bool {
        self.set == 0 && self.clear == 0
    }

    /// For fsmount(2), which makes a new mount and takes only what is set.
    pub(crate) fn for_new_mount(self) -> u32 {
        u32::try_from(self.set).unwrap_or(0)
    }
}

/// How far a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The mount.
    One,
    /// The mount and all below it.
    All,
}

/// The flags for the mount itself, and those for it and all below it.
pub(crate) fn attribute_bits(attributes: &MountAttributes) -> (AttributeBits, AttributeBits) {
    let mut own = AttributeBits::default();
    let mut all = AttributeBits::default();
    match attributes.access {
        Access::ReadWrite => {}
        Access::ReadOnly => own.set |= libc::MOUNT_ATTR_RDONLY,
        Access::RecursiveReadOnly => all.set |= libc::MOUNT_ATTR_RDONLY,
    }
    for (wanted, bit) in [
        (attributes.nosuid, libc::MOUNT_ATTR_NOSUID),
        (attributes.nodev, libc::MOUNT_ATTR_NODEV),
        (attributes.noexec, libc::MOUNT_ATTR_NOEXEC),
        (attributes.nosymfollow, libc::MOUNT_ATTR_NOSYMFOLLOW),
        (attributes.nodiratime, libc::MOUNT_ATTR_NODIRATIME),
    ] {
        if wanted {
            own.set |= bit;
        }
    }
    let atime = match attributes.atime {
        AccessTime::Inherit => None,
        AccessTime::Relative => Some(libc::MOUNT_ATTR_RELATIME),
        AccessTime::Never => Some(libc::MOUNT_ATTR_NOATIME),
        AccessTime::Strict => Some(libc::MOUNT_ATTR_STRICTATIME),
    };
    if let Some(bit) = atime {
        // The three are one field of two bits: it has to be cleared as a whole to be set.
        own.clear |= libc::MOUNT_ATTR__ATIME;
        own.set |= bit;
    }
    (own, all)
}

pub(crate) fn set_attributes(mount: BorrowedFd<'_>, bits: AttributeBits, reach: Reach) -> Result<(), Errno> {
    set(
        mount,
        libc::mount_attr { attr_set: bits.set, attr_clr: bits.clear, propagation: 0, userns_fd: 0 },
        reach,
    )
}

/// Sets the propagation of a mount and of all below it. `Shared` leaves a clone in the peer group of its
/// source.
pub(crate) fn set_propagation(mount: BorrowedFd<'_>, propagation: Propagation) -> Result<(), Errno> {
    match propagation {
        Propagation::Shared => Ok(()),
        other => change_propagation(mount, other, Reach::All),
    }
}

/// Sets the propagation of a mount. `Shared` makes a peer group where there is none.
pub(crate) fn change_propagation(
    mount: BorrowedFd<'_>,
    propagation: Propagation,
    reach: Reach,
) -> Result<(), Errno> {
    let flag = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
        Propagation::Unbindable => libc::MS_UNBINDABLE,
    };
    set(mount, libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: flag, userns_fd: 0 }, reach)
}

/// Maps the ids of a detached mount as a user namespace does (mount_setattr(2), "ID-mapped mounts").
pub(crate) fn map_ids(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, reach: Reach) -> Result<(), Errno> {
    let userns_fd = u64::try_from(namespace.as_raw_fd()).unwrap_or(u64::MAX);
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set(mount, attributes, reach)
}

fn set(mount: BorrowedFd<'_>, attributes: libc::mount_attr, reach: Reach) -> Result<(), Errno> {
    let recursive = if reach == Reach::All { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, so that the call is about the descriptor; `attributes` lives
    // through the call, which reads as many bytes of it as are passed as its size.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if returned == 0 { Ok(()) } else { Err(last_error()) }
}

/// The number by which mountinfo knows the mount that a descriptor is on.
pub(crate) fn mount_id(place: BorrowedFd<'_>) -> Result<String, Errno> {
    Ok(statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id.to_string())
}
