//! Hearing what is changed in directories of addresses, by whatever process.
//!
//! The kernel tells of a change (inotify(7)) before who made it can give back the lock: who has the lock now hears of all of
//! them. One listener serves a process's directories, since a user has but 128 (`fs.inotify.max_user_instances`).
//!
//! It tells of what went through itself alone (inotify(7), "Limitations and caveats"): where another machine may write, nobody
//! listens.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::holders::address_of;
use crate::locks::locked;

/// File systems that are one kernel's, as `f_type` names them (statfs(2); linux/magic.h, but ZFS: OpenZFS's
/// `ZFS_SUPER_MAGIC`). Not overlay: what is written to its upper directory by another way isn't told of.
const ONE_KERNELS: [u64; 8] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683E, // Btrfs
    0xF2F5_2010, // F2FS
    0xCA45_1A4E, // bcachefs
    0x2FC1_2FC1, // ZFS
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
];

static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

#[derive(Debug)]
struct Listener {
    inotify: OwnedFd,
    /// What has been heard of each watch, and not been asked for yet.
    heard: HashMap<i32, Heard>,
    /// How many have begun to listen so far.
    count: u64,
}

#[derive(Debug)]
struct Heard {
    /// Who listens. By two paths a directory has one watch, and what is told the one isn't told the other.
    by: u64,
    changed: HashSet<IpAddr>,
}

/// Hears of one directory.
#[derive(Debug)]
pub(super) struct Ears {
    watch: i32,
    number: u64,
    /// Device and inode: its path may lead to another by now.
    dir: (u64, u64),
}

impl Ears {
    /// Begins to listen.
    ///
    /// # Errors
    /// What the system says, where it lets nobody listen any more, for one; [`io::ErrorKind::Unsupported`] where not all would be
    /// heard.
    pub(super) fn prick(dir: &Path) -> io::Result<Ears> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir, flags, Mode::empty())?;
        if !u64::try_from(rustix::fs::fstatfs(&opened)?.f_type).is_ok_and(is_one_kernels) {
            let problem = "its file system may be changed by others than this kernel";
            return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
        }
        let found = rustix::fs::fstat(&opened)?;
        // The same directory, whatever is at its path by now.
        let opened_path = format!("/proc/thread-self/fd/{}", opened.as_raw_fd());
        let mut held = listener();
        let listener = match &mut *held {
            Some(listener) => listener,
            none => none.insert(Listener {
                inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
                heard: HashMap::new(),
                count: 0,
            }),
        };
        let changes = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::DELETE | WatchFlags::MOVE;
        let end = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&listener.inotify, opened_path, changes | end)?;
        listener.count += 1;
        let number = listener.count;
        listener.heard.insert(watch, Heard { by: number, changed: HashSet::new() });
        Ok(Ears { watch, number, dir: (found.st_dev, found.st_ino) })
    }

    /// Whether the path leads to the directory still.
    pub(super) fn are_at(&self, dir: &Path) -> bool {
        rustix::fs::stat(dir).is_ok_and(|found| (found.st_dev, found.st_ino) == self.dir)
    }

    /// The addresses whose files have changed since this was asked last; `None` when those may not be all.
    pub(super) fn changed(&self) -> Option<HashSet<IpAddr>> {
        let mut held = listener();
        let listener = held.as_mut()?;
        listener.listen();
        let heard = listener.heard.get_mut(&self.watch).filter(|heard| heard.by == self.number)?;
        Some(std::mem::take(&mut heard.changed))
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        let mut held = listener();
        let Some(listener) = &mut *held else { return };
        if listener.heard.get(&self.watch).is_some_and(|heard| heard.by == self.number) {
            listener.forget(self.watch);
        }
    }
}

impl Listener {
    /// Hears all that there is.
    fn listen(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut ended = Vec::new();
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => self.heard.clear(),
                Ok(event) if is_end(&event) => ended.push(event.wd()),
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    if let Some(heard) = self.heard.get_mut(&event.wd()) {
                        heard.changed.extend(name.and_then(address_of));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.heard.clear();
                    break;
                }
            }
        }
        ended.into_iter().for_each(|watch| self.forget(watch));
    }

    fn forget(&mut self, watch: i32) {
        self.heard.remove(&watch);
        // It is gone already when its directory is.
        let _ = inotify::remove_watch(&self.inotify, watch);
    }
}

/// Whether nothing more will be heard of a directory, or another may be there in its place.
fn is_end(event: &Event<'_>) -> bool {
    let end = ReadFlags::IGNORED | ReadFlags::UNMOUNT | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
    event.events().intersects(end)
}

fn listener() -> MutexGuard<'static, Option<Listener>> {
    locked(&LISTENER)
}

/// Whether nobody but this kernel changes a file system of that kind.
fn is_one_kernels(f_type: u64) -> bool {
    ONE_KERNELS.contains(&f_type)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    use super::*;

    #[test]
    fn where_another_machine_may_write_nobody_listens() {
        // linux/magic.h; Lustre's and GFS2's are their own.
        for (name, f_type) in [
            ("NFS", 0x6969),
            ("9p", 0x0102_1997),
            ("FUSE, virtiofs", 0x6573_5546),
            ("Ceph", 0x00C3_6400),
            ("Lustre", 0x0BD0_0BD0),
            ("GFS2", 0x0116_1970),
            ("OCFS2", 0x7461_636F),
            ("SMB1", 0xFF53_4D42),
            ("SMB2", 0xFE53_4D42),
            ("AFS", 0x5346_414F),
            ("overlay", 0x794C_7630),
            ("one to come", 0x1234),
        ] {
            assert!(!is_one_kernels(f_type), "{name}");
        }
        assert!(is_one_kernels(0xEF53) && is_one_kernels(0x0102_1994));
        Ears::prick(Path::new("/dev/shm")).unwrap();
        // Watched it can be; which kind it is decides.
        let refused = Ears::prick(Path::new("/proc")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported, "{refused}");
    }

    /// The inode that is watched, as the kernel names it; `None` when it is no more.
    fn watched(ears: &Ears) -> Option<u64> {
        let held = listener();
        let info = format!("/proc/self/fdinfo/{}", held.as_ref().unwrap().inotify.as_raw_fd());
        let info = fs::read_to_string(info).unwrap();
        let watch = format!("inotify wd:{:x} ", ears.watch);
        let inode = info.lines().find_map(|line| line.strip_prefix(&watch)?.strip_prefix("ino:"))?;
        Some(u64::from_str_radix(inode.split(' ').next().unwrap(), 16).unwrap())
    }

    #[test]
    fn what_is_listened_to_is_what_was_looked_at() {
        let parent = tempfile::tempdir_in("/dev/shm").unwrap();
        let (dir, other) = (parent.path().join("net"), parent.path().join("other"));
        fs::create_dir(&dir).unwrap();
        fs::create_dir(&other).unwrap();
        std::thread::scope(|scope| {
            let same = scope.spawn(|| {
                (0..5000).all(|_| {
                    let ears = Ears::prick(&dir).unwrap();
                    watched(&ears).is_none_or(|inode| inode == ears.dir.1)
                })
            });
            while !same.is_finished() {
                renameat_with(CWD, &dir, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
            assert!(same.join().unwrap());
        });
    }
}
