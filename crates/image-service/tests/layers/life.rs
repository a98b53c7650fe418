//! Layers and root filesystems over time: what is kept, what is collected, what a crash leaves.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use image_service::layers::{Layers, NewLayer};
use image_service::{Digest, Error};

use crate::archive::{Tar, dir, file};
use crate::store::{Form, Store};

pub(crate) fn layers_survive_a_restart(form: Form) {
    let store = Store::new(form);
    let layer = store.unpack(&Tar::new().with(file("f", "x"))).unwrap();
    let before = store.layers.get(&layer).unwrap();
    let (bytes, inodes) = (before.size_bytes, before.inodes);
    drop(before);
    let store = store.reopen();
    let after = store.layers.get(&layer).unwrap();
    assert_eq!((after.size_bytes, after.inodes), (bytes, inodes));
    assert_eq!(store.mount("c", &[layer]).read("f"), "x");
}

pub(crate) fn a_dropped_writer_leaves_nothing(form: Form) {
    let store = Store::new(form);
    let tar = Tar::new().with(file("f", vec![7; 3_000_000])).bytes();
    let diff_id = Digest::of(&tar);
    let mut writer = store.layers.begin(NewLayer { diff_id: diff_id.clone() }).unwrap();
    writer.write(tar[..2_000_000].to_vec().into()).unwrap();
    drop(writer);
    assert!(!store.layers.contains(&diff_id));
    store.wait_until_tidy();
}

pub(crate) fn what_a_crash_leaves_is_removed(form: Form) {
    let store = Store::new(form);
    let whole = store.unpack(&Tar::new().with(file("f", "x"))).unwrap();
    let images = store.dir.path().join("images");
    std::fs::create_dir_all(images.join("ingest/half/fs/a/b")).unwrap();
    std::fs::create_dir_all(images.join("trash/old/x/y")).unwrap();
    std::fs::create_dir_all(images.join(format!("layers/sha256/{}/fs", Digest::of(b"no record").hex())))
        .unwrap();
    let containers = store.dir.path().join("containers");
    std::fs::create_dir_all(containers.join(".new-half/upper")).unwrap();
    std::fs::create_dir_all(containers.join("no-record/upper")).unwrap();
    let store = store.reopen();
    store.wait_until_tidy();
    assert!(store.layers.contains(&whole));
    assert!(!store.layers.contains(&Digest::of(b"no record")));
    let names: Vec<_> =
        std::fs::read_dir(&containers).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_str().unwrap().starts_with('.')), "{names:?}");
    assert!(!containers.join(".new-half").exists());
}

pub(crate) fn two_writers_of_one_layer(form: Form) {
    let store = Store::new(form);
    let tar = Tar::new().with(file("f", "x")).bytes();
    let diff_id = Digest::of(&tar);
    let mut writers = [(); 3].map(|()| store.layers.begin(NewLayer { diff_id: diff_id.clone() }).unwrap());
    for writer in &mut writers {
        writer.write(tar.clone().into()).unwrap();
    }
    std::thread::scope(|scope| {
        for writer in writers {
            scope.spawn(|| assert_eq!(writer.commit().unwrap().diff_id, diff_id));
        }
    });
    assert_eq!(store.mount("c", &[diff_id]).read("f"), "x");
    store.wait_until_tidy();
}

pub(crate) fn what_lies_in_the_place_of_a_layer_goes(form: Form) {
    let store = Store::new(form);
    let tar = Tar::new().with(file("f", "x"));
    let place = store.dir.path().join("images/layers/sha256").join(Digest::of(&tar.bytes()).hex());
    std::fs::create_dir_all(place.join("half")).unwrap();
    let layer = store.unpack(&tar).unwrap();
    assert_eq!(store.mount("c", &[layer]).read("f"), "x");
    assert!(!place.join("half").exists());
    store.wait_until_tidy();
}

pub(crate) fn unused_layers_are_collected(form: Form) {
    let store = Store::new(form);
    let unpack = |name: &str| store.unpack(&Tar::new().with(file(name, ""))).unwrap();
    let [referenced, held, mounted, unused] = ["referenced", "held", "mounted", "unused"].map(unpack);
    let hold = store.layers.get(&held).unwrap();
    store.roots.prepare("c", std::slice::from_ref(&mounted)).unwrap();
    assert_eq!(store.collect(&[&referenced]), 1);
    assert!(!store.layers.contains(&unused));
    assert!([&referenced, &held, &mounted].iter().all(|layer| store.layers.contains(layer)));
    drop(hold);
    assert_eq!(store.collect(&[&referenced]), 1);
    // A container keeps its layers across a restart too.
    let store = store.reopen();
    assert_eq!(store.collect(&[&referenced]), 0);
    store.roots.release("c").unwrap();
    assert_eq!(store.collect(&[]), 2);
    store.wait_until_tidy();
    assert_eq!(store.layers.usage().inodes, 0);
    // What was collected can come back.
    store.unpack(&Tar::new().with(file("unused", ""))).unwrap();
    assert_eq!(store.mount("again", &[unused]).names("."), ["unused"]);
}

/// Removing answers after a rename, however much there is to remove; and of images there is next to nothing.
pub(crate) fn removal_does_not_wait_for_the_disk(form: Form) {
    let store = Store::new(form);
    let mut tar = Tar::new();
    for n in 0..5_000 {
        tar.add(file(&format!("d{}/f{n}", n % 50), "x"));
    }
    let layer = store.unpack(&tar).unwrap();
    if !form.is_directory() {
        let dir = store.dir.path().join("images/layers/sha256").join(layer.hex());
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_type().unwrap());
        let files: Vec<_> = files.collect();
        assert!(files.iter().all(std::fs::FileType::is_file) && files.len() <= 3, "{files:?}");
        assert_eq!(store.collect(&[]), 1);
        return store.wait_until_tidy();
    }
    let started = Instant::now();
    assert_eq!(store.collect(&[]), 1);
    let answered = started.elapsed();
    store.wait_until_tidy();
    let gone = started.elapsed();
    assert!(answered * 10 < gone, "answered after {answered:?}, gone after {gone:?}");
}

pub(crate) fn a_deep_tree_is_removed_too(form: Form) {
    let store = Store::new(form);
    let root = store.mount("c", &[]);
    let mut here =
        rustix::fs::open(root.path(), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..3_000 {
        rustix::fs::mkdirat(&here, "d", rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, "d", flags, rustix::fs::Mode::empty()).unwrap();
    }
    drop((here, root));
    assert!(store.roots.usage("c").unwrap().inodes > 100);
    store.roots.release("c").unwrap();
    store.wait_until_tidy();
}

pub(crate) fn root_filesystems_come_and_go(form: Form) {
    let store = Store::new(form);
    let layer = store.unpack(&Tar::new().with(dir("d/")).with(file("d/f", "x"))).unwrap();
    let other = store.unpack(&Tar::new()).unwrap();
    let layers = std::slice::from_ref(&layer);
    store.roots.prepare("c", layers).unwrap();
    store.roots.prepare("c", layers).unwrap();
    assert!(matches!(store.roots.prepare("c", &[other]), Err(Error::RootfsExists { .. })));
    let missing = Digest::of(b"missing");
    assert!(matches!(store.roots.prepare("m", &[missing]), Err(Error::LayerMissing { .. })));
    assert!(matches!(store.roots.mount("m"), Err(Error::RootfsMissing { .. })));
    assert!(matches!(store.roots.prepare("../c", &[]), Err(Error::BadContainerId { .. })));
    let before = store.roots.usage("c").unwrap();
    let root = store.mount("c", layers);
    std::fs::write(root.at("d/written"), vec![1; 500_000]).unwrap();
    let after = store.roots.usage("c").unwrap();
    assert!(
        after.bytes >= before.bytes + 500_000 && after.inodes == before.inodes + 2,
        "{before:?} {after:?}"
    );
    assert_eq!(store.roots.containers(), ["c"]);
    // What was written is there for the next mount, after a restart as well.
    drop(root);
    let store = store.reopen();
    let root = store.mount("c", layers);
    assert_eq!(root.names("d"), ["f", "written"]);
    // Released while in use: idempotent, and the mount goes on.
    store.roots.release("c").unwrap();
    store.roots.release("c").unwrap();
    store.roots.release("never").unwrap();
    assert_eq!(root.read("d/f"), "x");
    assert!(matches!(store.roots.usage("c"), Err(Error::RootfsMissing { .. })));
    drop(root);
    store.wait_until_tidy();
}

pub(crate) fn unknown_root_filesystems_are_removed(form: Form) {
    let store = Store::new(form);
    for container in ["a", "b", "c"] {
        store.roots.prepare(container, &[]).unwrap();
    }
    let store = store.reopen();
    let mut removed = store.roots.retain(&HashSet::from(["b".to_owned(), "unknown".to_owned()])).unwrap();
    removed.sort();
    assert_eq!(removed, ["a", "c"]);
    assert!(store.roots.mount("b").is_ok());
    store.wait_until_tidy();
}

/// The host's mount table never knows of any of it.
pub(crate) fn the_mount_table_does_not_grow(form: Form) {
    let table = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let store = Store::new(form);
    let layer = store.unpack(&Tar::new().with(file("f", "x"))).unwrap();
    let directory = store.dir.path().to_str().unwrap().to_owned();
    let roots: Vec<_> =
        (0..20).map(|n| store.mount(&format!("c{n}"), std::slice::from_ref(&layer))).collect();
    assert!(roots.iter().all(|root| root.read("f") == "x"));
    // Other tests of this machine mount things too; ours would show the store's directory.
    assert!(!table().contains(&directory));
}

/// A full disk is an error that says so, takes nothing with it and is over once there is space.
pub(crate) fn a_full_disk_is_told(form: Form) {
    // In a thread of its own, whose mount namespace the others don't share.
    std::thread::spawn(move || fill_a_small_disk(form)).join().unwrap();
}

fn fill_a_small_disk(form: Form) {
    // A small filesystem in a mount namespace of this thread and of those that it starts.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, c"size=4m").unwrap();
    let layers = Layers::open_as(dir.path(), form.settings()).unwrap();
    let unpack = |layers: &Layers, size: usize| {
        let tar = Tar::new().with(file("f", vec![1; size])).bytes();
        let mut writer = layers.begin(NewLayer { diff_id: Digest::of(&tar) })?;
        writer.write(tar.into())?;
        writer.commit()
    };
    let outcome = unpack(&layers, 6_000_000);
    assert!(matches!(outcome, Err(Error::NoSpace { .. })), "{outcome:?}");
    let started = Instant::now();
    while std::fs::read_dir(dir.path().join("trash")).unwrap().count() > 0 {
        assert!(started.elapsed().as_secs() < 20, "the half-made layer is still in the trash");
        std::thread::yield_now();
    }
    drop(layers);
    // What is full can be opened, and the form that it was made for is chosen once there is space.
    let fill = dir.path().join("fill");
    let filled = std::fs::write(&fill, vec![1; 6_000_000]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    let layers = Layers::open_as(dir.path(), form.settings()).unwrap();
    let outcome = unpack(&layers, 1);
    assert!(matches!(outcome, Err(Error::NoSpace { .. })), "{outcome:?}");
    std::fs::remove_file(&fill).unwrap();
    let layer = unpack(&layers, 2_000_000).unwrap();
    let name = if form.is_directory() { "fs" } else { "layer.erofs" };
    assert!(dir.path().join("layers/sha256").join(layer.diff_id.hex()).join(name).exists());
    drop((layer, layers));
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// What can be found is on the disk, its place too: an image that takes it could be there for good sooner.
pub(crate) fn a_layer_whose_place_is_not_synced_cannot_be_found(form: Form) {
    if form.is_directory() {
        // Who may not give files away can't unpack one.
        return;
    }
    let store = Store::new(form);
    let layer = store.unpack(&Tar::new().with(file("before", "x"))).unwrap();
    let tar = Tar::new().with(file("f", "x"));
    let diff_id = Digest::of(&tar.bytes());
    // One whom root's powers over files are taken from, and its threads: it can put things into a directory that it can't open.
    let owner = nix::unistd::Uid::from_raw(65_534);
    let give = |path: &Path| nix::unistd::chown(path, Some(owner), None).unwrap();
    let place = store.dir.path().join("images/layers/sha256");
    for below in ["", "images", "images/ingest", "images/trash", "images/layers", "images/layers/sha256"] {
        give(&store.dir.path().join(below));
    }
    let mode = |mode| std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o300);
    let refused = std::thread::scope(|threads| {
        let powerless = threads.spawn(|| {
            nix::unistd::setfsuid(owner);
            store.unpack(&tar).unwrap_err()
        });
        powerless.join().unwrap()
    });
    let Error::Store { action, path, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!((*action, path), ("sync", &place), "{refused:?}");
    assert!(place.join(diff_id.hex()).exists(), "it was renamed");
    assert!(!store.layers.contains(&diff_id), "it can be found before it is there for good");
    mode(0o700);
    // The next one finds it in its place.
    assert_eq!(store.unpack(&tar).unwrap(), diff_id);
    assert!(store.layers.contains(&diff_id) && store.layers.contains(&layer));
    assert_eq!(store.mount("c", &[diff_id]).read("f"), "x");
}
