//! One call of an external runtime's program: started, minded by its pidfd, read when it has failed.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use super::super::process::{Ended, Process, children, identify};
use crate::container::stat_field;
use crate::external::External;
use crate::{FailedStep, Failure, FailureKind, regular, sys};

/// Where programs that a runtime needs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of what a program has written is read, from its end.
const LONGEST_REPORT: u64 = 64 << 10;
/// How much of it is told.
const LONGEST_MESSAGE: usize = 1024;

/// Generations of processes below a program that are looked for when it is killed. runc has three.
const GENERATIONS: usize = 8;

/// A file of one call, removed with this.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// What a runtime is to do.
pub(super) struct Order<'a> {
    pub(super) external: &'a External,
    /// As in "create".
    pub(super) verb: &'static str,
    pub(super) arguments: Vec<OsString>,
    /// Its standard streams, when they are a workload's.
    pub(super) streams: Option<[OwnedFd; 3]>,
    /// Begins the names of the call's files.
    pub(super) name: &'a str,
    pub(in crate::supervisor) until: Instant,
}

/// A call.
#[derive(Debug)]
pub(in crate::supervisor) struct Call {
    /// The program.
    pub(in crate::supervisor) process: Process,
    verb: &'static str,
    report: Scratch,
    /// When it counts as hanging.
    pub(in crate::supervisor) until: Instant,
}

impl Call {
    /// Starts the program.
    pub(super) fn begin(order: Order<'_>) -> Result<Self, Failure> {
        let report = Scratch(order.external.bundle.join(format!("{}-{}.log", order.name, order.verb)));
        let failed = |error: &std::io::Error| failure(order.verb, error.to_string(), error.raw_os_error());
        let mut command = Command::new(&order.external.runtime.path);
        command.args(&order.external.runtime.args);
        command.arg("--log").arg(&report.0).args(["--log-format", "json"]);
        command.arg(order.verb).args(&order.arguments);
        // A group of its own: a signal to the supervisor's is not for it.
        command.current_dir(&order.external.bundle).env_clear().env("PATH", PATH).process_group(0);
        match order.streams {
            Some([stdin, stdout, stderr]) => command.stdin(stdin).stdout(stdout).stderr(stderr),
            None => {
                let stderr = regular::create(&report.0).map_err(|error| failed(&error))?;
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr)
            }
        };
        // What is blocked here the workload would have blocked: runtimes hand their own mask on, and their limits.
        sys::shed_in(&mut command);
        // Directories that it makes in the root are for everybody.
        let before = rustix::process::umask(Mode::WGRP | Mode::WOTH);
        let spawned = command.spawn();
        rustix::process::umask(before);
        let mut child = spawned.map_err(|error| failed(&error))?;
        match identify(child.id().cast_signed()) {
            Ok(process) => Ok(Self { process, verb: order.verb, report, until: order.until }),
            Err(error) => {
                // Not waited for here, it would be a zombie for ever.
                let _ = child.kill().and_then(|()| child.wait());
                Err(failed(&error.into()))
            }
        }
    }

    /// What came of it, when it has ended.
    pub(super) fn outcome(&self) -> Option<Result<(), Failure>> {
        let ended = self.process.reap()?;
        Some(match ended {
            Ended { code: 0, signal: None } => Ok(()),
            Ended { code, signal } => Err(self.failed(match signal {
                Some(signal) => format!("killed by signal {signal}"),
                None => format!("exit status {code}"),
            })),
        })
    }

    /// Kills it with all that it has started.
    pub(in crate::supervisor) fn kill(&self) {
        for descendant in descendants(self.process.pid).into_iter().rev() {
            let _ended = pidfd_send_signal(&descendant, Signal::KILL);
        }
        self.process.kill();
    }

    /// Leaves the process to the caller, who waits for it. Its files are removed.
    pub(super) fn into_process(self) -> Process {
        self.process
    }

    /// What is told when its time is over.
    pub(super) fn too_late(&self) -> Failure {
        let said = message(&self.report.0).map(|said| format!(": {said}")).unwrap_or_default();
        failure(self.verb, format!("it took too long{said}"), Some(Errno::TIMEDOUT.raw_os_error()))
    }

    /// A failure of this operation: what the program has said, or else `otherwise`.
    pub(super) fn failed(&self, otherwise: String) -> Failure {
        failure(self.verb, message(&self.report.0).unwrap_or(otherwise), None)
    }
}

/// A failed operation of a runtime.
pub(super) fn failure(verb: &str, why: String, errno: Option<i32>) -> Failure {
    let subject = format!("{verb}: {why}");
    Failure { kind: FailureKind::System, step: FailedStep::ExternalRuntime, errno, subject }
}

/// The process that a runtime has written down in a pid file: an orphan of the runtime's, and so a child of this process.
pub(super) fn adopt(path: &Path) -> Result<Process, String> {
    let bytes = regular::first(path, 32).map_err(|error| format!("its pid file: {error}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1);
    let pid = pid.ok_or_else(|| format!("its pid file says {text:?}"))?;
    let process = identify(pid).map_err(|error| match error {
        Errno::SRCH => format!("process {pid} of its pid file is gone"),
        error => format!("process {pid} of its pid file: {error}"),
    })?;
    // By the descriptor: a child that has not been waited for keeps its number.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::PidFd(process.as_fd()), options) {
        Ok(_) => Ok(process),
        Err(_) => Err(format!("process {pid} of its pid file is none of its own")),
    }
}

/// The end of what a program has written: the last message of its log, or else its last words.
fn message(report: &Path) -> Option<String> {
    let bytes = regular::last(report, LONGEST_REPORT).ok()?;
    said(&String::from_utf8_lossy(&bytes))
}

/// The last error of a log in JSON (as of logrus, which runc's format is), or else the last line that is none of a log's.
fn said(text: &str) -> Option<String> {
    let mut words = None;
    for line in text.lines().rev().map(str::trim).filter(|line| !line.is_empty()) {
        let entry: Option<serde_json::Value> =
            serde_json::from_str(line).ok().filter(serde_json::Value::is_object);
        let Some(entry) = entry else {
            words = words.or(Some(line));
            continue;
        };
        let is_error = |level: &str| matches!(level, "error" | "fatal" | "panic");
        let matters = entry.get("level").and_then(|level| level.as_str()).is_none_or(is_error);
        if let Some(message) = entry.get("msg").and_then(|message| message.as_str()).filter(|_| matters) {
            return Some(cut(message));
        }
    }
    words.map(cut)
}

fn cut(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(LONGEST_MESSAGE).collect()
}

/// The processes below one, parents before children.
fn descendants(pid: i32) -> Vec<OwnedFd> {
    let mut all = Vec::new();
    let mut generation = vec![pid];
    for _ in 0..GENERATIONS {
        let mut next = Vec::new();
        for parent in generation {
            for pid in children(parent) {
                if let Some(child) = open_child(parent, pid) {
                    all.push(child);
                    next.push(pid);
                }
            }
        }
        generation = next;
    }
    all
}

/// A child of a process's, by a number that may have come to mean another since it was listed: once the descriptor is there,
/// what it means stays, so the parent is looked at again then.
fn open_child(parent: i32, pid: i32) -> Option<OwnedFd> {
    /// Of /proc/PID/stat.
    const PARENT: usize = 4;
    let child = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let is_its = stat_field(pid, PARENT).is_ok_and(|found| i32::try_from(found) == Ok(parent));
    is_its.then_some(child)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_told() {
        let log = "{\"level\":\"error\",\"msg\":\"first\"}\n\
                   {\"level\":\"error\",\"msg\":\"exec: \\\"nope\\\": not found\"}\n\
                   {\"level\":\"warning\",\"msg\":\"and a warning\"}\nplain words\n";
        assert_eq!(said(log).as_deref(), Some("exec: \"nope\": not found"));
        assert_eq!(said("{\"msg\":\"crun says no level\"}").as_deref(), Some("crun says no level"));
        assert_eq!(said("{\"level\":\"info\",\"msg\":\"fine\"}\npanic: x\n\n").as_deref(), Some("panic: x"));
        assert_eq!(said("\n{}\n"), None);
        assert_eq!(said(&"x\u{1b}".repeat(5000)).map(|text| text.len()), Some(LONGEST_MESSAGE));
    }

    #[test]
    fn a_number_that_means_another_process_by_now_is_not_a_descendant() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 1000 & echo; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = shell.id().cast_signed();
        let listed = children(pid);
        let (below, of_it) = (descendants(pid), open_child(pid, listed[0]));
        // As if the number had been given to somebody else's child between the listing and the opening.
        let others = [open_child(pid, std::process::id().cast_signed()), open_child(pid, pid)];
        for child in &below {
            pidfd_send_signal(child, Signal::KILL).unwrap();
        }
        shell.wait().unwrap();
        assert!((below.len(), of_it.is_some()) == (1, true) && others.iter().all(Option::is_none));
    }

    #[test]
    fn a_pid_file_names_a_child_of_this_process_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        for (text, why) in [("", "says \"\""), ("0", "says"), ("-1", "says"), ("1", "says"), ("x", "says")] {
            std::fs::write(&path, text).unwrap();
            assert!(adopt(&path).unwrap_err().contains(why), "{text:?}");
        }
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        std::fs::write(&path, parent.to_string()).unwrap();
        assert!(adopt(&path).unwrap_err().contains("none of its own"));
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(&path, format!("{}\n", child.id())).unwrap();
        let adopted = adopt(&path).map(|process| process.pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(adopted, Ok(child.id().cast_signed()));
    }
}
