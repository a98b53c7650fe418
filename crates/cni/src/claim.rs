//! One daemon a bridge: a second one would take the first one's pods for leftovers and hand out their addresses.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::builtin::Patience;
use crate::cache::has_any_on;
use crate::error::Error;

/// Where every daemon of this machine looks, whatever directories it works on.
const DIRECTORY: &str = "/run/knarr-bridges";
/// The length of the longest path, in bytes (PATH_MAX, limits.h).
const LONGEST: u64 = 4096;
/// Ends the path in the file.
const END: u8 = 0;
/// How long who claims at the same time is waited for.
const TURN: Duration = Duration::from_secs(2);
/// How long a claim of our own that has been given up may seem to be held: a child of this process that has been made but is no
/// other program yet has the same open file.
const HANDOVER: Duration = Duration::from_secs(2);

/// The right to a bridge, for as long as this lives, and as long as there are records of pods on it.
///
/// It is the lock on a file, which ends with its process however that ends (flock(2)). A bridge belongs to a network
/// namespace, so the file is named after both. An abstract socket would belong there by itself; but a pod on the host's
/// network could take its name while the daemon is away, and so keep it away. Pods outlive their daemon, and so does the word in
/// the file, the path of its records: until those are gone, nobody who has others is let in.
#[derive(Debug)]
pub(crate) struct Claim {
    bridge: String,
    path: PathBuf,
    records: PathBuf,
    _locked: File,
}

impl Claim {
    /// Claims a bridge in the calling thread's network namespace, for the pods that are recorded in that directory.
    ///
    /// # Errors
    /// [`Error::BridgeTaken`], [`Error::Kernel`].
    pub(crate) fn take(bridge: &str, records: &Path) -> Result<Claim, Error> {
        let failed = |source| Error::Kernel { action: "claim bridge", subject: bridge.to_owned(), source };
        let namespace = std::fs::metadata("/proc/thread-self/ns/net").map_err(failed)?.ino();
        let records = records.canonicalize().map_err(failed)?;
        DirBuilder::new().mode(0o700).recursive(true).create(DIRECTORY).map_err(failed)?;
        let path = Path::new(DIRECTORY).join(format!("{bridge}@{namespace}"));
        let directory = File::open(DIRECTORY).map_err(failed)?;
        let is_our_turn = is_locked_in_time(&directory).map_err(failed)?;
        let mut handover = Patience::new(HANDOVER);
        loop {
            let mut file = open(&path).map_err(failed)?;
            let is_held = match file.try_lock() {
                Ok(()) => false,
                Err(TryLockError::WouldBlock) => true,
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            };
            let owner = said(&mut file).map_err(failed)?;
            if is_held && owner == records && handover.pause() {
                continue;
            }
            if is_held || (owner != records && has_any_on(&owner, bridge)) {
                return Err(Error::BridgeTaken { bridge: bridge.to_owned(), owner });
            }
            // Whoever had it may have taken the file away since it was opened: then somebody else may have made another.
            if is_there(&file, &path).map_err(failed)? {
                if is_our_turn {
                    sweep(&path);
                }
                if owner != records {
                    say(&mut file, &records).map_err(failed)?;
                }
                return Ok(Claim { bridge: bridge.to_owned(), path, records, _locked: file });
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !has_any_on(&self.records, &self.bridge) {
            // What stays is a file that nobody holds, of somebody who has no pods.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the files of those who are gone with their pods: killed, and their directories deleted. What can't be is left to the
/// next.
fn sweep(but: &Path) {
    for entry in std::fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let bridge = name.to_str().and_then(|name| Some(name.rsplit_once('@')?.0));
        let (Some(bridge), false) = (bridge, path == but) else { continue };
        // Locked until it is removed: whoever waits for it sees then that it isn't there any more.
        if let Ok(mut file) = File::options().read(true).open(&path)
            && file.try_lock().is_ok()
            && said(&mut file).is_ok_and(|owner| !has_any_on(&owner, bridge))
        {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// One claims at a time, so that who sweeps holds nothing that somebody claims. Who is stopped meanwhile mustn't stop the others:
/// they go on without sweeping.
fn is_locked_in_time(directory: &File) -> io::Result<bool> {
    let mut patience = Patience::new(TURN);
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if patience.pause() => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(source)) => return Err(source),
        }
    }
}

/// The directory that is named in the file; empty when there is none.
fn said(file: &mut File) -> io::Result<PathBuf> {
    let mut path = Vec::new();
    file.take(LONGEST).read_to_end(&mut path)?;
    // What follows is of an earlier one, of somebody who was killed here.
    path.truncate(path.iter().position(|byte| *byte == END).unwrap_or(path.len()));
    Ok(OsString::from_vec(path).into())
}

/// Never without a word in between: whose pods are there mustn't be forgotten.
fn say(file: &mut File, records: &Path) -> io::Result<()> {
    let word = [records.as_os_str().as_bytes(), &[END]].concat();
    file.rewind()?;
    file.write_all(&word)?;
    file.set_len(word.len() as u64)
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn is_there(file: &File, path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(there) => Ok(there.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
