//! Files with holes: the size of their chunks, and which of them are there.
//!
//! A file of chunks has a map with the address of each, or none for a hole. Small chunks make a large map; large ones
//! hold more of the holes, which then are holes in the image file and cost no disk, only length.

use crate::erofs::{BLOCK, NO_BLOCK};
use crate::unpack::sparse::Extent;

/// Bytes of the image that holds may take up without being written, for which a byte of a map is saved: where a file
/// has few parts far apart, its map has some hundred KiB at most whatever its size.
const PADDING_PER_BYTE: u64 = 4096;

/// Chunk sizes that the format has, as powers of two of blocks (EROFS_CHUNK_FORMAT_BLKBITS_MASK).
const LARGEST_BITS: u8 = 31;

/// A file's chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Blocks of a chunk, as a power of two.
    pub(super) bits: u8,
    /// Bytes that its chunks take in the image, and how many of them no part of it touches.
    pub(super) data: u64,
    pub(super) padding: u64,
    /// Number of all chunks.
    pub(super) count: u64,
    /// Chunks that are there: the first of a row, how many are before it in the image, and how many there are.
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    first: u64,
    before: u64,
    count: u64,
}

impl Chunks {
    /// Divides a file of `size` bytes that has `extents`; none if it has no hole of a block's size.
    pub(super) fn of(size: u64, extents: &[Extent]) -> Option<Chunks> {
        let whole = size.div_ceil(BLOCK as u64);
        let touched = total(&rows(extents, 0));
        if touched == whole {
            return None;
        }
        let cost = |bits: &u8| {
            let padding = total(&rows(extents, *bits)).saturating_mul(bytes(*bits)) / PADDING_PER_BYTE;
            padding.saturating_add(size.div_ceil(bytes(*bits)).saturating_mul(4))
        };
        let bits = (0..=LARGEST_BITS).min_by_key(cost)?;
        let rows = rows(extents, bits);
        let count = size.div_ceil(bytes(bits));
        let mut data = total(&rows).saturating_mul(bytes(bits));
        if rows.last().is_some_and(|row| row.first + row.count == count) {
            // The last one ends with the file.
            let beyond = count * bytes(bits) - whole * BLOCK as u64;
            data = data.saturating_sub(beyond);
        }
        Some(Chunks { bits, data, padding: data.saturating_sub(touched * BLOCK as u64), count, rows })
    }

    /// Where byte `offset` of the file, which an extent has, is in its data.
    pub(super) fn locate(&self, offset: u64) -> u64 {
        let chunk = offset / bytes(self.bits);
        let after = self.rows.partition_point(|row| row.first <= chunk);
        let before = after.checked_sub(1).map_or(0, |index| {
            let row = self.rows[index];
            row.before + (chunk - row.first)
        });
        before * bytes(self.bits) + offset % bytes(self.bits)
    }

    /// The map, if its data begins at this block.
    pub(super) fn map(&self, block: u32) -> Vec<u8> {
        let mut map = vec![0xff; usize::try_from(self.count * 4).unwrap_or(0)];
        for row in &self.rows {
            for nth in 0..row.count {
                let address = u64::from(block) + ((row.before + nth) << self.bits);
                let address = u32::try_from(address).unwrap_or(NO_BLOCK);
                let at = usize::try_from((row.first + nth) * 4).unwrap_or(usize::MAX);
                map[at..at + 4].copy_from_slice(&address.to_le_bytes());
            }
        }
        map
    }
}

/// Bytes of a chunk.
fn bytes(bits: u8) -> u64 {
    (BLOCK as u64) << bits
}

/// Rows of chunks that the extents touch.
fn rows(extents: &[Extent], bits: u8) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut before = 0;
    for extent in extents.iter().filter(|extent| extent.length > 0) {
        let mut first = extent.offset / bytes(bits);
        let end = (extent.offset + extent.length - 1) / bytes(bits) + 1;
        if let Some(row) = rows.last_mut() {
            first = first.max(row.first + row.count);
            if first == row.first + row.count {
                row.count += end - first.min(end);
                before += end - first.min(end);
                continue;
            }
        }
        rows.push(Row { first, before, count: end - first });
        before += end - first;
    }
    rows
}

fn total(rows: &[Row]) -> u64 {
    rows.iter().map(|row| row.count).sum()
}
