//! A layer in either form without a store: for tools, tests and fuzzing.

use std::fs::File;
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{DirectoryTarget, ErofsTarget, Fault, Stream, Tools, own_umask, unpack};
use crate::digest::{Algorithm, Digest};
use crate::error::Error;
use crate::layers::Unpacked;

/// Largest window of a zstd frame, in bytes: as in pulls, by default.
const WINDOW: u64 = 128 << 20;

fn open(archive: impl BufRead + 'static) -> Result<Stream, Fault> {
    let tools = Tools::alone(WINDOW).map_err(Fault::Stream)?;
    Stream::open(archive, Algorithm::Sha256, Box::new(|_| {}), tools)
}

/// What is known of an image once it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErofsImage {
    /// SHA-256 of the uncompressed archive.
    pub digest: Digest,
    /// Disk space that the image takes, in bytes.
    pub size_bytes: u64,
    /// CRC-32C of each MiB of it, the last one of what is left.
    pub checksums: Vec<u32>,
    /// The layer hides everything below it.
    pub opaque_root: bool,
    /// Directories that the archive uses but doesn't describe; `""` is the root.
    pub implied_dirs: Vec<String>,
}

/// Writes the layer in `archive`, plain or compressed, into the empty file `image` as an EROFS file system.
///
/// # Errors
/// What is wrong with the archive, or why the image couldn't be written; the layer is named by `name`.
pub fn write_erofs(archive: impl BufRead + 'static, image: File, name: &Digest) -> Result<ErofsImage, Error> {
    let written =
        open(archive).and_then(|stream| unpack(stream, &mut ErofsTarget::new(image, &Arc::default()), None));
    let (digest, unpacked) = written.map_err(|fault| fault.of_layer(name))?;
    let Unpacked { usage, opaque_root, implied_dirs, checksums } = unpacked;
    Ok(ErofsImage { digest, size_bytes: usage.bytes, checksums, opaque_root, implied_dirs })
}

/// Unpacks the layer in `archive`, plain or compressed, into the empty directory `root`; `aside` is a directory of the
/// same file system for what the archive itself replaces. The calling thread gets an umask of its own.
///
/// # Errors
/// As [`write_erofs`].
pub fn write_directory(
    archive: impl BufRead + 'static,
    root: OwnedFd,
    aside: OwnedFd,
    name: &Digest,
) -> Result<Digest, Error> {
    let written = own_umask()
        .map_err(Fault::Stream)
        .and_then(|()| open(archive))
        .and_then(|stream| unpack(stream, &mut DirectoryTarget::new(root, aside), None));
    written.map(|(digest, _)| digest).map_err(|fault| fault.of_layer(name))
}
