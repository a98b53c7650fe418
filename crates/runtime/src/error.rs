//! The crate's error: an operation on a thing, with its cause.
//!
//! Failures inside a child process are [`Failure`]s, data that can cross a socket; a refused specification is
//! a [`Refusal`]. Both are wrapped here for callers that want one type.

use std::path::PathBuf;

use crate::Failure;
use crate::cgroup::Holdouts;
use crate::plan::Refusal;

/// What this crate's library functions answer when they cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the specification is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A process could not be made.
    #[error(transparent)]
    Process(#[from] Failure),
    /// A cgroup path that is not absolute, or has `.` or `..` in it.
    #[error("cgroup path {path:?} is not a clean absolute path")]
    CgroupPath {
        /// The path as given.
        path: String,
    },
    /// No cgroup hierarchy is mounted where one can be used.
    #[error("no usable cgroup hierarchy is mounted")]
    NoCgroups,
    /// An operation on a cgroup's directory or file.
    #[error("cannot {operation} {path:?}")]
    Cgroup {
        /// What was attempted, as a verb phrase.
        operation: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The host's cgroups have no controller for a limit that was asked for.
    #[error("cannot set {setting:?}: the cgroup has no {controller} controller")]
    NoController {
        /// The controller's name.
        controller: &'static str,
        /// The setting asked for.
        setting: &'static str,
    },
    /// The kernel does not take a cgroup's device rules as a program.
    #[error("cannot load the device rules of cgroup {path:?}: {why}")]
    DeviceProgram {
        /// The cgroup's directory.
        path: PathBuf,
        /// What is missing, or the end of what the kernel's verifier said.
        why: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A cgroup still has processes after they were killed for as long as this crate waits.
    #[error("processes in cgroup {path:?} did not end when killed")]
    CgroupBusy {
        /// The cgroup.
        path: PathBuf,
        /// Which, and what holds them.
        source: Box<Holdouts>,
    },
    /// A mount can't be attached to a path of the host, or not be taken away from there.
    #[error("cannot {operation} {path:?}")]
    Attach {
        /// What was attempted.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The source of a volume cannot be opened.
    #[error("cannot {operation} mount source {path:?}")]
    MountSource {
        /// What was attempted.
        operation: &'static str,
        /// The source on the host.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A volume asks for propagation that its host mount does not give.
    #[error("mount source {path:?} is not on a {wanted} mount")]
    NotShared {
        /// The source on the host.
        path: PathBuf,
        /// What the host's mount would have to be.
        wanted: &'static str,
    },
    /// A user or group that the image's databases do not have.
    #[error("no {kind} {name:?} in the image")]
    NoSuchIdentity {
        /// `user` or `group`.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// A user or group number outside of 0 to 2147483647.
    #[error("{kind} {value:?} is not a number from 0 to 2147483647")]
    IdentityRange {
        /// `user` or `group`.
        kind: &'static str,
        /// The value as found.
        value: String,
    },
    /// A user or group database of the image that is not a regular file of bearable size.
    #[error("cannot use {path:?} of the image: {why}")]
    IdentityFile {
        /// The path inside the image.
        path: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A user or group database of the image that cannot be read.
    #[error("cannot read {path:?} of the image")]
    IdentityRead {
        /// The path inside the image.
        path: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The calling process has more than one thread.
    #[error("the process has {threads} threads, and may only clone with one")]
    Threads {
        /// How many there are.
        threads: u64,
    },
    /// The number of threads cannot be read.
    #[error("cannot count the threads of this process")]
    ThreadCount(#[source] std::io::Error),
}
