//! Reading a recipe: bytes that were ours to write, but that a disk may have changed since.

use std::fs::File;
use std::io::{self, BufReader, Read};

use super::{END, EXTENTS, FILE, LITERAL, LITERAL_BYTES, MAX_EXTENTS, PATH_BYTES, REPLACED, VERSION};
use crate::unpack::Extent;

/// A recipe being read.
pub(super) struct Records {
    bytes: BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>,
}

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Literal(Vec<u8>),
    At(Vec<Extent>),
    File { path: Vec<u8>, extents: Vec<Extent> },
    Replaced { path: Vec<u8>, name: Vec<u8> },
}

impl Records {
    pub(super) fn open(file: File) -> io::Result<Records> {
        let mut bytes = BufReader::new(zstd::stream::read::Decoder::new(file)?);
        let mut version = [0; VERSION.len()];
        bytes.read_exact(&mut version)?;
        if version != VERSION {
            return Err(io::Error::other("it is of another version"));
        }
        Ok(Records { bytes })
    }

    /// The next record; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let record = match self.byte()? {
            LITERAL => Record::Literal(self.text(LITERAL_BYTES)?),
            EXTENTS => Record::At(self.extents()?),
            FILE => Record::File { path: self.text(PATH_BYTES)?, extents: self.extents()? },
            REPLACED => Record::Replaced { path: self.text(PATH_BYTES)?, name: self.text(PATH_BYTES)? },
            END => return Ok(None),
            _ => return Err(broken()),
        };
        Ok(Some(record))
    }

    fn extents(&mut self) -> io::Result<Vec<Extent>> {
        let count = self.length(MAX_EXTENTS)?;
        let mut extents = Vec::new();
        for _ in 0..count {
            extents.push(Extent { offset: self.number()?, length: self.number()? });
        }
        Ok(extents)
    }

    fn text(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut text = vec![0; self.length(limit)?];
        self.bytes.read_exact(&mut text)?;
        Ok(text)
    }

    fn length(&mut self, limit: usize) -> io::Result<usize> {
        usize::try_from(self.number()?).ok().filter(|length| *length <= limit).ok_or_else(broken)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.bytes.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged")
}
