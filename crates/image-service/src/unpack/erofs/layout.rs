//! Where things go in an image, decided one after the other and never taken back.
//!
//! ```text
//! block 0: superblock, root │ segment of inodes │ blocks of files … │ segment │ blocks … │ …
//! ```
//!
//! Inodes, with what lies inline behind them, go into segments that are set aside ahead, so that an inode's number is
//! known before its file has passed. What is in one block of a segment is put where it fits best: content of some 2 KiB
//! for each file would otherwise leave a third of them empty.
//! Nothing here writes. A copy of a layout tells where the next things would go.

use std::io;

use super::unfit::Unfit;
use crate::erofs::inode::Data;
use crate::erofs::{BLOCK, NO_BLOCK, SLOT};

/// Sizes of segments in bytes: each is twice the one before, so that a small layer stays small and a large one has few.
const FIRST_SEGMENT: usize = 16 * 1024;
pub(super) const LARGEST_SEGMENT: usize = 256 * 1024;

/// End of the largest image in bytes: block addresses have 32 bits, one of which means none.
const MAX_END: u64 = NO_BLOCK as u64 * BLOCK as u64;

/// What a node needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of its inode, attributes and map, which are contiguous.
    pub(super) head: usize,
    /// Bytes of content right behind them, in the block in which they end.
    pub(super) tail: usize,
    /// Bytes of content in blocks.
    pub(super) data: u64,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// Offset of the inode.
    pub(super) inode: u64,
    /// Offset of the blocks; one without them has none there.
    pub(super) data: u64,
}

impl Spot {
    /// The inode's number.
    pub(super) fn number(&self) -> u64 {
        self.inode / SLOT as u64
    }

    /// Address of the first block of content.
    pub(super) fn block(&self) -> u32 {
        match self.data {
            0 => NO_BLOCK,
            data => u32::try_from(data / BLOCK as u64).unwrap_or(NO_BLOCK),
        }
    }
}

impl Shape {
    /// How the inode at `spot` says where its content is.
    pub(super) fn data_at(&self, spot: &Spot) -> Data {
        if self.tail > 0 { Data::Inline(spot.block()) } else { Data::Blocks(spot.block()) }
    }
}

/// The state of an image's layout.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// End of what is set aside, in bytes: whole blocks.
    pub(super) end: u64,
    /// The segment being filled, and how much of each of its blocks is in use.
    pub(super) segment: u64,
    pub(super) used: Vec<u16>,
    /// Bytes that are set aside and never written.
    pub(super) holes: u64,
    next_segment: usize,
}

impl Layout {
    /// An image that has its first block.
    pub(super) fn new() -> Layout {
        Layout { end: BLOCK as u64, segment: 0, used: Vec::new(), holes: 0, next_segment: FIRST_SEGMENT }
    }

    /// Finds room for a node. One whose head is larger than a block gets blocks of its own.
    ///
    /// # Errors
    /// That the image would be too large.
    pub(super) fn place(&mut self, shape: &Shape) -> io::Result<Spot> {
        let need = shape.head + shape.tail;
        let inode = if need > BLOCK { self.blocks(need as u64)? } else { self.slot(need)? };
        let data = if shape.data > 0 { self.blocks(shape.data)? } else { 0 };
        Ok(Spot { inode, data })
    }

    /// Sets aside blocks for so many bytes.
    pub(super) fn blocks(&mut self, bytes: u64) -> io::Result<u64> {
        let start = self.end;
        let end = bytes.checked_next_multiple_of(BLOCK as u64).and_then(|bytes| start.checked_add(bytes));
        self.end = end.filter(|end| *end <= MAX_END).ok_or(Unfit("it is larger than an image can be"))?;
        Ok(start)
    }

    fn slot(&mut self, need: usize) -> io::Result<u64> {
        if let Some(at) = self.fit(need) {
            return Ok(at);
        }
        self.close();
        self.segment = self.blocks(self.next_segment as u64)?;
        self.used = vec![0; self.next_segment / BLOCK];
        self.next_segment = (self.next_segment * 2).min(LARGEST_SEGMENT);
        self.fit(need).ok_or_else(|| Unfit("its inode is larger than a block").into())
    }

    /// The block of the segment that is left with the least room.
    fn fit(&mut self, need: usize) -> Option<u64> {
        let room = |used: u16| BLOCK - usize::from(used);
        let fitting = self.used.iter().enumerate().filter(|(_, used)| room(**used) >= need);
        let (index, used) = fitting.min_by_key(|(_, used)| room(**used))?;
        let at = self.segment + (index * BLOCK) as u64 + u64::from(*used);
        let end = (usize::from(*used) + need).next_multiple_of(SLOT);
        self.used[index] = u16::try_from(end).unwrap_or(u16::MAX);
        Some(at)
    }

    /// Ends the segment. What it has no use for is given back if nothing came after it.
    pub(super) fn close(&mut self) {
        let whole = (self.used.len() * BLOCK) as u64;
        let left = whole - self.written() as u64;
        if self.segment + whole == self.end {
            self.end -= left;
        } else {
            self.holes += left;
        }
        self.used.clear();
    }

    /// Bytes of the segment from its start to the end of the last block in use.
    pub(super) fn written(&self) -> usize {
        self.used.iter().rposition(|used| *used > 0).map_or(0, |last| (last + 1) * BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(head: usize, tail: usize) -> Shape {
        Shape { head, tail, data: 0 }
    }

    #[test]
    fn nothing_inline_crosses_a_block_and_nothing_overlaps() {
        let mut layout = Layout::new();
        let mut taken: Vec<(u64, u64)> = vec![(0, BLOCK as u64)];
        let mut state = 1u64;
        for _ in 0..5_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (a, b) = (usize::try_from(state >> 52).unwrap(), state >> 20 & 0x7fff);
            let shape = Shape { head: 64 + a % 7 * 4, tail: a, data: b };
            let shape = if shape.head + a > BLOCK { Shape { tail: 0, ..shape } } else { shape };
            let spot = layout.place(&shape).unwrap();
            let need = (shape.head + shape.tail) as u64;
            assert_eq!(spot.inode / 4096, (spot.inode + need - 1) / 4096, "{shape:?}");
            assert_eq!((spot.inode % 32, spot.data % 4096), (0, 0));
            taken.push((spot.inode, spot.inode + need));
            if shape.data > 0 {
                taken.push((spot.data, spot.data + shape.data));
            }
        }
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0), "they overlap");
        let bytes: u64 = taken.iter().map(|(start, end)| end - start).sum();
        layout.close();
        assert!(layout.end <= bytes * 115 / 100, "{} for {bytes}", layout.end);
        assert!(taken.last().unwrap().1 <= layout.end);
    }

    #[test]
    fn a_small_layer_stays_small() {
        let mut layout = Layout::new();
        layout.place(&small(64, 10)).unwrap();
        assert_eq!(layout.end, 4096 + 16_384);
        layout.close();
        assert_eq!((layout.end, layout.holes), (8192, 0));
    }

    #[test]
    fn a_head_larger_than_a_block_gets_its_own() {
        let mut layout = Layout::new();
        let spot = layout.place(&Shape { head: 70_000, tail: 0, data: 10 }).unwrap();
        assert_eq!((spot.inode, spot.data), (4096, 4096 + 73_728));
        assert_eq!(layout.end, 4096 + 73_728 + 4096);
    }

    #[test]
    fn no_image_is_larger_than_addresses_say() {
        let mut layout = Layout::new();
        assert!(layout.place(&Shape { head: 64, tail: 0, data: u64::MAX }).is_err());
        assert!(layout.place(&Shape { head: 64, tail: 0, data: 1 << 44 }).is_err());
        assert!(layout.place(&Shape { head: 64, tail: 0, data: 1 << 43 }).is_ok());
        assert!(layout.place(&Shape { head: 64, tail: 0, data: 1 << 43 }).is_err());
    }
}
