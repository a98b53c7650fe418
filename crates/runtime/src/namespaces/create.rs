//! Making a pod's namespaces: from within where they can be left again (see `visit`), else by one clone whose child makes them, sets
//! them up, and then ends or stays as their first process.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::Timespec;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::user::{Gate, open_namespace};
use super::visit::{self, Visit};
use super::{PodNamespaces, PodPid, PodUser, SharedMemory, network, reaper};
use crate::handshake::{self, Message, Reporter};
use crate::init::{self, Procfs, Step, carry_out};
use crate::plan::{Joined, MountAttributes, PodNamespace, PodPlan};
use crate::sys::{Child, CloneFlags, Cloned, clone_process};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure};

/// How long the child may take. It does some twenty system calls; a machine on which they take longer is
/// broken.
const BOUND: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Makes a pod's namespaces. The caller has to wait for the first process of a shared pid namespace when it
/// ends. A network namespace that is `prepared` (see [`super::prepare_network`]) becomes the pod's in place of a new one,
/// unless a user namespace of the pod's has to own it.
///
/// # Errors
/// What failed, in the caller or in the child that made them. Nothing is left behind then.
pub fn create_pod(
    proof: &SingleThread,
    plan: &PodPlan,
    prepared: Option<OwnedFd>,
) -> Result<PodNamespaces, Failure> {
    let prepared = prepared.filter(|_| plan.network == PodNamespace::Own && plan.user.is_none());
    crate::plan::check_pod(plan).map_err(|refusal| Failure {
        kind: crate::FailureKind::Unsafe,
        step: FailedStep::Sysctl,
        errno: None,
        subject: refusal.to_string(),
    })?;
    let memory = plan.shared_memory.map(|bytes| make_shared_memory(bytes, plan)).transpose()?;
    let is_held = needs_holder(&memory);
    if plan.pid == PodNamespace::Host && plan.user.is_none() && !is_held {
        let made = from_within(proof, plan, prepared)?;
        let shared_memory = memory.map(SharedMemory::from);
        return join(PodNamespaces { shared_memory, ..made }, plan.joined.as_deref());
    }
    let empty_root = (plan.pid == PodNamespace::Own || is_held)
        .then(|| empty_root(memory.as_ref().filter(|_| is_held)))
        .transpose()?;
    let flags = flags(plan, &empty_root, &prepared);
    let gate = plan.user.is_some().then(Gate::new).transpose()?;
    let (mut parent_end, reporter) = handshake::pair()?;
    match clone_process(proof, flags, None)
        .map_err(|errno| Failure::system(FailedStep::Clone, errno, "pod"))?
    {
        Cloned::Child => {
            drop(parent_end);
            init::run_child(&reporter, || {
                let procfs = Procfs::open()?;
                carry_out(&steps(), &mut Maker { plan, gate, procfs, network: prepared, root: empty_root })?;
                if plan.pid == PodNamespace::Own {
                    reaper::shed()?;
                    report(&reporter)?;
                    return reaper::stay();
                }
                report(&reporter)?;
                wait_for_parent(&reporter)
            })
        }
        Cloned::Parent(child) => {
            drop(reporter);
            if let Some((gate, ids)) = gate.zip(plan.user.as_ref()) {
                gate.into_opener().open(&child, ids)?;
            }
            parent_end.wait_until_executing(&BOUND)?;
            let shared_memory = memory.map(SharedMemory::from);
            let made = pin(plan, child, (prepared, shared_memory, is_held))?;
            join(made, plan.joined.as_deref())
        }
    }
}

/// Makes those that can be left again, without a process for them.
fn from_within(
    proof: &SingleThread,
    plan: &PodPlan,
    prepared: Option<OwnedFd>,
) -> Result<PodNamespaces, Failure> {
    let kinds = [(plan.network, visit::NETWORK), (plan.ipc, visit::IPC), (plan.uts, visit::UTS)];
    let kinds = kinds.map(|(namespace, kind)| (namespace == PodNamespace::Own).then_some(kind));
    if kinds.iter().all(Option::is_none) {
        return Ok(PodNamespaces::default());
    }
    let procfs = Procfs::open()?;
    let visit = Visit::begin(proof, &procfs, (kinds.iter().flatten(), prepared.as_ref()))?;
    let mut maker = Maker { plan, gate: None, procfs, network: prepared, root: None };
    carry_out(&steps_from_within(), &mut maker)?;
    let [network, ipc, uts] = &kinds;
    let open =
        |kind: &Option<visit::Kind>| kind.as_ref().map(|kind| visit::open(&maker.procfs, kind)).transpose();
    let (ipc, uts) = (open(ipc)?, open(uts)?);
    let network = match maker.network {
        Some(prepared) => Some(prepared),
        None => open(network)?,
    };
    drop(visit);
    Ok(PodNamespaces { network, ipc, uts, ..PodNamespaces::default() })
}

fn flags(plan: &PodPlan, own_root: &Option<OwnedFd>, prepared: &Option<OwnedFd>) -> CloneFlags {
    let mut flags = if own_root.is_some() { CloneFlags::MOUNT } else { CloneFlags::default() };
    if plan.user.is_some() {
        // The kernel makes it first, and the others belong to it.
        flags = flags.with(CloneFlags::USER);
    }
    for (namespace, flag) in [
        (if prepared.is_some() { PodNamespace::Host } else { plan.network }, CloneFlags::NETWORK),
        (plan.ipc, CloneFlags::IPC),
        (plan.uts, CloneFlags::UTS),
        (plan.pid, CloneFlags::PID),
    ] {
        if namespace == PodNamespace::Own {
            flags = flags.with(flag);
        }
    }
    flags
}

/// What the child does, in this order.
fn steps<'a>() -> [Step<Maker<'a>>; 6] {
    [
        Maker::become_root,
        Maker::set_hostname,
        Maker::enter_network,
        Maker::set_up_network,
        Maker::set_sysctls,
        Maker::leave_host,
    ]
}

/// The same where there is no child: it stays in the host's mounts, and has entered a prepared network.
fn steps_from_within<'a>() -> [Step<Maker<'a>>; 3] {
    [Maker::set_hostname, Maker::set_up_network, Maker::set_sysctls]
}

struct Maker<'a> {
    plan: &'a PodPlan,
    /// Passed before anything else is done in a user namespace.
    gate: Option<Gate>,
    procfs: Procfs,
    /// A network namespace that is prepared.
    network: Option<OwnedFd>,
    root: Option<OwnedFd>,
}

impl Maker<'_> {
    fn become_root(&mut self) -> Result<(), Failure> {
        self.gate.take().map_or(Ok(()), Gate::pass)
    }

    fn set_hostname(&mut self) -> Result<(), Failure> {
        match &self.plan.hostname {
            Some(name) if self.plan.uts == PodNamespace::Own => rustix::system::sethostname(name.as_bytes())
                .map_err(|errno| Failure::system(FailedStep::Hostname, errno, name.as_str())),
            _ => Ok(()),
        }
    }

    /// Into the one that is prepared.
    fn enter_network(&mut self) -> Result<(), Failure> {
        let Some(network) = &self.network else { return Ok(()) };
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| Failure::system(FailedStep::Network, errno, "prepared namespace"))
    }

    fn set_up_network(&mut self) -> Result<(), Failure> {
        match (self.plan.network, &self.network) {
            (PodNamespace::Own, None) => network::set_up(&self.procfs),
            (PodNamespace::Host, _) | (PodNamespace::Own, Some(_)) => Ok(()),
        }
    }

    fn set_sysctls(&mut self) -> Result<(), Failure> {
        self.plan.sysctls.iter().try_for_each(|(name, value)| init::sysctl(&self.procfs, name, value))
    }

    fn leave_host(&mut self) -> Result<(), Failure> {
        match self.root.take() {
            Some(root) => {
                init::isolate_mounts()?;
                init::pivot_into(root.as_fd())
            }
            None => Ok(()),
        }
    }
}

fn report(reporter: &Reporter) -> Result<(), Failure> {
    reporter.send(&Message::Executing).map_err(|errno| Failure::system(FailedStep::Handshake, errno, ""))
}

/// Keeps the namespaces alive until the parent has pinned them, and kills this process, or is gone.
fn wait_for_parent(reporter: &Reporter) -> Result<(), Failure> {
    use rustix::event::{PollFd, PollFlags, poll};
    let _ = poll(&mut [PollFd::new(reporter, PollFlags::IN)], None);
    Ok(())
}

fn pin(
    plan: &PodPlan,
    child: Child,
    (prepared, memory, is_held): (Option<OwnedFd>, Option<SharedMemory>, bool),
) -> Result<PodNamespaces, Failure> {
    let open = |name: &str| open_namespace(&child, name);
    let pinned = |namespace: PodNamespace, name: &str| match namespace {
        PodNamespace::Own => open(name).map(Some),
        PodNamespace::Host => Ok(None),
    };
    let network = match prepared {
        Some(prepared) => Some(prepared),
        None => pinned(plan.network, "net")?,
    };
    let ipc = pinned(plan.ipc, "ipc")?;
    let uts = pinned(plan.uts, "uts")?;
    let pid_namespace = pinned(plan.pid, "pid")?;
    let user = match &plan.user {
        Some(ids) => Some(PodUser { namespace: open("user")?, ids: ids.clone() }),
        None => None,
    };
    let holder = if is_held { Some(open("mnt")?) } else { None };
    let shared_memory = memory.map(|memory| SharedMemory { holder, ..memory });
    let pid = match pid_namespace {
        Some(namespace) => child.hand_over().map(|(init, init_pidfd)| PodPid { namespace, init, init_pidfd }),
        // Dropping the child ends it: its work is done, and the descriptors keep what it made.
        None => None,
    };
    Ok(PodNamespaces { network, ipc, uts, pid, shared_memory, user, ..PodNamespaces::default() })
}

/// Takes in namespaces that somebody else made.
fn join(made: PodNamespaces, joined: Option<&Joined>) -> Result<PodNamespaces, Failure> {
    let Some(joined) = joined else { return Ok(made) };
    let open = |path: &Option<PathBuf>, made: Option<OwnedFd>| match path {
        None => Ok(made),
        Some(path) => openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
            .map(Some)
            .map_err(|errno| Failure::system(FailedStep::JoinNamespace, errno, path.to_string_lossy())),
    };
    Ok(PodNamespaces {
        network: open(&joined.network, made.network)?,
        ipc: open(&joined.ipc, made.ipc)?,
        uts: open(&joined.uts, made.uts)?,
        joined_pid: open(&joined.pid, None)?,
        joined_cgroup: open(&joined.cgroup, None)?,
        ..made
    })
}

impl From<OwnedFd> for SharedMemory {
    fn from(mount: OwnedFd) -> Self {
        Self { mount, holder: None }
    }
}

fn make_shared_memory(bytes: u64, plan: &PodPlan) -> Result<OwnedFd, Failure> {
    let ids = plan.user.as_ref();
    let size = bytes.to_string();
    let uid = ids.and_then(|ids| ids.outside_uid(0)).unwrap_or(0).to_string();
    let gid = ids.and_then(|ids| ids.outside_gid(0)).unwrap_or(0).to_string();
    let options = [
        ("source", Some("shm")),
        ("mode", Some("1777")),
        ("size", Some(size.as_str())),
        ("uid", Some(uid.as_str())),
        ("gid", Some(gid.as_str())),
    ];
    let options: Vec<_> = options.into_iter().chain(init::context(plan.mount_label.as_deref())).collect();
    let attributes =
        MountAttributes { nosuid: true, nodev: true, noexec: true, ..MountAttributes::default() };
    init::make_filesystem("tmpfs", &options, &attributes)
        .map_err(|errno| Failure::system(FailedStep::Mount, errno, "/dev/shm"))
}

/// Whether this kernel cannot clone a detached mount: the shared memory is then the root of a mount
/// namespace, from within which it can be cloned. Only an older one is asked by trying: the trial is a mount, and to let go of one
/// waits for an RCU period.
fn needs_holder(memory: &Option<OwnedFd>) -> bool {
    /// The first Linux that clones mounts of no namespace.
    const CLONES_DETACHED: (u32, u32) = (6, 15);
    let is_new = || crate::seccomp::kernel() >= CLONES_DETACHED;
    memory.as_ref().is_some_and(|memory| !is_new() && init::clone_mount(memory).is_err())
}

/// What the child has for a root when it has a mount namespace of its own: nothing, or the shared memory to
/// hold.
fn empty_root(held: Option<&OwnedFd>) -> Result<OwnedFd, Failure> {
    let failed = |errno| Failure::system(FailedStep::AttachRoot, errno, "pod");
    if let Some(memory) = held {
        return rustix::io::fcntl_dupfd_cloexec(memory, 3).map_err(failed);
    }
    let attributes = MountAttributes {
        access: crate::plan::Access::ReadOnly,
        nosuid: true,
        nodev: true,
        noexec: true,
        ..MountAttributes::default()
    };
    init::make_filesystem("tmpfs", &[("mode", Some("555")), ("size", Some("0"))], &attributes).map_err(failed)
}
