//! Namespaces that are made from within: this process goes into new ones, sets them up, opens them and comes back.
//!
//! For those that a thread can leave again: network, IPC and UTS namespaces. A clone for them costs a copy of this process with its
//! page tables, two switches to it and its end: four times what the namespaces themselves take.
//! Not here: pid and user namespaces, which can't be left, and mount namespaces, which a child is to hold (see `create`).

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::init::Procfs;
use crate::thread::SingleThread;
use crate::{FailedStep, Failure};

/// A kind of namespace that can be visited: its name in procfs, and what the kernel calls it.
pub(super) struct Kind {
    pub(super) name: &'static str,
    link: LinkNameSpaceType,
    flag: CloneFlags,
}

pub(super) const NETWORK: Kind =
    Kind { name: "net", link: LinkNameSpaceType::Network, flag: CloneFlags::CLONE_NEWNET };
pub(super) const IPC: Kind =
    Kind { name: "ipc", link: LinkNameSpaceType::InterProcessCommunication, flag: CloneFlags::CLONE_NEWIPC };
pub(super) const UTS: Kind =
    Kind { name: "uts", link: LinkNameSpaceType::HostNameAndNISDomainName, flag: CloneFlags::CLONE_NEWUTS };

/// A stay in other namespaces. Dropping it is the way back.
pub(super) struct Visit {
    home: Vec<(LinkNameSpaceType, OwnedFd)>,
}

impl Visit {
    /// Goes into namespaces that are new, except for a network that is `prepared`, which is entered as it is. The proof: other threads would
    /// stay where they are, and this process be in two places.
    ///
    /// # Errors
    /// What the kernel says; this process is where it was then.
    pub(super) fn begin<'k>(
        _proof: &SingleThread,
        procfs: &Procfs,
        (kinds, prepared): (impl Iterator<Item = &'k Kind> + Clone, Option<&OwnedFd>),
    ) -> Result<Self, Failure> {
        // All of the way back before the first step.
        let home = kinds.clone().map(|kind| Ok((kind.link, open(procfs, kind)?)));
        let home = home.collect::<Result<_, Failure>>()?;
        let is_new = |kind: &&'k Kind| prepared.is_none() || kind.name != NETWORK.name;
        let flags = kinds.filter(is_new).fold(CloneFlags::empty(), |all, kind| all | kind.flag);
        let visit = Self { home };
        // All or none.
        unshare(flags).map_err(|errno| {
            Failure::system(FailedStep::Clone, crate::handshake::to_rustix(errno), "namespaces of the pod")
        })?;
        if let Some(network) = prepared {
            move_into_link_name_space(network.as_fd(), Some(NETWORK.link))
                .map_err(|errno| Failure::system(FailedStep::Network, errno, "prepared namespace"))?;
        }
        Ok(visit)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        for (link, home) in &self.home {
            if move_into_link_name_space(home.as_fd(), Some(*link)).is_err() {
                // The kernel has no reason to refuse. Whatever followed would be done to the wrong network or host.
                std::process::abort();
            }
        }
    }
}

/// Opens the namespace of a kind that this process is in.
pub(super) fn open(procfs: &Procfs, kind: &Kind) -> Result<OwnedFd, Failure> {
    procfs.namespace(kind.name).map_err(|errno| Failure::system(FailedStep::JoinNamespace, errno, kind.name))
}
