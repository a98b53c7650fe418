//! Containers that an external OCI runtime makes: what the supervisor has a program do, and what it does itself.
//!
//! The container's process is the program's child, and the supervisor's when the program has ended, for the supervisor adopts
//! orphans (PR_SET_CHILD_SUBREAPER). Logs, ends, kills and memory shortages are then what they are of its own containers.
//!
//! ```text
//!           create, start            exit           output drained        delete
//! (unknown) ─────────────► Running ──────► Draining ──────────────► Clearing ──► Exited
//!            while Making     │ failed, or too late: delete
//!                             └────────► (unknown), told to whoever asked for the start
//! ```
//! Each call of the program has a deadline, and is killed with its descendants when that has passed.
//!
//! Not here: the containers that this crate makes (`container`), what is asked and answered (`requests`).

mod call;
mod console;
mod containers;
mod execs;
mod orphans;

use std::time::Instant;

use super::event_loop::{Key, Supervisor};
use super::starts::Leaving;
use crate::Failure;
use call::{Call, Scratch};
use console::Console;

pub(super) use orphans::Orphans;

/// A program at work, and what for.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) call: Call,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    /// `create`.
    Create {
        container: Key,
        console: Option<Console>,
        pid_file: Scratch,
        /// The container whose pid namespace it joins.
        pid_target: Option<String>,
    },
    /// `start`.
    Start { container: Key },
    /// `delete` of one whose start has failed.
    Undo { container: Key, failure: Failure },
    /// `delete` of one that has ended.
    Clear { container: Key },
    /// `kill`.
    Kill { container: Key, signal: i32, sequence: u64 },
    /// `exec`.
    Exec(execs::Wanted),
}

impl Work {
    /// Whether the program is about to name a process that is to be this one's.
    fn expects_a_process(&self) -> bool {
        match self.purpose {
            Purpose::Create { .. } | Purpose::Exec(_) => true,
            Purpose::Start { .. } | Purpose::Undo { .. } | Purpose::Clear { .. } | Purpose::Kill { .. } => {
                false
            }
        }
    }
}

impl Supervisor {
    fn begin(&mut self, call: Call, purpose: Purpose) {
        let key = self.key();
        self.work.push((key, Work { call, purpose }));
    }

    /// A program has ended.
    pub(super) fn worked(&mut self, key: Key) {
        let Some(at) = self.work.iter().position(|(other, _)| *other == key) else { return };
        if let Some(outcome) = self.work[at].1.call.outcome() {
            let (_, Work { call, purpose }) = self.work.swap_remove(at);
            // Its files are gone before anybody hears of it.
            drop(call);
            self.conclude(purpose, outcome);
        }
    }

    /// Programs that take too long.
    pub(super) fn expire_work(&mut self, now: Instant) {
        while let Some(at) = self.work.iter().position(|(_, work)| work.call.until <= now) {
            let (key, Work { call, purpose }) = self.work.swap_remove(at);
            call.kill();
            let failure = call.too_late();
            self.leaving.push((key, Leaving::unasked(call.into_process())));
            self.conclude(purpose, Err(failure));
        }
    }

    fn conclude(&mut self, purpose: Purpose, outcome: Result<(), Failure>) {
        match purpose {
            Purpose::Create { container, console, pid_file, pid_target } => {
                let adopted =
                    outcome.and_then(|()| self.adopt_first(container, &pid_file, (console, pid_target)));
                drop(pid_file);
                match adopted.and_then(|()| self.call_start(container)) {
                    Ok(()) => {}
                    Err(failure) => self.undo(container, failure),
                }
            }
            Purpose::Start { container } => match outcome {
                Ok(()) => self.started(container),
                Err(failure) => self.undo(container, failure),
            },
            Purpose::Undo { container, failure } => self.undone(container, failure, outcome),
            Purpose::Clear { container } => self.cleared(container, outcome),
            Purpose::Kill { container, signal, sequence } => {
                self.killed(container, (signal, sequence), outcome)
            }
            Purpose::Exec(wanted) => self.exec_made(wanted, outcome),
        }
    }

    /// Ends what a runtime does for a container: the rest follows from its end.
    pub(super) fn abort(&self, container: Key) {
        let is_for_it = |purpose: &Purpose| match purpose {
            Purpose::Create { container: other, .. } | Purpose::Start { container: other } => {
                *other == container
            }
            Purpose::Undo { .. } | Purpose::Clear { .. } | Purpose::Kill { .. } | Purpose::Exec(_) => false,
        };
        self.work.iter().filter(|(_, work)| is_for_it(&work.purpose)).for_each(|(_, work)| work.call.kill());
    }
}
