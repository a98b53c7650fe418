//! Plugins that are started with the runtime: the executable files of a directory, named `10-name`.
//!
//! Each gets its end of a connection as descriptor 3 and is told so, and who it is, by its environment, which has nothing else
//! (github.com/containerd/nri, pkg/api/plugin.go). Its configuration is the text of `10-name.conf` or `name.conf`. One that ends is
//! not started again; one that is cut off is killed.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, pidfd_open, pidfd_send_signal,
    waitid, waitpid,
};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::hub::Core;
use crate::plugin::Name;
use crate::session::{self, Known};

/// The descriptor that a plugin finds its connection at.
const DESCRIPTOR: i32 = 3;

/// How long a plugin may take to end when its connection has.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// A plugin that is to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    file: PathBuf,
    known: Known,
}

/// The plugins of a directory, in their order. A file whose name is no plugin's is passed over with a word.
///
/// # Errors
/// [`Error::File`] when the directory is there and can't be read.
pub(crate) fn find(plugins: &Path, configurations: &Path) -> Result<Vec<Launch>, Error> {
    let failed =
        |cause| Error::File { action: "reading the directory of plugins", path: plugins.to_owned(), cause };
    let entries = match std::fs::read_dir(plugins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let file = entry.map_err(failed)?.path();
        let is_program = |data: std::fs::Metadata| data.is_file() && data.permissions().mode() & 0o111 != 0;
        if !std::fs::metadata(&file).is_ok_and(is_program) {
            continue;
        }
        let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
        match Name::of_file(name).and_then(|name| Ok((configuration(configurations, &name)?, name))) {
            Ok((config, name)) => found.push(Launch { file, known: Known { name, config } }),
            Err(why) => tracing::warn!(file = %file.display(), why, "a plugin is not started"),
        }
    }
    found.sort_by(|one, other| one.known.name.cmp(&other.known.name));
    Ok(found)
}

fn configuration(directory: &Path, name: &Name) -> Result<String, String> {
    for file in configuration_files(directory, name) {
        match std::fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            read => return read.map_err(|error| format!("reading \"{}\": {error}", file.display())),
        }
    }
    Ok(String::new())
}

/// Starts a plugin and serves it until its connection ends, and then it ends.
pub(crate) async fn run(core: Arc<Core>, launch: Launch, joined: oneshot::Sender<()>) {
    let started = start(&launch);
    match started {
        Err(error) => {
            tracing::warn!(plugin = %launch.known.name, %error, "a plugin can't be started");
        }
        Ok((process, socket)) => {
            tracing::info!(plugin = %launch.known.name, pid = process.pid.as_raw_nonzero().get(), "a plugin is started");
            session::serve(core, socket, Some(launch.known), joined).await;
            process.end().await;
        }
    }
}

/// A plugin's process. Dropping it kills it.
struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

fn start(launch: &Launch) -> io::Result<(Process, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let name = &launch.known.name;
    let file = CString::new(launch.file.as_os_str().as_bytes())?;
    let environment = [
        format!("NRI_PLUGIN_NAME={}", name.base),
        format!("NRI_PLUGIN_IDX={}", name.index),
        format!("NRI_PLUGIN_SOCKET={DESCRIPTOR}"),
    ];
    let environment: Vec<CString> = environment.into_iter().map(CString::new).collect::<Result<_, _>>()?;
    let mut actions = PosixSpawnFileActions::init()?;
    let null = CString::new("/dev/null")?;
    actions.add_open(0, null.as_c_str(), nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty())?;
    // Standard output is where the runtime says that it serves.
    actions.add_dup2(2, 1)?;
    actions.add_dup2(theirs.as_raw_fd(), DESCRIPTOR)?;
    let attributes = signals()?;
    let pid = posix_spawn(file.as_c_str(), &actions, &attributes, &[file.as_c_str()], &environment)?;
    let pid = Pid::from_raw(pid.as_raw()).ok_or_else(|| io::Error::other("a process without a number"))?;
    // A child that nobody has waited for keeps its number.
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| reap(pid))?;
    Ok((Process { pid, pidfd }, UnixStream::from_std(ours)?))
}

/// None is blocked in a plugin, nor ignored: this process ignores SIGPIPE, and that would be inherited.
fn signals() -> io::Result<PosixSpawnAttr> {
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_sigmask(&SigSet::empty())?;
    Ok(attributes)
}

/// Ends a child that can't be watched, and waits for it, which takes no time.
fn reap(pid: Pid) {
    let _has_ended = kill_process(pid, Signal::KILL);
    let _reaped = waitpid(Some(pid), WaitOptions::empty());
}

impl Process {
    /// Waits for its end, for which it has a moment before it is killed.
    async fn end(self) {
        if !self.ended_within(PATIENCE).await {
            tracing::warn!(
                pid = self.pid.as_raw_nonzero().get(),
                "a plugin does not end by itself, and is killed"
            );
            let _has_ended = pidfd_send_signal(&self.pidfd, Signal::KILL);
            self.ended_within(PATIENCE).await;
        }
    }

    async fn ended_within(&self, patience: Duration) -> bool {
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < patience {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if waitid(WaitId::PidFd(self.pidfd.as_fd()), look).is_ok_and(|status| status.is_some()) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _has_ended = pidfd_send_signal(&self.pidfd, Signal::KILL);
        // One that the kernel still holds is init's when this process has gone: nobody waits for it here.
        let _reaped =
            waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Where a plugin's configuration may be, the first one that is there counts.
fn configuration_files(directory: &Path, name: &Name) -> [PathBuf; 2] {
    [format!("{name}.conf"), format!("{}.conf", name.base)].map(|file| directory.join(file))
}
