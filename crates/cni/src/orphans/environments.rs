//! What the processes of the host were started with, read without waiting for any of them for long.
//!
//! A process's environment is read under the lock of its memory, which one that is stuck in the kernel (a dead file server) may
//! hold for ever. So it is read on a thread that may be left behind, until a deadline, and processes that are in the kernel
//! just now come last. Their state is told without that lock.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// How long one process is waited for. A busy machine answers within that, one that is stuck hardly ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads them.
pub(super) struct Environments {
    deadline: Instant,
    reader: Option<Reader>,
    unread: HashSet<Pid>,
}

impl Environments {
    /// Nothing is read after the deadline.
    pub(super) fn until(deadline: Instant) -> Environments {
        Environments { deadline, reader: None, unread: HashSet::new() }
    }

    /// All processes beside this one, those that are in the kernel last.
    pub(super) fn processes(&self) -> Vec<Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let others = pids.filter_map(Pid::from_raw).filter(|pid| *pid != rustix::process::getpid());
        let mut processes: Vec<Pid> = others.collect();
        processes.sort_by_cached_key(|pid| is_in_kernel(*pid));
        processes
    }

    /// What a process was started with: nothing for one that has ended, the kernel's own, and one that can't be read in time.
    pub(super) fn of(&mut self, pid: Pid) -> Vec<u8> {
        if self.unread.contains(&pid) {
            return Vec::new();
        }
        let environment = self.read(Path::new(&format!("/proc/{}/environ", pid.as_raw_nonzero())));
        environment.unwrap_or_else(|| {
            self.unread.insert(pid);
            Vec::new()
        })
    }

    /// How many couldn't be read.
    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }

    fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        let left = self.deadline.checked_duration_since(Instant::now())?;
        let reader = self.reader.take().map_or_else(Reader::start, Ok).ok()?;
        let content = reader.read(path, left.min(PATIENCE))?;
        // One that doesn't answer is left behind: it ends with its read, or with us.
        self.reader = Some(reader);
        Some(content)
    }
}

/// State `D` of proc_pid_stat(5).
fn is_in_kernel(pid: Pid) -> bool {
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The name before it may hold anything.
    let name_end = stat.iter().rposition(|byte| *byte == b')');
    name_end.is_some_and(|end| stat[end..].starts_with(b") D "))
}

/// A thread that reads files.
struct Reader {
    wanted: Sender<PathBuf>,
    contents: Receiver<Vec<u8>>,
}

impl Reader {
    fn start() -> io::Result<Reader> {
        let (wanted, paths) = channel::<PathBuf>();
        let (answers, contents) = channel();
        let serve = move || {
            for path in paths {
                if answers.send(fs::read(path).unwrap_or_default()).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("environments".into()).spawn(serve)?;
        Ok(Reader { wanted, contents })
    }

    /// The content, empty if there is none. The reader is of no use any more when it took too long.
    fn read(&self, path: &Path, patience: Duration) -> Option<Vec<u8>> {
        self.wanted.send(path.to_owned()).ok()?;
        self.contents.recv_timeout(patience).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_answers_keeps_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (stuck, fine) = (dir.path().join("stuck"), dir.path().join("fine"));
        // Nobody writes: a read waits already when it opens it.
        nix::unistd::mkfifo(&stuck, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(&fine, b"A=B").unwrap();
        let mut environments = Environments::until(Instant::now() + 20 * PATIENCE);
        assert_eq!(environments.read(&fine), Some(b"A=B".to_vec()));
        assert_eq!(environments.read(&stuck), None);
        assert_eq!(environments.read(&fine), Some(b"A=B".to_vec()));
        // Lets the thread that was left behind end.
        fs::OpenOptions::new().write(true).open(&stuck).unwrap();
    }

    #[test]
    fn nothing_is_read_after_the_deadline() {
        let mut environments = Environments::until(Instant::now());
        let init = Pid::from_raw(1).unwrap();
        assert!(environments.of(init).is_empty());
        assert_eq!(environments.unread(), 1);
        assert!(environments.processes().contains(&init));
    }
}
