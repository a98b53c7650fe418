//! Layers in both forms: what the kernel shows of an EROFS image is what it shows of a directory of the same archive, the same archive
//! gives the same bytes, their checksums are right, and erofs-utils' fsck, asked now and then, has nothing to say.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Cursor;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::{grammar, tree};
use crate::digest::Digest;
use crate::unpack::{ErofsImage, write_directory, write_erofs};

/// Bytes of one checksum.
const MIB: usize = 1 << 20;

/// Files beyond this are compared by all but their content.
const COMPARED: u64 = 4 << 20;

/// How seldom fsck is asked: it is a process of its own.
const FSCK: u8 = 4;

/// Needs root, as unpacking does, and a kernel that mounts an image from a file. The image isn't in memory: such a file system has
/// nothing that a mount could read from.
pub fn check(input: &[u8]) {
    static FILE: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    tree::prepare();
    let archive = grammar::archive(input);
    let image = FILE.get_or_init(|| tempfile::NamedTempFile::new().unwrap()).path();
    let Some(written) = write(&archive, image) else { return };
    assert_eq!(written.digest, Digest::of(&archive));
    let bytes = fs::read(image).unwrap();
    let sums: Vec<u32> = bytes.chunks(MIB).map(crc32c::crc32c).collect();
    assert_eq!(written.checksums, sums);
    if Digest::of(input).hex().as_bytes()[0] == b'0' && input.first().is_some_and(|byte| byte % FSCK == 0) {
        let checked = Command::new("fsck.erofs").arg(image).output();
        assert!(checked.is_ok_and(|output| output.status.success()), "fsck.erofs");
    }
    compare(&archive, image, &written);
    let again = write(&archive, image);
    assert_eq!(again.as_ref(), Some(&written));
    assert!(fs::read(image).unwrap() == bytes, "other bytes for the same archive");
}

fn write(archive: &[u8], image: &Path) -> Option<ErofsImage> {
    // Empty, and for reading too.
    let file = File::options().read(true).write(true).truncate(true).open(image).unwrap();
    write_erofs(Cursor::new(archive.to_vec()), file, &Digest::of(archive)).ok()
}

/// Where the directory can be made as well, both show the same.
fn compare(archive: &[u8], image: &Path, written: &ErofsImage) {
    let mounted = mount(image);
    let root = PathBuf::from(format!("/proc/self/fd/{}", mounted.as_raw_fd()));
    let shown = inventory(&root, written, &BTreeMap::new());
    tree::in_directories(|place| {
        let open = |name: &str| OwnedFd::from(File::open(place.join(name)).unwrap());
        let directory =
            write_directory(Cursor::new(archive.to_vec()), open("layer"), open("aside"), &written.digest);
        if directory.is_ok() {
            let kept = links(&place.join("aside"));
            let expected = inventory(&place.join("layer"), written, &kept);
            for (path, entry) in &expected {
                assert_eq!(shown.get(path), Some(entry), "{path:?}");
            }
            assert_eq!(shown.len(), expected.len(), "more names than in the directory");
        }
    });
}

fn mount(image: &Path) -> OwnedFd {
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_set_string(&context, "source", image).unwrap();
    rustix::mount::fsconfig_create(&context).expect("the kernel takes the image");
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
        .unwrap()
}

/// What can be seen of one name.
#[derive(Debug, PartialEq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    /// Of what isn't a directory, as is the size.
    links: u64,
    size: u64,
    /// Not of whiteouts, nor of directories that the archive doesn't describe: nobody chose theirs.
    mtime: Option<(i64, i64)>,
    content: Vec<u8>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// How many names each file has below a directory, by its inode.
fn links(root: &Path) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                left.push(entry.path());
            } else {
                *found.entry(meta.ino()).or_default() += 1;
            }
        }
    }
    found
}

/// All names below `root`. Names that files have elsewhere (`kept`: what later entries replaced is) aren't counted.
fn inventory(root: &Path, written: &ErofsImage, kept: &BTreeMap<u64, u64>) -> BTreeMap<PathBuf, Seen> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let path = root.join(&below);
        let meta =
            if below.as_os_str().is_empty() { fs::metadata(root) } else { fs::symlink_metadata(&path) };
        let meta = meta.unwrap();
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| below.join(entry.unwrap().file_name())));
        }
        let implied = below.to_str().is_none_or(|below| written.implied_dirs.iter().any(|dir| dir == below));
        let is_whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
        let seen = Seen {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            device: if meta.file_type().is_char_device() || meta.file_type().is_block_device() {
                meta.rdev()
            } else {
                0
            },
            links: if meta.is_dir() { 0 } else { meta.nlink() - kept.get(&meta.ino()).unwrap_or(&0) },
            size: if meta.is_dir() { 0 } else { meta.len() },
            mtime: (!(meta.is_dir() && implied) && !is_whiteout).then(|| (meta.mtime(), meta.mtime_nsec())),
            content: content(&path, &meta),
            xattrs: xattrs(&path),
        };
        found.insert(below, seen);
    }
    found
}

fn content(path: &Path, meta: &fs::Metadata) -> Vec<u8> {
    match meta.file_type() {
        kind if kind.is_symlink() => fs::read_link(path).unwrap().into_os_string().into_vec(),
        kind if kind.is_file() && meta.len() <= COMPARED => fs::read(path).unwrap(),
        _ => Vec::new(),
    }
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0u8; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let value = |name: &[u8]| {
        let mut value = vec![0u8; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap_or(0);
        (OsString::from_vec(name.to_vec()), value[..length].to_vec())
    };
    names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(value).collect()
}
