//! Whose the addresses of a directory are: read once, and from then on only what others have changed, so that an address doesn't
//! cost reading hundreds of them.
//!
//! What has changed is heard (`ears`), whatever process does it. Times of change don't tell as much, as two changes may be within a
//! tick of the clock. Who locks a directory but once, as an executed plugin does, reads it and doesn't listen.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use super::ears::Ears;
use crate::attachment::AttachmentId;
use crate::error::Error;

/// More than a container's id and an interface's name have: a file is read at once.
const USUAL: usize = 512;

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
    pub(super) of: HashMap<IpAddr, Holder>,
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
        for address in changed {
            match read_one(&dir.join(address.to_string()))? {
                Some(holder) => drop(self.of.insert(address, holder)),
                None => drop(self.of.remove(&address)),
            }
        }
        Ok(Some(self))
    }
}

fn read_all(dir: &Path) -> Result<HashMap<IpAddr, Holder>, Error> {
    let mut holders = HashMap::new();
    for entry in fs::read_dir(dir).map_err(|source| failed("list", dir, source))? {
        let name = entry.map_err(|source| failed("list", dir, source))?.file_name();
        let Some(address) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        holders.extend(read_one(&dir.join(&name))?.map(|holder| (address, holder)));
    }
    Ok(holders)
}

/// `None` for an address that nobody has.
fn read_one(path: &Path) -> Result<Option<Holder>, Error> {
    #[cfg(test)]
    tests::READ.set(tests::READ.get() + 1);
    let read = File::open(path).and_then(|mut file| {
        let mut content = vec![0; USUAL];
        let length = file.read(&mut content)?;
        content.truncate(length);
        if length == USUAL {
            file.read_to_end(&mut content)?;
        }
        Ok(content)
    });
    match read {
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
        Ok(content) => Ok(Holder::parse(&String::from_utf8_lossy(&content))),
    }
}

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Record { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
