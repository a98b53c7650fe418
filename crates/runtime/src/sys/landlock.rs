//! Landlock: which files a thread may reach (linux/landlock.h).

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::Errno;

use super::clone::last_error;

/// LANDLOCK_CREATE_RULESET_VERSION.
const VERSION: u32 = 1;
/// LANDLOCK_RULE_PATH_BENEATH.
const BENEATH: u32 = 1;

/// struct landlock_ruleset_attr, as far as it is used here: all that isn't allowed by a rule is forbidden.
#[repr(C)]
pub(crate) struct Handled {
    /// LANDLOCK_ACCESS_FS_*.
    pub(crate) files: u64,
    /// LANDLOCK_ACCESS_NET_*.
    pub(crate) network: u64,
}

/// struct landlock_path_beneath_attr.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: RawFd,
}

/// Which rights the kernel knows: the version of its interface, or nothing where it has none or it is switched off.
pub(crate) fn landlock_version() -> Option<u32> {
    // SAFETY: with this flag the kernel wants no structure and no size, and reads neither.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Handled>(), 0, VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// A ruleset that forbids all this, without rules yet.
pub(crate) fn landlock_ruleset(handled: &Handled) -> Result<OwnedFd, Errno> {
    // SAFETY: `handled` is a struct landlock_ruleset_attr of the size that is told, lives through the call and is only read.
    let returned = unsafe {
        let (attributes, size) = (std::ptr::from_ref(handled), size_of::<Handled>());
        libc::syscall(libc::SYS_landlock_create_ruleset, attributes, size, 0)
    };
    match RawFd::try_from(returned) {
        // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows its number.
        Ok(raw) if raw >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(raw) }),
        _ => Err(last_error()),
    }
}

/// Allows this below a directory.
pub(crate) fn landlock_allow(
    ruleset: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    allowed: u64,
) -> Result<(), Errno> {
    let rule = Beneath { allowed, parent: directory.as_raw_fd() };
    const { assert!(size_of::<Beneath>() == 12) };
    // SAFETY: `rule` is what this type of rule takes, lives through the call and is only read; both descriptors are open.
    let returned = unsafe {
        let rule = std::ptr::from_ref(&rule);
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), BENEATH, rule, 0)
    };
    if returned == 0 { Ok(()) } else { Err(last_error()) }
}

/// Puts the calling thread, and those that it starts, under a ruleset for good. It must have given up to gain rights by execve(2).
pub(crate) fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the call takes no memory of ours; the descriptor is open.
    let returned = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if returned == 0 { Ok(()) } else { Err(last_error()) }
}
