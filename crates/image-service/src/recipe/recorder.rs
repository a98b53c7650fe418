//! Writing a recipe while a layer is unpacked.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use zstd::stream::write::Encoder;

use super::{
    END, EXTENTS, FILE, LITERAL, LITERAL_BYTES, MAX_EXTENTS, MAX_REPLACED, NAME, PATH_BYTES, REPLACED,
    VERSION,
};
use crate::unpack::{Extent, Replaced, Stored};

/// Bytes of a recipe, compressed. A real one has some percent of its layer; beyond this an archive is made of headers.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// zstd's level: the fastest but for the negative ones, which gain little and take twice the space.
const LEVEL: i32 = 1;

/// zstd's window, as a power of two in bytes: headers resemble those just before them, and memory is what a pull pays for.
const WINDOW_LOG: u32 = 17;

/// A recipe in the making. When it has become too large or can't be had, it gives up, and the layer does without.
pub(crate) struct Recorder {
    path: PathBuf,
    /// None after giving up.
    out: Option<Encoder<'static, Counted>>,
    /// Bytes of the archive that aren't in a record yet.
    literal: Vec<u8>,
    /// Bytes of what was replaced so far, as [`MAX_REPLACED`] counts them.
    replaced: usize,
}

/// Counts what is written to a file.
struct Counted {
    file: File,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Recorder {
    /// Begins the recipe of the layer in the making in `dir`.
    pub(crate) fn create(dir: &Path) -> io::Result<Recorder> {
        let path = dir.join(NAME);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut out = Encoder::new(Counted { file, written: 0 }, LEVEL)?;
        out.window_log(WINDOW_LOG)?;
        out.write_all(VERSION)?;
        Ok(Recorder { path, out: Some(out), literal: Vec::with_capacity(LITERAL_BYTES), replaced: 0 })
    }

    /// The next bytes of the archive that are no content.
    pub(crate) fn literal(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while self.literal.len() + bytes.len() > LITERAL_BYTES {
            let (now, rest) = bytes.split_at(LITERAL_BYTES - self.literal.len());
            self.literal.extend_from_slice(now);
            self.end_literal()?;
            bytes = rest;
        }
        self.literal.extend_from_slice(bytes);
        Ok(())
    }

    /// The next `read` bytes of the archive are an entry's content: `extents` are its parts in the entry's file.
    pub(crate) fn content(&mut self, read: u64, stored: &Stored, extents: &[Extent]) -> io::Result<()> {
        if read == 0 {
            return Ok(());
        }
        let (tag, path, extents) = match stored {
            Stored::Nothing => return self.give_up("content was not kept"),
            Stored::At(extents) => (EXTENTS, None, extents.as_slice()),
            Stored::File(path) => (FILE, Some(path.as_bytes()), extents),
        };
        let sum = extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.length));
        if sum != Some(read)
            || extents.len() > MAX_EXTENTS
            || path.is_some_and(|path| path.len() > PATH_BYTES)
        {
            return self.give_up("content was kept in another way than it came");
        }
        self.end_literal()?;
        let mut record = vec![tag];
        if let Some(path) = path {
            text(&mut record, path);
        }
        number(&mut record, extents.len() as u64);
        for extent in extents {
            number(&mut record, extent.offset);
            number(&mut record, extent.length);
        }
        self.write(&record)
    }

    /// What had been put somewhere was put elsewhere.
    pub(crate) fn replaced(&mut self, replaced: &Replaced) -> io::Result<()> {
        self.replaced += replaced.path.as_bytes().len() + replaced.name.len() + size_of::<Replaced>();
        if self.replaced > MAX_REPLACED {
            return self.give_up("too many of its entries replace each other");
        }
        self.end_literal()?;
        let mut record = vec![REPLACED];
        text(&mut record, replaced.path.as_bytes());
        text(&mut record, replaced.name.as_bytes());
        self.write(&record)
    }

    /// Ends the recipe. True if there is one; it is not synced.
    pub(crate) fn finish(mut self) -> io::Result<bool> {
        self.end_literal()?;
        self.write(&[END])?;
        match self.out.take() {
            Some(out) => out.finish()?.flush().map(|()| true),
            None => Ok(false),
        }
    }

    fn end_literal(&mut self) -> io::Result<()> {
        if self.literal.is_empty() {
            return Ok(());
        }
        let mut head = vec![LITERAL];
        number(&mut head, self.literal.len() as u64);
        self.write(&head)?;
        let literal = std::mem::take(&mut self.literal);
        let written = self.write(&literal);
        self.literal = literal;
        self.literal.clear();
        written
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        out.write_all(bytes)?;
        if out.get_ref().written > MAX_BYTES {
            return self.give_up("it would be larger than 256 MiB");
        }
        Ok(())
    }

    fn give_up(&mut self, reason: &'static str) -> io::Result<()> {
        if self.out.take().is_none() {
            return Ok(());
        }
        tracing::warn!(recipe = %self.path.display(), reason, "a layer does without the recipe of its archive");
        fs::remove_file(&self.path)
    }
}

/// Seven bits a byte, the lowest first; all but the last byte have their highest bit set.
fn number(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    into.push(u8::try_from(value).unwrap_or(0));
}

fn text(into: &mut Vec<u8>, text: &[u8]) {
    number(into, text.len() as u64);
    into.extend_from_slice(text);
}
