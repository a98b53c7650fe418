//! Sparse files: GNU tar's four ways to write down which parts of a file are there.
//!
//! | form | where the map is | where the size and name are |
//! |---|---|---|
//! | old GNU (type `S`) | the header and extension blocks after it | the header |
//! | PAX 0.0 | repeated records `GNU.sparse.offset`, `GNU.sparse.numbytes` | `GNU.sparse.size` |
//! | PAX 0.1 | record `GNU.sparse.map` | `GNU.sparse.size`, `GNU.sparse.name` |
//! | PAX 1.0 | decimal lines at the start of the content, padded to a block | `GNU.sparse.realsize`, `GNU.sparse.name` |
//!
//! (GNU tar manual, appendix "Sparse Formats".) A reader that knows none of them would unpack the map as content.

use super::Fault;
use super::header::{BLOCK, Header, number};
use super::source::Source;

/// Extents that a map may have, so that a small archive can't fill the memory. Go's reader bounds the map's text at
/// 1 MiB, which is the same order.
const MAX_EXTENTS: usize = 65_536;

/// A part of a file that the archive has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A map in the making: checks order and bounds.
#[derive(Debug, Default)]
pub(crate) struct Map {
    extents: Vec<Extent>,
    pairs: usize,
    end: u64,
    stored: u64,
}

impl Map {
    /// Adds the next extent. Empty ones only mark the file's end.
    pub(crate) fn push(&mut self, offset: u64, length: u64) -> Result<(), Fault> {
        let end = offset.checked_add(length).ok_or(Fault::Archive("a sparse file ends beyond any offset"))?;
        if offset < self.end {
            return Err(Fault::Archive("the parts of a sparse file overlap or are out of order"));
        }
        self.pairs += 1;
        if self.pairs > MAX_EXTENTS {
            return Err(Fault::Archive("a sparse file has too many parts"));
        }
        if length > 0 {
            self.extents.push(Extent { offset, length });
        }
        self.end = end;
        self.stored += length;
        Ok(())
    }

    /// The extents, if they fit a file of `size` bytes of which the archive has `stored`.
    pub(crate) fn finish(self, size: u64, stored: u64) -> Result<Vec<Extent>, Fault> {
        if self.end > size || self.stored != stored {
            return Err(Fault::Archive("a sparse file's parts disagree with its size"));
        }
        Ok(self.extents)
    }
}

/// The map of an old GNU sparse entry; reads the extension blocks that follow its header.
pub(crate) fn old_gnu(header: &Header, stream: &mut Source) -> Result<Map, Fault> {
    let mut map = Map::default();
    // Offsets within GNU's header: four pairs of 12 bytes each, then whether blocks of 21 pairs follow.
    push_pairs(&mut map, &header.bytes()[386..482])?;
    let mut extended = header.bytes()[482] != 0;
    let mut block = [0; BLOCK];
    while extended {
        if !stream.read_block(&mut block)? {
            return Err(Fault::Archive("it ends within an entry"));
        }
        push_pairs(&mut map, &block[..504])?;
        extended = block[504] != 0;
    }
    Ok(map)
}

fn push_pairs(map: &mut Map, pairs: &[u8]) -> Result<(), Fault> {
    for pair in pairs.chunks_exact(24) {
        if pair[0] == 0 && pair[12] == 0 {
            break;
        }
        map.push(field(&pair[..12])?, field(&pair[12..])?)?;
    }
    Ok(())
}

fn field(bytes: &[u8]) -> Result<u64, Fault> {
    number(bytes)
        .and_then(|n| u64::try_from(n).ok())
        .ok_or(Fault::Archive("a sparse file's map has no number"))
}

/// The map at the start of the content of a PAX 1.0 sparse entry, and the bytes that it takes there.
pub(crate) fn pax_1_0(stream: &mut Source, content: u64) -> Result<(Map, u64), Fault> {
    let mut lines = Lines { stream, left: content, used: 0, block: [0; BLOCK], at: BLOCK };
    let count = lines.number()?;
    let mut map = Map::default();
    for _ in 0..count {
        let offset = lines.number()?;
        let length = lines.number()?;
        map.push(offset, length)?;
    }
    Ok((map, lines.used))
}

/// Decimal lines in whole blocks.
struct Lines<'a> {
    stream: &'a mut Source,
    left: u64,
    used: u64,
    block: [u8; BLOCK],
    at: usize,
}

impl Lines<'_> {
    fn number(&mut self) -> Result<u64, Fault> {
        let mut value: Option<u64> = None;
        loop {
            match self.byte()? {
                b'\n' => return value.ok_or(Fault::Archive("a sparse file's map has no number")),
                digit @ b'0'..=b'9' => {
                    let next = value
                        .unwrap_or(0)
                        .checked_mul(10)
                        .and_then(|v| v.checked_add(u64::from(digit - b'0')));
                    value = Some(next.ok_or(Fault::Archive("a sparse file's map has no number"))?);
                }
                _ => return Err(Fault::Archive("a sparse file's map has no number")),
            }
        }
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        if self.at == BLOCK {
            if self.left < BLOCK as u64 || !self.stream.read_block(&mut self.block)? {
                return Err(Fault::Archive("a sparse file's map is cut off"));
            }
            self.left -= BLOCK as u64;
            self.used += BLOCK as u64;
            self.at = 0;
        }
        let byte = self.block[self.at];
        self.at += 1;
        Ok(byte)
    }
}
