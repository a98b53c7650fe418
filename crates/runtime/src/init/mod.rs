//! What runs in the child between clone and execve: tables of steps, carried out in order in one loop.
//!
//! The first step that fails is reported over the handshake, and the child ends. The order is the security of
//! it, and stands in tables: [`launch::steps`] builds a container's root, [`join::outside_steps`] and [`join::inside_steps`]
//! enter a running one, and [`process::steps`], the same for both, turns the child into the process that was asked for.
//!
//! The child is a copy of a process that had one thread, so it may allocate. It never returns into the code
//! of its parent.

mod cgroups;
mod command;
mod credentials;
mod devices;
mod filesystems;
mod handles;
pub(crate) mod join;
pub(crate) mod launch;
mod path;
pub(crate) mod process;
mod restrict;
mod root;
mod stdio;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::handshake::Reporter;
use crate::{FailedStep, Failure, FailureKind, sys};

pub(crate) use command::Command;
pub(crate) use credentials::become_root;
pub(crate) use filesystems::{clone_mount, context, make as make_filesystem};
pub(crate) use handles::Procfs;
pub(crate) use path::Root;
pub(crate) use restrict::sysctl;
pub(crate) use root::{isolate_mounts, pivot_into};
pub(crate) use stdio::{keep_null, open_null};

/// One step.
pub(crate) type Step<C> = fn(&mut C) -> Result<(), Failure>;

/// Carries out a table.
pub(crate) fn carry_out<C>(steps: &[Step<C>], context: &mut C) -> Result<(), Failure> {
    steps.iter().try_for_each(|step| step(context))
}

/// Runs the child's part of a clone. It ends here, unless it executes something.
pub(crate) fn run_child(reporter: &Reporter, work: impl FnOnce() -> Result<(), Failure>) -> ! {
    // A panic must not unwind into the copy of the parent's stack.
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(_) => Some(Failure {
            kind: FailureKind::System,
            step: FailedStep::Prepare,
            errno: None,
            subject: "panic".to_owned(),
        }),
    };
    let code = i32::from(failure.is_some());
    if let Some(failure) = failure {
        reporter.fail(failure);
    }
    sys::exit_now(code)
}
