//! Root filesystems of containers in user namespaces.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use image_service::Digest;
use image_service::rootfs::{IdMap, MountAs};

use crate::archive::{Tar, dir, file};
use crate::mapping::users;
use crate::store::{Form, Mounted, Store};

/// Users see files of a layer as theirs whom their owners are mapped to, on top and in image volumes; others share the
/// same layer unmapped.
pub(crate) fn users_see_their_ids(form: Form) {
    let (_users, map) = users();
    let map = IdMap::new(map);
    let store = Store::new(form);
    if let Err(error) = store.roots.try_mapping(&map) {
        println!("skipped: {error:?}");
        return;
    }
    let tar = Tar::new().with(dir("d").owner(33, 34).mode(0o750)).with(file("d/f", "x").owner(7, 8));
    let upper = Tar::new().with(file("d/new", "").owner(0, 0));
    let layers = [store.unpack(&tar).unwrap(), store.unpack(&upper).unwrap()];
    let to = MountAs { ids: Some(&map), label: None };
    store.roots.prepare_as("users", &layers, Some(&map)).unwrap();
    let root = Mounted::from(store.roots.mount_as("users", &to).unwrap());
    let owner = |root: &Mounted, path: &str| (root.metadata(path).uid(), root.metadata(path).gid());
    assert_eq!(owner(&root, "."), (5000, 5000));
    assert_eq!((owner(&root, "d"), owner(&root, "d/f")), ((5033, 5034), (5007, 5008)));
    assert_eq!(owner(&root, "d/new"), (5000, 5000));
    std::fs::write(root.at("d/f"), "changed").unwrap();
    assert_eq!((owner(&root, "d/f"), root.read("d/f")), ((5007, 5008), "changed".to_owned()));
    let image = Digest::of(b"image");
    store.roots.hold_images("users", &[(image.clone(), layers.to_vec())]).unwrap();
    let view = store.roots.mount_image("users", (&image, Path::new("d")), (Some(&map), None)).unwrap();
    assert_eq!(owner(&Mounted::from(view), "f"), (5007, 5008));
    let host = store.mount("host", &layers);
    assert_eq!((owner(&host, "d/f"), host.read("d/f")), ((7, 8), "x".to_owned()));
}
