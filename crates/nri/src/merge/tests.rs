use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::api::*;

fn container() -> Container {
    Container {
        id: "c".into(),
        env: vec!["A=1".into(), "B=2".into()],
        mounts: vec![Mount { destination: "/data".into(), ..Mount::default() }],
        args: vec!["sleep".into()],
        ..Container::default()
    }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into() }
}

fn answer(adjust: ContainerAdjustment) -> CreateContainerResponse {
    CreateContainerResponse { adjust: Some(adjust), ..CreateContainerResponse::default() }
}

fn env(entries: &[(&str, &str)]) -> CreateContainerResponse {
    let env = entries.iter().map(|(key, value)| variable(key, value)).collect();
    answer(ContainerAdjustment { env, ..ContainerAdjustment::default() })
}

fn limits(shares: Option<u64>, limit: Option<i64>) -> LinuxResources {
    LinuxResources {
        cpu: shares.map(|value| LinuxCpu { shares: Some(OptionalUInt64 { value }), ..LinuxCpu::default() }),
        memory: limit
            .map(|value| LinuxMemory { limit: Some(OptionalInt64 { value }), ..LinuxMemory::default() }),
        ..LinuxResources::default()
    }
}

fn update(id: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    let linux = Some(LinuxContainerUpdate { resources: Some(resources) });
    ContainerUpdate { container_id: id.into(), linux, ignore_failure }
}

#[test]
fn the_next_plugin_sees_what_the_one_before_has_changed() {
    let mut creation = Creation::new(container());
    creation.add("10-a", env(&[("B", "3"), ("C", "4"), ("-A", "")])).unwrap();
    assert_eq!(creation.seen.env, ["B=3", "C=4"]);
    assert_eq!(creation.adjust.env, [variable("-A", ""), variable("B", "3"), variable("C", "4")]);
    let of_a = &creation.others.owners.told().owners["c"].compound[&(Field::Env as i32)].owners;
    // What no plugin had set is nobody's when it is gone.
    let expected = [("B", "10-a"), ("C", "10-a")].map(|(key, owner)| (key.into(), owner.into()));
    assert_eq!(*of_a, BTreeMap::from(expected));
}

#[test]
fn two_plugins_cannot_set_the_same_unless_one_takes_it_over() {
    let mut creation = Creation::new(container());
    creation.add("10-a", env(&[("X", "1")])).unwrap();
    let conflict = creation.add("20-b", env(&[("X", "2")])).unwrap_err().to_string();
    assert_eq!(conflict, "the plugins \"20-b\" and \"10-a\" both want to set Env \"X\"");
    creation.add("30-c", env(&[("-X", ""), ("X", "3")])).unwrap();
    assert_eq!(creation.adjust.env, [variable("X", "3")]);
    let conflict = creation.add("40-d", env(&[("X", "4")])).unwrap_err();
    assert!(matches!(conflict, Error::Conflict { other, .. } if other == "30-c"));
    // What was taken away from a plugin is whose who took it away.
    let mut creation = Creation::new(container());
    creation.add("10-a", env(&[("X", "1")])).unwrap();
    creation.add("20-b", env(&[("-X", "")])).unwrap();
    let conflict = creation.add("30-c", env(&[("X", "5")])).unwrap_err();
    assert!(matches!(conflict, Error::Conflict { other, .. } if other == "20-b"));
}

/// As with other runtimes: one plugin drops a variable of the image, and another one sets it.
#[test]
fn what_no_plugin_has_set_stays_free_when_it_is_taken_away() {
    let mut creation = Creation::new(container());
    creation.add("10-a", env(&[("-A", "")])).unwrap();
    assert_eq!(creation.seen.env, ["B=2"]);
    creation.add("20-b", env(&[("A", "5")])).unwrap();
    assert_eq!(creation.adjust.env, [variable("A", "5")]);
    assert!(creation.add("30-c", env(&[("A", "6")])).is_err(), "it is 20-b's now");
    // A namespace that was taken away is the remover's all the same: the host's is a choice, too.
    let namespace = |kind: &str| LinuxNamespace { r#type: kind.into(), ..LinuxNamespace::default() };
    let namespaces = |kind: &str| {
        let linux = LinuxContainerAdjustment { namespaces: vec![namespace(kind)], ..Default::default() };
        answer(ContainerAdjustment { linux: Some(linux), ..ContainerAdjustment::default() })
    };
    creation.add("40-d", namespaces("-pid")).unwrap();
    assert!(creation.add("50-e", namespaces("pid")).is_err());
}

#[test]
fn every_list_and_map_has_owners_by_entry() {
    let mount = |destination: &str| Mount { destination: destination.into(), ..Mount::default() };
    let device = |path: &str| LinuxDevice { path: path.into(), ..LinuxDevice::default() };
    let namespace = |kind: &str| LinuxNamespace { r#type: kind.into(), ..LinuxNamespace::default() };
    let limit = |kind: &str| PosixRlimit { r#type: kind.into(), ..PosixRlimit::default() };
    let full = || ContainerAdjustment {
        annotations: [("k".to_owned(), "v".to_owned())].into(),
        mounts: vec![mount("/m")],
        rlimits: vec![limit("RLIMIT_CORE")],
        cdi_devices: vec![CdiDevice { name: "v/c=d".into() }],
        linux: Some(LinuxContainerAdjustment {
            devices: vec![device("/dev/d")],
            namespaces: vec![namespace("pid")],
            sysctl: [("net.s".to_owned(), "1".to_owned())].into(),
            net_devices: [("eth1".to_owned(), LinuxNetDevice::default())].into(),
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    };
    let mut creation = Creation::new(container());
    creation.add("10-a", answer(full())).unwrap();
    let owned = &creation.others.owners.told().owners["c"].compound;
    let fields = [
        Field::Annotations,
        Field::Mounts,
        Field::Devices,
        Field::CdiDevices,
        Field::Rlimits,
        Field::Namespace,
        Field::Sysctl,
        Field::LinuxNetDevices,
    ];
    assert_eq!(owned.keys().copied().collect::<Vec<_>>(), fields.map(|field| field as i32));
    assert_eq!(creation.seen.mounts.len(), 2);
    assert_eq!(creation.adjust, full());
    // Each of them alone conflicts.
    let parts: [fn(&mut ContainerAdjustment); 8] = [
        |a| a.annotations.clear(),
        |a| a.mounts.clear(),
        |a| a.rlimits.clear(),
        |a| a.cdi_devices.clear(),
        |a| a.linux.get_or_insert_default().devices.clear(),
        |a| a.linux.get_or_insert_default().namespaces.clear(),
        |a| a.linux.get_or_insert_default().sysctl.clear(),
        |a| a.linux.get_or_insert_default().net_devices.clear(),
    ];
    for alone in 0..parts.len() {
        let mut one = full();
        parts.iter().enumerate().filter(|(at, _)| *at != alone).for_each(|(_, clear)| clear(&mut one));
        assert!(matches!(creation.add("20-b", answer(one)), Err(Error::Conflict { .. })), "{alone}");
    }
}

#[test]
fn simple_fields_have_one_owner_each() {
    let one = |linux: LinuxContainerAdjustment| {
        answer(ContainerAdjustment { linux: Some(linux), ..Default::default() })
    };
    let fields: [fn() -> LinuxContainerAdjustment; 7] = [
        || LinuxContainerAdjustment { cgroups_path: "/x".into(), ..Default::default() },
        || LinuxContainerAdjustment { oom_score_adj: Some(OptionalInt { value: 5 }), ..Default::default() },
        || LinuxContainerAdjustment { io_priority: Some(LinuxIoPriority::default()), ..Default::default() },
        || LinuxContainerAdjustment { seccomp_policy: Some(LinuxSeccomp::default()), ..Default::default() },
        || LinuxContainerAdjustment { scheduler: Some(LinuxScheduler::default()), ..Default::default() },
        || LinuxContainerAdjustment {
            memory_policy: Some(LinuxMemoryPolicy::default()),
            ..Default::default()
        },
        || LinuxContainerAdjustment { resources: Some(limits(Some(2), None)), ..Default::default() },
    ];
    let mut creation = Creation::new(container());
    for field in fields {
        creation.add("10-a", one(field())).unwrap();
        assert!(matches!(creation.add("20-b", one(field())), Err(Error::Conflict { .. })), "{:?}", field());
    }
    assert_eq!(creation.seen.linux.unwrap().cgroups_path, "/x");
}

#[test]
fn arguments_are_taken_over_by_an_empty_one() {
    let args = |words: &[&str]| {
        let args = words.iter().map(|word| (*word).to_owned()).collect();
        answer(ContainerAdjustment { args, ..ContainerAdjustment::default() })
    };
    let mut creation = Creation::new(container());
    creation.add("10-a", args(&["a"])).unwrap();
    assert!(creation.add("20-b", args(&["b"])).is_err());
    creation.add("20-b", args(&["", "b", "-x"])).unwrap();
    assert_eq!(creation.adjust.args, ["b", "-x"]);
    assert_eq!(creation.seen.args, ["b", "-x"]);
}

#[test]
fn hooks_add_up_and_are_everybodys() {
    let hooks = |path: &str| {
        let hook = Hook { path: path.into(), ..Hook::default() };
        answer(ContainerAdjustment {
            hooks: Some(Hooks { poststop: vec![hook], ..Hooks::default() }),
            ..Default::default()
        })
    };
    let mut creation = Creation::new(container());
    creation.add("10-a", hooks("/a")).unwrap();
    creation.add("20-b", hooks("/b")).unwrap();
    assert_eq!(creation.adjust.hooks.unwrap().poststop.len(), 2);
    assert_eq!(creation.others.owners.told().owners["c"].simple[&(Field::OciHooks as i32)], "10-a,20-b");
}

#[test]
fn what_is_being_made_cannot_be_updated() {
    let response = CreateContainerResponse {
        update: vec![update("c", limits(Some(2), None), true)],
        ..Default::default()
    };
    assert!(matches!(Creation::new(container()).add("10-a", response), Err(Error::NotYet { .. })));
}

#[test]
fn updates_of_others_are_merged_and_may_be_left_out() {
    let mut others = Others::default();
    others.update("10-a", vec![update("x", limits(Some(2), None), false)]).unwrap();
    others
        .update(
            "20-b",
            vec![update("x", limits(None, Some(7)), true), update("y", limits(Some(3), None), true)],
        )
        .unwrap();
    let expected = [update("x", limits(Some(2), Some(7)), false), update("y", limits(Some(3), None), true)];
    assert_eq!(others.updates, expected);
    // One that may fail is left out as a whole, and claims nothing.
    let both = LinuxResources { memory: limits(None, Some(8)).memory, ..limits(Some(9), None) };
    others.update("30-c", vec![update("y", both.clone(), true)]).unwrap();
    assert_eq!(others.updates, expected);
    others.update("40-d", vec![update("y", limits(None, Some(6)), false)]).unwrap();
    assert!(others.update("50-e", vec![update("y", both, false)]).is_err());
}

#[test]
fn an_update_is_what_was_asked_for_with_what_plugins_change_of_it() {
    let mut change = Change::new("c", limits(Some(2), Some(100)));
    let of = |updates| UpdateContainerResponse { update: updates, ..UpdateContainerResponse::default() };
    change
        .add(
            "10-a",
            of(vec![update("c", limits(Some(5), None), false), update("x", limits(Some(1), None), false)]),
        )
        .unwrap();
    assert_eq!(change.seen, limits(Some(5), Some(100)));
    assert_eq!(change.others.updates, [update("x", limits(Some(1), None), false)]);
    assert!(change.add("20-b", of(vec![update("c", limits(Some(6), None), false)])).is_err());
}

#[test]
fn rules_for_devices_are_refused_in_updates_and_never_dropped() {
    let rules = || LinuxResources { devices: vec![LinuxDeviceCgroup::default()], ..limits(Some(5), None) };
    let of = |updates| UpdateContainerResponse { update: updates, ..UpdateContainerResponse::default() };
    let mut change = Change::new("c", limits(Some(2), None));
    let refused = change.add("10-a", of(vec![update("c", rules(), false)])).unwrap_err();
    assert!(matches!(&refused, Error::Unsupported { field, .. } if field == "linux.resources.devices"));
    assert!(refused.to_string().contains("10-a"), "{refused}");
    // Of another one whoever carries it out refuses them: they have to come there.
    let mut others = Others::default();
    others.update("10-a", vec![update("x", limits(Some(2), None), false)]).unwrap();
    let devices = LinuxResources { devices: rules().devices, ..LinuxResources::default() };
    others.update("20-b", vec![update("x", devices, false)]).unwrap();
    assert_eq!(limits_of(&others, "x").devices, rules().devices);
}

fn limits_of(others: &Others, id: &str) -> LinuxResources {
    let update = others.updates.iter().find(|update| update.container_id == id).unwrap();
    update.linux.clone().unwrap().resources.unwrap()
}

/// Each of them used to cost a look at all that was there: hours, in the one task that everybody waits for.
#[test]
fn as_many_as_a_message_may_have_cost_no_more_each() {
    let all = 16 << 10;
    let entries: Vec<String> = (0..all).map(|entry| format!("K{entry}")).collect();
    let pairs: Vec<(&str, &str)> = entries.iter().map(|key| (key.as_str(), "1")).collect();
    let mut creation = Creation::new(container());
    creation.add("10-a", env(&pairs)).unwrap();
    assert_eq!(creation.adjust.env.len(), all);
    let removals: Vec<String> = entries.iter().map(|key| format!("-{key}")).collect();
    let removals: Vec<(&str, &str)> = removals.iter().map(|key| (key.as_str(), "")).collect();
    creation.add("20-b", env(&removals)).unwrap();
    assert_eq!(creation.seen.env, container().env);
    let mut others = Others::default();
    others
        .update("10-a", entries.iter().map(|id| update(id, limits(Some(2), None), false)).collect())
        .unwrap();
    let more = entries.iter().map(|id| update(id, limits(None, Some(7)), false)).collect();
    others.update("20-b", more).unwrap();
    assert_eq!(others.updates.len(), all);
    assert_eq!(limits_of(&others, "K7"), limits(Some(2), Some(7)));
}

#[test]
fn rdt_is_taken_away_as_a_whole() {
    let rdt = |rdt: LinuxRdt| {
        let linux = LinuxContainerAdjustment { rdt: Some(rdt), ..LinuxContainerAdjustment::default() };
        answer(ContainerAdjustment { linux: Some(linux), ..ContainerAdjustment::default() })
    };
    let class = |name: &str| Some(OptionalString { value: name.into() });
    let mut creation = Creation::new(container());
    creation.add("10-a", rdt(LinuxRdt { clos_id: class("gold"), ..LinuxRdt::default() })).unwrap();
    creation.add("20-b", rdt(LinuxRdt { remove: true, ..LinuxRdt::default() })).unwrap();
    let now = |creation: &Creation| creation.adjust.linux.clone().unwrap().rdt.unwrap();
    assert_eq!(now(&creation), LinuxRdt { remove: true, ..LinuxRdt::default() });
    assert!(creation.add("30-c", rdt(LinuxRdt { clos_id: class("tin"), ..LinuxRdt::default() })).is_err());
    creation.add("20-b", rdt(LinuxRdt { clos_id: class("tin"), ..LinuxRdt::default() })).unwrap();
    assert_eq!(now(&creation), LinuxRdt { clos_id: class("tin"), ..LinuxRdt::default() });
}

proptest! {
    /// However plugins set and remove, no entry is two plugins' own, and what is collected does to the container what the last one saw.
    #[test]
    fn what_is_collected_leads_to_what_was_seen(
        answers in prop::collection::vec(prop::collection::vec((0_u8..4, any::<bool>(), 0_u8..9), 0..4), 0..5),
    ) {
        let mut creation = Creation::new(container());
        for (at, entries) in answers.iter().enumerate() {
            let env: Vec<(String, String)> = entries.iter().map(|(key, removes, value)| {
                (format!("{}{}", if *removes { "-" } else { "" }, char::from(b'A' + key)), value.to_string())
            }).collect();
            let env: Vec<(&str, &str)> = env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let mut after = Creation { seen: creation.seen.clone(), adjust: creation.adjust.clone(), others: Others { owners: creation.others.owners.clone(), ..Others::default() } };
            // One that conflicts fails the creation; here it is passed over.
            if after.add(&format!("{at:02}-p"), super::tests::env(&env)).is_ok() {
                creation = after;
            }
        }
        let mut spec = oci_spec::runtime::Spec::default();
        let mut process = oci_spec::runtime::Process::default();
        process.set_env(Some(container().env));
        spec.set_process(Some(process));
        crate::spec::adjust(&mut spec, &creation.adjust).unwrap();
        let sorted = |mut list: Vec<String>| { list.sort(); list };
        let made = spec.process().as_ref().unwrap().env().clone().unwrap();
        prop_assert_eq!(sorted(made), sorted(creation.seen.env));
    }
}
