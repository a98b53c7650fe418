//! Where a dump goes: a directory, or an archive. For its owner alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// A dump that is being written.
pub(super) enum Dump {
    Directory(PathBuf),
    Archive(Box<tar::Builder<GzEncoder<File>>>),
}

impl Dump {
    /// Nothing that is there is overwritten.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if path.extension().is_some_and(|end| end == "gz" || end == "tgz") {
            let file = new_file(path)?;
            return Ok(Self::Archive(Box::new(tar::Builder::new(GzEncoder::new(
                file,
                Compression::default(),
            )))));
        }
        DirBuilder::new().mode(0o700).create(path).map_err(|cause| named(path, cause))?;
        Ok(Self::Directory(path.to_owned()))
    }

    /// Adds a file, by its name in the dump.
    pub(super) fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        match self {
            Self::Directory(top) => {
                let path = top.join(name);
                if let Some(above) = path.parent() {
                    DirBuilder::new().recursive(true).mode(0o700).create(above)?;
                }
                new_file(&path)?.write_all(text.as_bytes())
            }
            Self::Archive(archive) => {
                let mut header = tar::Header::new_gnu();
                header.set_size(text.len() as u64);
                header.set_mode(0o600);
                archive.append_data(&mut header, Path::new("knarr-dump").join(name), text.as_bytes())
            }
        }
    }

    /// Writes the end.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Archive(archive) => archive.into_inner()?.finish()?.sync_all(),
        }
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|cause| named(path, cause))
}

fn named(path: &Path, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("making \"{}\": {cause}", path.display()))
}
