//! The series for kubelet's /metrics/cadvisor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use e2e::pod::resources;
use e2e::{Network, Pod, Setup, until};
use proto::runtime::v1 as cri;
use tokio_stream::StreamExt;

use super::{keyed, number};

async fn descriptors(pod: &Pod) -> BTreeMap<String, Vec<String>> {
    let request = cri::ListMetricDescriptorsRequest {};
    let told = pod.runtime.clone().list_metric_descriptors(request).await.unwrap().into_inner().descriptors;
    let count = told.len();
    let named: BTreeMap<_, _> = told.into_iter().map(|told| (told.name, told.label_keys)).collect();
    assert_eq!(named.len(), count, "each name once");
    named
}

async fn metrics(pod: &Pod) -> Vec<cri::PodSandboxMetrics> {
    let request = cri::ListPodSandboxMetricsRequest {};
    pod.runtime.clone().list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics
}

/// A value by the labels that are named.
fn of(metrics: &[cri::Metric], name: &str, own: &[&str]) -> Option<u64> {
    let found = |metric: &&cri::Metric| metric.name == name && metric.label_values[6..] == *own;
    metrics.iter().find(found).map(|metric| metric.value.unwrap().value)
}

#[tokio::test]
async fn what_is_told_was_described_and_agrees_with_the_kernel() {
    let pod = Pod::new(Network::BuiltIn, |_| ()).await;
    let mut wanted = pod.script("main", "exec 5</etc/hostname; ulimit -n 777; sleep 1000 & exec sleep 1000");
    resources(&mut wanted).memory_limit_in_bytes = 64 << 20;
    resources(&mut wanted).cpu_quota = 50_000;
    resources(&mut wanted).cpu_period = 100_000;
    let id = pod.create(wanted).await.unwrap();
    pod.client.start(&id).await.unwrap();
    until(Duration::from_secs(20), "two processes that sleep", || async {
        let sleeps = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("State:\tS")
        };
        let processes = pod.node.processes_of(&id);
        if processes.len() == 2 && processes.iter().all(sleeps) { Ok(()) } else { Err(processes) }
    })
    .await;
    let described = descriptors(&pod).await;
    let all = metrics(&pod).await;
    let [of_pod] = &*all else { panic!("{all:?}") };
    let of_container = &of_pod.container_metrics[0];
    assert_eq!((&of_pod.pod_sandbox_id, &of_container.container_id), (&pod.id, &id));
    for metric in of_pod.metrics.iter().chain(&of_container.metrics) {
        let labels = described.get(&metric.name).unwrap_or_else(|| panic!("{} isn't described", metric.name));
        assert_eq!(labels.len(), metric.label_values.len(), "{}", metric.name);
        assert!(metric.value.is_some(), "kubelet falls over a metric without a value");
    }
    let base: Vec<&str> = of_container.metrics[0].label_values[..6].iter().map(String::as_str).collect();
    let metadata = pod.sandbox.metadata.clone().unwrap();
    assert_eq!((base[0], base[3], base[4], base[5]), ("main", &*id, &*metadata.namespace, &*metadata.name));
    assert!(base[1].starts_with('/') && base[1].ends_with(&format!("/{id}")), "{base:?}");
    assert!(base[2].contains("busybox"), "{base:?}");

    let one = |name: &str, own: &[&str]| of(&of_container.metrics, name, own);
    assert_eq!(one("container_spec_memory_limit_bytes", &[]), Some(64 << 20));
    assert_eq!(
        (one("container_spec_cpu_quota", &[]), one("container_spec_cpu_period", &[])),
        (Some(50_000), Some(100_000))
    );
    assert!(one("container_cpu_cfs_periods_total", &[]).is_some());
    assert_eq!((one("container_processes", &[]), one("container_threads", &[])), (Some(2), Some(2)));
    assert_eq!(one("container_ulimits_soft", &["max_open_files"]), Some(777));
    let open: usize = pod
        .node
        .processes_of(&id)
        .iter()
        .map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
        .sum();
    assert_eq!(one("container_file_descriptors", &[]), Some(open as u64));
    assert_eq!(one("container_sockets", &[]), Some(0));
    assert_eq!(one("container_tasks_state", &["sleeping"]), Some(2));
    assert_eq!(one("container_oom_events_total", &[]), Some(0));
    let cache = keyed(&pod, &id, "memory.stat", &["total_cache", "file"]).unwrap();
    assert!(one("container_memory_cache", &[]).unwrap().abs_diff(cache) < 1 << 20);
    let peak = number(&pod, &id, &["memory.max_usage_in_bytes", "memory.peak"]);
    assert_eq!(one("container_memory_max_usage_bytes", &[]).is_some(), peak.is_some());
    let disk = of_container.metrics.iter().find(|metric| metric.name == "container_fs_limit_bytes").unwrap();
    let df = std::process::Command::new("df")
        .args(["-B1", "--output=source,size"])
        .arg(pod.node.path("root"))
        .output();
    let df = String::from_utf8(df.unwrap().stdout).unwrap();
    let (device, size) = df.lines().last().unwrap().split_once(' ').unwrap();
    assert_eq!(
        (&*disk.label_values[6], disk.value.unwrap().value.to_string()),
        (device, size.trim().to_owned())
    );
    let status = pod.container(&id).await.0;
    assert_eq!(one("container_start_time_seconds", &[]), Some((status.started_at / 1_000_000_000) as u64));

    let network = of(&of_pod.metrics, "container_network_transmit_packets_total", &["eth0"]);
    assert!(network.is_some(), "{:?}", of_pod.metrics);
    assert!(of(&of_pod.metrics, "container_memory_working_set_bytes", &[]).unwrap() > 0);
    assert!(of_pod.metrics.iter().all(|metric| metric.label_values[0].is_empty()));
}

/// Series that have values where there is something to count, or in one version alone (critest excuses them, too): of what went to disks,
/// which is nothing where nothing is on a disk, and of which version 1 counts little since Linux 6.10; and the most huge pages.
const NOT_ALWAYS: [&str; 6] = [
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
    "container_hugetlb_max_usage_bytes",
];

/// Whoever reads a descriptor expects values: what this host doesn't count isn't described.
#[tokio::test]
async fn every_series_that_is_described_has_a_value() {
    let pod = Pod::new(Network::BuiltIn, |_| ()).await;
    let mut wanted = pod.script("main", "exec sleep 1000");
    resources(&mut wanted).cpu_quota = 50_000;
    resources(&mut wanted).cpu_period = 100_000;
    // As kubelet does.
    let limit = cri::HugepageLimit { page_size: "2MB".into(), limit: 0 };
    resources(&mut wanted).hugepage_limits = vec![limit];
    let id = pod.create(wanted).await.unwrap();
    pod.client.start(&id).await.unwrap();
    until(Duration::from_secs(20), "a value of each series", || async {
        let all = metrics(&pod).await;
        let told = all.iter().flat_map(|pod| {
            pod.metrics.iter().chain(pod.container_metrics.iter().flat_map(|container| &container.metrics))
        });
        let told: BTreeSet<String> = told.map(|metric| metric.name.clone()).collect();
        let lacks = |name: &String| !told.contains(name) && !NOT_ALWAYS.contains(&name.as_str());
        let without: Vec<_> = descriptors(&pod).await.into_keys().filter(lacks).collect();
        if without.is_empty() { Ok(()) } else { Err(without) }
    })
    .await;
}

#[tokio::test]
async fn a_kill_for_want_of_memory_is_counted() {
    let pod = Pod::new(Network::None, |_| ()).await;
    // The shell stays, what it starts is killed.
    let mut wanted = pod.script("main", "tail /dev/zero; exec sleep 1000");
    resources(&mut wanted).memory_limit_in_bytes = 16 << 20;
    resources(&mut wanted).memory_swap_limit_in_bytes = 16 << 20;
    let id = pod.create(wanted).await.unwrap();
    pod.client.start(&id).await.unwrap();
    // Linux 6.18 leaves failcnt, by which version 1 counts hits of a limit, at 0 through kills.
    let least = u64::from(Path::new("/sys/fs/cgroup/cgroup.controllers").exists());
    until(Duration::from_secs(30), "a kill and hits of the limit", || async {
        let all = metrics(&pod).await;
        let found = all.first().and_then(|pod| pod.container_metrics.first()).map(|container| {
            let one = |name: &str| of(&container.metrics, name, &[]).unwrap();
            (one("container_oom_events_total"), one("container_memory_failcnt"))
        });
        match found {
            Some((1.., hits)) if hits >= least => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn the_stream_has_what_the_list_has() {
    let pod = Pod::new(Network::None, |_| ()).await;
    pod.waiting("main", |_| ()).await;
    let other = pod.another(|_| ()).await.unwrap();
    let gone = pod.another(|_| ()).await.unwrap();
    pod.client.stop_pod(&gone).await.unwrap();
    let request = cri::StreamPodSandboxMetricsRequest {};
    let mut stream = pod.runtime.clone().stream_pod_sandbox_metrics(request).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(message) = stream.next().await {
        streamed.extend(message.unwrap().pod_sandbox_metrics);
    }
    let shape = |all: &[cri::PodSandboxMetrics]| -> BTreeSet<(String, String, String)> {
        let rows = all.iter().flat_map(|pod| {
            let containers = pod.container_metrics.iter().flat_map(|container| &container.metrics);
            pod.metrics
                .iter()
                .chain(containers)
                .map(|metric| (pod.pod_sandbox_id.clone(), metric.name.clone(), metric.label_values.concat()))
        });
        rows.collect()
    };
    assert_eq!(shape(&streamed), shape(&metrics(&pod).await));
    let pods: BTreeSet<&String> = streamed.iter().map(|pod| &pod.pod_sandbox_id).collect();
    assert_eq!(pods, [&pod.id, &other].into());
}

#[tokio::test]
async fn groups_can_be_chosen() {
    let node = Setup::new(Network::None).section("[metrics]\npods = ['oom', 'network']").start().await;
    let pod = Pod::on(node, |_| ()).await;
    pod.waiting("main", |_| ()).await;
    let described = descriptors(&pod).await;
    let of_network = described.keys().filter(|name| name.starts_with("container_network_")).count();
    assert_eq!((described.len(), of_network), (10, 8), "{described:?}");
    let all = metrics(&pod).await;
    let told: BTreeSet<&str> =
        all[0].container_metrics[0].metrics.iter().map(|metric| &*metric.name).collect();
    assert_eq!(told, ["container_last_seen", "container_oom_events_total"].into());
}

#[tokio::test]
async fn no_groups_are_no_series() {
    let node = Setup::new(Network::None).section("[metrics]\npods = []").start().await;
    let pod = Pod::on(node, |_| ()).await;
    assert!(descriptors(&pod).await.is_empty());
    assert!(metrics(&pod).await.is_empty());
}

/// A list is made and sent by other threads each time, and the C library would keep for each of them what it freed.
#[tokio::test]
async fn what_large_lists_took_is_given_back() {
    let pod = Pod::new(Network::None, |_| ()).await;
    for number in 0..150 {
        pod.waiting(&format!("c{number}"), |_| ()).await;
    }
    let resident = || {
        let text = std::fs::read_to_string(format!("/proc/{}/status", pod.node.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    metrics(&pod).await;
    let before = resident();
    // As many as there may be arenas: eight a processor.
    for _ in 0..32 {
        assert_eq!(metrics(&pod).await[0].container_metrics.len(), 150);
    }
    until(Duration::from_secs(20), "memory to be given back", || async {
        let more = resident().saturating_sub(before);
        if more < 8 << 10 { Ok(()) } else { Err(format!("{more} KiB more than {before} KiB")) }
    })
    .await;
}
