//! Compressed bytes of layers kept on disk as they arrive, so that a pull goes on where an earlier one broke off, were it by
//! the end of the daemon.
//!
//! ```text
//! <root>/images/ingest/blobs/<algorithm>-<hex of the compressed digest>
//! ```
//!
//! A file is only ever appended to, and removed when its layer is in the store or turned out wrong. It isn't synced: a quick
//! pull never writes it to the disk, and what a power cut makes of it is found by the digest. Losing one costs a second
//! download and nothing else, so no failure here fails a pull. Nor may keeping them take the room that a pull needs: a file is
//! only begun where there is plenty, and all are given up when a disk turns out full.
//! Not here: what becomes of the bytes (`inlet`), when a disk is full (`room`).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::config::Limits;
use crate::digest::Digest;
use crate::error::Error;
use crate::layers::make_private_dir;

/// Bytes after which is looked whether there is still room for more.
const STEP: u64 = 64 << 20;

/// Room that a layer is taken to need for each of its compressed bytes, beside them. Images of distributions and of programs
/// unpack to two to four times as much.
const UNPACKED: u64 = 4;

/// How long nothing is kept after a disk was full.
const PAUSE: Duration = Duration::from_secs(10 * 60);

/// The directory of spools.
#[derive(Debug)]
pub(super) struct Spools {
    dir: PathBuf,
    limits: Limits,
    busy: Mutex<Busy>,
}

#[derive(Debug, Default)]
struct Busy {
    /// Those being written: a second fetch of the same bytes, for another layer, does without.
    spools: HashMap<String, Arc<Kept>>,
    /// When a disk was full last.
    full: Option<Instant>,
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
        if size < self.limits.spool_from {
            return None;
        }
        let name = name(digest);
        let kept = Arc::new(Kept { path: self.dir.join(&name), size, ..Kept::default() });
        {
            let mut busy = self.busy();
            if busy.spools.contains_key(&name) || busy.full.is_some_and(|full| full.elapsed() < PAUSE) {
                return None;
            }
            busy.spools.insert(name.clone(), Arc::clone(&kept));
        }
        let spool = Spool { spools: Arc::clone(self), name, kept, looked: 0 };
        let is_there = fs::symlink_metadata(&spool.kept.path).is_ok_and(|file| file.len() > 0);
        if !is_there && !self.has_room() {
            tracing::debug!(blob = %digest, "there is no room to keep a layer's bytes for a later attempt");
            return None;
        }
        match spool.kept.open() {
            Ok(()) => Some(spool),
            Err(cause) => {
                tracing::warn!(blob = %digest, %cause, "a layer's bytes can't be kept for a later attempt");
                None
            }
        }
    }

    /// Removes what nobody goes on with for too long, and then the oldest of what is too much, or in the way of others.
    pub(super) fn sweep(&self) {
        let mut found = self.idle();
        found.sort_by_key(|(modified, ..)| *modified);
        for (modified, _, path) in found {
            let age = SystemTime::now().duration_since(modified).unwrap_or_default();
            if age > self.limits.spool_age || !self.has_room() {
                remove(&path);
            }
        }
    }

    /// Removes what is kept of these blobs, which will not be wanted again.
    pub(super) fn forget<'a>(&self, digests: impl Iterator<Item = &'a Digest>) {
        for name in digests.map(name) {
            let busy = self.busy();
            if !busy.spools.contains_key(&name) {
                remove(&self.dir.join(name));
            }
        }
    }

    /// Removes all that is kept, but for what is being read, and keeps nothing more for a while: the disk is full. The answer
    /// is how many bytes that was.
    pub(super) fn give_up(&self) -> u64 {
        let written: Vec<Arc<Kept>> = {
            let mut busy = self.busy();
            busy.full = Some(Instant::now());
            busy.spools.values().cloned().collect()
        };
        let written: u64 = written.iter().map(|kept| kept.give_up()).sum();
        let idle = self.idle();
        idle.iter().for_each(|(.., path)| remove(path));
        written + idle.iter().map(|(_, bytes, _)| bytes).sum::<u64>()
    }

    /// Files that nobody is writing: when last written to, bytes, path.
    fn idle(&self) -> Vec<(SystemTime, u64, PathBuf)> {
        // While the lock is held nobody takes one of them.
        let busy = self.busy();
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let idle = entries
            .filter(|entry| !entry.file_name().to_str().is_some_and(|name| busy.spools.contains_key(name)));
        idle.filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len(), entry.path()))
        })
        .collect()
    }

    /// Whether there is room for what is being written, up to its end and unpacked: within our bound, and leaving the file
    /// system what it should have.
    fn has_room(&self) -> bool {
        let lacking: u64 = self.busy().spools.values().map(|kept| kept.lacks()).sum();
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let total: u64 = entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
        let Ok(disk) = rustix::fs::statvfs(&self.dir) else { return false };
        let (free, leave) = (disk.f_bavail * disk.f_frsize, disk.f_blocks / 100 * disk.f_frsize);
        total.saturating_add(lacking) <= self.limits.spool_bytes
            && free
                >= leave
                    .saturating_mul(self.limits.spool_leaves)
                    .saturating_add(lacking.saturating_mul(1 + UNPACKED))
    }

    fn busy(&self) -> MutexGuard<'_, Busy> {
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

/// What is kept of one blob, between its writer and whoever needs the room.
#[derive(Debug, Default)]
struct Kept {
    path: PathBuf,
    /// Bytes of the blob.
    size: u64,
    /// Bytes that are here.
    length: AtomicU64,
    file: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// None when nothing is kept, or no more.
    file: Option<File>,
    /// Bytes of an earlier attempt that were not read yet: without them their reader could not go on.
    unread: bool,
}

impl Kept {
    fn open(&self) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600).custom_flags(libc_nofollow());
        let file = options.open(&self.path)?;
        let mut length = file.metadata()?.len();
        if length > self.size {
            file.set_len(0)?;
            length = 0;
        }
        self.length.store(length, Ordering::Relaxed);
        *self.file() = Open { file: Some(file), unread: length > 0 };
        Ok(())
    }

    fn file(&self) -> MutexGuard<'_, Open> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    fn lacks(&self) -> u64 {
        self.size.saturating_sub(self.length())
    }

    fn read(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut open = self.file();
        let Some(file) = &open.file else { return Ok(0) };
        let count = file.read_at(into, offset)?;
        open.unread = offset + (count as u64) < self.length();
        Ok(count)
    }

    fn append(&self, bytes: &[u8]) {
        let mut open = self.file();
        let Some(file) = &open.file else { return };
        match file.write_all_at(bytes, self.length()) {
            Ok(()) => drop(self.length.fetch_add(bytes.len() as u64, Ordering::Relaxed)),
            Err(cause) => {
                tracing::debug!(file = %self.path.display(), %cause, "a layer's bytes aren't kept for a later attempt");
                self.remove(&mut open);
            }
        }
    }

    /// Removes it, unless it is being read.
    fn give_up(&self) -> u64 {
        let mut open = self.file();
        if open.unread {
            return 0;
        }
        let length = self.length();
        self.remove(&mut open);
        length
    }

    fn remove(&self, open: &mut Open) {
        if open.file.take().is_some() {
            remove(&self.path);
        }
        self.length.store(0, Ordering::Relaxed);
    }
}

/// A blob's spool in the hand of the one who writes it. Dropped, what is kept stays for a later attempt.
#[derive(Debug)]
pub(super) struct Spool {
    spools: Arc<Spools>,
    name: String,
    kept: Arc<Kept>,
    /// Length at which there was room last.
    looked: u64,
}

impl Spool {
    /// Bytes that are here.
    pub(super) fn length(&self) -> u64 {
        self.kept.length()
    }

    /// Reads what is at `offset`.
    pub(super) fn read(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.kept.read(into, offset)
    }

    /// Keeps more bytes, as long as there is room.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let end = self.length() + bytes.len() as u64;
        if end.saturating_sub(self.looked) > STEP {
            if !self.spools.has_room() {
                tracing::debug!(file = %self.kept.path.display(), "there is no room to keep more of a layer for a later attempt");
                return self.remove();
            }
            self.looked = end;
        }
        self.kept.append(bytes);
    }

    /// Keeps nothing any more.
    pub(super) fn remove(&mut self) {
        self.kept.remove(&mut self.kept.file());
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let nothing = self.length() == 0;
        if nothing {
            self.remove();
        }
        self.spools.busy().spools.remove(&self.name);
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
        assert!(spools.take(&Digest::of(b"busy"), 6).is_none(), "that would be too much");
        spools.sweep();
        let left: Vec<_> =
            fs::read_dir(&spools.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["old"]);
        assert!(spools.take(&Digest::of(b"busy"), 5).is_none(), "that would be too much");
        let mut first = spools.take(&Digest::of(b"one"), 4).unwrap();
        assert!(spools.take(&Digest::of(b"other"), 4).is_none(), "the room is promised");
        first.append(b"all");
        assert_eq!(first.length(), 3);
    }

    #[test]
    fn a_disk_without_room_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { spool_from: 0, spool_leaves: 100, ..Limits::default() };
        let full = Arc::new(Spools::open(dir.path(), &limits).unwrap());
        assert!(full.take(&Digest::of(b"a"), 5).is_none());
        assert_eq!(files(&full), 0);
        // As long as there was room something was kept; now it is in the way.
        File::create(full.dir.join("old")).unwrap().set_len(6).unwrap();
        full.sweep();
        assert_eq!(files(&full), 0);
        // A disk that has more room than the bytes themselves need, but not enough for what they unpack to.
        let disk = rustix::fs::statvfs(&full.dir).unwrap();
        let most = disk.f_bavail * disk.f_frsize / 2;
        let limits = Limits { spool_bytes: u64::MAX, ..Limits::default() };
        assert!(spools(dir.path(), limits).take(&Digest::of(b"a"), most).is_none());
    }

    #[test]
    fn on_a_full_disk_all_is_given_up_but_what_is_being_read() {
        let dir = tempfile::tempdir().unwrap();
        let spools = spools(dir.path(), Limits::default());
        let [idle, written, read] = [&b"idle"[..], b"written", b"read"].map(Digest::of);
        for digest in [&idle, &read] {
            spools.take(digest, 9).unwrap().append(b"12345");
        }
        let mut written = spools.take(&written, 9).unwrap();
        written.append(b"1234567");
        let mut reading = spools.take(&read, 9).unwrap();
        let mut half = [0; 3];
        assert_eq!(reading.read(&mut half, 0).unwrap(), 3);
        assert_eq!(spools.give_up(), 5 + 7);
        written.append(b"89");
        assert_eq!((written.length(), reading.length(), files(&spools)), (0, 5, 1));
        assert!(spools.take(&idle, 9).is_none(), "nothing is kept for a while");
        assert_eq!(reading.read(&mut half, 3).unwrap(), 2);
        assert_eq!(spools.give_up(), 5);
        reading.append(b"6789");
        drop((written, reading));
        assert_eq!((files(&spools), spools.give_up()), (0, 0));
    }
}
