//! The processes of a cgroup one by one: how many there are, what they have open, what they do.
//!
//! Each of these costs as much as there are processes, descriptors or threads, so that there is an end to how many sockets and states are
//! looked for: what is more is not counted at all. A process that ends meanwhile counts or doesn't.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use super::super::{Cgroup, Error, kill};
use super::Reader;

/// Descriptors of a cgroup's processes that are looked at to find the sockets among them: a system call each.
const MOST_DESCRIPTORS: u64 = 1 << 14;

/// Threads whose states are asked for: three system calls each.
const MOST_THREADS: usize = 1 << 10;

/// What processes have open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// All.
    pub open: u64,
    /// Sockets among them; none when there are too many to look at.
    pub sockets: Option<u64>,
}

/// How many threads are in which state (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct States {
    /// Running, or ready to (R).
    pub running: u64,
    /// Waiting for something (S, I).
    pub sleeping: u64,
    /// Waiting for something and not to be woken (D).
    pub uninterruptible: u64,
    /// Stopped or traced (T, t).
    pub stopped: u64,
}

impl Reader {
    /// The processes in a cgroup and below it, by their numbers here.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when they can't be listed; a cgroup that is gone has none.
    pub fn processes(&mut self, cgroup: &Cgroup) -> Result<Vec<i32>, Error> {
        self.listed(cgroup, "cgroup.procs")
    }

    fn listed(&mut self, cgroup: &Cgroup, file: &str) -> Result<Vec<i32>, Error> {
        let mut found = Vec::new();
        let mut directories: Vec<PathBuf> = cgroup.tracking().map(Path::to_owned).into_iter().collect();
        while let Some(directory) = directories.pop() {
            if let Some(text) = self.list(&directory.join(file))? {
                found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            }
            // A directory has a link for each one directly in it, and two of its own: looking there is nearly always spared.
            if rustix::fs::stat(&directory).is_ok_and(|stat| stat.st_nlink > 2) {
                directories.extend(kill::children(&directory));
            }
        }
        Ok(found)
    }

    /// What these processes have open.
    pub fn descriptors(&mut self, processes: &[i32]) -> Descriptors {
        let mut found = Descriptors { open: 0, sockets: Some(0) };
        for pid in processes {
            // It may have ended.
            let _gone = count_descriptors(*pid, &mut found);
        }
        found
    }

    /// How many threads of a cgroup are in which state; none when there are too many to ask for.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when they can't be listed.
    pub fn states(&mut self, cgroup: &Cgroup) -> Result<Option<States>, Error> {
        let file = if cgroup.unified.is_some() { "cgroup.threads" } else { "tasks" };
        let threads = self.listed(cgroup, file)?;
        if threads.len() > MOST_THREADS {
            return Ok(None);
        }
        let mut states = States::default();
        for thread in threads {
            // By way of its own directory: the one of the process sums up all threads of it.
            let path = PathBuf::from(format!("/proc/{thread}/task/{thread}/stat"));
            if let Ok(length) = self.fill(&path) {
                states.count(state(self.filled(length)));
            }
        }
        Ok(Some(states))
    }

    /// How many files a process may have open (its soft limit); none when it has ended, or has no limit.
    pub fn open_files_limit(&mut self, pid: u32) -> Option<u64> {
        let length = self.fill(Path::new(&format!("/proc/{pid}/limits"))).ok()?;
        open_files(self.filled(length))
    }
}

fn count_descriptors(pid: i32, found: &mut Descriptors) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, format!("/proc/{pid}/fd"), flags, Mode::empty())?;
    // The number itself since Linux 6.2, 0 before.
    let open = u64::try_from(rustix::fs::fstat(&directory)?.st_size).unwrap_or(0);
    if found.open + open > MOST_DESCRIPTORS {
        (found.open, found.sockets) = (found.open + open, None);
        return Ok(());
    }
    let mut link = [0; 64];
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        found.open += 1;
        if found.open > MOST_DESCRIPTORS {
            found.sockets = None;
        }
        if let Some(sockets) = &mut found.sockets
            && let Ok(length) = rustix::fs::readlinkat_raw(&directory, name, &mut link[..])
            && link[..length].starts_with(b"socket:")
        {
            *sockets += 1;
        }
    }
    Ok(())
}

impl States {
    fn count(&mut self, state: Option<char>) {
        match state {
            Some('R') => self.running += 1,
            Some('S' | 'I') => self.sleeping += 1,
            Some('D') => self.uninterruptible += 1,
            Some('T' | 't') => self.stopped += 1,
            // Dead, or a zombie that nobody has waited for yet: it does nothing.
            _ => {}
        }
    }
}

/// The third field of a stat file: behind the name, which can have anything in it.
fn state(stat: &str) -> Option<char> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.chars().next()
}

/// From a table with columns of fixed width (proc_pid_limits(5)).
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pass_for_a_state() {
        assert_eq!(state("1 (sh) S 0 1"), Some('S'));
        assert_eq!(state("1 (a) R) T 0 1"), Some('T'));
        assert_eq!(state("1 (a"), None);
        let mut states = States::default();
        for letter in "RSIDTtZX".chars() {
            states.count(Some(letter));
        }
        assert_eq!(states, States { running: 1, sleeping: 2, uninterruptible: 1, stopped: 2 });
    }

    #[test]
    fn the_soft_limit_counts() {
        let table = "Limit                     Soft Limit           Hard Limit           Units     \n\
                     Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(table), Some(1024));
        assert_eq!(
            open_files("Max open files            unlimited            unlimited            files\n"),
            None
        );
        assert!(Reader::new().open_files_limit(std::process::id()).is_some());
    }

    #[test]
    fn what_is_open_is_counted() {
        let mut reader = Reader::new();
        let own = [i32::try_from(std::process::id()).unwrap()];
        // Other tests of this process open and close, too.
        let sockets: Vec<_> = (0..500).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let found = reader.descriptors(&own);
        assert!((500..700).contains(&found.sockets.unwrap()) && found.open > 502, "{found:?}");
        drop(sockets);
        assert_eq!(reader.descriptors(&[i32::MAX]), Descriptors { open: 0, sockets: Some(0) });
    }
}
