//! What is known of containers: a directory each, below the root directory.
//!
//! | file | what |
//! |---|---|
//! | `record.json` | what `create` made; a directory without it is a container in the making |
//! | `started` | there when `start` was asked for |
//! | `supervisor.sock`, `supervisor.log` | where its supervisor is called; its standard error |
//! | `containers/<id>/exit.json` | how it ended, written by the supervisor |

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use runtime::cgroup::Cgroup;
use runtime::plan::{Hooks, IdMappings, ProcessPlan};
use runtime::record::read_exit;
use serde::{Deserialize, Serialize};

use crate::Outcome;

/// All containers.
pub struct Store {
    root: PathBuf,
}

/// A container that was created.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub oci_version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub annotations: std::collections::BTreeMap<String, String>,
    /// As RFC 3339 has it.
    pub created: String,
    pub pid: i32,
    /// In clock ticks since boot: with `pid` an identity.
    pub start_time: u64,
    pub cgroup: Cgroup,
    pub process: ProcessPlan,
    /// The process as it was asked for, for those that join; null when none was.
    pub asked: serde_json::Value,
    pub users: Option<IdMappings>,
    /// Run when it is deleted.
    pub hooks: Option<Box<Hooks>>,
}

/// How far a container is (runtime.md, "State"). One in the making has no record yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

impl Store {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Makes a container's directory.
    pub fn reserve(&self, id: &str) -> Outcome<PathBuf> {
        check_id(id)?;
        let directory = self.directory(id);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(format!("there is a container {id:?} already").into())
            }
            other => Ok(other.map(|()| directory)?),
        }
    }

    pub fn save(&self, record: &Record) -> Outcome<()> {
        let directory = self.directory(&record.id);
        let beside = directory.join("record.json.new");
        fs::write(&beside, serde_json::to_vec(record)?)?;
        Ok(fs::rename(beside, directory.join("record.json"))?)
    }

    pub fn load(&self, id: &str) -> Outcome<Record> {
        check_id(id)?;
        match fs::read(self.directory(id).join("record.json")) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(format!("container {id:?} does not exist").into())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub fn ids(&self) -> Outcome<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut ids: Vec<_> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        ids.sort();
        Ok(ids)
    }

    pub fn mark_started(&self, id: &str) -> Outcome<()> {
        Ok(fs::write(self.directory(id).join("started"), "")?)
    }

    pub fn status(&self, record: &Record) -> Outcome<Status> {
        let directory = self.directory(&record.id);
        if read_exit(&directory.join("containers").join(&record.id))?.is_some() || !is_alive(record) {
            return Ok(Status::Stopped);
        }
        Ok(if directory.join("started").exists() { Status::Running } else { Status::Created })
    }

    pub fn remove(&self, id: &str) -> Outcome<()> {
        Ok(fs::remove_dir_all(self.directory(id))?)
    }
}

/// As runc takes them, but for the first character: it becomes the name of a directory.
pub fn check_id(id: &str) -> Outcome<()> {
    let known = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.chars().all(known) {
        return Err(format!("{id:?} is not a container's id").into());
    }
    Ok(())
}

/// Whether the process is still the one that was recorded, and not over.
fn is_alive(record: &Record) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", record.pid)) else { return false };
    // The name in parentheses may hold anything.
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let fields: Vec<&str> = rest.split(' ').collect();
    let start = fields.get(19).and_then(|field| field.parse().ok());
    !matches!(fields.first(), Some(&"Z" | &"X")) && start == Some(record.start_time)
}

/// A path as the current directory makes it absolute.
pub fn absolute(path: &Path) -> Outcome<PathBuf> {
    fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()).into())
}
