//! Reading a tar archive as a stream of entries.
//!
//! Understood are old tar, ustar, PAX, star and GNU headers, long names in both styles, and sparse files in all four.
//! Where dialects leave room for two readings of one archive, what Go's reader does is right, because the other
//! runtimes and builders use it; where headers contradict each other, the archive is refused, so that nobody can show
//! one content to a scanner and another to us (CVE-2025-62518 was such a gap).
//! Not here: what names mean (`path`), what becomes of entries (`Target`).

use super::Fault;
use super::entry::{Entry, Kind, Time};
use super::header::{BLOCK, Header};
use super::pax::{Extended, Sparse};
use super::sparse::{self, Extent};
use super::stream::Stream;

/// Bytes of an extended header, a long name or a long link; Go's reader has the same bound. A larger one is an attack
/// on the memory.
const MAX_EXTENDED: u64 = 1024 * 1024;

/// The first size that twelve bytes of octal digits can't say. Only beyond it may a PAX record replace a header's size.
const FIRST_LARGE_SIZE: u64 = 1 << 33;

/// An archive being read.
pub(crate) struct Archive<'a> {
    stream: &'a mut Stream,
    /// Bytes of the current entry's content that are still to come, and of the padding after it.
    content: u64,
    padding: u64,
}

/// What headers before an entry's own one said about it.
#[derive(Default)]
struct Before {
    extended: Option<Extended>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// What the kind of an entry depends on, besides its own header.
struct Described {
    link: Vec<u8>,
    stored: u64,
    sparse: Sparse,
}

impl Before {
    fn is_empty(&self) -> bool {
        self.extended.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

impl<'a> Archive<'a> {
    pub(crate) fn new(stream: &'a mut Stream) -> Archive<'a> {
        Archive { stream, content: 0, padding: 0 }
    }

    /// The next entry; the unread content of the one before is passed over. None at the archive's end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Fault> {
        self.skip_content()?;
        let mut before = Before::default();
        loop {
            let Some(header) = self.next_header()? else {
                return if before.is_empty() {
                    Ok(None)
                } else {
                    Err(Fault::Archive("its last header has no entry"))
                };
            };
            match header.type_flag() {
                b'x' => set_once(&mut before.extended, Extended::parse(&self.special(&header)?)?)?,
                b'L' => set_once(&mut before.long_name, until_null(self.special(&header)?))?,
                b'K' => set_once(&mut before.long_link, until_null(self.special(&header)?))?,
                // Global headers: comments in practice (git's commit id). The other runtimes apply none either.
                b'g' => self.stream.skip(padded(stored_size(&header)?)?)?,
                _ => return self.entry(&header, before).map(Some),
            }
        }
    }

    /// The content of the entry that [`Archive::next_entry`] has just returned.
    pub(crate) fn content<'c>(&'c mut self, entry: &Entry) -> Content<'c>
    where
        'a: 'c,
    {
        let extents = match &entry.kind {
            Kind::Regular { extents, .. } => extents.clone(),
            _ => Vec::new(),
        };
        Content { stream: self.stream, left: &mut self.content, extents: extents.into_iter(), current: None }
    }

    fn skip_content(&mut self) -> Result<(), Fault> {
        self.stream.skip(self.content)?;
        self.stream.skip(self.padding)?;
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header, or none at the end: two blocks of zeros, or that of the stream where they lack.
    fn next_header(&mut self) -> Result<Option<Header>, Fault> {
        let mut block = [0; BLOCK];
        if !self.stream.read_block(&mut block)? {
            return Ok(None);
        }
        if block == [0; BLOCK] {
            if !self.stream.read_block(&mut block)? || block == [0; BLOCK] {
                return Ok(None);
            }
            return Err(Fault::Archive("a block of zeros stands between its entries"));
        }
        Header::parse(block).map(Some).ok_or(Fault::Archive("the checksum of a header is wrong"))
    }

    /// The content of an entry that only describes the next one.
    fn special(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let size = stored_size(header)?;
        if size > MAX_EXTENDED {
            return Err(Fault::Archive("an extended header is larger than 1 MiB"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        if size > 0 && !self.stream.read_block(&mut bytes)? {
            return Err(Fault::Archive("it ends within an extended header"));
        }
        self.stream.skip(padded(size)? - size)?;
        Ok(bytes)
    }

    fn entry(&mut self, header: &Header, before: Before) -> Result<Entry, Fault> {
        let mut extended = before.extended.unwrap_or_default();
        let name = before.long_name.or(extended.path.take()).unwrap_or_else(|| header.name());
        let link = before.long_link.or(extended.link.take()).unwrap_or_else(|| header.link().to_vec());
        let stored = agreed_size(header, extended.size).map_err(|reason| Fault::refused(&name, reason))?;
        let number =
            |value: Option<i64>| value.ok_or_else(|| Fault::refused(&name, "its header has a bad number"));
        let owner = |special: Option<u64>, plain: Option<i64>| match special {
            Some(value) => owner(value, &name),
            None => owner(u64::try_from(number(plain)?).unwrap_or(u64::MAX), &name),
        };
        let mut entry = Entry {
            mode: u32::try_from(number(header.mode())? & 0o7777).unwrap_or(0),
            uid: owner(extended.uid, header.uid())?,
            gid: owner(extended.gid, header.gid())?,
            mtime: match extended.mtime {
                Some(mtime) => mtime,
                None => Time { seconds: number(header.mtime())?, nanoseconds: 0 },
            },
            xattrs: std::mem::take(&mut extended.xattrs),
            kind: Kind::Fifo,
            name,
        };
        entry.kind = self.kind(header, &mut entry, Described { link, stored, sparse: extended.sparse })?;
        Ok(entry)
    }

    /// The entry's kind; also notes how much content follows. As with Go's reader only files have any, whatever size
    /// the header of another kind claims.
    fn kind(&mut self, header: &Header, entry: &mut Entry, described: Described) -> Result<Kind, Fault> {
        let Described { link, stored, sparse } = described;
        match header.type_flag() {
            0 if entry.name.ends_with(b"/") => Ok(Kind::Directory),
            0 | b'0' | b'7' => self.regular(entry, stored, sparse),
            b'S' => self.old_sparse(header, stored),
            b'1' => Ok(Kind::HardLink(link)),
            b'2' => Ok(Kind::Symlink(link)),
            b'3' => device(header, entry).map(|(major, minor)| Kind::CharDevice { major, minor }),
            b'4' => device(header, entry).map(|(major, minor)| Kind::BlockDevice { major, minor }),
            b'5' => Ok(Kind::Directory),
            b'6' => Ok(Kind::Fifo),
            _ => Err(Fault::refused(&entry.name, "its type is none that a layer may have")),
        }
    }

    fn follows(&mut self, stored: u64) -> Result<(), Fault> {
        self.content = stored;
        self.padding = padded(stored)? - stored;
        Ok(())
    }

    fn regular(&mut self, entry: &mut Entry, stored: u64, sparse: Sparse) -> Result<Kind, Fault> {
        self.follows(stored)?;
        if !sparse.present {
            let extents = vec![Extent { offset: 0, length: stored }];
            return Ok(Kind::Regular { size: stored, extents });
        }
        let size = sparse.size.ok_or(Fault::Archive("a sparse file has no size"))?;
        if let Some(name) = sparse.name {
            entry.name = name;
        }
        let map = match (sparse.version, sparse.map) {
            ((1, 0), None) => {
                let (map, used) = sparse::pax_1_0(self.stream, stored)?;
                self.content -= used;
                map
            }
            ((0, 0 | 1), Some(map)) => map,
            // A file that is one hole.
            ((0, 0 | 1), None) => sparse::Map::default(),
            _ => return Err(Fault::refused(&entry.name, "its sparse format is unknown")),
        };
        let extents = map.finish(size, self.content)?;
        Ok(Kind::Regular { size, extents })
    }

    fn old_sparse(&mut self, header: &Header, stored: u64) -> Result<Kind, Fault> {
        let size = header.real_size().and_then(|size| u64::try_from(size).ok()).filter(|_| header.is_gnu());
        let size = size.ok_or(Fault::Archive("a sparse file has no size"))?;
        let extents = sparse::old_gnu(header, self.stream)?.finish(size, stored)?;
        self.follows(stored)?;
        Ok(Kind::Regular { size, extents })
    }
}

/// The content of one entry, in parts.
pub(crate) struct Content<'a> {
    stream: &'a mut Stream,
    left: &'a mut u64,
    extents: std::vec::IntoIter<Extent>,
    current: Option<Extent>,
}

/// Some bytes of a file.
pub(crate) struct Part<'a> {
    pub(crate) offset: u64,
    pub(crate) bytes: &'a [u8],
}

impl Content<'_> {
    /// The next part, at growing offsets; none after the last.
    pub(crate) fn next_part(&mut self) -> Result<Option<Part<'_>>, Fault> {
        let extent = loop {
            match self.current.take().or_else(|| self.extents.next()) {
                None => return Ok(None),
                Some(extent) if extent.length > 0 => break extent,
                Some(_) => {}
            }
        };
        let bytes = self.stream.take(extent.length)?;
        if bytes.is_empty() {
            return Err(Fault::Archive("it ends within an entry"));
        }
        let count = bytes.len() as u64;
        *self.left -= count;
        self.current = Some(Extent { offset: extent.offset + count, length: extent.length - count });
        Ok(Some(Part { offset: extent.offset, bytes }))
    }
}

/// The size in a header, of what follows it.
fn stored_size(header: &Header) -> Result<u64, Fault> {
    header
        .size()
        .and_then(|size| u64::try_from(size).ok())
        .ok_or(Fault::Archive("a header has no valid size"))
}

/// The size that header and PAX record agree on. Writers use the record for sizes that the header's field can't hold
/// (and put 0 or the largest number there); for any other size both must be the same.
fn agreed_size(header: &Header, record: Option<u64>) -> Result<u64, &'static str> {
    let plain = header.size().and_then(|size| u64::try_from(size).ok());
    match (plain, record) {
        (_, Some(record)) if record >= FIRST_LARGE_SIZE => Ok(record),
        (Some(plain), Some(record)) if plain != record => Err("its headers disagree about its size"),
        (Some(plain), _) => Ok(plain),
        (None, _) => Err("its header has no valid size"),
    }
}

/// Size with the padding to whole blocks.
fn padded(size: u64) -> Result<u64, Fault> {
    size.checked_next_multiple_of(BLOCK as u64).ok_or(Fault::Archive("a header has no valid size"))
}

/// A user or group id: 32 bits, of which the highest number means "none" to the kernel.
fn owner(value: u64, name: &[u8]) -> Result<u32, Fault> {
    let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| Fault::refused(name, "its owner is no user or group id"))
}

fn device(header: &Header, entry: &Entry) -> Result<(u32, u32), Fault> {
    // Bounds of the kernel's device numbers: 12 and 20 bits (linux/kdev_t.h).
    let fits = |value: i64, bits: u32| u32::try_from(value).ok().filter(|value| value >> bits == 0);
    let numbers = header.device().and_then(|(major, minor)| Some((fits(major, 12)?, fits(minor, 20)?)));
    numbers.ok_or_else(|| Fault::refused(&entry.name, "its device number is out of bounds"))
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), Fault> {
    if slot.replace(value).is_some() {
        return Err(Fault::Archive("two extended headers describe one entry"));
    }
    Ok(())
}

fn until_null(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;
    use crate::digest::Algorithm;
    use crate::unpack::Tools;

    /// Headers of all kinds, one after the other.
    fn archive() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |name: &str, flag: u8, magic: &[u8], content: &[u8]| {
            let mut header = [0u8; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[100..107].copy_from_slice(b"0000644");
            header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            header[136..147].copy_from_slice(b"14000000000");
            header[156] = flag;
            header[157..163].copy_from_slice(b"target");
            header[257..257 + magic.len()].copy_from_slice(magic);
            if flag == b'S' {
                header[386..410].copy_from_slice(b"00000000000\x0000000000005\0");
                header[483..494].copy_from_slice(b"00000000100");
            }
            fix_checksum(&mut header);
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        };
        for (magic, flags) in [(&b"ustar\x0000"[..], &b"0123456"[..]), (b"ustar  \0", b"07S")] {
            for flag in flags {
                add("x", b'x', magic, b"12 path=a/b\n19 mtime=1.5000001\n29 SCHILY.xattr.user.a=abcde\n");
                // Only files have content.
                let content = if b"07S".contains(flag) { &b"hello"[..] } else { b"" };
                add("entry", *flag, magic, content);
            }
        }
        add("x", b'L', b"ustar  \0", b"a/long/name\0");
        add("x", b'K', b"ustar  \0", b"a/long/target\0");
        add("entry", b'2', b"ustar  \0", b"");
        add(
            "x",
            b'x',
            b"ustar\x0000",
            b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.realsize=99\n",
        );
        add("sparse", b'0', b"ustar\x0000", &[&b"1\n5\n5\n"[..], &[0; 506], b"hello"].concat());
        bytes
    }

    fn fix_checksum(header: &mut [u8]) {
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    /// Reads everything; the number of entries.
    fn read(bytes: Vec<u8>) -> Result<usize, Fault> {
        let source = BufReader::new(std::io::Cursor::new(bytes));
        let mut stream =
            Stream::open(source, Algorithm::Sha256, Box::new(|_| {}), Tools::alone(1 << 20).unwrap())?;
        let mut archive = Archive::new(&mut stream);
        let mut entries = 0;
        while let Some(entry) = archive.next_entry()? {
            let mut content = archive.content(&entry);
            while content.next_part()?.is_some() {}
            entries += 1;
        }
        Ok(entries)
    }

    #[test]
    fn headers_of_all_kinds_are_read() {
        assert_eq!(read(archive()).unwrap(), 12);
    }

    /// Whatever bytes come, the reader ends with entries or an error: it doesn't panic, hang or grow without bound.
    #[test]
    fn damaged_archives_end_in_an_error_or_in_entries() {
        let whole = archive();
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % bound
        };
        let mut outcomes = [0; 2];
        for _ in 0..5_000 {
            let mut bytes = whole.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = [0, 0xff, b'0', b'7', b' ', b'\n', b'=', b'x', b'L', b'S'][random(10)];
                // Behind a right checksum, so that what it protects is reached.
                let block = at / BLOCK * BLOCK;
                fix_checksum(&mut bytes[block..block + BLOCK]);
            }
            bytes.truncate(bytes.len() - random(2) * random(600));
            outcomes[usize::from(read(bytes).is_ok())] += 1;
        }
        assert!(outcomes.iter().all(|count| *count > 100), "{outcomes:?}");
    }
}
