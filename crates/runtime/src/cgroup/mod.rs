//! Control groups, version 1, version 2 and both at once, behind one interface.
//!
//! | host | limits and statistics | killing and cloning into |
//! |---|---|---|
//! | unified | version 2 | version 2 |
//! | hybrid | version 1 hierarchies | the version 2 tree beside them |
//! | legacy | version 1 hierarchies | freezer and signals; the child joins by itself |
//!
//! The daemon creates, limits and removes cgroups; the supervisor and the child join them, kill what is in
//! them and read their OOM counter. Which cgroup a pod gets, and what limits, is the caller's business.

mod accounts;
mod check;
mod detect;
mod devices;
mod files;
mod holdouts;
mod kill;
mod legacy;
mod oom;
mod stats;
mod unified;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::spec::oci::LinuxResources;

pub use accounts::Accounts;
pub use check::Machine;
pub use devices::DeviceControl;
pub use holdouts::Holdouts;
pub use stats::{
    CpuDetail, CpuModes, CpuStats, Descriptors, DeviceIo, HugePages, Io, IoCost, MemoryDetail, MemoryStats,
    Part, Pressure, Pressures, Quota, Reader, Stall, States, Stats, SwapStats, TaskStats, Throttling,
    device_name,
};

/// Where the host has its hierarchies mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The version 2 tree.
    unified: Option<PathBuf>,
    /// The version 1 hierarchies.
    legacy: Vec<Hierarchy>,
}

/// A version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hierarchy {
    /// Its controllers, or `name=…` for one that has none.
    controllers: Vec<String>,
    mount: PathBuf,
}

/// The three ways in which hosts use cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Version 2 alone.
    Unified,
    /// Version 1 for the controllers, and a version 2 tree beside it.
    Hybrid,
    /// Version 1 alone.
    Legacy,
}

impl Host {
    /// Reads which hierarchies are mounted.
    ///
    /// # Errors
    /// [`Error::NoCgroups`] when there are none, [`Error::Cgroup`] when the mount table cannot be read.
    pub fn detect() -> Result<Self, Error> {
        detect::detect()
    }

    /// How this host uses cgroups.
    pub fn layout(&self) -> Layout {
        match (&self.unified, self.legacy.is_empty()) {
            (Some(_), true) => Layout::Unified,
            (Some(_), false) => Layout::Hybrid,
            (None, _) => Layout::Legacy,
        }
    }
}

/// One cgroup in every hierarchy of the host. Plain data: it can be sent to another process, and dropping it
/// does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cgroup {
    path: String,
    pub(crate) unified: Option<PathBuf>,
    pub(crate) legacy: Vec<Directory>,
}

/// A cgroup's directory in one version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Directory {
    pub(crate) controllers: Vec<String>,
    /// What the hierarchy's mount is called, in /sys/fs/cgroup of the host and of a container.
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
}

impl Cgroup {
    /// Names a cgroup without touching it. `path` is absolute, from the root of the hierarchies.
    ///
    /// # Errors
    /// [`Error::CgroupPath`] when `path` is not absolute, is the root, or has an empty part, `.` or `..` in
    /// it.
    pub fn at(host: &Host, path: &str) -> Result<Self, Error> {
        let bad = || Error::CgroupPath { path: path.to_owned() };
        let relative = path.strip_prefix('/').ok_or_else(bad)?;
        if relative.split('/').any(|part| part.is_empty() || part == "." || part == "..")
            || path.contains(['\0', '\n'])
        {
            return Err(bad());
        }
        Ok(Self {
            path: path.to_owned(),
            unified: host.unified.as_ref().map(|mount| mount.join(relative)),
            legacy: host.legacy.iter().map(|hierarchy| hierarchy.directory(relative)).collect(),
        })
    }

    /// Makes a cgroup, and those above it that are missing, in every hierarchy. One that exists is used as it
    /// is.
    ///
    /// # Errors
    /// [`Error::CgroupPath`] as for [`at`](Self::at), [`Error::Cgroup`] for what the kernel refuses.
    pub fn create(host: &Host, path: &str) -> Result<Self, Error> {
        let cgroup = Self::at(host, path)?;
        if let (Some(mount), Some(directory)) = (&host.unified, &cgroup.unified) {
            match host.layout() {
                Layout::Unified => unified::create(mount, directory)?,
                Layout::Hybrid | Layout::Legacy => files::make_directories(directory)?,
            }
        }
        for directory in &cgroup.legacy {
            legacy::create(directory)?;
        }
        Ok(cgroup)
    }

    /// Makes its directories alone, in a cgroup above that has a process in it: controllers can't be handed down from
    /// there in version 2 until that is gone ([`create`](Self::create) again does that then).
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn create_directories(host: &Host, path: &str) -> Result<Self, Error> {
        let cgroup = Self::at(host, path)?;
        if let Some(directory) = &cgroup.unified {
            files::make_directories(directory)?;
        }
        cgroup.legacy.iter().try_for_each(legacy::create)?;
        Ok(cgroup)
    }

    /// Its path from the root of the hierarchies.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it exists in every hierarchy.
    pub fn exists(&self) -> bool {
        self.directories().all(Path::is_dir)
    }

    /// Sets limits; those that are not given stay as they are.
    ///
    /// Limits of huge pages are passed over where the host has no hugetlb controller, since kubelet sends
    /// them always; swap limits where swap is not accounted. Device rules take the place of earlier ones, in one
    /// step where they are a program (see [`DeviceControl`]).
    ///
    /// # Errors
    /// [`Error::NoController`] for a limit that the host cannot set, [`Error::Refused`] for a device rule that is
    /// none, [`Error::Cgroup`] and [`Error::DeviceProgram`] for what the kernel refuses.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        let is_unified = self.unified.is_some() && self.legacy.is_empty();
        let layout = if is_unified { Layout::Unified } else { Layout::Hybrid };
        refuse_what_is_not_done(resources, layout)?;
        match (&self.unified, self.legacy.is_empty()) {
            (Some(directory), true) => unified::apply(directory, resources),
            (beside, _) => {
                if resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()) {
                    self.enable_beside();
                }
                legacy::apply(&self.legacy, beside.as_deref(), resources)
            }
        }
    }

    /// On a hybrid host, has the tree beside limit huge pages where no version 1 hierarchy does. Best effort: the kernel refuses where one
    /// above has processes of its own, and the limits are passed over then.
    fn enable_beside(&self) {
        let Some(directory) = &self.unified else { return };
        if let (None, Some(mount)) =
            (self.controller("hugetlb"), directory.ancestors().nth(self.path.matches('/').count()))
        {
            let _passed_over = unified::enable_above(mount, directory);
        }
    }

    /// Its CPU weight as version 2 has it; none where that has no cpu controller.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when it is there and can't be read.
    pub fn weight(&self) -> Result<Option<u64>, Error> {
        match &self.unified {
            Some(directory) => files::number_if_there(&directory.join("cpu.weight")),
            None => Ok(None),
        }
    }

    /// Moves a process, with all its threads, into this cgroup.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for what the kernel refuses.
    pub fn join(&self, pid: i32) -> Result<(), Error> {
        self.directories()
            .try_for_each(|directory| files::write(&directory.join("cgroup.procs"), &pid.to_string()))
    }

    /// The processes in it and below it, as seen from the caller's pid namespace.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when it cannot be read; a cgroup that is gone has none.
    pub fn procs(&self) -> Result<Vec<i32>, Error> {
        match self.tracking() {
            Some(directory) => kill::procs(directory),
            None => Ok(Vec::new()),
        }
    }

    /// Kills every process in it and below it. They end soon after this returns; [`remove`](Self::remove)
    /// waits.
    ///
    /// # Errors
    /// [`Error::Cgroup`] for what the kernel refuses, [`Error::CgroupBusy`] when it forks faster than it can
    /// be killed.
    pub fn kill(&self) -> Result<(), Error> {
        kill::kill(self)
    }

    /// Has what is frozen in it go on, as far as no cgroup above is frozen. Best effort.
    pub fn thaw(&self) {
        kill::thaw(self);
    }

    /// Who is in it and below it, and what holds them there: to be asked when they were killed and should have ended. Waits for none
    /// of them.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when its processes cannot be listed.
    pub fn holdouts(&self) -> Result<Holdouts, Error> {
        self.procs().map(|pids| Holdouts::of(&pids).frozen(kill::is_frozen(self)))
    }

    /// How many processes in it and below it the kernel has killed for want of memory.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when the counter cannot be read; 0 where there is none.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        stats::oom_kills(self)
    }

    /// What it uses now: processor time, memory, pressure, tasks. For many cgroups, or more of one, see [`Reader`].
    ///
    /// # Errors
    /// [`Error::Cgroup`] when a counter that exists cannot be read. One that does not exist is none.
    pub fn stats(&self) -> Result<Stats, Error> {
        stats::usual(self)
    }

    /// Removes it and what was made below it, waiting up to a second for processes that are ending. One that
    /// is gone already is no error; every hierarchy is tried.
    ///
    /// # Errors
    /// [`Error::CgroupBusy`] when processes stay, [`Error::Cgroup`] otherwise; the first of them.
    pub fn remove(&self) -> Result<(), Error> {
        let removed: Vec<_> = self.directories().map(kill::remove).collect();
        self.prune_beside();
        removed.into_iter().collect()
    }

    /// Removes what was made below it, waiting as [`remove`](Self::remove) does, and leaves it to whom it belongs.
    ///
    /// # Errors
    /// As for [`remove`](Self::remove).
    pub fn remove_below(&self) -> Result<(), Error> {
        let removed: Vec<_> =
            self.directories().flat_map(kill::children).map(|below| kill::remove(&below)).collect();
        removed.into_iter().collect()
    }

    /// Waits until systemd has removed it, which it does when nothing runs in it any more; at most so long. False when it
    /// is still there. systemd keeps its units in the version 2 tree and in the hierarchy named after it.
    pub fn is_removed_by_systemd(&self, within: Duration) -> bool {
        let named = self.legacy.iter().filter(|d| d.controllers.iter().any(|name| name == "name=systemd"));
        let theirs = self.unified.as_deref().into_iter().chain(named.map(|d| d.directory.as_path()));
        kill::are_gone(&theirs.collect::<Vec<_>>(), within)
    }

    /// Removes it from every hierarchy where nothing lives in it or below it. What is in use stays.
    pub fn remove_if_unused(&self) {
        for directory in self.directories() {
            // ENOTEMPTY, EBUSY: of use to somebody.
            let _in_use = rustix::fs::rmdir(directory);
        }
    }

    /// Removes, on a hybrid host, those above it in the version 2 tree whose counterparts in version 1 are
    /// gone: kubelet made and removed only the latter.
    fn prune_beside(&self) {
        let (Some(unified), Some(first)) = (&self.unified, self.legacy.first()) else { return };
        let depth = self.path.matches('/').count();
        let above = unified.ancestors().zip(first.directory.ancestors()).take(depth).skip(1);
        for (beside, legacy) in above {
            if legacy.exists() || rustix::fs::rmdir(beside).is_err() {
                return;
            }
        }
    }

    /// Moves the calling process, which has one thread, into every version 1 hierarchy of this cgroup.
    ///
    /// A thread that moves itself by `tasks` doesn't take the lock against all forks and exits of the machine
    /// that `cgroup.procs` takes (kernel/cgroup/cgroup.c, cgroup_procs_write_start): that lock waits for an
    /// RCU period.
    pub(crate) fn join_legacy_as_single_thread(&self) -> Result<(), (Errno, PathBuf)> {
        for directory in &self.legacy {
            let path = directory.directory.join("tasks");
            files::write_raw(&path, b"0").map_err(|errno| (errno, path))?;
        }
        Ok(())
    }

    fn directories(&self) -> impl Iterator<Item = &Path> {
        self.unified
            .as_deref()
            .into_iter()
            .chain(self.legacy.iter().map(|directory| directory.directory.as_path()))
    }

    /// The directory in which the processes are listed: all hierarchies have the same ones.
    fn tracking(&self) -> Option<&Path> {
        self.unified.as_deref().or_else(|| self.controller("pids")).or_else(|| self.directories().next())
    }

    fn controller(&self, name: &str) -> Option<&Path> {
        legacy::find(&self.legacy, name)
    }
}

impl Hierarchy {
    fn directory(&self, relative: &str) -> Directory {
        let name = self.mount.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        Directory { controllers: self.controllers.clone(), name, directory: self.mount.join(relative) }
    }
}

/// Limits that Kubernetes has no words for, and that nothing here sets, or the version of cgroups can't.
fn refuse_what_is_not_done(resources: &LinuxResources, layout: Layout) -> Result<(), Error> {
    let (memory, cpu) = (resources.memory().as_ref(), resources.cpu().as_ref());
    let is_unified = layout == Layout::Unified;
    let refused = [
        ("blkio", "linux.resources.blockIO", resources.block_io().is_some()),
        ("net_cls", "linux.resources.network", resources.network().is_some()),
        ("rdma", "linux.resources.rdma", resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty())),
        ("memory", "linux.resources.memory.kernel", memory.is_some_and(|m| m.kernel().is_some())),
        (
            "memory",
            "linux.resources.memory.useHierarchy",
            memory.is_some_and(|m| m.use_hierarchy().is_some()),
        ),
        (
            "memory",
            "linux.resources.memory.checkBeforeUpdate",
            memory.is_some_and(|m| m.check_before_update() == Some(true)),
        ),
        (
            "memory",
            "linux.resources.memory.swappiness",
            is_unified && memory.is_some_and(|m| m.swappiness().is_some()),
        ),
        (
            "cpu",
            "linux.resources.cpu.realtimeRuntime",
            is_unified && cpu.is_some_and(|c| c.realtime_runtime().is_some()),
        ),
        (
            "cpu",
            "linux.resources.cpu.realtimePeriod",
            is_unified && cpu.is_some_and(|c| c.realtime_period().is_some()),
        ),
        ("memory", "linux.resources.memory.kernelTCP", memory.is_some_and(|m| m.kernel_tcp().is_some())),
        (
            "memory",
            "linux.resources.memory.disableOOMKiller",
            memory.is_some_and(|m| m.disable_oom_killer() == Some(true)),
        ),
    ];
    match refused.into_iter().find(|(.., asked)| *asked) {
        Some((controller, setting, _)) => Err(Error::NoController { controller, setting }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        let hierarchy = |name: &str| Hierarchy {
            controllers: vec![name.to_owned()],
            mount: PathBuf::from(format!("/sys/fs/cgroup/{name}")),
        };
        Host {
            unified: Some("/sys/fs/cgroup/unified".into()),
            legacy: vec![hierarchy("memory"), hierarchy("pids")],
        }
    }

    #[test]
    fn a_path_names_one_directory_in_each_hierarchy() {
        let cgroup = Cgroup::at(&host(), "/kubepods/pod1/c1").unwrap();
        let directories: Vec<_> = cgroup.directories().collect();
        assert_eq!(
            directories,
            [
                Path::new("/sys/fs/cgroup/unified/kubepods/pod1/c1"),
                Path::new("/sys/fs/cgroup/memory/kubepods/pod1/c1"),
                Path::new("/sys/fs/cgroup/pids/kubepods/pod1/c1"),
            ]
        );
        assert_eq!(host().layout(), Layout::Hybrid);
    }

    #[test]
    fn a_path_cannot_climb() {
        for bad in ["", "/", "kubepods", "/a/../b", "/a/./b", "/a//b", "/a/", "/..", "/a\n"] {
            assert!(matches!(Cgroup::at(&host(), bad), Err(Error::CgroupPath { .. })), "{bad:?}");
        }
    }
}
