//! The files of an archive, put aside under numbers until it is known what they are.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::refused;
use crate::config::Limits;
use crate::digest::{Algorithm, Digest, Digester};
use crate::error::Error;
use crate::layers::{is_no_space, make_private_dir, store};
use crate::names;
use crate::pull::Room;
use crate::unpack::{Archive, Entry, Fault, Kind, Source, Stream, Tools, TreePath};

/// Entries of an archive, at most. One that Docker wrote has four a layer.
const MAX_ENTRIES: usize = 20_000;
/// Bytes that one zstd frame may refer back to: as in pulls, by default.
const WINDOW: u64 = 128 << 20;
/// Links on the way to a file, at most. Docker makes one where two layers are the same.
const MAX_LINKS: usize = 8;

/// The files. They go with this value.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    files: BTreeMap<TreePath, Spooled>,
    /// Paths that mean other paths.
    links: BTreeMap<TreePath, TreePath>,
    limits: Limits,
    room: Arc<Room>,
    /// Bytes of the archive that have been read, as it came, and bytes of its files.
    read: Rc<Cell<u64>>,
    written: u64,
}

/// Counts what is read of an archive.
struct Counted {
    archive: Box<dyn BufRead + Send>,
    read: Rc<Cell<u64>>,
}

impl BufRead for Counted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.archive.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.read.set(self.read.get() + amount as u64);
        self.archive.consume(amount);
    }
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

/// One file of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spooled {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// By the algorithm that its name names, SHA-256 if it names none.
    pub(super) digest: Digest,
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(directory = %self.dir.display(), %cause, "cannot remove the files of an archive");
        }
    }
}

impl Spool {
    /// Puts the files of an archive into a directory of their own below `dir`.
    pub(super) fn fill(
        dir: &Path,
        (limits, room): (&Limits, &Arc<Room>),
        archive: Box<dyn BufRead + Send>,
    ) -> Result<Spool, Error> {
        let dir = dir.join(names::unique());
        room.for_work(|error| matches!(error, Error::NoSpace { .. }), || make_private_dir(&dir))?;
        let (files, links, read) = (BTreeMap::new(), BTreeMap::new(), Rc::default());
        let (limits, room) = (limits.clone(), Arc::clone(room));
        let mut spool = Spool { dir, files, links, limits, room, read, written: 0 };
        spool.read(archive).map_err(|fault| spool.error(fault))?;
        Ok(spool)
    }

    /// Whether there is a file with this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The file with this name, links followed.
    pub(super) fn find(&self, name: &str) -> Option<&Spooled> {
        let mut path = TreePath::parse(name.as_bytes()).ok()?;
        for _ in 0..=MAX_LINKS {
            match self.files.get(&path) {
                Some(file) => return Some(file),
                None => path = self.links.get(&path)?.clone(),
            }
        }
        None
    }

    /// The content of a document that must be there.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let file = self.find(name).ok_or_else(|| refused(format!("it lacks \"{name}\"")))?;
        let most = self.limits.document_bytes;
        if file.size > most {
            return Err(refused(format!("\"{name}\" is larger than {most} bytes")));
        }
        fs::read(&file.path).map_err(|cause| store("read", &file.path, cause))
    }

    fn read(&mut self, archive: Box<dyn BufRead + Send>) -> Result<(), Fault> {
        let tools = Tools::alone(WINDOW).map_err(Fault::Stream)?;
        let archive = Counted { archive, read: Rc::clone(&self.read) };
        let stream = Stream::open(archive, Algorithm::Sha256, Box::new(|_| {}), tools)?;
        let mut source = Source::new(stream, None);
        let mut archive = Archive::new(&mut source);
        let mut entries = 0;
        while let Some(entry) = archive.next_entry()? {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(Fault::Archive("it has too many entries"));
            }
            self.entry(&entry, &mut archive)?;
        }
        source.finish().map(drop)
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), Fault> {
        let path = TreePath::parse(&entry.name).map_err(|reason| Fault::refused(&entry.name, reason))?;
        match &entry.kind {
            Kind::Regular { size, extents } => {
                if extents.iter().map(|extent| extent.length).sum::<u64>() != *size {
                    return Err(Fault::refused(&entry.name, "it is sparse"));
                }
                let file = self.file(&path, *size, entry, archive)?;
                if self.files.get(&path).is_some_and(|known| known.digest != file.digest) {
                    return Err(Fault::refused(&entry.name, "another entry has the same name"));
                }
                self.files.insert(path, file);
            }
            Kind::Symlink(target) => {
                let (parent, _) = path.split().unwrap_or_default();
                let target =
                    if target.starts_with(b"/") { target.clone() } else { [parent, b"/", target].concat() };
                self.link(path, &target, entry)?;
            }
            Kind::HardLink(target) => self.link(path, target, entry)?,
            // Directories say nothing, and nobody asks for the rest.
            _ => {}
        }
        Ok(())
    }

    fn link(&mut self, path: TreePath, target: &[u8], entry: &Entry) -> Result<(), Fault> {
        let target = TreePath::parse(target)
            .map_err(|_| Fault::refused(&entry.name, "it is a link to a path outside the archive"))?;
        self.links.insert(path, target);
        Ok(())
    }

    fn file(
        &mut self,
        path: &TreePath,
        size: u64,
        entry: &Entry,
        archive: &mut Archive<'_>,
    ) -> Result<Spooled, Fault> {
        let failed = |cause: io::Error| Fault::create(&entry.name, cause);
        let place = self.dir.join(names::unique());
        let file = self.room.for_work(is_no_space, || File::create_new(&place)).map_err(failed)?;
        let mut at = 0;
        let mut digester = Digester::new(algorithm(path));
        let mut content = archive.content(entry);
        while let Some(part) = content.next_part()? {
            digester.update(part.bytes);
            self.written += part.bytes.len() as u64;
            if self.written > self.limits.unpacked(self.read.get()) {
                return Err(Fault::Archive("it unpacks to too many times its size"));
            }
            self.room.for_work(is_no_space, || file.write_all_at(part.bytes, at)).map_err(failed)?;
            at += part.bytes.len() as u64;
        }
        Ok(Spooled { path: place, size, digest: digester.finish() })
    }

    fn error(&self, fault: Fault) -> Error {
        match fault {
            Fault::Stream(cause) => Error::ArchiveRead { cause },
            Fault::Archive(reason) => refused(reason),
            Fault::Refused { entry, reason } => {
                refused(format!("of its entry \"{}\": {reason}", String::from_utf8_lossy(&entry)))
            }
            Fault::Create { cause, .. } if is_no_space(&cause) => {
                Error::NoSpace { what: "the files of an archive".to_owned(), cause }
            }
            Fault::Create { cause, .. } => store("write below", &self.dir, cause),
        }
    }
}

/// Blobs of a layout are named `blobs/<algorithm>/<hex>`.
fn algorithm(path: &TreePath) -> Algorithm {
    if path.as_bytes().starts_with(b"blobs/sha512/") { Algorithm::Sha512 } else { Algorithm::Sha256 }
}
