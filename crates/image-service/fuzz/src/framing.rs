//! Compressed streams: what was compressed comes out, whatever members and frames it is in and in whatever pieces it
//! arrives; and a stream that was cut is never taken for a whole one.

use std::io::{Cursor, Write as _};

use libfuzzer_sys::arbitrary::{Result, Unstructured};

use super::tar::Pieces;
use crate::digest::{Algorithm, Digest};
use crate::unpack::Stream;

/// Uncompressed bytes that are looked at: a few bytes may say "a billion zeros".
const MOST: usize = 8 << 20;

/// A compressed stream, and where each of its members or frames ends: in it, and in what comes out.
struct Made {
    bytes: Vec<u8>,
    content: Vec<u8>,
    ends: Vec<(usize, usize)>,
}

/// The first byte chooses whether the rest is a stream or makes one.
pub fn check(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    let piece = usize::from(mode >> 2) * 29 + 1;
    match mode & 3 {
        0 => same_in_pieces(rest, piece),
        1 => {
            let magics: [&[u8]; 4] =
                [&[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd], &[0x50, 0x2a, 0x4d, 0x18], b""];
            same_in_pieces(&[magics[usize::from(mode >> 2) % 4], rest].concat(), piece);
        }
        _ => {
            let _ = made(rest, piece);
        }
    }
}

fn same_in_pieces(bytes: &[u8], piece: usize) {
    let (parts, whole) = (read(bytes, piece), read(bytes, usize::MAX));
    // zstd's library finds a frame that states a size and then has nothing out only where it has the frame at once.
    let is_zstd = matches!(bytes, [_, 0xb5, 0x2f, 0xfd, ..] | [_, 0x2a, 0x4d, 0x18, ..]);
    assert!(is_zstd || parts.is_ok() == whole.is_ok());
    if let (Ok(parts), Ok(whole)) = (parts, whole) {
        assert!(parts == whole);
    }
}

fn made(bytes: &[u8], piece: usize) -> Result<()> {
    let mut input = Unstructured::new(bytes);
    let made = if input.arbitrary()? { gzip(&mut input)? } else { zstd(&mut input)? };
    match input.int_in_range(0..=3u8)? {
        0 | 1 => {
            let (content, digest) = read(&made.bytes, piece).expect("a whole stream");
            assert!(content == made.content);
            assert_eq!(digest, Some(Digest::of(&content)));
        }
        2 => {
            let cut = input.int_in_range(0..=made.bytes.len())?;
            if let Ok((content, _)) = read(&made.bytes[..cut], piece) {
                let end = made.ends.iter().find(|(end, _)| *end == cut);
                // Fewer than four bytes are no compressed stream, but an archive that is none either.
                let expected =
                    if cut < 4 { &made.bytes[..cut] } else { &made.content[..end.expect("a cut within").1] };
                assert!(content == expected);
            }
        }
        _ => {
            let mut bytes = made.bytes;
            let at = input.int_in_range(0..=bytes.len() - 1)?;
            bytes[at] ^= input.int_in_range(1..=255u8)?;
            same_in_pieces(&bytes, piece);
        }
    }
    Ok(())
}

fn payload(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let length = input.int_in_range(0..=64usize)?.min(input.len());
    let unit = input.bytes(length)?;
    Ok(unit.repeat(input.int_in_range(1..=2000usize)?))
}

fn gzip(input: &mut Unstructured<'_>) -> Result<Made> {
    let mut made = Made { bytes: Vec::new(), content: Vec::new(), ends: Vec::new() };
    for _ in 0..input.int_in_range(1..=4u8)? {
        let content = payload(input)?;
        let mut header = flate2::GzBuilder::new().mtime(input.arbitrary()?);
        if input.arbitrary()? {
            header = header.filename("a name").comment("a comment").extra(vec![1; 40]);
        }
        let level = flate2::Compression::new(input.int_in_range(0..=9u32)?);
        let mut encoder = header.write(Vec::new(), level);
        let half = content.len() / 2;
        encoder.write_all(&content[..half]).unwrap();
        if input.arbitrary()? {
            encoder.flush().unwrap();
        }
        encoder.write_all(&content[half..]).unwrap();
        made.bytes.extend(encoder.finish().unwrap());
        made.content.extend(content);
        made.ends.push((made.bytes.len(), made.content.len()));
    }
    Ok(made)
}

fn zstd(input: &mut Unstructured<'_>) -> Result<Made> {
    let mut made = Made { bytes: Vec::new(), content: Vec::new(), ends: Vec::new() };
    for _ in 0..input.int_in_range(1..=4u8)? {
        if input.ratio(1, 4)? {
            // A skippable frame: its magic, its length, anything.
            let length = input.int_in_range(0..=3000u32)?;
            made.bytes.extend([0x50 | input.int_in_range(0..=15u8)?, 0x2a, 0x4d, 0x18]);
            made.bytes.extend(length.to_le_bytes());
            made.bytes.extend(vec![7; length as usize]);
            made.ends.push((made.bytes.len(), made.content.len()));
        }
        let content = payload(input)?;
        let mut encoder = zstd::Encoder::new(Vec::new(), input.int_in_range(1..=9i32)?).unwrap();
        encoder.include_checksum(input.arbitrary()?).unwrap();
        if input.arbitrary()? {
            encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap();
            encoder.include_contentsize(true).unwrap();
        }
        encoder.write_all(&content).unwrap();
        made.bytes.extend(encoder.finish().unwrap());
        made.content.extend(content);
        made.ends.push((made.bytes.len(), made.content.len()));
    }
    Ok(made)
}

/// The first bytes that come out; and the digest, if that was all.
fn read(bytes: &[u8], piece: usize) -> std::result::Result<(Vec<u8>, Option<Digest>), String> {
    let source = Pieces { bytes: Cursor::new(bytes.to_vec()), piece };
    let failed = |fault| format!("{fault:?}");
    let mut stream =
        Stream::open(source, Algorithm::Sha256, Box::new(|_| {}), super::tools()).map_err(failed)?;
    let mut content = Vec::new();
    while content.len() < MOST {
        let some = stream.take((MOST - content.len()) as u64).map_err(failed)?;
        if some.is_empty() {
            return Ok((content, Some(stream.finish().map_err(failed)?)));
        }
        content.extend_from_slice(some);
    }
    Ok((content, None))
}
