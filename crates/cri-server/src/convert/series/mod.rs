//! The series of pods and containers that kubelet hands on to Prometheus at `/metrics/cadvisor`.
//!
//! Names, types, units and labels are those that cAdvisor gave while it lived in kubelet, so that dashboards and alerts go on; the
//! modules beside have them as tables, one row a series, and docs/stats.md says where each value comes from. kubelet adds nothing: the
//! labels are all ours, in the order of the descriptor. CRI's values are whole numbers, so that seconds are whole seconds.
//!
//! | row of | `container`, `image` | `name` | `id` |
//! |---|---|---|---|
//! | a container | its own | its id | its cgroup |
//! | a pod, with all in it | empty | empty | the cgroup that kubelet has made for it, or its own |
//! | a pod's network | empty | the pod's id | its own cgroup |
//!
//! Not here: looking at anything (see `sandbox::stats`).

mod cpu;
mod disk;
mod memory;
mod network;
mod processes;
mod spec;

use std::collections::HashMap;

use proto::runtime::v1 as cri;
use sandbox::stats::{Accounts, Part, Stats};
use sandbox::{ContainerStatus, ContainerUsage, PodUsage, Wanted};

use crate::config::SeriesGroup;

/// The labels that every series has; its own follow.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// A series: what Prometheus calls a metric family.
struct Series {
    name: &'static str,
    help: &'static str,
    kind: cri::MetricType,
    /// Labels of its own.
    labels: &'static [&'static str],
    /// Whether a host that counts so much has it at all.
    is_counted: fn(&Accounts) -> bool,
    /// Finds its values, and names the values of its own labels with each.
    values: Values,
}

/// How the values of a series are found.
#[derive(Clone, Copy)]
enum Values {
    /// Of containers and of pods, from the cgroup.
    Both(fn(&Stats, &mut Put<'_>)),
    /// Of containers alone.
    Containers(fn(&Container<'_>, &mut Put<'_>)),
    /// Of containers, and of pods in another way.
    Each(fn(&Container<'_>, &mut Put<'_>), fn(&PodUsage, &mut Put<'_>)),
    /// Of pods' networks alone.
    Networks(fn(&PodUsage, &mut Put<'_>)),
}

use Values::{Both, Containers, Each, Networks};

/// A container as the tables see it.
struct Container<'a> {
    status: &'a ContainerStatus,
    used: &'a ContainerUsage,
    node: &'a Node,
}

/// What the node has, for all rows of an answer.
#[derive(Debug)]
pub(crate) struct Node {
    /// What its cgroups count.
    pub(crate) accounts: Accounts,
    /// Where the writable layers lie; none when it can't be found out.
    pub(crate) disk: Option<Disk>,
    /// Paths of block devices by their numbers, of those that turn up.
    pub(crate) devices: HashMap<(u32, u32), String>,
}

/// A filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    /// What is mounted there, such as `/dev/vda1`.
    pub(crate) device: String,
    /// Bytes that a container may use of it.
    pub(crate) bytes: u64,
    /// Inodes that a container may use of it.
    pub(crate) inodes: u64,
    /// Those that are free.
    pub(crate) free_inodes: u64,
}

const fn counter(name: &'static str, help: &'static str, values: Values) -> Series {
    Series { name, help, kind: cri::MetricType::Counter, labels: &[], is_counted: |_| true, values }
}

const fn gauge(name: &'static str, help: &'static str, values: Values) -> Series {
    Series { name, help, kind: cri::MetricType::Gauge, labels: &[], is_counted: |_| true, values }
}

impl Series {
    const fn by(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    /// Has it where that much is counted.
    const fn where_counted(self, is_counted: fn(&Accounts) -> bool) -> Self {
        Self { is_counted, ..self }
    }
}

/// Those of a group, and what has to be looked at for them.
fn group(group: SeriesGroup) -> (&'static [Series], Wanted) {
    let of = |parts: &[Part]| Wanted { parts: parts.to_vec(), ..Wanted::default() };
    match group {
        SeriesGroup::Cpu => (cpu::SERIES, Wanted { quotas: true, ..of(&[Part::Cpu, Part::CpuDetail]) }),
        SeriesGroup::Load => (cpu::LOAD, Wanted { states: true, ..Wanted::default() }),
        SeriesGroup::Memory => (memory::SERIES, of(&[Part::Memory, Part::MemoryDetail])),
        SeriesGroup::Oom => (memory::OOM, of(&[Part::MemoryDetail])),
        SeriesGroup::Hugetlb => (memory::HUGE_PAGES, of(&[Part::HugePages])),
        SeriesGroup::Pressure => (cpu::PRESSURE, of(&[Part::Pressure])),
        SeriesGroup::Disk => (disk::SPACE, Wanted { layers: true, ..Wanted::default() }),
        SeriesGroup::DiskIo => (disk::IO, of(&[Part::Io])),
        SeriesGroup::Network => (network::SERIES, Wanted { traffic: true, ..Wanted::default() }),
        SeriesGroup::Process => {
            (processes::SERIES, Wanted { processes: true, descriptors: true, ..of(&[Part::Tasks]) })
        }
        SeriesGroup::Spec => (spec::SERIES, Wanted { quotas: true, ..of(&[Part::Memory]) }),
    }
}

/// The series of these groups, with those that are always there, as far as this host has them.
fn chosen(groups: &[SeriesGroup], accounts: Accounts) -> impl Iterator<Item = &'static Series> + use<'_> {
    let always = if groups.is_empty() { [].iter() } else { spec::ALWAYS.iter() };
    // Each once, however often it is named: Prometheus refuses a series that is there twice.
    let named = SeriesGroup::ALL.into_iter().filter(|name| groups.contains(name));
    always.chain(named.flat_map(|name| group(name).0)).filter(move |series| (series.is_counted)(&accounts))
}

/// What has to be looked at for these groups.
pub(crate) fn wanted(groups: &[SeriesGroup]) -> Wanted {
    // Without processor time nobody knows whether there is a cgroup.
    let mut all = Wanted { parts: vec![Part::Cpu], ..Wanted::default() };
    for name in groups {
        let (_, wanted) = group(*name);
        for part in wanted.parts {
            if !all.parts.contains(&part) {
                all.parts.push(part);
            }
        }
        all.processes |= wanted.processes;
        all.descriptors |= wanted.descriptors;
        all.states |= wanted.states;
        all.quotas |= wanted.quotas;
        all.traffic |= wanted.traffic;
        all.layers |= wanted.layers;
    }
    all
}

/// What each series is and which labels it has. One that this host can't have of any container is none: whoever reads the list takes it
/// for what is told.
pub(crate) fn descriptors(groups: &[SeriesGroup], accounts: Accounts) -> Vec<cri::MetricDescriptor> {
    let labels =
        |series: &Series| LABELS.iter().chain(series.labels).map(|label| (*label).to_owned()).collect();
    chosen(groups, accounts)
        .map(|series| cri::MetricDescriptor {
            name: series.name.to_owned(),
            help: series.help.to_owned(),
            label_keys: labels(series),
        })
        .collect()
}

/// The values of a pod and its containers.
pub(crate) fn pod(used: &PodUsage, groups: &[SeriesGroup], node: &Node) -> cri::PodSandboxMetrics {
    let id = used.pod.id.to_string();
    let metadata = &used.pod.config.metadata;
    let base = |container: &str, image: &str, name: &str, cgroup: String| {
        let (name, namespace, pod) = (name.to_owned(), metadata.namespace.clone(), metadata.name.clone());
        [container.to_owned(), cgroup, image.to_owned(), name, namespace, pod]
    };
    let of_pod = base("", "", "", used.cgroup.clone());
    let mut metrics = collected(groups, node, &of_pod, |series, put| match series.values {
        // One that couldn't be read isn't there.
        _ if used.usage.counters == Stats::default() => {}
        Both(find) => find(&used.usage.counters, put),
        Each(_, find) => find(used, put),
        Containers(_) | Networks(_) => {}
    });
    let of_network = base("", "", &id, used.pod.cgroup.clone());
    metrics.extend(collected(groups, node, &of_network, |series, put| match series.values {
        Networks(find) => find(used, put),
        Both(_) | Each(..) | Containers(_) => {}
    }));
    let of_container = |(status, usage): &(std::sync::Arc<ContainerStatus>, ContainerUsage)| {
        let image = &status.config.image;
        let image = if image.user_specified.is_empty() { &image.reference } else { &image.user_specified };
        let cgroup = format!("{}/{}", used.pod.cgroup, status.id);
        let labels = base(&status.config.metadata.name, image, status.id.as_str(), cgroup);
        let container = Container { status, used: usage, node };
        let metrics = collected(groups, node, &labels, |series, put| match series.values {
            Both(find) => find(&usage.usage.counters, put),
            Containers(find) | Each(find, _) => find(&container, put),
            Networks(_) => {}
        });
        cri::ContainerMetrics { container_id: status.id.to_string(), metrics }
    };
    let container_metrics = used.containers.iter().map(of_container).collect();
    cri::PodSandboxMetrics { pod_sandbox_id: id, metrics, container_metrics }
}

fn collected(
    groups: &[SeriesGroup],
    node: &Node,
    base: &[String; 6],
    find: impl Fn(&Series, &mut Put<'_>),
) -> Vec<cri::Metric> {
    let mut into = Vec::new();
    for series in chosen(groups, node.accounts) {
        find(series, &mut Put { series, node, base, into: &mut into });
    }
    into
}

/// Where the values of a series go.
struct Put<'a> {
    series: &'a Series,
    node: &'a Node,
    base: &'a [String; 6],
    into: &'a mut Vec<cri::Metric>,
}

impl Put<'_> {
    /// A value of a series without labels of its own.
    fn value(&mut self, value: u64) {
        self.labelled(&[], value);
    }

    /// The same, where there is one.
    fn some(&mut self, value: Option<u64>) {
        if let Some(value) = value {
            self.value(value);
        }
    }

    fn labelled(&mut self, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), self.series.labels.len(), "{}", self.series.name);
        let label_values = self.base.iter().cloned().chain(labels.iter().map(|label| (*label).to_owned()));
        self.into.push(cri::Metric {
            name: self.series.name.to_owned(),
            // Just read.
            timestamp: 0,
            metric_type: self.series.kind as i32,
            label_values: label_values.collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }

    /// The path of a block device; its numbers when it has none, so that two of them are two.
    fn device(&self, device @ (major, minor): (u32, u32)) -> String {
        self.node.devices.get(&device).cloned().unwrap_or_else(|| format!("{major}:{minor}"))
    }
}

/// Nanoseconds as whole seconds: CRI's values have no fraction.
fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1_000_000_000
}

#[cfg(test)]
mod tests;
