//! Starting a supervisor, and finding one that an earlier daemon started.
//!
//! The daemon binds the socket and the supervisor gets it as its standard input, so a connection can be made before the supervisor's first
//! instruction: nothing is waited for, nothing polled. A supervisor that doesn't answer is told from one that is gone: the first has a
//! pod to be kept.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use runtime::cgroup::Cgroup;
use runtime::supervisor::{Arguments, Begin};
use runtime::wire::{Listener, Socket, WireError};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, Command};

use crate::error::Error;
use crate::id::{ContainerId, PodId};
use crate::pod::namespace::NetworkNamespace;
use crate::pod::state::ProcessId;
use crate::recover::Seen;
use crate::supervisor::Minder;
use crate::supervisor::client::Client;
use crate::supervisor::connection::Connection;

/// The supervisor's socket in its pod's directory.
const SOCKET: &str = "supervisor.sock";

/// The supervisor binary, opened once through a read-only mount of its own: no container process can reach a writable file by way
/// of it (CVE-2019-5736), and all supervisors of this daemon are of one version, whatever is installed meanwhile.
#[derive(Debug)]
pub(crate) struct Binary {
    executable: OwnedFd,
    path: PathBuf,
}

impl Binary {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::Step`] when it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let executable = runtime::mount::open_executable(path).map_err(|cause| {
            Error::step("opening the supervisor binary", path.display().to_string(), cause)
        })?;
        Ok(Self { executable, path: path.to_owned() })
    }

    /// The open file.
    pub(crate) fn executable(&self) -> &OwnedFd {
        &self.executable
    }

    /// Starts a supervisor for a pod. It waits to be connected to before it enters its cgroup, which may be made meanwhile.
    ///
    /// # Errors
    /// [`Error::Step`].
    pub(crate) fn start(
        &self,
        pod: &PodId,
        directory: &Path,
        cgroup: &Cgroup,
        open_files: Option<u64>,
    ) -> Result<Started, Error> {
        let subject = pod.to_string();
        let failed = |cause| Error::step("starting the supervisor", subject.clone(), cause);
        let socket = listen(directory).map_err(failed)?;
        let arguments = Arguments {
            pod: subject.clone(),
            directory: directory.to_owned(),
            cgroup: Some(cgroup.clone()),
            begin: Begin::Called,
            open_files,
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(directory.join("supervisor.log"))
            .map_err(failed)?;
        let child = Command::new(format!("/proc/self/fd/{}", self.executable.as_raw_fd()))
            .arg0(&self.path)
            .args(arguments.to_vec())
            .env_clear()
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(failed)?;
        // Whatever fails from here on, also by a deadline: a supervisor that nobody is connected to has to go.
        let orphan = Orphan::of(&child).map_err(failed)?;
        Ok(Started { child, orphan })
    }
}

/// A supervisor that was started; dropping this kills it.
pub(crate) struct Started {
    child: Child,
    orphan: Orphan,
}

/// What becomes of the process that was started, where the supervisor is a clone of it in a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starter {
    /// It ends when it does.
    LetGo,
    /// It is in the cgroup above that of its clone, where nobody may be who is to hand controllers down: its end is waited for.
    Awaited,
}

impl Started {
    /// The process that was started. Which process minds the pod is what the supervisor says: it may have put itself into its
    /// cgroup by a clone of itself.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Connects to it, which it waits for. Not safe to cancel without taking the pod's cgroup down.
    ///
    /// # Errors
    /// [`Error::Step`].
    pub(crate) async fn connect(
        mut self,
        pod: &PodId,
        directory: &Path,
        starter: Starter,
    ) -> Result<Minder, Error> {
        let minder = connect(pod, directory, Duration::MAX).await.map_err(NoMinder::error)?;
        if starter == Starter::Awaited && self.pid().cast_signed() != minder.process.pid {
            let ended = self.child.wait().await;
            ended.map_err(|cause| Error::step("starting the supervisor", pod.as_str(), cause))?;
        }
        // Reaped by the async runtime when it ends; it is meant to outlive this handle and this daemon.
        self.orphan.0 = None;
        Ok(minder)
    }
}

/// A supervisor that is not connected yet; dropping this kills it.
struct Orphan(Option<OwnedFd>);

impl Orphan {
    fn of(child: &Child) -> std::io::Result<Self> {
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| std::io::Error::other("it ended at once"))?;
        Ok(Self(Some(pidfd_open(pid, PidfdFlags::empty())?)))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            // ESRCH: it has ended by itself.
            let _gone = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

fn listen(directory: &Path) -> std::io::Result<OwnedFd> {
    match std::fs::remove_file(directory.join(SOCKET)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(Listener::bind(directory, SOCKET).map_err(std::io::Error::other)?.into_descriptor())
}

/// What came of an attempt to reach a supervisor.
#[derive(Debug)]
pub(crate) enum Contact {
    /// It answers, and says what runs.
    Answers(Minder, BTreeMap<ContainerId, Seen>),
    /// It lives, as far as can be told, but doesn't answer.
    Silent(Error),
    /// There is none.
    Gone(Error),
}

/// Looks for the supervisor of a pod. `expected` is the process that it was, where that is known.
///
/// Safe to cancel.
pub(crate) async fn reach(
    pod: &PodId,
    directory: &Path,
    (expected, after): (Option<ProcessId>, Duration),
) -> Contact {
    let mut minder = match connect(pod, directory, after).await {
        Ok(minder) => minder,
        Err(NoMinder::Silent(error)) => return Contact::Silent(error),
        Err(NoMinder::Gone(error)) => return Contact::Gone(error),
    };
    if let Some(expected) = expected.filter(|expected| *expected != minder.process) {
        return Contact::Gone(not_the_same(expected, minder.process));
    }
    match minder.client.snapshot(after).await {
        Ok((snapshot, netns)) => {
            minder.netns = netns.map(|at| Arc::new(NetworkNamespace::hold(at, &minder.client)));
            Contact::Answers(minder, snapshot)
        }
        Err(error) => Contact::Silent(error),
    }
}

fn not_the_same(recorded: ProcessId, found: ProcessId) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error("process {found} answers where {recorded} should")]
    struct NotTheSame {
        recorded: i32,
        found: i32,
    }
    let cause = NotTheSame { recorded: recorded.pid, found: found.pid };
    Error::step("recognising the supervisor", found.pid.to_string(), cause)
}

/// Why there is no connection.
enum NoMinder {
    Silent(Error),
    Gone(Error),
}

impl NoMinder {
    fn error(self) -> Error {
        match self {
            Self::Silent(error) | Self::Gone(error) => error,
        }
    }
}

/// Connects to the supervisor of a pod. Nobody listens on the socket of one that has ended, and only of one that has.
async fn connect(pod: &PodId, directory: &Path, after: Duration) -> Result<Minder, NoMinder> {
    let step = "connecting to the supervisor";
    let socket = Socket::connect(directory, SOCKET).map_err(|cause| match cause {
        WireError::Closed => NoMinder::Gone(Error::step(step, pod.as_str(), cause)),
        cause => NoMinder::Silent(Error::step(step, pod.as_str(), cause)),
    })?;
    let (connection, news) = Connection::new(socket, pod.as_str()).map_err(NoMinder::Silent)?;
    let client = Client::new(connection);
    let (minds, pid) = client.hello(after).await.map_err(NoMinder::Silent)?;
    let other = |what: String| NoMinder::Gone(Error::step(step, pod.as_str(), std::io::Error::other(what)));
    if minds != pod.as_str() {
        return Err(other(format!("it minds pod {minds}")));
    }
    let minder = Minder::new(client, news, pid).map_err(NoMinder::Silent)?;
    minder.ok_or_else(|| other(format!("its process {pid} is gone")))
}
