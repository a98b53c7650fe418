//! CRI's stats, field by field.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::pod::resources;
use e2e::{Network, Pod, until};
use proto::runtime::v1 as cri;
use tokio_stream::StreamExt;

use super::{container, keyed, number, sandbox, sandboxes, value};

const MIB: u64 = 1 << 20;

/// Keeps some memory and some files, and works.
const BUSY: &str = "dd if=/dev/zero of=/written bs=1M count=3 2>/dev/null; x=$(head -c 3000000 /dev/zero | tr '\\0' x); \
    while :; do :; done";

fn limited(wanted: &mut cri::ContainerConfig) {
    resources(wanted).memory_limit_in_bytes = 64 * MIB as i64;
    resources(wanted).memory_swap_limit_in_bytes = 64 * MIB as i64;
}

async fn busy(pod: &Pod) -> String {
    let mut wanted = pod.script("busy", BUSY);
    limited(&mut wanted);
    let id = pod.create(wanted).await.unwrap();
    pod.client.start(&id).await.unwrap();
    id
}

#[tokio::test]
async fn processor_time_is_the_kernels_and_a_rate_follows_it() {
    let pod = Pod::new(Network::None, |_| ()).await;
    let id = busy(&pod).await;
    let kernel = || {
        let ns = number(&pod, &id, &["cpuacct.usage"]);
        ns.or_else(|| Some(keyed(&pod, &id, "cpu.stat", &["usage_usec"])? * 1000)).expect("processor time")
    };
    until(Duration::from_secs(20), "some work", || async {
        if kernel() > 300_000_000 { Ok(()) } else { Err(kernel()) }
    })
    .await;
    let before = kernel();
    let cpu = container(&pod, &id).await.cpu.unwrap();
    let after = kernel();
    // The kernel adds up what a running task has used by now at other moments in its different files.
    let told = value(&cpu.usage_core_nano_seconds);
    assert!((before..=after + 20_000_000).contains(&told), "{before} {told} {after}");
    // One shell on one processor, since its beginning: something, and not more than one.
    let cores = value(&cpu.usage_nano_cores);
    assert!((10_000_000..1_100_000_000).contains(&cores), "{cores}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    assert!((now - 10_000_000_000..=now).contains(&cpu.timestamp));
}

/// A daemon that is started again knows no beginning that it had seen, and answers all the same.
#[tokio::test]
async fn the_first_answer_after_a_restart_has_a_rate() {
    let mut pod = Pod::new(Network::None, |_| ()).await;
    let id = busy(&pod).await;
    pod.restart();
    let cores = until(Duration::from_secs(20), "a rate", || async {
        container(&pod, &id).await.cpu.unwrap().usage_nano_cores.ok_or("none")
    })
    .await;
    assert!((1_000_000..1_100_000_000).contains(&cores.value), "{cores:?}");
    assert!(sandbox(&pod, &pod.id).await.cpu.unwrap().usage_nano_cores.is_some());
}

#[tokio::test]
async fn memory_and_swap_are_the_kernels() {
    let pod = Pod::new(Network::None, |_| ()).await;
    let id = busy(&pod).await;
    until(Duration::from_secs(20), "memory as the kernel has it", || async {
        let memory = container(&pod, &id).await.memory.unwrap();
        let usage = number(&pod, &id, &["memory.usage_in_bytes", "memory.current"]).unwrap();
        let key = |names: &[&str]| keyed(&pod, &id, "memory.stat", names).unwrap();
        let told = value(&memory.usage_bytes);
        let working_set = usage - key(&["total_inactive_file", "inactive_file"]);
        let near = [
            (told, usage),
            (value(&memory.working_set_bytes), working_set),
            (value(&memory.available_bytes), 64 * MIB - working_set),
            (value(&memory.rss_bytes), key(&["total_rss", "anon"])),
        ];
        let faults = value(&memory.page_faults).abs_diff(key(&["total_pgfault", "pgfault"]));
        let is_busy = value(&memory.rss_bytes) > 2 * MIB && value(&memory.page_faults) > 500;
        let agree = near.iter().all(|(told, kernel)| told.abs_diff(*kernel) < MIB / 2) && faults < 100;
        if agree && is_busy { Ok(()) } else { Err((near, faults)) }
    })
    .await;
    let stats = container(&pod, &id).await;
    let accounts = pod.cgroup_path(&id, &["memory.memsw.usage_in_bytes", "memory.swap.current"]).is_some();
    match stats.swap {
        // kubelet's way to say that there may be no swap.
        Some(swap) => {
            assert_eq!((value(&swap.swap_usage_bytes), value(&swap.swap_available_bytes)), (0, 0));
        }
        None => assert!(!accounts, "swap is accounted and not told"),
    }
    // Without a limit there is nothing that could be available.
    let unlimited = pod.waiting("unlimited", |_| ()).await;
    assert_eq!(container(&pod, &unlimited).await.memory.unwrap().available_bytes, None);
}

#[tokio::test]
async fn a_writable_layer_is_what_was_written() {
    let pod = Pod::new(Network::None, |_| ()).await;
    let id = busy(&pod).await;
    until(Duration::from_secs(20), "the file", || async {
        let layer = container(&pod, &id).await.writable_layer.expect("a layer");
        let (bytes, inodes) = (value(&layer.used_bytes), value(&layer.inodes_used));
        let is_it = (3 * MIB..4 * MIB).contains(&bytes) && inodes >= 2;
        assert!(layer.fs_id.unwrap().mountpoint.starts_with('/'));
        if is_it { Ok(()) } else { Err((bytes, inodes)) }
    })
    .await;
}

/// Where the kernel counts it: in version 2, and in its tree beside version 1.
#[tokio::test]
async fn pressure_is_told_of_all_three_kinds() {
    let pod = Pod::new(Network::None, |_| ()).await;
    let id = busy(&pod).await;
    let file = pod.cgroup_path(&id, &["cpu.pressure"]);
    let Some(file) = file.filter(|file| std::fs::read(file).is_ok()) else {
        println!("skipped: this kernel counts no pressure of cgroups");
        let stats = container(&pod, &id).await;
        assert_eq!((stats.cpu.unwrap().psi, stats.memory.unwrap().psi, stats.io), (None, None, None));
        return;
    };
    let some = || {
        let text = std::fs::read_to_string(&file).unwrap();
        let total = text.lines().next().unwrap().rsplit_once("total=").unwrap().1;
        total.parse::<u64>().unwrap() * 1000
    };
    // Two of them on one processor wait for each other.
    let mut other = pod.script("other", BUSY);
    resources(&mut other).cpuset_cpus = "0".into();
    let other = pod.create(other).await.unwrap();
    pod.client.start(&other).await.unwrap();
    let before = some();
    let stats = container(&pod, &id).await;
    let after = some();
    let cpu = stats.cpu.unwrap().psi.expect("pressure of processors");
    let told = cpu.some.unwrap().total;
    // Averages are brought up to date by whoever reads them.
    assert!((before..=after + 50_000_000).contains(&told), "{before} {told} {after}");
    assert!(stats.memory.unwrap().psi.unwrap().full.is_some());
    assert!(stats.io.unwrap().psi.unwrap().some.is_some());
    let of_pod = sandbox(&pod, &pod.id).await;
    assert!(of_pod.cpu.unwrap().psi.is_some() && of_pod.memory.unwrap().psi.is_some());
    assert!(of_pod.io.unwrap().psi.is_some());
}

#[tokio::test]
async fn a_pod_has_its_network_its_processes_and_its_containers() {
    let pod = Pod::new(Network::BuiltIn, |_| ()).await;
    let one = pod.waiting("one", |_| ()).await;
    let mut wanted = pod.script("two", "sleep 1000 & sleep 1000 & wait");
    limited(&mut wanted);
    let two = pod.create(wanted).await.unwrap();
    pod.client.start(&two).await.unwrap();
    // Something goes through, and the extra interface is the pod's, too.
    pod.exec(
        &one,
        "ping -c 3 -i 0.2 127.0.0.1; ping -c 3 -W 1 -i 0.2 $(ip route | awk '/default/ {print $3}') || true",
    )
    .await;
    until(Duration::from_secs(20), "four processes", || async {
        let listed = pod.node.processes_of(&one).len() + pod.node.processes_of(&two).len();
        let told = value(&sandbox(&pod, &pod.id).await.process.unwrap().process_count);
        if (listed, told) == (4, 4) { Ok(()) } else { Err((listed, told)) }
    })
    .await;
    until(Duration::from_secs(20), "the interface's own counters", || async {
        let network = sandbox(&pod, &pod.id).await.network.expect("a network");
        let interface = network.default_interface.expect("an interface");
        assert_eq!(interface.name, "eth0");
        assert_eq!(network.interfaces.iter().map(|i| &*i.name).collect::<Vec<_>>(), ["eth0"]);
        let script = "cd /sys/class/net/eth0/statistics; cat rx_bytes rx_errors tx_bytes tx_errors";
        let script = format!(
            "{script} 2>/dev/null || awk '/eth0/ {{print $2; print $4; print $10; print $12}}' /proc/net/dev"
        );
        let kernel: Vec<u64> =
            pod.exec(&one, &script).await.lines().map(|line| line.parse().unwrap()).collect();
        let told = [&interface.rx_bytes, &interface.rx_errors, &interface.tx_bytes, &interface.tx_errors];
        let told = told.map(value).to_vec();
        if told == kernel && told[2] > 0 { Ok(()) } else { Err((told, kernel)) }
    })
    .await;
    let stats = sandbox(&pod, &pod.id).await;
    let containers: BTreeSet<String> =
        stats.containers.iter().map(|container| container.attributes.clone().unwrap().id).collect();
    assert_eq!(containers, [one.clone(), two.clone()].into());
    let sum: u64 = stats
        .containers
        .iter()
        .map(|container| value(&container.cpu.as_ref().unwrap().usage_core_nano_seconds))
        .sum();
    assert!(
        value(&stats.cpu.unwrap().usage_core_nano_seconds) >= sum,
        "the pod's cgroup has all of them in it"
    );
    assert!(value(&stats.memory.unwrap().usage_bytes) > 0);
    // Its traffic is the node's.
    let on_host = pod
        .another(|sandbox| e2e::pod::context(sandbox).namespace_options.get_or_insert_default().network = 2)
        .await
        .unwrap();
    assert_eq!(sandbox(&pod, &on_host).await.network, None);
}

/// kubelet sets a pod's limit on the cgroup that the pod's is below.
#[tokio::test]
async fn what_is_available_to_a_pod_is_limited_by_the_cgroup_above() {
    let pod = Pod::new(Network::None, |_| ()).await;
    assert_eq!(sandbox(&pod, &pod.id).await.memory.unwrap().available_bytes, None);
    let own = pod.cgroup_path(&pod.id, &["memory.limit_in_bytes", "memory.max"]).unwrap();
    let above = own.parent().unwrap().parent().unwrap().join(own.file_name().unwrap());
    let before = std::fs::read_to_string(&above).unwrap();
    std::fs::write(&above, (512 * MIB).to_string()).unwrap();
    let memory = sandbox(&pod, &pod.id).await.memory.unwrap();
    let sum = value(&memory.available_bytes) + value(&memory.working_set_bytes);
    assert_eq!(sum, 512 * MIB);
    std::fs::write(&above, if before.trim() == "max" { "max" } else { "-1" }).unwrap();
}

#[tokio::test]
async fn lists_and_streams_are_filtered() {
    let pod =
        Pod::new(Network::None, |sandbox| drop(sandbox.labels.insert("which".into(), "first".into()))).await;
    let first = pod.waiting("main", |wanted| drop(wanted.labels.insert("tier".into(), "web".into()))).await;
    let ended = pod.create(pod.script("ended", "true")).await.unwrap();
    pod.client.start(&ended).await.unwrap();
    pod.client.exited(&ended).await;
    let second =
        pod.another(|sandbox| drop(sandbox.labels.insert("which".into(), "second".into()))).await.unwrap();
    let gone = pod.another(|_| ()).await.unwrap();
    pod.client.stop_pod(&gone).await.unwrap();

    let labels = |value: &str| [("which".to_owned(), value.to_owned())].into();
    let cases = [
        (cri::PodSandboxStatsFilter::default(), vec![&pod.id, &second]),
        (cri::PodSandboxStatsFilter { id: second[..20].into(), ..Default::default() }, vec![&second]),
        (cri::PodSandboxStatsFilter { label_selector: labels("first"), ..Default::default() }, vec![&pod.id]),
        (cri::PodSandboxStatsFilter { id: second.clone(), label_selector: labels("first") }, vec![]),
        (cri::PodSandboxStatsFilter { id: gone.clone(), ..Default::default() }, vec![]),
    ];
    for (filter, expected) in cases {
        let expected: BTreeSet<&String> = expected.into_iter().collect();
        let listed = sandboxes(&pod, filter.clone()).await;
        let id = |stats: &cri::PodSandboxStats| stats.attributes.clone().unwrap().id;
        let ids: BTreeSet<String> = listed.iter().map(id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>(), expected, "{filter:?}");
        let request = cri::StreamPodSandboxStatsRequest { filter: Some(filter) };
        let mut stream = pod.runtime.clone().stream_pod_sandbox_stats(request).await.unwrap().into_inner();
        let mut streamed = BTreeSet::new();
        while let Some(message) = stream.next().await {
            streamed.extend(message.unwrap().pod_sandbox_stats.iter().map(id));
        }
        assert_eq!(streamed, ids);
    }

    let tier = |value: &str| [("tier".to_owned(), value.to_owned())].into();
    let cases = [
        (cri::ContainerStatsFilter::default(), 1),
        (cri::ContainerStatsFilter { id: first[..12].into(), ..Default::default() }, 1),
        (cri::ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() }, 1),
        (cri::ContainerStatsFilter { pod_sandbox_id: second.clone(), ..Default::default() }, 0),
        (cri::ContainerStatsFilter { label_selector: tier("web"), ..Default::default() }, 1),
        (cri::ContainerStatsFilter { label_selector: tier("none"), ..Default::default() }, 0),
        (cri::ContainerStatsFilter { id: ended.clone(), ..Default::default() }, 0),
    ];
    for (filter, expected) in cases {
        let request = cri::ListContainerStatsRequest { filter: Some(filter.clone()) };
        let listed = pod.runtime.clone().list_container_stats(request).await.unwrap().into_inner().stats;
        assert_eq!(listed.len(), expected, "{filter:?}");
        let request = cri::StreamContainerStatsRequest { filter: Some(filter) };
        let mut stream = pod.runtime.clone().stream_container_stats(request).await.unwrap().into_inner();
        let mut streamed = Vec::new();
        while let Some(message) = stream.next().await {
            streamed.extend(message.unwrap().container_stats);
        }
        assert_eq!(streamed.len(), expected);
    }
    // One that has ended still has its layer, and one that is asked for by name is answered.
    let stats = container(&pod, &ended).await;
    assert!(stats.writable_layer.is_some() && stats.cpu.unwrap().usage_core_nano_seconds.is_none());
    let unknown = cri::PodSandboxStatsRequest { pod_sandbox_id: "none".into() };
    let refused = pod.runtime.clone().pod_sandbox_stats(unknown).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    assert!(sandbox(&pod, &gone).await.containers.is_empty(), "a pod that was stopped uses nothing");
}

/// The price of a list, in what the daemon reads for each container: the files of the table in docs/stats.md, each once.
#[tokio::test]
async fn a_list_reads_each_file_once() {
    let pod = Pod::new(Network::None, |_| ()).await;
    let io = format!("/proc/{}/io", pod.node.pid());
    let reads = || {
        let text = std::fs::read_to_string(&io).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix("syscr: ")?.parse::<u64>().ok())
            .expect("a count of reads")
    };
    const LISTS: u64 = 20;
    let cost = async |containers: u64| {
        let before = reads();
        for _ in 0..LISTS {
            let request = cri::ListContainerStatsRequest::default();
            let stats = pod.runtime.clone().list_container_stats(request).await.unwrap().into_inner().stats;
            assert_eq!(stats.len() as u64, containers);
        }
        reads() - before
    };
    pod.waiting("c0", |_| ()).await;
    let one = cost(1).await;
    for number in 1..=10 {
        pod.waiting(&format!("c{number}"), |_| ()).await;
    }
    let eleven = cost(11).await;
    let each = eleven.saturating_sub(one) as f64 / (10 * LISTS) as f64;
    println!("{each} reads for each container ({one} and {eleven} for {LISTS} lists)");
    assert!(each <= 9.5, "{each} reads for each container");
}
