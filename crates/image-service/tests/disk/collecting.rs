//! Images that nothing uses go when the disk is too full, and no others.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use image_service::{CollectSettings, Config, ImageId, Images};

use crate::filesystem::{Kind, Mounted};
use crate::full::{free, small_ext4, until};
use crate::kept::fill_but;
use crate::registry::Registry;
use crate::{Service, in_own_mounts, registry_of};

/// Images above 85 percent, but none that was used within an hour.
fn open(disk: &Path, registry: &Registry) -> Service {
    let mut config = Config::new(disk.join("root"), disk.join("certs.d"));
    config.collect = CollectSettings { above: Some(85), min_age: Duration::from_secs(3600) };
    config.pinned = vec![format!("{}/pinned:1", registry.host())];
    Service { images: Images::open(config).unwrap(), host: registry.host() }
}

/// Has an image be used last so many hours ago, as far as its record knows.
fn age(disk: &Path, id: &ImageId, hours: u64) {
    let record = disk.join("root/images/catalog/images").join(format!("sha256-{}.json", id.hex()));
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    std::fs::File::open(record).unwrap().set_modified(then).unwrap();
}

/// Fills the disk to so many percent.
fn fill_to(disk: &Mounted, percent: u64) {
    let taken = disk.path().join("taken");
    let _ = std::fs::remove_file(&taken);
    let stat = rustix::fs::statvfs(disk.path()).unwrap();
    fill_but(disk.path(), stat.f_blocks * stat.f_frsize / 100 * (100 - percent));
}

async fn collected(service: &Service, in_use: &[&ImageId]) -> Vec<ImageId> {
    let in_use: HashSet<ImageId> = in_use.iter().map(|id| (*id).clone()).collect();
    let removed = service.images.collect_unused(in_use).await.unwrap();
    removed.iter().map(|image| image.id.clone()).collect()
}

#[test]
fn the_least_recently_used_goes_first_and_what_is_used_stays() {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(|dir| async move {
        let disk = small_ext4(&dir, 64);
        let names = ["used", "pinned", "mounted", "young", "old", "older", "run"];
        let registry = registry_of(&names.map(|name| (name, 5 << 20))).await;
        let service = open(disk.path(), &registry);
        let mut ids = Vec::new();
        for name in names {
            ids.push(service.pull(name).await.unwrap());
        }
        let [used, pinned, mounted, young, old, older, run] = &ids[..] else { panic!("seven images") };
        for (id, hours) in [(used, 9), (pinned, 9), (mounted, 9), (run, 8), (older, 7), (old, 6)] {
            age(disk.path(), id, hours);
        }
        let target = dir.join("target");
        std::fs::create_dir(&target).unwrap();
        service.images.mount(&service.name("mounted"), &target).await.unwrap();
        // A container that came and went.
        service.images.prepare_rootfs("c", &service.name("run"), None).await.unwrap();
        service.images.release_rootfs("c").await.unwrap();
        drop(service);
        let service = open(disk.path(), &registry);
        fill_to(&disk, 84);
        assert!(collected(&service, &[used]).await.is_empty(), "there is room enough");
        for next in [older, old] {
            fill_to(&disk, 87);
            let before = free(disk.path());
            assert_eq!(collected(&service, &[used]).await, std::slice::from_ref(next));
            until("removing made no room", || free(disk.path()) >= before + (5 << 20));
        }
        // The use is written down: that of the container was.
        fill_to(&disk, 99);
        assert!(collected(&service, &[used]).await.is_empty(), "none of the others may go");
        age(disk.path(), run, 2);
        age(disk.path(), young, 3);
        assert_eq!(collected(&service, &[used]).await, [young.clone(), run.clone()]);
        for name in ["used", "pinned", "mounted"] {
            assert!(service.has(name), "{name}");
        }
        service.images.unmount(&target).await.unwrap();
        drop(service);
    });
}
