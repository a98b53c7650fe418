//! Archives: any bytes, and such as the [`grammar`](super::grammar) makes of them.

use std::io::{BufRead, Cursor, Read};

use super::recorder::{Recorder, Told};
use super::{grammar, printer};
use crate::digest::{Algorithm, Digest};
use crate::unpack::{Stream, unpack};

/// The first byte chooses whether the rest is an archive or makes one, and in what pieces it arrives.
pub fn check(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    let archive = if mode & 1 == 0 { rest.to_vec() } else { grammar::archive(rest) };
    // Compressed ones are the business of `framing`.
    if matches!(archive[..], [0x1f, 0x8b, ..] | [0x28, 0xb5, ..] | [0x50..=0x5f, 0x2a, ..]) {
        return;
    }
    let whole = read(&archive, usize::MAX);
    let piece = usize::from(mode >> 1) * 37 + 1;
    assert_eq!(read(&archive, piece), whole, "in pieces of {piece}");
    let Ok((told, digest)) = whole else { return };
    assert_eq!(digest, Digest::of(&archive));
    let Some(again) = printer::print(&told) else { return };
    let (second, _) = read(&again, usize::MAX).expect("what was read can be read again");
    assert_eq!(told.len(), second.len());
    for (first, second) in told.iter().zip(&second) {
        assert_eq!(meaning(first), meaning(second));
    }
}

/// What is the same in both ways of writing.
fn meaning(told: &Told) -> Told {
    let mut told = told.clone();
    if let Told::Node { path, entry, .. } = &mut told {
        entry.name = path.clone();
        if let crate::unpack::entry::Kind::Regular { extents, .. } = &mut entry.kind {
            // Neighbours may be one; the content says the same.
            extents.clear();
        }
    }
    told
}

type Outcome = Result<(Vec<Told>, Digest), String>;

fn read(archive: &[u8], piece: usize) -> Outcome {
    let source = Pieces { bytes: Cursor::new(archive.to_vec()), piece };
    let mut recorder = Recorder::default();
    let stream = Stream::open(source, Algorithm::Sha256, Box::new(|_| {}), super::tools())
        .map_err(|fault| format!("{fault:?}"))?;
    let (digest, _) = unpack(stream, &mut recorder).map_err(|fault| format!("{fault:?}"))?;
    Ok((recorder.told, digest))
}

/// Bytes that arrive in pieces.
pub(crate) struct Pieces {
    pub(crate) bytes: Cursor<Vec<u8>>,
    pub(crate) piece: usize,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        let piece = self.piece;
        self.bytes.fill_buf().map(|bytes| &bytes[..bytes.len().min(piece)])
    }

    fn consume(&mut self, amount: usize) {
        self.bytes.consume(amount);
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(into.len());
        into[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}
