//! Nodes other than directories: inodes and content, written as soon as their entry comes by.

use std::io;

use rustix::io::Errno;

use super::attributes::{self, Attributes};
use super::image::Image;
use super::layout::{Shape, Spot};
use super::sparse::Chunks;
use super::unfit::{Unfit, fault};
use crate::erofs::inode::{self, Data, Inode};
use crate::erofs::xattr::Body;
use crate::erofs::{BLOCK, FileType};
use crate::unpack::entry::{Entry, Kind};
use crate::unpack::{Content, Extent, Fault, Stored};

/// Longest target of a symbolic link in bytes (PATH_MAX less its end; limits.h).
const MAX_LINK: usize = 4095;

/// Bytes that the maps of a layer's sparse files may take together, and their holes that the image has as its own.
/// The first are written for nothing in the archive, the second make the image long.
const MAX_MAPS: u64 = 64 * 1024 * 1024;
const MAX_PADDING: u64 = 64 * 1024 * 1024 * 1024;

/// A node's kind and the number of its inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) kind: FileType,
    pub(super) inode: u64,
}

/// Writes nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) image: Image,
    /// What holes have taken so far.
    maps: u64,
    padding: u64,
    /// Some file is made of chunks.
    pub(super) chunked: bool,
}

impl Nodes {
    pub(super) fn new(image: Image) -> Nodes {
        Nodes { image, maps: 0, padding: 0, chunked: false }
    }

    /// Writes the node of an entry that is neither a directory nor a further name.
    pub(super) fn make(&mut self, entry: &Entry, content: &mut Content<'_>) -> Result<(Made, Stored), Fault> {
        let device = |major: &u32, minor: &u32| Data::Device(inode::device(*major, *minor));
        let (kind, inode) = match &entry.kind {
            Kind::Regular { size, extents } => {
                let (inode, stored) = self.regular(entry, *size, extents, content)?;
                return Ok((Made { kind: FileType::Regular, inode }, stored));
            }
            Kind::Symlink(target) => (FileType::Symlink, self.symlink(entry, target)?),
            Kind::CharDevice { major, minor } => {
                (FileType::CharDevice, self.special(entry, FileType::CharDevice, device(major, minor))?)
            }
            Kind::BlockDevice { major, minor } => {
                (FileType::BlockDevice, self.special(entry, FileType::BlockDevice, device(major, minor))?)
            }
            Kind::Fifo => (FileType::Fifo, self.special(entry, FileType::Fifo, Data::None)?),
            Kind::Directory | Kind::HardLink(_) => return Err(Fault::create(&entry.name, Errno::INVAL)),
        };
        Ok((Made { kind, inode }, Stored::Nothing))
    }

    /// Writes overlay's mark of a hidden name; returns the number of its inode.
    pub(super) fn whiteout(&mut self) -> io::Result<u64> {
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
        self.image.put_inode(&spot, &inode, &Body::default(), &[])?;
        Ok(spot.number())
    }

    fn special(&mut self, entry: &Entry, kind: FileType, data: Data) -> Result<u64, Fault> {
        let attributes = attributes::of(entry)?;
        let shape = flat(&attributes, 0);
        let made = self.image.place(&shape).and_then(|spot| {
            let inode = Inode { data, ..self.inode(entry, kind, &attributes, 0) };
            self.image.put_inode(&spot, &inode, &attributes.xattrs, &[])?;
            Ok(spot.number())
        });
        made.map_err(|cause| fault(&entry.name, cause))
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<u64, Fault> {
        if target.is_empty() || target.contains(&0) {
            return Err(Fault::refused(&entry.name, "its link has no valid target"));
        }
        if target.len() > MAX_LINK {
            return Err(Fault::create(&entry.name, Errno::NAMETOOLONG));
        }
        let attributes = attributes::of(entry)?;
        let size = target.len() as u64;
        let made = self.flat(entry, FileType::Symlink, &attributes, size).and_then(|home| {
            match home.shape.tail {
                0 => self.image.put(home.locate(0), target)?,
                length => self.image.inline(home.locate(0), length).copy_from_slice(target),
            }
            Ok(home.spot.number())
        });
        made.map_err(|cause| fault(&entry.name, cause))
    }

    /// A file with its content.
    fn regular(
        &mut self,
        entry: &Entry,
        size: u64,
        extents: &[Extent],
        content: &mut Content<'_>,
    ) -> Result<(u64, Stored), Fault> {
        let failed = |cause: io::Error| fault(&entry.name, cause);
        let attributes = attributes::of(entry)?;
        let home = match Chunks::of(size, extents) {
            None => self.flat(entry, FileType::Regular, &attributes, size),
            Some(chunks) => self.chunked(entry, &attributes, size, chunks),
        };
        let home = home.map_err(failed)?;
        let mut stored = Vec::new();
        while let Some(part) = content.next_part()? {
            let (blocks, tail) = part.bytes.split_at(home.before_tail(part.offset, part.bytes.len()));
            if !blocks.is_empty() {
                let at = home.locate(part.offset);
                self.image.put(at, blocks).map_err(failed)?;
                note(&mut stored, at, blocks.len());
            }
            if !tail.is_empty() {
                let at = home.locate(part.offset + blocks.len() as u64);
                self.image.inline(at, tail.len()).copy_from_slice(tail);
                note(&mut stored, at, tail.len());
            }
        }
        let stored = if stored.is_empty() { Stored::Nothing } else { Stored::At(stored) };
        Ok((home.spot.number(), stored))
    }

    /// The inode of a node whose content lies in one piece, or in one and a tail.
    fn flat(
        &mut self,
        entry: &Entry,
        kind: FileType,
        attributes: &Attributes,
        size: u64,
    ) -> io::Result<Home> {
        let shape = flat(attributes, size);
        let spot = self.image.place(&shape)?;
        let inode = Inode { data: shape.data_at(&spot), ..self.inode(entry, kind, attributes, size) };
        self.image.put_inode(&spot, &inode, &attributes.xattrs, &[])?;
        if shape.tail > 0 {
            // Its last bytes may be a hole, which nobody writes.
            self.image.inline(spot.inode + shape.head as u64, shape.tail);
        }
        Ok(Home { spot, shape, chunks: None })
    }

    /// The inode of a file with holes.
    fn chunked(
        &mut self,
        entry: &Entry,
        attributes: &Attributes,
        size: u64,
        chunks: Chunks,
    ) -> io::Result<Home> {
        let map = chunks.count.saturating_mul(4);
        self.maps = self.maps.saturating_add(map);
        self.padding = self.padding.saturating_add(chunks.padding);
        // What the kernel counts sizes in is signed.
        if i64::try_from(size).is_err() || self.maps > MAX_MAPS || self.padding > MAX_PADDING {
            return Err(Unfit("its holes are larger than an image can tell").into());
        }
        let head = inode::SIZE + attributes.xattrs.size() + usize::try_from(map).unwrap_or(0);
        let shape = Shape { head, tail: 0, data: chunks.data };
        let spot = self.image.place(&shape)?;
        self.image.layout.holes += chunks.padding;
        self.chunked = true;
        let inode = self.inode(entry, FileType::Regular, attributes, size);
        let inode = Inode { data: Data::Chunks(chunks.bits), ..inode };
        self.image.put_inode(&spot, &inode, &attributes.xattrs, &chunks.map(spot.block()))?;
        Ok(Home { spot, shape, chunks: Some(chunks) })
    }

    /// An inode as its entry describes it, with one link and nothing in it.
    fn inode(&mut self, entry: &Entry, kind: FileType, attributes: &Attributes, size: u64) -> Inode {
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
}

/// What a node needs that has `size` bytes of content in one piece.
fn flat(attributes: &Attributes, size: u64) -> Shape {
    let head = inode::SIZE + attributes.xattrs.size();
    let tail = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if tail > 0 && head + tail <= BLOCK {
        Shape { head, tail, data: size - tail as u64 }
    } else {
        Shape { head, tail: 0, data: size }
    }
}

/// Adds bytes in the image to those that have a file's content.
fn note(stored: &mut Vec<Extent>, offset: u64, length: usize) {
    let length = length as u64;
    match stored.last_mut() {
        Some(last) if last.offset + last.length == offset => last.length += length,
        _ => stored.push(Extent { offset, length }),
    }
}

/// Where the content of a node goes.
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

    /// Where byte `offset` of the content is in the image.
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
