//! A layer compressed into a file without a name, since its digest and its size come before it in every archive.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::Compression;
use crate::digest::{Algorithm, Digest, Digester};
use crate::error::Error;
use crate::layers::store;
use crate::recipe::Rewrite;

/// zstd's level; its own default.
const ZSTD_LEVEL: i32 = 3;
/// Bytes that are copied at a time.
const BUFFER: usize = 128 * 1024;

/// A compressed layer.
#[derive(Debug)]
pub(super) struct Spooled {
    file: File,
    dir: PathBuf,
    digest: Digest,
    size: u64,
}

/// Digests and counts what is written to a file.
struct Digesting {
    file: BufWriter<File>,
    digester: Digester,
    size: u64,
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.digester.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Spooled {
    /// Compresses a layer's archive into a file below `dir` that is gone when this value is.
    pub(super) fn compress(
        rewrite: &Rewrite,
        compression: Compression,
        dir: &Path,
    ) -> Result<Spooled, Error> {
        let failed = |cause| store("write below", dir, cause);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
        let out = Digesting {
            file: BufWriter::new(File::from(file)),
            digester: Digester::new(Algorithm::Sha256),
            size: 0,
        };
        let Digesting { file, digester, size } = match compression {
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL).map_err(failed)?;
                rewrite.write(&mut encoder).map_err(|error| of_spool(error, dir))?;
                encoder.finish().map_err(failed)?
            }
            Compression::Gzip | Compression::None => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                rewrite.write(&mut encoder).map_err(|error| of_spool(error, dir))?;
                encoder.finish().map_err(failed)?
            }
        };
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        Ok(Spooled { file, dir: dir.to_owned(), digest: digester.finish(), size })
    }

    /// Digest of the compressed bytes.
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Their number.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        let failed = |cause| store("read below", &self.dir, cause);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                return Ok(());
            }
            out.write_all(&buffer[..count]).map_err(|cause| Error::Output { cause })?;
        }
    }
}

/// Here the output is the spool.
fn of_spool(error: Error, dir: &Path) -> Error {
    match error {
        Error::Output { cause } => store("write below", dir, cause),
        other => other,
    }
}
