//! The first process of a pid namespace that containers share: it reaps what they orphan, and is the
//! namespace's life.
//!
//! It has no capability, no descriptor, no files (its root is empty), and nobody may trace it. It ends on
//! SIGTERM from outside of the namespace; one from a container does not end the pod.

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, WaitOptions, set_dumpable_behavior, wait};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_name, set_no_new_privs,
};

use crate::sys::{self, Awaited};
use crate::{FailedStep, Failure};

/// Is that process. Returns only when something is refused.
pub(super) fn stay() -> Result<(), Failure> {
    sys::close_all().map_err(|errno| Failure::system(FailedStep::Descriptors, errno, "pod init"))?;
    loop {
        match sys::wait_for_signal() {
            Awaited::Child => reap(),
            Awaited::Terminate => sys::exit_now(0),
            Awaited::Other => {}
        }
    }
}

/// Gives up everything but its descriptors.
pub(super) fn shed() -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::Prepare, errno, "pod init");
    rustix::process::setsid().map_err(failed)?;
    set_name(c"knarr-pod").map_err(failed)?;
    crate::open_files::give_back().map_err(failed)?;
    sys::reset_signal_dispositions();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
        .map_err(|errno| failed(crate::handshake::to_rustix(errno)))?;
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(failed(errno)),
        }
    }
    clear_ambient_capability_set().map_err(failed)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(failed)?;
    set_no_new_privs(true).map_err(failed)?;
    // Last: changing capabilities may set it anew.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)
}

fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
