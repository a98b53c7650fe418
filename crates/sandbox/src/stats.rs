//! What pods and containers use, looked at when somebody asks.
//!
//! | from | by | what hangs there |
//! |---|---|---|
//! | cgroups, `/proc/<pid>` | a few threads that share the work (`readings`) | costs the answer that one cgroup, after a while without progress |
//! | network namespaces | one thread that goes from one to the next (`traffic`) | the same |
//! | writable layers | walks, each container's own (`layers`) | costs the first answer two seconds, later ones nothing |
//!
//! Nothing is looked at that nobody asks for, and nothing here asks a supervisor. What is kept for a container between two looks is
//! in its entry of the registry and goes with it (`Kept`).
//! Not here: what the kernel's files say and mean (see the runtime crate), names of metrics.

mod layers;
mod rate;
mod readings;
mod traffic;

use std::sync::{Arc, Mutex, PoisonError};

pub use runtime::cgroup::{
    Accounts, CpuDetail, CpuModes, CpuStats, Descriptors, DeviceIo, HugePages, Io, IoCost, MemoryDetail,
    MemoryStats, Part, Pressure, Pressures, Quota, Stall, States, Stats, SwapStats, TaskStats, Throttling,
    device_name,
};
pub use runtime::namespaces::{Interface, Traffic};

use self::layers::Layer;
use self::rate::{Load, Rate, Sample};
use self::readings::{Reading, Subject, UnderWay};
use crate::clock;
use crate::container::status::{ContainerPhase, ContainerStatus};
use crate::error::{Error, chain};
use crate::pod::status::PodStatus;
use crate::registry::{ContainerEntry, PodEntry};
use crate::rootfs::LayerUsage;
use crate::shared::Shared;

pub(crate) use readings::Looks;

/// What is to be looked at. Each thing costs system calls for each container, so that it is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of cgroups.
    pub parts: Vec<Part>,
    /// How many processes there are.
    pub processes: bool,
    /// What they have open, and how many files they may. Costs as much as there are open.
    pub descriptors: bool,
    /// What their threads do. Costs as much as there are threads.
    pub states: bool,
    /// How much processor time pods may have.
    pub quotas: bool,
    /// What went through the interfaces of pods.
    pub traffic: bool,
    /// What writable layers hold.
    pub layers: bool,
}

impl Wanted {
    /// What CRI's stats have of containers.
    #[must_use]
    pub fn of_containers() -> Self {
        Self { parts: vec![Part::Cpu, Part::Memory, Part::Pressure], layers: true, ..Self::default() }
    }

    /// What they have of pods.
    #[must_use]
    pub fn of_pods() -> Self {
        Self { processes: true, traffic: true, ..Self::of_containers() }
    }
}

/// What a pod or container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// When it was read, in nanoseconds since the epoch.
    pub at: i64,
    /// What its cgroup says.
    pub counters: Stats,
    /// Processor time of late, in nanoseconds a second; docs/stats.md says over which time.
    pub nano_cores: Option<u64>,
}

/// What the processes of a container are and do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessUsage {
    /// How many there are.
    pub count: u64,
    /// What they have open.
    pub descriptors: Option<Descriptors>,
    /// How many files the first one may have open.
    pub open_files_limit: Option<u64>,
    /// What their threads do.
    pub states: Option<States>,
    /// How many threads ran, and how many couldn't be woken, of late: an average over some ten seconds.
    pub load: Option<(f64, f64)>,
}

/// A container's usage with that of its writable layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerUsage {
    /// From the cgroup.
    pub usage: Usage,
    /// From its processes.
    pub processes: Option<ProcessUsage>,
    /// From the filesystem; `None` when it could not be read.
    pub layer: Option<LayerUsage>,
}

/// A pod's usage with that of its running containers.
#[derive(Debug, Clone, PartialEq)]
pub struct PodUsage {
    /// The pod.
    pub pod: Arc<PodStatus>,
    /// The cgroup whose usage it is: the one that kubelet has made for it, with its limits, else its own.
    pub cgroup: String,
    /// From that, its supervisor's share included. With a cgroup of its own the limit of memory is that of the one above.
    pub usage: Usage,
    /// What that cgroup may have of the processors, where it was asked for.
    pub quota: Option<Quota>,
    /// What went through its interfaces, the first network's before the others; `None` when it has none of its own.
    pub interfaces: Option<Vec<Interface>>,
    /// Its containers that run.
    pub containers: Vec<(Arc<ContainerStatus>, ContainerUsage)>,
    /// Those of them that couldn't be looked at, or not in time: sums over the others are too small.
    pub missing: usize,
}

/// What is kept of a container, or of a pod, from one look to the next: some 250 bytes.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    rate: Mutex<Rate>,
    load: Mutex<Load>,
    layer: Layer,
    under_way: Arc<UnderWay>,
}

impl Kept {
    /// A look's usage, and the rate since an earlier one. `begun` is when there was no processor time yet, in nanoseconds since the epoch,
    /// where that is known.
    fn usage(&self, reading: Reading, begun: Option<i64>) -> Usage {
        let Reading { at, moment, stats, .. } = reading;
        let nano_cores = stats.cpu.and_then(|cpu| {
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            rate.next(
                Sample { at: moment, cpu_ns: cpu.usage_ns },
                begun.and_then(|begun| rate::ago(moment, at, begun)),
            )
        });
        Usage { at, counters: stats, nano_cores }
    }

    fn processes(&self, reading: &Reading) -> Option<ProcessUsage> {
        let mut found = reading.processes?;
        let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        found.load = found.states.map(|states| load.next(reading.moment, states));
        Some(found)
    }
}

/// What a container uses. One that doesn't run uses its layer alone.
///
/// # Errors
/// Those of reading its cgroup.
pub(crate) async fn container(
    shared: &Arc<Shared>,
    (container, pod): (&ContainerEntry, &PodEntry),
) -> Result<ContainerUsage, Error> {
    let wanted = Wanted::of_containers();
    let walk = container.kept.layer.walk(shared, &container.status.id, &container.kept);
    let reading = match subject(container, pod) {
        Some(subject) => readings::one(shared, subject, &wanted).await?,
        None => Reading::none(),
    };
    let usage = container.kept.usage(reading, Some(begun(&container.status)));
    Ok(ContainerUsage { usage, processes: None, layer: walk.outcome(&container.kept).await })
}

/// What containers use; those that can't be read, or have ended meanwhile, are left out.
///
/// # Errors
/// [`Error::Deadline`] when nobody could begin to look.
pub(crate) async fn containers(
    shared: &Arc<Shared>,
    found: Vec<(ContainerEntry, PodEntry)>,
) -> Result<Vec<(Arc<ContainerStatus>, ContainerUsage)>, Error> {
    let running = |(container, pod): (ContainerEntry, PodEntry)| {
        let subject = subject(&container, &pod)?;
        Some((container, subject))
    };
    let (entries, subjects): (Vec<_>, Vec<_>) = found.into_iter().filter_map(running).unzip();
    let wanted = Wanted::of_containers();
    let walks = walks(shared, &entries, &wanted);
    let readings = readings::all(shared, subjects, &wanted).await?;
    Ok(used(entries.into_iter().zip(readings).zip(walks)).await)
}

/// What pods use with their containers. A pod that can't be read is there with nothing.
///
/// # Errors
/// [`Error::Deadline`] when nobody could begin to look.
pub(crate) async fn pods(
    shared: &Arc<Shared>,
    found: Vec<(PodEntry, Vec<ContainerEntry>)>,
    wanted: &Wanted,
) -> Result<Vec<PodUsage>, Error> {
    let running = |(pod, containers): (PodEntry, Vec<ContainerEntry>)| {
        let status = pod.status.clone()?;
        let containers: Vec<_> =
            containers.into_iter().filter(|container| subject(container, &pod).is_some()).collect();
        Some((pod, status, containers))
    };
    let found: Vec<_> = found.into_iter().filter_map(running).collect();
    let mut subjects = Vec::new();
    for (pod, status, containers) in &found {
        subjects.push(Subject::pod(status, &pod.kept.under_way));
        subjects.extend(containers.iter().filter_map(|container| subject(container, pod)));
    }
    let walks: Vec<_> = found.iter().map(|(.., containers)| walks(shared, containers, wanted)).collect();
    let visits = found.iter().map(|(pod, ..)| pod).filter(|_| wanted.traffic);
    let (readings, mut traffic) = tokio::join!(readings::all(shared, subjects, wanted), traffic::of(visits));
    let mut readings = readings?.into_iter();
    let mut answer = Vec::new();
    for ((pod, status, containers), walks) in found.into_iter().zip(walks) {
        let reading = readings.next().flatten().unwrap_or_else(Reading::none);
        let quota = reading.quota;
        let usage = pod.kept.usage(reading, begun_pod(&status));
        let of_containers: Vec<_> = readings.by_ref().take(containers.len()).collect();
        let missing = of_containers.iter().filter(|reading| reading.is_none()).count();
        let containers = used(containers.into_iter().zip(of_containers).zip(walks)).await;
        let interfaces = traffic.remove(&pod.id);
        let cgroup = readings::cgroup_of(&status).to_owned();
        answer.push(PodUsage { pod: status, cgroup, usage, quota, interfaces, containers, missing });
    }
    Ok(answer)
}

/// Takes a first sample of what runs already, so that the first answer of this daemon tells what its pods use now and not on average since
/// they began.
pub(crate) async fn take_first_samples(shared: &Arc<Shared>, found: Vec<(PodEntry, Vec<ContainerEntry>)>) {
    let wanted = Wanted { parts: vec![Part::Cpu], ..Wanted::default() };
    if let Err(error) = pods(shared, found, &wanted).await {
        tracing::warn!(error = chain(&error), "first rates will be averages since the beginning");
    }
}

fn walks(shared: &Arc<Shared>, containers: &[ContainerEntry], wanted: &Wanted) -> Vec<Option<layers::Walk>> {
    let walk = |entry: &ContainerEntry| entry.kept.layer.walk(shared, &entry.status.id, &entry.kept);
    containers.iter().map(|entry| wanted.layers.then(|| walk(entry))).collect()
}

type Look = ((ContainerEntry, Option<Reading>), Option<layers::Walk>);

async fn used(looks: impl Iterator<Item = Look>) -> Vec<(Arc<ContainerStatus>, ContainerUsage)> {
    let mut found = Vec::new();
    for ((entry, reading), walk) in looks {
        let Some(reading) = reading.filter(|reading| reading.is_there()) else { continue };
        let processes = entry.kept.processes(&reading);
        let usage = entry.kept.usage(reading, Some(begun(&entry.status)));
        let layer = match walk {
            Some(walk) => walk.outcome(&entry.kept).await,
            None => None,
        };
        found.push((entry.status, ContainerUsage { usage, processes, layer }));
    }
    found
}

/// Where a running container is looked at; nothing where one doesn't run.
fn subject(container: &ContainerEntry, pod: &PodEntry) -> Option<Subject> {
    let ContainerPhase::Running { pid, .. } = container.status.phase else { return None };
    let status = pod.status.as_ref()?;
    Some(Subject::container((&container.status.id, pid), status, &container.kept.under_way))
}

/// A cgroup of kubelet's has the time of sandboxes that the pod had before this one.
fn begun_pod(pod: &PodStatus) -> Option<i64> {
    (pod.config.metadata.attempt == 0).then_some(pod.created_at)
}

fn begun(container: &ContainerStatus) -> i64 {
    match &container.phase {
        ContainerPhase::Running { started_at, .. } => *started_at,
        ContainerPhase::Created | ContainerPhase::Exited(_) => clock::now(),
    }
}
