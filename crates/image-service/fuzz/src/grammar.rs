//! Archives made of any bytes: headers whose checksums are right, so that what the checksum protects is reached, with
//! sizes, names, records and maps that are mostly sound and sometimes anything.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

const BLOCK: usize = 512;

/// Names that mean something: upwards, absolute, hidden, the root, behind links that other entries make.
const NAMES: [&[u8]; 28] = [
    b"a",
    b"b",
    b"a/b",
    b"a/b/c",
    b"./a",
    b"/a",
    b"a/",
    b"d/",
    b"d/e/f",
    b"../a",
    b"a/../b",
    b"a/../../b",
    b"/..",
    b"./",
    b"",
    b".wh.a",
    b"d/.wh.e",
    b"d/.wh..wh..opq",
    b".wh..wh..opq",
    b".wh..wh.plnk/x",
    b".wh.a/b",
    b"d/.wh.",
    b"l",
    b"l/x",
    // Of the directory that stands for the host (`tree`).
    b"/mnt/host",
    b"../../../../mnt/host/victim",
    b"l/victim",
    b"/mnt/host/victim",
];
const FLAGS: &[u8] = b"0000001122334566\0\x007S";
const KEYS: [&str; 18] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "atime",
    "comment",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.security.capability",
    "SCHILY.xattr.trusted.overlay.opaque",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.size",
    "GNU.sparse.realsize",
    "GNU.sparse.name",
    "GNU.sparse.map",
    "GNU.sparse.offset",
];

/// An archive out of `bytes`.
pub(crate) fn archive(bytes: &[u8]) -> Vec<u8> {
    let mut input = Unstructured::new(bytes);
    let mut tar = Vec::new();
    while !input.is_empty() && tar.len() < 1 << 20 {
        if step(&mut input, &mut tar).is_err() {
            break;
        }
    }
    // Most archives have their end.
    if bytes.len() % 8 != 0 {
        tar.resize(tar.len() + 2 * BLOCK, 0);
    }
    tar
}

fn step(input: &mut Unstructured<'_>, tar: &mut Vec<u8>) -> Result<()> {
    match input.int_in_range(0..=19u8)? {
        0..=9 => entry(input, tar),
        10..=14 => records(input, tar),
        15 => long(input, tar, b'L'),
        16 => long(input, tar, b'K'),
        17 => sparse(input, tar),
        18 => {
            let count = input.int_in_range(1..=2usize)?;
            tar.resize(tar.len() + count * BLOCK, 0);
            Ok(())
        }
        _ => {
            tar.extend_from_slice(some(input, BLOCK)?);
            pad(tar);
            Ok(())
        }
    }
}

fn entry(input: &mut Unstructured<'_>, tar: &mut Vec<u8>) -> Result<()> {
    let flag = if input.ratio(1, 16)? { input.arbitrary()? } else { *input.choose(FLAGS)? };
    let content = if matches!(flag, 0 | b'0' | b'7' | b'S') || input.ratio(1, 8)? {
        content(input)?
    } else {
        Vec::new()
    };
    let mut header = header(input, flag, content.len() as u64)?;
    if flag == b'S' {
        old_map(input, &mut header, content.len())?;
    }
    put(tar, header, &content);
    Ok(())
}

/// Content that is short, or one byte many times.
fn content(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if input.ratio(1, 6)? {
        let length = input.int_in_range(0..=70_000usize)?;
        return Ok(vec![input.arbitrary()?; length]);
    }
    Ok(some(input, 64)?.to_vec())
}

fn header(input: &mut Unstructured<'_>, flag: u8, size: u64) -> Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    field(&mut header, 0, 100, name(input)?);
    number(input, &mut header, 100, 8, 0o755)?;
    number(input, &mut header, 108, 8, 0)?;
    number(input, &mut header, 116, 8, 1000)?;
    number(input, &mut header, 124, 12, size)?;
    number(input, &mut header, 136, 12, 1_700_000_000)?;
    header[156] = flag;
    field(&mut header, 157, 100, name(input)?);
    let magics: [&[u8]; 4] = [b"ustar\x0000", b"ustar  \0", b"", b"ustar\x0000"];
    let magic = *input.choose(&magics)?;
    field(&mut header, 257, 8, magic);
    number(input, &mut header, 329, 8, 1)?;
    number(input, &mut header, 337, 8, 3)?;
    if input.ratio(1, 16)? {
        let at = input.int_in_range(0..=BLOCK - 1)?;
        let bytes = some(input, 16)?;
        field(&mut header, at, BLOCK - at, bytes);
    }
    Ok(header)
}

fn old_map(input: &mut Unstructured<'_>, header: &mut [u8; BLOCK], length: usize) -> Result<()> {
    let hole = input.int_in_range(0..=10_000u64)?;
    number(input, header, 386, 12, hole)?;
    number(input, header, 398, 12, length as u64)?;
    number(input, header, 483, 12, hole + length as u64)?;
    header[482] = u8::from(input.ratio(1, 8)?);
    Ok(())
}

fn name<'a>(input: &mut Unstructured<'a>) -> Result<&'a [u8]> {
    if input.ratio(1, 6)? { some(input, 120) } else { Ok(*input.choose(&NAMES)?) }
}

/// A number as it should be, or any other, or any bytes in its place.
fn number(
    input: &mut Unstructured<'_>,
    header: &mut [u8; BLOCK],
    at: usize,
    width: usize,
    sound: u64,
) -> Result<()> {
    let value = match input.int_in_range(0..=40u8)? {
        0 => input.arbitrary()?,
        1 => {
            let bytes = some(input, width)?;
            field(header, at, width, bytes);
            return Ok(());
        }
        2 => sound.wrapping_add(1),
        _ => sound,
    };
    let digits = width - 1;
    let text = format!("{value:0digits$o}");
    if text.len() <= digits {
        field(header, at, width, text.as_bytes());
    } else {
        let mut bytes = vec![0; width];
        bytes[width - 8..].copy_from_slice(&value.to_be_bytes());
        bytes[0] |= 0x80;
        field(header, at, width, &bytes);
    }
    Ok(())
}

fn records(input: &mut Unstructured<'_>, tar: &mut Vec<u8>) -> Result<()> {
    let mut content = Vec::new();
    for _ in 0..input.int_in_range(1..=4u8)? {
        let key = *input.choose(&KEYS)?;
        let value = value(input, key)?;
        content.extend_from_slice(&super::printer::record(key.as_bytes(), &value));
    }
    if input.ratio(1, 16)? && !content.is_empty() {
        let at = input.int_in_range(0..=content.len() - 1)?;
        content[at] = input.arbitrary()?;
    }
    let kind = if input.ratio(1, 20)? { b'g' } else { b'x' };
    let header = header(input, kind, content.len() as u64)?;
    put(tar, header, &content);
    Ok(())
}

fn value(input: &mut Unstructured<'_>, key: &str) -> Result<Vec<u8>> {
    if input.ratio(1, 6)? {
        return Ok(some(input, 40)?.to_vec());
    }
    let small = input.int_in_range(0..=3u64)?;
    Ok(match key {
        "path" | "linkpath" | "GNU.sparse.name" => name(input)?.to_vec(),
        "mtime" => format!("{}.{:03}", input.int_in_range(-2..=2_000_000_000i64)?, small).into_bytes(),
        "GNU.sparse.major" | "GNU.sparse.minor" => (small % 2).to_string().into_bytes(),
        "GNU.sparse.map" => format!("0,{small},10,{small}").into_bytes(),
        _ => input.int_in_range(0..=100u64)?.to_string().into_bytes(),
    })
}

fn long(input: &mut Unstructured<'_>, tar: &mut Vec<u8>, flag: u8) -> Result<()> {
    let mut content = if input.ratio(1, 2)? {
        name(input)?.repeat(input.int_in_range(1..=200usize)?)
    } else {
        some(input, 300)?.to_vec()
    };
    content.push(0);
    let header = header(input, flag, content.len() as u64)?;
    put(tar, header, &content);
    Ok(())
}

/// A sparse file with its map before its content (PAX 1.0).
fn sparse(input: &mut Unstructured<'_>, tar: &mut Vec<u8>) -> Result<()> {
    let data = content(input)?;
    let hole = input.int_in_range(0..=1u64 << 40)?;
    let mut content = format!("1\n{hole}\n{}\n", data.len()).into_bytes();
    pad(&mut content);
    content.extend_from_slice(&data);
    let size = (hole + data.len() as u64).to_string();
    let pairs =
        [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", size.as_str())];
    let records: Vec<u8> = pairs
        .iter()
        .flat_map(|(key, value)| super::printer::record(key.as_bytes(), value.as_bytes()))
        .collect();
    let before = header(input, b'x', records.len() as u64)?;
    put(tar, before, &records);
    let header = header(input, b'0', content.len() as u64)?;
    put(tar, header, &content);
    Ok(())
}

fn some<'a>(input: &mut Unstructured<'a>, most: usize) -> Result<&'a [u8]> {
    let length = input.int_in_range(0..=most)?.min(input.len());
    input.bytes(length)
}

fn field(header: &mut [u8; BLOCK], at: usize, width: usize, bytes: &[u8]) {
    let length = bytes.len().min(width).min(BLOCK - at);
    header[at..at + length].copy_from_slice(&bytes[..length]);
}

/// Appends a header, its checksum made right, and what follows it.
pub(crate) fn put(tar: &mut Vec<u8>, mut header: [u8; BLOCK], content: &[u8]) {
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend_from_slice(&header);
    tar.extend_from_slice(content);
    pad(tar);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
}
