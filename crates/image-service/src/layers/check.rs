//! Looking for damage in layers, and taking a damaged one out of the store.
//!
//! ```text
//! <root>/damaged/<algorithm>-<hex>.<random>   a damaged layer that containers still have mounted as a directory
//! ```
//!
//! An image is read to its end, past the memory where that is possible, and each MiB compared with the checksum from when
//! it was written. A directory is compared by writing its archive again, where it has the recipe for that.
//! Not here: when layers are looked at, and how they come back (`care`).

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::record::{Format, Record};
use super::{Layer, Layers, draft, make_private_dir, store};
use crate::digest::Digest;
use crate::erofs::checksum::STRETCH;
use crate::error::{Error, chain};
use crate::names;
use crate::recipe;

/// What a look at all bytes of a layer came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// All is as it was written.
    Whole,
    /// It isn't, for this reason.
    Damaged(String),
    /// It can be read, but there is nothing to compare it with.
    Unknown,
    /// It can't be looked at now, for this reason: that is the machine's fault and says nothing about the layer.
    Unseen(String),
}

/// Told how many bytes have been looked at since it was last told; says whether to go on.
pub(crate) type Pace<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Alignment that reading past the memory asks for: a multiple of every disk's sector (open(2), `O_DIRECT`).
const ALIGNMENT: usize = 4096;

impl Layers {
    /// Looks at all bytes of a layer; nothing comes of it where it isn't in the store, or `pace` wouldn't go on.
    pub(crate) fn check(&self, diff_id: &Digest, pace: Pace<'_>) -> Option<Condition> {
        let layer = self.get(diff_id)?;
        let dir = self.inner.layer_dir(diff_id);
        let condition = match layer.record().format {
            Format::Directory if recipe::exists(&dir) => self.write_again(&layer, pace),
            _ => look(&dir, layer.record(), pace),
        };
        // Removed meanwhile: then what was found missing means nothing.
        self.contains(diff_id).then_some(condition?)
    }

    /// Compares a layer with its digest, by writing its archive to nowhere.
    fn write_again(&self, layer: &Layer, pace: Pace<'_>) -> Option<Condition> {
        let mut nowhere = Nowhere { pace, ended: false };
        let written = self.write_archive(layer, &mut nowhere);
        match &written {
            _ if nowhere.ended => None,
            Ok(()) => Some(Condition::Whole),
            Err(error @ Error::Store { cause, .. }) if !is_damage(cause) => {
                Some(Condition::Unseen(chain(error)))
            }
            Err(error) => Some(Condition::Damaged(chain(error))),
        }
    }

    /// Digests of all layers, in order.
    pub(crate) fn all(&self) -> Vec<Digest> {
        let mut all: Vec<Digest> = self.inner.index().layers.keys().cloned().collect();
        all.sort();
        all
    }

    /// The layer that a path of the store is part of.
    pub(crate) fn at(&self, path: &Path) -> Option<Digest> {
        let mut parts = path.strip_prefix(self.inner.root.join("layers")).ok()?.iter();
        let (algorithm, hex) = (parts.next()?.to_str()?, parts.next()?.to_str()?);
        format!("{algorithm}:{hex}").parse().ok()
    }

    /// Takes a damaged layer out of the store. Who has it mounted keeps what is left of it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn set_aside(&self, diff_id: &Digest) -> Result<(), Error> {
        let mut index = self.inner.index();
        let Some(record) = index.layers.get(diff_id) else { return Ok(()) };
        let dir = self.inner.layer_dir(diff_id);
        // Overlay looks names up in a directory as long as it is mounted. An image stays as it is when it has lost its name.
        if record.format == Format::Directory && index.holds.contains_key(diff_id) {
            keep_aside(&self.inner.root, &dir, diff_id)?;
        } else {
            self.inner.trash.discard(&dir)?;
        }
        index.layers.remove(diff_id);
        let unmounted = index.mounts.forget(diff_id);
        drop(index);
        drop(unmounted);
        Ok(())
    }

    /// Deletes the damaged layers that nobody has mounted any more.
    pub(super) fn sweep_damaged(&self) -> Result<(), Error> {
        let dir = self.inner.root.join(DAMAGED);
        let Ok(entries) = fs::read_dir(&dir) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().replacen('-', ":", 1);
            let diff_id = name.split('.').next().and_then(|name| name.parse::<Digest>().ok());
            if !diff_id.is_some_and(|diff_id| self.inner.index().holds.contains_key(&diff_id)) {
                self.inner.trash.discard(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Where an archive goes that nobody wants.
struct Nowhere<'a> {
    pace: Pace<'a>,
    ended: bool,
}

impl io::Write for Nowhere<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ended |= (self.pace)(bytes.len() as u64).is_break();
        match self.ended {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Name of the directory of damaged layers that are in use.
const DAMAGED: &str = "damaged";

fn keep_aside(root: &Path, layer_dir: &Path, diff_id: &Digest) -> Result<(), Error> {
    let damaged = root.join(DAMAGED);
    make_private_dir(&damaged)?;
    let name = format!("{}-{}.{}", diff_id.algorithm().name(), diff_id.hex(), names::unique());
    match rustix::fs::rename(layer_dir, damaged.join(name)) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(store("set aside", layer_dir, errno.into())),
    }
}

fn look(dir: &Path, record: &Record, pace: Pace<'_>) -> Option<Condition> {
    match look_at_all(dir, record, pace) {
        Ok(()) if record.checksums.is_empty() => Some(Condition::Unknown),
        Ok(()) => Some(Condition::Whole),
        Err(Ended::With(condition)) => Some(condition),
        Err(Ended::Early) => None,
    }
}

fn look_at_all(dir: &Path, record: &Record, pace: Pace<'_>) -> Looked {
    let written = Record::read(dir, record.diff_id.algorithm().name());
    if written.map_err(|cause| unreadable("its record", &cause))? != *record {
        return Err(damaged("its record has changed".to_owned()));
    }
    match record.format {
        Format::Erofs => image(&dir.join(draft::IMAGE), &record.checksums, pace),
        Format::Directory => tree(&dir.join(draft::TREE), pace),
    }
}

type Looked = Result<(), Ended>;

/// Why a look ended before the last byte.
#[derive(Debug)]
enum Ended {
    /// It was to go no further.
    Early,
    /// More need not be known.
    With(Condition),
}

fn damaged(why: String) -> Ended {
    Ended::With(Condition::Damaged(why))
}

fn unreadable(what: impl Display, cause: &io::Error) -> Ended {
    let text = format!("{what} cannot be read: {cause}");
    Ended::With(if is_damage(cause) { Condition::Damaged(text) } else { Condition::Unseen(text) })
}

/// Whether something can't be read because of what is on the disk, or isn't any more. What else can be the reason, a want of
/// descriptors or memory, mustn't cost a good layer.
fn is_damage(cause: &io::Error) -> bool {
    // Without a number it is our own word about what was read.
    let Some(number) = cause.raw_os_error() else { return true };
    let of_disk = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA, Errno::NXIO];
    let of_names = [Errno::NOENT, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP, Errno::XDEV];
    of_disk.into_iter().chain(of_names).any(|errno| errno.raw_os_error() == number)
}

/// Tells of so many bytes more.
fn go_on(pace: &mut Pace<'_>, bytes: u64) -> Looked {
    if pace(bytes).is_break() { Err(Ended::Early) } else { Ok(()) }
}

/// Compares an image with its checksums.
fn image(path: &Path, checksums: &[u32], mut pace: Pace<'_>) -> Looked {
    let unreadable = |cause: io::Error| unreadable(format_args!("\"{}\"", path.display()), &cause);
    let file = open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if !checksums.is_empty() && length.div_ceil(STRETCH) != checksums.len() as u64 {
        return Err(damaged(format!("it has {length} bytes, which isn't its length")));
    }
    let size = usize::try_from(STRETCH).unwrap_or(usize::MAX);
    let mut space = vec![0; size + ALIGNMENT];
    let first = space.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let buffer = &mut space[first..first + size];
    for n in 0..length.div_ceil(STRETCH) {
        let wanted = usize::try_from(STRETCH.min(length - n * STRETCH)).unwrap_or(size);
        let read = read_stretch(&file, (buffer, wanted), n * STRETCH).map_err(unreadable)?;
        let expected = usize::try_from(n).ok().and_then(|n| checksums.get(n));
        if expected.is_some_and(|sum| *sum != crc32c::crc32c(&buffer[..read])) {
            return Err(damaged(format!("the bytes from {} on have changed", n * STRETCH)));
        }
        go_on(&mut pace, read as u64)?;
    }
    Ok(())
}

/// Opens a file so that what is read comes from the disk, and what others have in memory stays there; where the file
/// system knows no such thing, in the usual way.
fn open(path: &Path) -> io::Result<File> {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
    File::options().read(true).custom_flags(direct).open(path).or_else(|_| File::open(path))
}

/// Reads so many bytes to the beginning of the buffer, or up to the file's end if that has come nearer.
fn read_stretch(file: &File, (buffer, wanted): (&mut [u8], usize), offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < wanted {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(filled)
}

/// Reads every file of a tree.
fn tree(root: &Path, mut pace: Pace<'_>) -> Looked {
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    let mut buffer = vec![0; 256 << 10];
    while let Some(dir) = pending.pop() {
        let unreadable = |cause: io::Error| unreadable(format_args!("\"{}\"", dir.display()), &cause);
        let entries = fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        for entry in entries.map_err(unreadable)? {
            let kind = entry.file_type().map_err(unreadable)?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                let read = read_file(&entry.path(), &mut buffer).map_err(unreadable)?;
                go_on(&mut pace, read)?;
            }
        }
    }
    Ok(())
}

fn read_file(path: &Path, buffer: &mut [u8]) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut length = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(length),
            read => length += read as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(path: &Path, checksums: &[u32]) -> Option<String> {
        match image(path, checksums, &mut |_| ControlFlow::Continue(())) {
            Ok(()) => None,
            Err(Ended::With(Condition::Damaged(why))) => Some(why),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// A want of the machine's once had a good layer thrown away.
    #[test]
    fn only_what_is_on_the_disk_is_damage() {
        let of = |cause: io::Error| match unreadable("it", &cause) {
            Ended::With(Condition::Damaged(_)) => true,
            Ended::With(Condition::Unseen(why)) => !why.starts_with("it cannot be read: "),
            other => panic!("{other:?}"),
        };
        for errno in [Errno::IO, Errno::UCLEAN, Errno::NOENT] {
            assert!(of(errno.into()), "{errno}");
        }
        assert!(of(io::ErrorKind::UnexpectedEof.into()) && of(io::Error::other("it is of another version")));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::INTR] {
            assert!(!of(errno.into()), "{errno}");
        }
    }

    #[test]
    fn every_changed_byte_of_an_image_is_found_and_a_missing_end_too() {
        // On the disk and in memory: not every file system reads past the memory.
        for dir in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
            let path = dir.path().join("image");
            let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
            let sums: Vec<u32> = bytes.chunks(1 << 20).map(crc32c::crc32c).collect();
            fs::write(&path, &bytes).unwrap();
            assert_eq!(looked(&path, &sums), None);
            assert_eq!(looked(&path, &[]), None);
            for at in [0, 1_048_575, 1_048_576, 2_999_999] {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                fs::write(&path, &changed).unwrap();
                let damage = looked(&path, &sums).unwrap();
                assert!(damage.contains(&format!("from {} on", at >> 20 << 20)), "{damage}");
            }
            fs::write(&path, &bytes[..2_999_999]).unwrap();
            assert!(looked(&path, &sums).is_some());
            fs::write(&path, &bytes[..1 << 20]).unwrap();
            assert!(looked(&path, &sums).unwrap().contains("isn't its length"));
            fs::remove_file(&path).unwrap();
            assert!(looked(&path, &sums).unwrap().contains("No such file"));
        }
    }
}
