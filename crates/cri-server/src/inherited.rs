//! What whoever started the daemon left to it and must not reach the programs that it starts: open descriptors, a mask of
//! modes, ignored signals. CNI plugins, external runtimes and supervisors find what a shell would give them, whether a
//! unit, a script or `nohup` started the daemon.
//!
//! Not here: environment, working directory and blocked signals, which are set for each program.

use std::fs;

use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{SignalKind, signal};

/// Ignored by every Rust program, and set back by the standard library for every child.
const SIGPIPE: u32 = 13;

/// Keeps it from them. Has to be called inside a tokio runtime.
pub(crate) fn disown() {
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    if let Err(error) = sandbox::close_on_exec_above_stdio() {
        tracing::warn!(%error, "what was open when the daemon was started stays open in what it starts");
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for number in ignored(&status).filter(|number| *number != SIGPIPE) {
        // Ignoring passes to children, catching doesn't (signal(7)). Nobody listens, so it is as ignored here as before.
        let _uncatchable = signal(SignalKind::from_raw(number.cast_signed()));
    }
}

/// The numbers of the ignored signals (proc_pid_status(5): bit 0 is signal 1).
fn ignored(status: &str) -> impl Iterator<Item = u32> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    (0..64).filter(move |bit| mask >> bit & 1 == 1).map(|bit| bit + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001003\nSigCgt:\t0\n";
        assert_eq!(ignored(status).collect::<Vec<_>>(), [1, 2, 13]);
        assert_eq!(ignored("").count(), 0);
    }
}
