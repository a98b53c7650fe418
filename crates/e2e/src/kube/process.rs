//! A program of a rig, inside of the node's network, with its output in a file.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Ground;

/// A running program; it ends when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// How long a program may take to end when it is asked to: kubelet closes its connections, etcd its files.
const END: Duration = Duration::from_secs(15);

impl Process {
    /// Starts it; what it prints is added to `log/<name>.log` of the ground.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(ground: &Ground, mut command: Command) -> Self {
        let program = Path::new(command.get_program()).file_name().expect("a program");
        let name = program.to_string_lossy().into_owned();
        let log = ground.path("log").join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log")).stderr(file);
        // Ctrl-C is for the run alone, which ends what it has started in its order.
        command.process_group(0);
        let spawned = ground.host.run(|| command.spawn());
        let child = spawned.unwrap_or_else(|error| panic!("starting {name}: {error}"));
        Self { name, child, log }
    }

    /// Asks it to end and waits until it has; ends it when it doesn't.
    ///
    /// # Panics
    /// When the kernel doesn't give a descriptor for it.
    pub fn stop(self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let raw = rustix::process::Pid::from_child(&self.child);
        let process =
            rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).expect("a pidfd");
        let _ = kill(pid, Signal::SIGTERM);
        let timeout = PollTimeout::try_from(END).expect("less than a month");
        let _ = poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout);
    }

    /// Whether it still runs; else how it ended, with the last lines of what it printed.
    ///
    /// # Errors
    /// When it has ended.
    pub fn running(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            ended => Err(format!("{} has ended: {ended:?}\n{}", self.name, tail(&self.log, 20))),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log.
pub(super) fn tail(log: &Path, count: usize) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
