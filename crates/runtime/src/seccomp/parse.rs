//! Profiles as they are written: the `linux.seccomp` object of the OCI runtime specification (config-linux, seccomp), and what
//! Docker's form has besides: `archMap`, `name`, and `includes` and `excludes` by capability, architecture and kernel.
//!
//! Properties that neither knows are ignored, as the specification demands. What asks for something that isn't done is refused by name.
//!
//! Two conditions on one argument in a rule are two rules, as runc and crun read it; on different arguments, both must hold.

use std::borrow::Cow;

use serde::Deserialize;

use super::architecture::Architecture;
use super::profile::{Condition, FLAG_LOG, FLAG_SPEC_ALLOW, FLAG_TSYNC, Profile, Rule, Test, Verdict};
use crate::plan::capability_number;

/// Actions that can be had. SCMP_ACT_NOTIFY, which takes a listener, can't.
pub const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
/// Operators of conditions.
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];
/// Flags of a filter.
pub const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// The largest error number that the kernel answers with (MAX_ERRNO).
const LARGEST_ERRNO: u32 = 4095;

/// How many rules a profile may have, one for each name: far more than fit into a filter. A short text can ask for a thousand times as many.
const MOST: usize = 1 << 16;

/// What the conditional parts of a profile depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// The container's capabilities, a bit each.
    pub capabilities: u64,
    pub machine: Architecture,
    /// Major and minor version.
    pub kernel: (u32, u32),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<WrittenArchitecture>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<WrittenRule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenArchitecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<WrittenArgument>>,
    includes: Option<When>,
    excludes: Option<When>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenArgument {
    index: u32,
    value: u64,
    value_two: Option<u64>,
    op: String,
}

/// When a rule of Docker's form counts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct When {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &[u8], surroundings: &Surroundings) -> Result<Profile, String> {
    let written: Written = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    for (field, value) in
        [("listenerPath", &written.listener_path), ("listenerMetadata", &written.listener_metadata)]
    {
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            return Err(format!("{field}: notifications to a listener are not supported"));
        }
    }
    let default = verdict(&written.default_action, written.default_errno_ret)
        .map_err(|why| format!("defaultAction: {why}"))?;
    let (mut rules, mut left) = (Vec::new(), MOST);
    for (at, rule) in written.syscalls.iter().flatten().enumerate() {
        let read = read_rule(rule, surroundings, left).map_err(|why| format!("syscalls[{at}].{why}"))?;
        left = left.saturating_sub(read.iter().map(|rule| rule.names.len()).sum());
        rules.extend(read);
    }
    let flags = match &written.flags {
        // What runc and the kernel since 5.16 do: the mitigation costs much and guards against little.
        None => FLAG_SPEC_ALLOW,
        Some(flags) => read_flags(flags)?,
    };
    Ok(Profile {
        default,
        architectures: architectures(&written, surroundings.machine)?,
        flags,
        rules,
        exceptions: Vec::new(),
    })
}

fn architectures(written: &Written, machine: Architecture) -> Result<Vec<Architecture>, String> {
    let known = |name: &String, field: &str| {
        let unknown = |_| format!("{field}: \"{name}\" is not an architecture");
        Architecture::parse(name).map_err(unknown)
    };
    match (
        written.architectures.as_deref().unwrap_or_default(),
        written.arch_map.as_deref().unwrap_or_default(),
    ) {
        ([_, ..], [_, ..]) => Err("archMap: cannot stand beside architectures".to_owned()),
        (list, []) => list.iter().filter_map(|name| known(name, "architectures").transpose()).collect(),
        ([], map) => {
            let mut found = Vec::new();
            for entry in map {
                let main = known(&entry.architecture, "archMap")?;
                for name in entry.sub_architectures.iter().flatten() {
                    found.extend(known(name, "archMap")?.filter(|_| main == Some(machine)));
                }
            }
            Ok(found)
        }
    }
}

fn read_flags(flags: &[String]) -> Result<u32, String> {
    flags.iter().enumerate().try_fold(0, |all, (at, flag)| match flag.as_str() {
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(all | FLAG_TSYNC),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(all | FLAG_LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(all | FLAG_SPEC_ALLOW),
        // It is about waiting for a listener's answer, and the kernel refuses it without one.
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Ok(all),
        other => Err(format!("flags[{at}]: \"{other}\" is not a flag")),
    })
}

fn verdict(action: &str, errno: Option<u32>) -> Result<Verdict, String> {
    let plain = |verdict: Verdict| match errno {
        None => Ok(verdict),
        // As the specification demands.
        Some(_) => Err(format!("{action} takes no error number")),
    };
    let number = |largest: u32| {
        let number = errno.unwrap_or(libc::EPERM.unsigned_abs());
        let fits = u16::try_from(number).ok().filter(|_| number <= largest);
        fits.ok_or_else(|| format!("the error number {number} is above {largest}"))
    };
    match action {
        "SCMP_ACT_ALLOW" => plain(Verdict::ALLOW),
        "SCMP_ACT_LOG" => plain(Verdict::LOG),
        "SCMP_ACT_TRAP" => plain(Verdict::TRAP),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => plain(Verdict::KILL_THREAD),
        "SCMP_ACT_KILL_PROCESS" => plain(Verdict::KILL_PROCESS),
        "SCMP_ACT_ERRNO" => Ok(Verdict::errno(number(LARGEST_ERRNO)?)),
        "SCMP_ACT_TRACE" => Ok(Verdict::trace(number(u16::MAX.into())?)),
        "SCMP_ACT_NOTIFY" => Err("SCMP_ACT_NOTIFY is not supported".to_owned()),
        other => Err(format!("\"{other}\" is not an action")),
    }
}

/// The rules that a written one stands for; none when it doesn't count here.
fn read_rule(written: &WrittenRule, surroundings: &Surroundings, most: usize) -> Result<Vec<Rule>, String> {
    let names = names(written)?;
    let verdict = verdict(&written.action, written.errno_ret).map_err(|why| format!("action: {why}"))?;
    let mut conditions = Vec::new();
    for (at, argument) in written.args.iter().flatten().enumerate() {
        conditions.push(condition(argument).map_err(|why| format!("args[{at}].{why}"))?);
    }
    if !counts(written, surroundings)? {
        return Ok(Vec::new());
    }
    if names.len() * conditions.len().max(1) > most {
        return Err(format!("names: make more than {MOST} rules"));
    }
    let repeats = |at: usize, one: &Condition| conditions[..at].iter().any(|other| other.index == one.index);
    if !conditions.iter().enumerate().any(|(at, one)| repeats(at, one)) {
        return Ok(vec![Rule { names, conditions, verdict }]);
    }
    let single = |one: Condition| Rule { names: names.clone(), conditions: vec![one], verdict };
    Ok(conditions.into_iter().map(single).collect())
}

fn names(written: &WrittenRule) -> Result<Vec<Cow<'static, str>>, String> {
    let single = written.name.as_deref().filter(|name| !name.is_empty());
    let names = match (single, written.names.as_deref().unwrap_or_default()) {
        (Some(name), [_, ..]) => return Err(format!("name: \"{name}\" cannot stand beside names")),
        (None, []) => return Err("names: is empty".to_owned()),
        (Some(name), []) => vec![name.to_owned()],
        (None, names) => names.to_vec(),
    };
    match names.iter().position(String::is_empty) {
        Some(at) => Err(format!("names[{at}]: is empty")),
        None => Ok(names.into_iter().map(Cow::Owned).collect()),
    }
}

fn condition(written: &WrittenArgument) -> Result<Condition, String> {
    let index = u8::try_from(written.index).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| format!("index: {} is not between 0 and 5", written.index))?;
    let value = written.value;
    let test = match written.op.as_str() {
        "SCMP_CMP_NE" => Test::NotEqual(value),
        "SCMP_CMP_LT" => Test::Less(value),
        "SCMP_CMP_LE" => Test::LessOrEqual(value),
        "SCMP_CMP_EQ" => Test::Equal(value),
        "SCMP_CMP_GE" => Test::GreaterOrEqual(value),
        "SCMP_CMP_GT" => Test::Greater(value),
        "SCMP_CMP_MASKED_EQ" => Test::Masked { mask: value, value: written.value_two.unwrap_or(0) },
        other => return Err(format!("op: \"{other}\" is not an operator")),
    };
    Ok(Condition { index, test })
}

/// Whether a rule of Docker's form counts here: all that it includes and nothing that it excludes is there.
fn counts(rule: &WrittenRule, surroundings: &Surroundings) -> Result<bool, String> {
    let mut counts = true;
    if let Some(includes) = &rule.includes {
        let met = includes.met(surroundings).map_err(|why| format!("includes.{why}"))?;
        counts &=
            met.caps.is_none_or(|(_, all)| all) && met.arches != Some(false) && met.kernel != Some(false);
    }
    if let Some(excludes) = &rule.excludes {
        let met = excludes.met(surroundings).map_err(|why| format!("excludes.{why}"))?;
        counts &=
            met.caps.is_none_or(|(any, _)| !any) && met.arches != Some(true) && met.kernel != Some(true);
    }
    Ok(counts)
}

/// What of a condition is met; `None` where it says nothing.
struct Met {
    /// Any of the capabilities, and all.
    caps: Option<(bool, bool)>,
    arches: Option<bool>,
    kernel: Option<bool>,
}

impl When {
    fn met(&self, surroundings: &Surroundings) -> Result<Met, String> {
        let caps = self.caps.as_deref().filter(|caps| !caps.is_empty());
        let has = |name: &String| {
            capability_number(name).is_some_and(|number| surroundings.capabilities >> number & 1 == 1)
        };
        let arches = self.arches.as_deref().filter(|arches| !arches.is_empty());
        let kernel = match self.min_kernel.as_deref() {
            None | Some("") => None,
            Some(text) => {
                let version = version(text).ok_or_else(|| format!("minKernel: \"{text}\" is no version"))?;
                Some(surroundings.kernel >= version)
            }
        };
        Ok(Met {
            caps: caps.map(|caps| (caps.iter().any(has), caps.iter().all(has))),
            arches: arches.map(|arches| arches.iter().any(|name| name == surroundings.machine.go_name())),
            kernel,
        })
    }
}

/// Major and minor version at the beginning of a text like "6.12.3-amd64".
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
