//! Compressed bytes of layers kept on disk as they arrive, so that a pull goes on where an earlier one broke off, were it by
//! the end of the daemon.
//!
//! ```text
//! <root>/images/ingest/blobs/<algorithm>-<hex of the compressed digest>
//! ```
//!
//! A file is only ever appended to, and removed when its layer is in the store or turned out wrong. It isn't synced: a quick
//! pull never writes it to the disk, and what a power cut makes of it is found by the digest. Losing one costs a second
//! download and nothing else, so no failure here fails a pull.
//! Not here: what becomes of the bytes (`inlet`).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::config::Limits;
use crate::digest::Digest;
use crate::error::Error;
use crate::layers::make_private_dir;

/// Bytes after which is looked whether there is still room for more.
const STEP: u64 = 64 << 20;

/// The directory of spools.
#[derive(Debug)]
pub(super) struct Spools {
    dir: PathBuf,
    limits: Limits,
    /// Those being written: a second fetch of the same bytes, for another layer, does without.
    busy: Mutex<HashSet<String>>,
}

impl Spools {
    /// Opens the spools of the store below `images`, making the directory where it lacks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) fn open(images: &Path, limits: &Limits) -> Result<Spools, Error> {
        let dir = images.join("ingest").join("blobs");
        make_private_dir(&dir)?;
        let spools = Spools { dir, limits: limits.clone(), busy: Mutex::default() };
        spools.sweep();
        Ok(spools)
    }

    /// The spool of a blob with what it has already; none for a small blob, and where it can't be had.
    pub(super) fn take(self: &Arc<Self>, digest: &Digest, size: u64) -> Option<Spool> {
        let name = name(digest);
        if size < self.limits.spool_from || !self.busy().insert(name.clone()) {
            return None;
        }
        let path = self.dir.join(&name);
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600).custom_flags(libc_nofollow());
        let opened = options.open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let mut spool = Spool { spools: Arc::clone(self), name, path, file: None, length: 0, looked: 0 };
        match opened {
            Ok((length, file)) => (spool.file, spool.length) = (Some(file), length),
            Err(cause) => {
                tracing::warn!(blob = %digest, %cause, "a layer's bytes can't be kept for a later attempt");
                return None;
            }
        }
        if spool.length > size {
            spool.restart();
        }
        Some(spool)
    }

    /// Removes what nobody goes on with for too long, and then the oldest of what is too much.
    pub(super) fn sweep(&self) {
        let mut found = self.idle();
        found.sort_by_key(|(modified, ..)| *modified);
        let mut total: u64 = found.iter().map(|(_, bytes, _)| bytes).sum();
        for (modified, bytes, path) in found {
            let age = SystemTime::now().duration_since(modified).unwrap_or_default();
            if age > self.limits.spool_age || total > self.limits.spool_bytes {
                remove(&path);
                total = total.saturating_sub(bytes);
            }
        }
    }

    /// Removes what is kept of these blobs, which will not be wanted again.
    pub(super) fn forget<'a>(&self, digests: impl Iterator<Item = &'a Digest>) {
        for name in digests.map(name) {
            let busy = self.busy();
            if !busy.contains(&name) {
                remove(&self.dir.join(name));
            }
        }
    }

    /// Files that nobody is writing: when last written to, bytes, path.
    fn idle(&self) -> Vec<(SystemTime, u64, PathBuf)> {
        let busy = self.busy().clone();
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let idle = entries.filter(|entry| !entry.file_name().to_str().is_some_and(|n| busy.contains(n)));
        idle.filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len(), entry.path()))
        })
        .collect()
    }

    /// Whether `more` bytes may be kept: within our bound, and leaving the file system what it should have.
    fn has_room(&self, more: u64) -> bool {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let total: u64 = entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
        let Ok(disk) = rustix::fs::statvfs(&self.dir) else { return false };
        let (free, leave) = (disk.f_bavail * disk.f_frsize, disk.f_blocks / 100 * disk.f_frsize);
        total.saturating_add(more) <= self.limits.spool_bytes
            && free >= leave.saturating_mul(self.limits.spool_leaves).saturating_add(more)
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

fn libc_nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), %cause, "cannot remove what was kept of a layer");
        }
        _ => {}
    }
}

/// What is kept of one blob. Dropped, it stays for a later attempt.
#[derive(Debug)]
pub(super) struct Spool {
    spools: Arc<Spools>,
    name: String,
    path: PathBuf,
    /// None when nothing is kept any more.
    file: Option<File>,
    length: u64,
    /// Length at which there was room last.
    looked: u64,
}

impl Spool {
    /// Bytes that are here.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Reads what is at `offset`.
    pub(super) fn read(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.as_ref().map_or(Ok(0), |file| file.read_at(into, offset))
    }

    /// Keeps more bytes, as long as there is room.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len() as u64;
        if self.length == 0 || end - self.looked > STEP {
            if !self.spools.has_room(bytes.len() as u64) {
                tracing::debug!(file = %self.path.display(), "there is no room to keep a layer's bytes for a later attempt");
                return self.remove();
            }
            self.looked = end;
        }
        let Some(file) = &self.file else { return };
        match file.write_all_at(bytes, self.length) {
            Ok(()) => self.length = end,
            Err(cause) => {
                tracing::debug!(file = %self.path.display(), %cause, "a layer's bytes aren't kept for a later attempt");
                self.remove();
            }
        }
    }

    /// Throws away what is here, to keep what comes from now on.
    pub(super) fn restart(&mut self) {
        let emptied = self.file.as_ref().map(|file| file.set_len(0));
        match emptied {
            Some(Ok(())) => (self.length, self.looked) = (0, 0),
            Some(Err(_)) | None => self.remove(),
        }
    }

    /// Keeps nothing any more.
    pub(super) fn remove(&mut self) {
        if self.file.take().is_some() {
            remove(&self.path);
        }
        self.length = 0;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let mut busy = self.spools.busy();
        if self.file.is_some() && self.length == 0 {
            remove(&self.path);
        }
        busy.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spools(dir: &Path, limits: Limits) -> Arc<Spools> {
        let limits = Limits { spool_from: 4, spool_leaves: 0, ..limits };
        Arc::new(Spools::open(dir, &limits).unwrap())
    }

    fn files(spools: &Spools) -> usize {
        fs::read_dir(&spools.dir).unwrap().count()
    }

    #[test]
    fn bytes_stay_until_they_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"whole");
        let spools = spools(dir.path(), Limits::default());
        assert!(spools.take(&digest, 3).is_none(), "it is small");
        let mut spool = spools.take(&digest, 5).unwrap();
        assert!(spools.take(&digest, 5).is_none(), "it is being written");
        spool.append(b"who");
        spools.forget([&digest].into_iter());
        drop(spool);
        let mut spool = spools.take(&digest, 5).unwrap();
        assert_eq!(spool.length(), 3);
        let mut read = [0; 8];
        assert_eq!((spool.read(&mut read, 1).unwrap(), &read[..2]), (2, &b"ho"[..]));
        spool.append(b"le");
        assert_eq!(spool.length(), 5);
        spool.remove();
        spool.append(b"more");
        drop(spool);
        assert_eq!(files(&spools), 0);
        drop(spools.take(&digest, 5).unwrap());
        assert_eq!(files(&spools), 0, "nothing is kept of nothing");
    }

    #[test]
    fn what_is_too_long_or_forgotten_goes() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"whole");
        let spools = spools(dir.path(), Limits::default());
        let mut spool = spools.take(&digest, 9).unwrap();
        spool.append(b"too long");
        drop(spool);
        assert_eq!(spools.take(&digest, 7).unwrap().length(), 0);
        spools.take(&digest, 7).unwrap().append(b"some");
        spools.forget([&digest].into_iter());
        assert_eq!(files(&spools), 0);
    }

    #[test]
    fn sweeping_takes_the_old_and_the_oldest_of_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { spool_bytes: 10, ..Limits::default() };
        let spools = spools(dir.path(), limits);
        let hour = std::time::Duration::from_secs(3600);
        for (name, hours) in [("ancient", 30), ("older", 2), ("old", 1)] {
            let file = File::create(spools.dir.join(name)).unwrap();
            file.set_len(6).unwrap();
            file.set_modified(SystemTime::now() - hour * hours).unwrap();
        }
        let mut busy = spools.take(&Digest::of(b"busy"), 6).unwrap();
        busy.append(b"whatever");
        assert_eq!(busy.length(), 0, "that would be too much");
        spools.sweep();
        let left: Vec<_> =
            fs::read_dir(&spools.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["old"]);
    }

    #[test]
    fn a_disk_without_room_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { spool_from: 0, spool_leaves: 100, ..Limits::default() };
        let spools = Arc::new(Spools::open(dir.path(), &limits).unwrap());
        let mut spool = spools.take(&Digest::of(b"a"), 5).unwrap();
        spool.append(b"a");
        assert_eq!((spool.length(), files(&spools)), (0, 0));
    }
}
