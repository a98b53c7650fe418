//! The filesystem of the writable layers, for the series about it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio::sync::Mutex;

use crate::config::ContainersConfig;
use crate::convert::series::Disk;

/// How long a filesystem may take to say how full it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the filesystem that a directory is on. One that hangs has one thread that waits for it, whoever else asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskOf {
    turn: Arc<Mutex<()>>,
    last: Arc<std::sync::Mutex<Option<Disk>>>,
}

impl DiskOf {
    /// What it said last when it does not answer in time; none when it never has, or can't be asked. Safe to cancel.
    pub(crate) async fn directory(&self, path: PathBuf) -> Option<Disk> {
        let asked = async {
            let turn = self.turn.clone().lock_owned().await;
            let last = self.last.clone();
            let work = move || {
                let _turn = turn;
                let said = ask(&path);
                *last.lock().unwrap_or_else(PoisonError::into_inner) = said;
            };
            tokio::task::spawn_blocking(work).await
        };
        let _late = tokio::time::timeout(PATIENCE, asked).await;
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn ask(path: &Path) -> Option<Disk> {
    let found = statvfs(path).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    Some(Disk {
        device: source(&mounts, path).unwrap_or_default().to_owned(),
        bytes: found.blocks().saturating_mul(found.fragment_size()),
        inodes: found.files(),
        free_inodes: found.files_free(),
    })
}

/// What is mounted at or above a path (proc_pid_mountinfo(5)): of the nearest the last, which hides those before it.
fn source<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let parts = |line: &'a str| {
        let (left, right) = line.split_once(" - ")?;
        let (at, source) = (left.split(' ').nth(4)?, right.split(' ').nth(1)?);
        path.starts_with(at).then_some((at.len(), source))
    };
    mounts.lines().filter_map(parts).max_by_key(|(length, _)| *length).map(|(_, source)| source)
}

/// A container's part of a disk, where the configuration limits that.
pub(crate) fn limited(disk: Disk, limits: &ContainersConfig) -> Disk {
    let limit = |whole: u64, most: u64| if most == 0 { whole } else { whole.min(most) };
    Disk {
        bytes: limit(disk.bytes, limits.writable_bytes),
        inodes: limit(disk.inodes, limits.writable_inodes),
        ..disk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:25 / /var/lib rw shared:2 - xfs /dev/vdb rw
31 22 0:26 / /var/lib rw - xfs /dev/vdc rw
32 22 0:27 / /var/library rw - tmpfs tmpfs rw
";

    #[test]
    fn the_nearest_mount_counts_and_of_those_the_last() {
        let of = |path: &str| source(MOUNTS, Path::new(path));
        assert_eq!(of("/var/lib/knarr/containers"), Some("/dev/vdc"));
        assert_eq!((of("/var/libx"), of("/")), (Some("/dev/vda1"), Some("/dev/vda1")));
        assert_eq!(source("", Path::new("/")), None);
    }

    #[test]
    fn a_limit_is_less_than_the_whole() {
        let disk = Disk { bytes: 100, inodes: 50, free_inodes: 40, ..Disk::default() };
        assert_eq!(limited(disk.clone(), &ContainersConfig::default()), disk);
        let limits = ContainersConfig { writable_bytes: 10, writable_inodes: 45 };
        let expected = Disk { bytes: 10, inodes: 45, ..disk.clone() };
        assert_eq!(limited(disk, &limits), expected);
    }

    #[tokio::test]
    async fn a_directory_is_on_something() {
        let disk = DiskOf::default().directory(std::env::temp_dir()).await.unwrap();
        assert!(disk.bytes > 0 && !disk.device.is_empty(), "{disk:?}");
    }
}
