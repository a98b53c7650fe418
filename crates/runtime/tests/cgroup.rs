//! Cgroups on the host that the tests run on, whatever its layout. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests")]

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use runtime::Error;
use runtime::cgroup::{Cgroup, Host, Layout};
use runtime::spec::oci;

use crate::patience::until;

#[path = "common/patience.rs"]
mod patience;

/// A cgroup that is emptied and removed at the end, with the one above it.
struct Own {
    host: Host,
    cgroup: Cgroup,
    parent: String,
}

impl Own {
    fn new(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: cgroups need root");
            return None;
        }
        let host = Host::detect().unwrap();
        let parent = format!("/knarr-cgroup-test-{}-{name}", std::process::id());
        let cgroup = Cgroup::create(&host, &format!("{parent}/c")).unwrap();
        Some(Self { host, cgroup, parent })
    }

    /// Where the kernel shows a setting, by controller.
    fn file(&self, controller: &str, legacy: &str, unified: &str) -> PathBuf {
        let (base, file) = match self.host.layout() {
            Layout::Unified => (PathBuf::from("/sys/fs/cgroup"), unified),
            Layout::Hybrid | Layout::Legacy => (Path::new("/sys/fs/cgroup").join(controller), legacy),
        };
        base.join(self.cgroup.path().trim_start_matches('/')).join(file)
    }

    fn read(&self, controller: &str, legacy: &str, unified: &str) -> String {
        fs::read_to_string(self.file(controller, legacy, unified)).unwrap().trim().to_owned()
    }

    /// A shell in the cgroup that runs `script` once it is in it.
    fn run(&self, script: &str) -> Child {
        Self::run_in(&self.cgroup, script)
    }

    fn run_in(cgroup: &Cgroup, script: &str) -> Child {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        cgroup.join(i32::try_from(child.id()).unwrap()).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        child
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.cgroup.kill().unwrap();
        let parent = Cgroup::at(&self.host, &self.parent).unwrap();
        if std::thread::panicking() {
            let _ = parent.remove();
        } else {
            until("its cgroup can be removed", || parent.remove().ok());
        }
    }
}

fn limits(memory: i64, swap: i64) -> oci::LinuxResources {
    let memory = oci::LinuxMemoryBuilder::default().limit(memory).swap(swap).build().unwrap();
    oci::LinuxResourcesBuilder::default().memory(memory).devices(Vec::new()).build().unwrap()
}

#[test]
fn limits_are_set_and_changed() {
    let Some(own) = Own::new("limits") else { return };
    let cpu =
        oci::LinuxCpuBuilder::default().shares(512u64).quota(50_000).period(100_000u64).cpus("0").build();
    let resources = oci::LinuxResourcesBuilder::default()
        .cpu(cpu.unwrap())
        .pids(oci::LinuxPidsBuilder::default().limit(77).build().unwrap())
        .devices(Vec::new())
        .build()
        .unwrap();
    own.cgroup.apply(&resources).unwrap();
    assert_eq!(own.read("pids", "pids.max", "pids.max"), "77");
    assert_eq!(own.read("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    match own.host.layout() {
        Layout::Unified => {
            assert_eq!(own.read("cpu", "", "cpu.max"), "50000 100000");
            assert_eq!(own.read("cpu", "", "cpu.weight"), "59");
        }
        Layout::Hybrid | Layout::Legacy => {
            assert_eq!(own.read("cpu", "cpu.cfs_quota_us", ""), "50000");
            assert_eq!(own.read("cpu", "cpu.shares", ""), "512");
            assert!(!own.read("cpuset", "cpuset.mems", "").is_empty(), "inherited");
        }
    }
    // Up, down and up again: the limit with swap is in the way in one direction or the other.
    for bytes in [64 << 20, 16 << 20, 128 << 20] {
        own.cgroup.apply(&limits(bytes, bytes)).unwrap();
        assert_eq!(own.read("memory", "memory.limit_in_bytes", "memory.max"), bytes.to_string());
    }
    own.cgroup.apply(&limits(0, 0)).unwrap();
    assert_eq!(own.cgroup.stats().unwrap().memory.unwrap().limit, Some(128 << 20), "0 says nothing");
    own.cgroup.apply(&limits(-1, -1)).unwrap();
    assert_eq!(own.cgroup.stats().unwrap().memory.unwrap().limit, None);
    let unlimited = oci::LinuxPidsBuilder::default().limit(-1).build().unwrap();
    let resources =
        oci::LinuxResourcesBuilder::default().pids(unlimited).devices(Vec::new()).build().unwrap();
    own.cgroup.apply(&resources).unwrap();
    assert_eq!(own.read("pids", "pids.max", "pids.max"), "max");
}

/// kubelet removes a pod's cgroup, but only where it made it.
#[test]
fn nothing_is_left_beside_what_others_removed() {
    let Some(own) = Own::new("beside") else { return };
    if own.host.layout() != Layout::Hybrid {
        return;
    }
    let pod = format!("{}/pods/pod1", own.cgroup.path());
    let container = Cgroup::create(&own.host, &format!("{pod}/c1")).unwrap();
    let beside = Path::new("/sys/fs/cgroup/unified").join(pod.trim_start_matches('/'));
    container.remove().unwrap();
    assert!(beside.exists(), "the pod's cgroup is still there");
    for entry in fs::read_dir("/sys/fs/cgroup").unwrap().map(Result::unwrap) {
        let counterpart = entry.path().join(pod.trim_start_matches('/'));
        if counterpart != beside && counterpart.exists() {
            fs::remove_dir(counterpart).unwrap();
        }
    }
    container.remove().unwrap();
    assert!(!beside.exists() && beside.parent().unwrap().exists());
}

fn device_rule(allow: bool, numbers: Option<(i64, i64)>, access: &str) -> oci::LinuxDeviceCgroup {
    let rule = oci::LinuxDeviceCgroupBuilder::default().allow(allow).access(access);
    match numbers {
        None => rule.build().unwrap(),
        Some((major, minor)) => rule.typ(oci::LinuxDeviceType::C).major(major).minor(minor).build().unwrap(),
    }
}

fn devices(rules: &[oci::LinuxDeviceCgroup]) -> oci::LinuxResources {
    oci::LinuxResourcesBuilder::default().devices(rules.to_vec()).build().unwrap()
}

/// Whether a process in the cgroup may do each of these.
fn may(cgroup: &Cgroup, scripts: &[&str]) -> Vec<bool> {
    let may = |script: &&str| Own::run_in(cgroup, script).wait().unwrap().success();
    scripts.iter().map(may).collect()
}

const USES: [&str; 4] =
    ["true </dev/null", "true >/dev/null", "true </dev/zero", "n=$(mktemp -u) && mknod $n c 120 7 && rm $n"];

#[test]
fn devices_are_an_allow_list() {
    let Some(own) = Own::new("devices") else { return };
    let list = |access: &str| {
        [
            device_rule(false, None, "rwm"),
            device_rule(true, Some((-1, -1)), "m"),
            device_rule(true, Some((1, 3)), access),
        ]
    };
    own.cgroup.apply(&devices(&list("rw"))).unwrap();
    assert_eq!(may(&own.cgroup, &USES), [true, true, false, true]);
    own.cgroup.apply(&devices(&[])).unwrap();
    assert_eq!(may(&own.cgroup, &USES), [true, true, false, true], "an empty list says nothing");
    own.cgroup.apply(&devices(&list("r"))).unwrap();
    assert_eq!(may(&own.cgroup, &USES), [true, false, false, true]);
    own.cgroup.apply(&devices(&[device_rule(true, None, "rwm")])).unwrap();
    assert_eq!(may(&own.cgroup, &USES), [true; 4]);
}

/// The host as it would be without the devices controller of version 1.
fn without_devices_controller(host: &Host) -> Host {
    let mut host = serde_json::to_value(host).unwrap();
    let hierarchies = host["legacy"].as_array_mut().unwrap();
    hierarchies.retain(|h| !h["controllers"].as_array().unwrap().contains(&"devices".into()));
    serde_json::from_value(host).unwrap()
}

#[test]
fn without_the_controller_devices_are_limited_by_a_program() {
    let Some(own) = Own::new("program") else { return };
    let host = without_devices_controller(&own.host);
    if host.layout() == Layout::Legacy {
        let cgroup = Cgroup::at(&host, own.cgroup.path()).unwrap();
        let refused = cgroup.apply(&devices(&[device_rule(false, None, "rwm")]));
        assert!(matches!(refused, Err(Error::NoController { .. })), "{refused:?}");
        return;
    }
    assert_eq!(host.try_devices().unwrap(), runtime::cgroup::DeviceControl::Program);
    let above = Cgroup::at(&host, own.cgroup.path()).unwrap();
    let cgroup = Cgroup::create(&host, &format!("{}/below", own.cgroup.path())).unwrap();
    let nothing = device_rule(false, None, "rwm");
    let null = |access| device_rule(true, Some((1, 3)), access);
    cgroup.apply(&devices(&[nothing.clone(), null("w")])).unwrap();
    assert_eq!(may(&cgroup, &USES), [false, true, false, false]);
    // In order: what is said later counts, of each access.
    let later = [nothing.clone(), null("rwm"), device_rule(false, Some((1, -1)), "w")];
    cgroup.apply(&devices(&later)).unwrap();
    assert_eq!(may(&cgroup, &USES), [true, false, false, false], "replaced, not added to");
    // What is forbidden above is forbidden below, whatever is said there.
    above.apply(&devices(&[nothing.clone(), device_rule(true, Some((1, -1)), "r")])).unwrap();
    cgroup.apply(&devices(&[nothing, null("rwm")])).unwrap();
    assert_eq!(may(&cgroup, &USES), [true, false, false, false]);
    cgroup.apply(&devices(&[device_rule(true, None, "rwm")])).unwrap();
    assert_eq!(may(&cgroup, &USES), [true, false, true, false]);
    above.apply(&devices(&[device_rule(true, None, "rwm")])).unwrap();
    assert_eq!(may(&cgroup, &USES), [true; 4]);
    let refused = cgroup.apply(&devices(&[device_rule(true, Some((1, 1 << 40)), "r")])).unwrap_err();
    assert!(refused.to_string().starts_with("linux.resources.devices[0].minor"), "{refused}");
    until("nothing of it is held open", || {
        let mut open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let is_program = |link: std::path::PathBuf| link.ends_with("anon_inode:bpf-prog");
        (!open.any(|entry| fs::read_link(entry.path()).is_ok_and(is_program))).then_some(())
    });
}

/// As many rules as a container can have nodes, all of which the kernel's verifier has to follow.
#[test]
fn a_program_may_have_a_rule_for_each_of_many_devices() {
    let Some(own) = Own::new("rules") else { return };
    let host = without_devices_controller(&own.host);
    if host.layout() == Layout::Legacy {
        return;
    }
    let cgroup = Cgroup::at(&host, own.cgroup.path()).unwrap();
    let mut rules = vec![device_rule(false, None, "rwm"), device_rule(true, Some((1, 3)), "r")];
    rules.extend(
        (0..5000).map(|at| device_rule(at % 3 != 0, Some((300, at)), ["r", "rw", "rwm"][at as usize % 3])),
    );
    cgroup.apply(&devices(&rules)).unwrap();
    assert_eq!(may(&cgroup, &USES), [true, false, false, false]);
}

#[test]
fn everything_in_it_is_killed() {
    let Some(own) = Own::new("kill") else { return };
    // Version 2 has processes in leaves only.
    let nested = Cgroup::create(&own.host, &format!("{}/nested/deep", own.cgroup.path())).unwrap();
    let beside = Cgroup::create(&own.host, &format!("{}/beside", own.cgroup.path())).unwrap();
    let mut child = Own::run_in(&beside, "for i in 1 2 3 4 5; do sleep 1000 & done; wait");
    let mut below = Own::run_in(&nested, "exec sleep 1000");
    until("the shell has its children", || (own.cgroup.procs().unwrap().len() == 7).then_some(()));
    assert_eq!(own.cgroup.stats().unwrap().tasks.map(|tasks| tasks.current), Some(7));
    own.cgroup.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(below.wait().unwrap().signal(), Some(9));
    own.cgroup.remove().unwrap();
    assert!(!own.cgroup.exists() && !nested.exists());
    own.cgroup.kill().unwrap();
    own.cgroup.remove().unwrap();
    assert_eq!(own.cgroup.procs().unwrap(), Vec::<i32>::new(), "what is gone has no processes");
    assert_eq!(own.cgroup.oom_kills().unwrap(), 0);
}

#[test]
fn what_forks_all_the_time_is_killed() {
    let Some(own) = Own::new("bomb") else { return };
    let bound = oci::LinuxPidsBuilder::default().limit(60).build().unwrap();
    let resources = oci::LinuxResourcesBuilder::default().pids(bound).devices(Vec::new()).build().unwrap();
    own.cgroup.apply(&resources).unwrap();
    let mut child = own.run("for i in 1 2 3 4 5 6 7 8; do (while :; do /bin/true; done) & done; wait");
    until("they run", || (own.cgroup.procs().unwrap().len() > 8).then_some(()));
    own.cgroup.kill().unwrap();
    child.wait().unwrap();
    own.cgroup.remove().unwrap();
}

#[test]
fn want_of_memory_is_counted() {
    let Some(own) = Own::new("oom") else { return };
    own.cgroup.apply(&limits(16 << 20, 16 << 20)).unwrap();
    assert_eq!(own.cgroup.oom_kills().unwrap(), 0);
    let status = own.run("exec tail /dev/zero").wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status:?}");
    assert_eq!(own.cgroup.oom_kills().unwrap(), 1);
}

#[test]
fn usage_is_read() {
    let Some(own) = Own::new("stats") else { return };
    let mut child = own.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; kill -STOP $$");
    until("it has worked", || own.cgroup.stats().unwrap().cpu.filter(|cpu| cpu.usage_ns > 1_000_000));
    // The kernel sums its counters up every two seconds (mm/memcontrol.c, FLUSH_TIME).
    until("its memory is counted", || {
        let memory = own.cgroup.stats().unwrap().memory.unwrap();
        let counted = memory.usage > 0 && memory.page_faults > 0 && memory.rss > 0;
        (counted && memory.working_set <= memory.usage).then_some(())
    });
    own.cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_cannot_be_set_is_refused() {
    let Some(own) = Own::new("refused") else { return };
    let network = oci::LinuxNetworkBuilder::default().class_id(1u32).build().unwrap();
    let resources =
        oci::LinuxResourcesBuilder::default().network(network).devices(Vec::new()).build().unwrap();
    assert!(matches!(own.cgroup.apply(&resources), Err(Error::NoController { .. })));
    let memory = oci::LinuxMemoryBuilder::default;
    let cpu = oci::LinuxCpuBuilder::default;
    let is_unified = own.host.layout() == Layout::Unified;
    let of_memory = [
        (memory().kernel(1_i64 << 20), "kernel", true),
        (memory().use_hierarchy(true), "useHierarchy", true),
        (memory().check_before_update(true), "checkBeforeUpdate", true),
        (memory().swappiness(60u64), "swappiness", is_unified),
    ];
    let of_memory = of_memory.map(|(memory, field, is_refused)| {
        let resources = oci::LinuxResourcesBuilder::default().memory(memory.build().unwrap());
        (resources, format!("memory.{field}"), is_refused)
    });
    let of_cpu = [
        (cpu().realtime_runtime(0_i64), "realtimeRuntime"),
        (cpu().realtime_period(1_000_000u64), "realtimePeriod"),
    ];
    // Version 1 kernels without real-time groups refuse those themselves.
    let of_cpu = of_cpu.into_iter().filter(|_| is_unified).map(|(cpu, field)| {
        let resources = oci::LinuxResourcesBuilder::default().cpu(cpu.build().unwrap());
        (resources, format!("cpu.{field}"), true)
    });
    for (resources, field, is_refused) in of_memory.into_iter().chain(of_cpu) {
        let field = format!("linux.resources.{field}");
        match own.cgroup.apply(&resources.devices(Vec::new()).build().unwrap()) {
            Err(Error::NoController { setting, .. }) => assert_eq!((setting, is_refused), (&*field, true)),
            other => assert!(other.is_ok() && !is_refused, "{field}: {other:?}"),
        }
    }
    let cpu = oci::LinuxCpuBuilder::default().cpus("4000").build().unwrap();
    let resources = oci::LinuxResourcesBuilder::default().cpu(cpu).devices(Vec::new()).build().unwrap();
    match own.cgroup.apply(&resources) {
        Err(Error::Cgroup { path, .. }) => assert!(path.ends_with("cpuset.cpus"), "{path:?}"),
        other => panic!("{other:?}"),
    }
}
