use std::collections::BTreeSet;
use std::sync::Arc;

use sandbox::stats::*;
use sandbox::{ContainerPhase, LayerUsage, PodStatus, Usage};

use super::*;

/// What cAdvisor gave at kubelet's endpoint of containers and pods (lib/metrics/prometheus.go as of July 2026, with the sets of metrics that
/// kubelet 1.36 includes), but for those that docs/stats.md says are absent and why.
const OF_CADVISOR: &[(&str, &[&str])] = &[
    ("container_last_seen", &[]),
    ("container_cpu_user_seconds_total", &[]),
    ("container_cpu_system_seconds_total", &[]),
    ("container_cpu_usage_seconds_total", &["cpu"]),
    ("container_cpu_cfs_periods_total", &[]),
    ("container_cpu_cfs_throttled_periods_total", &[]),
    ("container_cpu_cfs_throttled_seconds_total", &[]),
    ("container_cpu_cfs_burst_periods_total", &[]),
    ("container_cpu_cfs_burst_seconds_total", &[]),
    ("container_cpu_load_average_10s", &[]),
    ("container_cpu_load_d_average_10s", &[]),
    ("container_tasks_state", &["state"]),
    ("container_memory_cache", &[]),
    ("container_memory_rss", &[]),
    ("container_memory_kernel_usage", &[]),
    ("container_memory_mapped_file", &[]),
    ("container_memory_swap", &[]),
    ("container_memory_failcnt", &[]),
    ("container_memory_usage_bytes", &[]),
    ("container_memory_max_usage_bytes", &[]),
    ("container_memory_working_set_bytes", &[]),
    ("container_memory_total_active_file_bytes", &[]),
    ("container_memory_total_inactive_file_bytes", &[]),
    ("container_memory_failures_total", &["failure_type", "scope"]),
    ("container_memory_events_high_total", &[]),
    ("container_memory_events_max_total", &[]),
    ("container_memory_file_dirty_bytes", &[]),
    ("container_memory_file_writeback_bytes", &[]),
    ("container_memory_pgscan_total", &[]),
    ("container_memory_pgsteal_total", &[]),
    ("container_memory_workingset_refault_file_total", &[]),
    ("container_memory_workingset_refault_anon_total", &[]),
    ("container_hugetlb_failcnt", &["pagesize"]),
    ("container_hugetlb_usage_bytes", &["pagesize"]),
    ("container_hugetlb_max_usage_bytes", &["pagesize"]),
    ("container_fs_inodes_free", &["device"]),
    ("container_fs_inodes_total", &["device"]),
    ("container_fs_limit_bytes", &["device"]),
    ("container_fs_usage_bytes", &["device"]),
    ("container_fs_reads_bytes_total", &["device"]),
    ("container_fs_reads_total", &["device"]),
    ("container_fs_writes_bytes_total", &["device"]),
    ("container_fs_writes_total", &["device"]),
    ("container_fs_io_cost_usage_seconds_total", &["device"]),
    ("container_fs_io_cost_wait_seconds_total", &["device"]),
    ("container_fs_io_cost_indebt_seconds_total", &["device"]),
    ("container_fs_io_cost_indelay_seconds_total", &["device"]),
    ("container_blkio_device_usage_total", &["device", "major", "minor", "operation"]),
    ("container_network_receive_bytes_total", &["interface"]),
    ("container_network_receive_packets_total", &["interface"]),
    ("container_network_receive_packets_dropped_total", &["interface"]),
    ("container_network_receive_errors_total", &["interface"]),
    ("container_network_transmit_bytes_total", &["interface"]),
    ("container_network_transmit_packets_total", &["interface"]),
    ("container_network_transmit_packets_dropped_total", &["interface"]),
    ("container_network_transmit_errors_total", &["interface"]),
    ("container_processes", &[]),
    ("container_file_descriptors", &[]),
    ("container_sockets", &[]),
    ("container_threads_max", &[]),
    ("container_threads", &[]),
    ("container_ulimits_soft", &["ulimit"]),
    ("container_oom_events_total", &[]),
    ("container_pressure_cpu_stalled_seconds_total", &[]),
    ("container_pressure_cpu_waiting_seconds_total", &[]),
    ("container_pressure_memory_stalled_seconds_total", &[]),
    ("container_pressure_memory_waiting_seconds_total", &[]),
    ("container_pressure_io_stalled_seconds_total", &[]),
    ("container_pressure_io_waiting_seconds_total", &[]),
    ("container_creation_time_seconds", &[]),
    ("container_start_time_seconds", &[]),
    ("container_spec_cpu_period", &[]),
    ("container_spec_cpu_quota", &[]),
    ("container_spec_cpu_shares", &[]),
    ("container_spec_memory_limit_bytes", &[]),
    ("container_spec_memory_swap_limit_bytes", &[]),
    ("container_spec_memory_reservation_limit_bytes", &[]),
];

#[test]
fn names_and_labels_are_those_of_cadvisor() {
    let ours: Vec<(&str, &[&str])> =
        chosen(&SeriesGroup::ALL, Accounts::ALL).map(|series| (series.name, series.labels)).collect();
    let (named, expected): (BTreeSet<_>, BTreeSet<_>) =
        (ours.iter().copied().collect(), OF_CADVISOR.iter().copied().collect());
    assert_eq!(named, expected);
    assert_eq!(named.len(), ours.len(), "each once: kubelet keeps one descriptor a name");
    for series in chosen(&SeriesGroup::ALL, Accounts::ALL) {
        let counts = series.kind == cri::MetricType::Counter;
        let is_one = series.name.ends_with("_failcnt")
            || series.name.ends_with("_total") && series.name != "container_fs_inodes_total";
        assert_eq!(counts, is_one, "{}", series.name);
    }
}

#[test]
fn a_group_that_is_not_wanted_is_neither_named_nor_looked_at() {
    let names = |groups: &[SeriesGroup]| {
        descriptors(groups, Accounts::ALL).into_iter().map(|descriptor| descriptor.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), [] as [&str; 0]);
    assert_eq!(names(&[SeriesGroup::Oom]), ["container_last_seen", "container_oom_events_total"]);
    let little = wanted(&[SeriesGroup::Oom]);
    assert_eq!(little, Wanted { parts: vec![Part::Cpu, Part::MemoryDetail], ..Wanted::default() });
    let all = wanted(&SeriesGroup::ALL);
    assert!(all.processes && all.descriptors && all.states && all.traffic && all.layers);
    assert_eq!(all.parts.len(), 8, "each part once: {:?}", all.parts);
}

/// Counters that all have something to tell, each another number.
fn counters() -> Stats {
    let stall = |seconds: u64| Stall { total_us: seconds * 1_000_000 + 999_999, averages: [0; 3] };
    let pressure = |n| Some(Pressure { some: stall(n), full: Some(stall(n + 1)) });
    let io = |n| Io { read: n, write: n + 1, discard: n + 2, sync: Some(n + 3), background: Some(n + 4) };
    let cost =
        IoCost { usage_us: 61_000_000, wait_us: 62_000_000, indebt_us: 63_000_000, indelay_us: 64_000_000 };
    Stats {
        cpu: Some(CpuStats { usage_ns: 3_999_999_999 }),
        cpu_detail: CpuDetail {
            modes: Some(CpuModes { user_ns: 2_000_000_000, system_ns: 1_500_000_000 }),
            throttling: Some(Throttling { periods: 9, ..Throttling::default() }),
        },
        memory: Some(MemoryStats {
            usage: 1000,
            working_set: 900,
            limit: Some(5000),
            page_faults: 12,
            own_page_faults: Some((10, 1)),
            kernel: Some(77),
            dirty: Some(1),
            writeback: Some(1),
            pages_scanned: Some(1),
            pages_stolen: Some(1),
            refaults_file: Some(1),
            refaults_anonymous: Some(1),
            ..MemoryStats::default()
        }),
        memory_detail: MemoryDetail {
            peak: Some(2000),
            kernel: None,
            limit_hits: Some(4),
            high_events: Some(5),
            oom_kills: Some(6),
        },
        swap: Some(SwapStats { usage: 8, limit: Some(80), limit_with_memory: None }),
        pressure: Pressures { cpu: pressure(20), memory: pressure(30), io: pressure(40) },
        tasks: Some(TaskStats { current: 3, limit: None }),
        io: vec![DeviceIo { device: (8, 0), bytes: io(50), operations: io(70), cost: Some(cost) }],
        huge_pages: vec![HugePages {
            size: "2MB".to_owned(),
            usage: 2 << 20,
            peak: Some(4 << 20),
            limit_hits: Some(1),
        }],
    }
}

fn pod_usage() -> PodUsage {
    let usage = Usage { at: 1_700_000_000_000_000_000, counters: counters(), nano_cores: None };
    let states = States { running: 1, sleeping: 2, uninterruptible: 3, stopped: 4 };
    let processes = sandbox::ProcessUsage {
        count: 2,
        descriptors: Some(Descriptors { open: 30, sockets: Some(7) }),
        open_files_limit: Some(1024),
        states: Some(states),
        load: Some((1.25, 0.5)),
    };
    let layer = LayerUsage { bytes: 4096, inodes: 3, at: 1 };
    let container = ContainerUsage { usage: usage.clone(), processes: Some(processes), layer: Some(layer) };
    let traffic = |n| Traffic { bytes: n, packets: n + 1, errors: n + 2, dropped: n + 3 };
    let interface = Interface { name: "eth0".to_owned(), received: traffic(100), sent: traffic(200) };
    PodUsage {
        pod: Arc::new(pod_status()),
        cgroup: "/kubepods/pod1".to_owned(),
        usage,
        quota: Some(Quota { runtime_us: Some(150_000), period_us: 100_000 }),
        interfaces: Some(vec![interface]),
        containers: vec![(Arc::new(container_status()), container)],
        missing: 0,
    }
}

fn pod_status() -> PodStatus {
    let metadata = sandbox::PodMetadata {
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        ..sandbox::PodMetadata::default()
    };
    PodStatus {
        id: "a".repeat(64).try_into().unwrap(),
        config: Arc::new(sandbox::PodConfig { metadata, ..sandbox::PodConfig::default() }),
        phase: sandbox::PodPhase::Ready,
        created_at: 0,
        ips: vec![],
        supervisor: None,
        netns: None,
        cgroup: "/kubepods/pod1/a".to_owned(),
        limits: sandbox::PodResources::default(),
        message: String::new(),
    }
}

fn container_status() -> ContainerStatus {
    let mut config = sandbox::ContainerConfig::default();
    "server".clone_into(&mut config.metadata.name);
    "example.org/web:1".clone_into(&mut config.image.user_specified);
    ContainerStatus {
        id: "c".repeat(64).try_into().unwrap(),
        pod: "a".repeat(64).try_into().unwrap(),
        config: Arc::new(config),
        image_id: String::new(),
        image_ref: String::new(),
        image_volumes: Default::default(),
        created_at: 1_600_000_000_000_000_000,
        phase: ContainerPhase::Running { pid: 1, started_at: 1_600_000_001_000_000_000 },
        resources: sandbox::Resources { cpu_quota: Some(50_000), ..sandbox::Resources::default() },
        user: sandbox::ProcessUser::default(),
        stop_signal: sandbox::Signal::TERM,
        log_path: None,
    }
}

fn node() -> Node {
    let disk = Disk { device: "/dev/vda1".to_owned(), bytes: 10_000, inodes: 500, free_inodes: 400 };
    Node { accounts: Accounts::ALL, disk: Some(disk), devices: [((8, 0), "/dev/sda".to_owned())].into() }
}

/// The values of a series with its own labels.
fn of<'a>(metrics: &'a [cri::Metric], name: &str) -> Vec<(Vec<&'a str>, u64)> {
    let found = metrics.iter().filter(|metric| metric.name == name);
    found
        .map(|m| (m.label_values[6..].iter().map(String::as_str).collect(), m.value.unwrap().value))
        .collect()
}

#[test]
fn every_series_has_a_value_with_as_many_labels_as_its_descriptor() {
    let told = pod(&pod_usage(), &SeriesGroup::ALL, &node());
    let descriptors: HashMap<String, usize> = descriptors(&SeriesGroup::ALL, Accounts::ALL)
        .into_iter()
        .map(|d| (d.name, d.label_keys.len()))
        .collect();
    let metrics: Vec<_> = told.metrics.iter().chain(&told.container_metrics[0].metrics).collect();
    for metric in &metrics {
        assert_eq!(Some(&metric.label_values.len()), descriptors.get(&metric.name), "{}", metric.name);
        // kubelet follows the value without looking whether there is one.
        assert!(metric.value.is_some() && metric.timestamp == 0);
    }
    let told: BTreeSet<&str> = metrics.iter().map(|metric| &*metric.name).collect();
    let named: BTreeSet<&str> = descriptors.keys().map(String::as_str).collect();
    assert_eq!(told, named);
}

/// Whoever reads the list expects a value of each: so does critest, of a pod that runs.
#[test]
fn what_a_host_does_not_count_has_neither_descriptor_nor_value() {
    let accounts = Accounts { reclaim: false, io_cost: false, huge_page_hits: false };
    let told = pod(&pod_usage(), &SeriesGroup::ALL, &Node { accounts, ..node() });
    let told: BTreeSet<String> = told.metrics.into_iter().map(|metric| metric.name).collect();
    let named: BTreeSet<String> =
        descriptors(&SeriesGroup::ALL, accounts).into_iter().map(|d| d.name).collect();
    let all: BTreeSet<String> =
        descriptors(&SeriesGroup::ALL, Accounts::ALL).into_iter().map(|d| d.name).collect();
    let missing: Vec<&str> = all.difference(&named).map(String::as_str).collect();
    assert_eq!(
        missing,
        [
            "container_fs_io_cost_indebt_seconds_total",
            "container_fs_io_cost_indelay_seconds_total",
            "container_fs_io_cost_usage_seconds_total",
            "container_fs_io_cost_wait_seconds_total",
            "container_hugetlb_failcnt",
            "container_memory_events_high_total",
            "container_memory_pgscan_total",
            "container_memory_pgsteal_total",
        ]
    );
    assert!(told.is_subset(&named));
}

#[test]
fn rows_say_whose_they_are() {
    let told = pod(&pod_usage(), &SeriesGroup::ALL, &node());
    let (a, c) = ("a".repeat(64), "c".repeat(64));
    let own_cgroup = format!("/kubepods/pod1/a/{c}");
    let of_container = ["server", &own_cgroup, "example.org/web:1", &c, "shop", "web"];
    let metrics = &told.container_metrics[0].metrics;
    assert!(metrics.iter().all(|metric| metric.label_values[..6] == of_container), "{metrics:?}");
    let (of_pod, of_network) =
        (["", "/kubepods/pod1", "", "", "shop", "web"], ["", "/kubepods/pod1/a", "", &a, "shop", "web"]);
    for metric in &told.metrics {
        let is_network = metric.name.starts_with("container_network_");
        let labels = if is_network { of_network } else { of_pod };
        assert_eq!(metric.label_values[..6], labels, "{}", metric.name);
    }
    assert_eq!((told.pod_sandbox_id, &told.container_metrics[0].container_id), (a, &c));
}

#[test]
fn values_are_in_the_units_of_their_names() {
    let told = pod(&pod_usage(), &SeriesGroup::ALL, &node());
    let metrics = &told.container_metrics[0].metrics;
    let one = |name: &str| match &*of(metrics, name) {
        [(labels, value)] if labels.is_empty() => *value,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(of(metrics, "container_cpu_usage_seconds_total"), [(vec!["total"], 3)], "whole seconds");
    assert_eq!(one("container_cpu_system_seconds_total"), 1);
    assert_eq!((one("container_cpu_cfs_periods_total"), one("container_spec_cpu_quota")), (9, 50_000));
    assert_eq!((one("container_spec_cpu_period"), one("container_spec_cpu_shares")), (100_000, 1024));
    assert_eq!((one("container_cpu_load_average_10s"), one("container_cpu_load_d_average_10s")), (1250, 500));
    assert_eq!((one("container_memory_kernel_usage"), one("container_memory_failcnt")), (77, 4));
    assert_eq!((one("container_memory_swap"), one("container_spec_memory_swap_limit_bytes")), (8, 80));
    assert_eq!(one("container_pressure_cpu_waiting_seconds_total"), 20);
    assert_eq!(one("container_pressure_io_stalled_seconds_total"), 41);
    assert_eq!((one("container_threads_max"), one("container_threads")), (0, 3));
    assert_eq!(
        (one("container_last_seen"), one("container_start_time_seconds")),
        (1_700_000_000, 1_600_000_001)
    );
    let faults = of(metrics, "container_memory_failures_total");
    assert_eq!(faults[0], (vec!["pgfault", "container"], 10));
    assert_eq!(faults[2], (vec!["pgfault", "hierarchy"], 12));
    assert_eq!(of(metrics, "container_fs_writes_total"), [(vec!["/dev/sda"], 71)]);
    assert_eq!(of(metrics, "container_fs_usage_bytes"), [(vec!["/dev/vda1"], 4096)]);
    let by_operation = of(metrics, "container_blkio_device_usage_total");
    assert_eq!(by_operation[0], (vec!["/dev/sda", "8", "0", "Read"], 50));
    assert_eq!(by_operation[5], (vec!["/dev/sda", "8", "0", "Total"], 153));
    let of_pod = |name: &str| of(&told.metrics, name).first().map(|(_, value)| *value);
    assert_eq!(of_pod("container_spec_cpu_quota"), Some(150_000));
    assert_eq!(
        (of_pod("container_spec_memory_limit_bytes"), of_pod("container_cpu_cfs_periods_total")),
        (Some(5000), Some(9))
    );
    assert_eq!(of_pod("container_processes"), None);
    let network = |name: &str| of(&told.metrics, name)[0].clone();
    assert_eq!(network("container_network_receive_errors_total"), (vec!["eth0"], 102));
    assert_eq!(network("container_network_transmit_packets_dropped_total"), (vec!["eth0"], 203));
}

#[test]
fn a_container_without_a_quota_has_no_series_of_one() {
    let mut used = pod_usage();
    let mut status = container_status();
    status.resources.cpu_quota = Some(-1);
    used.containers[0].0 = Arc::new(status);
    let told = pod(&used, &SeriesGroup::ALL, &node());
    let metrics = &told.container_metrics[0].metrics;
    assert!(of(metrics, "container_cpu_cfs_periods_total").is_empty());
    assert!(of(metrics, "container_spec_cpu_quota").is_empty());
}

#[test]
fn what_is_not_accounted_is_absent_and_not_zero() {
    let mut used = pod_usage();
    used.usage.counters = Stats::default();
    used.interfaces = None;
    used.containers[0].1 = ContainerUsage::default();
    let told = pod(&used, &SeriesGroup::ALL, &Node { disk: None, devices: HashMap::new(), ..node() });
    assert!(told.metrics.is_empty(), "{:?}", told.metrics);
    let left: BTreeSet<&str> = told.container_metrics[0].metrics.iter().map(|m| &*m.name).collect();
    let known =
        ["creation_time_seconds", "last_seen", "spec_cpu_period", "spec_cpu_quota", "spec_cpu_shares"];
    let mut known: BTreeSet<String> = known.map(|name| format!("container_{name}")).into();
    known.insert("container_spec_memory_reservation_limit_bytes".to_owned());
    known.insert("container_start_time_seconds".to_owned());
    assert_eq!(left, known.iter().map(String::as_str).collect());
}
