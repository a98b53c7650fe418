//! A target that writes down what it is told, and checks what every target relies on.

use crate::layers::Unpacked;
use crate::unpack::entry::{Entry, Kind};
use crate::unpack::{Content, Fault, Stored, Target, TreePath};

/// What a target was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Node { path: Vec<u8>, entry: Entry, content: Vec<(u64, Vec<u8>)> },
    Whiteout(Vec<u8>),
    Opaque(Vec<u8>),
}

/// Longest content that is kept of all entries together.
const KEPT: usize = 4 << 20;

#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) told: Vec<Told>,
    kept: usize,
}

impl Target for Recorder {
    fn add(&mut self, path: &TreePath, entry: &Entry, content: &mut Content<'_>) -> Result<Stored, Fault> {
        check_path(path);
        let content = self.read(entry, content)?;
        self.told.push(Told::Node { path: path.as_bytes().to_vec(), entry: entry.clone(), content });
        Ok(Stored::Nothing)
    }

    fn whiteout(&mut self, path: &TreePath) -> Result<(), Fault> {
        check_path(path);
        assert!(!path.is_root(), "a whiteout of the root");
        self.told.push(Told::Whiteout(path.as_bytes().to_vec()));
        Ok(())
    }

    fn opaque(&mut self, path: &TreePath) -> Result<(), Fault> {
        check_path(path);
        self.told.push(Told::Opaque(path.as_bytes().to_vec()));
        Ok(())
    }

    fn finish(&mut self) -> Result<Unpacked, Fault> {
        Ok(Unpacked::default())
    }
}

impl Recorder {
    /// The content in parts that don't touch each other: growing offsets, within the file, as many bytes as the entry says.
    fn read(&mut self, entry: &Entry, content: &mut Content<'_>) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
        let (mut parts, mut end, mut stored) = (Vec::<(u64, Vec<u8>)>::new(), 0, 0);
        while let Some(part) = content.next_part()? {
            assert!(part.offset >= end && !part.bytes.is_empty(), "content goes backwards or is empty");
            let joins = part.offset == end && !parts.is_empty();
            end = part.offset + part.bytes.len() as u64;
            stored += part.bytes.len() as u64;
            self.kept += part.bytes.len();
            if self.kept > KEPT {
                continue;
            }
            match parts.last_mut().filter(|_| joins) {
                Some((_, bytes)) => bytes.extend_from_slice(part.bytes),
                None => parts.push((part.offset, part.bytes.to_vec())),
            }
        }
        match &entry.kind {
            Kind::Regular { size, extents } => {
                assert!(end <= *size, "content beyond the end of the file");
                assert_eq!(stored, extents.iter().map(|extent| extent.length).sum::<u64>());
            }
            _ => assert_eq!(stored, 0, "content of something that is no file"),
        }
        Ok(parts)
    }
}

/// Relative, made of parts that are names, and not longer than the kernel takes.
fn check_path(path: &TreePath) {
    let bytes = path.as_bytes();
    assert!(bytes.len() <= 4095 && !bytes.contains(&0));
    if path.is_root() {
        return;
    }
    for part in bytes.split(|byte| *byte == b'/') {
        assert!(!part.is_empty() && part != b"." && part != b".." && part.len() <= 255, "{path:?}");
    }
}
