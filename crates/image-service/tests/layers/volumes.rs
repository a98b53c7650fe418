//! Volumes that come from images: images mounted as volumes, and those that an image declares.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use image_service::{Digest, Error};

use crate::archive::{Tar, dir, file, hard_link, symlink};
use crate::store::{Form, Mounted, Store, snapshot};

fn mount(store: &Store, image: &Digest, path: &str) -> Result<Mounted, Error> {
    store.roots.mount_image("c", (image, Path::new(path)), None).map(Mounted::from)
}

pub(crate) fn an_image_is_mounted_as_a_volume(form: Form) {
    let store = Store::new(form);
    let own = store.unpack(&Tar::new().with(file("own", ""))).unwrap();
    let lower = Tar::new()
        .with(dir("etc"))
        .with(file("etc/kept", "lower"))
        .with(file("etc/gone", "lower"))
        .with(dir("tmp").mode(0o1777))
        .with(symlink("absolute", "/etc"))
        .with(symlink("climbing", "../../../../../etc"))
        .with(symlink("nowhere", "/run/nothing"))
        .with(symlink("round", "round"));
    let upper = Tar::new().with(file("etc/.wh.gone", "")).with(file("tmp/new", "upper"));
    let layers = [store.unpack(&lower).unwrap(), store.unpack(&upper).unwrap()];
    let [image, small, empty] = [b"image", b"small", b"empty"].map(|name| Digest::of(&name[..]));
    store.mount("c", std::slice::from_ref(&own));
    let kept =
        [(image.clone(), layers.to_vec()), (small.clone(), vec![layers[0].clone()]), (empty.clone(), vec![])];
    store.roots.hold_images("c", &kept).unwrap();

    let whole = mount(&store, &image, "").unwrap();
    assert_eq!(whole.names("etc"), ["kept"], "a whiteout hides");
    assert_eq!(whole.read("tmp/new"), "upper");
    assert_eq!(whole.metadata("tmp").mode() & 0o7777, 0o1777, "of the layer that describes it");
    assert!(!whole.has("own"));
    let refused = std::fs::write(whole.at("etc/kept"), "changed").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(mount(&store, &small, "").unwrap().names("etc"), ["gone", "kept"]);
    assert!(mount(&store, &empty, "").unwrap().names(".").is_empty());

    for path in ["etc", "/etc/", "absolute", "climbing", "../etc", "tmp/../etc"] {
        assert_eq!(mount(&store, &image, path).unwrap().names("."), ["kept"], "{path}");
    }
    let one = mount(&store, &image, "absolute/kept").unwrap();
    assert_eq!(std::fs::read_to_string(one.path()).unwrap(), "lower");
    for path in ["missing", "etc/kept/below", "nowhere", "round", "etc/gone", "a\0b", "proc/self/root"] {
        let error = mount(&store, &image, path).err().unwrap_or_else(|| panic!("{path:?} is there"));
        assert!(
            matches!(&error, Error::ImagePath { path: named, .. } if named == Path::new(path)),
            "{error}"
        );
    }
    let unknown = mount(&store, &Digest::of(b"unknown"), "").err().unwrap();
    assert!(matches!(unknown, Error::ImageMissing { .. }), "{unknown}");
}

pub(crate) fn layers_of_an_image_volume_are_kept(form: Form) {
    let store = Store::new(form);
    let layer = store.unpack(&Tar::new().with(file("f", "x"))).unwrap();
    let image = Digest::of(b"image");
    store.mount("c", &[]);
    store.roots.hold_images("c", &[(image.clone(), vec![layer.clone()])]).unwrap();
    assert_eq!(store.collect(&[]), 0);
    let store = store.reopen();
    assert_eq!(store.collect(&[]), 0, "nor after a restart");
    let mounted = mount(&store, &image, "").unwrap();
    assert_eq!(mounted.read("f"), "x");
    store.roots.prepare("c", &[]).unwrap();
    store.roots.release("c").unwrap();
    assert_eq!(mounted.read("f"), "x", "a mount in use stays usable");
    drop(mounted);
    assert_eq!(store.collect(&[]), 1);
    store.wait_until_tidy();
}

pub(crate) fn declared_volumes_begin_as_the_image_has_them(form: Form) {
    let store = Store::new(form);
    let lower = Tar::new()
        .with(dir("data").mode(0o1770).owner(7, 8))
        .with(file("data/file", "lower").mode(0o4755).owner(9, 10).pax("SCHILY.xattr.user.of", "file"))
        .with(dir("data/sub").pax("SCHILY.xattr.user.of", "sub"))
        .with(hard_link("data/sub/name", "data/file"))
        .with(symlink("data/out", "/etc/passwd"))
        .with(symlink("link", "/data"))
        .with(symlink("climb", "../../../../../../data"))
        .with(file("plain", ""));
    let upper = Tar::new().with(file("data/sub/upper", "upper"));
    let root = store.image(&[lower, upper]);
    let paths = ["/data", "/link", "/climb", "/missing"].map(PathBuf::from);
    let made = store.roots.make_volumes("container", &paths).unwrap();
    // The root is as usable as before.
    std::fs::write(root.at("new"), "").unwrap();
    let expected = snapshot(&root.at("data"));
    for volume in &made[..3] {
        assert_eq!(snapshot(volume), expected, "{}", volume.display());
        let top = std::fs::metadata(volume).unwrap();
        assert_eq!((top.mode() & 0o7777, top.uid(), top.gid()), (0o1770, 7, 8));
    }
    let empty = std::fs::metadata(&made[3]).unwrap();
    assert_eq!((empty.mode() & 0o7777, std::fs::read_dir(&made[3]).unwrap().count()), (0o755, 0));
    std::fs::write(made[3].join("written"), vec![1; 100_000]).unwrap();
    assert!(store.roots.usage("container").unwrap().bytes >= 100_000, "counted with the container");
    assert!(made.iter().all(|volume| volume.starts_with(store.dir.path().join("containers/container"))));

    store.mount("other", &[]);
    let error = store.roots.make_volumes("nobody", &paths).unwrap_err();
    assert!(matches!(error, Error::RootfsMissing { .. }), "{error}");
    store.roots.release("container").unwrap();
    store.wait_until_tidy();
    assert!(!made[0].exists());

    let tar = Tar::new().with(file("plain", ""));
    let layer = store.unpack(&tar).unwrap();
    store.mount("third", &[layer]);
    let error = store.roots.make_volumes("third", &["/plain".into()]).unwrap_err();
    assert!(matches!(&error, Error::Volume { path, .. } if path == Path::new("/plain")), "{error}");
}
