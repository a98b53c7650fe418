//! Plugins that another daemon started and left running when it was killed.
//!
//! Such a plugin goes on: its ADD would make what the DEL of the cut-short attachment has just looked for in vain, its GC
//! take away the addresses of pods that it has never heard of. So before anything else is done they are ended, as at
//! their deadline. They are known by their environment, which their own children inherit: our plugin directories, and an
//! attachment of our journal (or a collection, which is of none).
//!
//! One that the daemon hadn't told its configuration yet finds its input at its end, and does nothing.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::attachment::AttachmentId;

/// How long all of them have to be gone after SIGKILL. What the kernel holds longer is stuck in it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends them, and returns when they are gone.
///
/// Only for a process that has started no plugin yet: it couldn't tell its own from others.
pub(crate) fn end(cni_path: &OsStr, recorded: &[AttachmentId]) {
    let mark = Mark { cni_path, recorded: recorded.iter().collect() };
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Again and again, as one may have started another before it ended.
        let found: Vec<(Pid, OwnedFd)> = processes().filter_map(|pid| mark.find(pid)).collect();
        if found.is_empty() {
            return;
        }
        for (pid, process) in found {
            tracing::warn!(pid = pid.as_raw_nonzero(), "ends a CNI plugin that a killed daemon left running");
            // It may have ended by itself.
            let _ = pidfd_send_signal(&process, Signal::KILL);
            wait(&process, deadline);
        }
        if Instant::now() >= deadline {
            tracing::error!("CNI plugins of a killed daemon can't be ended");
            return;
        }
    }
}

/// What they are known by.
struct Mark<'a> {
    cni_path: &'a OsStr,
    recorded: HashSet<&'a AttachmentId>,
}

impl Mark<'_> {
    /// The process, if it is one of them. It is opened first, so that its number can't become another's.
    fn find(&self, pid: Pid) -> Option<(Pid, OwnedFd)> {
        if !self.is_on(&environment(pid)) {
            return None;
        }
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        self.is_on(&environment(pid)).then_some((pid, process))
    }

    fn is_on(&self, environment: &[u8]) -> bool {
        let value = |name: &[u8]| {
            environment
                .split(|byte| *byte == 0)
                .find_map(|variable| variable.strip_prefix(name)?.strip_prefix(b"="))
        };
        let Some(command) = value(b"CNI_COMMAND") else { return false };
        if value(b"CNI_PATH") != Some(self.cni_path.as_bytes()) {
            return false;
        }
        let text = |name: &[u8]| String::from_utf8_lossy(value(name).unwrap_or_default()).into_owned();
        let id = AttachmentId { container_id: text(b"CNI_CONTAINERID"), ifname: text(b"CNI_IFNAME") };
        command == b"GC" || self.recorded.contains(&id)
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Pid::from_raw)
}

/// Empty for one that has ended, and for the kernel's own.
fn environment(pid: Pid) -> Vec<u8> {
    std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default()
}

fn wait(process: &OwnedFd, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    // Whether it has gone is looked at again.
    let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout));
}

/// The value of `CNI_PATH`; empty when a directory's name has a colon, as no plugin can be told of it.
pub(crate) fn cni_path(bin_dirs: &[std::path::PathBuf]) -> OsString {
    std::env::join_paths(bin_dirs).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_marked(environment: &str) -> bool {
        let ours = AttachmentId { container_id: "pod1".into(), ifname: "eth0".into() };
        let mark = Mark { cni_path: OsStr::new("/a:/b"), recorded: HashSet::from([&ours]) };
        mark.is_on(environment.replace(' ', "\0").as_bytes())
    }

    #[test]
    fn only_what_works_on_our_attachments_is_ours() {
        assert!(is_marked("A=B CNI_COMMAND=ADD CNI_CONTAINERID=pod1 CNI_IFNAME=eth0 CNI_PATH=/a:/b"));
        assert!(is_marked("CNI_COMMAND=GC CNI_PATH=/a:/b"));
        for others in [
            "CNI_COMMAND=ADD CNI_CONTAINERID=pod2 CNI_IFNAME=eth0 CNI_PATH=/a:/b",
            "CNI_COMMAND=ADD CNI_CONTAINERID=pod1 CNI_IFNAME=eth1 CNI_PATH=/a:/b",
            "CNI_COMMAND=ADD CNI_CONTAINERID=pod1 CNI_IFNAME=eth0 CNI_PATH=/a",
            "CNI_CONTAINERID=pod1 CNI_IFNAME=eth0 CNI_PATH=/a:/b",
            "CNI_COMMAND=STATUS CNI_PATH=/a:/b",
            "",
        ] {
            assert!(!is_marked(others), "{others}");
        }
    }
}
