//! The metrics of pods that kubelet asks for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use proto::runtime::v1 as cri;
use sandbox::stats::device_name;
use sandbox::{PodFilter, PodPhase, PodUsage};

use tonic::Status;

use super::Runtime;
use crate::adapters::limited;
use crate::convert::series::{self, Node};
use crate::status::of_sandbox;

pub(super) fn descriptors(runtime: &Runtime) -> Vec<cri::MetricDescriptor> {
    series::descriptors(&runtime.config.borrow().metrics.pods, runtime.pods.accounts())
}

/// Of pods that are ready. All is read before the first one is written down; that happens as they are taken.
pub(super) async fn list(
    runtime: &Runtime,
) -> Result<impl Iterator<Item = cri::PodSandboxMetrics> + Send + use<>, Status> {
    let config = Arc::clone(&runtime.config.borrow());
    let groups = config.metrics.pods.clone();
    let wanted = series::wanted(&groups);
    let ready = PodFilter { phase: Some(PodPhase::Ready), ..PodFilter::default() };
    let disk = async {
        let disk = if wanted.layers { runtime.disk.directory(runtime.layers.clone()).await } else { None };
        disk.map(|disk| limited(disk, &config.containers))
    };
    // Without a series there is nothing to look at.
    let used = async {
        if groups.is_empty() { Ok(Vec::new()) } else { runtime.pods.pods_stats(&ready, &wanted).await }
    };
    let (disk, used) = tokio::join!(disk, used);
    let used = used.map_err(|error| of_sandbox(&error))?;
    let taken = Taken::by(&used);
    let node = Node { accounts: runtime.pods.accounts(), disk, devices: devices(&used) };
    Ok(used.into_iter().map(move |pod| {
        // Goes with the last of them.
        let _until_written = &taken;
        series::pod(&pod, &groups, &node)
    }))
}

/// Containers whose values take about a megabyte. What fewer take isn't worth looking through all that is free.
const MANY: usize = 16;

/// After which an answer that is written has long been sent, also on a slow and busy machine, and its memory is free.
const SENT: Duration = Duration::from_secs(5);

/// What a large list takes, which is given back when it has been written and sent. Every time another thread makes it, and the C library
/// keeps what was freed for each of them: 12 MiB of 300 containers, up to eight times as often as there are processors.
struct Taken {
    containers: usize,
}

impl Taken {
    fn by(used: &[PodUsage]) -> Taken {
        Taken { containers: used.iter().map(|pod| pod.containers.len()).sum() }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.containers >= MANY {
            // Nobody's: there is nothing to wait for, and it ends with the daemon.
            tokio::spawn(async {
                tokio::time::sleep(SENT).await;
                let _ended = tokio::task::spawn_blocking(sandbox::give_back_memory).await;
            });
        }
    }
}

/// All of them at once: on a full node a hundred thousand values, for which nobody else is to wait.
pub(super) async fn all(runtime: &Runtime) -> Result<Vec<cri::PodSandboxMetrics>, Status> {
    let written = list(runtime).await?;
    let written = tokio::task::spawn_blocking(move || written.collect()).await;
    written.map_err(|error| Status::internal(format!("writing the metrics down: {error}")))
}

/// The paths of the devices that something went to or came from.
fn devices(used: &[PodUsage]) -> HashMap<(u32, u32), String> {
    let of_containers = used.iter().flat_map(|pod| &pod.containers).map(|(_, container)| &container.usage);
    let all = used.iter().map(|pod| &pod.usage).chain(of_containers);
    let numbers: BTreeSet<(u32, u32)> =
        all.flat_map(|usage| usage.counters.io.iter().map(|io| io.device)).collect();
    let named = |numbers| Some((numbers, format!("/dev/{}", device_name(numbers)?)));
    numbers.into_iter().filter_map(named).collect()
}
