//! What a container may not do to its supervisor, and what happens when it has had too much.

use std::fs;

use runtime::FailureKind;
use runtime::spec::oci;
use runtime::wire::{Reply, Request};

use crate::patience::until;
use crate::rig::{Frozen, Rig, container};

#[test]
fn a_container_that_runs_out_of_memory_says_so() {
    let (rig, mut client) = Rig::new();
    let limits = oci::LinuxResourcesBuilder::default()
        .memory(oci::LinuxMemoryBuilder::default().limit(16_i64 << 20).build().unwrap())
        .build()
        .unwrap();
    rig.cgroup("c1").apply(&limits).unwrap();
    rig.start(&mut client, &container("c1", "exec dd if=/dev/zero of=/dev/null bs=100M count=1"));
    let exit = client.exit("c1");
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, Some(9), true));
}

#[test]
fn a_start_that_its_memory_limit_ends_says_so() {
    let (rig, mut client) = Rig::new();
    let limits = oci::LinuxResourcesBuilder::default()
        .memory(oci::LinuxMemoryBuilder::default().limit(65_536).build().unwrap())
        .build()
        .unwrap();
    rig.cgroup("c1").apply(&limits).unwrap();
    match rig.try_start(&mut client, &container("c1", "true")) {
        Reply::Failed(failure) => {
            assert_eq!(failure.kind, FailureKind::OutOfMemory, "{failure}");
            assert!(
                failure.to_string().ends_with(
                    "killed for want of memory before it executed anything: its limit is 65536 bytes"
                ),
                "{failure}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(client.snapshot().containers.is_empty());
}

/// The proportional set size of a process, in KiB.
fn memory(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn an_idle_pod_costs_next_to_nothing() {
    /// The promise for a pod with one container, in KiB: 0.15 MiB, shared pages counted proportionally.
    const PROMISE: u64 = 153;
    const PODS: u64 = 50;
    if std::env::var_os("KNARR_BIN_DIR").is_none() {
        eprintln!("skipped: KNARR_BIN_DIR names no installed binary");
        return;
    }
    let mut pods: Vec<_> = (0..PODS).map(|_| Rig::new()).collect();
    for (rig, client) in &mut pods {
        rig.start(client, &container("c1", "echo hello; exec sleep 1000"));
        until("it has written", || (rig.log("c1").len() == 1).then_some(()));
    }
    let mut sum = 0;
    until("the memory has been given back", || {
        sum = pods.iter().map(|(rig, _)| memory(rig.pid())).sum();
        (sum <= PODS * PROMISE).then_some(())
    });
    eprintln!("PSS of {PODS} supervisors with a container: {} KiB each", sum / PODS);
}

#[test]
fn a_start_that_hangs_is_given_up_and_nothing_waits_for_it() {
    let (rig, mut client) = Rig::new();
    let Some(frozen) = Frozen::freeze(&rig, "c1") else {
        eprintln!("skipped: this host cannot freeze cgroups");
        return;
    };
    let mut hanging = container("c1", "true");
    hanging.deadline_ms = 100;
    let (start, descriptors) = rig.request(&hanging);
    let borrowed: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
    let sequence = client.send(Request::Start(Box::new(start)), &borrowed);
    match client.reply(sequence).0 {
        Reply::Failed(failure) => {
            assert_eq!(failure.errno, Some(rustix::io::Errno::TIMEDOUT.raw_os_error()), "{failure}");
            assert_eq!(failure.to_string(), "the start of \"c1\" took too long");
        }
        other => panic!("{other:?}"),
    }
    // Others are served, also where its process is still there: version 1 kills nothing that is frozen.
    assert_eq!(rig.cgroup("c1").procs().unwrap().is_empty(), !frozen.is_legacy());
    rig.start(&mut client, &container("c2", "exit 3"));
    assert_eq!(client.exit("c2").exit_code, 3);
    drop(frozen);
    until("it has ended", || rig.cgroup("c1").procs().unwrap().is_empty().then_some(()));
    rig.start(&mut client, &container("c1", "exit 4"));
    assert_eq!(client.exit("c1").exit_code, 4);
}

#[test]
fn a_flood_of_output_makes_nothing_grow() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "head -c 100000000 /dev/zero | tr '\\0' 'x'; echo"));
    assert_eq!(client.exit("c1").exit_code, 0);
    let log: usize = rig.log("c1").iter().map(|line| line.len() - "stdout P ".len()).sum();
    assert_eq!(log, 100_000_000);
    let status = fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    assert!(kilobytes < 12 << 10, "{kilobytes} KiB");
}

#[test]
fn an_answer_is_never_given_to_another_daemon() {
    let (rig, mut first) = Rig::new();
    let Some(frozen) = Frozen::freeze(&rig, "c1") else {
        eprintln!("skipped: this host cannot freeze cgroups");
        return;
    };
    let mut hanging = container("c1", "true");
    hanging.deadline_ms = 200 * u64::from(crate::patience::slowness());
    let (start, descriptors) = rig.request(&hanging);
    let borrowed: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
    first.send(Request::Start(Box::new(start)), &borrowed);
    until("it is starting", || (!rig.cgroup("c1").procs().unwrap().is_empty()).then_some(()));
    let mut second = rig.connect();
    assert_eq!(second.snapshot().containers.len(), 1);
    // Each call insists on its own number in the answer, while the start of the first daemon fails.
    until("the start has been given up", || second.snapshot().containers.is_empty().then_some(()));
    drop(frozen);
    until("it has ended", || rig.cgroup("c1").procs().unwrap().is_empty().then_some(()));
    second.snapshot();
}
