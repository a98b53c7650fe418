//! Which devices the processes of a cgroup may use: the rules of a specification, read once, and given to the kernel
//! by the host's means (config-linux.md, "Allowed Device list").
//!
//! | host | means | file |
//! |---|---|---|
//! | with the devices controller of version 1 | its `devices.allow` and `devices.deny` | `legacy` |
//! | with a version 2 tree and without that | a program attached to the cgroup | `program`, `attach` |
//!
//! What a list means is the same on both: of each access that is asked for (reading, writing, making a node) the last
//! rule about it decides; what no rule is about is left to the cgroups above. An empty list says nothing.

mod attach;
mod legacy;
mod program;

use std::path::Path;

use super::{Error, Host};
use crate::plan::{MOST_MAJOR, MOST_MINOR, Refusal, device_number};
use crate::spec::oci::{LinuxDeviceCgroup, LinuxDeviceType};

/// Bits of an access, as programs are told of it (linux/bpf.h, `BPF_DEVCG_ACC_*`).
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const EVERY_ACCESS: u8 = MAKE | READ | WRITE;

/// How a host limits the use of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceControl {
    /// By the devices controller of version 1.
    Controller,
    /// By a program at each cgroup of version 2.
    Program,
}

impl Host {
    /// Finds out how device rules are applied here, and whether the kernel takes a program where one is needed.
    ///
    /// # Errors
    /// [`Error::NoController`] when there is no means, [`Error::DeviceProgram`] when the kernel refuses programs.
    pub fn try_devices(&self) -> Result<DeviceControl, Error> {
        if self.legacy.iter().any(|h| h.controllers.iter().any(|name| name == "devices")) {
            return Ok(DeviceControl::Controller);
        }
        let Some(mount) = &self.unified else { return Err(MISSING) };
        attach::attempt(mount).map(|()| DeviceControl::Program)
    }
}

/// What a host without any means answers.
pub(super) const MISSING: Error =
    Error::NoController { controller: "devices", setting: "linux.resources.devices" };

/// The kind of devices that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Character,
    Both,
}

/// A rule as it was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    verdict: Verdict,
    kind: Kind,
    /// None is any.
    major: Option<u32>,
    minor: Option<u32>,
    /// Some of [`EVERY_ACCESS`], at least one.
    access: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Deny,
}

impl Rule {
    /// Whether nothing that was said before matters any more.
    fn is_about_everything(&self) -> bool {
        self.kind == Kind::Both && self.major.is_none() && self.minor.is_none() && self.access == EVERY_ACCESS
    }
}

/// Reads a list.
fn read(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, Refusal> {
    rules.iter().enumerate().map(|(at, rule)| read_rule(at, rule)).collect()
}

/// Whether a list says what can be understood.
pub(super) fn check(rules: &[LinuxDeviceCgroup]) -> Result<(), Refusal> {
    read(rules).map(drop)
}

fn read_rule(at: usize, rule: &LinuxDeviceCgroup) -> Result<Rule, Refusal> {
    let refuse =
        |field: &str, why: String| Refusal { field: format!("linux.resources.devices[{at}].{field}"), why };
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => Kind::Both,
        LinuxDeviceType::B => Kind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => Kind::Character,
        LinuxDeviceType::P => return Err(refuse("type", "a pipe is no device".to_owned())),
    };
    let number = |field: &str, value: Option<i64>, most: u32| match value {
        Some(value) if value >= 0 => device_number(value, most).map(Some).map_err(|why| refuse(field, why)),
        // Absent and -1 are any.
        _ => Ok(None),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or_default().chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MAKE,
            _ => return Err(refuse("access", format!("{letter:?} is not one of \"r\", \"w\" and \"m\""))),
        };
    }
    Ok(Rule {
        verdict: if rule.allow() { Verdict::Allow } else { Verdict::Deny },
        kind,
        major: number("major", rule.major(), MOST_MAJOR)?,
        minor: number("minor", rule.minor(), MOST_MINOR)?,
        access: if access == 0 { EVERY_ACCESS } else { access },
    })
}

/// Has a cgroup obey a list, by the files of version 1 in `directory`.
pub(super) fn by_controller(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    if rules.is_empty() { Ok(()) } else { legacy::apply(directory, &read(rules)?) }
}

/// Has a cgroup of version 2 obey a list in place of an earlier one, by a program.
pub(super) fn by_program(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    if rules.is_empty() { Ok(()) } else { attach::apply(directory, &read(rules)?) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::oci::LinuxDeviceCgroupBuilder;

    fn rule(typ: LinuxDeviceType, major: i64, access: &str) -> LinuxDeviceCgroup {
        let builder = LinuxDeviceCgroupBuilder::default().allow(true).typ(typ).major(major);
        builder.access(access).build().unwrap()
    }

    #[test]
    fn rules_are_read() {
        let read = |typ, major, access| read(&[rule(typ, major, access)]).unwrap()[0];
        let one = read(LinuxDeviceType::U, 7, "wr");
        assert_eq!((one.kind, one.major, one.minor), (Kind::Character, Some(7), None));
        assert_eq!(one.access, READ | WRITE);
        assert!(read(LinuxDeviceType::A, -1, "").is_about_everything());
        assert!(!read(LinuxDeviceType::A, 1, "").is_about_everything());
        assert!(!read(LinuxDeviceType::A, -1, "rw").is_about_everything());
    }

    #[test]
    fn what_is_no_rule_is_refused_by_its_field() {
        let field = |rule| read(&[rule]).unwrap_err().field;
        assert_eq!(field(rule(LinuxDeviceType::P, 1, "r")), "linux.resources.devices[0].type");
        assert_eq!(field(rule(LinuxDeviceType::C, 1 << 32, "r")), "linux.resources.devices[0].major");
        assert_eq!(field(rule(LinuxDeviceType::C, 4096, "r")), "linux.resources.devices[0].major");
        let mut minor = rule(LinuxDeviceType::C, 4095, "r");
        minor.set_minor(Some(1_048_575));
        assert_eq!(read(&[minor.clone()]).unwrap()[0].minor, Some(1_048_575));
        minor.set_minor(Some(1_048_577));
        assert_eq!(field(minor), "linux.resources.devices[0].minor", "it would be taken for 1");
        assert_eq!(field(rule(LinuxDeviceType::C, 1, "rx")), "linux.resources.devices[0].access");
    }
}
