//! One hook's process: made, told, waited for, killed with its children when it takes too long.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, chdir, kill_process_group, set_parent_process_death_signal, setsid,
    umask, waitid,
};

use super::Runner;
use crate::handshake::{self, Handshake, Message, Progress, Reporter, to_rustix};
use crate::init::{self, Command};
use crate::plan::Hook;
use crate::sys::{self, CloneFlags, Cloned, clone_process};
use crate::{FailedStep, Failure};

/// How much of what a hook said last is told about its failure, in bytes.
const MOST_SAID: usize = 400;
/// How long a hook that was killed may take to be gone; one that hangs in the kernel is left to it.
const LEAVE: Duration = Duration::from_secs(1);

/// What became of a hook that failed.
pub(super) enum Fate {
    NotRun(Failure),
    Exited(i32, Said),
    Killed(i32, Said),
    TooLong(u32, Said),
    /// Nobody waits for it any more.
    Abandoned,
}

impl From<Failure> for Fate {
    fn from(failure: Failure) -> Self {
        Self::NotRun(failure)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(failure) => write!(f, "was not run: {failure}"),
            Self::Exited(code, said) => write!(f, "ended with exit code {code}{said}"),
            Self::Killed(signal, said) => write!(f, "was ended by signal {signal}{said}"),
            Self::TooLong(seconds, said) => write!(f, "was killed after {seconds} s{said}"),
            Self::Abandoned => write!(f, "was killed: the start took too long"),
        }
    }
}

/// The last that a hook wrote to standard output or error.
#[derive(Default)]
pub(super) struct Said(Vec<u8>);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match String::from_utf8_lossy(&self.0).trim() {
            "" => Ok(()),
            text => write!(f, ": {text:?}"),
        }
    }
}

impl Said {
    /// Takes what is there; none when nothing can come any more.
    fn read(&mut self, pipe: &OwnedFd) -> Option<()> {
        let mut buffer = [0; 4096];
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => None,
            Ok(length) => {
                self.0.extend_from_slice(&buffer[..length]);
                let surplus = self.0.len().saturating_sub(MOST_SAID);
                self.0.drain(..surplus);
                Some(())
            }
            Err(Errno::INTR | Errno::AGAIN) => Some(()),
            Err(_) => None,
        }
    }
}

/// Runs a hook and waits for it.
pub(super) fn run(runner: &Runner<'_>, hook: &Hook, state: &[u8]) -> Result<(), Fate> {
    let failed = |errno| Failure::system(FailedStep::Stdio, errno, "hook");
    let stdin = state_file(state).map_err(failed)?;
    let (said, output) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    rustix::fs::fcntl_setfl(&said, OFlags::NONBLOCK).map_err(failed)?;
    let (parent_end, reporter) = handshake::pair()?;
    let command = Command::of_hook(hook)?;
    match clone_process(runner.proof, CloneFlags::default(), None)
        .map_err(|errno| Failure::system(FailedStep::Clone, errno, "hook"))?
    {
        Cloned::Child => {
            drop((said, parent_end));
            init::run_child(&reporter, || become_hook(runner, (&stdin, &output), &reporter, &command))
        }
        Cloned::Parent(child) => {
            drop((output, reporter));
            let pid = child.pid();
            let running = Running {
                pid,
                pidfd: child.hand_over().map(|(_, pidfd)| pidfd),
                said,
                handshake: parent_end,
            };
            running.wait(runner, hook.timeout_s)
        }
    }
}

/// A file and no pipe: a hook that doesn't read it holds nobody up.
fn state_file(state: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create("state", MemfdFlags::CLOEXEC)?;
    let mut rest = state;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}

fn become_hook(
    runner: &Runner<'_>,
    (stdin, output): (&OwnedFd, &OwnedFd),
    reporter: &Reporter,
    command: &Command,
) -> Result<(), Failure> {
    let failed = |what: &'static str| move |errno| Failure::system(FailedStep::Prepare, errno, what);
    // Its own session: it is killed with all that it started.
    setsid().map_err(failed("session"))?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("signal of the parent's death"))?;
    rustix::stdio::dup2_stdin(stdin).map_err(failed("standard input"))?;
    rustix::stdio::dup2_stdout(output).map_err(failed("standard output"))?;
    rustix::stdio::dup2_stderr(output).map_err(failed("standard error"))?;
    sys::reset_signal_dispositions();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|errno| failed("signals")(to_rustix(errno)))?;
    umask(Mode::from_raw_mode(0o022));
    chdir(runner.directory).map_err(failed("working directory"))?;
    sys::close_on_exec_above_stdio().map_err(failed("descriptors"))?;
    crate::open_files::give_back().map_err(failed("limit of open files"))?;
    // Before `enter`: behind a filter nothing may be sent.
    reporter.send(&Message::Executing).map_err(failed("report"))?;
    (runner.enter)()?;
    Err(command.execute())
}

/// A hook that runs.
struct Running {
    pid: i32,
    pidfd: Option<OwnedFd>,
    said: OwnedFd,
    handshake: Handshake,
}

/// What a wait ended with.
enum Woken {
    Ended,
    TooLate,
    Abandoned,
}

impl Running {
    fn wait(mut self, runner: &Runner<'_>, timeout_s: Option<u32>) -> Result<(), Fate> {
        let mut said = Said::default();
        let deadline = timeout_s.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        match self.minded(runner, deadline, &mut said) {
            Woken::Ended => self.fate(said),
            Woken::TooLate => {
                self.kill();
                Err(Fate::TooLong(timeout_s.unwrap_or_default(), said))
            }
            Woken::Abandoned => {
                self.kill();
                Err(Fate::Abandoned)
            }
        }
    }

    fn minded(&self, runner: &Runner<'_>, deadline: Option<Instant>, said: &mut Said) -> Woken {
        let mut listens = true;
        while let Some(pidfd) = &self.pidfd {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Woken::TooLate;
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let output = if listens { PollFlags::IN } else { PollFlags::empty() };
            let mut polled = vec![PollFd::new(pidfd, PollFlags::IN)];
            if listens {
                polled.push(PollFd::new(&self.said, output));
            }
            let at = polled.len();
            polled.extend(
                runner.watched.map(|watched| PollFd::from_borrowed_fd(watched.as_fd(), PollFlags::empty())),
            );
            let ready = poll(&mut polled, left.as_ref());
            let is_ready =
                |at: usize| ready.is_ok() && polled.get(at).is_some_and(|p| !p.revents().is_empty());
            if is_ready(at) {
                return Woken::Abandoned;
            }
            if listens && is_ready(1) {
                listens = said.read(&self.said).is_some();
            }
            if is_ready(0) {
                // What is there by now; somebody that it left behind may hold the pipe open.
                for _ in 0..16 {
                    let _ = said.read(&self.said);
                }
                break;
            }
        }
        Woken::Ended
    }

    fn fate(&mut self, said: Said) -> Result<(), Fate> {
        let Some(pidfd) = &self.pidfd else { return Ok(()) };
        let status =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
        if let Progress::Failed(failure) = self.handshake.receive() {
            return Err(Fate::NotRun(failure));
        }
        match status.ok().flatten().map(|status| (status.exit_status(), status.terminating_signal())) {
            Some((Some(0), _)) => Ok(()),
            Some((_, Some(signal))) => Err(Fate::Killed(signal, said)),
            Some((Some(code), None)) => Err(Fate::Exited(code, said)),
            Some((None, None)) | None => Err(Fate::Killed(0, said)),
        }
    }

    /// With everything in its session's first group: it leads that, and was not waited for, so that the number
    /// means no other.
    fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let Some(pidfd) = &self.pidfd else { return };
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        let leave = Timespec::try_from(LEAVE).ok();
        let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], leave.as_ref());
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}
