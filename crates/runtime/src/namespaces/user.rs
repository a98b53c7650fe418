//! User namespaces: one of a pod, which owns the pod's other namespaces, and those that nobody is in, which are
//! how the kernel is told the mappings of a mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::plan::{IdMapping, IdMappings, id_lines};
use crate::sys::{Child, CloneFlags, Cloned, clone_process, exit_now};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure};

/// A pod's user namespace.
#[derive(Debug)]
pub struct PodUser {
    /// The namespace.
    pub namespace: OwnedFd,
    /// Who is who in it.
    pub ids: IdMappings,
}

/// Where a child waits until its parent has written its mappings, which it can't itself.
pub(super) struct Gate {
    waits: OwnedFd,
    opens: OwnedFd,
}

/// The parent's side of a [`Gate`]; the child ends when it is dropped without opening it.
pub(super) struct Opener(OwnedFd);

impl Gate {
    pub(super) fn new() -> Result<Self, Failure> {
        let (waits, opens) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno, "gate"))?;
        Ok(Self { waits, opens })
    }

    pub(super) fn into_opener(self) -> Opener {
        Opener(self.opens)
    }

    /// In the child: waits, and is root of the namespace afterwards.
    pub(super) fn pass(self) -> Result<(), Failure> {
        drop(self.opens);
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.waits, &mut [0; 1])) {
            Ok(1) => crate::init::become_root(),
            Ok(_) => Err(failed(Errno::CANCELED, "the parent is gone")),
            Err(errno) => Err(failed(errno, "gate")),
        }
    }
}

impl Opener {
    /// Writes the mappings of a child that waits, and lets it go on.
    pub(super) fn open(self, child: &Child, ids: &IdMappings) -> Result<(), Failure> {
        write_mappings(child.pid(), ids)?;
        rustix::io::write(&self.0, b"!").map(drop).map_err(|errno| failed(errno, "gate"))
    }
}

/// A user namespace that nobody is in, with the given mappings.
///
/// # Errors
/// What failed; the kernel refuses more namespaces than user.max_user_namespaces.
pub fn user_namespace(proof: &SingleThread, ids: &IdMappings) -> Result<OwnedFd, Failure> {
    let gate = Gate::new()?;
    match clone_process(proof, CloneFlags::USER, None)
        .map_err(|errno| Failure::system(FailedStep::Clone, errno, "user namespace"))?
    {
        Cloned::Child => {
            // Until the parent has taken the namespace, and closes its end or kills this process.
            drop(gate.opens);
            let _ = rustix::io::retry_on_intr(|| rustix::io::read(&gate.waits, &mut [0; 1]));
            exit_now(0)
        }
        Cloned::Parent(child) => {
            write_mappings(child.pid(), ids)?;
            open_namespace(&child, "user")
        }
    }
}

/// A namespace of a child that has not been waited for: its number means no other process.
pub(super) fn open_namespace(child: &Child, name: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{}/ns/{name}", child.pid());
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Failure::system(FailedStep::JoinNamespace, errno, name))
}

fn write_mappings(pid: i32, ids: &IdMappings) -> Result<(), Failure> {
    let write = |name: &str, mappings: &[IdMapping]| {
        let path = format!("/proc/{pid}/{name}");
        let file = openat(CWD, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        // The kernel takes them in one write or not at all.
        file.and_then(|file| rustix::io::write(file, id_lines(mappings).as_bytes()))
            .map(drop)
            .map_err(|errno| failed(errno, name))
    };
    write("gid_map", &ids.gids)?;
    write("uid_map", &ids.uids)
}

/// Has the files of a detached mount, and of those below it, belong to others: to those of the user namespace. Where
/// one of those below can't do it (a hostPath with a procfs in it), they all stay the host's, whom nobody inside is.
///
/// # Errors
/// The kernel's: EINVAL where the filesystem can't do it.
pub(crate) fn map_ids(mount: impl AsFd, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    use crate::sys::Reach;
    // The kernel maps all or none.
    crate::sys::map_ids(mount.as_fd(), namespace, Reach::All)
        .or_else(|_| crate::sys::map_ids(mount.as_fd(), namespace, Reach::One))
}

fn failed(errno: Errno, subject: &str) -> Failure {
    Failure::system(FailedStep::MapIds, errno, subject)
}
