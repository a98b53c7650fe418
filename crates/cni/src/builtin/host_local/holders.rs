//! Whose the addresses of a directory are: read once, and from then on only what others have changed, so that an address doesn't
//! cost reading hundreds of them.
//!
//! What has changed is heard (`ears`), whatever process does it. Times of change don't tell as much, as two changes may be within a
//! tick of the clock. Who locks a directory but once, as an executed plugin does, reads it and doesn't listen. Whatever is
//! remembered, an address is looked at before it is given: a mistake of hearing mustn't make two owners.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
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
    /// Somebody tried to listen, and can't; said once. The next one tries again.
    Unheard,
    Known(Holders),
}

/// Who has which address of a directory.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// `None` for an address whose holder can't be told: its file is none, or can't be read. Somebody has it.
    pub(super) of: HashMap<IpAddr, Option<Holder>>,
    hearing: Hearing,
}

/// Who tells of changes. Without ears all must be read again.
#[derive(Debug, Default)]
enum Hearing {
    #[default]
    Untried,
    Refused,
    By(Ears),
}

impl Holders {
    /// Those of a directory whose lock is held, from what is remembered as far as that goes.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub(super) fn read(dir: &Path, memory: Memory) -> Result<Holders, Error> {
        match memory {
            Memory::Nothing => Ok(Holders { of: read_all(dir)?, hearing: Hearing::Untried }),
            Memory::Visited => {
                let say = |error| {
                    let dir = dir.display();
                    tracing::debug!(%dir, %error, "addresses are read at every lock: nothing tells of changes");
                };
                Holders::listened_to(dir, say)
            }
            Memory::Unheard => Holders::listened_to(dir, drop),
            Memory::Known(known) => match known.refreshed(dir)? {
                Some(known) => Ok(known),
                None => Holders::read(dir, Memory::Visited),
            },
        }
    }

    /// All of them, and who tells of changes where that can be.
    fn listened_to(dir: &Path, refused: impl FnOnce(io::Error)) -> Result<Holders, Error> {
        // Before it is read: nothing falls between.
        let hearing = match Ears::prick(dir) {
            Ok(ears) => Hearing::By(ears),
            Err(error) => {
                refused(error);
                Hearing::Refused
            }
        };
        Ok(Holders { of: read_all(dir)?, hearing })
    }

    /// For the next lock.
    pub(super) fn remember(self) -> Memory {
        match self.hearing {
            Hearing::Untried => Memory::Visited,
            Hearing::Refused => Memory::Unheard,
            Hearing::By(_) => Memory::Known(self),
        }
    }

    /// Looks whether nobody has an address of which nobody knows. Where somebody has, something was missed: it is known from then
    /// on, and the others are read anew at the next lock.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub(super) fn is_free(&mut self, dir: &Path, address: IpAddr) -> Result<bool, Error> {
        let path = dir.join(address.to_string());
        let Some(holder) = read_one(&path)? else { return Ok(true) };
        tracing::warn!(path = %path.display(), "an address is somebody's, and nothing has told of it");
        self.of.insert(address, holder);
        if self.hearing.ears().is_some() {
            self.hearing = Hearing::Untried;
        }
        Ok(false)
    }

    /// `None` when it isn't known what has changed.
    fn refreshed(mut self, dir: &Path) -> Result<Option<Holders>, Error> {
        let Some(changed) = self.hearing.ears().filter(|ears| ears.are_at(dir)).and_then(Ears::changed)
        else {
            return Ok(None);
        };
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

impl Hearing {
    fn ears(&self) -> Option<&Ears> {
        match self {
            Hearing::By(ears) => Some(ears),
            Hearing::Untried | Hearing::Refused => None,
        }
    }
}

/// The address that a file is of. One spelt otherwise keeps nobody from the address, here or with the reference plugin.
pub(super) fn address_of(name: &OsStr) -> Option<IpAddr> {
    let address: IpAddr = name.to_str()?.parse().ok()?;
    (name == address.to_string().as_str()).then_some(address)
}

fn read_all(dir: &Path) -> Result<HashMap<IpAddr, Option<Holder>>, Error> {
    let mut holders = HashMap::new();
    for entry in fs::read_dir(dir).map_err(|source| failed("list", dir, source))? {
        let name = entry.map_err(|source| failed("list", dir, source))?.file_name();
        let Some(address) = address_of(&name) else { continue };
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
