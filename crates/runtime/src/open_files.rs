//! The limit of open files: a supervisor's own is as high as it may be, and what it makes gets the one that was meant for it.
//!
//! One value for the whole process: each way from here to a process of somebody else's ends with giving it back, and a copy of this
//! process has a copy of it. Given back last, or when nothing of the supervisor's is open any more: what a copy has inherited counts,
//! and may be more than the limit.
//!
//! Not here: the limits that a plan asks for, which come afterwards (`init::process`).

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit to be given back; [`NONE`] when nothing was raised, or it has been given back.
static GIVEN: AtomicU64 = AtomicU64::new(NONE);

/// No number of open files: the kernel's most is a 32-bit number (proc(5), `nr_open`).
const NONE: u64 = u64::MAX;

/// Raises the soft limit of this process to the hard one. What it makes gets `soft`, or what it has itself. Best effort.
pub(crate) fn raise(soft: Option<u64>) {
    let own = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: own.maximum, maximum: own.maximum };
    if let Some(given) = soft.or(own.current)
        && setrlimit(Resource::Nofile, raised).is_ok()
    {
        GIVEN.store(given, Ordering::Relaxed);
    }
}

/// Gives it back: once, since what this process makes from now on has it anyway, and its plan may say something else. Allocates
/// nothing.
pub(crate) fn give_back() -> Result<(), Errno> {
    match GIVEN.swap(NONE, Ordering::Relaxed) {
        NONE => Ok(()),
        given => {
            let maximum = getrlimit(Resource::Nofile).maximum;
            let current = maximum.map_or(given, |maximum| given.min(maximum));
            setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum })
        }
    }
}
