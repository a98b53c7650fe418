//! The layer's root, which lies in the image's first block behind the superblock: its number has 16 bits, and what it
//! contains is known last.

use std::io;

use super::image::Image;
use super::layout::Layout;
use super::unfit::Unfit;
use crate::erofs::dirent::Extent;
use crate::erofs::inode::{self, Data, Inode};
use crate::erofs::superblock::{self, Superblock};
use crate::erofs::xattr::{self, Body};
use crate::erofs::{BLOCK, SLOT};

/// Where its inode is.
pub(super) const OFFSET: usize = superblock::OFFSET + superblock::SIZE;

/// The number of its inode.
pub(super) const NUMBER: u64 = (OFFSET / SLOT) as u64;

/// Bytes that inode, attributes and names may take there.
const ROOM: usize = BLOCK - OFFSET;

/// Where what belongs to it goes.
pub(super) struct Place {
    /// Offset of its blocks.
    pub(super) data: u64,
    /// The last names are behind the inode.
    inline: bool,
    /// Offset of its attributes, where they have no room behind the inode.
    xattrs: Option<u64>,
}

/// Whether the root can have these attributes: behind its inode, or apart from it in a number that it can refer to.
pub(super) fn holds(xattrs: &Body) -> bool {
    inode::SIZE + xattrs.size() <= ROOM || xattrs.shared().is_some()
}

/// Finds room for what the first block doesn't hold.
pub(super) fn reserve(xattrs: usize, extent: Extent, layout: &mut Layout) -> io::Result<Place> {
    let apart = inode::SIZE + xattrs > ROOM;
    let inline = !apart && inode::SIZE + xattrs + extent.tail <= ROOM;
    let tail = if inline { 0 } else { extent.tail as u64 };
    let data = layout.blocks(extent.blocks * BLOCK as u64 + tail)?;
    let xattrs = if apart { Some(layout.blocks(xattrs as u64)?) } else { None };
    Ok(Place { data, inline, xattrs })
}

/// The root, ready for the first block.
pub(super) struct Root {
    bytes: Vec<u8>,
    shared_xattrs: u32,
}

impl Root {
    /// Writes what isn't in the first block, and keeps the rest for [`Root::first_block`].
    pub(super) fn new(
        inode: Inode,
        xattrs: &Body,
        place: &Place,
        tail: &[u8],
        image: &mut Image,
    ) -> io::Result<Root> {
        let mut behind = vec![0; xattrs.size()];
        let mut shared_xattrs = 0;
        if let Some(at) = place.xattrs {
            let Some((entries, starts)) = xattrs.shared() else {
                return Err(Unfit("the layer's root has too many extended attributes").into());
            };
            image.put(at, entries)?;
            behind = xattr::references(&starts);
            shared_xattrs = block(at);
        } else {
            xattrs.write(&mut behind);
        }
        let data = match (inode.size, place.inline) {
            (_, true) if !tail.is_empty() => Data::Inline(block(place.data)),
            _ => Data::Blocks(block(place.data)),
        };
        let mut bytes = Inode { data, xattrs: behind.len(), ..inode }.encode().to_vec();
        bytes.extend_from_slice(&behind);
        if place.inline {
            bytes.extend_from_slice(tail);
        } else if !tail.is_empty() {
            image.put(place.data + inode.size - tail.len() as u64, tail)?;
        }
        Ok(Root { bytes, shared_xattrs })
    }

    /// The image's first block.
    pub(super) fn first_block(&self, inodes: u64, layout: &Layout, chunked: bool) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        block[OFFSET..OFFSET + self.bytes.len()].copy_from_slice(&self.bytes);
        let superblock = Superblock {
            root: u16::try_from(NUMBER).map_err(io::Error::other)?,
            inodes,
            blocks: self::block(layout.end),
            shared_xattrs: self.shared_xattrs,
            chunked,
        };
        superblock.write(&mut block);
        Ok(block)
    }
}

fn block(offset: u64) -> u32 {
    u32::try_from(offset / BLOCK as u64).unwrap_or(u32::MAX)
}
