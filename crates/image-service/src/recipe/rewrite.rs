//! Writing a layer's archive again, by its recipe.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::NAME;
use super::reader::{Record, Records};
use crate::digest::Digester;
use crate::error::Error;
use crate::layers::{ASIDE, IMAGE, Layer, Layers, TREE, store};
use crate::unpack::Extent;

/// Bytes of content that are copied at a time.
const BUFFER: usize = 128 * 1024;

/// How a path in a layer may be resolved: by names alone, and never out of it.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// The archive of a layer, which can be written as often as one likes.
#[derive(Debug)]
pub(crate) struct Rewrite {
    layer: Layer,
    dir: PathBuf,
    size: u64,
    replaced: Moves,
}

/// For a path, when what was there was replaced (the number of the record), and the name that it has since.
type Moves = HashMap<Vec<u8>, Vec<(u64, Vec<u8>)>>;

impl Rewrite {
    /// Looks a layer's recipe through, which doesn't touch the layer's files.
    ///
    /// # Errors
    /// [`Error::NoRecipe`], or [`Error::Store`] when it can't be read.
    pub(crate) fn open(layers: &Layers, layer: Layer) -> Result<Rewrite, Error> {
        let dir = layers.dir(&layer);
        let mut rewrite = Rewrite { layer, dir, size: 0, replaced: Moves::new() };
        let mut records = rewrite.records()?;
        let mut number = 0u64;
        while let Some(record) = records.next().map_err(|cause| rewrite.unreadable(cause))? {
            number += 1;
            let length = match record {
                Record::Literal(bytes) => bytes.len() as u64,
                Record::At(extents) | Record::File { extents, .. } => {
                    extents.iter().fold(0, |sum, extent| u64::saturating_add(sum, extent.length))
                }
                Record::Replaced { path, name } => {
                    rewrite.replaced.entry(path).or_default().push((number, name));
                    0
                }
            };
            rewrite.size = rewrite.size.saturating_add(length);
        }
        Ok(rewrite)
    }

    /// The layer.
    pub(crate) fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Bytes of the archive.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Writes the archive. It has the layer's digest when this returns without an error, and not before.
    ///
    /// # Errors
    /// [`Error::LayerDigest`] if the layer was damaged, [`Error::Store`] if it can't be read; [`Error::Output`].
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        let expected = &self.layer.diff_id;
        let mut copy = Copy {
            rewrite: self,
            out,
            digester: Digester::new(expected.algorithm()),
            buffer: vec![0; BUFFER],
            image: None,
            dirs: [None, None],
        };
        let mut records = self.records()?;
        let mut number = 0;
        while let Some(record) = records.next().map_err(|cause| self.unreadable(cause))? {
            number += 1;
            match record {
                Record::Literal(bytes) => copy.bytes(&bytes)?,
                Record::At(extents) => copy.image_content(&extents)?,
                Record::File { path, extents } => copy.file_content(&path, number, &extents)?,
                Record::Replaced { .. } => {}
            }
        }
        let actual = copy.digester.finish();
        if actual != *expected {
            return Err(Error::LayerDigest { expected: expected.clone(), actual });
        }
        Ok(())
    }

    fn records(&self) -> Result<Records, Error> {
        let file = match File::open(self.dir.join(NAME)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoRecipe { diff_id: self.layer.diff_id.clone() });
            }
            opened => opened,
        };
        file.and_then(Records::open).map_err(|cause| self.unreadable(cause))
    }

    fn unreadable(&self, cause: io::Error) -> Error {
        store("read", &self.dir.join(NAME), cause)
    }

    /// Where what was put at `path` by the record `number` is today: below which directory, and by which path.
    fn place(&self, path: &[u8], number: u64) -> (&'static str, Vec<u8>) {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let moved = ends.chain([path.len()]).filter_map(|end| {
            let later = self.replaced.get(&path[..end])?.iter().find(|(at, _)| *at > number)?;
            Some((later, end))
        });
        match moved.min_by_key(|((at, _), _)| *at) {
            Some(((_, name), end)) => (ASIDE, [name, &path[end..]].concat()),
            None => (TREE, path.to_owned()),
        }
    }
}

/// An archive being written.
struct Copy<'a> {
    rewrite: &'a Rewrite,
    out: &'a mut dyn Write,
    digester: Digester,
    buffer: Vec<u8>,
    /// The one file that the layer is.
    image: Option<File>,
    /// `fs` and `replaced`, once they are needed.
    dirs: [Option<OwnedFd>; 2],
}

impl Copy<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.digester.update(bytes);
        self.out.write_all(bytes).map_err(|cause| Error::Output { cause })
    }

    fn image_content(&mut self, extents: &[Extent]) -> Result<(), Error> {
        let path = self.rewrite.dir.join(IMAGE);
        let image = match self.image.take() {
            Some(image) => image,
            None => File::open(&path).map_err(|cause| store("open", &path, cause))?,
        };
        self.extents(&image, extents, &path)?;
        self.image = Some(image);
        Ok(())
    }

    fn file_content(&mut self, path: &[u8], number: u64, extents: &[Extent]) -> Result<(), Error> {
        let (below, path) = self.rewrite.place(path, number);
        let base = self.rewrite.dir.join(below);
        let full = base.join(OsStr::from_bytes(&path));
        let dir = &mut self.dirs[usize::from(below == ASIDE)];
        let dir = match dir {
            Some(dir) => dir,
            None => dir.insert(open_dir(&base)?),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(dir, &path[..], flags, Mode::empty(), BENEATH);
        let file = File::from(file.map_err(|errno| store("open", &full, errno.into()))?);
        self.extents(&file, extents, &full)
    }

    fn extents(&mut self, file: &File, extents: &[Extent], path: &Path) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        for extent in extents {
            let (mut offset, mut left) = (extent.offset, extent.length);
            while left > 0 {
                let part = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
                let part = &mut buffer[..part];
                file.read_exact_at(part, offset).map_err(|cause| store("read", path, cause))?;
                self.bytes(part)?;
                offset += part.len() as u64;
                left -= part.len() as u64;
            }
        }
        self.buffer = buffer;
        Ok(())
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| store("open", path, errno.into()))
}
