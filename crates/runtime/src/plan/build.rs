//! The order of a plan: which steps there are and what comes before what.
//!
//! Single mounts are read in `mounts`, the process in `process`.

use std::path::{Path, PathBuf};

use super::mounts::{MountReader, Slot};
use super::{
    Access, Bundle, DeviceKind, DeviceNode, IdMappings, NamespacePlan, NamespaceSource, Plan, ProcessPlan,
    Propagation, Refusal, RootPlan, SeccompFilter, Step, sysctl,
};
use crate::spec::oci;

/// What a plan is made from.
#[derive(Debug)]
pub struct PlanInput<'a> {
    /// The container's specification.
    pub spec: &'a oci::Spec,
    /// Where the namespaces come from; what `linux.namespaces` cannot say (it knows paths, not pods).
    pub namespaces: NamespacePlan,
    /// The compiled filter. The profile in `linux.seccomp`, if there is one, is only its description.
    pub seccomp: Option<SeccompFilter>,
}

/// Makes the plan of a container without hooks.
///
/// # Errors
/// The first field that this runtime refuses.
pub fn plan(input: &PlanInput<'_>) -> Result<Plan, Refusal> {
    if input.spec.hooks().as_ref().is_some_and(|hooks| *hooks != oci::Hooks::default()) {
        return Err(refuse("hooks", "need a bundle"));
    }
    without_hooks(input)
}

/// Makes the plan of a container whose hooks can be told where its bundle is.
///
/// # Errors
/// The first field that this runtime refuses.
pub fn plan_in_bundle(input: &PlanInput<'_>, bundle: &Bundle<'_>) -> Result<Plan, Refusal> {
    let hooks = super::hooks::read(input.spec, bundle, &input.namespaces.user)?;
    Ok(Plan { hooks, ..without_hooks(input)? })
}

fn without_hooks(input: &PlanInput<'_>) -> Result<Plan, Refusal> {
    refuse_what_is_not_done(input)?;
    let process_spec = input.spec.process().as_ref().ok_or_else(|| refuse("process", "is missing"))?;
    let mut process = super::process::read(process_spec, input.seccomp.clone())?;
    let personality = input.spec.linux().as_ref().and_then(|linux| linux.personality().as_ref());
    process.scheduling.personality = personality.map(super::scheduling::personality).transpose()?;
    let mut builder = Builder::default();
    builder.kernel_settings(input)?;
    builder.filesystems(input)?;
    builder.terminal(&process)?;
    builder.restrictions(input.spec, &process)?;
    let read_only = input.spec.root().as_ref().and_then(oci::Root::readonly).unwrap_or(false);
    Ok(Plan {
        namespaces: input.namespaces.clone(),
        root: RootPlan {
            access: if read_only { Access::ReadOnly } else { Access::ReadWrite },
            propagation: propagation(input.spec)?,
        },
        sources: builder.sources,
        steps: builder.steps,
        process,
        hooks: None,
        mount_label: mount_label(input.spec)?,
    })
}

/// How far mounts below the root go (config-linux.md, "Rootfs Mount Propagation").
fn propagation(spec: &oci::Spec) -> Result<Propagation, Refusal> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    Ok(match asked.unwrap_or_default() {
        "" | "private" | "rprivate" => Propagation::Private,
        "slave" | "rslave" => Propagation::Slave,
        "shared" | "rshared" => Propagation::Shared,
        "unbindable" | "runbindable" => Propagation::Unbindable,
        other => return Err(refuse("linux.rootfsPropagation", format!("{other:?} is not known"))),
    })
}

/// Makes the plan of a process that joins a running container.
///
/// # Errors
/// The first field that this runtime refuses.
pub fn process(spec: &oci::Process, seccomp: Option<SeccompFilter>) -> Result<ProcessPlan, Refusal> {
    super::process::read(spec, seccomp)
}

pub(super) fn refuse(field: impl Into<String>, why: impl Into<String>) -> Refusal {
    Refusal { field: field.into(), why: why.into() }
}

#[derive(Default)]
struct Builder {
    sources: Vec<super::Source>,
    steps: Vec<Step>,
    has_devpts: bool,
    /// A volume of the caller's on /dev itself brings its own nodes.
    foreign_dev: bool,
}

impl Builder {
    fn kernel_settings(&mut self, input: &PlanInput<'_>) -> Result<(), Refusal> {
        let own_uts = input.namespaces.uts == NamespaceSource::Own;
        for (field, value, step) in [
            ("hostname", input.spec.hostname(), Step::Hostname as fn(String) -> Step),
            ("domainname", input.spec.domainname(), Step::Domainname as fn(String) -> Step),
        ] {
            match value {
                Some(name) if !name.is_empty() && input.namespaces.uts == NamespaceSource::Host => {
                    return Err(refuse(field, format!("{name:?} would be set on the host")));
                }
                Some(name) if !name.is_empty() && own_uts => self.steps.push(step(name.clone())),
                _ => {}
            }
        }
        let linux = input.spec.linux().as_ref();
        let mut sysctls: Vec<_> = linux.and_then(|l| l.sysctl().as_ref()).into_iter().flatten().collect();
        sysctls.sort_by_key(|(name, _)| sysctl::turn(name));
        sysctl::refuse_doubles(sysctls.iter().map(|(name, _)| name.as_str()))?;
        for (name, value) in sysctls {
            sysctl::check(name, value, &input.namespaces)?;
            self.steps.push(Step::Sysctl { name: name.clone(), value: value.clone() });
        }
        Ok(())
    }

    fn filesystems(&mut self, input: &PlanInput<'_>) -> Result<(), Refusal> {
        let pod_memory = input.namespaces.ipc == NamespaceSource::Pod;
        let mounts = input.spec.mounts().as_deref().unwrap_or_default();
        let reader = MountReader { pod_memory };
        let targets: Vec<PathBuf> = mounts
            .iter()
            .enumerate()
            .map(|(at, m)| super::mounts::target(at, m))
            .collect::<Result<_, _>>()?;
        self.foreign_dev = mounts
            .iter()
            .zip(&targets)
            .any(|(mount, target)| target == Path::new("/dev") && super::mounts::is_bind(mount));
        let mut devices = if self.foreign_dev { Vec::new() } else { device_steps(input.spec)? };
        for (at, (mount, target)) in mounts.iter().zip(targets).enumerate() {
            let is_dev = target == Path::new("/dev");
            self.has_devpts |= mount.typ().as_deref() == Some("devpts");
            match reader.read(at, mount, target)? {
                Slot::Source(source, target) => {
                    self.steps.push(Step::AttachSource { slot: self.sources.len(), target });
                    self.sources.push(source);
                }
                Slot::Step(step) => self.steps.push(step),
            }
            if is_dev && !self.foreign_dev {
                // What lies below /dev belongs on this filesystem, before anything is mounted over it.
                self.steps.extend(devices.extract_if(.., |step| is_below_dev(step)));
            }
        }
        self.steps.extend(devices);
        Ok(())
    }

    fn terminal(&mut self, process: &ProcessPlan) -> Result<(), Refusal> {
        if process.terminal.is_none() {
            return Ok(());
        }
        if !self.has_devpts {
            return Err(refuse("process.terminal", "needs a devpts mount on \"/dev/pts\""));
        }
        self.steps.push(Step::Terminal);
        if !self.foreign_dev {
            self.steps.push(Step::Console);
        }
        Ok(())
    }

    fn restrictions(&mut self, spec: &oci::Spec, process: &ProcessPlan) -> Result<(), Refusal> {
        self.steps.push(Step::CreateDirectory(process.cwd.clone()));
        let linux = spec.linux().as_ref();
        let masked = linux.and_then(|l| l.masked_paths().as_deref()).unwrap_or_default();
        let read_only = linux.and_then(|l| l.readonly_paths().as_deref()).unwrap_or_default();
        for (at, path) in masked.iter().enumerate() {
            let field = || format!("linux.maskedPaths[{at}]");
            self.steps.push(Step::MaskPath(below_root(path, field)?));
        }
        for (at, path) in read_only.iter().enumerate() {
            let field = || format!("linux.readonlyPaths[{at}]");
            self.steps.push(Step::ReadonlyPath(below_root(path, field)?));
        }
        Ok(())
    }
}

/// A path that a mount can be put over. One over the root would do nothing: processes are below it.
fn below_root(path: &str, field: impl Fn() -> String) -> Result<PathBuf, Refusal> {
    let path = super::mounts::clean(Path::new(path), &field)?;
    if path == Path::new("/") { Err(refuse(field(), "is the root itself")) } else { Ok(path) }
}

fn is_below_dev(step: &Step) -> bool {
    match step {
        Step::Device(node) => node.path.starts_with("/dev"),
        Step::Symlink { path, .. } => path.starts_with("/dev"),
        _ => false,
    }
}

/// The devices every container has (config-linux.md, "Default Devices"), those that the specification adds,
/// and the links that programs expect ("Dev symbolic links").
fn device_steps(spec: &oci::Spec) -> Result<Vec<Step>, Refusal> {
    const DEFAULTS: [(&str, u32, u32); 6] = [
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/tty", 5, 0),
    ];
    const LINKS: [(&str, &str); 6] = [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/core", "/proc/kcore"),
        ("/dev/ptmx", "pts/ptmx"),
    ];
    let mut nodes: Vec<DeviceNode> = DEFAULTS
        .into_iter()
        .map(|(path, major, minor)| DeviceNode {
            path: path.into(),
            kind: DeviceKind::Character,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    let asked = spec.linux().as_ref().and_then(|l| l.devices().as_deref()).unwrap_or_default();
    for (at, device) in asked.iter().enumerate() {
        if let Some(node) = device_node(at, device)? {
            nodes.retain(|known| known.path != node.path);
            nodes.push(node);
        }
    }
    let links = LINKS.into_iter().map(|(path, to)| Step::Symlink { path: path.into(), target: to.into() });
    Ok(nodes.into_iter().map(Step::Device).chain(links).collect())
}

/// The highest numbers of devices (linux/kdev_t.h: 32 bits, of which MINORBITS are the minor's). What is more would be cut off, and
/// name another device.
pub(crate) const MOST_MAJOR: u32 = (1 << 12) - 1;
pub(crate) const MOST_MINOR: u32 = (1 << 20) - 1;

/// A number of a device, or why it is none.
pub(crate) fn device_number(value: i64, most: u32) -> Result<u32, String> {
    let number = u32::try_from(value).ok().filter(|number| *number <= most);
    number.ok_or_else(|| format!("{value} is not a device number from 0 to {most}"))
}

fn device_node(at: usize, device: &oci::LinuxDevice) -> Result<Option<DeviceNode>, Refusal> {
    let field = |name: &str| format!("linux.devices[{at}].{name}");
    let kind = match device.typ() {
        oci::LinuxDeviceType::B => DeviceKind::Block,
        oci::LinuxDeviceType::C | oci::LinuxDeviceType::U => DeviceKind::Character,
        oci::LinuxDeviceType::P => DeviceKind::Fifo,
        oci::LinuxDeviceType::A => return Err(refuse(field("type"), "\"a\" is no device node")),
    };
    let path = super::mounts::clean(device.path(), || field("path"))?;
    // These are made by the runtime itself, in the container's own devpts.
    if path == Path::new("/dev/ptmx") || path == Path::new("/dev/console") || path.starts_with("/dev/pts") {
        return Ok(None);
    }
    let number = |name: &str, value: i64, most: u32| {
        device_number(value, most).map_err(|why| refuse(field(name), why))
    };
    Ok(Some(DeviceNode {
        path,
        kind,
        major: number("major", device.major(), MOST_MAJOR)?,
        minor: number("minor", device.minor(), MOST_MINOR)?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    }))
}

fn mount_label(spec: &oci::Spec) -> Result<Option<String>, Refusal> {
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    match label.filter(|label| !label.is_empty()) {
        Some(label) if label.contains(['"', '\\']) || label.contains(|c: char| c.is_control()) => {
            Err(refuse("linux.mountLabel", format!("{label:?} is no context")))
        }
        label => Ok(label.map(str::to_owned)),
    }
}

/// The user namespace is made with the pod: a container says who is in it, or nothing.
fn users(linux: Option<&oci::Linux>, source: &NamespaceSource) -> Result<(), Refusal> {
    let list =
        |of: fn(&oci::Linux) -> &Option<Vec<oci::LinuxIdMapping>>| linux.and_then(|l| of(l).as_deref());
    let Some(ids) = IdMappings::read(list(oci::Linux::uid_mappings), list(oci::Linux::gid_mappings)) else {
        return Ok(());
    };
    match source {
        NamespaceSource::Pod => ids.check(("linux.uidMappings", "linux.gidMappings")),
        NamespaceSource::Host | NamespaceSource::Own | NamespaceSource::Container(_) => {
            Err(refuse("linux.uidMappings", "the pod has no user namespace"))
        }
    }
}

/// Fields that change what a container is and that nothing here carries out: refused by name, never passed
/// over.
fn refuse_what_is_not_done(input: &PlanInput<'_>) -> Result<(), Refusal> {
    let spec = input.spec;
    let platforms =
        spec.windows().is_some() || spec.solaris().is_some() || spec.vm().is_some() || spec.zos().is_some();
    let linux = spec.linux().as_ref();
    let asks = |test: fn(&oci::Linux) -> bool| linux.is_some_and(test);
    let refused = [
        ("windows, solaris, vm or zos", platforms),
        ("uidMappings", spec.uid_mappings().is_some() || spec.gid_mappings().is_some()),
        ("linux.timeOffsets", asks(|l| l.time_offsets().as_ref().is_some_and(|t| !t.is_empty()))),
        ("linux.intelRdt", asks(|l| l.intel_rdt().is_some())),
        ("linux.memoryPolicy", asks(|l| l.memory_policy().is_some())),
        ("linux.netDevices", asks(|l| l.net_devices().as_ref().is_some_and(|d| !d.is_empty()))),
    ];
    if let Some((field, _)) = refused.into_iter().find(|(_, present)| *present) {
        return Err(refuse(field, "is not supported"));
    }
    if linux.is_some_and(|l| l.seccomp().is_some()) && input.seccomp.is_none() {
        return Err(refuse("linux.seccomp", "has no compiled filter"));
    }
    users(linux, &input.namespaces.user)?;
    if matches!(&input.namespaces.network, NamespaceSource::Container(_))
        || matches!(&input.namespaces.ipc, NamespaceSource::Container(_))
        || matches!(&input.namespaces.uts, NamespaceSource::Container(_))
        || matches!(&input.namespaces.cgroup, NamespaceSource::Container(_))
        || matches!(&input.namespaces.user, NamespaceSource::Container(_) | NamespaceSource::Own)
    {
        return Err(refuse("linux.namespaces", "only the pid namespace can be another container's"));
    }
    Ok(())
}
