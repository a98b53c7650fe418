//! No space and no inodes left: a pull fails and leaves nothing, everything else goes on, and what is removed makes room.

use std::path::Path;
use std::time::{Duration, Instant};

use image_service::ErrorKind;
use image_service::rootfs::IdMap;

use crate::filesystem::{Kind, Mounted};
use crate::{Service, chain, disk, in_own_mounts, open, registry_of};

/// ext4 without anything that only root could fill.
pub(crate) fn small_ext4(dir: &Path, mib: u64) -> Mounted {
    disk(Kind::Ext4, dir, mib, &["-m", "0", "-E", "nodiscard", "-O", "^has_journal"])
}

/// Bytes that are free.
pub(crate) fn free(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Fills a disk to its last byte.
pub(crate) fn fill(at: &Path) {
    let chunk = vec![1; 1 << 20];
    for (n, size) in [1 << 20, 4096, 1].into_iter().enumerate() {
        let mut file = std::fs::File::create(at.join(format!("ballast{n}"))).unwrap();
        while std::io::Write::write_all(&mut file, &chunk[..size]).is_ok() {}
        // What is only promised so far may not fit.
        let _ = file.sync_all();
    }
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_pull_that_does_not_fit_leaves_nothing() {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(|dir| async move {
        let disk = small_ext4(&dir, 32);
        let registry = registry_of(&[("small", 1 << 20), ("large", 60 << 20), ("other", 2 << 20)]).await;
        let service = Service::open(disk.path(), &registry);
        service.pull("small").await.unwrap();
        let before = free(disk.path());
        let error = service.pull("large").await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{text}");
        assert!(
            text.contains("no space is left for \"") || text.contains("no space is left for layer"),
            "{text}"
        );
        // Directories that have grown stay so.
        until("something of the pull is left", || free(disk.path()) + (64 << 10) >= before);
        assert!(service.has("small") && !service.has("large"));
        service.pull("other").await.unwrap();
        drop(service);
    });
}

#[test]
fn a_full_disk_is_started_on_and_removal_makes_room() {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(|dir| async move {
        let disk = small_ext4(&dir, 32);
        let registry = registry_of(&[("one", 3 << 20), ("two", 3 << 20), ("next", 4 << 20)]).await;
        let service = Service::open(disk.path(), &registry);
        service.pull("one").await.unwrap();
        service.pull("two").await.unwrap();
        drop(service);
        fill(disk.path());
        assert_eq!(free(disk.path()), 0);
        let service = Service::open(disk.path(), &registry);
        assert!(service.has("one") && service.has("two"));
        assert_eq!(service.pull("next").await.unwrap_err().kind(), ErrorKind::NoSpace);
        service.images.remove(&service.name("one")).await.unwrap();
        assert!(!service.has("one"));
        until("removing made no room", || free(disk.path()) >= 3 << 20);
        // What was removed stays so, whether or not its names could be written.
        let service = {
            drop(service);
            Service::open(disk.path(), &registry)
        };
        assert!(!service.has("one") && service.has("two"));
        service.images.remove(&service.name("two")).await.unwrap();
        // It waits for what was just removed.
        service.pull("next").await.unwrap();
        let service = {
            drop(service);
            Service::open(disk.path(), &registry)
        };
        assert_eq!(service.images.list(None).len(), 1);
        assert!(service.has("next"));
        drop(service);
    });
}

#[test]
fn without_inodes_it_is_the_same() {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(|dir| async move {
        let options = ["-m", "0", "-N", "128", "-E", "nodiscard"];
        let disk = disk(Kind::Ext4, &dir, 32, &options);
        let registry = registry_of(&[("one", 3 << 20), ("next", 4 << 20)]).await;
        let service = Service::open(disk.path(), &registry);
        service.pull("one").await.unwrap();
        drop(service);
        let ballast = disk.path().join("ballast");
        std::fs::create_dir(&ballast).unwrap();
        let mut made = 0;
        while std::fs::write(ballast.join(made.to_string()), "").is_ok() {
            made += 1;
        }
        let service = Service::open(disk.path(), &registry);
        let error = service.pull("next").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", chain(&error));
        service.images.remove(&service.name("one")).await.unwrap();
        assert!(!service.has("one"));
        let free_inodes = || rustix::fs::statvfs(disk.path()).unwrap().f_ffree;
        until("removing made no room", || free_inodes() >= 4);
        let service = {
            drop(service);
            Service::open(disk.path(), &registry)
        };
        assert!(!service.has("one"));
        std::fs::remove_dir_all(&ballast).unwrap();
        service.pull("next").await.unwrap();
        drop(service);
    });
}

#[test]
fn a_root_for_mapped_users_that_has_no_room_is_told_as_that() {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(|dir| async move {
        let disk = small_ext4(&dir, 16);
        let images = open(disk.path()).unwrap();
        fill(disk.path());
        let ballast = std::fs::File::options().write(true).open(disk.path().join("ballast0")).unwrap();
        let size = ballast.metadata().unwrap().len();
        let mut outcomes = Vec::new();
        // From nothing that can be made to all of it, by way of an overlay that is read-only.
        for blocks in 0..16 {
            let room = blocks * rustix::fs::statvfs(disk.path()).unwrap().f_frsize;
            ballast.set_len(size - room).unwrap();
            ballast.sync_all().unwrap();
            until("the trial before is left", || free(disk.path()) >= room);
            let tried = images.try_mapping(IdMap::new(|_| Ok(()))).await;
            if let Err(error) = &tried {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{blocks} blocks: {}", chain(error));
            }
            outcomes.push(tried.is_ok());
        }
        assert!(!outcomes[0] && outcomes[15], "{outcomes:?}");
        drop(images);
    });
}

#[test]
fn a_read_only_disk_is_called_that() {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(|dir| async move {
        let disk = small_ext4(&dir, 32);
        drop(open(disk.path()).unwrap());
        let flags = rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount_remount(disk.path(), flags, "").unwrap();
        let text = match open(disk.path()) {
            Ok(_) => "opened".to_owned(),
            Err(error) => chain(&error),
        };
        assert!(text.contains("Read-only file system") && text.contains("mnt/root"), "{text}");
    });
}
