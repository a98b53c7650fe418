//! The superblock (fs/erofs/erofs_fs.h, struct erofs_super_block).

use super::{BLOCK, put};

/// Where it starts in the image; what lies before is left to boot loaders.
pub(crate) const OFFSET: usize = 1024;

/// Bytes that it takes.
pub(crate) const SIZE: usize = 128;

const MAGIC: u32 = 0xe0f5_e1e2;

/// Compatible feature: the superblock has a checksum.
const CHECKSUM: u32 = 0x1;

/// Incompatible feature: some files are made of chunks. Since Linux 5.15.
const CHUNKED_FILES: u32 = 0x4;

/// What differs from image to image. No time of making and no UUID are among it: the same layer gives the same bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Superblock {
    /// Number of the root's inode.
    pub(crate) root: u16,
    /// Inodes that have a name.
    pub(crate) inodes: u64,
    /// Blocks of the image.
    pub(crate) blocks: u32,
    /// The block at which numbers of shared attributes begin to count.
    pub(crate) shared_xattrs: u32,
    /// Whether there are files of chunks.
    pub(crate) chunked: bool,
}

impl Superblock {
    /// Writes it into the image's first block, which has everything else already: the checksum covers all of it that
    /// follows.
    pub(crate) fn write(&self, first: &mut [u8; BLOCK]) {
        let block = &mut first[OFFSET..];
        block[..SIZE].fill(0);
        put(block, 0, MAGIC.to_le_bytes());
        put(block, 8, CHECKSUM.to_le_bytes());
        block[12] = BLOCK.trailing_zeros().to_le_bytes()[0];
        put(block, 14, self.root.to_le_bytes());
        put(block, 16, self.inodes.to_le_bytes());
        put(block, 36, self.blocks.to_le_bytes());
        put(block, 44, self.shared_xattrs.to_le_bytes());
        let features = if self.chunked { CHUNKED_FILES } else { 0 };
        put(block, 80, features.to_le_bytes());
        // The kernel leaves out the last inversion.
        let checksum = !crc32c::crc32c(block);
        put(block, 4, checksum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields as the kernel's header places them, read back one by one.
    #[test]
    fn fields_are_where_the_kernel_looks() {
        let mut first = [0xaa; BLOCK];
        Superblock { root: 0x1234, inodes: 7, blocks: 9, shared_xattrs: 3, chunked: true }.write(&mut first);
        let word = |at: usize| u32::from_le_bytes(first[1024 + at..1024 + at + 4].try_into().unwrap());
        assert_eq!(word(0), 0xe0f5_e1e2);
        assert_eq!((word(8), word(80)), (1, 4), "features");
        assert_eq!((word(12), word(16), word(20)), (0x1234_000c, 7, 0), "block bits, root, inodes");
        assert_eq!((word(36), word(40), word(44)), (9, 0, 3), "blocks, metadata, shared attributes");
        assert_eq!((first[1023], first[1024 + 128]), (0xaa, 0xaa), "what lies around it");
        let sum = word(4);
        first[1028..1032].fill(0);
        assert_eq!(sum, !crc32c::crc32c(&first[1024..]));
    }
}
