//! Ending what is in a cgroup, and removing it.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::files::{error, read_if_there, write_raw};
use super::holdouts::Holdouts;
use super::{Cgroup, Error};

/// How often what forks is frozen, killed and thawed before it counts as unkillable.
const KILL_ROUNDS: usize = 25;
/// How often it is looked, a millisecond apart, whether all are frozen: one that waits in the kernel never is.
const FREEZE_LOOKS: usize = 20;
/// How long removal waits for processes that have been killed: doubling from 1 ms, a second in all.
const REMOVE_ROUNDS: u32 = 10;

pub(super) fn kill(cgroup: &Cgroup) -> Result<(), Error> {
    if let Some(directory) = &cgroup.unified {
        let file = directory.join("cgroup.kill");
        match Asked::of(write_raw(&file, b"1"), || directory.is_dir()) {
            Ok(Asked::Killed) => {
                // Version 2 kills what it has frozen; the freezer of version 1 has to let go of it first.
                Frozen::thaw_legacy(cgroup);
                return Ok(());
            }
            Ok(Asked::Gone) => return Ok(()),
            Ok(Asked::Unknown) => {}
            Err(errno) => return Err(error("write cgroup file", &file, errno)),
        }
    }
    let Some(directory) = cgroup.tracking() else { return Ok(()) };
    let mut killed = HashSet::new();
    for _ in 0..KILL_ROUNDS {
        // Thawed after each round, so that what was killed can end.
        let frozen = Frozen::freeze(cgroup);
        let is_still = frozen.settle();
        // Nobody forks who is frozen: then the list is complete.
        if !kill_listed(directory, &mut killed)? || is_still {
            return Ok(());
        }
    }
    Err(busy(directory))
}

/// What came of asking the kernel to kill.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Killed,
    /// The cgroup has been removed, or is just being.
    Gone,
    /// By a kernel before 5.14.
    Unknown,
}

impl Asked {
    fn of(written: Result<(), Errno>, is_there: impl FnOnce() -> bool) -> Result<Self, Errno> {
        match written {
            Ok(()) => Ok(Self::Killed),
            // The files of a cgroup are taken away before its directory (kernel/cgroup/cgroup.c, cgroup_destroy_locked): systemd removes
            // a scope when nothing runs in it any more, whoever may look at it.
            Err(Errno::NODEV) => Ok(Self::Gone),
            Err(Errno::NOENT) => Ok(if is_there() { Self::Unknown } else { Self::Gone }),
            Err(errno) => Err(errno),
        }
    }
}

pub(super) fn thaw(cgroup: &Cgroup) {
    Frozen::set(cgroup, "THAWED", "0");
}

/// Whether what is in it is frozen, or about to be, by itself or by a cgroup above it.
pub(super) fn is_frozen(cgroup: &Cgroup) -> bool {
    let says = |directory: &Path, file: &str, words: [&str; 2]| {
        let text = read_if_there(&directory.join(file)).ok().flatten().unwrap_or_default();
        text.lines().any(|line| words.contains(&line.trim()))
    };
    let legacy = cgroup.controller("freezer");
    legacy.is_some_and(|directory| says(directory, "freezer.state", ["FROZEN", "FREEZING"]))
        || cgroup
            .unified
            .as_deref()
            .is_some_and(|directory| says(directory, "cgroup.events", ["frozen 1"; 2]))
}

/// Signals what is listed. Returns whether there was anybody who had not been before.
fn kill_listed(directory: &Path, killed: &mut HashSet<i32>) -> Result<bool, Error> {
    let mut found_new = false;
    for number in procs(directory)? {
        found_new |= killed.insert(number);
        if let Some(pid) = Pid::from_raw(number) {
            match kill_process(pid, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(error("kill a process in cgroup", directory, errno)),
            }
        }
    }
    Ok(found_new)
}

fn busy(directory: &Path) -> Error {
    let left = Holdouts::of(&procs(directory).unwrap_or_default());
    Error::CgroupBusy { path: directory.to_owned(), source: Box::new(left) }
}

/// A frozen cgroup cannot fork away from its killer. Thawed when dropped, so that the processes can end.
struct Frozen<'a> {
    cgroup: &'a Cgroup,
}

impl<'a> Frozen<'a> {
    fn freeze(cgroup: &'a Cgroup) -> Self {
        // Best effort: without a freezer the rounds have to do.
        Self::set(cgroup, "FROZEN", "1");
        Self { cgroup }
    }

    /// Waits until all are frozen, for a moment, and returns whether they are: freezing begins with the write, and who isn't frozen
    /// yet may fork still. Of version 2 without `cgroup.kill` it isn't known.
    fn settle(&self) -> bool {
        let Some(directory) = self.cgroup.controller("freezer") else { return false };
        let file = directory.join("freezer.state");
        for _ in 0..FREEZE_LOOKS {
            // Reading it has the kernel look.
            match read_if_there(&file) {
                Ok(Some(state)) if state.trim() == "FREEZING" => {}
                Ok(Some(state)) => return state.trim() == "FROZEN",
                Ok(None) | Err(_) => return false,
            }
            let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
        }
        false
    }

    fn thaw_legacy(cgroup: &Cgroup) {
        if let Some(directory) = cgroup.controller("freezer") {
            let _ = write_raw(&directory.join("freezer.state"), b"THAWED");
        }
    }

    fn set(cgroup: &Cgroup, legacy: &str, unified: &str) {
        if let Some(directory) = cgroup.controller("freezer") {
            let _ = write_raw(&directory.join("freezer.state"), legacy.as_bytes());
        } else if let Some(directory) = &cgroup.unified {
            let _ = write_raw(&directory.join("cgroup.freeze"), unified.as_bytes());
        }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        Self::set(self.cgroup, "THAWED", "0");
    }
}

/// The processes in a directory and below it.
pub(super) fn procs(directory: &Path) -> Result<Vec<i32>, Error> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        if let Some(text) = read_if_there(&directory.join("cgroup.procs"))? {
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        directories.extend(children(&directory));
    }
    Ok(found)
}

/// The cgroups directly below one; none when it is gone.
pub(super) fn children(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a directory and those below it.
pub(super) fn remove(directory: &Path) -> Result<(), Error> {
    for round in 0..=REMOVE_ROUNDS {
        match rustix::fs::rmdir(directory) {
            // The second: somebody else is just removing it (fs/kernfs/dir.c, kernfs_iop_rmdir).
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) if round < REMOVE_ROUNDS => {
                for child in children(directory) {
                    remove(&child)?;
                }
                wait_until_empty(directory, 1_000_000 << round);
            }
            Err(Errno::BUSY | Errno::NOTEMPTY) => {
                return Err(busy(directory));
            }
            Err(errno) => return Err(error("remove cgroup", directory, errno)),
        }
    }
    Err(busy(directory))
}

/// Whether directories go by somebody else's hand, within a time. A kernel file system tells nobody when one is removed in
/// a way that could be waited for here, so they are looked for: first often, then every 20 ms.
pub(super) fn are_gone(directories: &[&Path], within: Duration) -> bool {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(500);
    while directories.iter().any(|directory| directory.exists()) {
        if begun.elapsed() >= within {
            return false;
        }
        let bound = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
        let _ = poll(&mut [], Some(&bound));
        pause = (2 * pause).min(Duration::from_millis(20));
    }
    true
}

/// Waits until a cgroup has no processes, at most so long. Version 2 says so by an event; version 1 has
/// nothing to wait for, so its bound is the time.
fn wait_until_empty(directory: &Path, nanoseconds: i64) {
    let bound = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
    let events =
        rustix::fs::open(directory.join("cgroup.events"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    match events {
        Ok(events) => {
            // Reading arms the event: it fires for what changes afterwards.
            let mut text = [0; 256];
            let length = rustix::io::read(&events, &mut text).unwrap_or(0);
            if !text[..length].starts_with(b"populated 0") {
                let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&bound));
            }
        }
        Err(_) => {
            let _ = poll(&mut [], Some(&bound));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_that_is_just_being_removed_is_gone() {
        for is_there in [true, false] {
            assert_eq!(Asked::of(Err(Errno::NODEV), || is_there), Ok(Asked::Gone));
            assert_eq!(Asked::of(Err(Errno::ACCESS), || is_there), Err(Errno::ACCESS));
        }
        assert_eq!(Asked::of(Err(Errno::NOENT), || true), Ok(Asked::Unknown));
        assert_eq!(Asked::of(Err(Errno::NOENT), || false), Ok(Asked::Gone));
    }
}
