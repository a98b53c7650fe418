//! Inodes in their extended form (fs/erofs/erofs_fs.h, struct erofs_inode_extended).
//!
//! The compact form of half the size has no time of its own before Linux 6.16 and counts fewer links; as the links of a
//! file are known only when its inode has been written long since, it isn't used.

use super::{NO_BLOCK, put};

/// Bytes of an inode, without its attributes.
pub(crate) const SIZE: usize = 64;

/// Where in an inode its number of links stands, in 4 bytes.
pub(crate) const LINKS: usize = 44;

/// Format: the extended form (bit 0) with a layout of data (bits 1 to 3).
const EXTENDED: u16 = 1;

/// Where the content of a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// In whole blocks from this one on.
    Blocks(u32),
    /// The same, but what doesn't fill a block lies behind the inode and its attributes, in the same block as they end.
    Inline(u32),
    /// In chunks of this many blocks, as a power of two; the map of their addresses lies behind inode and attributes.
    Chunks(u8),
    /// It is a device with this number.
    Device(u32),
    /// There is none.
    None,
}

/// An inode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inode {
    /// Kind and permissions.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Time of the last change, since 1970, and its nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) size: u64,
    pub(crate) links: u32,
    /// Bytes of its attributes.
    pub(crate) xattrs: usize,
    pub(crate) data: Data,
    /// What 32-bit programs see as its number.
    pub(crate) number: u32,
}

impl Inode {
    /// Its bytes; the attributes follow behind them.
    pub(crate) fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let (layout, union) = match self.data {
            Data::Blocks(first) => (0, first),
            Data::Inline(first) => (2, first),
            Data::Chunks(bits) => (4, u32::from(bits)),
            Data::Device(number) => (0, number),
            Data::None => (0, NO_BLOCK),
        };
        put(&mut bytes, 0, (EXTENDED | layout << 1).to_le_bytes());
        put(&mut bytes, 2, super::xattr::count(self.xattrs).to_le_bytes());
        put(&mut bytes, 4, self.mode.to_le_bytes());
        put(&mut bytes, 8, self.size.to_le_bytes());
        put(&mut bytes, 16, union.to_le_bytes());
        put(&mut bytes, 20, self.number.to_le_bytes());
        put(&mut bytes, 24, self.uid.to_le_bytes());
        put(&mut bytes, 28, self.gid.to_le_bytes());
        put(&mut bytes, 32, self.mtime.0.to_le_bytes());
        put(&mut bytes, 40, self.mtime.1.to_le_bytes());
        put(&mut bytes, LINKS, self.links.to_le_bytes());
        bytes
    }
}

/// A device's number as the kernel packs it (linux/kdev_t.h, new_encode_dev).
pub(crate) fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_kernel_looks() {
        let inode = Inode {
            mode: 0o100_755,
            uid: 1,
            gid: 2,
            mtime: (-3, 4),
            size: 5,
            links: 6,
            xattrs: 12 + 4 * 7,
            data: Data::Inline(8),
            number: 9,
        };
        let bytes = inode.encode();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), 0x0008_0005, "eight units of attributes; inline, extended");
        assert_eq!((word(4), word(8), word(12)), (0o100_755, 5, 0), "mode, size");
        assert_eq!((word(16), word(20), word(24), word(28)), (8, 9, 1, 2));
        assert_eq!((word(32), word(36), word(40), word(44)), (0xffff_fffd, 0xffff_ffff, 4, 6));
        assert_eq!(bytes[48..], [0; 16]);
    }

    #[test]
    fn devices_are_packed_like_the_kernel_does() {
        assert_eq!(device(1, 3), 0x103);
        assert_eq!(device(0xfff, 0xf_ffff), 0xffff_ffff);
        assert_eq!(device(8, 0x123), 0x0010_0823);
    }
}
