//! A store in a directory of its own, and what its layers look like once mounted.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image_service::layers::{LayerForm, LayerSettings, Layers, LoopDevices, NewLayer};
use image_service::rootfs::{Durability, RootFilesystems};
use image_service::{Digest, Error};
use tempfile::TempDir;

use crate::archive::Tar;
use crate::loop_device;
use crate::slowness::slowness;

/// The forms in which layers are kept: all of them pass the same tests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    Directories,
    /// EROFS images, mounted in the way that this machine has.
    Images,
    /// EROFS images on a filesystem that the kernel mounts none from but by loop device.
    ImagesOnLoopDevices,
    /// EROFS images, mounted as on kernels before 6.15.
    ImagesOnStage,
}

impl Form {
    /// Whether its layers are directories of the store's filesystem.
    pub(crate) fn is_directory(self) -> bool {
        matches!(self, Form::Directories)
    }

    pub(crate) fn settings(self) -> LayerSettings {
        let form = if self.is_directory() { LayerForm::Directory } else { LayerForm::Erofs };
        let loop_devices = Some(LoopDevices::new(loop_device::attach));
        LayerSettings {
            confinement: None,
            form,
            loop_devices,
            verity: None,
            as_on_older_kernels: matches!(self, Form::ImagesOnStage),
        }
    }

    /// Why it can't be tested here.
    pub(crate) fn missing(self) -> Option<String> {
        if self.is_directory() {
            return None;
        }
        let dir = self.directory();
        Layers::open_as(&dir.path().join("images"), self.settings()).err().map(|error| format!("{error:?}"))
    }

    fn directory(self) -> TempDir {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("knarr-layers-");
        match self {
            Form::Directories | Form::Images | Form::ImagesOnStage => builder.tempdir().unwrap(),
            Form::ImagesOnLoopDevices => builder.tempdir_in("/dev/shm").unwrap(),
        }
    }
}

/// A store.
pub(crate) struct Store {
    form: Form,
    pub(crate) dir: TempDir,
    pub(crate) layers: Layers,
    pub(crate) roots: RootFilesystems,
}

/// A mounted root filesystem.
pub(crate) struct Mounted(OwnedFd);

impl From<OwnedFd> for Mounted {
    fn from(mount: OwnedFd) -> Mounted {
        Mounted(mount)
    }
}

impl Mounted {
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.at(path)).is_ok()
    }

    pub(crate) fn metadata(&self, path: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let name =
            |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(self.at(path)).unwrap().map(name).collect();
        names.sort();
        names
    }
}

impl Store {
    pub(crate) fn new(form: Form) -> Store {
        Store::open(form, form.directory())
    }

    pub(crate) fn open(form: Form, dir: TempDir) -> Store {
        let layers = Layers::open_as(&dir.path().join("images"), form.settings()).unwrap();
        let roots =
            RootFilesystems::open(&dir.path().join("containers"), layers.clone(), Durability::Synced, None);
        Store { form, layers, roots: roots.unwrap(), dir }
    }

    /// The same directories opened again, as a started daemon does.
    pub(crate) fn reopen(self) -> Store {
        let form = self.form;
        self.reopen_as(form)
    }

    /// The same with another form for new layers.
    pub(crate) fn reopen_as(self, form: Form) -> Store {
        Store::open(form, self.close())
    }

    /// Ends the store, as the end of a daemon does: its files stay.
    pub(crate) fn close(self) -> TempDir {
        self.dir
    }

    pub(crate) fn unpack(&self, tar: &Tar) -> Result<Digest, Error> {
        self.unpack_bytes(&tar.bytes(), &tar.bytes())
    }

    /// Unpacks `compressed`, which must become `plain`, in pieces of odd sizes.
    pub(crate) fn unpack_bytes(&self, compressed: &[u8], plain: &[u8]) -> Result<Digest, Error> {
        let diff_id = Digest::of(plain);
        let mut writer = self.layers.begin(NewLayer { diff_id: diff_id.clone() })?;
        let (first, rest) = compressed.split_at(compressed.len().min(3));
        for piece in [first].into_iter().chain(rest.chunks(10_007)) {
            writer.write(piece.to_vec().into())?;
        }
        let layer = writer.commit()?;
        let mut again = Vec::new();
        self.layers.write_archive(&layer, &mut again)?;
        assert!(again == plain, "the archive is written again bit by bit");
        Ok(diff_id)
    }

    /// Mounts layers, from the lowest upwards, as the root of a container of that name.
    pub(crate) fn mount(&self, container: &str, layers: &[Digest]) -> Mounted {
        self.roots.prepare(container, layers).unwrap();
        Mounted(self.roots.mount(container).unwrap())
    }

    /// Unpacks archives as layers, from the lowest upwards, and mounts them.
    pub(crate) fn image(&self, tars: &[Tar]) -> Mounted {
        let layers: Vec<Digest> = tars.iter().map(|tar| self.unpack(tar).unwrap()).collect();
        self.mount("container", &layers)
    }

    /// Whether anything of a layer in the making or being removed is left on disk; waits for the background.
    pub(crate) fn wait_until_tidy(&self) {
        let started = Instant::now();
        loop {
            let count = |dir: &str| std::fs::read_dir(self.dir.path().join(dir)).unwrap().count();
            let left = [count("images/ingest"), count("images/trash"), count("containers/.trash")];
            if left == [0, 0, 0] {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(20) * slowness(),
                "left in ingest and trash: {left:?}"
            );
            std::thread::yield_now();
        }
    }

    pub(crate) fn collect(&self, referenced: &[&Digest]) -> usize {
        let referenced: HashSet<Digest> = referenced.iter().copied().cloned().collect();
        self.layers.collect(&referenced).unwrap()
    }
}

/// Everything about a node that unpacking has to get right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Node {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    links: u64,
    device: u64,
    target: Option<PathBuf>,
    content: Option<Digest>,
    size: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The whole tree below `root`, without the root itself.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut nodes = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let node = node(&path);
            if node.kind == "directory" {
                pending.push(path.clone());
            }
            nodes.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), node);
        }
    }
    nodes
}

fn node(path: &Path) -> Node {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let (name, is_file) = match () {
        () if kind.is_dir() => ("directory", false),
        () if kind.is_file() => ("file", true),
        () if kind.is_symlink() => ("symbolic link", false),
        () if kind.is_fifo() => ("fifo", false),
        () if kind.is_char_device() => ("character device", false),
        () if kind.is_block_device() => ("block device", false),
        () => ("other", false),
    };
    Node {
        kind: name,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        // Overlay and plain filesystems count the links of directories in different ways.
        links: if kind.is_dir() { 0 } else { metadata.nlink() },
        device: metadata.rdev(),
        target: kind.is_symlink().then(|| std::fs::read_link(path).unwrap()),
        content: is_file.then(|| Digest::of(&std::fs::read(path).unwrap())),
        size: if kind.is_dir() { 0 } else { metadata.len() },
        xattrs: xattrs(path),
    }
}

/// Extended attributes of a node, overlay's own apart.
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
    names.filter(|name| !name.starts_with(b"trusted.overlay.")).map(value).collect()
}
