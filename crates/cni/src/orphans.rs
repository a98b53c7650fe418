//! Plugins that another daemon started and left running when it was killed.
//!
//! Such a plugin goes on: its ADD would make what the DEL of the cut-short attachment has just looked for in vain, its GC
//! take away the addresses of pods that it has never heard of. So before anything else is done they are ended, as at
//! their deadline. They are known by their environment, which their own children inherit: our [`VARIABLE`], and
//!
//! | verb | ended if |
//! |---|---|
//! | ADD | its attachment is recorded without a result: after one, what still runs serves the pod (a DHCP client, a name server) |
//! | DEL | its attachment is recorded, and it hasn't ended by itself within [`LEAVE`] |
//! | GC | always |
//! | CHECK, STATUS | never: they change nothing |
//!
//! A DEL does what is wanted, and one that is cut short can't always be repeated: the reference bridge finds its rules by the
//! addresses of a link that it has taken away before them.
//!
//! One that the daemon hadn't told its configuration yet finds its input at its end, and does nothing. How environments are
//! read is `environments`' affair.

mod environments;

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use self::environments::Environments;
use crate::attachment::AttachmentId;
use crate::cache::Journal;
use crate::error::Error;

/// The variable that says to executed plugins and all that they start whose they are. Not the specification's `CNI_PATH`,
/// which is the same for all runtimes of a host; our own executables hand it on.
pub(crate) const VARIABLE: &str = "KNARR_STATE";

/// How long a DEL may go on by itself. The reference plugins take some 100 ms, and nobody is served meanwhile.
const LEAVE: Duration = Duration::from_secs(5);

/// How long all of them have to be found and gone. What the kernel holds longer is stuck in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The value of [`VARIABLE`]: device and inode of the directory that the journal is in. Its path may be that of another
/// daemon's, too, in a container.
///
/// # Errors
/// [`Error::Record`].
pub(crate) fn owner(state_dir: &Path) -> Result<String, Error> {
    let found = std::fs::metadata(state_dir);
    let directory =
        found.map_err(|source| Error::Record { action: "look at", path: state_dir.to_owned(), source })?;
    Ok(format!("{}:{}", directory.dev(), directory.ino()))
}

/// Ends them, and returns when they are gone.
///
/// Only for a process that has started no plugin yet: it couldn't tell its own from others.
///
/// # Errors
/// [`Error::Record`] when the journal can't be listed.
pub(crate) fn end(owner: &str, journal: &Journal) -> Result<(), Error> {
    let mark = Mark::new(owner, journal)?;
    let patience = Patience::from_now();
    let mut environments = Environments::until(patience.end);
    loop {
        // Again and again, as one may have started another before it ended.
        let mut found = Vec::new();
        for pid in environments.processes() {
            found.extend(mark.find(pid, &mut environments));
        }
        if found.is_empty() {
            break;
        }
        // Those that aren't waited for must not go on while others are.
        found.sort_by_key(|orphan| orphan.work == Work::Undoes);
        found.iter().for_each(|orphan| orphan.end(patience));
        if Instant::now() >= patience.end {
            tracing::error!("CNI plugins of a killed daemon can't be ended");
            break;
        }
    }
    let unread = environments.unread();
    if unread > 0 {
        tracing::warn!(
            processes = unread,
            "can't be looked at: a killed daemon's CNI plugins may be among them"
        );
    }
    Ok(())
}

/// Until when is waited.
#[derive(Debug, Clone, Copy)]
struct Patience {
    leave: Instant,
    end: Instant,
}

impl Patience {
    fn from_now() -> Patience {
        let now = Instant::now();
        Patience { leave: now + LEAVE, end: now + PATIENCE }
    }
}

/// What one is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// ADD or GC, which mustn't go on.
    Unwanted,
    /// DEL.
    Undoes,
}

/// One of them, open.
struct Orphan {
    pid: Pid,
    process: OwnedFd,
    work: Work,
}

impl Orphan {
    /// Ends it, a DEL when its time is up.
    fn end(&self, patience: Patience) {
        let pid = self.pid.as_raw_nonzero();
        if self.work == Work::Undoes {
            tracing::info!(pid, "waits for a CNI plugin that a killed daemon left detaching");
            if wait(&self.process, patience.leave) {
                return;
            }
        }
        tracing::warn!(pid, "ends a CNI plugin that a killed daemon left running");
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        // Whether it has gone is looked at again.
        wait(&self.process, patience.end);
    }
}

/// What they are known by.
struct Mark<'a> {
    owner: &'a str,
    recorded: HashSet<AttachmentId>,
    /// Those of them that have no result.
    intended: HashSet<AttachmentId>,
}

impl Mark<'_> {
    fn new<'a>(owner: &'a str, journal: &Journal) -> Result<Mark<'a>, Error> {
        let recorded: HashSet<AttachmentId> = journal.ids()?.into_iter().collect();
        // One that can't be read is no reason to end anybody.
        let is_intended =
            |id: &&AttachmentId| matches!(journal.load(id), Ok(Some(record)) if record.result.is_none());
        let intended = recorded.iter().filter(is_intended).cloned().collect();
        Ok(Mark { owner, recorded, intended })
    }

    /// The process, if it is one of them. It is looked at again once it is open: its number may have become another's.
    fn find(&self, pid: Pid, environments: &mut Environments) -> Option<Orphan> {
        self.work(&environments.of(pid))?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let work = self.work(&environments.of(pid))?;
        Some(Orphan { pid, process, work })
    }

    /// What a process with that environment does for us, if it is one of them.
    fn work(&self, environment: &[u8]) -> Option<Work> {
        let value = |name: &str| {
            environment
                .split(|byte| *byte == 0)
                .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        };
        if value(VARIABLE) != Some(self.owner.as_bytes()) {
            return None;
        }
        let text = |name: &str| String::from_utf8_lossy(value(name).unwrap_or_default()).into_owned();
        let id = AttachmentId { container_id: text("CNI_CONTAINERID"), ifname: text("CNI_IFNAME") };
        match value("CNI_COMMAND") {
            Some(b"ADD") => self.intended.contains(&id).then_some(Work::Unwanted),
            Some(b"DEL") => self.recorded.contains(&id).then_some(Work::Undoes),
            Some(b"GC") => Some(Work::Unwanted),
            _ => None,
        }
    }
}

/// Waits until the process has ended, or the time is up. Returns whether it has.
fn wait(process: &OwnedFd, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(environment: &str) -> Option<Work> {
        let id = |name: &str| AttachmentId { container_id: name.into(), ifname: "eth0".into() };
        let mark = Mark {
            owner: "1:22",
            recorded: HashSet::from([id("half"), id("whole")]),
            intended: HashSet::from([id("half")]),
        };
        mark.work(environment.replace(' ', "\0").as_bytes())
    }

    #[test]
    fn only_what_is_at_work_for_us_is_ended() {
        for (ours, expected) in [
            ("A=B CNI_COMMAND=ADD CNI_CONTAINERID=half CNI_IFNAME=eth0 KNARR_STATE=1:22", Work::Unwanted),
            ("KNARR_STATE=1:22 CNI_COMMAND=DEL CNI_CONTAINERID=half CNI_IFNAME=eth0", Work::Undoes),
            ("KNARR_STATE=1:22 CNI_COMMAND=DEL CNI_CONTAINERID=whole CNI_IFNAME=eth0", Work::Undoes),
            ("KNARR_STATE=1:22 CNI_COMMAND=GC", Work::Unwanted),
        ] {
            assert_eq!(work(ours), Some(expected), "{ours}");
        }
        for others in [
            "KNARR_STATE=1:22 CNI_COMMAND=ADD CNI_CONTAINERID=whole CNI_IFNAME=eth0",
            "KNARR_STATE=1:22 CNI_COMMAND=ADD CNI_CONTAINERID=half CNI_IFNAME=eth1",
            "KNARR_STATE=1:22 CNI_COMMAND=DEL CNI_CONTAINERID=unknown CNI_IFNAME=eth0",
            "KNARR_STATE=1:22 CNI_COMMAND=CHECK CNI_CONTAINERID=half CNI_IFNAME=eth0",
            "KNARR_STATE=1:22 CNI_COMMAND=STATUS",
            "KNARR_STATE=1:22 CNI_CONTAINERID=half CNI_IFNAME=eth0",
            "KNARR_STATE=1:2 CNI_COMMAND=GC",
            "KNARR_STATE=1:222 CNI_COMMAND=GC",
            "CNI_COMMAND=ADD CNI_CONTAINERID=half CNI_IFNAME=eth0 CNI_PATH=/a:/b",
            "CNI_COMMAND=GC CNI_PATH=/a:/b",
            "",
        ] {
            assert_eq!(work(others), None, "{others}");
        }
    }

    #[test]
    fn a_directory_is_another_by_whatever_name_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&one, dir.path().join("link")).unwrap();
        assert_eq!(owner(&one).unwrap(), owner(&dir.path().join("link")).unwrap());
        assert_ne!(owner(&one).unwrap(), owner(&other).unwrap());
    }
}
