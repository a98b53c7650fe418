//! What a thread gives up that works on what strangers wrote: a layer's archive, a tree that a container left.
//!
//! ```text
//! no new privileges ─► Landlock: files below one directory, no TCP ─► capabilities ─► seccomp: the calls of `calls`
//! ```
//! All four are a thread's own, and those that it starts have them too; no other thread of the process is touched. So it is
//! no boundary against code that an attacker brings along: memory is shared, and with it whatever another thread does. It
//! is one against mistakes in ours: a name or a link that leads out, a step that was meant for another place.
//!
//! A confined thread must start none that others use later: threads of a pool would stay confined, and what they start too.
//!
//! Not here: which threads those are (`image-service`, which is handed this), the confinement of containers (`init`).

mod calls;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

use crate::plan::SeccompFilter;
use crate::sys::{self, Handled};

/// Bits of LANDLOCK_ACCESS_FS_* that a version of the interface knows: thirteen in the first, then one more each for moving
/// between directories (2), truncating (3) and commands to devices (5).
const FILES: [(u32, u64); 4] = [(1, 0x1fff), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15)];
/// LANDLOCK_ACCESS_NET_BIND_TCP and _CONNECT_TCP, known to version 4.
const NETWORK: (u32, u64) = (4, 0b11);
/// LANDLOCK_ACCESS_FS_EXECUTE and _IOCTL_DEV: never needed.
const NEVER: u64 = 1 | 1 << 15;
/// The first version under which a file may be moved from one directory to another at all.
const LEAST_VERSION: u32 = 2;

/// Which capabilities a thread keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// None: it works on files of the daemon's own.
    None,
    /// Those over files that are anybody's: owners, modes, device nodes, attributes of the kernel's.
    Files,
    /// The same, and every system call: for deleting, which reads nothing that could mislead it. It begins as soon as a daemon
    /// does, and compiling a filter touches what a daemon at rest never needs otherwise.
    Deletion,
}

impl Rights {
    fn set(self) -> CapabilitySet {
        match self {
            Self::None => CapabilitySet::empty(),
            // The last for `trusted.*`, in which overlay keeps what a layer hides.
            Self::Files | Self::Deletion => {
                CapabilitySet::CHOWN
                    | CapabilitySet::DAC_OVERRIDE
                    | CapabilitySet::DAC_READ_SEARCH
                    | CapabilitySet::FOWNER
                    | CapabilitySet::FSETID
                    | CapabilitySet::MKNOD
                    | CapabilitySet::SETFCAP
                    | CapabilitySet::SYS_ADMIN
            }
        }
    }
}

/// The confinement of threads that work below one directory. Made when the first of them enters it: a daemon at rest pays
/// nothing.
#[derive(Debug)]
pub struct Confinement {
    directory: PathBuf,
    /// Nothing where the kernel has no Landlock, or one that lets nobody move a file.
    rules: OnceLock<Result<Option<OwnedFd>, Errno>>,
    filter: OnceLock<Result<SeccompFilter, Errno>>,
}

impl Confinement {
    /// Below this directory, which is there when the first thread enters.
    pub fn below(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), rules: OnceLock::new(), filter: OnceLock::new() }
    }

    /// Confines the calling thread, and all that it starts, for good.
    ///
    /// # Errors
    /// The kernel's. The thread may have given up a part by then, and is good for nothing else.
    pub fn enter(&self, rights: Rights) -> io::Result<()> {
        let rules = self.rules.get_or_init(|| bounded(&self.directory)).as_ref().map_err(|errno| *errno)?;
        let filter = match rights {
            Rights::None | Rights::Files => Some(self.filter.get_or_init(filter).as_ref().map_err(|e| *e)?),
            Rights::Deletion => None,
        };
        set_no_new_privs(true)?;
        if let Some(rules) = rules {
            sys::landlock_restrict(rules.as_fd())?;
        }
        keep(rights.set())?;
        Ok(filter.map_or(Ok(()), sys::install_seccomp)?)
    }
}

fn filter() -> Result<SeccompFilter, Errno> {
    calls::filter().map_err(|_| Errno::TOOBIG)
}

/// What Landlock can do about it here.
fn bounded(directory: &Path) -> Result<Option<OwnedFd>, Errno> {
    match sys::landlock_version() {
        Some(version) if version >= LEAST_VERSION => rules(version, directory).map(Some),
        Some(_) | None => Ok(None),
    }
}

/// All that this version of Landlock can forbid, but for work below the directory.
fn rules(version: u32, directory: &Path) -> Result<OwnedFd, Errno> {
    let known = |(since, bits): &(u32, u64)| if version >= *since { *bits } else { 0 };
    let handled = Handled { files: FILES.iter().map(known).sum(), network: known(&NETWORK) };
    let ruleset = sys::landlock_ruleset(&handled)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
    sys::landlock_allow(ruleset.as_fd(), directory.as_fd(), handled.files & !NEVER)?;
    Ok(ruleset)
}

/// Gives up all capabilities of the calling thread but these, of those that it has.
fn keep(wanted: CapabilitySet) -> Result<(), Errno> {
    let held = capabilities(None)?;
    let kept = held.permitted & wanted;
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}

#[cfg(test)]
mod tests;
