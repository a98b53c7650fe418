//! Building a container around its first process.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::cgroups::CgroupView;
use super::path::Root;
use super::process::Process;
use super::{Step, devices, filesystems, restrict};
use crate::container::LaunchRequest;
use crate::handshake::Halt;
use crate::hooks::Moment;
use crate::namespaces::PodUser;
use crate::plan::{self, Access, Hooks, NamespaceSource, Propagation};
use crate::{FailedStep, Failure, FailureKind, sys};

/// What is done, in this order. Up to `enter_root` paths are the host's, afterwards the container's.
pub(crate) fn steps<'a>() -> [Step<Launch<'a>>; 11] {
    [
        |launch| launch.process.prepare(),
        |launch| launch.process.join_cgroup(),
        |launch| launch.process.adjust_oom_score(),
        Launch::take_cgroups_along,
        Launch::take_shared_memory_along,
        Launch::join_namespaces,
        Launch::isolate_cgroups,
        |_| super::root::isolate_mounts(),
        Launch::enter_root,
        Launch::carry_out_plan,
        Launch::finish_root,
    ]
}

/// The same for a container with hooks that run before the root is changed, and have to see it by a path: the container
/// is built beside the host's root first.
pub(crate) fn steps_with_hooks<'a>() -> [Step<Launch<'a>>; 14] {
    [
        |launch| launch.process.prepare(),
        |launch| launch.process.join_cgroup(),
        |launch| launch.process.adjust_oom_score(),
        Launch::take_cgroups_along,
        Launch::take_shared_memory_along,
        Launch::join_namespaces,
        Launch::isolate_cgroups,
        |_| super::root::isolate_mounts(),
        Launch::attach_root,
        Launch::carry_out_plan,
        Launch::let_hooks_run_on_host,
        Launch::run_create_hooks,
        Launch::change_root,
        Launch::finish_root,
    ]
}

/// What is done for a container in a user namespace by a process that is the host's root still, in this order.
/// It clones the container's first process from within the namespace afterwards.
pub(crate) fn outside_steps<'a>() -> [Step<Launch<'a>>; 9] {
    [
        |launch| launch.process.prepare(),
        |launch| launch.process.join_cgroup(),
        |launch| launch.process.adjust_oom_score(),
        Launch::take_cgroups_along,
        Launch::take_shared_memory_along,
        Launch::take_devices_along,
        Launch::give_streams,
        // The others first: the host's network may be among those that stay.
        Launch::join_namespaces,
        Launch::join_user_namespace,
    ]
}

/// What the first process does in the user namespace, in this order.
pub(crate) fn inside_steps<'a>() -> [Step<Launch<'a>>; 7] {
    [
        |_| super::become_root(),
        Launch::isolate_cgroups,
        Launch::make_filesystems,
        |_| super::root::isolate_mounts(),
        Launch::enter_root,
        Launch::carry_out_plan,
        Launch::finish_root,
    ]
}

/// A container in the making.
pub(crate) struct Launch<'a> {
    pub(crate) process: Process<'a>,
    request: &'a LaunchRequest<'a>,
    cgroups: Vec<CgroupView>,
    shared_memory: Option<OwnedFd>,
    /// Nodes that were made outside of the user namespace, in the order of the plan.
    devices: VecDeque<OwnedFd>,
    /// Filesystems that were made while the host's were in sight, in the order of the plan.
    filesystems: VecDeque<OwnedFd>,
    /// What directories are masked with, once there is one.
    pub(super) empty: Option<OwnedFd>,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(process: Process<'a>, request: &'a LaunchRequest<'a>) -> Self {
        Self {
            process,
            request,
            cgroups: Vec::new(),
            shared_memory: None,
            devices: VecDeque::new(),
            filesystems: VecDeque::new(),
            empty: None,
        }
    }

    /// What goes on when the container is built; all else is closed.
    pub(crate) fn finished(self) -> Process<'a> {
        self.process
    }

    fn shows_cgroups(&self) -> bool {
        self.request.plan.steps.iter().any(|step| matches!(step, plan::Step::Cgroups { .. }))
    }

    fn take_cgroups_along(&mut self) -> Result<(), Failure> {
        if self.shows_cgroups() {
            self.cgroups = super::cgroups::views(self.request.cgroup, &self.request.plan.namespaces.cgroup)?;
        }
        Ok(())
    }

    /// A mount of the pod's /dev/shm for this container.
    fn take_shared_memory_along(&mut self) -> Result<(), Failure> {
        let wanted =
            self.request.plan.steps.iter().any(|step| matches!(step, plan::Step::AttachSharedMemory { .. }));
        if wanted {
            let memory = self.request.pod.shared_memory.as_ref().ok_or_else(|| missing("shared memory"))?;
            self.shared_memory = Some(filesystems::share_memory(memory, self.process.procfs()?)?);
        }
        Ok(())
    }

    fn join_namespaces(&mut self) -> Result<(), Failure> {
        use LinkNameSpaceType as T;
        let (plan, pod) = (&self.request.plan.namespaces, self.request.pod);
        let joins = [
            ("network", &plan.network, &pod.network, T::Network),
            ("ipc", &plan.ipc, &pod.ipc, T::InterProcessCommunication),
            ("uts", &plan.uts, &pod.uts, T::HostNameAndNISDomainName),
        ];
        for (name, source, namespace, kind) in joins {
            if *source == NamespaceSource::Pod {
                let namespace = namespace.as_ref().ok_or_else(|| missing(name))?;
                move_into_link_name_space(namespace.as_fd(), Some(kind))
                    .map_err(|errno| Failure::system(FailedStep::JoinNamespace, errno, name))?;
            }
        }
        Ok(())
    }

    fn mount_label(&self) -> Option<&'a str> {
        self.request.plan.mount_label.as_deref()
    }

    fn user(&self) -> Result<&'a PodUser, Failure> {
        self.request.pod.user.as_ref().ok_or_else(|| missing("user namespace of the pod"))
    }

    fn take_devices_along(&mut self) -> Result<(), Failure> {
        let nodes = self.request.plan.steps.iter().filter_map(|step| match step {
            plan::Step::Device(node) => Some(node),
            _ => None,
        });
        self.devices = devices::make_outside(nodes, &self.user()?.ids, self.mount_label())?;
        Ok(())
    }

    fn give_streams(&mut self) -> Result<(), Failure> {
        self.process.give_streams(&self.user()?.ids)
    }

    fn join_user_namespace(&mut self) -> Result<(), Failure> {
        let namespace = self.user()?.namespace.as_fd();
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
            .map_err(|errno| Failure::system(FailedStep::JoinNamespace, errno, "user"))
    }

    /// In a user namespace the kernel gives new procfs and sysfs only to those who see them already, so they
    /// are made before the host's are out of sight.
    fn make_filesystems(&mut self) -> Result<(), Failure> {
        let mounts = self.request.plan.steps.iter().filter_map(|step| match step {
            plan::Step::Mount(mount) if is_guarded(mount) => Some(mount),
            _ => None,
        });
        let new = |mount| filesystems::new(mount, self.mount_label());
        self.filesystems = mounts.map(new).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// What is made of a mount or a device depends on whether it was made before.
    fn attach_made(&mut self, step: &plan::Step) -> Option<Result<(), Failure>> {
        match step {
            plan::Step::Mount(mount) if is_guarded(mount) => {
                let made = self.filesystems.pop_front()?;
                Some(self.process.root().and_then(|root| filesystems::attach_new(root, mount, &made)))
            }
            plan::Step::Device(node) => {
                let made = self.devices.pop_front()?;
                Some(self.process.root().and_then(|root| devices::attach_node(root, &node.path, &made)))
            }
            _ => None,
        }
    }

    fn isolate_cgroups(&mut self) -> Result<(), Failure> {
        let failed = |errno| Failure::system(FailedStep::JoinNamespace, errno, "cgroup");
        if self.request.plan.namespaces.cgroup == NamespaceSource::Pod {
            let joined =
                self.request.pod.joined_cgroup.as_ref().ok_or_else(|| missing("cgroup namespace"))?;
            move_into_link_name_space(joined.as_fd(), Some(LinkNameSpaceType::ControlGroup))
                .map_err(failed)?;
        }
        if self.request.plan.namespaces.cgroup == NamespaceSource::Own {
            // Only now: a cgroup namespace is rooted in the cgroups that its maker is in.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
                .map_err(|errno| failed(crate::handshake::to_rustix(errno)))?;
        }
        Ok(())
    }

    fn enter_root(&mut self) -> Result<(), Failure> {
        super::root::pivot_into(self.request.root)?;
        self.take_root(Root::own())
    }

    fn hooks(&self) -> Result<&'a Hooks, Failure> {
        self.request.plan.hooks.as_deref().ok_or_else(|| missing("hooks"))
    }

    fn attach_root(&mut self) -> Result<(), Failure> {
        super::root::attach_at(self.request.root, &self.hooks()?.about.root)?;
        self.take_root(Root::of(self.request.root))
    }

    fn change_root(&mut self) -> Result<(), Failure> {
        super::root::change_to(self.request.root)?;
        self.take_root(Root::own())
    }

    fn take_root(&mut self, root: Result<Root, Errno>) -> Result<(), Failure> {
        self.process.root = Some(root.map_err(|errno| Failure::system(FailedStep::PivotRoot, errno, "/"))?);
        Ok(())
    }

    fn let_hooks_run_on_host(&mut self) -> Result<(), Failure> {
        if self.hooks()?.are_on_host_first() { self.process.wait(Halt::Built) } else { Ok(()) }
    }

    fn run_create_hooks(&mut self) -> Result<(), Failure> {
        let hooks = self.hooks()?;
        self.process.run_hooks(Moment::CreateContainer, (&hooks.about.root, &|| Ok(())))
    }

    fn carry_out_plan(&mut self) -> Result<(), Failure> {
        let plan = self.request.plan;
        plan.steps.iter().try_for_each(|step| self.carry_out(step))
    }

    fn carry_out(&mut self, step: &plan::Step) -> Result<(), Failure> {
        use plan::Step;
        if let Some(attached) = self.attach_made(step) {
            return attached;
        }
        match step {
            Step::AttachSource { slot, target } => {
                let source = self.request.sources.get(*slot).ok_or_else(|| missing("volume"))?;
                filesystems::attach_source(self.process.root()?, source, target)
            }
            Step::AttachSharedMemory { target, attributes } => {
                let memory = self.shared_memory.take().ok_or_else(|| missing("shared memory"))?;
                filesystems::attach(self.process.root()?, &memory, target, attributes)
            }
            Step::Mount(mount) => filesystems::mount(self.process.root()?, mount, self.mount_label()),
            Step::Cgroups { target, attributes } => {
                let views = std::mem::take(&mut self.cgroups);
                super::cgroups::show(self.process.root()?, &views, target, attributes)
            }
            Step::Device(node) => devices::node(self.process.root()?, node),
            Step::Symlink { path, target } => devices::link(self.process.root()?, path, target),
            Step::Terminal => self.process.open_terminal(),
            Step::Console => devices::console(self.process.root()?, self.process.terminal()?),
            Step::Sysctl { name, value } => restrict::sysctl(self.process.procfs()?, name, value),
            Step::Hostname(name) => restrict::hostname(name),
            Step::Domainname(name) => restrict::domainname(name),
            Step::CreateDirectory(path) => create_working_directory(self.process.root()?, path),
            Step::MaskPath(path) => {
                let label = self.mount_label();
                restrict::mask(self.process.root()?, path, (&mut self.empty, label))
            }
            Step::ReadonlyPath(path) => restrict::read_only(self.process.root()?, path),
        }
    }

    fn finish_root(&mut self) -> Result<(), Failure> {
        let attributes = plan::MountAttributes {
            access: self.request.plan.root.access,
            ..plan::MountAttributes::default()
        };
        if attributes.access != Access::ReadWrite {
            crate::mount::apply_attributes(self.request.root, &attributes)
                .map_err(|errno| Failure::system(FailedStep::ReadonlyRoot, errno, "/"))?;
        }
        match self.request.plan.root.propagation {
            Propagation::Private => Ok(()),
            // Last: what is mounted for the container is nobody else's.
            other => sys::change_propagation(self.request.root, other, sys::Reach::One)
                .map_err(|errno| Failure::system(FailedStep::RootPropagation, errno, "/")),
        }
    }
}

fn is_guarded(mount: &plan::FilesystemMount) -> bool {
    matches!(mount.fstype.as_str(), "proc" | "sysfs")
}

fn create_working_directory(root: &Root, path: &Path) -> Result<(), Failure> {
    match root.directory(path) {
        // What is there and cannot be used, and what lies on a volume that cannot be written, is found out by
        // entering it.
        Ok(_) | Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Ok(()),
        Err(errno) => Err(Failure::system(FailedStep::WorkingDirectory, errno, path.to_string_lossy())),
    }
}

pub(crate) fn missing(what: &str) -> Failure {
    Failure { kind: FailureKind::NotFound, step: FailedStep::Prepare, errno: None, subject: what.to_owned() }
}

/// Makes what is mounted here private to it: a clone of the pod's own mount has nothing to propagate.
pub(super) fn keep_private(mount: &OwnedFd) -> Result<(), Errno> {
    sys::set_propagation(mount.as_fd(), Propagation::Private)
}
