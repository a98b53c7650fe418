//! What the containers of a pod share.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};

use runtime::container::{LaunchRequest, Streams, Until, launch};
use runtime::plan::{NamespacePlan, NamespaceSource, PlanInput, PodNamespace, PodPlan, plan};
use runtime::thread::SingleThread;
use rustix::process::{Signal, pidfd_send_signal};

use crate::Test;
use crate::patience::{patience, until};
use crate::rig::{Rig, finish, handshake, line, namespaces, pod_plan, shell, wait};

pub const TESTS: &[Test] = &[
    ("containers_share_network_and_memory", sharing),
    ("loopback_is_up_and_settings_are_the_pods", network),
    ("a_network_namespace_that_is_ready_becomes_the_pods", prepared_network),
    ("a_shared_pid_namespace_has_a_stripped_first_process", shared_pid),
    ("another_containers_pid_namespace_can_be_joined", target_pid),
    ("a_pod_on_the_hosts_namespaces_makes_none", host),
    ("whoever_makes_a_pods_namespaces_stays_where_it_is", back_home),
    ("a_pod_cannot_change_the_hosts_settings", refused_sysctl),
];

fn sharing() {
    let rig = Rig::new();
    assert_eq!(rig.run(&shell("echo note > /dev/shm/x; ls /dev/shm")).lines(), ["x"]);
    assert_eq!(
        rig.run(&shell("cat /dev/shm/x; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc")).lines()[0],
        "note"
    );
    assert!(!fs::exists("/dev/shm/x").unwrap());
    let first = rig.run(&shell("for n in net ipc uts; do readlink /proc/self/ns/$n; done"));
    let second = rig.run(&shell("for n in net ipc uts; do readlink /proc/self/ns/$n; done"));
    assert_eq!(first.lines(), second.lines());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(first.lines()[0], own.to_str().unwrap());
}

fn network() {
    has_settings_and_loopback(&Rig::new());
}

fn prepared_network() {
    let ready = runtime::namespaces::prepare_network().unwrap();
    let name = fs::read_link(format!("/proc/self/fd/{}", ready.as_raw_fd())).unwrap();
    let rig = Rig::with_network(&pod_plan(), Some(ready));
    assert_eq!(rig.run(&shell("readlink /proc/self/ns/net")).lines(), [name.to_str().unwrap()]);
    has_settings_and_loopback(&rig);
}

fn has_settings_and_loopback(rig: &Rig) {
    let outcome = rig.run(&shell(
        "cat /sys/class/net/lo/operstate /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv6/conf/default/accept_ra; \
         ls /sys/class/net; cat /proc/net/if_inet6",
    ));
    let lines = outcome.lines();
    assert_eq!(lines[1..3], ["81", "0"], "{lines:?}");
    assert!(
        lines.contains(&"lo")
            && lines.iter().any(|line| line.starts_with("00000000000000000000000000000001")),
        "{lines:?}"
    );
}

fn shared_pid() {
    let rig = Rig::with_pod(&PodPlan { pid: PodNamespace::Own, ..pod_plan() });
    let init = rig.pod.pid.as_ref().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", init.init)).unwrap();
    for wanted in
        ["Name:\tknarr-pod", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Threads:\t1"]
    {
        assert!(status.contains(wanted), "{wanted} is missing in:\n{status}");
    }
    until("its descriptors are closed", || {
        fs::read_dir(format!("/proc/{}/fd", init.init)).unwrap().next().is_none().then_some(())
    });
    assert_eq!(fs::read_dir(format!("/proc/{}/root", init.init)).unwrap().count(), 0, "its root is empty");

    let shared = NamespacePlan { pid: NamespaceSource::Pod, ..namespaces() };
    let script =
        "cat /proc/1/comm; ls /proc/1/root 2>/dev/null || echo hidden; kill 1; (sleep 0.01 & ) ; echo done";
    let plan = plan(&PlanInput { spec: &shell(script), namespaces: shared, seccomp: None }).unwrap();
    for _ in 0..3 {
        assert_eq!(rig.run_planned(&plan).lines(), ["knarr-pod", "hidden", "done"]);
    }
    // What containers orphan is reaped: nothing but the first process stays.
    let children = format!("/proc/{0}/task/{0}/children", init.init);
    until("no orphan is left", || fs::read_to_string(&children).unwrap().trim().is_empty().then_some(()));
    pidfd_send_signal(&init.init_pidfd, Signal::TERM).unwrap();
    assert_eq!(wait(&init.init_pidfd), (0, 0));
    let mut rig = rig;
    rig.pod.pid = None;
}

fn target_pid() {
    let rig = Rig::new();
    let first = plan(&PlanInput {
        spec: &shell("echo up; exec sleep 1000"),
        namespaces: namespaces(),
        seccomp: None,
    });
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut target = rig.start(&first.unwrap(), &write).unwrap();
    handshake(&mut target.handshake).1.unwrap();
    let mut output = File::from(read);
    assert_eq!(line(&mut output), "up");

    let joining = NamespacePlan { pid: NamespaceSource::Container("c0".to_owned()), ..namespaces() };
    let plan = plan(&PlanInput {
        spec: &shell("cat /proc/1/comm; test $$ -gt 1 && echo second"),
        namespaces: joining,
        seccomp: None,
    })
    .unwrap();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // The overlay of the rig is in use by the target.
    let other = Rig::new();
    let root = other.root();
    let launched = launch(
        &SingleThread::prove().unwrap(),
        &LaunchRequest {
            plan: &plan,
            root: root.as_fd(),
            sources: &[],
            pod: &rig.pod,
            pid_target: Some(target.pidfd.as_fd()),
            cgroup: &other.cgroup,
            streams: Streams { stdin: None, stdout: Some(write.as_fd()), stderr: None },
            until: Until::Executed,
        },
    )
    .and_then(|begun| begun.wait(patience()))
    .unwrap();
    drop((write, root));
    assert_eq!(finish(launched, File::from(read)).lines(), ["sleep", "second"]);
    pidfd_send_signal(&target.pidfd, Signal::KILL).unwrap();
    wait(&target.pidfd);
}

fn host() {
    let plan = PodPlan {
        network: PodNamespace::Host,
        ipc: PodNamespace::Host,
        uts: PodNamespace::Host,
        pid: PodNamespace::Host,
        hostname: None,
        sysctls: [].into(),
        shared_memory: None,
        user: None,
        joined: None,
        mount_label: None,
    };
    let rig = Rig::with_pod(&plan);
    assert!(rig.pod.network.is_none() && rig.pod.shared_memory.is_none());
    let on_host = NamespacePlan {
        network: NamespaceSource::Host,
        ipc: NamespaceSource::Host,
        uts: NamespaceSource::Host,
        pid: NamespaceSource::Host,
        cgroup: NamespaceSource::Host,
        user: NamespaceSource::Host,
    };
    let spec = shell("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done");
    let plan = runtime::plan::plan(&PlanInput { spec: &spec, namespaces: on_host, seccomp: None }).unwrap();
    let own: Vec<String> = ["net", "ipc", "uts", "pid"]
        .iter()
        .map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(rig.run_planned(&plan).lines(), own);
}

/// With new namespaces, with a network that is prepared, and when a step in there fails.
fn back_home() {
    let home = || {
        let names =
            ["net", "ipc", "uts", "mnt"].map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
        (names, rustix::system::uname().nodename().to_owned())
    };
    let (before, proof) = (home(), SingleThread::prove().unwrap());
    let make = |plan: &PodPlan, ready| runtime::namespaces::create_pod(&proof, plan, ready);
    let name = |namespace: &std::os::fd::OwnedFd| {
        fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).unwrap()
    };
    let pod = make(&pod_plan(), None).unwrap();
    assert_eq!(home(), before);
    let made = [&pod.network, &pod.ipc, &pod.uts].map(|namespace| name(namespace.as_ref().unwrap()));
    assert!(made.iter().zip(&before.0).all(|(made, own)| made != own), "{made:?}");
    let pod = make(&pod_plan(), Some(runtime::namespaces::prepare_network().unwrap())).unwrap();
    assert_eq!(home(), before);
    assert_ne!(name(pod.network.as_ref().unwrap()), before.0[0]);
    let ports = "net.ipv4.ip_local_port_range".to_owned();
    let wrong = PodPlan { sysctls: [(ports.clone(), "no range".to_owned())].into(), ..pod_plan() };
    let own = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    assert_eq!(make(&wrong, None).unwrap_err().step, runtime::FailedStep::Sysctl);
    assert_eq!(home(), before);
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap(), own);
}

fn refused_sysctl() {
    let sysctls = [("kernel.shmmax".to_owned(), "1".to_owned())].into();
    let plan = PodPlan { ipc: PodNamespace::Host, sysctls, ..pod_plan() };
    let refused = runtime::namespaces::create_pod(&SingleThread::prove().unwrap(), &plan, None).unwrap_err();
    assert_eq!(refused.step, runtime::FailedStep::Sysctl, "{refused:?}");
}
