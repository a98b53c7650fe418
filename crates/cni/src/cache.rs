//! The journal of attachments: one file each, written before the first plugin runs and gone when the last is done.
//!
//! | file | means |
//! |---|---|
//! | none | nothing is attached, nothing to undo |
//! | without a result | an ADD is under way, or was cut short: to be deleted |
//! | with a result | attached |
//! | detached | a DEL has been answered; what it left behind is still to be removed |
//!
//! A record holds the configuration that ADD saw, so that DEL can be run from it whatever the directory says by then.
//!
//! Links and rules end with the kernel's life, and so may the record of a chain that is served in-process throughout: what
//! there is of it on disk is found by its name, or by collection. Executed plugins keep addresses on disk, or with somebody
//! else, whom nobody asks for what isn't known: their intents are made to last while
//! the plugins are at work, their results behind the answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::attachment::{Attachment, AttachmentId};
use crate::builtin_network::BuiltinNetwork;
use crate::error::Error;
use crate::files;

/// The version of the record's form.
const VERSION: u32 = 1;

/// The longest record, in bytes. It has a configuration, a result and what was asked for in it, each of which is bounded: 1 MiB,
/// 1 MiB, and a request's 16 MiB, of which a byte may be written as six.
const LONGEST: u64 = 128 << 20;

/// What is known of one attachment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(deserialize_with = "known")]
    version: u32,
    /// The network's name.
    pub(crate) network: String,
    /// What was asked for.
    pub(crate) attachment: Attachment,
    /// Who does it.
    pub(crate) via: Via,
    /// Whether the standard plugins were served in-process: what they made, they undo.
    #[serde(default)]
    pub(crate) native: bool,
    /// Whether a plugin is executed for it, so that it has to outlast a power cut.
    #[serde(default = "yes")]
    pub(crate) executed: bool,
    /// What came of it, as the last plugin printed it.
    pub(crate) result: Option<Value>,
    /// Whether its DEL has been answered: nobody owns it any more, whoever is said to be valid.
    #[serde(default)]
    pub(crate) detached: bool,
}

/// Who attaches and detaches.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Via {
    /// A chain of plugins with this configuration.
    Chain(Value),
    /// The built-in network with these settings.
    Builtin(BuiltinNetwork),
}

impl Record {
    /// Whether somebody relies on it.
    pub(crate) fn is_attached(&self) -> bool {
        self.result.is_some() && !self.detached
    }

    /// An intent: no result yet, and as far as is known a plugin is executed.
    pub(crate) fn intent(network: &str, attachment: &Attachment, via: Via, native: bool) -> Record {
        let (network, attachment) = (network.to_owned(), attachment.clone());
        Record {
            version: VERSION,
            network,
            attachment,
            via,
            native,
            executed: true,
            result: None,
            detached: false,
        }
    }
}

/// What there is of an attachment.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// Its record.
    Record(Box<Record>),
    /// A record that says no more than its name: a power cut or a broken disk has spoilt it, or it is of another version.
    Damaged(Error),
}

/// The directory of records; clones are handles to the same.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    dir: PathBuf,
    changes: Arc<AtomicU64>,
}

impl Journal {
    /// Opens the directory, making it if need be. Nobody else may have it open.
    pub(crate) fn open(dir: PathBuf) -> Result<Journal, Error> {
        files::make_dir(&dir)?;
        files::sweep(&dir)?;
        Ok(Journal { dir, changes: Arc::default() })
    }

    /// Neither half can hold what separates them.
    fn path(&self, id: &AttachmentId) -> PathBuf {
        self.dir.join(format!("{}@{}.json", id.container_id, id.ifname))
    }

    /// What there is of that attachment.
    pub(crate) fn look(&self, id: &AttachmentId) -> Result<Found, Error> {
        match read(&self.path(id)) {
            Ok(Some(record)) => Ok(Found::Record(Box::new(record))),
            Ok(None) => Ok(Found::Nothing),
            Err(damage @ Error::ParseRecord { .. }) => Ok(Found::Damaged(damage)),
            Err(error) => Err(error),
        }
    }

    /// The record of that attachment; a damaged one is as good as none for those who don't mean to undo it.
    pub(crate) fn load(&self, id: &AttachmentId) -> Result<Option<Record>, Error> {
        self.look(id).map(|found| match found {
            Found::Record(record) => Some(*record),
            Found::Nothing | Found::Damaged(_) => None,
        })
    }

    /// Writes a record.
    pub(crate) fn store(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(&record.attachment.id());
        let text =
            serde_json::to_vec(record).map_err(|source| Error::ParseRecord { path: path.clone(), source })?;
        let stored = files::write_whole(&path, &text);
        self.changed();
        stored
    }

    /// Has a record outlast a power cut. Blocks, for as long as the disk takes.
    pub(crate) fn keep(&self, id: &AttachmentId) -> Result<(), Error> {
        files::keep(&self.path(id))
    }

    /// Removes a record. One that comes back with a power cut is undone once more.
    pub(crate) fn remove(&self, id: &AttachmentId) -> Result<(), Error> {
        let removed = files::remove(&self.path(id));
        self.changed();
        removed
    }

    /// How many changes have been made: what was read since the last is still so.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Afterwards, so that nobody who has read before it takes that for what is.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The names of a container's records, damaged ones too.
    pub(crate) fn ids_of(&self, container_id: &str) -> Result<Vec<AttachmentId>, Error> {
        self.names(|name| name.strip_prefix(container_id).is_some_and(|rest| rest.starts_with('@')))
    }

    /// The names of all records, damaged ones too.
    pub(crate) fn ids(&self) -> Result<Vec<AttachmentId>, Error> {
        self.names(|_| true)
    }

    fn names(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<AttachmentId>, Error> {
        let failed = |source| Error::Record { action: "list", path: self.dir.clone(), source };
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_str().filter(|name| is_wanted(name));
            let id = name.and_then(|name| name.strip_suffix(".json")?.split_once('@'));
            if let Some((container_id, ifname)) = id {
                ids.push(AttachmentId { container_id: container_id.to_owned(), ifname: ifname.to_owned() });
            }
        }
        Ok(ids)
    }
}

/// Of any other version nobody knows what it means.
fn known<'de, D: Deserializer<'de>>(value: D) -> Result<u32, D::Error> {
    match u32::deserialize(value)? {
        VERSION => Ok(VERSION),
        other => Err(D::Error::custom(format!("its version is {other}, not {VERSION}"))),
    }
}

fn yes() -> bool {
    true
}

/// Whether a directory of records, whoever's it is, has an attachment to the built-in network on that bridge. One that can't be
/// looked at has none: its daemon is gone, or sees another tree.
pub(crate) fn has_any_on(records: &Path, bridge: &str) -> bool {
    let is_on = |path: &Path| match read(path) {
        Ok(Some(record)) => matches!(record.via, Via::Builtin(settings) if settings.bridge == bridge),
        _ => false,
    };
    std::fs::read_dir(records).is_ok_and(|entries| entries.flatten().any(|entry| is_on(&entry.path())))
}

fn read(path: &Path) -> Result<Option<Record>, Error> {
    let damaged = |source| Err(Error::ParseRecord { path: path.to_owned(), source });
    let text = match files::read_regular(path, LONGEST) {
        Ok(text) if text.len() as u64 > LONGEST => {
            return damaged(serde_json::Error::custom(format!("it has more than {LONGEST} bytes")));
        }
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return damaged(serde_json::Error::custom(error));
        }
        Err(source) => return Err(Error::Record { action: "read", path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text).map(Some).or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { container_id: "abc".into(), ifname: "eth0".into(), ..Attachment::default() }
    }

    #[test]
    fn what_is_stored_is_found_again_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().join("attachments")).unwrap();
        let id = attachment().id();
        assert!(journal.load(&id).unwrap().is_none());
        let via = Via::Chain(serde_json::json!({"name": "n"}));
        let mut record = Record::intent("n", &attachment(), via, false);
        journal.store(&record).unwrap();
        assert!(journal.load(&id).unwrap().unwrap().result.is_none());
        record.result = Some(serde_json::json!({"ips": []}));
        journal.store(&record).unwrap();
        assert!(journal.load(&id).unwrap().unwrap().result.is_some());
        assert_eq!(journal.ids().unwrap(), std::slice::from_ref(&id));
        journal.remove(&id).unwrap();
        journal.remove(&id).unwrap();
        assert!(journal.load(&id).unwrap().is_none());
    }

    #[test]
    fn what_a_killed_writer_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("abc@eth0.json"), b"{}").unwrap();
        std::fs::write(dir.path().join("abc@eth0.json.tmp"), b"{").unwrap();
        Journal::open(dir.path().to_owned()).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["abc@eth0.json"]);
    }

    #[test]
    fn a_damaged_record_is_listed_but_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().to_owned()).unwrap();
        let path = dir.path().join("abc@eth0.json");
        let id = attachment().id();
        let is_damaged = |problem: &str| {
            assert!(journal.load(&id).unwrap().is_none());
            let Found::Damaged(damage) = journal.look(&id).unwrap() else { panic!("{problem}") };
            assert!(crate::error::chain(&damage).contains(problem), "{damage:?}");
            assert_eq!(journal.ids().unwrap(), std::slice::from_ref(&id));
        };
        let mut newer = Record::intent("n", &attachment(), Via::Chain(Value::Null), false);
        newer.version = VERSION + 1;
        for (text, problem) in
            [(String::new(), "EOF"), (serde_json::to_string(&newer).unwrap(), "version is 2")]
        {
            std::fs::write(&path, text).unwrap();
            is_damaged(problem);
        }
        std::fs::File::create(&path).unwrap().set_len(LONGEST + 1).unwrap();
        is_damaged("bytes");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        is_damaged("regular");
        std::fs::remove_file(&path).unwrap();
        // Nobody writes to it.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        is_damaged("regular");
    }

    #[test]
    fn the_records_of_a_container_are_those_of_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().to_owned()).unwrap();
        for name in ["abc@eth0.json", "abc@eth1.json", "abcd@eth0.json", "ab@eth0.json", "abc"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let mut found: Vec<_> = journal.ids_of("abc").unwrap().into_iter().map(|id| id.ifname).collect();
        found.sort();
        assert_eq!(found, ["eth0", "eth1"]);
    }
}
