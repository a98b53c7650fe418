//! EROFS on disk: what its structures look like as bytes, and no more.
//!
//! | module | structure |
//! |---|---|
//! | `superblock` | the first 128 bytes behind offset 1024 |
//! | `inode` | a node, in the extended form of 64 bytes |
//! | `xattr` | extended attributes behind their inode |
//! | `dirent` | blocks of a directory's names |
//! | `checksum` | CRC-32C of stretches that are written out of order |
//!
//! The layout is Linux's own: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. Used is only what Linux 5.15
//! reads: no compression, blocks of 4 KiB, one device, files of chunks for those with holes. All numbers are
//! little-endian.
//! Not here: which node lies where and who writes it (`unpack::erofs`).

pub(crate) mod checksum;
pub(crate) mod dirent;
pub(crate) mod inode;
pub(crate) mod superblock;
pub(crate) mod xattr;

/// Bytes of a block. Smaller ones aren't read by Linux 5.15, larger ones by no x86-64.
pub(crate) const BLOCK: usize = 4096;

/// Bytes of the units in which inodes are numbered: an inode's number is its offset in the image divided by this, as
/// our metadata begins at block 0.
pub(crate) const SLOT: usize = 32;

/// The address of no block: a hole, or a file without blocks (EROFS_NULL_ADDR).
pub(crate) const NO_BLOCK: u32 = u32::MAX;

/// What a directory says about the kind of a node (the numbers are those of `d_type` squeezed: linux/fs_types.h, FT_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FileType {
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Symlink = 7,
}

impl FileType {
    /// The bits of a mode that say the kind (S_IFMT; inode(7)).
    pub(crate) fn mode(self) -> u16 {
        match self {
            FileType::Regular => 0o100_000,
            FileType::Directory => 0o040_000,
            FileType::CharDevice => 0o020_000,
            FileType::BlockDevice => 0o060_000,
            FileType::Fifo => 0o010_000,
            FileType::Symlink => 0o120_000,
        }
    }
}

/// Writes a field of a structure.
fn put<const N: usize>(into: &mut [u8], at: usize, bytes: [u8; N]) {
    into[at..at + N].copy_from_slice(&bytes);
}
