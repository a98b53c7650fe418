//! The score of the processes of a cgroup for the kernel's choice of whom to kill (proc(5), `/proc/pid/oom_score_adj`).
//!
//! Not here: the score that a process begins with (see `init::process`), counting kills (see `stats`).

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::{Cgroup, Error};

/// How often processes are looked for that were forked meanwhile by one that had the old score still.
const ROUNDS: usize = 16;

impl Cgroup {
    /// Gives a new score to the processes in it and below it that have the score `from`. What has chosen another one itself keeps that.
    ///
    /// A score that the caller may not set (below what was set by somebody with CAP_SYS_RESOURCE) is passed over, as at the start of a
    /// container.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when the processes can't be listed.
    pub fn change_oom_score(&self, from: i32, to: i32) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let mut changed = 0;
            for pid in self.procs()? {
                changed += usize::from(self.change_one(pid, (from, to)) == Ok(true));
            }
            if changed == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Whether the process had the old score and has the new one now. A number that another process has got meanwhile is none of ours: what is
    /// read and written by one descriptor is one process.
    fn change_one(&self, pid: i32, (from, to): (i32, i32)) -> Result<bool, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
        let is_ours = read(&process, "cgroup")?.lines().any(|line| self.holds(line));
        if !is_ours || read(&process, "oom_score_adj")?.trim().parse() != Ok(from) {
            return Ok(false);
        }
        let file = openat(&process, "oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, to.to_string().as_bytes()).map(|_| true)
    }

    /// Whether a line of cgroups(7)' `/proc/pid/cgroup` names this cgroup or one below it.
    fn holds(&self, line: &str) -> bool {
        let path = line.splitn(3, ':').nth(2);
        let rest = path.and_then(|path| path.strip_prefix(&self.path));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn read(process: &OwnedFd, name: &str) -> Result<String, Errno> {
    let file = openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    std::io::read_to_string(std::fs::File::from(file))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::super::Host;
    use super::*;

    #[test]
    fn a_process_is_known_by_its_line() {
        let host = Host { unified: Some("/sys/fs/cgroup".into()), legacy: vec![] };
        let cgroup = Cgroup::at(&host, "/kubepods/pod/c").unwrap();
        assert!(cgroup.holds("0::/kubepods/pod/c"));
        assert!(cgroup.holds("5:cpu,cpuacct:/kubepods/pod/c/below"));
        assert!(!cgroup.holds("0::/kubepods/pod/cc"));
        assert!(!cgroup.holds("0::/kubepods/pod"));
        assert!(!cgroup.holds("0::/"));
    }
}
