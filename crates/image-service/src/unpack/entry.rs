//! One entry of an archive, with everything that its several headers say about it put together.

use super::sparse::Extent;

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name as it stands in the archive.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Extended attributes, name and value, in the order of the archive.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What kind of node an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file of `size` bytes, of which the archive has `extents`; what lies between reads as zeros.
    Regular {
        size: u64,
        extents: Vec<Extent>,
    },
    Directory,
    /// A symbolic link with this target, verbatim.
    Symlink(Vec<u8>),
    /// A further name of the file with this name in the same layer.
    HardLink(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// A point in time since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    /// Below 1,000,000,000; counts forward for negative seconds too.
    pub(crate) nanoseconds: u32,
}
