//! What pods and containers use, compared with what the kernel's files say when they are read without the daemon.
//!
//! Their files differ by version; where the tests name one, the version 1 name comes first.

mod hanging;
mod series;
mod usage;

use e2e::Pod;
use proto::runtime::v1 as cri;

/// A number in a file of a container's or pod's cgroup.
fn number(pod: &Pod, cgroup: &str, files: &[&str]) -> Option<u64> {
    pod.cgroup_file(cgroup, files)?.parse().ok()
}

/// The value of one of these keys in such a file.
fn keyed(pod: &Pod, cgroup: &str, file: &str, keys: &[&str]) -> Option<u64> {
    let text = pod.cgroup_file(cgroup, &[file])?;
    let value =
        |key: &&str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
    keys.iter().find_map(value)
}

async fn container(pod: &Pod, id: &str) -> cri::ContainerStats {
    let request = cri::ContainerStatsRequest { container_id: id.into() };
    pod.runtime.clone().container_stats(request).await.unwrap().into_inner().stats.unwrap()
}

async fn sandbox(pod: &Pod, id: &str) -> cri::LinuxPodSandboxStats {
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: id.into() };
    let stats = pod.runtime.clone().pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap();
    assert_eq!(stats.attributes.unwrap().id, id);
    stats.linux.unwrap()
}

async fn sandboxes(pod: &Pod, filter: cri::PodSandboxStatsFilter) -> Vec<cri::PodSandboxStats> {
    let request = cri::ListPodSandboxStatsRequest { filter: Some(filter) };
    pod.runtime.clone().list_pod_sandbox_stats(request).await.unwrap().into_inner().stats
}

fn value(value: &Option<cri::UInt64Value>) -> u64 {
    value.as_ref().expect("a value").value
}
