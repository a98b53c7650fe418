//! Network namespaces that are made before a pod needs them.
//!
//! How many are kept, and for whom, is the daemon's affair.

use std::io;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::init::Procfs;
use crate::sys;
use crate::{FailedStep, Failure};

/// Makes a network namespace as [`super::create_pod`] makes a pod's: loopback up, no router advertisements. It lives as
/// long as the descriptor. A thread of its own makes it and ends then.
///
/// # Errors
/// What the kernel says.
pub fn prepare_network() -> io::Result<OwnedFd> {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let procfs = Procfs::open().map_err(io::Error::other)?;
        set_up(&procfs).map_err(io::Error::other)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(openat(CWD, "/proc/thread-self/ns/net", flags, Mode::empty())?)
    };
    let thread = std::thread::Builder::new().name("pod-network".to_owned()).spawn(work)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that makes a network namespace panicked")))
}

/// Sets up a namespace that has just been made: that of the calling thread.
pub(super) fn set_up(procfs: &Procfs) -> Result<(), Failure> {
    sys::bring_loopback_up().map_err(|errno| Failure::system(FailedStep::Network, errno, "lo"))?;
    // A pod that listens to them can have its traffic taken over by its neighbour (CVE-2020-10749).
    for scope in ["all", "default"] {
        let path = format!("sys/net/ipv6/conf/{scope}/accept_ra");
        match procfs.write(&path, b"0") {
            // A kernel without IPv6.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Failure::system(FailedStep::Sysctl, errno, path)),
        }
    }
    Ok(())
}
