//! Extended attributes behind an inode (fs/erofs/erofs_fs.h, struct erofs_xattr_ibody_header and erofs_xattr_entry).
//!
//! ```text
//! header: 4 bytes of a filter (unused), how many shared ones, 7 unused │ numbers of the shared ones │ own entries
//! entry: length of the name, number of its prefix, length of the value (2 bytes) │ name │ value │ up to 4 bytes
//! ```

/// Bytes of the header.
const HEADER: usize = 12;
/// Bytes of an entry before its name.
const ENTRY: usize = 4;
/// What entries and numbers are aligned to.
const UNIT: usize = 4;

/// Attributes kept apart that one inode may refer to (EROFS_MAX_SHARED_XATTRS).
const MAX_SHARED: usize = 128;

/// All attributes of a node: an inode counts units of four bytes, the header as one of them.
const MAX_BODY: usize = HEADER + UNIT * (u16::MAX as usize - 1);

/// Prefixes with their numbers (EROFS_XATTR_INDEX_*); the two of access lists are whole names.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Attributes of one node, encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Body {
    entries: Vec<u8>,
}

impl Body {
    /// Adds an attribute. A name whose prefix EROFS doesn't have is passed over, as other filesystems do it.
    ///
    /// # Errors
    /// Why it can't be written down.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let Some((prefix, rest)) = split(name) else { return Ok(()) };
        // Two bytes say a value's length: one less than the kernel itself allows.
        let length = u16::try_from(value.len());
        let length = length.map_err(|_| "one of its extended attributes is longer than 65,535 bytes")?;
        let size = (ENTRY + rest.len() + value.len()).next_multiple_of(UNIT);
        if HEADER + self.entries.len() + size > MAX_BODY {
            return Err("its extended attributes take more than 256 KiB");
        }
        let end = self.entries.len() + size;
        // Names are shorter than 256 bytes: the reader of archives sees to it.
        self.entries.extend_from_slice(&[rest.len().to_le_bytes()[0], prefix]);
        self.entries.extend_from_slice(&length.to_le_bytes());
        self.entries.extend_from_slice(rest);
        self.entries.extend_from_slice(value);
        self.entries.resize(end, 0);
        Ok(())
    }

    /// Bytes that it takes behind an inode.
    pub(crate) fn size(&self) -> usize {
        if self.entries.is_empty() { 0 } else { HEADER + self.entries.len() }
    }

    /// The entries' bytes and where in them each begins, for keeping them apart from their inode; none where an inode
    /// can't refer to so many (EROFS_MAX_SHARED_XATTRS).
    pub(crate) fn shared(&self) -> Option<(&[u8], Vec<usize>)> {
        let (mut starts, mut at) = (Vec::new(), 0);
        while let Some(&[name, _, low, high]) = self.entries.get(at..at + ENTRY) {
            starts.push(at);
            let value = usize::from(u16::from_le_bytes([low, high]));
            at = (at + ENTRY + usize::from(name) + value).next_multiple_of(UNIT);
        }
        (starts.len() <= MAX_SHARED).then_some((&self.entries, starts))
    }

    /// Writes it into `into`, which has its size.
    pub(crate) fn write(&self, into: &mut [u8]) {
        if !self.entries.is_empty() {
            into[..HEADER].fill(0);
            into[HEADER..].copy_from_slice(&self.entries);
        }
    }
}

/// What an inode has instead of its attributes when they are kept apart: their places in units of four bytes.
pub(crate) fn references(starts: &[usize]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[4] = starts.len().to_le_bytes()[0];
    for start in starts {
        let [a, b, c, d, ..] = (start / UNIT).to_le_bytes();
        bytes.extend_from_slice(&[a, b, c, d]);
    }
    bytes
}

/// What an inode says about attributes of so many bytes.
pub(super) fn count(size: usize) -> u16 {
    match size {
        0 => 0,
        size => u16::try_from((size - HEADER) / UNIT + 1).unwrap_or(u16::MAX),
    }
}

/// The number of a name's prefix, and what follows it.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let found = PREFIXES.iter().find_map(|(prefix, number)| Some((*number, name.strip_prefix(*prefix)?)));
    found.filter(|(_, rest)| {
        rest.is_empty() == matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_their_prefixes_numbers() {
        let mut body = Body::default();
        assert_eq!((body.size(), count(body.size())), (0, 0));
        body.push(b"user.ab", b"xyz").unwrap();
        body.push(b"system.posix_acl_default", b"1234").unwrap();
        body.push(b"system.other", b"passed over").unwrap();
        assert_eq!((body.size(), count(body.size())), (12 + 12 + 8, 6));
        let mut bytes = [0xff; 32];
        body.write(&mut bytes);
        assert_eq!(bytes[..12], [0; 12]);
        assert_eq!(&bytes[12..24], b"\x02\x01\x03\0abxyz\0\0\0");
        assert_eq!(&bytes[24..], b"\0\x03\x04\x001234");
        assert_eq!(body.shared().unwrap().1, [0, 12]);
        assert_eq!(references(&[0, 12]), [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn what_has_no_room_is_refused() {
        let mut body = Body::default();
        assert!(body.push(b"user.a", &vec![0; 65_536]).is_err());
        for name in [b"user.a", b"user.b", b"user.c"] {
            body.push(name, &vec![0; 65_535]).unwrap();
        }
        assert_eq!(usize::from(count(body.size())), (body.size() - 12) / 4 + 1);
        assert!(body.push(b"user.d", &vec![0; 65_535]).is_err());
    }
}
