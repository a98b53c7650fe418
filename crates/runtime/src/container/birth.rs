//! Being born where others look on.
//!
//! A process is in sight of everybody in its pid namespace from the clone on, and who may trace there (CAP_SYS_PTRACE)
//! may look at its root, its descriptors and its memory, dumpable or not. One that joins a container does all its work
//! outside of that namespace, and clones itself at the end: what is born has the container's root, the rights of the
//! process that was asked for, and no descriptor but its streams and its end of the handshake.
//!
//! The first process of a container that shares a pid namespace is born early all the same: a procfs is made for the
//! namespace that its maker lives in.

use std::os::fd::AsFd;

use rustix::process::{Signal, pidfd_send_signal};

use crate::handshake::Message;
use crate::init::process::{self, Process};
use crate::init::{self, carry_out};
use crate::sys::{self, CloneFlags, Cloned, clone_process};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure};

/// Where a process is when it has come into its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Birth {
    /// In the pid namespace that it is for.
    Over,
    /// Outside of the one that its children are born in.
    Ahead,
}

/// Turns a process that has come into its container into the one that was asked for.
pub(super) fn become_process(
    proof: &SingleThread,
    process: &mut Process<'_>,
    birth: Birth,
) -> Result<(), Failure> {
    carry_out(&process::preparing_steps(), process)?;
    match birth {
        Birth::Over => carry_out(&process::final_steps(), process),
        Birth::Ahead => be_born(proof, process),
    }
}

fn be_born(proof: &SingleThread, process: &mut Process<'_>) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::Clone, errno, "");
    let reporter = process.reporter();
    sys::close_above_stdio_but(reporter.as_fd()).map_err(failed)?;
    // From here on nothing returns to those who owned what is closed now.
    match clone_process(proof, CloneFlags::SIBLING, None) {
        Ok(Cloned::Child) => init::run_child(reporter, || carry_out(&process::final_steps(), process)),
        Ok(Cloned::Parent(child)) => {
            if let Some((pid, pidfd)) = child.hand_over()
                && reporter.send_with(&Message::Born(pid), Some(pidfd.as_fd())).is_err()
            {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        Err(errno) => reporter.fail(failed(errno)),
    }
    sys::exit_now(0)
}
