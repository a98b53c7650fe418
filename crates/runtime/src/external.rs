//! External OCI runtimes: programs with the command line of runc, which make containers in place of this crate.
//!
//! The bundle (OCI runtime-spec, bundle.md) of such a container is made by the daemon: `config.json` and, by path, what a program can't be
//! given by descriptor. The supervisor calls the program and adopts the container's process.
//!
//! | file of the bundle | made by | for |
//! |---|---|---|
//! | `config.json` | daemon | the runtime |
//! | `rootfs` | daemon, a mount | the runtime |
//! | [`KNOWN`] | supervisor, before `create` | whoever clears up: there until `delete` has succeeded |
//! | `*.pid`, `*.json`, `*.log` | supervisor and runtime | one call, and gone after it |
//!
//! Not here: calling the program (`supervisor`), what is in `config.json`.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, UnmountFlags, mount, move_mount, unmount};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Error;
use crate::plan::{CAPABILITIES, ProcessPlan, ResourceLimit};

/// The file of a bundle that says that the runtime may know the container.
pub const KNOWN: &str = "known";

/// An OCI runtime's program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalRuntime {
    /// The program.
    pub path: PathBuf,
    /// What its command line begins with, before the name of the operation.
    pub args: Vec<String>,
}

/// How an external runtime makes one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// The program.
    pub runtime: ExternalRuntime,
    /// The bundle.
    pub bundle: PathBuf,
}

/// Attaches a detached mount at a path of the host.
///
/// # Errors
/// [`Error::Attach`].
pub fn attach(mount: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| failed("attach a mount at", path, errno))
}

/// Whether a mount begins at a path (statx(2), STATX_ATTR_MOUNT_ROOT, since Linux 5.8).
pub fn is_attached(path: &Path) -> bool {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Takes away all that is mounted at a path. What still uses it keeps it; nothing there is fine.
///
/// # Errors
/// [`Error::Attach`].
pub fn detach(path: &Path) -> Result<(), Error> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // No mount begins there, or there is no such path.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed("take away the mount at", path, errno)),
        }
    }
}

/// Mounts a tmpfs at a path, unless one is there: what the containers of a pod have as /dev/shm.
///
/// # Errors
/// [`Error::Attach`].
pub fn attach_shared_memory(path: &Path, bytes: u64) -> Result<(), Error> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if is_attached(path) {
        return Ok(());
    }
    let options = CString::new(format!("mode=1777,size={bytes}")).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", path, "tmpfs", flags, Some(options.as_c_str()))
        .map_err(|errno| failed("mount a tmpfs at", path, errno))
}

/// A process in the words of the OCI specification (config.md, "Process"), for a runtime's `exec --process`. Its seccomp filter is
/// the container's own, which the runtime has kept.
pub(crate) fn describe(plan: &ProcessPlan) -> serde_json::Value {
    let set = |mask: u64| -> Vec<String> {
        let there = CAPABILITIES.iter().enumerate().filter(|(number, _)| mask >> number & 1 == 1);
        there.map(|(_, name)| (*name).to_owned()).collect()
    };
    let limit =
        |limit: &ResourceLimit| json!({ "type": limit.name(), "soft": limit.soft, "hard": limit.hard });
    let capabilities = &plan.capabilities;
    let mut process = json!({
        "terminal": plan.terminal.is_some(),
        "user": {
            "uid": plan.uid,
            "gid": plan.gid,
            "umask": plan.umask,
            "additionalGids": plan.additional_gids,
        },
        "args": plan.args,
        "env": plan.env,
        "cwd": plan.cwd,
        "capabilities": {
            "bounding": set(capabilities.bounding),
            "effective": set(capabilities.effective),
            "permitted": set(capabilities.permitted),
            // The kernel has nothing ambient that is not inheritable.
            "inheritable": set(capabilities.ambient),
            "ambient": set(capabilities.ambient),
        },
        "rlimits": plan.rlimits.iter().map(limit).collect::<Vec<_>>(),
        "noNewPrivileges": plan.no_new_privileges,
    });
    let optional = [
        ("oomScoreAdj", plan.oom_score_adj.map(|score| json!(score))),
        ("apparmorProfile", plan.apparmor.as_ref().map(|profile| json!(profile))),
        ("selinuxLabel", plan.selinux.as_ref().map(|label| json!(label))),
        ("consoleSize", plan.terminal.map(|size| json!({ "height": size.rows, "width": size.columns }))),
    ];
    if let Some(object) = process.as_object_mut() {
        object.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
    process
}

fn failed(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::Attach { operation, path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Capabilities, TerminalSize};

    #[test]
    fn a_process_is_described_as_the_specification_reads_it() {
        let plan = ProcessPlan {
            args: vec!["sh".to_owned()],
            env: vec!["A=b".to_owned()],
            cwd: "/srv".into(),
            uid: 5,
            gid: 6,
            additional_gids: vec![7],
            umask: 0o22,
            capabilities: Capabilities { bounding: 1 << 40 | 1, effective: 1, permitted: 1, ambient: 0 },
            no_new_privileges: true,
            rlimits: vec![ResourceLimit { resource: 7, soft: 1, hard: u64::MAX }],
            oom_score_adj: Some(-5),
            scheduling: crate::plan::Scheduling::default(),
            terminal: Some(TerminalSize { rows: 2, columns: 3 }),
            seccomp: None,
            apparmor: None,
            selinux: None,
        };
        let described: crate::spec::oci::Process = serde_json::from_value(describe(&plan)).unwrap();
        let again = crate::plan::process(&described, None).unwrap();
        assert_eq!(again, plan);
    }

    #[test]
    fn nothing_to_take_away_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_attached(directory.path()));
        detach(directory.path()).unwrap();
        detach(&directory.path().join("missing")).unwrap();
        assert!(is_attached(Path::new("/proc")));
    }
}
