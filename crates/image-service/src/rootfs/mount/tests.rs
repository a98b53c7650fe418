//! Every way of mounting gives the same, with directories and with mounts of images that are attached on a stage.

use std::collections::BTreeSet;
use std::fs;

use rustix::fs::Mode;
use tempfile::TempDir;

use super::*;
use crate::mounting::attach;

#[path = "../../../tests/layers/mapping.rs"]
mod mapping;

const WAYS: [Way; 3] = [Way::Descriptors, Way::Paths, Way::PrivateNamespace];

/// Two layers, an upper directory, and where they are.
struct Rig {
    dir: TempDir,
    stage: Option<Stage>,
    /// From the top downwards.
    lowers: Vec<OwnedFd>,
}

impl Rig {
    /// With layers that are directories.
    fn directories() -> Rig {
        let dir = directories();
        let lowers = ["b", "a"].map(|name| open_place(&dir.path().join(name)).unwrap()).into();
        Rig { dir, stage: None, lowers }
    }

    /// With an upper layer that is a mount of its own, attached on a stage as images are before Linux 6.15, and a lower
    /// one that is a directory. The filesystem is another one than images have, which makes no difference here.
    fn staged() -> Rig {
        let dir = directories();
        let stage = Stage::new().unwrap();
        let context = Context::open("tmpfs").unwrap();
        let mount = context.mount(Ok(()), MountAttrFlags::empty()).unwrap();
        rustix::fs::fchmod(opened(&mount), Mode::from_raw_mode(0o755)).unwrap();
        let place = dir.path().join("b");
        stage.within(|| attach(&mount, &place)).unwrap();
        let lower = open_place(&dir.path().join("a")).unwrap();
        Rig { dir, stage: Some(stage), lowers: vec![mount, lower] }
    }

    fn both() -> [(&'static str, Rig); 2] {
        [("directories", Rig::directories()), ("on a stage", Rig::staged())]
    }

    fn write(&self, layer: usize, name: &str, content: &str) {
        fs::write(format!("{}/{name}", proc_path(&self.lowers[layer])), content).unwrap();
    }

    fn chown(&self, layer: usize, name: &str, owner: u32, group: u32) {
        let path = format!("{}/{name}", proc_path(&self.lowers[layer]));
        std::os::unix::fs::chown(path, Some(owner), Some(group)).unwrap();
    }

    fn parts<'a>(&'a self, map: Option<&'a IdMap>) -> Parts<'a> {
        let lowers: Vec<&OwnedFd> = self.lowers.iter().collect();
        let stage = self.stage.as_ref();
        let open = |name| open_place(&self.dir.path().join(name)).unwrap();
        Parts {
            mapped: map.map(|map| (ids::mapped(&lowers, stage, map).unwrap(), map)),
            lowers,
            stage,
            writable: Some((open("upper"), open("work"))),
            dir: self.dir.path(),
            durability: Durability::Synced,
            label: None,
        }
    }

    /// The mount; none where this kernel can't do it in this way.
    fn mount(&self, parts: &Parts<'_>, way: Way) -> Option<OwnedFd> {
        match parts.mount(way) {
            Ok(mount) => Some(mount),
            Err((_, cause)) if way != Way::PrivateNamespace && is_unknown(&cause) => {
                println!("skipped: this kernel has no {way:?}");
                None
            }
            Err(failure) => panic!("{way:?}: {failure:?}"),
        }
    }

    /// Nothing of it shows on the host.
    fn assert_unseen(&self, what: &str) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(self.dir.path().to_str().unwrap()), "{what}: {table}");
    }
}

fn directories() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["upper", "work", "a", "b"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    dir
}

fn opened(mount: &OwnedFd) -> fs::File {
    fs::File::open(proc_path(mount)).unwrap()
}

fn needs_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: needs root");
    }
    is_root
}

/// Mapped ids show in every way, also in the one of older kernels, and what is written is the users'.
#[test]
fn mapped_ids_show_in_all_ways() {
    use std::os::unix::fs::MetadataExt;
    if !needs_root() {
        return;
    }
    let (_users, map) = mapping::users();
    let map = IdMap::new(map);
    for (form, rig) in Rig::both() {
        rig.write(1, "roots", "a");
        rig.write(0, "users", "b");
        rig.chown(0, "users", 33, 34);
        for way in WAYS {
            let what = format!("{form}, {way:?}");
            let Some(mount) = rig.mount(&rig.parts(Some(&map)), way) else { continue };
            ids::check_writable(&mount, "c").unwrap();
            let root = proc_path(&mount);
            let owner = |name: &str| {
                let meta = fs::metadata(format!("{root}/{name}")).unwrap();
                (meta.uid(), meta.gid())
            };
            assert_eq!([owner("roots"), owner("users")], [(5000, 5000), (5033, 5034)], "{what}");
            // Copied up with the owner that it shows.
            fs::write(format!("{root}/users"), "changed").unwrap();
            let upper = fs::metadata(rig.dir.path().join("upper/users")).unwrap();
            assert_eq!((upper.uid(), upper.gid()), (5033, 5034), "{what}");
            fs::remove_file(rig.dir.path().join("upper/users")).unwrap();
            let below = fs::metadata(format!("{}/users", proc_path(&rig.lowers[0]))).unwrap();
            assert_eq!(below.uid(), 33, "{what}");
            rig.assert_unseen(&what);
        }
    }
}

/// Every way shows the same files and leaves the mount table as it was.
#[test]
fn all_ways_mount_the_same() {
    if !needs_root() {
        return;
    }
    for (form, rig) in Rig::both() {
        rig.write(1, "from-a", "a");
        rig.write(1, "both", "a");
        rig.write(0, "both", "b");
        for way in WAYS {
            let what = format!("{form}, {way:?}");
            let parts = rig.parts(None);
            let Some(mount) = rig.mount(&parts, way) else { continue };
            let root = proc_path(&mount);
            let names: BTreeSet<_> =
                fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, BTreeSet::from(["both".into(), "from-a".into()]), "{what}");
            assert_eq!(fs::read_to_string(format!("{root}/both")).unwrap(), "b", "{what}");
            drop(mount);
            let view = Parts { writable: None, ..parts }.mount(way).unwrap();
            let root = proc_path(&view);
            assert_eq!(fs::read_to_string(format!("{root}/both")).unwrap(), "b", "{what}");
            let refused = fs::write(format!("{root}/new"), "").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem, "{what}");
            rig.assert_unseen(&what);
        }
    }
}

/// What is on a stage is used by overlays made there, and they outlive it.
#[test]
fn a_mount_outlives_its_stage() {
    if !needs_root() {
        return;
    }
    let mut rig = Rig::staged();
    rig.write(0, "file", "content");
    for way in WAYS {
        let Some(mount) = rig.mount(&rig.parts(None), way) else { continue };
        let path = format!("{}/file", proc_path(&mount));
        if way == Way::PrivateNamespace {
            rig.lowers.clear();
            rig.stage = None;
        }
        assert_eq!(fs::read_to_string(path).unwrap(), "content", "{way:?}");
    }
}
