//! Limits: those of a container's beginning, and `update`.

use runtime::spec::oci;
use serde_json::{Value, json};

use crate::Outcome;
use crate::arguments::{Flags, Parsed};
use crate::store::{Status, Store};

pub const FLAGS: Flags = Flags {
    values: &[
        "--resources",
        "-r",
        "--cpu-shares",
        "--cpu-share",
        "--cpu-quota",
        "--cpu-period",
        "--cpuset-cpus",
        "--cpuset-mems",
        "--memory",
        "--memory-reservation",
        "--memory-swap",
        "--pids-limit",
    ],
    switches: &[],
};

/// Where each flag's number goes.
const NUMBERS: [(&str, &str); 8] = [
    ("--cpu-shares", "/cpu/shares"),
    ("--cpu-share", "/cpu/shares"),
    ("--cpu-quota", "/cpu/quota"),
    ("--cpu-period", "/cpu/period"),
    ("--memory", "/memory/limit"),
    ("--memory-reservation", "/memory/reservation"),
    ("--memory-swap", "/memory/swap"),
    ("--pids-limit", "/pids/limit"),
];
const TEXTS: [(&str, &str); 2] = [("--cpuset-cpus", "/cpu/cpus"), ("--cpuset-mems", "/cpu/mems")];

/// `update [--resources FILE|-] [--memory BYTES] … ID`
pub fn update(store: &Store, line: &Parsed) -> Outcome {
    let record = store.load(line.only_id()?)?;
    if store.status(&record)? == Status::Stopped {
        return Err(format!("cannot update container {:?}: it is stopped", record.id).into());
    }
    let mut wanted = match line.either(("--resources", "-r")) {
        None => json!({}),
        Some("-") => serde_json::from_reader(std::io::stdin())?,
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
    };
    for (flag, place) in NUMBERS {
        if let Some(text) = line.value(flag) {
            let number: i64 = text.parse().map_err(|_| format!("{flag}: {text:?} is not a number"))?;
            set(&mut wanted, (place, json!(number)));
        }
    }
    for (flag, place) in TEXTS {
        if let Some(text) = line.value(flag) {
            set(&mut wanted, (place, json!(text)));
        }
    }
    let limits: oci::LinuxResources = serde_json::from_value(wanted)?;
    record.cgroup.apply(&limits)?;
    Ok(0)
}

fn set(wanted: &mut Value, (place, value): (&str, Value)) {
    if let [_, part, name] = place.split('/').collect::<Vec<_>>()[..] {
        wanted[part][name] = value;
    }
}

/// The limits of a configuration. Where it has rules for devices, those that every container may use follow
/// (config-linux.md, "Default Devices").
pub fn limits(asked: Option<&oci::LinuxResources>) -> oci::LinuxResources {
    let mut limits = asked.cloned().unwrap_or_default();
    let rules = limits.devices().clone().unwrap_or_default();
    if rules.is_empty() {
        return limits;
    }
    let any = None::<i64>;
    let character = Some(oci::LinuxDeviceType::C);
    let numbers = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        (136, any),
    ];
    // Making nodes is harmless: what may be opened is decided here.
    let mut defaults =
        vec![rule(character, (None, None), "m"), rule(Some(oci::LinuxDeviceType::B), (None, None), "m")];
    defaults.extend(numbers.map(|(major, minor)| rule(character, (Some(major), minor), "rwm")));
    limits.set_devices(Some(rules.into_iter().chain(defaults).collect()));
    limits
}

fn rule(
    kind: Option<oci::LinuxDeviceType>,
    (major, minor): (Option<i64>, Option<i64>),
    access: &str,
) -> oci::LinuxDeviceCgroup {
    let mut rule = oci::LinuxDeviceCgroup::default();
    rule.set_allow(true).set_typ(kind).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
    rule
}
