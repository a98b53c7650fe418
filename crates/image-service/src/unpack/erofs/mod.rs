//! Layers as EROFS images: one file, written front to back while the archive goes by.
//!
//! ```text
//! entry ─► attributes ─► layout: where? ─► image: inode, content      names: what is called what
//!                                                                       └─ at the end ─► directories, first block
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `names` | the tree of names, in memory |
//! | `attributes`, `acl` | what of an entry's attributes is kept |
//! | `layout` | where things go in the image |
//! | `image` | the file, its buffers and checksums |
//! | `sparse` | files with holes |
//! | `directories`, `root` | what is written at the end |
//!
//! An image is the same for the same archive, whoever makes it: it has no time but those of the archive, and nothing of
//! the host. What a later entry replaces stays in it, unreachable: the archive can't be told again without it.
//! Memory is bounded whatever comes: buffers of 512 KiB, and the names.
//! What an entry means is the same as for plain directories (`directory`), down to what is refused and in which words.
//! Not here: bytes of structures (`crate::erofs`), where images live and how they are mounted (`layers`).

mod acl;
mod attributes;
mod directories;
mod image;
mod layout;
mod names;
mod root;
mod sparse;

use std::fs::File;
use std::io;

use rustix::io::Errno;

use super::entry::{Entry, Kind};
use super::sparse::Extent;
use super::tree::Missing;
use super::{Content, Fault, Target, TreePath};
use crate::erofs::inode::{self, Data, Inode};
use crate::erofs::{BLOCK, FileType};
use crate::layers::Unpacked;
use crate::usage::Usage;
use directories::Directory;
use image::Image;
use layout::{Shape, Spot};
use names::{DirId, Names, ROOT};
use sparse::Chunks;

/// Longest target of a symbolic link in bytes (PATH_MAX less its end; limits.h).
const MAX_LINK: usize = 4095;

/// Bytes that the maps of a layer's sparse files may take together, and their holes that the image has as its own.
/// The first are written for nothing in the archive, the second make the image long.
const MAX_MAPS: u64 = 64 * 1024 * 1024;
const MAX_PADDING: u64 = 64 * 1024 * 1024 * 1024;

/// An image being filled.
pub(crate) struct ErofsTarget {
    names: Names,
    image: Image,
    opaque_root: bool,
    /// What holes have taken so far.
    maps: u64,
    padding: u64,
    /// Some file is made of chunks.
    chunked: bool,
}

impl ErofsTarget {
    /// A target that writes to the empty file `image`, from its start. It never reads it.
    pub(crate) fn new(image: File) -> ErofsTarget {
        ErofsTarget {
            names: Names::new(),
            image: Image::new(image),
            opaque_root: false,
            maps: 0,
            padding: 0,
            chunked: false,
        }
    }

    fn create(&mut self, path: &TreePath, entry: &Entry, content: &mut Content<'_>) -> Result<(), Fault> {
        let failed = |cause: io::Error| Fault::create(&entry.name, cause);
        let Some((parent, name)) = path.split() else {
            return match entry.kind {
                Kind::Directory => self.describe(ROOT, entry),
                _ => Err(Fault::refused(&entry.name, "the layer's root must be a directory")),
            };
        };
        let place = self.names.place(parent, Missing::Create).map_err(failed)?;
        let (kind, number) = match &entry.kind {
            Kind::HardLink(source) => return self.hard_link(place, name, entry, source),
            Kind::Directory => return self.directory(place, name, entry),
            Kind::Symlink(target) => {
                let number = self.symlink(entry, target)?;
                return self.names.set_link(place, name, number, target).map_err(failed);
            }
            Kind::Regular { size, extents } => {
                (FileType::Regular, self.regular(entry, *size, extents, content)?)
            }
            Kind::CharDevice { major, minor } => {
                (FileType::CharDevice, self.special(entry, Data::Device(inode::device(*major, *minor)))?)
            }
            Kind::BlockDevice { major, minor } => {
                (FileType::BlockDevice, self.special(entry, Data::Device(inode::device(*major, *minor)))?)
            }
            Kind::Fifo => (FileType::Fifo, self.special(entry, Data::None)?),
        };
        let whiteout = matches!(entry.kind, Kind::CharDevice { major: 0, minor: 0 });
        let node = names::Target::Node { kind, inode: number, whiteout, linked: false };
        self.names.set(place, name, node).map_err(failed)
    }

    /// A node without content; returns its number.
    fn special(&mut self, entry: &Entry, data: Data) -> Result<u64, Fault> {
        let attributes = attributes::of(entry)?;
        let shape = Shape { head: inode::SIZE + attributes.xattrs.size(), tail: 0, data: 0 };
        let made = self.image.place(&shape).and_then(|spot| {
            let inode = Inode { data, ..self.inode(entry, &attributes, 0) };
            self.image.put_inode(&spot, &inode, &attributes.xattrs, &[])?;
            Ok(spot.number())
        });
        made.map_err(|cause| Fault::create(&entry.name, cause))
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<u64, Fault> {
        if target.is_empty() || target.contains(&0) {
            return Err(Fault::refused(&entry.name, "its link has no valid target"));
        }
        if target.len() > MAX_LINK {
            return Err(Fault::create(&entry.name, Errno::NAMETOOLONG));
        }
        let attributes = attributes::of(entry)?;
        let shape = flat(inode::SIZE + attributes.xattrs.size(), target.len() as u64);
        let made = self.image.place(&shape).and_then(|spot| {
            let inode = self.inode(entry, &attributes, target.len() as u64);
            let inode = Inode { data: shape.data_at(&spot), ..inode };
            self.image.put_inode(&spot, &inode, &attributes.xattrs, &[])?;
            match shape.tail {
                0 => self.image.put(spot.data, target)?,
                length => self.image.inline(spot.inode + shape.head as u64, length).copy_from_slice(target),
            }
            Ok(spot.number())
        });
        made.map_err(|cause| Fault::create(&entry.name, cause))
    }

    /// An inode as its entry describes it, with one link and nothing in it.
    fn inode(&mut self, entry: &Entry, attributes: &attributes::Attributes, size: u64) -> Inode {
        let kind = match entry.kind {
            Kind::Regular { .. } | Kind::HardLink(_) => FileType::Regular,
            Kind::Directory => FileType::Directory,
            Kind::Symlink(_) => FileType::Symlink,
            Kind::CharDevice { .. } => FileType::CharDevice,
            Kind::BlockDevice { .. } => FileType::BlockDevice,
            Kind::Fifo => FileType::Fifo,
        };
        Inode {
            mode: kind.mode() | attributes.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: (entry.mtime.seconds, entry.mtime.nanoseconds),
            size,
            links: 1,
            xattrs: attributes.xattrs.size(),
            data: Data::None,
            number: self.image.next_number(),
        }
    }

    /// A file with its content; returns its number.
    fn regular(
        &mut self,
        entry: &Entry,
        size: u64,
        extents: &[Extent],
        content: &mut Content<'_>,
    ) -> Result<u64, Fault> {
        let failed = |cause: io::Error| Fault::create(&entry.name, cause);
        let attributes = attributes::of(entry)?;
        let home = match Chunks::of(size, extents) {
            None => self.flat_file(entry, &attributes, size),
            Some(chunks) => self.chunked_file(entry, &attributes, size, chunks),
        };
        let home = home.map_err(failed)?;
        while let Some(part) = content.next_part()? {
            let (blocks, tail) = part.bytes.split_at(home.before_tail(part.offset, part.bytes.len()));
            if !blocks.is_empty() {
                self.image.put(home.locate(part.offset), blocks).map_err(failed)?;
            }
            if !tail.is_empty() {
                let at = home.locate(part.offset + blocks.len() as u64);
                self.image.inline(at, tail.len()).copy_from_slice(tail);
            }
        }
        Ok(home.spot.number())
    }

    fn flat_file(
        &mut self,
        entry: &Entry,
        attributes: &attributes::Attributes,
        size: u64,
    ) -> io::Result<Home> {
        let shape = flat(inode::SIZE + attributes.xattrs.size(), size);
        let spot = self.image.place(&shape)?;
        let data = if size == 0 { Data::None } else { shape.data_at(&spot) };
        let inode = Inode { data, ..self.inode(entry, attributes, size) };
        self.image.put_inode(&spot, &inode, &attributes.xattrs, &[])?;
        if shape.tail > 0 {
            // Its last bytes may be a hole.
            self.image.inline(spot.inode + shape.head as u64, shape.tail);
        }
        Ok(Home { spot, shape, chunks: None })
    }

    fn chunked_file(
        &mut self,
        entry: &Entry,
        attributes: &attributes::Attributes,
        size: u64,
        chunks: Chunks,
    ) -> io::Result<Home> {
        let map = chunks.count.saturating_mul(4);
        self.maps = self.maps.saturating_add(map);
        self.padding = self.padding.saturating_add(chunks.padding);
        // What the kernel counts sizes in is signed.
        if i64::try_from(size).is_err() || self.maps > MAX_MAPS || self.padding > MAX_PADDING {
            return Err(Errno::FBIG.into());
        }
        let head = inode::SIZE + attributes.xattrs.size() + usize::try_from(map).unwrap_or(0);
        let shape = Shape { head, tail: 0, data: chunks.data };
        let spot = self.image.place(&shape)?;
        self.image.layout.holes += chunks.padding;
        self.chunked = true;
        let inode = Inode { data: Data::Chunks(chunks.bits), ..self.inode(entry, attributes, size) };
        self.image.put_inode(&spot, &inode, &attributes.xattrs, &chunks.map(spot.block()))?;
        Ok(Home { spot, shape, chunks: Some(chunks) })
    }

    fn hard_link(&mut self, place: DirId, name: &[u8], entry: &Entry, source: &[u8]) -> Result<(), Fault> {
        let refused = |reason| Fault::refused(&entry.name, reason);
        let failed = |cause: io::Error| Fault::create(&entry.name, cause);
        let source =
            TreePath::parse(source).map_err(|_| refused("it is a hard link to a path outside the layer"))?;
        let missing = "it is a hard link to a file that the layer doesn't have";
        let Some((from, from_name)) = source.split() else { return Err(refused(missing)) };
        let from = match self.names.place(from, Missing::Fail) {
            Ok(found) => found,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Err(refused(missing)),
            Err(cause) => return Err(failed(cause)),
        };
        if (from, from_name) == (place, name) {
            return Err(refused("it is a hard link to itself"));
        }
        match self.names.find(from, from_name) {
            None => Err(refused(missing)),
            Some(names::Target::Directory(_)) => Err(refused("it is a hard link to a directory")),
            // The file's attributes are those of its first entry: a link has none of its own.
            Some(names::Target::Node { .. }) => self.names.link(place, name, from, from_name).map_err(failed),
        }
    }

    fn directory(&mut self, place: DirId, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let found = self.names.find(place, name);
        let id = match found {
            Some(names::Target::Directory(id)) => id,
            _ => {
                // What the layers below have at a name that was hidden stays so.
                let opaque = found.is_some_and(|target| target.is_whiteout());
                let directory = Directory { opaque, ..Directory::implied(place) };
                let made = self.names.make_dir(place, name, directory);
                made.map_err(|cause| Fault::create(&entry.name, cause))?
            }
        };
        self.describe(id, entry)
    }

    /// Gives a directory the attributes of its entry.
    fn describe(&mut self, id: DirId, entry: &Entry) -> Result<(), Fault> {
        let attributes = attributes::of(entry)?;
        let held = self.names.hold(attributes.xattrs.size());
        held.map_err(|cause| Fault::create(&entry.name, cause))?;
        let directory = &mut self.names.directories[id as usize];
        directory.mode = attributes.mode;
        (directory.uid, directory.gid, directory.mtime) = (entry.uid, entry.gid, entry.mtime);
        directory.xattrs = attributes.xattrs;
        directory.implied = false;
        Ok(())
    }

    /// Makes overlay's mark of a hidden name.
    fn mark(&mut self, place: DirId, name: &[u8]) -> io::Result<()> {
        let spot = self.image.place(&Shape { head: inode::SIZE, tail: 0, data: 0 })?;
        let inode = Inode {
            mode: FileType::CharDevice.mode(),
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            links: 1,
            xattrs: 0,
            data: Data::Device(0),
            number: self.image.next_number(),
        };
        self.image.put_inode(&spot, &inode, &Default::default(), &[])?;
        let inode = spot.number();
        let node = names::Target::Node { kind: FileType::CharDevice, inode, whiteout: true, linked: false };
        self.names.set(place, name, node)
    }
}

impl Target for ErofsTarget {
    fn add(&mut self, path: &TreePath, entry: &Entry, content: &mut Content<'_>) -> Result<(), Fault> {
        self.create(path, entry, content)
    }

    fn whiteout(&mut self, path: &TreePath) -> Result<(), Fault> {
        let failed = |cause: io::Error| Fault::create(path.as_bytes(), cause);
        let Some((parent, name)) = path.split() else { return Err(failed(Errno::INVAL.into())) };
        let place = self.names.place(parent, Missing::Create).map_err(failed)?;
        match self.names.find(place, name) {
            None => self.mark(place, name).map_err(failed),
            // It is there in this layer too, and hides what is below: wholly if it is a directory.
            Some(names::Target::Directory(id)) => {
                self.names.directories[id as usize].opaque = true;
                Ok(())
            }
            Some(names::Target::Node { .. }) => Ok(()),
        }
    }

    fn opaque(&mut self, path: &TreePath) -> Result<(), Fault> {
        if path.is_root() {
            // Overlay doesn't look at this mark on a layer's root; who mounts it leaves out the layers below.
            self.opaque_root = true;
            return Ok(());
        }
        let place = self.names.place(path.as_bytes(), Missing::Create);
        let place = place.map_err(|cause| Fault::create(path.as_bytes(), cause))?;
        self.names.directories[place as usize].opaque = true;
        Ok(())
    }

    fn finish(&mut self) -> Result<Unpacked, Fault> {
        let finished = directories::finish(&self.names, &mut self.image, self.chunked);
        let finished = finished.map_err(|cause| Fault::create(b"", cause))?;
        let layout = &self.image.layout;
        Ok(Unpacked {
            usage: Usage { bytes: layout.end - layout.holes, inodes: 1 },
            opaque_root: self.opaque_root,
            implied_dirs: finished.implied_dirs,
            checksums: finished.checksums,
        })
    }
}

/// What a node with `size` bytes of content in one piece needs.
fn flat(head: usize, size: u64) -> Shape {
    let tail = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if tail > 0 && head + tail <= BLOCK {
        Shape { head, tail, data: size - tail as u64 }
    } else {
        Shape { head, tail: 0, data: size }
    }
}

/// Where the content of a file goes.
struct Home {
    spot: Spot,
    shape: Shape,
    chunks: Option<Chunks>,
}

impl Home {
    /// How many of `length` bytes from `offset` on aren't inline.
    fn before_tail(&self, offset: u64, length: usize) -> usize {
        if self.shape.tail == 0 {
            return length;
        }
        usize::try_from(self.shape.data.saturating_sub(offset)).map_or(length, |before| before.min(length))
    }

    /// Where byte `offset` of the file is in the image.
    fn locate(&self, offset: u64) -> u64 {
        match &self.chunks {
            Some(chunks) => self.spot.data + chunks.locate(offset),
            None if self.shape.tail > 0 && offset >= self.shape.data => {
                self.spot.inode + self.shape.head as u64 + (offset - self.shape.data)
            }
            None => self.spot.data + offset,
        }
    }
}
