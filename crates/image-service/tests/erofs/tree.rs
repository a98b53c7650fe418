//! What a tree looks like to whoever uses it, for comparing two of them.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use image_service::Digest;

/// Everything about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    /// Number of links; of a directory, 2 and the directories in it.
    pub(crate) links: u64,
    pub(crate) device: u64,
    pub(crate) target: Option<PathBuf>,
    pub(crate) content: Option<Digest>,
    pub(crate) size: u64,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same inode.
    pub(crate) same_as: Vec<u8>,
}

/// Nodes by path; the root's is empty.
pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

/// The whole tree, the root included. `directory_links` is false where the file system has its own idea of how many
/// links a directory has.
pub(crate) fn snapshot(root: &Path, directory_links: bool) -> Tree {
    let mut nodes = BTreeMap::new();
    let mut pending = vec![root.join(".")];
    let mut top = node(&root.join("."));
    top.same_as = Vec::new();
    nodes.insert(Vec::new(), top);
    let mut inodes = BTreeMap::new();
    while let Some(dir) = pending.pop() {
        let mut directories = 2;
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let node = node(&path);
            assert_eq!(kind(&entry.file_type().unwrap()), node.kind, "what the directory says of {path:?}");
            assert_eq!(rustix::fs::lstat(&path).unwrap().st_ino, entry.ino(), "{path:?}");
            if node.kind == "directory" {
                pending.push(path.clone());
                directories += 1;
            }
            let name = below(root, &path);
            inodes.insert(name.clone(), entry.ino());
            nodes.insert(name, node);
        }
        let this = nodes.get_mut(&below(root, &dir)).unwrap();
        if directory_links {
            assert_eq!(this.links, directories, "{dir:?}");
        }
        this.links = directories;
    }
    let mut first = HashMap::new();
    for (path, inode) in inodes {
        let same = first.entry(inode).or_insert_with(|| path.clone()).clone();
        nodes.get_mut(&path).unwrap().same_as = same;
    }
    nodes
}

fn below(root: &Path, path: &Path) -> Vec<u8> {
    let path = path.strip_prefix(root.join(".")).or(path.strip_prefix(root)).unwrap();
    path.as_os_str().as_bytes().to_vec()
}

fn kind(kind: &std::fs::FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "directory",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "symbolic link",
        () if kind.is_fifo() => "fifo",
        () if kind.is_char_device() => "character device",
        () if kind.is_block_device() => "block device",
        () => "other",
    }
}

fn node(path: &Path) -> Node {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    let kind = kind(&metadata.file_type());
    Node {
        kind,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        links: metadata.nlink(),
        device: metadata.rdev(),
        target: metadata.is_symlink().then(|| std::fs::read_link(path).unwrap()),
        content: metadata.is_file().then(|| Digest::of(&std::fs::read(path).unwrap())),
        size: if metadata.is_dir() { 0 } else { metadata.len() },
        xattrs: xattrs(path),
        same_as: Vec::new(),
    }
}

/// Extended attributes of a node.
pub(crate) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0u8; 65_536];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0u8; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        (name.to_vec(), value)
    };
    names.map(value).collect()
}

/// Fails with the first difference.
pub(crate) fn assert_same(ours: &Tree, theirs: &Tree) {
    for (path, node) in theirs {
        let text = String::from_utf8_lossy(path);
        assert_eq!(ours.get(path), Some(node), "{text:?}");
    }
    let more: Vec<_> = ours.keys().filter(|path| !theirs.contains_key(*path)).collect();
    assert!(more.is_empty(), "only in ours: {more:?}");
}
