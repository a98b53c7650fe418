//! Records: what the daemon must find again when it is started anew.
//!
//! ```text
//! <state>/pods/<pod>/record.json                       what was asked for, and how far it got
//!                    hosts, hostname, resolv.conf      mounted into its containers
//!                    supervisor.sock, supervisor.log   the supervisor's
//!                    containers/<id>/record.json       likewise
//!                                    spec.json         its OCI specification
//!                                    plan.json         what the supervisor will be told
//!                                    exit.json         written by the supervisor
//! ```
//! Every record is written beside its place and renamed, so a reader sees the old one or the new one. Nothing is synced to a disk: the
//! state directory is on a tmpfs, and what it describes, processes, dies with the boot as it does.
//!
//! Not here: what follows from records (see `recover`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime::external::ExternalRuntime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::boot::Boot;
use crate::container::config::ContainerConfig;
use crate::container::state::{ContainerState, Process};
use crate::container::status::{ContainerPhase, ContainerStatus, Exited, ProcessUser};
use crate::error::Error;
use crate::events::EventKind;
use crate::handler::Handler;
use crate::id::{ContainerId, PodId};
use crate::pod::config::PodConfig;
use crate::pod::limits::PodResources;
use crate::pod::state::{Live, Parts, PodState};
use crate::pod::told::Told;
use crate::resources::Resources;
use crate::selinux::Labels;
use crate::signal::Signal;
use crate::step;

/// The version of all records.
const VERSION: u32 = 1;

/// A pod's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) version: u32,
    pub(crate) facts: Arc<PodFacts>,
    pub(crate) stage: PodStage,
    /// Its limits, once they are not those that it was asked for with any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<PodResources>,
    /// The last event that was told of it, where the stage doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) told: Option<EventKind>,
}

/// What never changes about a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodFacts {
    pub(crate) id: PodId,
    pub(crate) created_at: i64,
    pub(crate) config: Arc<PodConfig>,
    /// Its runtime handler, as it was when the pod was made.
    #[serde(default, skip_serializing_if = "Handler::is_plain")]
    pub(crate) handler: Handler,
    /// Its cgroup, from the root of the hierarchies.
    pub(crate) cgroup: String,
    /// Its SELinux contexts, and with them its level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selinux: Option<Labels>,
}

/// How far a pod has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PodStage {
    /// It is being made: any part may be there.
    Making,
    /// It is ready.
    Ready(Live),
    /// It is not, and has these parts left.
    NotReady(Parts),
}

/// A container's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) version: u32,
    pub(crate) facts: Arc<ContainerFacts>,
    pub(crate) resources: Resources,
    pub(crate) stage: ContainerStage,
}

/// What never changes about a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerFacts {
    pub(crate) id: ContainerId,
    pub(crate) pod: PodId,
    pub(crate) created_at: i64,
    pub(crate) config: Arc<ContainerConfig>,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    /// Ids of the images that are its volumes, by their number among the mounts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) image_volumes: BTreeMap<usize, String>,
    pub(crate) user: ProcessUser,
    pub(crate) stop_signal: Signal,
    pub(crate) log_path: Option<PathBuf>,
    /// Its cgroup, from the root of the hierarchies.
    pub(crate) cgroup: String,
    /// The OCI runtime that makes it; `None` for the internal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<ExternalRuntime>,
}

impl ContainerFacts {
    /// What lists and statuses show of it.
    pub(crate) fn status(&self, resources: &Resources, phase: ContainerPhase) -> ContainerStatus {
        ContainerStatus {
            id: self.id.clone(),
            pod: self.pod.clone(),
            config: self.config.clone(),
            image_id: self.image_id.clone(),
            image_ref: self.image_ref.clone(),
            image_volumes: self.image_volumes.clone(),
            created_at: self.created_at,
            phase,
            resources: resources.clone(),
            user: self.user.clone(),
            stop_signal: self.stop_signal,
            log_path: self.log_path.clone(),
        }
    }
}

/// How far a container has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ContainerStage {
    /// Data at rest.
    Created,
    /// About to be started: there may be a process.
    Starting,
    /// Started.
    Started(Process),
    /// Over.
    Exited(Exited),
}

impl PodRecord {
    /// The record of a pod in a state; `None` when there is nothing to be found again.
    pub(crate) fn of(facts: &Arc<PodFacts>, state: &PodState) -> Option<Self> {
        let stage = match state {
            PodState::Making | PodState::Unmade { .. } => PodStage::Making,
            PodState::Ready(live) => PodStage::Ready(live.clone()),
            PodState::Draining { parts, .. }
            | PodState::Stopping { parts, .. }
            | PodState::NotReady { parts }
            | PodState::Removing { parts } => PodStage::NotReady(parts.clone()),
            PodState::Gone => return None,
        };
        Some(Self { version: VERSION, facts: facts.clone(), stage, limits: None, told: None })
    }

    /// The record with the last event that was told.
    pub(crate) fn with_told(self, told: Told) -> Self {
        Self { told: told.last(), ..self }
    }

    /// The record with the limits that have changed.
    pub(crate) fn with_limits(self, limits: Option<&PodResources>) -> Self {
        Self { limits: limits.cloned(), ..self }
    }
}

#[cfg(test)]
impl PodRecord {
    /// One of a pod without anything particular.
    pub(crate) fn of_stage(stage: PodStage) -> Self {
        let facts = PodFacts {
            id: PodId::random(),
            created_at: 1,
            config: Arc::default(),
            handler: Default::default(),
            cgroup: "/k/p".to_owned(),
            selinux: None,
        };
        Self { version: VERSION, facts: Arc::new(facts), stage, limits: None, told: None }
    }
}

impl ContainerRecord {
    /// The record of a container in a state; `None` when there is nothing to be found again.
    pub(crate) fn of(
        facts: &Arc<ContainerFacts>,
        resources: &Resources,
        state: &ContainerState,
    ) -> Option<Self> {
        let stage = match state {
            ContainerState::Created | ContainerState::Removing { before: None } => ContainerStage::Created,
            ContainerState::Starting { .. } => ContainerStage::Starting,
            ContainerState::Running(process) | ContainerState::Stopping { process, .. } => {
                ContainerStage::Started(*process)
            }
            ContainerState::Exited(exited) | ContainerState::Removing { before: Some(exited) } => {
                ContainerStage::Exited(exited.clone())
            }
            ContainerState::Making | ContainerState::Gone => return None,
        };
        Some(Self { version: VERSION, facts: facts.clone(), resources: resources.clone(), stage })
    }
}

/// Where records are.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pods: PathBuf,
    /// The boot that they are of.
    pub(crate) boot: Boot,
}

impl Store {
    /// Makes the directories that are missing.
    ///
    /// # Errors
    /// [`Error::Step`] when that fails.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, Error> {
        let pods = state_dir.join("pods");
        make_dirs(&pods)
            .map_err(|cause| Error::step("creating the directory", pods.display().to_string(), cause))?;
        Ok(Self { pods, boot: Boot::of(state_dir) })
    }

    pub(crate) fn pod_dir(&self, pod: &PodId) -> PathBuf {
        self.pods.join(pod.as_str())
    }

    pub(crate) fn container_dir(&self, pod: &PodId, container: &ContainerId) -> PathBuf {
        self.pod_dir(pod).join("containers").join(container.as_str())
    }

    pub(crate) fn save_pod(&self, record: &PodRecord) -> Result<(), Error> {
        step::at_once("save_pod")?;
        write_json(&self.pod_dir(&record.facts.id).join("record.json"), record)
    }

    pub(crate) fn save_container(&self, record: &ContainerRecord) -> Result<(), Error> {
        step::at_once("save_container")?;
        let directory = self.container_dir(&record.facts.pod, &record.facts.id);
        write_json(&directory.join("record.json"), record)
    }

    /// All pods that have a directory, readable or not.
    pub(crate) fn pod_ids(&self) -> BTreeSet<PodId> {
        names(&self.pods).into_iter().filter_map(|name| PodId::try_from(name).ok()).collect()
    }

    /// All containers of a pod that have a directory, readable or not.
    pub(crate) fn container_ids(&self, pod: &PodId) -> BTreeSet<ContainerId> {
        let directory = self.pod_dir(pod).join("containers");
        names(&directory).into_iter().filter_map(|name| ContainerId::try_from(name).ok()).collect()
    }

    /// The pods that have a directory, each with its record or what is wrong with it.
    pub(crate) fn pods(&self) -> Vec<(PodId, Result<PodRecord, Error>)> {
        let read =
            |id: &PodId| read_versioned(&self.pod_dir(id).join("record.json"), |r: &PodRecord| r.version);
        self.pod_ids().into_iter().map(|id| (id.clone(), read(&id))).collect()
    }

    /// The containers of a pod that have a directory, each with its record or what is wrong with it.
    pub(crate) fn containers(&self, pod: &PodId) -> Vec<(ContainerId, Result<ContainerRecord, Error>)> {
        let read = |id: &ContainerId| {
            let path = self.container_dir(pod, id).join("record.json");
            read_versioned(&path, |r: &ContainerRecord| r.version)
        };
        self.container_ids(pod).into_iter().map(|id| (id.clone(), read(&id))).collect()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Makes a directory and those above it, for root alone.
pub(crate) fn make_dirs(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Removes a directory with all in it; one that is gone is fine.
///
/// The record goes first: a daemon that is killed meanwhile leaves a directory without one, which the next daemon discards.
pub(crate) fn remove_dir(path: &Path) -> Result<(), Error> {
    step::at_once("remove_record")?;
    let record = path.join("record.json");
    let removed = match fs::remove_file(&record) {
        // A test's, or somebody's, directory in its place goes with the rest.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(()),
        other => other,
    };
    match removed.or_else(gone_is_fine).and_then(|()| fs::remove_dir_all(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::step("removal of the directory", path.display().to_string(), error))
        }
        _ => Ok(()),
    }
}

/// Writes a text beside its place and renames it.
pub(crate) fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    options.open(&beside)?.write_all(bytes)?;
    fs::rename(&beside, path)
}

/// Writes a record.
///
/// # Errors
/// [`Error::Exhausted`] on a full disk, [`Error::Step`] otherwise.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let subject = || path.display().to_string();
    let bytes =
        serde_json::to_vec(value).map_err(|cause| Error::step("writing the record", subject(), cause))?;
    write_beside(path, &bytes, 0o600).map_err(|cause| Error::step("writing the record", subject(), cause))
}

/// Reads a record.
///
/// # Errors
/// [`Error::Step`] when it is missing or broken.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let subject = || path.display().to_string();
    let bytes = read(path).map_err(|cause| Error::step("reading the record", subject(), cause))?;
    serde_json::from_slice(&bytes).map_err(|cause| Error::step("reading the record", subject(), cause))
}

/// A whole file: nothing that could be waited for without end, such as a pipe.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[derive(Debug, thiserror::Error)]
#[error("version {0} is not known here, only version {VERSION}")]
struct UnknownVersion(u32);

fn read_versioned<T: DeserializeOwned>(path: &Path, version: impl Fn(&T) -> u32) -> Result<T, Error> {
    let record: T = read_json(path)?;
    match version(&record) {
        VERSION => Ok(record),
        other => Err(Error::step("reading the record", path.display().to_string(), UnknownVersion(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_as_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        let facts = Arc::new(PodFacts {
            id: PodId::random(),
            created_at: 5,
            config: Arc::new(PodConfig { hostname: "h".to_owned(), ..PodConfig::default() }),
            handler: Handler { privileged_without_host_devices: true, ..Handler::default() },
            cgroup: "/k/p".to_owned(),
            selinux: None,
        });
        make_dirs(&store.pod_dir(&facts.id)).expect("a directory");
        let record = PodRecord::of(&facts, &PodState::Making).expect("a record");
        store.save_pod(&record).expect("saved");
        let found = store.pods();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.as_ref().expect("readable"), &record);
    }

    #[test]
    fn a_directory_is_removed_from_its_record_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let container = directory.path().join("c");
        // What can't be removed stands for the end of the daemon: everything but the record may be left.
        make_dirs(&container.join("mounted")).expect("a directory");
        fs::write(container.join("record.json"), "{}").expect("a record");
        let none = rustix::mount::MountFlags::empty();
        if rustix::mount::mount("none", container.join("mounted"), "tmpfs", none, None).is_err() {
            eprintln!("skipped: needs the right to mount");
            return;
        }
        remove_dir(&container).expect_err("something is mounted in it");
        let has_record = container.join("record.json").exists();
        rustix::mount::unmount(container.join("mounted"), rustix::mount::UnmountFlags::empty())
            .expect("free");
        assert!(!has_record);
        remove_dir(&container).expect("removed");
        remove_dir(&container).expect("what is gone is fine");
    }

    #[test]
    fn a_record_of_another_version_is_not_guessed_at() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        let facts = Arc::new(PodFacts {
            id: PodId::random(),
            created_at: 5,
            config: Arc::default(),
            handler: Handler::default(),
            cgroup: "/k/p".to_owned(),
            selinux: None,
        });
        make_dirs(&store.pod_dir(&facts.id)).expect("a directory");
        let record =
            PodRecord { version: 2, facts: facts.clone(), stage: PodStage::Making, limits: None, told: None };
        store.save_pod(&record).expect("saved");
        let (_, found) = store.pods().remove(0);
        assert!(crate::error::chain(&found.expect_err("refused")).contains("version 2"));
    }

    /// Records as the first release writes them. Never edited: a later version gets files of its own.
    const POD: &str = include_str!("../tests/golden/pod-record-1.json");
    const CONTAINER: &str = include_str!("../tests/golden/container-record-1.json");

    fn golden() -> (PodRecord, ContainerRecord) {
        let read = "a record of the first release";
        (serde_json::from_str(POD).expect(read), serde_json::from_str(CONTAINER).expect(read))
    }

    #[test]
    fn records_of_an_earlier_release_are_read() {
        let (pod, container) = golden();
        let PodStage::Ready(live) = &pod.stage else { panic!("{:?}", pod.stage) };
        assert_eq!((live.supervisor.pid, live.supervisor.start_time), (10_879, 7_085_997));
        assert_eq!(live.ips, ["10.213.1.24".parse::<std::net::IpAddr>().expect("an address")]);
        assert_eq!((&*pod.facts.config.metadata.name, pod.facts.selinux.is_none()), ("web", true));
        assert!(matches!(container.stage, ContainerStage::Started(Process { id, .. }) if id.pid == 8650));
        assert_eq!(container.facts.stop_signal, Signal::TERM);
    }

    /// A field that was added has to be one that may be missing, and one that an earlier daemon can do without, which passes it over:
    /// else the version goes up.
    #[test]
    fn records_of_a_later_release_are_read_without_what_is_new_or_refused_by_their_version() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("record.json");
        let mut later: serde_json::Value = serde_json::from_str(POD).expect("JSON");
        later["facts"]["since_later"] = 1.into();
        later["since_later"] = true.into();
        write_json(&path, &later).expect("written");
        assert_eq!(read_versioned(&path, |r: &PodRecord| r.version).expect("read"), golden().0);
        later["version"] = 2.into();
        write_json(&path, &later).expect("written");
        let refused = read_versioned(&path, |r: &PodRecord| r.version).expect_err("another version");
        let refused = crate::error::chain(&refused);
        assert!(refused.contains("version 2 is not known here, only version 1"), "{refused}");
    }
}
