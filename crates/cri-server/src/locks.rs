//! The locks on the daemon's directories: one daemon has them, for as long as it lives.
//!
//! A lock is flock(2)'s, and the open file's, so processes that the daemon starts have it too from their fork until they execute. That
//! is wanted: while one of a killed daemon's is about to execute a supervisor or a plugin, no other daemon should look for what is
//! there. It is also why a lock is waited for: such a process outlives a `kill -9` by a moment, and is no daemon. None of them can
//! let go of the lock for the daemon, since closing a descriptor is not unlocking (flock(2)).
//!
//! Not here: making the directories (see `serve`), the bridge's owner (see `cni`).

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::serve::ServeError;

/// How long a lock is waited for. From fork to execve is less than a millisecond's work, for a process that may have to wait for its
/// turn on a busy node. It is also what somebody waits for who starts a second daemon.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is tried meanwhile.
const INTERVAL: Duration = Duration::from_millis(10);

/// Two daemons on one state directory would take each other's pods for leftovers, and on one root what belongs to them.
/// The lock lasts until the file is closed. Safe to cancel.
///
/// # Errors
/// [`ServeError::Locked`] when another daemon still has it after [`PATIENCE`].
pub(crate) async fn lock(directory: &Path, name: &str) -> Result<File, ServeError> {
    let path = directory.join(name);
    let failed = |action, cause| ServeError::File { action, path: path.clone(), cause };
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|cause| failed("opening the lock", cause))?;
    let end = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(cause)) => return Err(failed("locking", cause)),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => {
                return Err(ServeError::Locked { path: directory.to_owned(), holders: holders(&path) });
            }
            Err(TryLockError::WouldBlock) => sleep(INTERVAL).await,
        }
    }
}

/// Who has the lock, for a person: processes with their command lines, by what the kernel says of their open files.
fn holders(path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found: Vec<_> = numbered.filter(|pid| has_locked(*pid, &path)).map(described).collect();
    if found.is_empty() { "a process that can't be seen from here".to_owned() } else { found.join(", ") }
}

/// Whether one of a process's descriptors is this file with a lock on it (proc_pid_fdinfo(5)): whoever waits for the lock has the file
/// open as well. Compared by name, which never waits for a file system as looking at the file would.
fn has_locked(pid: u32, path: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let mut same = descriptors.filter(|one| fs::read_link(one.path()).is_ok_and(|target| target == path));
    same.any(|one| {
        let information = fs::read_to_string(process.join("fdinfo").join(one.file_name()));
        information.is_ok_and(|text| text.lines().any(|line| line.starts_with("lock:")))
    })
}

fn described(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    format!("process {pid} (\"{command}\")")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A process that has the lock as its own does, as one between fork and execve.
    fn child_with(lock: &File) -> Child {
        Command::new("sleep").arg("1000").stdin(Stdio::from(lock.try_clone().unwrap())).spawn().unwrap()
    }

    #[tokio::test]
    async fn a_lock_that_is_about_to_be_let_go_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path(), "lock").await.unwrap();
        let mut child = child_with(&held);
        drop(held);
        assert!(File::open(directory.path().join("lock")).unwrap().try_lock().is_err(), "the child has it");
        let killed = async {
            sleep(INTERVAL).await;
            child.kill().and_then(|()| child.wait()).unwrap();
        };
        let (second, ()) = tokio::join!(lock(directory.path(), "lock"), killed);
        assert!(second.is_ok(), "{second:?}");
    }

    #[tokio::test]
    async fn who_keeps_a_lock_is_named_and_who_waits_for_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path(), "lock").await.unwrap();
        let mut child = child_with(&held);
        drop(held);
        let mut waiting = Command::new("sleep")
            .arg("1001")
            .stdin(File::open(directory.path().join("lock")).unwrap())
            .spawn();
        tokio::time::pause();
        let error = lock(directory.path(), "lock").await.unwrap_err().to_string();
        for process in [Some(&mut child), waiting.as_mut().ok()].into_iter().flatten() {
            process.kill().and_then(|()| process.wait()).unwrap();
        }
        let taken = format!("another daemon runs on \"{}\": ", directory.path().display());
        assert!(error.starts_with(&taken), "{error}");
        assert!(error.contains(&format!("process {} (\"sleep 1000\")", child.id())), "{error}");
        assert!(!error.contains("sleep 1001"), "{error}");
    }

    #[tokio::test]
    async fn what_a_daemon_starts_does_not_let_go_of_its_lock() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path(), "lock").await.unwrap();
        let mut child = child_with(&held);
        child.kill().and_then(|()| child.wait()).unwrap();
        tokio::time::pause();
        let second = lock(directory.path(), "lock").await;
        assert!(matches!(second, Err(ServeError::Locked { .. })), "{second:?}");
        drop(held);
    }
}
