//! What this runtime can do, in the words of the runtime specification (features.md).
//!
//! The lists are those that the code goes by, or are held to it by the tests below.

use serde_json::json;

use crate::hooks::Moment;
use crate::plan::{CAPABILITIES, MOUNT_OPTIONS};
use crate::seccomp::parse::{ACTIONS, FLAGS, OPERATORS};
use crate::spec::oci;

/// The newest version of the specification that is understood.
pub const NEWEST_VERSION: &str = "1.3.0";

/// The kinds of namespace that a container can have of its own.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"];

/// Instruction sets that a filter may name; those that never run on this machine count for nothing.
const ARCHITECTURES: [&str; 6] = [
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
];

/// The features. AppArmor and SELinux are labels that are handed to the kernel, which may know neither.
pub fn features() -> oci::Features {
    let has = |file: &str| std::path::Path::new(file).exists();
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": NEWEST_VERSION,
        "hooks": Moment::ALL.map(Moment::name),
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": CAPABILITIES.as_slice(),
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": true, "actions": ACTIONS, "operators": OPERATORS, "archs": ARCHITECTURES,
                "knownFlags": FLAGS, "supportedFlags": FLAGS,
            },
            "apparmor": { "enabled": has("/sys/kernel/security/apparmor") },
            "selinux": { "enabled": has("/sys/fs/selinux/enforce") },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": false },
        },
    });
    // It is what it is made of; the test below reads every part of it.
    serde_json::from_value(features).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{Architecture, Surroundings, compile, parse};

    #[test]
    fn every_part_is_there() {
        let features = features();
        let linux = features.linux().clone().unwrap();
        assert_eq!(features.hooks().as_ref().unwrap().len(), 6);
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), NAMESPACES.len());
        let seccomp = linux.seccomp().clone().unwrap();
        assert_eq!(seccomp.actions().as_ref().unwrap().len(), ACTIONS.len());
        assert_eq!(seccomp.archs().as_ref().unwrap().len(), ARCHITECTURES.len());
    }

    #[test]
    fn filters_of_every_kind_that_is_told_compile() {
        let surroundings = Surroundings { capabilities: 0, machine: Architecture::NATIVE, kernel: (6, 1) };
        for action in ACTIONS {
            for operator in OPERATORS {
                let argument = json!({ "index": 0, "value": 1, "valueTwo": 1, "op": operator });
                let rule = json!({ "names": ["getcwd"], "action": action, "args": [argument] });
                let profile = json!({
                    "defaultAction": "SCMP_ACT_ALLOW", "architectures": ARCHITECTURES, "flags": FLAGS,
                    "syscalls": [rule],
                });
                compile(&parse(profile.to_string().as_bytes(), &surroundings).unwrap()).unwrap();
            }
        }
    }
}
