//! Processes that were killed and are still there: which they are, and what the kernel says holds them.
//!
//! SIGKILL ends a process when it next returns from the kernel. One that waits there for a device or a file server that never answers
//! doesn't; nothing but that answer ends it. So it is told of, by what procfs shows without waiting for the process itself: not its
//! command line, which is read under a lock that it may hold.

use std::fmt;
use std::path::{Path, PathBuf};

/// How many are described; of the others it is said how many there are.
const SHOWN: usize = 3;

/// How many are looked at: what forks all the time may have left thousands.
const READ: usize = 256;

/// How many functions of a stack are shown: who waits, for what, and on whose behalf.
const FRAMES: usize = 6;

/// Processes that didn't end when killed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdouts {
    /// Whether their cgroup is frozen, by itself or by one above it.
    are_frozen: bool,
    shown: Vec<Holdout>,
    more: usize,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holdout {
    pid: i32,
    name: String,
    /// As in proc_pid_stat(5).
    state: char,
    /// The function of the kernel that it waits in.
    waits_in: String,
    /// The functions above that, where the kernel shows them.
    stack: Vec<String>,
}

impl Holdouts {
    /// What is known of these processes. Those that are gone by now, or are only to be reaped, are left out.
    pub(super) fn of(pids: &[i32]) -> Self {
        let mut shown: Vec<_> = pids.iter().filter_map(|pid| Holdout::read(*pid)).take(READ).collect();
        let others = if shown.len() == READ { pids.len() } else { shown.len() };
        // Those that wait in the kernel are why; the others may be on their way.
        shown.sort_by_key(|one| one.state != 'D');
        shown.truncate(SHOWN);
        Self { are_frozen: false, more: others.saturating_sub(SHOWN), shown }
    }

    /// The same of a cgroup that is frozen, or isn't. A process doesn't show that: the freezer of version 1 takes many where they wait.
    pub(super) fn frozen(self, are_frozen: bool) -> Self {
        Self { are_frozen, ..self }
    }

    /// Whether they are frozen: killed, they end when they are thawed.
    #[must_use]
    pub fn are_frozen(&self) -> bool {
        self.are_frozen && !self.is_empty()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }
}

impl fmt::Display for Holdouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.are_frozen() {
            f.write_str("frozen by their cgroup or one above it: ")?;
        }
        for (at, one) in self.shown.iter().enumerate() {
            write!(f, "{}{one}", if at == 0 { "" } else { "; " })?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Holdouts {}

impl Holdout {
    /// Reads the process by the thread that keeps it: its first one may have ended before others.
    fn read(pid: i32) -> Option<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let threads = std::fs::read_dir(process.join("task")).ok()?.filter_map(Result::ok);
        let alive = threads.filter_map(|thread| {
            let (name, state) = name_and_state(&thread.path())?;
            (!matches!(state, 'Z' | 'X')).then(|| (thread.path(), name, state))
        });
        let (thread, name, state) = alive.min_by_key(|(_, _, state)| *state != 'D')?;
        let waits_in = std::fs::read_to_string(thread.join("wchan")).unwrap_or_default();
        // Zero for one that doesn't wait.
        let waits_in = if waits_in == "0" { String::new() } else { waits_in };
        Some(Self { pid, name, state, waits_in, stack: stack(&thread) })
    }
}

impl fmt::Display for Holdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, state, waits_in, stack } = self;
        let what = match state {
            'D' => "waits in the kernel for something that signals don't interrupt",
            'T' | 't' => "is stopped",
            'R' => "runs",
            _ => "sleeps",
        };
        write!(f, "process {pid} (\"{name}\") {what} (state {state}")?;
        if !waits_in.is_empty() {
            write!(f, ", in {waits_in}")?;
        }
        if !stack.is_empty() {
            write!(f, ", by way of {}", stack.join(" < "))?;
        }
        f.write_str(")")
    }
}

/// From the file `stat` of a thread: the name stands in parentheses, and may have some of its own.
fn name_and_state(thread: &Path) -> Option<(String, char)> {
    let stat = std::fs::read(thread.join("stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (begin, end) = (stat.find('(')?, stat.rfind(')')?);
    Some((stat.get(begin + 1..end)?.to_owned(), stat.get(end + 2..)?.chars().next()?))
}

/// The functions that a thread is in, the innermost first; none where the kernel doesn't say, or not to us.
fn stack(thread: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(thread.join("stack")).unwrap_or_default();
    let function = |line: &str| Some(line.split_once("] ")?.1.split_once('+')?.0.to_owned());
    text.lines().filter_map(function).take(FRAMES).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn who_is_left_is_told_with_state_and_name() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        let left = Holdouts::of(&[pid]);
        assert!(!left.is_empty());
        assert!(left.to_string().starts_with(&format!("process {pid} (\"")), "{left}");
        let many = Holdouts::of(&[pid; 5]);
        assert!(many.to_string().ends_with("; and 2 more"), "{many}");
        child.kill().unwrap();
        // Ended, and not reaped yet: nothing holds it.
        while !Holdouts::of(&[pid]).is_empty() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(Holdouts::of(&[pid]).is_empty());
    }

    #[test]
    fn what_holds_one_is_in_the_words_of_an_operator() {
        let one = |state, waits_in: &str| Holdout {
            pid: 7,
            name: "a (b)".into(),
            state,
            waits_in: waits_in.into(),
            stack: Vec::new(),
        };
        assert_eq!(
            one('D', "request_wait_answer").to_string(),
            "process 7 (\"a (b)\") waits in the kernel for something that signals don't interrupt \
             (state D, in request_wait_answer)"
        );
        let frozen = Holdouts { are_frozen: true, shown: vec![one('D', "x")], more: 0 };
        assert!(
            frozen.to_string().starts_with("frozen by their cgroup or one above it: process 7 "),
            "{frozen}"
        );
        assert!(frozen.are_frozen() && !Holdouts { shown: Vec::new(), ..frozen }.are_frozen());
        assert!(one('R', "").to_string().ends_with("runs (state R)"));
    }
}
