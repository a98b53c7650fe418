//! The volumes that an image declares (`config.Volumes`): a directory of the container's own for each, beginning as a copy
//! of what the image has there.
//!
//! Not here: which of them a container gets, and mounting them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::views::find_in;
use super::{RootFilesystems, check_id, copy};
use crate::error::Error;
use crate::layers::{make_private_dir, store};

/// Below a container's directory.
pub(super) const VOLUMES: &str = "volumes";

impl RootFilesystems {
    /// Makes the volumes of a container with a root filesystem: a directory for each path, with what its image has there
    /// (owners, modes, times, extended attributes and all below), empty where it has nothing. They go with the root.
    ///
    /// # Errors
    /// [`Error::Volume`] for a path that is no directory or can't be copied, [`Error::NoSpace`], [`Error::Store`], and
    /// those of [`RootFilesystems::mount`].
    pub fn make_volumes(&self, container: &str, paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
        check_id(container)?;
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let image = self.own_image(container)?;
        let below = self.inner.dir.join(container).join(VOLUMES);
        make_private_dir(&below)?;
        let mut made = Vec::with_capacity(paths.len());
        for (at, path) in paths.iter().enumerate() {
            let volume = below.join(at.to_string());
            let filled = fill(&image, path, &volume);
            filled.map_err(|error| self.inner.limiter.explain(error, &self.inner.dir.join(container)))?;
            made.push(volume);
        }
        Ok(made)
    }
}

fn fill(image: &OwnedFd, path: &Path, volume: &Path) -> Result<(), Error> {
    let failed = |cause| match store("create", volume, cause) {
        Error::Store { cause, .. } => Error::Volume { path: path.to_owned(), cause },
        full => full,
    };
    // What is written into the volume belongs to whom the image says; ours is only the way to it.
    rustix::fs::mkdir(volume, Mode::from_raw_mode(0o755)).map_err(|errno| failed(errno.into()))?;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY;
    let source = match find_in(image, path, directory) {
        Ok(source) => source,
        Err(Errno::NOENT) => {
            return rustix::fs::chmod(volume, Mode::from_raw_mode(0o755)).map_err(|e| failed(e.into()));
        }
        Err(errno) => return Err(failed(errno.into())),
    };
    let flags = directory | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(volume, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    copy::tree(source, target).map_err(failed)
}
