//! What containers do to their root filesystems, on each kind of file system that these may lie on.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use image_service::Images;

use crate::filesystem::Kind;
use crate::{Service, disk, in_own_mounts, registry_of};

#[test]
fn on_ext4() {
    writable_layers_work(Kind::Ext4);
}

#[test]
fn on_xfs() {
    writable_layers_work(Kind::Xfs);
}

#[test]
fn on_btrfs() {
    writable_layers_work(Kind::Btrfs);
}

async fn mount(images: &Images) -> (OwnedFd, PathBuf) {
    let root = images.mount_rootfs("c", None, None).await.unwrap();
    let path = format!("/proc/self/fd/{}", root.as_raw_fd()).into();
    (root, path)
}

fn writable_layers_work(kind: Kind) {
    if !kind.is_here() {
        return;
    }
    in_own_mounts(move |dir| async move {
        let disk = disk(kind, &dir, 320, &[]);
        let registry = registry_of(&[("one", 300_000)]).await;
        let service = Service::open(disk.path(), &registry);
        service.pull("one").await.unwrap();
        service.images.prepare_rootfs("c", &service.name("one"), None).await.unwrap();
        let before = service.images.rootfs_usage("c").await.unwrap();
        let (mounted, root) = mount(&service.images).await;
        change(&root);
        // Into the container's own layer, and to the disk.
        rustix::fs::syncfs(std::fs::File::open(disk.path()).unwrap()).unwrap();
        let after = service.images.rootfs_usage("c").await.unwrap();
        let (bytes, inodes) = (after.used_bytes - before.used_bytes, after.inodes_used - before.inodes_used);
        assert!((1_300_000..1_500_000).contains(&bytes), "{bytes} bytes");
        assert!((7..=8).contains(&inodes), "{inodes} inodes");
        drop(mounted);
        let service = {
            drop(service);
            Service::open(disk.path(), &registry)
        };
        let (mounted, root) = mount(&service.images).await;
        look(&root);
        drop(mounted);
        service.images.release_rootfs("c").await.unwrap();
        assert!(service.images.rootfs_usage("c").await.is_err());
        drop(service);
    });
}

/// Everything that overlay needs its upper file system for.
fn change(root: &Path) {
    let at = |name: &str| root.join(name);
    // A file of the image, changed in the middle: it is copied up.
    std::fs::File::options().write(true).open(at("one")).unwrap().write_at(b"changed", 1000).unwrap();
    std::fs::create_dir(at("d")).unwrap();
    std::fs::write(at("d/large"), vec![7; 1_000_000]).unwrap();
    std::fs::hard_link(at("d/large"), at("d/link")).unwrap();
    symlink("large", at("d/symbolic")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("d/null"),
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    rustix::fs::lsetxattr(at("d/large"), "user.name", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    std::os::unix::fs::chown(at("d/large"), Some(1000), Some(2000)).unwrap();
    // Sparse: a hole of 100 MB takes nothing.
    std::fs::File::create(at("sparse")).unwrap().write_at(b"end", 100_000_000).unwrap();
    // A directory that replaces one that was removed is opaque.
    std::fs::create_dir(at("gone")).unwrap();
    std::fs::write(at("gone/f"), "").unwrap();
    std::fs::remove_dir_all(at("gone")).unwrap();
    std::fs::create_dir(at("gone")).unwrap();
    std::fs::rename(at("d"), at("moved")).unwrap();
    // A file that never had a name.
    let unnamed =
        std::fs::File::options().write(true).read(true).custom_flags(libc::O_TMPFILE).open(root).unwrap();
    unnamed.write_at(b"x", 0).unwrap();
    unnamed.sync_all().unwrap();
}

fn look(root: &Path) {
    let at = |name: &str| root.join(name);
    let mut names: Vec<_> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["gone", "moved", "one", "sparse"]);
    let one = std::fs::read(at("one")).unwrap();
    assert_eq!((one.len(), &one[1000..1007]), (300_000, &b"changed"[..]));
    let large = std::fs::metadata(at("moved/large")).unwrap();
    assert_eq!((large.len(), large.nlink(), large.uid(), large.gid()), (1_000_000, 2, 1000, 2000));
    assert_eq!(std::fs::read_link(at("moved/symbolic")).unwrap(), Path::new("large"));
    assert_eq!(std::fs::symlink_metadata(at("moved/null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    let mut value = [0; 16];
    let length = rustix::fs::lgetxattr(at("moved/large"), "user.name", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"value");
    let sparse = std::fs::metadata(at("sparse")).unwrap();
    assert!(sparse.len() == 100_000_003 && sparse.blocks() < 2000, "{} blocks", sparse.blocks());
    assert!(std::fs::read_dir(at("gone")).unwrap().next().is_none());
}
