//! Whose the addresses of a directory are: read once, and from then on only what others have changed, so that an address doesn't
//! cost reading hundreds of them.
//!
//! What has changed is heard (`ears`), whatever process does it. Times of change don't tell as much, as two changes may be within a
//! tick of the clock. Who locks a directory but once, as an executed plugin does, reads it and doesn't listen.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use rustix::io::Errno;

use super::ears::Ears;
use crate::attachment::AttachmentId;
use crate::error::Error;
use crate::files::read_regular;

/// More than a container's id and an interface's name have, in bytes.
const USUAL: u64 = 512;
/// What says nothing of the file that was to be read.
const OURS: [Errno; 3] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) container_id: String,
    /// `None` in files of old versions.
    pub(super) ifname: Option<String>,
}

impl Holder {
    /// Reads what an address's file holds; `None` for one that was cut short.
    fn parse(text: &str) -> Option<Holder> {
        let mut lines = text.trim().splitn(2, "\r\n");
        let container_id = lines.next().filter(|line| !line.is_empty())?.to_owned();
        Some(Holder { container_id, ifname: lines.next().map(str::to_owned) })
    }

    pub(super) fn is(&self, id: &AttachmentId) -> bool {
        self.container_id == id.container_id && self.ifname.as_ref().is_none_or(|name| *name == id.ifname)
    }

    /// Whether one of them has it.
    pub(super) fn is_among(&self, ids: &HashSet<AttachmentId>) -> bool {
        ids.iter().any(|id| self.is(id))
    }
}

/// What is remembered of a directory between one lock and the next.
#[derive(Debug, Default)]
pub(super) enum Memory {
    /// Nobody has locked it yet.
    #[default]
    Nothing,
    /// Somebody has; the next one listens.
    Visited,
    Known(Holders),
}

/// Who has which address of a directory.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// `None` for an address whose holder can't be told: its file is none, or can't be read. Somebody has it.
    pub(super) of: HashMap<IpAddr, Option<Holder>>,
    /// Tells of changes; `None` for who doesn't listen, and must read all of it again.
    ears: Option<Ears>,
}

impl Holders {
    /// Those of a directory whose lock is held, from what is remembered as far as that goes.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub(super) fn read(dir: &Path, memory: Memory) -> Result<Holders, Error> {
        match memory {
            Memory::Nothing => Ok(Holders { of: read_all(dir)?, ears: None }),
            // Before it is read: nothing falls between.
            Memory::Visited => Ok(Holders { ears: Ears::prick(dir).ok(), of: read_all(dir)? }),
            Memory::Known(known) => match known.refreshed(dir)? {
                Some(known) => Ok(known),
                None => Holders::read(dir, Memory::Visited),
            },
        }
    }

    /// For the next lock.
    pub(super) fn remember(self) -> Memory {
        if self.ears.is_some() { Memory::Known(self) } else { Memory::Visited }
    }

    /// `None` when it isn't known what has changed.
    fn refreshed(mut self, dir: &Path) -> Result<Option<Holders>, Error> {
        let changed = self.ears.as_ref().filter(|ears| ears.are_at(dir)).and_then(Ears::changed);
        let Some(changed) = changed else { return Ok(None) };
        // What couldn't be read may be readable by now.
        let untold = self.of.iter().filter(|(_, holder)| holder.is_none()).map(|(address, _)| *address);
        let doubtful: HashSet<IpAddr> = untold.chain(changed).collect();
        for address in doubtful {
            match read_one(&dir.join(address.to_string()))? {
                Some(holder) => drop(self.of.insert(address, holder)),
                None => drop(self.of.remove(&address)),
            }
        }
        Ok(Some(self))
    }
}

fn read_all(dir: &Path) -> Result<HashMap<IpAddr, Option<Holder>>, Error> {
    let mut holders = HashMap::new();
    for entry in fs::read_dir(dir).map_err(|source| failed("list", dir, source))? {
        let name = entry.map_err(|source| failed("list", dir, source))?.file_name();
        let Some(address) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        holders.extend(read_one(&dir.join(&name))?.map(|holder| (address, holder)));
    }
    Ok(holders)
}

/// `None` for an address that nobody has.
///
/// # Errors
/// [`Error::Record`] where it is us who lack something. One entry that can't be read mustn't keep all others.
fn read_one(path: &Path) -> Result<Option<Option<Holder>>, Error> {
    #[cfg(test)]
    tests::READ.set(tests::READ.get() + 1);
    match read_regular(path, USUAL) {
        Ok(content) => Ok(Holder::parse(&String::from_utf8_lossy(&content)).map(Some)),
        Err(source) if OURS.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error())) => {
            Err(failed("read", path, source))
        }
        // Or a link that leads nowhere.
        Err(source) if source.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            Ok(None)
        }
        Err(source) => {
            let path = path.display();
            tracing::warn!(%path, error = %source, "an address counts as somebody's, whose can't be told");
            Ok(Some(None))
        }
    }
}

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Record { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
