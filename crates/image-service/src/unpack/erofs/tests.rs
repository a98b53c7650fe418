//! The bytes of a whole image, and where it says that content went.

use std::io::{Cursor, Read as _, Seek as _};
use std::sync::Arc;

use super::*;
use crate::digest::{Algorithm, Digest};
use crate::unpack::{Extent, Stream, Tools, unpack};

/// An archive with something of everything, written by hand so that it never changes.
fn archive() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |name: &str, flag: u8, link: &str, content: &[u8]| {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0004755");
        header[108..115].copy_from_slice(b"0001750");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[136..147].copy_from_slice(b"14000000000");
        header[156] = flag;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    };
    let content: Vec<u8> =
        (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    add("./", b'5', "", b"");
    add("usr/lib/small", b'0', "", b"a few bytes");
    add("lib", b'2', "usr/lib", b"");
    add("x", b'x', "", b"22 mtime=-1.123456789\n25 SCHILY.xattr.user.a=b\n");
    add("lib/large", b'0', "", &content);
    add("again", b'1', "usr/lib/small", b"");
    add("usr/.wh.gone", b'0', "", b"");
    add("usr/lib/.wh..wh..opq", b'0', "", b"");
    add("pipe", b'6', "", b"");
    add("x", b'x', "", b"22 GNU.sparse.major=0\n22 GNU.sparse.minor=1\n26 GNU.sparse.size=999999\n29 GNU.sparse.map=50000,5000\n");
    add("sparse", b'0', "", &content[..5000]);
    bytes
}

fn write(archive: &[u8], target: &mut dyn Target) -> Unpacked {
    let source = Cursor::new(archive.to_vec());
    let stream =
        Stream::open(source, Algorithm::Sha256, Box::new(|_| {}), Tools::alone(1 << 20).unwrap()).unwrap();
    unpack(stream, target, None).unwrap().1
}

/// The same layer gives the same bytes, on every machine and in every release: whoever has checked an image once, or
/// signed it, may rely on it. If the form has to change, this value changes with it, knowingly.
#[test]
fn the_bytes_of_an_image_never_change() {
    let mut file = tempfile::tempfile().unwrap();
    let unpacked = write(&archive(), &mut ErofsTarget::new(file.try_clone().unwrap(), &Arc::default()));
    assert_eq!(unpacked.implied_dirs, ["usr", "usr/lib"]);
    let mut image = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut image).unwrap();
    let expected = "sha256:62b966d32f8f095b4dbf892a3e713c8152e5d296aa5f2f399b784fc06621b00f";
    assert_eq!(Digest::of(&image).to_string(), expected);
}

/// Remembers what was said about the content of each entry.
struct Remembering {
    target: ErofsTarget,
    stored: Vec<(String, Vec<Extent>)>,
}

impl Target for Remembering {
    fn add(&mut self, path: &TreePath, entry: &Entry, content: &mut Content<'_>) -> Result<Stored, Fault> {
        let stored = self.target.add(path, entry, content)?;
        if let Stored::At(extents) = &stored {
            self.stored.push((String::from_utf8(path.as_bytes().to_vec()).unwrap(), extents.clone()));
        }
        Ok(stored)
    }

    fn whiteout(&mut self, path: &TreePath) -> Result<(), Fault> {
        self.target.whiteout(path)
    }

    fn opaque(&mut self, path: &TreePath) -> Result<(), Fault> {
        self.target.opaque(path)
    }

    fn finish(&mut self) -> Result<Unpacked, Fault> {
        self.target.finish()
    }
}

/// Content is found again where the target said, also what another entry replaced and the parts of a sparse file.
#[test]
fn content_is_where_the_target_says() {
    let twice = [archive(), archive()].concat();
    let mut file = tempfile::tempfile().unwrap();
    let target = ErofsTarget::new(file.try_clone().unwrap(), &Arc::default());
    let mut remembering = Remembering { target, stored: Vec::new() };
    write(&twice, &mut remembering);
    let mut image = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut image).unwrap();
    let names: Vec<&str> = remembering.stored.iter().map(|(name, _)| name.as_str()).collect();
    let once = ["usr/lib/small", "lib/large", "sparse"];
    assert_eq!(names, [once, once].concat());
    let large: Vec<u8> =
        (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    for (name, extents) in remembering.stored {
        let range = |extent: &Extent| {
            let start = usize::try_from(extent.offset).unwrap();
            start..start + usize::try_from(extent.length).unwrap()
        };
        let found: Vec<u8> = extents.iter().flat_map(|extent| image[range(extent)].to_vec()).collect();
        let expected = match name.as_str() {
            "usr/lib/small" => b"a few bytes".to_vec(),
            "sparse" => large[..5000].to_vec(),
            _ => large.clone(),
        };
        assert!(found == expected, "{name}");
    }
}
