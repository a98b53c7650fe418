//! Limits of pods and containers, at the beginning and after updates, as requests say them and as the kernel has them.

use e2e::pod::{linux, resources};
use e2e::{Network, Pod};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proto::runtime::v1 as cri;
use tonic::Code;

fn shares(cpu_shares: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources { cpu_shares, ..Default::default() }
}

/// The weight of a cgroup on the scale of version 1, or what version 2 makes of it.
fn weight(pod: &Pod, cgroup: &str) -> String {
    pod.cgroup_file(cgroup, &["cpu.shares", "cpu.weight"]).expect("a weight")
}

/// Of a number of shares: as it is, and as a weight of version 2.
fn is_weight(found: &str, (shares, weight): (u64, u64)) -> bool {
    found == shares.to_string() || found == weight.to_string()
}

#[tokio::test]
async fn a_pods_own_limits_are_kept_shown_and_updated() {
    let mut pod = Pod::new(Network::None, |sandbox| {
        linux(sandbox).overhead =
            Some(cri::LinuxContainerResources { memory_limit_in_bytes: 1 << 20, ..shares(24) });
        let sum = cri::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_quota: 5_000,
            cpu_period: 100_000,
            ..shares(1000)
        };
        linux(sandbox).resources = Some(sum);
    })
    .await;
    let id = pod.id.clone();
    let found = weight(&pod, &id);
    assert!(is_weight(&found, (1024, 100)), "both parts together: {found}");
    // The sum leaves out what has no limit: it must not bind a container that has none.
    let limit = pod.cgroup_file(&id, &["memory.limit_in_bytes", "memory.max"]).unwrap();
    assert!(limit == "max" || limit.parse::<u64>().unwrap() > 1 << 40, "{limit}");
    let quota = pod.cgroup_file(&id, &["cpu.cfs_quota_us", "cpu.max"]).unwrap();
    assert!(quota == "-1" || quota.starts_with("max"), "{quota}");

    let update = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.clone(),
        overhead: None,
        resources: Some(cri::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..shares(2) }),
    };
    pod.runtime.update_pod_sandbox_resources(update.clone()).await.unwrap();
    pod.restart();
    for round in ["before a restart", "after it"] {
        let found = weight(&pod, &id);
        assert!(is_weight(&found, (26, 7)), "{round}: {found}");
        let config = pod.info(&id).await["config"].clone();
        assert_eq!(config["resources"]["memory_limit"], 96 << 20, "{round}");
        assert_eq!(config["overhead"]["memory_limit"], 1 << 20, "{round}: what is not said stays");
        pod.restart();
    }
    // Still the pod that was asked for: a retry of the first request finds it.
    let again = cri::RunPodSandboxRequest { config: Some(pod.sandbox.clone()), ..Default::default() };
    assert_eq!(pod.runtime.run_pod_sandbox(again).await.unwrap().into_inner().pod_sandbox_id, id);

    let usual = cri::UpdatePodSandboxResourcesRequest {
        overhead: Some(Default::default()),
        resources: Some(Default::default()),
        ..update.clone()
    };
    pod.runtime.update_pod_sandbox_resources(usual).await.unwrap();
    assert!(is_weight(&weight(&pod, &id), (1024, 100)), "back to the usual");

    let negative = cri::UpdatePodSandboxResourcesRequest { overhead: Some(shares(-1)), ..update.clone() };
    let refused = pod.runtime.update_pod_sandbox_resources(negative).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "overhead.cpu_shares: -1 is negative")
    );
    let unknown = cri::UpdatePodSandboxResourcesRequest { pod_sandbox_id: "none".into(), ..update.clone() };
    let refused = pod.runtime.update_pod_sandbox_resources(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    pod.client.stop_pod(&id).await.unwrap();
    let late = pod.runtime.update_pod_sandbox_resources(update).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
}

#[tokio::test]
async fn refusals_of_limits_name_the_message_that_they_are_in() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let refused = pod.another(|sandbox| linux(sandbox).overhead = Some(shares(-1))).await.unwrap_err();
    assert_eq!(refused.message(), "linux.overhead.cpu_shares: -1 is negative");
    let refused = pod.another(|sandbox| linux(sandbox).resources = Some(shares(-1))).await.unwrap_err();
    assert_eq!(refused.message(), "linux.resources.cpu_shares: -1 is negative");
    let id = pod.waiting("main", |wanted| resources(wanted).cpu_shares = 512).await;
    let update = |linux: cri::LinuxContainerResources| cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    let mut runtime = pod.runtime.clone();
    for (wrong, path) in [
        (shares(-1), "linux.cpu_shares: "),
        (cri::LinuxContainerResources { cpu_period: 7, ..Default::default() }, "linux.cpu_period: "),
        (
            cri::LinuxContainerResources { cpuset_cpus: "4096".into(), ..Default::default() },
            "linux.cpuset_cpus: ",
        ),
    ] {
        let refused = runtime.update_container_resources(update(wrong)).await.unwrap_err();
        assert!(refused.message().starts_with(path), "{refused}");
    }
    assert!(is_weight(&weight(&pod, &id), (512, 59)), "{}", weight(&pod, &id));
}

/// What makes the container is not in its account but for what a process is begun with.
#[tokio::test]
async fn a_container_with_a_mebibyte_of_memory_starts() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let little = |wanted: &mut cri::ContainerConfig| {
        wanted.command = ["sleep", "1000"].map(str::to_owned).to_vec();
        resources(wanted).memory_limit_in_bytes = 1 << 20;
    };
    let id = pod.waiting("little", little).await;
    let limit = pod.cgroup_file(&id, &["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(limit.as_deref(), Some("1048576"));
    assert_eq!(pod.client.exec(&id, &["true"], 10).await.unwrap().exit_code, 0, "there is room for an exec");
    let status = pod.client.container(&id).await.unwrap();
    assert_eq!(status.state, e2e::cri::ContainerState::ContainerRunning as i32, "{status:?}");
    pod.client.stop(&id, 0).await.unwrap();
    let status = pod.client.container(&id).await.unwrap();
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "Error"),
        "killed by nobody else: {status:?}"
    );
}

/// All that a message of limits can say, with numbers of its own.
fn everything(from: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: 100_000 + from,
        cpu_quota: 20_000 + from,
        cpu_shares: 300 + from,
        memory_limit_in_bytes: (1 << 26) + from,
        memory_swap_limit_in_bytes: (1 << 27) + from,
        oom_score_adj: 100 + from,
        cpuset_cpus: "0".into(),
        cpuset_mems: "0".into(),
        hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
    }
}

#[tokio::test]
async fn every_limit_of_a_pod_is_kept_and_replaced_by_an_update() {
    let mut pod = Pod::new(Network::None, |sandbox| {
        linux(sandbox).overhead = Some(everything(1));
        linux(sandbox).resources = Some(everything(2));
    })
    .await;
    let shown = |from: i64| {
        serde_json::json!({
            "cpu_period": 100_000 + from, "cpu_quota": 20_000 + from, "cpu_shares": 300 + from,
            "memory_limit": (1 << 26) + from, "memory_swap_limit": (1 << 27) + from, "oom_score_adj": 100 + from,
            "cpuset_cpus": "0", "cpuset_mems": "0", "hugepage_limits": { "2MB": 4 << 20 },
            "unified": { "memory.oom.group": "1" },
        })
    };
    let config = pod.info(&pod.id).await["config"].clone();
    assert_eq!((&config["overhead"], &config["resources"]), (&shown(1), &shown(2)));
    let update = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: Some(everything(3)),
        resources: Some(everything(4)),
    };
    pod.runtime.update_pod_sandbox_resources(update).await.unwrap();
    let config = pod.info(&pod.id).await["config"].clone();
    assert_eq!((&config["overhead"], &config["resources"]), (&shown(3), &shown(4)));
    // Killing all together would take the supervisor along.
    let group = pod.cgroup_file(&pod.id, &["memory.oom.group"]);
    assert!(group.is_none_or(|group| group == "0"));
}

#[tokio::test]
async fn an_update_of_a_container_reaches_the_kernel_and_the_status() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let id = pod.waiting("main", |wanted| resources(wanted).oom_score_adj = 500).await;
    let asked = cri::LinuxContainerResources {
        cpu_period: 50_000,
        cpu_quota: 25_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 96 << 20,
        oom_score_adj: 900,
        cpuset_cpus: "0".into(),
        cpuset_mems: "0".into(),
        hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
        unified: Default::default(),
    };
    let update = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(asked.clone()),
        windows: None,
        annotations: [("what".to_owned(), "ever".to_owned())].into(),
    };
    let mut runtime = pod.runtime.clone();
    runtime.update_container_resources(update.clone()).await.unwrap();
    let read = |files: &[&str]| pod.cgroup_file(&id, files);
    let quota = read(&["cpu.cfs_quota_us", "cpu.max"]).unwrap();
    assert!(quota == "25000" || quota == "25000 50000", "{quota}");
    assert!(read(&["cpu.cfs_period_us"]).is_none_or(|period| period == "50000"));
    assert!(is_weight(&weight(&pod, &id), (512, 59)));
    assert_eq!(read(&["memory.limit_in_bytes", "memory.max"]).unwrap(), (64 << 20).to_string());
    // Where the kernel accounts for swap: together on version 1, what is beyond memory on version 2.
    if let Some(swap) = read(&["memory.memsw.limit_in_bytes", "memory.swap.max"]) {
        assert!(swap == (96 << 20).to_string() || swap == (32 << 20).to_string(), "{swap}");
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        assert_eq!(read(&[file]).as_deref(), Some("0"), "{file}");
    }
    if let Some(limit) = read(&["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"]) {
        assert_eq!(limit, (4 << 20).to_string());
    }
    let scores = "cat /proc/1/oom_score_adj /proc/self/oom_score_adj | xargs";
    assert_eq!(pod.exec(&id, scores).await, "900 900", "of what runs, and of what is executed from now on");
    let (status, info) = pod.container(&id).await;
    assert_eq!(info["config"]["resources"]["memory_limit"], 64 << 20);
    let spec = &info["runtimeSpec"];
    assert_eq!(
        (&spec["linux"]["resources"]["memory"]["limit"], &spec["process"]["oomScoreAdj"]),
        (&(64 << 20).into(), &900.into())
    );
    assert!(
        spec["linux"]["resources"]["devices"].as_array().is_some_and(|rules| !rules.is_empty()),
        "{spec}"
    );
    let shown = status.resources.unwrap().linux.unwrap();
    assert_eq!(shown, asked);
    // What a message doesn't say stays: kubelet's CPU manager sends a set of CPUs and nothing else.
    let cpus = cri::LinuxContainerResources { cpuset_cpus: "0-1".into(), ..Default::default() };
    let only = cri::UpdateContainerResourcesRequest { linux: Some(cpus), ..update.clone() };
    runtime.update_container_resources(only).await.unwrap();
    assert_eq!(read(&["cpuset.cpus"]).as_deref(), Some("0-1"));
    assert_eq!(pod.exec(&id, scores).await, "900 900");
    assert_eq!(read(&["memory.limit_in_bytes", "memory.max"]).unwrap(), (64 << 20).to_string());
    // Nor is a quota lifted by a period alone.
    let period = cri::LinuxContainerResources { cpu_period: 100_000, ..Default::default() };
    let only = cri::UpdateContainerResourcesRequest { linux: Some(period), ..update.clone() };
    runtime.update_container_resources(only).await.unwrap();
    let quota = read(&["cpu.cfs_quota_us", "cpu.max"]).unwrap();
    assert!(quota == "25000" || quota == "25000 100000", "{quota}");
    assert!(read(&["cpu.cfs_period_us"]).is_none_or(|period| period == "100000"));
    let windows =
        cri::UpdateContainerResourcesRequest { windows: Some(Default::default()), ..update.clone() };
    let refused = runtime.update_container_resources(windows).await.unwrap_err();
    assert_eq!(refused.message(), "windows: this node runs Linux");
    let freeze = [("cgroup.freeze".to_owned(), "1".to_owned())].into();
    let unified = cri::LinuxContainerResources { unified: freeze, ..Default::default() };
    let refused = cri::UpdateContainerResourcesRequest { linux: Some(unified), ..update };
    let refused = runtime.update_container_resources(refused).await.unwrap_err();
    assert!(refused.message().starts_with("linux.unified: "), "{refused}");
}

/// The kernel takes a part of it and not the rest: on version 1 a quota beyond the pod's, on version 2 a setting with nonsense in it.
#[tokio::test]
async fn an_update_that_the_kernel_refuses_is_taken_back() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let id = pod.waiting("main", |wanted| resources(wanted).memory_limit_in_bytes = 64 << 20).await;
    let mut asked = cri::LinuxContainerResources {
        memory_limit_in_bytes: 96 << 20,
        cpu_shares: 512,
        oom_score_adj: 900,
        ..Default::default()
    };
    match pod.cgroup_path(&pod.id, &["cpu.cfs_quota_us"]) {
        Some(quota_of_pod) => {
            std::fs::write(quota_of_pod, "50000").unwrap();
            asked.cpu_quota = 100_000;
            asked.cpu_period = 100_000;
        }
        None => asked.unified = [("memory.high".to_owned(), "nonsense".to_owned())].into(),
    }
    let held = || {
        let memory = pod.cgroup_file(&id, &["memory.limit_in_bytes", "memory.max"]).unwrap();
        (memory, weight(&pod, &id))
    };
    let before = held();
    let (shown, _) = pod.container(&id).await;
    let request = |linux: cri::LinuxContainerResources| cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    let mut runtime = pod.runtime.clone();
    let refused = runtime.update_container_resources(request(asked.clone())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "the kernel's own refusal: {refused}");
    assert_eq!(held(), before, "what the kernel has after {refused}");
    assert_eq!(pod.exec(&id, "cat /proc/1/oom_score_adj").await, "0");
    let (after, _) = pod.container(&id).await;
    assert_eq!(after.resources, shown.resources);
    let possible =
        cri::LinuxContainerResources { cpu_quota: 0, cpu_period: 0, unified: Default::default(), ..asked };
    runtime.update_container_resources(request(possible)).await.unwrap();
    assert_eq!(held().0, (96 << 20).to_string());
}

/// Files of controllers, on hosts with cgroup v2 alone. Of an OOM with `memory.oom.group`, as kubelet asks for, none is left alive.
/// All is asked for at once: what grows page by page evicts its own program on the way and reads it again, for minutes.
#[tokio::test]
async fn settings_of_version_2_are_written_as_they_are() {
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("skipped: this host doesn't have cgroup v2 alone");
        return;
    }
    let pod = Pod::new(Network::None, |_| {}).await;
    let script = "until test -e /go; do sleep 0.05; done; sh -c 'dd if=/dev/zero of=/dev/null bs=100M count=1' >/dev/null 2>&1; sleep 1000";
    let mut wanted = pod.script("main", script);
    let settings = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
    };
    let limits = resources(&mut wanted);
    limits.memory_limit_in_bytes = 16 << 20;
    limits.unified = settings(&[("memory.oom.group", "1"), ("memory.low", "4194304"), ("pids.max", "77")]);
    let id = pod.create(wanted).await.unwrap();
    pod.client.start(&id).await.unwrap();
    let read = |file: &str| pod.cgroup_file(&id, &[file]);
    for (file, value) in [("memory.oom.group", "1"), ("memory.low", "4194304"), ("pids.max", "77")] {
        assert_eq!(read(file).as_deref(), Some(value), "{file}");
    }
    let unified = settings(&[("pids.max", "78"), ("memory.swap.max", "0")]);
    let update = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources { unified, ..Default::default() }),
        ..Default::default()
    };
    pod.runtime.clone().update_container_resources(update).await.unwrap();
    assert_eq!((read("pids.max").as_deref(), read("memory.low").as_deref()), (Some("78"), Some("4194304")));
    pod.exec(&id, "touch /go").await;
    let status = pod.client.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
}

/// What was changed before the start, and over a restart of the daemon.
#[tokio::test]
async fn an_oom_score_follows_updates_but_not_into_what_chose_its_own() {
    let mut pod = Pod::new(Network::None, |_| {}).await;
    let script = "echo 777 > /proc/self/oom_score_adj; sleep 2000 & echo $! > /own; echo 300 > /proc/self/oom_score_adj; \
                  touch /ready; exec sleep 1000";
    let mut wanted = pod.script("main", script);
    resources(&mut wanted).oom_score_adj = 200;
    let id = pod.create(wanted).await.unwrap();
    let update = |oom_score_adj| cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources { oom_score_adj, ..Default::default() }),
        ..Default::default()
    };
    pod.runtime.update_container_resources(update(300)).await.unwrap();
    pod.client.start(&id).await.unwrap();
    let scores = "until test -e /ready; do sleep 0.05; done; \
                  for p in 1 $(cat /own) self; do cat /proc/$p/oom_score_adj; done | xargs";
    assert_eq!(pod.exec(&id, scores).await, "300 777 300");
    pod.runtime.update_container_resources(update(400)).await.unwrap();
    assert_eq!(pod.exec(&id, scores).await, "400 777 400");
    pod.restart();
    assert_eq!(pod.exec(&id, scores).await, "400 777 400");
    assert_eq!(pod.container(&id).await.0.resources.unwrap().linux.unwrap().oom_score_adj, 400);
}

#[tokio::test]
async fn huge_pages_are_limited_by_their_size() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let id = pod
        .waiting("main", |wanted| {
            let limit = |page_size: &str, limit| cri::HugepageLimit { page_size: page_size.into(), limit };
            // kubelet names sizes that a node may not have.
            resources(wanted).hugepage_limits = vec![limit("2MB", 6 << 20), limit("1GB", 0), limit("3MB", 0)];
        })
        .await;
    let Some(limit) = pod.cgroup_file(&id, &["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"]) else {
        println!("skipped: this host doesn't limit huge pages of 2 MiB");
        return;
    };
    assert_eq!(limit, (6 << 20).to_string());
}

/// A mount on the host, for as long as this lives.
struct Mounted(std::path::PathBuf);

impl Mounted {
    /// None where this machine can't have it.
    fn huge_pages(path: std::path::PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let size = Some("pagesize=2M");
        mount(Some("none"), &path, Some("hugetlbfs"), MsFlags::empty(), size).ok().map(|()| Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// What kubelet mounts for an emptyDir of huge pages is a volume like any other.
#[tokio::test]
async fn a_volume_of_huge_pages_is_one_inside() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let Some(mounted) = Mounted::huge_pages(pod.node.path("huge")) else {
        println!("skipped: this host can't mount huge pages of 2 MiB");
        return;
    };
    let volume = cri::Mount {
        host_path: mounted.0.display().to_string(),
        container_path: "/huge".into(),
        ..Default::default()
    };
    let found =
        pod.prints("grep ' /huge hugetlbfs ' /proc/mounts; touch /huge/file && echo there", |wanted| {
            wanted.mounts = vec![volume];
        });
    let found = found.await;
    assert!(found.contains("rw,") && found.contains("pagesize=2M") && found.ends_with("there"), "{found}");
}
