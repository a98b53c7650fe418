//! One daemon a bridge: a second one would take the first one's pods for leftovers and hand out their addresses.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Where every daemon of this machine looks, whatever directories it works on.
const DIRECTORY: &str = "/run/knarr-bridges";

/// The right to a bridge, for as long as this lives.
///
/// It is the lock on a file, which ends with its process however that ends (flock(2)). A bridge belongs to a network
/// namespace, so the file is named after both. An abstract socket would belong there by itself; but a pod on the host's
/// network could take its name while the daemon is away, and so keep it away.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    _locked: File,
}

impl Claim {
    /// Claims a bridge in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::BridgeTaken`], [`Error::Kernel`].
    pub(crate) fn take(bridge: &str) -> Result<Claim, Error> {
        let failed = |source| Error::Kernel { action: "claim bridge", subject: bridge.to_owned(), source };
        let namespace = std::fs::metadata("/proc/thread-self/ns/net").map_err(failed)?.ino();
        DirBuilder::new().mode(0o700).recursive(true).create(DIRECTORY).map_err(failed)?;
        let path = Path::new(DIRECTORY).join(format!("{bridge}@{namespace}"));
        loop {
            let file = open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::BridgeTaken { bridge: bridge.to_owned() });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Whoever had it may have taken the file away since it was opened: then somebody else may have made another.
            if is_there(&file, &path).map_err(failed)? {
                return Ok(Claim { path, _locked: file });
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What stays is an empty file that nobody holds.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn is_there(file: &File, path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(there) => Ok(there.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
