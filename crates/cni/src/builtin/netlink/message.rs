//! Messages: written with their attributes, and read (RFC 3549; linux/netlink.h).

use std::io;

/// Flags of a request.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
pub(in crate::builtin) const DUMP: u16 = 0x300;
pub(in crate::builtin) const EXCL: u16 = 0x200;
pub(in crate::builtin) const CREATE: u16 = 0x400;
pub(in crate::builtin) const APPEND: u16 = 0x800;

/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
/// The length of a message's header and of an attribute's.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

/// Attributes being written, each aligned to four bytes.
#[derive(Debug, Default, Clone)]
pub(in crate::builtin) struct Attributes {
    bytes: Vec<u8>,
}

impl Attributes {
    /// How many bytes there are so far.
    pub(in crate::builtin) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds an attribute of raw bytes.
    pub(in crate::builtin) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend(length(ATTRIBUTE + value.len()).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number in the machine's byte order, as rtnetlink has them.
    pub(in crate::builtin) fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order, as nfnetlink has them.
    pub(in crate::builtin) fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a string with its NUL.
    pub(in crate::builtin) fn put_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds an attribute that holds others, after some raw bytes.
    pub(in crate::builtin) fn nest_after(
        &mut self,
        kind: u16,
        head: &[u8],
        fill: impl FnOnce(&mut Attributes),
    ) -> &mut Self {
        let mut inner = Attributes { bytes: head.to_vec() };
        fill(&mut inner);
        self.put(kind | NESTED, &inner.bytes)
    }

    /// Adds an attribute that holds others.
    pub(in crate::builtin) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) -> &mut Self {
        self.nest_after(kind, &[], fill)
    }

    /// Adds attributes that are encoded already, below one.
    pub(in crate::builtin) fn put_nested(&mut self, kind: u16, inner: &Attributes) -> &mut Self {
        self.put(kind | NESTED, &inner.bytes)
    }
}

/// A request.
#[derive(Debug, Clone)]
pub(in crate::builtin) struct Message {
    kind: u16,
    pub(super) flags: u16,
    /// The family's own header.
    head: Vec<u8>,
    /// What follows it.
    pub(in crate::builtin) attributes: Attributes,
}

impl Message {
    /// A request of that type with the family's header; `REQUEST` is added to the flags.
    pub(in crate::builtin) fn new(kind: u16, flags: u16, head: &[u8]) -> Message {
        Message { kind, flags: flags | REQUEST, head: head.to_vec(), attributes: Attributes::default() }
    }

    /// The same with an answer asked for.
    pub(in crate::builtin) fn acknowledged(mut self) -> Message {
        self.flags |= ACK;
        self
    }

    pub(super) fn encode(&self, sequence: u32, into: &mut Vec<u8>) {
        let size = HEADER + self.head.len() + self.attributes.bytes.len();
        into.extend(u32::try_from(size).unwrap_or(u32::MAX).to_ne_bytes());
        into.extend(self.kind.to_ne_bytes());
        into.extend(self.flags.to_ne_bytes());
        into.extend(sequence.to_ne_bytes());
        into.extend(0u32.to_ne_bytes());
        into.extend(&self.head);
        into.extend(&self.attributes.bytes);
    }
}

/// Attributes that are longer than their length field don't come from here: names and addresses are bounded.
fn length(size: usize) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

/// A message of the kernel's.
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

impl Answer<'_> {
    /// The error of an acknowledgement; `None` for success.
    pub(super) fn errno(&self) -> Option<io::Error> {
        let number = i32::from_ne_bytes(*self.payload.first_chunk()?);
        (number != 0).then(|| io::Error::from_raw_os_error(-number))
    }
}

/// The messages that were received at once, as far as they are whole.
pub(super) fn split(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let size = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let payload = bytes.get(HEADER..size)?;
        let (kind, flags) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
        let answer = Answer { kind, flags, sequence: u32_at(bytes, 8)?, payload };
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

/// The attributes in an answer, after the family's header of that size.
pub(in crate::builtin) fn attributes(bytes: &[u8], after: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = bytes.get(after..).unwrap_or_default();
    std::iter::from_fn(move || {
        let size = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE..size)?;
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One attribute of an answer.
pub(in crate::builtin) fn attribute(bytes: &[u8], after: usize, kind: u16) -> Option<&[u8]> {
    attributes(bytes, after).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

pub(in crate::builtin) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

pub(in crate::builtin) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_nested() {
        let mut outer = Attributes::default();
        outer.put_str(3, "ab").nest(18, |inner| {
            inner.put_u32(1, 7);
        });
        let mut found = attributes(&outer.bytes, 0);
        assert_eq!(found.next(), Some((3, &b"ab\0"[..])));
        let (kind, inner) = found.next().unwrap();
        assert_eq!(kind, 18);
        assert_eq!(attribute(inner, 0, 1), Some(&7u32.to_ne_bytes()[..]));
        assert_eq!(found.next(), None);
        assert_eq!(outer.bytes.len(), 8 + 4 + 8);
    }

    #[test]
    fn broken_answers_end_the_reading() {
        assert_eq!(split(&[1, 2, 3]).count(), 0);
        let mut short = Vec::new();
        Message::new(1, 0, &[]).encode(5, &mut short);
        short[0] = 200;
        assert_eq!(split(&short).count(), 0);
        short[0] = 3;
        assert_eq!(split(&short).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0], 0).count(), 0);
    }
}
