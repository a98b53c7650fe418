//! Directories: blocks of entries and names (fs/erofs/erofs_fs.h, struct erofs_dirent).
//!
//! ```text
//! block: entry, entry, …: inode (8 bytes), where its name is in this block (2), kind (1), unused (1) │ name, name, …
//! ```
//!
//! The names of a whole directory, `.` and `..` among them, are in the order of their bytes: the kernel looks for one
//! by halves, first among the blocks, then in the block. Where the first name begins tells how many entries there are.

use super::{BLOCK, FileType, put};

/// Bytes of an entry without its name.
const ENTRY: usize = 12;

/// One name of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dirent<'a> {
    pub(crate) name: &'a [u8],
    /// Number of the inode.
    pub(crate) inode: u64,
    pub(crate) kind: FileType,
}

/// What a directory takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Whole blocks.
    pub(crate) blocks: u64,
    /// Bytes of the last one, if it isn't whole.
    pub(crate) tail: usize,
}

/// What a directory with names of these lengths takes.
pub(crate) fn measure(lengths: impl Iterator<Item = usize>) -> Extent {
    let (mut blocks, mut bytes) = (0, 0);
    for length in lengths {
        if bytes + ENTRY + length > BLOCK {
            blocks += 1;
            bytes = 0;
        }
        bytes += ENTRY + length;
    }
    if bytes == BLOCK { Extent { blocks: blocks + 1, tail: 0 } } else { Extent { blocks, tail: bytes } }
}

/// The entries of one block.
#[derive(Debug, Default)]
pub(crate) struct Block<'a> {
    entries: Vec<Dirent<'a>>,
    bytes: usize,
}

impl<'a> Block<'a> {
    /// Adds an entry, or gives it back where there is no room for it.
    pub(crate) fn add(&mut self, entry: Dirent<'a>) -> Result<(), Dirent<'a>> {
        let bytes = self.bytes + ENTRY + entry.name.len();
        if bytes > BLOCK {
            return Err(entry);
        }
        self.bytes = bytes;
        self.entries.push(entry);
        Ok(())
    }

    /// Whether there is no byte left in it.
    pub(crate) fn is_whole(&self) -> bool {
        self.bytes == BLOCK
    }

    /// Writes the entries into zeroed bytes, and empties the block.
    pub(crate) fn write(&mut self, block: &mut [u8]) {
        let mut name_at = self.entries.len() * ENTRY;
        for (position, entry) in self.entries.drain(..).enumerate() {
            let at = position * ENTRY;
            put(block, at, entry.inode.to_le_bytes());
            let [low, high, ..] = name_at.to_le_bytes();
            put(block, at + 8, [low, high, entry.kind as u8]);
            block[name_at..name_at + entry.name.len()].copy_from_slice(entry.name);
            name_at += entry.name.len();
        }
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_entries_and_then_names() {
        let mut block = Block::default();
        let names: [(&[u8], u64, FileType); 3] = [
            (b".", 36, FileType::Directory),
            (b"..", 36, FileType::Directory),
            (b"ab", 1 << 33, FileType::Fifo),
        ];
        for (name, inode, kind) in names {
            block.add(Dirent { name, inode, kind }).unwrap();
        }
        let mut bytes = [0; 64];
        block.write(&mut bytes);
        assert_eq!(bytes[..12], [36, 0, 0, 0, 0, 0, 0, 0, 36, 0, 2, 0]);
        assert_eq!(bytes[24..36], [0, 0, 0, 0, 2, 0, 0, 0, 39, 0, 5, 0]);
        assert_eq!(&bytes[36..42], b"...ab\0");
    }

    #[test]
    fn measuring_and_writing_agree() {
        for lengths in [
            vec![1, 2],
            vec![255; 15],
            vec![255; 16],
            vec![244; 16],
            vec![1; 315],
            vec![1; 316],
            vec![200; 100],
        ] {
            let names: Vec<Vec<u8>> = lengths.iter().map(|length| vec![b'n'; *length]).collect();
            let (mut block, mut blocks) = (Block::default(), 0);
            for name in &names {
                let entry = Dirent { name, inode: 1, kind: FileType::Regular };
                if let Err(entry) = block.add(entry) {
                    block.write(&mut [0; BLOCK]);
                    blocks += 1;
                    block.add(entry).unwrap();
                }
            }
            let whole = block.is_whole();
            let expected =
                Extent { blocks: blocks + u64::from(whole), tail: if whole { 0 } else { block.bytes } };
            assert_eq!(measure(lengths.iter().copied()), expected, "{lengths:?}");
        }
    }
}
