use oci_spec::runtime as oci;

use super::*;
use crate::api::{self, *};
use crate::error::Error;

fn spec() -> oci::Spec {
    let text = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 1, "gid": 2, "additionalGids": [3]}, "cwd": "/", "args": ["sleep", "1"], "env": ["A=1", "B=2"],
            "rlimits": [{"type": "RLIMIT_CORE", "hard": 5, "soft": 4}], "oomScoreAdj": 7,
        },
        "mounts": [{"destination": "/data/deep", "type": "bind", "source": "/srv", "options": ["rbind"]}, {"destination": "/proc", "type": "proc"}],
        "annotations": {"k": "v"},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}],
            "devices": [{"path": "/dev/d", "type": "c", "major": 1, "minor": 2}],
            "sysctl": {"net.a": "1"},
            "resources": {"cpu": {"shares": 5}, "memory": {"limit": 100, "swap": 100}, "devices": [{"allow": false, "access": "rwm"}]},
        },
    });
    serde_json::from_value(text).unwrap()
}

fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
    ContainerAdjustment { linux: Some(linux), ..ContainerAdjustment::default() }
}

fn adjusted(adjustment: &ContainerAdjustment) -> serde_json::Value {
    let mut spec = spec();
    adjust(&mut spec, adjustment).unwrap();
    serde_json::to_value(spec).unwrap()
}

#[test]
fn a_specification_is_told_and_nothing_is_changed_by_nothing() {
    let mut told = Container::default();
    container(&spec(), &mut told);
    assert_eq!(told.args, ["sleep", "1"]);
    assert_eq!(told.env, ["A=1", "B=2"]);
    assert_eq!(told.user, Some(User { uid: 1, gid: 2, additional_gids: vec![3] }));
    assert_eq!(told.rlimits, [PosixRlimit { r#type: "RLIMIT_CORE".into(), hard: 5, soft: 4 }]);
    assert_eq!((told.mounts[0].destination.as_str(), told.mounts[0].options.len()), ("/data/deep", 1));
    assert_eq!(told.annotations["k"], "v");
    let linux = told.linux.unwrap();
    assert_eq!(linux.namespaces.iter().map(|n| n.r#type.as_str()).collect::<Vec<_>>(), ["pid", "mount"]);
    assert_eq!((linux.devices[0].path.as_str(), linux.devices[0].r#type.as_str()), ("/dev/d", "c"));
    assert_eq!(linux.oom_score_adj, Some(OptionalInt { value: 7 }));
    let limits = linux.resources.unwrap();
    assert_eq!(limits.cpu.unwrap().shares, Some(OptionalUInt64 { value: 5 }));
    assert_eq!(limits.memory.unwrap().limit, Some(OptionalInt64 { value: 100 }));
    let before = serde_json::to_value(spec()).unwrap();
    assert_eq!(adjusted(&ContainerAdjustment::default()), before);
}

#[test]
fn a_process_is_adjusted() {
    let variable = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
    let after = adjusted(&ContainerAdjustment {
        env: vec![variable("-A", ""), variable("B", "3=4"), variable("C", "")],
        args: vec!["true".into()],
        rlimits: vec![PosixRlimit { r#type: "RLIMIT_CORE".into(), hard: 9, soft: 9 }],
        annotations: [("-k".into(), String::new()), ("n".into(), "w".into())].into(),
        ..linux(LinuxContainerAdjustment {
            oom_score_adj: Some(OptionalInt { value: -5 }),
            io_priority: Some(LinuxIoPriority { class: IoPrioClass::IoprioClassIdle as i32, priority: 3 }),
            scheduler: Some(LinuxScheduler {
                policy: LinuxSchedulerPolicy::SchedRr as i32,
                priority: 9,
                flags: vec![LinuxSchedulerFlag::SchedFlagDlOverrun as i32],
                ..LinuxScheduler::default()
            }),
            ..LinuxContainerAdjustment::default()
        })
    });
    let process = &after["process"];
    assert_eq!(process["env"], serde_json::json!(["B=3=4", "C="]));
    assert_eq!(process["args"], serde_json::json!(["true"]));
    assert_eq!(process["rlimits"], serde_json::json!([{"type": "RLIMIT_CORE", "hard": 9, "soft": 9}]));
    assert_eq!(process["oomScoreAdj"], -5);
    assert_eq!(process["ioPriority"], serde_json::json!({"class": "IOPRIO_CLASS_IDLE", "priority": 3}));
    assert_eq!(
        (&process["scheduler"]["policy"], &process["scheduler"]["priority"]),
        (&"SCHED_RR".into(), &9.into())
    );
    assert_eq!(after["annotations"], serde_json::json!({"n": "w"}));
    // And is told again as it was asked for.
    let (mut spec, mut told) = (spec(), Container::default());
    let scheduler = LinuxScheduler { policy: 2, flags: vec![1, 2], ..LinuxScheduler::default() };
    adjust(
        &mut spec,
        &linux(LinuxContainerAdjustment { scheduler: Some(scheduler.clone()), ..Default::default() }),
    )
    .unwrap();
    container(&spec, &mut told);
    assert_eq!(told.linux.unwrap().scheduler, Some(scheduler));
}

#[test]
fn mounts_are_replaced_and_come_after_what_they_are_in() {
    let mount = |destination: &str, source: &str| Mount {
        destination: destination.into(),
        source: source.into(),
        r#type: "bind".into(),
        options: vec!["rbind".into(), "ro".into()],
    };
    let mounts = vec![mount("/data", "/a"), mount("/data/deep/", "/b"), mount("-/proc", "")];
    let after = adjusted(&ContainerAdjustment { mounts, ..ContainerAdjustment::default() });
    let told: Vec<_> = after["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["destination"].as_str().unwrap(), m["source"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("/data", "/a"), ("/data/deep/", "/b")]);
}

#[test]
fn devices_bring_the_right_to_use_them() {
    let device = |path: &str, mode: Option<u32>| LinuxDevice {
        path: path.into(),
        r#type: "c".into(),
        major: 7,
        minor: 8,
        file_mode: mode.map(|value| OptionalFileMode { value }),
        ..LinuxDevice::default()
    };
    let devices = vec![device("/dev/n", None), device("/dev/r", Some(0o444)), device("-/dev/d", None)];
    let after = adjusted(&linux(LinuxContainerAdjustment { devices, ..LinuxContainerAdjustment::default() }));
    let paths: Vec<_> =
        after["linux"]["devices"].as_array().unwrap().iter().map(|d| d["path"].clone()).collect();
    assert_eq!(paths, ["/dev/n", "/dev/r"]);
    let rule = |access: &str| serde_json::json!({"allow": true, "type": "c", "major": 7, "minor": 8, "access": access});
    assert_eq!(after["linux"]["resources"]["devices"][1], rule("rwm"));
    assert_eq!(after["linux"]["resources"]["devices"][2], rule("rm"));
}

#[test]
fn limits_are_laid_over_those_that_there_are() {
    let resources = LinuxResources {
        memory: Some(LinuxMemory {
            limit: Some(OptionalInt64 { value: 300 }),
            reservation: Some(OptionalInt64 { value: 50 }),
            ..Default::default()
        }),
        cpu: Some(LinuxCpu {
            quota: Some(OptionalInt64 { value: 9 }),
            cpus: "0".into(),
            ..Default::default()
        }),
        pids: Some(LinuxPids { limit: 11 }),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 }],
        unified: [("memory.high".to_owned(), "5".to_owned())].into(),
        ..LinuxResources::default()
    };
    let after = adjusted(&linux(LinuxContainerAdjustment {
        resources: Some(resources.clone()),
        ..Default::default()
    }));
    let limits_now = &after["linux"]["resources"];
    assert_eq!(
        limits_now["memory"],
        serde_json::json!({"limit": 300, "reservation": 50, "swap": 300}),
        "swap goes along"
    );
    assert_eq!(limits_now["cpu"], serde_json::json!({"shares": 5, "quota": 9, "cpus": "0"}));
    assert_eq!(limits_now["pids"]["limit"], 11);
    assert_eq!(limits_now["unified"]["memory.high"], "5");
    assert_eq!(described(&limits(&resources).unwrap()), resources);
}

#[test]
fn namespaces_sysctls_hooks_and_seccomp() {
    let namespace = |kind: &str, path: &str| LinuxNamespace { r#type: kind.into(), path: path.into() };
    let call = LinuxSyscall {
        names: vec!["read".into()],
        action: "SCMP_ACT_ERRNO".into(),
        errno_ret: Some(OptionalUInt32 { value: 1 }),
        args: vec![LinuxSeccompArg { index: 1, value: 2, value_two: 3, op: "SCMP_CMP_EQ".into() }],
    };
    let policy = LinuxSeccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        architectures: vec!["SCMP_ARCH_X86_64".into()],
        syscalls: vec![call],
        ..LinuxSeccomp::default()
    };
    let hook = Hook {
        path: "/bin/h".into(),
        args: vec!["h".into()],
        timeout: Some(OptionalInt { value: 3 }),
        ..Hook::default()
    };
    let adjustment = ContainerAdjustment {
        hooks: Some(Hooks { create_runtime: vec![hook.clone()], ..Hooks::default() }),
        ..linux(LinuxContainerAdjustment {
            namespaces: vec![namespace("-pid", ""), namespace("cgroup", ""), namespace("network", "/n")],
            sysctl: [("-net.a".to_owned(), String::new()), ("net.b".to_owned(), "2".to_owned())].into(),
            seccomp_policy: Some(policy.clone()),
            ..LinuxContainerAdjustment::default()
        })
    };
    let after = adjusted(&adjustment);
    let namespaces =
        serde_json::json!([{"type": "mount"}, {"type": "cgroup"}, {"type": "network", "path": "/n"}]);
    assert_eq!(after["linux"]["namespaces"], namespaces);
    assert_eq!(after["linux"]["sysctl"], serde_json::json!({"net.b": "2"}));
    let (mut spec, mut told) = (spec(), Container::default());
    adjust(&mut spec, &adjustment).unwrap();
    container(&spec, &mut told);
    assert_eq!(told.linux.unwrap().seccomp_policy, Some(policy));
    assert_eq!(told.hooks.unwrap().create_runtime, [hook]);
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let class = |name: &str| Some(OptionalString { value: name.into() });
    let resources = |resources: LinuxResources| LinuxContainerAdjustment {
        resources: Some(resources),
        ..Default::default()
    };
    let kernel = LinuxMemory { kernel: Some(OptionalInt64 { value: 1 }), ..LinuxMemory::default() };
    let bad = |kind: &str| LinuxDevice { path: "/d".into(), r#type: kind.into(), ..LinuxDevice::default() };
    let cases = [
        ("linux.cgroups_path", LinuxContainerAdjustment { cgroups_path: "/x".into(), ..Default::default() }),
        (
            "linux.net_devices",
            LinuxContainerAdjustment {
                net_devices: [("e".to_owned(), LinuxNetDevice::default())].into(),
                ..Default::default()
            },
        ),
        (
            "linux.rdt",
            LinuxContainerAdjustment {
                rdt: Some(LinuxRdt { clos_id: class("c"), ..Default::default() }),
                ..Default::default()
            },
        ),
        (
            "linux.memory_policy",
            LinuxContainerAdjustment {
                memory_policy: Some(LinuxMemoryPolicy::default()),
                ..Default::default()
            },
        ),
        (
            "linux.resources.blockio_class",
            resources(LinuxResources { blockio_class: class("c"), ..Default::default() }),
        ),
        (
            "linux.resources.rdt_class",
            resources(LinuxResources { rdt_class: class("c"), ..Default::default() }),
        ),
        (
            "linux.resources.memory.kernel",
            resources(LinuxResources { memory: Some(kernel), ..Default::default() }),
        ),
        ("linux.devices[0].type", LinuxContainerAdjustment { devices: vec![bad("z")], ..Default::default() }),
        (
            "linux.namespaces[0].type",
            LinuxContainerAdjustment {
                namespaces: vec![api::LinuxNamespace { r#type: "x".into(), ..Default::default() }],
                ..Default::default()
            },
        ),
        (
            "linux.seccomp_policy",
            LinuxContainerAdjustment {
                seccomp_policy: Some(LinuxSeccomp { default_action: "NO".into(), ..Default::default() }),
                ..Default::default()
            },
        ),
        (
            "linux.scheduler.policy",
            LinuxContainerAdjustment {
                scheduler: Some(LinuxScheduler { policy: 99, ..Default::default() }),
                ..Default::default()
            },
        ),
        (
            "linux.io_priority.class",
            LinuxContainerAdjustment {
                io_priority: Some(LinuxIoPriority { class: 99, priority: 0 }),
                ..Default::default()
            },
        ),
    ];
    for (expected, given) in cases {
        match adjust(&mut spec(), &linux(given)) {
            Err(Error::Unsupported { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    // Nothing is asked for by these.
    let empty = LinuxContainerAdjustment {
        rdt: Some(LinuxRdt { remove: true, ..Default::default() }),
        scheduler: Some(LinuxScheduler::default()),
        ..resources(LinuxResources { rdt_class: class(""), ..Default::default() })
    };
    adjust(&mut spec(), &linux(empty)).unwrap();
}
