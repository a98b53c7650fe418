//! The image file: written in few large steps, each byte once, with the checksums of what is written.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;

use super::layout::{LARGEST_SEGMENT, Layout, Shape, Spot};
use crate::erofs::checksum::Checksums;
use crate::erofs::inode::{self, Inode};
use crate::erofs::xattr::Body;
use crate::erofs::{BLOCK, SLOT};

/// Bytes of content that are written together, from one multiple of them to the next: so the kernel finds large pages for
/// them. (Measured: writing 320 MB took a quarter less processor time than in pieces of this size that begin anywhere.) As many
/// as come at once: of those, only what lies behind the last multiple has to be copied.
const STRIDE: usize = 128 * 1024;

/// An image being written.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    pub(super) layout: Layout,
    sums: Checksums,
    /// The segment of inodes being filled, and its bytes up to what is in use.
    segment: u64,
    inodes: Vec<u8>,
    /// Content that waits, and where it belongs.
    start: u64,
    content: Vec<u8>,
    /// Inodes written so far.
    count: u32,
}

impl Image {
    pub(super) fn new(file: File) -> Image {
        Image {
            file,
            layout: Layout::new(),
            sums: Checksums::default(),
            segment: 0,
            // Memory that isn't written to isn't there.
            inodes: Vec::with_capacity(LARGEST_SEGMENT),
            start: 0,
            content: Vec::with_capacity(STRIDE),
            count: 0,
        }
    }

    /// Finds room for a node.
    pub(super) fn place(&mut self, shape: &Shape) -> io::Result<Spot> {
        let spot = self.layout.place(shape)?;
        if self.layout.segment != self.segment {
            self.flush_inodes()?;
            self.segment = self.layout.segment;
        }
        Ok(spot)
    }

    /// A number for the next inode, as 32-bit programs see it.
    pub(super) fn next_number(&mut self) -> u32 {
        self.count = self.count.wrapping_add(1);
        self.count
    }

    /// Writes an inode with its attributes and its map at the spot that was found for it.
    pub(super) fn put_inode(
        &mut self,
        spot: &Spot,
        inode: &Inode,
        xattrs: &Body,
        map: &[u8],
    ) -> io::Result<()> {
        let behind = inode::SIZE + xattrs.size();
        if behind + map.len() <= BLOCK {
            let room = self.inline(spot.inode, behind + map.len());
            room[..inode::SIZE].copy_from_slice(&inode.encode());
            xattrs.write(&mut room[inode::SIZE..behind]);
            room[behind..].copy_from_slice(map);
            return Ok(());
        }
        let mut apart = vec![0; behind];
        apart[..inode::SIZE].copy_from_slice(&inode.encode());
        xattrs.write(&mut apart[inode::SIZE..]);
        self.put(spot.inode, &apart)?;
        self.put(spot.inode + behind as u64, map)
    }

    /// Bytes of the segment being filled.
    pub(super) fn inline(&mut self, at: u64, length: usize) -> &mut [u8] {
        let start = usize::try_from(at - self.segment).unwrap_or(usize::MAX);
        if self.inodes.len() < start + length {
            self.inodes.resize((start + length).next_multiple_of(BLOCK), 0);
        }
        &mut self.inodes[start..start + length]
    }

    /// Writes content; what is written mostly follows what was written last.
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = self.start + self.content.len() as u64;
        match usize::try_from(at.wrapping_sub(end)) {
            Ok(0) => {}
            // The rest of a block.
            Ok(gap) if gap < BLOCK && !self.content.is_empty() => {
                self.add(&[0; BLOCK][..gap])?;
            }
            _ => {
                self.flush_content()?;
                self.start = at;
            }
        }
        self.add(bytes)
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        loop {
            let end = self.start + self.content.len() as u64;
            let free = STRIDE - usize::try_from(end % STRIDE as u64).unwrap_or(0);
            let Some((now, later)) = rest.split_at_checked(free) else { break };
            self.flush_with(now)?;
            rest = later;
        }
        self.content.extend_from_slice(rest);
        Ok(())
    }

    /// Gives an inode that has one link this number of them.
    pub(super) fn set_links(&mut self, number: u64, links: u32) -> io::Result<()> {
        let at = number * SLOT as u64 + inode::LINKS as u64;
        let within = at.checked_sub(self.segment).and_then(|at| usize::try_from(at).ok());
        if let Some(within) = within.filter(|within| *within < self.inodes.len()) {
            self.inodes[within..within + 4].copy_from_slice(&links.to_le_bytes());
            return Ok(());
        }
        self.flush_content()?;
        self.file.write_all_at(&links.to_le_bytes(), at)?;
        self.sums.add(at, &(links ^ 1).to_le_bytes());
        Ok(())
    }

    fn flush_inodes(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.inodes);
        self.write(self.segment, &bytes)?;
        self.inodes = bytes;
        self.inodes.clear();
        Ok(())
    }

    fn flush_content(&mut self) -> io::Result<()> {
        if self.content.is_empty() { Ok(()) } else { self.flush_with(&[]) }
    }

    /// Writes the content that waits, and what follows it.
    fn flush_with(&mut self, more: &[u8]) -> io::Result<()> {
        let middle = self.start + self.content.len() as u64;
        write_together(&self.file, &mut [IoSlice::new(&self.content), IoSlice::new(more)], self.start)?;
        self.sums.add(self.start, &self.content);
        self.sums.add(middle, more);
        self.content.clear();
        self.start = middle + more.len() as u64;
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        self.sums.add(at, bytes);
        Ok(())
    }

    /// Writes what waits, and the first block; returns the checksums.
    pub(super) fn finish(
        &mut self,
        first: impl FnOnce(&Layout) -> io::Result<[u8; BLOCK]>,
    ) -> io::Result<Vec<u32>> {
        self.flush_inodes()?;
        self.flush_content()?;
        self.layout.close();
        let first = first(&self.layout)?;
        self.write(0, &first)?;
        self.file.set_len(self.layout.end)?;
        Ok(std::mem::take(&mut self.sums).finish(self.layout.end))
    }
}

/// Writes pieces one behind the other; in one step, unless the kernel takes less.
fn write_together(file: &File, mut pieces: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut pieces, 0);
    while !pieces.is_empty() {
        match rustix::io::pwritev(file, pieces, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut pieces, written);
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
