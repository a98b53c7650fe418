//! Archives unpacked for real, into a filesystem in memory that nobody else sees, beside a directory that stands for the
//! host: whatever the archive says, that directory stays as it is.

use std::fs::{self, File};
use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Once;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::grammar;
use crate::digest::Algorithm;
use crate::unpack::{DirectoryTarget, Stream, own_umask, unpack};

/// Where the filesystem is; the grammar's names of things outside aim at it.
const PLACE: &str = "/mnt";

/// Needs root, as unpacking does.
pub fn check(input: &[u8]) {
    prepare();
    let archive = grammar::archive(input);
    in_directories(|place| {
        let open = |name: &str| OwnedFd::from(File::open(place.join(name)).unwrap());
        let mut target = DirectoryTarget::new(open("layer"), open("aside"));
        let stream = Stream::open(Cursor::new(archive), Algorithm::Sha256, Box::new(|_| {}), super::tools());
        let _ = stream.and_then(|stream| unpack(stream, &mut target));
    });
}

/// Does something with two empty directories, `layer` and `aside`, and then sees that nothing beside them has changed.
pub(super) fn in_directories(work: impl FnOnce(&Path)) {
    let place = Path::new(PLACE);
    for dir in ["layer", "aside"] {
        // As the store makes a layer's root.
        fs::DirBuilder::new().mode(0o755).create(place.join(dir)).unwrap();
    }
    let before = host();
    work(place);
    assert_eq!(host(), before);
    for dir in ["layer", "aside"] {
        fs::remove_dir_all(place.join(dir)).unwrap();
    }
    let mut left: Vec<_> = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["host"]);
}

/// Makes the filesystem, once.
pub(super) fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("fuzz"), PLACE, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).unwrap();
        fs::create_dir(format!("{PLACE}/host")).unwrap();
        fs::write(format!("{PLACE}/host/victim"), "untouched").unwrap();
        own_umask().unwrap();
    });
}

/// Everything about the directory that an archive might change.
fn host() -> Vec<(String, u32, u32, u64, i64, i64, String)> {
    let paths = [format!("{PLACE}/host"), format!("{PLACE}/host/victim")];
    let names: Vec<_> = fs::read_dir(&paths[0]).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["victim"]);
    paths
        .into_iter()
        .map(|path| {
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = fs::read_to_string(&path).unwrap_or_default();
            (path, meta.mode(), meta.uid(), meta.nlink(), meta.mtime(), meta.mtime_nsec(), content)
        })
        .collect()
}
