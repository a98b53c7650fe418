//! What pods and containers use, read from their cgroups when asked for.
//!
//! Not here: rates over time (the server keeps samples), the writable layer (see `rootfs`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::cgroup::Cgroup;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::clock;
use crate::container::status::ContainerStatus;
use crate::error::Error;
use crate::id::ContainerId;
use crate::pod::status::PodStatus;
use crate::registry::PodEntry;
use crate::rootfs::LayerUsage;
use crate::shared::{Shared, blocking};

/// What a pod or container uses; `None` where the host doesn't count it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// When it was read, in nanoseconds since the epoch.
    pub at: i64,
    /// CPU time since the start, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory in bytes, page cache included.
    pub memory_usage: Option<u64>,
    /// Memory that can't be reclaimed easily, in bytes: usage less inactive file pages, as kubelet defines it.
    pub memory_working_set: Option<u64>,
    /// Anonymous memory in bytes.
    pub memory_rss: Option<u64>,
    /// The limit less the working set, in bytes.
    pub memory_available: Option<u64>,
    /// Page faults since the start.
    pub page_faults: Option<u64>,
    /// Those of them that needed the disk.
    pub major_page_faults: Option<u64>,
    /// Swap in bytes.
    pub swap_usage: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A container's usage with that of its writable layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// From the cgroup.
    pub usage: Usage,
    /// From the filesystem; `None` when it could not be read.
    pub layer: Option<LayerUsage>,
}

/// What a container uses. One that doesn't run uses its layer alone.
pub(crate) async fn container(
    shared: &Arc<Shared>,
    status: &ContainerStatus,
    pod: &PodEntry,
) -> Result<ContainerUsage, Error> {
    let layer = layer(shared, &status.id).await;
    let usage = match &pod.status {
        Some(pod) => read(shared, format!("{}/{}", pod.cgroup, status.id)).await?,
        None => Usage { at: clock::now(), ..Usage::default() },
    };
    Ok(ContainerUsage { usage, layer })
}

/// How many containers are looked at together.
const AT_ONCE: usize = 32;

/// What containers use, each as [`container`] tells it; those that can't be read are left out.
pub(crate) async fn containers(
    shared: &Arc<Shared>,
    wanted: Vec<Arc<ContainerStatus>>,
) -> Vec<(Arc<ContainerStatus>, ContainerUsage)> {
    let seats = Arc::new(Semaphore::new(AT_ONCE));
    let mut looks = JoinSet::new();
    for (at, status) in wanted.into_iter().enumerate() {
        let (shared, seats) = (shared.clone(), seats.clone());
        looks.spawn(async move {
            let _seat = seats.acquire().await.ok()?;
            let pod = shared.registry.pod(status.pod.as_str()).ok()?;
            let usage = container(&shared, &status, &pod).await.ok()?;
            Some((at, status, usage))
        });
    }
    let mut found: Vec<_> = looks.join_all().await.into_iter().flatten().collect();
    found.sort_by_key(|(at, ..)| *at);
    found.into_iter().map(|(_, status, usage)| (status, usage)).collect()
}

/// How long a writable layer may take to be measured before the answer goes without it.
const WALK_DEADLINE: Duration = Duration::from_secs(2);

/// The walks over writable layers that are under way. One over a disk that hangs does not come back: whoever asks again joins it, so
/// there is never more than one thread for each container.
#[derive(Debug, Default)]
pub(crate) struct Walks(Mutex<BTreeMap<ContainerId, Walk>>);

/// Where the outcome of a walk will be: `Some` when there is one, with nothing in it when the layer can't be read.
type Walk = watch::Receiver<Option<Option<LayerUsage>>>;

impl Walks {
    /// Begins a walk, or joins the one that is under way.
    fn join(shared: &Arc<Shared>, id: &ContainerId) -> Walk {
        let mut walks = shared.walks.lock();
        // One without a sender has ended without a word.
        if let Some(walk) = walks.get(id).filter(|walk| walk.has_changed().is_ok()) {
            return walk.clone();
        }
        let (outcome, walk) = watch::channel(None);
        walks.insert(id.clone(), walk.clone());
        let (shared, id) = (shared.clone(), id.clone());
        // Nobody's when all who waited have given up; it ends when its walk does.
        tokio::spawn(async move {
            let used = shared.rootfs.usage(&id).await.ok();
            shared.walks.lock().remove(&id);
            outcome.send_replace(Some(used));
        });
        walk
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Walk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a writable layer holds; `None` when that can't be found out in time.
async fn layer(shared: &Arc<Shared>, id: &ContainerId) -> Option<LayerUsage> {
    let mut walk = Walks::join(shared, id);
    let outcome = tokio::time::timeout(WALK_DEADLINE, walk.wait_for(Option::is_some)).await;
    outcome.ok()?.ok()?.flatten()
}

/// What a pod uses with all in it.
pub(crate) async fn pod(shared: &Arc<Shared>, status: &PodStatus) -> Result<Usage, Error> {
    read(shared, status.cgroup.clone()).await
}

async fn read(shared: &Arc<Shared>, path: String) -> Result<Usage, Error> {
    let after = shared.config.deadlines.cgroup;
    let host = shared.host.clone();
    let subject = path.clone();
    let stats = blocking(("reading the usage", &subject, after), move || {
        let read = Cgroup::at(&host, &path).and_then(|cgroup| cgroup.stats());
        read.map_err(|cause| Error::step("reading the usage", path, cause))
    })
    .await?;
    let memory = stats.memory;
    Ok(Usage {
        at: clock::now(),
        cpu_ns: stats.cpu.map(|cpu| cpu.usage_ns),
        memory_usage: memory.map(|memory| memory.usage),
        memory_working_set: memory.map(|memory| memory.working_set),
        memory_rss: memory.map(|memory| memory.rss),
        memory_available: memory.and_then(|m| m.limit.map(|limit| limit.saturating_sub(m.working_set))),
        page_faults: memory.map(|memory| memory.page_faults),
        major_page_faults: memory.map(|memory| memory.major_page_faults),
        swap_usage: memory.and_then(|memory| memory.swap),
        pids: stats.pids,
    })
}
