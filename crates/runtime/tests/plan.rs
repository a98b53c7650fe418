//! Plans against a golden file and against properties that every plan has.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Component, Path, PathBuf};

use proptest::prelude::*;
use runtime::plan::seccomp::Instruction;
use runtime::plan::{
    Bundle, IdMapping, IdMappings, NamespacePlan, NamespaceSource, Plan, PlanInput, Refusal, SeccompFilter,
    Step, plan, plan_in_bundle,
};
use runtime::spec::{self, oci};

fn namespaces() -> NamespacePlan {
    NamespacePlan {
        network: NamespaceSource::Pod,
        ipc: NamespaceSource::Pod,
        uts: NamespaceSource::Own,
        pid: NamespaceSource::Container("c0ffee".to_owned()),
        cgroup: NamespaceSource::Own,
        user: NamespaceSource::Host,
    }
}

fn process() -> oci::Process {
    let some: oci::Capabilities =
        [oci::Capability::Chown, oci::Capability::NetBindService].into_iter().collect();
    let sets = oci::LinuxCapabilitiesBuilder::default()
        .bounding(some.clone())
        .effective(some.clone())
        .permitted(some)
        .inheritable(oci::Capabilities::new())
        .ambient(oci::Capabilities::new())
        .build()
        .unwrap();
    oci::ProcessBuilder::default()
        .terminal(true)
        .console_size(oci::BoxBuilder::default().height(24u64).width(80u64).build().unwrap())
        .args(["/bin/serve".to_owned(), "--all".to_owned()])
        .env(["PATH=/bin".to_owned()])
        .cwd("/srv//data/../www/.")
        .user(oci::UserBuilder::default().uid(33u32).gid(34u32).additional_gids([34, 50]).build().unwrap())
        .capabilities(sets)
        .no_new_privileges(true)
        .oom_score_adj(-10)
        .rlimits(Vec::new())
        .build()
        .unwrap()
}

fn bind(source: &str, destination: &str, options: &[&str]) -> oci::Mount {
    oci::MountBuilder::default()
        .typ("bind")
        .source(source)
        .destination(destination)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .unwrap()
}

fn device(major: i64, minor: i64) -> oci::LinuxDevice {
    let device = oci::LinuxDeviceBuilder::default().path("/dev/odd").typ(oci::LinuxDeviceType::C);
    device.major(major).minor(minor).build().unwrap()
}

fn full_spec() -> oci::Spec {
    let device = oci::LinuxDeviceBuilder::default()
        .path("/dev/fuse")
        .typ(oci::LinuxDeviceType::C)
        .major(10)
        .minor(229)
        .file_mode(0o660u32)
        .uid(0u32)
        .gid(5u32)
        .build()
        .unwrap();
    let linux = oci::LinuxBuilder::default()
        .devices([device])
        .sysctl([("net.core.somaxconn".to_owned(), "512".to_owned())])
        .masked_paths(["/proc/kcore".to_owned()])
        .readonly_paths(["/proc/sys".to_owned()])
        .build()
        .unwrap();
    let mut mounts = spec::default_mounts();
    mounts.push(bind("/var/lib/volume", "/data", &["rbind", "rslave", "rro", "nosuid"]));
    mounts.push(bind("/var/lib/hosts", "/etc/hosts", &["bind", "rw", "noatime"]));
    let mut spec = oci::Spec::default();
    spec.set_hostname(Some("boat".to_owned()))
        .set_mounts(Some(mounts))
        .set_linux(Some(linux))
        .set_process(Some(process()));
    spec
}

fn make(spec: &oci::Spec) -> Result<Plan, Refusal> {
    plan(&PlanInput { spec, namespaces: namespaces(), seccomp: None })
}

#[test]
fn the_order_of_a_plan_is_the_golden_one() {
    let made = plan(&PlanInput {
        spec: &full_spec(),
        namespaces: namespaces(),
        seccomp: Some(SeccompFilter {
            flags: 2,
            program: [Instruction { code: 0x20, jt: 0, jf: 0, k: 4 }].into(),
        }),
    })
    .unwrap();
    let text = serde_json::to_string_pretty(&made).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, text.clone() + "\n").unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(golden).unwrap().trim_end());
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), made);
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    let made = make(&full_spec()).unwrap();
    let mut value = serde_json::to_value(&made).unwrap();
    value["process"]["landlock"] = serde_json::json!(true);
    let error = serde_json::from_value::<Plan>(value).unwrap_err().to_string();
    assert!(error.contains("landlock"), "{error}");
}

fn mappings(host_id: u32, size: u32) -> Option<Vec<oci::LinuxIdMapping>> {
    let mapping = oci::LinuxIdMappingBuilder::default().container_id(0u32).host_id(host_id).size(size);
    Some(vec![mapping.build().unwrap()])
}

#[test]
fn users_are_the_pods_and_mounts_may_have_their_own() {
    let mut spec = full_spec();
    let mut linux = spec.linux().clone().unwrap();
    linux.set_uid_mappings(mappings(65_536, 65_536)).set_gid_mappings(mappings(65_536, 65_536));
    spec.set_linux(Some(linux));
    let mut mounts = spec.mounts().clone().unwrap();
    let mut volume = bind("/source", "/mapped", &["rbind"]);
    volume.set_uid_mappings(mappings(7, 10)).set_gid_mappings(mappings(8, 11));
    mounts.push(volume);
    spec.set_mounts(Some(mounts));
    let refused = make(&spec).unwrap_err();
    assert_eq!(refused.to_string(), "linux.uidMappings: the pod has no user namespace");
    let inside = NamespacePlan { user: NamespaceSource::Pod, ..namespaces() };
    let planned = |spec: &oci::Spec| plan(&PlanInput { spec, namespaces: inside.clone(), seccomp: None });
    let made = planned(&spec).unwrap();
    let ids: Vec<_> = made.sources.iter().filter_map(|source| source.ids.clone()).collect();
    let one = |outside, length| vec![IdMapping { inside: 0, outside, length }];
    assert_eq!(ids, [IdMappings { uids: one(7, 10), gids: one(8, 11) }]);
    let text = serde_json::to_string(&made).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), made);

    let at = spec.mounts().as_ref().unwrap().len() - 1;
    let refused = |edit: fn(&mut oci::Mount)| {
        let mut spec = spec.clone();
        let mut mounts = spec.mounts().clone().unwrap();
        edit(mounts.last_mut().unwrap());
        spec.set_mounts(Some(mounts));
        planned(&spec).unwrap_err().field
    };
    let gids = refused(|mount| {
        mount.set_gid_mappings(None);
    });
    assert_eq!(gids, format!("mounts[{at}].gidMappings"));
    let empty = refused(|mount| {
        mount.set_uid_mappings(mappings(7, 0));
    });
    assert_eq!(empty, format!("mounts[{at}].uidMappings[0]"));
    let new = refused(|mount| {
        mount.set_typ(Some("tmpfs".to_owned())).set_options(None);
    });
    assert_eq!(new, format!("mounts[{at}].uidMappings"));
}

#[test]
fn what_is_not_done_is_refused_with_its_field() {
    type Edit = fn(&mut oci::Spec);
    fn linux(spec: &mut oci::Spec, edit: impl FnOnce(&mut oci::Linux)) {
        let mut linux = spec.linux().clone().unwrap();
        edit(&mut linux);
        spec.set_linux(Some(linux));
    }
    fn process(spec: &mut oci::Spec, edit: impl FnOnce(&mut oci::Process)) {
        let mut process = spec.process().clone().unwrap();
        edit(&mut process);
        spec.set_process(Some(process));
    }
    fn mount(spec: &mut oci::Spec, mount: oci::Mount) {
        let mut mounts = spec.mounts().clone().unwrap();
        mounts.push(mount);
        spec.set_mounts(Some(mounts));
    }
    let cases: &[(&str, Edit)] = &[
        ("process", |spec| {
            spec.set_process(None);
        }),
        ("process.args", |spec| {
            process(spec, |p| {
                p.set_args(Some(Vec::new()));
            });
        }),
        ("process.args[1]", |spec| {
            process(spec, |p| {
                p.set_args(Some(vec!["sh".to_owned(), "a\0b".to_owned()]));
            });
        }),
        ("process.cwd", |spec| {
            process(spec, |p| {
                p.set_cwd("relative".into());
            });
        }),
        ("process.oomScoreAdj", |spec| {
            process(spec, |p| {
                p.set_oom_score_adj(Some(1001));
            });
        }),
        ("process.rlimits[0]", |spec| {
            process(spec, |p| {
                let limit = oci::PosixRlimitBuilder::default().typ(oci::PosixRlimitType::RlimitCore);
                p.set_rlimits(Some(vec![limit.soft(2u64).hard(1u64).build().unwrap()]));
            });
        }),
        ("process.ioPriority.priority", |spec| {
            process(spec, |p| {
                let asked = serde_json::json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 });
                p.set_io_priority(serde_json::from_value(asked).unwrap());
            });
        }),
        ("process.scheduler.policy", |spec| {
            process(spec, |p| {
                p.set_scheduler(
                    serde_json::from_value(serde_json::json!({ "policy": "SCHED_ISO" })).unwrap(),
                );
            });
        }),
        ("process.scheduler.flags[0]", |spec| {
            process(spec, |p| {
                let asked =
                    serde_json::json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"] });
                p.set_scheduler(serde_json::from_value(asked).unwrap());
            });
        }),
        ("process.scheduler.nice", |spec| {
            process(spec, |p| {
                let asked = serde_json::json!({ "policy": "SCHED_OTHER", "nice": 20 });
                p.set_scheduler(serde_json::from_value(asked).unwrap());
            });
        }),
        ("linux.rootfsPropagation", |spec| {
            linux(spec, |l| {
                l.set_rootfs_propagation(Some("sideways".to_owned()));
            });
        }),
        ("linux.personality.flags", |spec| {
            linux(spec, |l| {
                let asked = serde_json::json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] });
                l.set_personality(serde_json::from_value(asked).unwrap());
            });
        }),
        ("process.capabilities.inheritable", |spec| {
            process(spec, |p| {
                let mut sets = p.capabilities().clone().unwrap();
                sets.set_inheritable(Some([oci::Capability::Chown].into_iter().collect()));
                p.set_capabilities(Some(sets));
            });
        }),
        ("process.capabilities.permitted", |spec| {
            process(spec, |p| {
                let mut sets = p.capabilities().clone().unwrap();
                sets.set_bounding(Some(oci::Capabilities::new()));
                p.set_capabilities(Some(sets));
            });
        }),
        ("process.terminal", |spec| {
            spec.set_mounts(Some(Vec::new()));
        }),
        ("linux.uidMappings", |spec| {
            linux(spec, |l| {
                let map = oci::LinuxIdMappingBuilder::default().host_id(1u32).container_id(0u32).size(1u32);
                l.set_uid_mappings(Some(vec![map.build().unwrap()]));
            });
        }),
        ("linux.sysctl[\"kernel.core_pattern\"]", |spec| {
            linux(spec, |l| {
                l.set_sysctl(Some([("kernel.core_pattern".to_owned(), "|/x".to_owned())].into()));
            });
        }),
        ("linux.maskedPaths[0]", |spec| {
            linux(spec, |l| {
                l.set_masked_paths(Some(vec!["proc".to_owned()]));
            });
        }),
        ("linux.maskedPaths[1]", |spec| {
            linux(spec, |l| {
                l.set_masked_paths(Some(vec!["/proc/kcore".to_owned(), "/a/..".to_owned()]));
            });
        }),
        ("linux.readonlyPaths[0]", |spec| {
            linux(spec, |l| {
                l.set_readonly_paths(Some(vec!["//".to_owned()]));
            });
        }),
        ("linux.devices[0].minor", |spec| {
            linux(spec, |l| {
                l.set_devices(Some(vec![device(1, 1_048_577)]));
            });
        }),
        ("linux.devices[0].major", |spec| {
            linux(spec, |l| {
                l.set_devices(Some(vec![device(4096, 1)]));
            });
        }),
        ("linux.sysctl[\"net.core.somaxconn\"]", |spec| {
            linux(spec, |l| {
                l.set_sysctl(Some([("net.core.somaxconn".to_owned(), String::new())].into()));
            });
        }),
        ("linux.sysctl[\"net/core/somaxconn\"]", |spec| {
            linux(spec, |l| {
                let names = ["net.core.somaxconn", "net/core/somaxconn"];
                l.set_sysctl(Some(names.map(|name| (name.to_owned(), "1".to_owned())).into()));
            });
        }),
        ("mounts[9].destination", |spec| mount(spec, bind("/x", "/proc", &["rbind"]))),
        ("mounts[9].destination", |spec| mount(spec, bind("/x/proc", "/dev/..//proc/.", &["rbind"]))),
        ("mounts[9].destination", |spec| mount(spec, bind("/x", "/", &[]))),
        ("mounts[9].destination", |spec| mount(spec, bind("/x", "/data/../proc/1", &[]))),
        ("mounts[9].source", |spec| mount(spec, bind("x", "/y", &[]))),
        ("mounts[9].options", |spec| mount(spec, bind("/x", "/y", &["rbind", "nonsense"]))),
        ("mounts[9].type", |spec| {
            let ext4 = oci::MountBuilder::default().typ("ext4").source("/dev/sda").destination("/y");
            mount(spec, ext4.options(Vec::new()).build().unwrap());
        }),
        ("mounts[9].type", |spec| {
            let cover = oci::MountBuilder::default().typ("tmpfs").source("tmpfs").destination("/proc");
            mount(spec, cover.options(Vec::new()).build().unwrap());
        }),
    ];
    for (field, edit) in cases {
        let mut spec = full_spec();
        edit(&mut spec);
        let refusal = make(&spec).unwrap_err();
        assert_eq!(refusal.field, *field, "{refusal}");
    }
}

#[test]
fn the_root_is_neither_masked_nor_made_read_only_by_any_name() {
    for name in ["/", "//", "/.", "/a/..", "/../.."] {
        type Set = fn(&mut oci::Linux, Vec<String>);
        let lists: [(&str, Set); 2] = [
            ("linux.maskedPaths[0]", |linux, list| {
                linux.set_masked_paths(Some(list));
            }),
            ("linux.readonlyPaths[0]", |linux, list| {
                linux.set_readonly_paths(Some(list));
            }),
        ];
        for (field, set) in lists {
            let mut spec = full_spec();
            let mut linux = spec.linux().clone().unwrap();
            set(&mut linux, vec![name.to_owned()]);
            spec.set_linux(Some(linux));
            assert_eq!(
                make(&spec).unwrap_err().to_string(),
                format!("{field}: is the root itself"),
                "{name}"
            );
        }
    }
}

#[test]
fn the_highest_device_numbers_are_taken_and_the_hosts_proc_may_be_shown() {
    let mut spec = full_spec();
    let mut linux = spec.linux().clone().unwrap();
    linux.set_devices(Some(vec![device(4095, 1_048_575)]));
    spec.set_linux(Some(linux));
    let mut mounts = spec.mounts().clone().unwrap();
    mounts.push(bind("/proc/", "/proc", &["rbind"]));
    spec.set_mounts(Some(mounts));
    let made = make(&spec).unwrap();
    let found = made
        .steps
        .iter()
        .any(|step| matches!(step, Step::Device(node) if (node.major, node.minor) == (4095, 1_048_575)));
    assert!(found, "{:?}", made.steps);
}

#[test]
fn hooks_need_a_bundle_and_are_refused_by_path() {
    let bundle = Bundle { id: "c1", directory: Path::new("/bundle"), root: Path::new("/bundle/rootfs") };
    let with = |hooks: serde_json::Value, user: NamespaceSource| {
        let mut spec = full_spec();
        spec.set_hooks(Some(serde_json::from_value(hooks).unwrap()));
        let namespaces = NamespacePlan { user, ..namespaces() };
        assert!(spec.hooks() == &Some(oci::Hooks::default()) || make(&spec).unwrap_err().field == "hooks");
        plan_in_bundle(&PlanInput { spec: &spec, namespaces, seccomp: None }, &bundle)
    };
    let host = || NamespaceSource::Host;
    let hook = serde_json::json!([{ "path": "/bin/hook", "timeout": 3 }]);
    let made = with(serde_json::json!({ "poststop": hook, "prestart": [] }), host()).unwrap();
    let hooks = made.hooks.clone().unwrap();
    assert_eq!(
        (hooks.poststop[0].timeout_s, hooks.prestart.len(), hooks.about.id.as_str()),
        (Some(3), 0, "c1")
    );
    let text = serde_json::to_string(&made).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), made);
    assert_eq!(with(serde_json::json!({}), host()).unwrap().hooks, None);
    assert_eq!(with(serde_json::json!({ "poststart": [] }), host()).unwrap().hooks, None);
    for (field, hooks) in [
        ("hooks.createRuntime[0].path", serde_json::json!({ "createRuntime": [{ "path": "hook" }] })),
        (
            "hooks.poststart[1].timeout",
            serde_json::json!({ "poststart": [{ "path": "/x" }, { "path": "/x", "timeout": 0 }] }),
        ),
        (
            "hooks.prestart[0].args[1]",
            serde_json::json!({ "prestart": [{ "path": "/x", "args": ["x", "a\0b"] }] }),
        ),
        ("hooks.poststop[0].env[0]", serde_json::json!({ "poststop": [{ "path": "/x", "env": ["A\0"] }] })),
    ] {
        assert_eq!(with(hooks, host()).unwrap_err().field, field);
    }
    let create = serde_json::json!({ "createContainer": hook });
    assert_eq!(with(create, NamespaceSource::Pod).unwrap_err().field, "hooks");
    assert!(with(serde_json::json!({ "startContainer": hook }), NamespaceSource::Pod).is_ok());
}

#[test]
fn the_hosts_names_and_settings_are_left_alone() {
    let on_host = |network, uts| NamespacePlan { network, uts, ..namespaces() };
    let spec = full_spec();
    let named = plan(&PlanInput {
        spec: &spec,
        namespaces: on_host(NamespaceSource::Pod, NamespaceSource::Host),
        seccomp: None,
    });
    assert_eq!(named.unwrap_err().field, "hostname");
    let set = plan(&PlanInput {
        spec: &spec,
        namespaces: on_host(NamespaceSource::Host, NamespaceSource::Own),
        seccomp: None,
    });
    assert_eq!(set.unwrap_err().field, "linux.sysctl[\"net.core.somaxconn\"]");
}

/// Paths as somebody writes them who means no good.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-c]{1,3}",
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("proc".to_owned()),
        Just(String::new())
    ];
    (any::<bool>(), prop::collection::vec(part, 0..6))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn is_clean(path: &Path) -> bool {
    path.is_absolute()
        && path != Path::new("/")
        && path.components().skip(1).all(|component| matches!(component, Component::Normal(_)))
}

fn target(step: &Step) -> Option<PathBuf> {
    match step {
        Step::AttachSource { target, .. }
        | Step::AttachSharedMemory { target, .. }
        | Step::Cgroups { target, .. } => Some(target.clone()),
        Step::Mount(mount) => Some(mount.target.clone()),
        Step::Device(node) => Some(node.path.clone()),
        Step::Symlink { path, .. } => Some(path.clone()),
        _ => None,
    }
}

proptest! {
    #[test]
    fn every_target_is_clean_and_every_volume_has_its_slot(paths in prop::collection::vec(path(), 0..6)) {
        let mut spec = full_spec();
        let mut mounts = spec.mounts().clone().unwrap();
        mounts.extend(paths.iter().map(|path| bind("/source", path, &["rbind"])));
        spec.set_mounts(Some(mounts));
        let Ok(made) = make(&spec) else { return Ok(()) };
        let targets: Vec<PathBuf> = made.steps.iter().filter_map(target).collect();
        prop_assert!(targets.iter().all(|target| is_clean(target)), "{targets:?}");
        prop_assert!(targets.iter().all(|target| target == Path::new("/proc") || !target.starts_with("/proc")), "{targets:?}");
        let slots: Vec<usize> = made
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::AttachSource { slot, .. } => Some(*slot),
                _ => None,
            })
            .collect();
        prop_assert_eq!(slots, (0..made.sources.len()).collect::<Vec<_>>());
        let text = serde_json::to_string(&made).unwrap();
        prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), made);
    }

    #[test]
    fn restrictions_come_after_everything_they_restrict(paths in prop::collection::vec(path(), 0..6)) {
        let mut spec = full_spec();
        let mut mounts = spec.mounts().clone().unwrap();
        mounts.extend(paths.iter().map(|path| bind("/source", path, &["rbind"])));
        spec.set_mounts(Some(mounts));
        let Ok(made) = make(&spec) else { return Ok(()) };
        let first = made.steps.iter().position(|step| matches!(step, Step::MaskPath(_) | Step::ReadonlyPath(_)));
        let last = made.steps.iter().rposition(|step| target(step).is_some());
        prop_assert!(first > last);
    }
}
