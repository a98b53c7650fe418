//! Writing a tar archive of files alone (POSIX.1-1988, "ustar"; sizes beyond eleven digits of octal as GNU tar has them, names
//! that are too long as POSIX.1-2001, "pax", has them: those of blobs by SHA-512).
//!
//! Names are ours. Times and owners are zero, so that the same images make the same archive.

use std::io::{self, Write};

use crate::error::Error;

/// Bytes of a header, and what content is padded to.
const BLOCK: usize = 512;
/// Bytes of the longest name in a header.
const NAME: usize = 100;
/// The first size that eleven octal digits can't say.
const FIRST_LARGE_SIZE: u64 = 1 << 33;

/// An archive being written.
pub(super) struct Tar<'a> {
    out: &'a mut dyn Write,
}

/// A file of it whose content is being written.
pub(super) struct Entry<'t, 'a> {
    tar: &'t mut Tar<'a>,
    size: u64,
    written: u64,
}

impl<'a> Tar<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Tar<'a> {
        Tar { out }
    }

    /// A file that is in memory.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        let mut entry = self.entry(name, content.len() as u64)?;
        entry.write_all(content).map_err(output)?;
        entry.end()
    }

    /// A file of `size` bytes, which are to be written next.
    pub(super) fn entry<'t>(&'t mut self, name: &str, size: u64) -> Result<Entry<'t, 'a>, Error> {
        if name.len() > NAME {
            let record = path_record(name);
            self.out.write_all(&header("././@PaxHeader", record.len() as u64, b'x')).map_err(output)?;
            let length = record.len().next_multiple_of(BLOCK);
            let padded: Vec<u8> =
                record.into_bytes().into_iter().chain(std::iter::repeat(0)).take(length).collect();
            self.out.write_all(&padded).map_err(output)?;
        }
        self.out.write_all(&header(name, size, b'0')).map_err(output)?;
        Ok(Entry { tar: self, size, written: 0 })
    }

    /// Two blocks of zeros.
    pub(super) fn finish(self) -> Result<(), Error> {
        self.out.write_all(&[0; 2 * BLOCK]).and_then(|()| self.out.flush()).map_err(output)
    }
}

impl Entry<'_, '_> {
    /// Pads the content, which must be all there.
    pub(super) fn end(self) -> Result<(), Error> {
        if self.written != self.size {
            return Err(output(io::Error::other("a file had another size than was announced")));
        }
        let padding = self.size.next_multiple_of(BLOCK as u64) - self.size;
        self.tar.out.write_all(&[0; BLOCK][..usize::try_from(padding).unwrap_or(0)]).map_err(output)
    }
}

impl Write for Entry<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.tar.out.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tar.out.flush()
    }
}

fn output(cause: io::Error) -> Error {
    Error::Output { cause }
}

/// What comes before an entry to say its name: a record whose length counts its own digits (pax, "Extended Header").
fn path_record(name: &str) -> String {
    let rest = format!(" path={name}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

/// Offsets and widths: POSIX.1-1988, section 10.1.1.
fn header(name: &str, size: u64, kind: u8) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(NAME)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < FIRST_LARGE_SIZE {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
