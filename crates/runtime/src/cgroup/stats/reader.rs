//! Reading many small files of the kernel's: three system calls each, and one buffer for all.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::super::files::error;
use super::super::{Error, kill};

/// More than `memory.stat` of any kernel has (2 KiB in Linux 6.18), so that a file is read at once; a longer one makes it grow.
const ENOUGH: usize = 8 << 10;

/// Reads the files of one cgroup after another.
#[derive(Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    /// The sizes of huge pages that the machine has, once they were asked for.
    pub(super) page_sizes: Option<Vec<String>>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader with its buffer.
    pub fn new() -> Self {
        Self { buffer: vec![0; ENOUGH], page_sizes: None }
    }

    /// The text of a file; none when there is no such file, the cgroup is gone, or the kernel has the file and no answer (pressure where
    /// that is off).
    ///
    /// For files of figures, whose whole text the kernel makes at the first read to hand out what fits: a read that doesn't fill the buffer
    /// was all of it. Not for lists of processes: see [`list`](Self::list).
    pub(crate) fn text(&mut self, directory: &Path, name: &str) -> Result<Option<&str>, Error> {
        self.text_at(&directory.join(name))
    }

    /// The same by the whole path.
    pub(crate) fn text_at(&mut self, path: &Path) -> Result<Option<&str>, Error> {
        match self.fill(path) {
            // What the kernel writes of itself is ASCII, but a process can name itself as it likes.
            Ok(length) => Ok(Some(self.filled(length))),
            Err(Errno::NOENT | Errno::NODEV | Errno::NOTSUP | Errno::SRCH) => Ok(None),
            Err(errno) => Err(error("read cgroup file", path, errno)),
        }
    }

    pub(super) fn fill(&mut self, path: &Path) -> Result<usize, Errno> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut length = 0;
        loop {
            let read = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut self.buffer[length..]))?;
            length += read;
            if length < self.buffer.len() {
                return Ok(length);
            }
            self.buffer.resize(2 * length, 0);
        }
    }

    /// The same of a list of processes or threads, which the kernel hands out by pages: it has ended when a read gives nothing.
    pub(super) fn list(&mut self, path: &Path) -> Result<Option<&str>, Error> {
        match self.fill_to_the_end(path) {
            Ok(length) => Ok(Some(self.filled(length))),
            Err(Errno::NOENT | Errno::NODEV | Errno::NOTSUP) => Ok(None),
            Err(errno) => Err(error("read cgroup file", path, errno)),
        }
    }

    fn fill_to_the_end(&mut self, path: &Path) -> Result<usize, Errno> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut length = 0;
        loop {
            if length == self.buffer.len() {
                self.buffer.resize(2 * length, 0);
            }
            match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut self.buffer[length..]))? {
                0 => return Ok(length),
                read => length += read,
            }
        }
    }

    /// What [`fill`](Self::fill) has just read.
    pub(super) fn filled(&self, length: usize) -> &str {
        first_valid(&self.buffer[..length])
    }

    /// The number in a file of one number; `max` is none.
    pub(crate) fn number(&mut self, directory: &Path, name: &str) -> Result<Option<u64>, Error> {
        Ok(self.text(directory, name)?.and_then(|text| text.trim().parse().ok()))
    }

    /// The sizes of huge pages as the files of cgroups are called after them.
    pub(super) fn page_sizes(&mut self) -> Vec<String> {
        self.page_sizes.get_or_insert_with(page_sizes).clone()
    }
}

fn first_valid(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// From the directories of sysfs, `hugepages-<size>kB` (Documentation/admin-guide/mm/hugetlbpage.rst).
fn page_sizes() -> Vec<String> {
    let kibibytes = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        name.parse::<u64>().ok()
    };
    let directories = kill::children(Path::new("/sys/kernel/mm/hugepages"));
    let mut sizes: Vec<u64> = directories.into_iter().filter_map(kibibytes).collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

/// The kernel's way to write it down (mm/hugetlb_cgroup.c, `mem_fmt`).
fn page_size(kibibytes: u64) -> String {
    match kibibytes {
        1_048_576.. => format!("{}GB", kibibytes >> 20),
        1024.. => format!("{}MB", kibibytes >> 10),
        _ => format!("{kibibytes}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_longer_than_the_buffer_is_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "0123456789\n".repeat(5000);
        std::fs::write(file.path(), &text).unwrap();
        let mut reader = Reader::new();
        assert_eq!(reader.text_at(file.path()).unwrap(), Some(&*text));
        assert_eq!(reader.text(Path::new("/sys"), "nothing").unwrap(), None);
    }

    /// The kernel hands them out by pages of 4 KiB.
    #[test]
    fn a_long_list_of_threads_is_read_to_its_end() {
        let directory = Path::new("/sys/fs/cgroup");
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = own.lines().find_map(|line| {
            let (path, name) = match line.splitn(3, ':').collect::<Vec<_>>()[..] {
                ["0", "", path] => (directory.join(path.trim_start_matches('/')), "cgroup.threads"),
                [_, controller, path] => {
                    (directory.join(controller).join(path.trim_start_matches('/')), "tasks")
                }
                _ => return None,
            };
            Some(path.join(name)).filter(|path| path.exists())
        });
        let Some(path) = path else {
            println!("skipped: this process's cgroup cannot be found");
            return;
        };
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
        let threads: Vec<_> = (0..1500)
            .map(|_| {
                let wait = wait.clone();
                // Each ends when the sender is gone.
                let work = move || assert!(wait.lock().unwrap().recv().is_err());
                std::thread::Builder::new().stack_size(64 << 10).spawn(work).unwrap()
            })
            .collect();
        let found = Reader::new().list(&path).unwrap().unwrap().lines().count();
        drop(release);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(found > 1500, "{found}");
    }

    #[test]
    fn page_sizes_are_written_as_the_kernel_does() {
        assert_eq!(
            [64, 2048, 32_768, 1 << 20, 16 << 20].map(page_size),
            ["64KB", "2MB", "32MB", "1GB", "16GB"]
        );
    }
}
