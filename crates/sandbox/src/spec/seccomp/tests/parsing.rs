//! Profiles as they are written: what is understood, and what is refused by which name.

use serde_json::{Value, json};

use super::super::{describe, shared};
use runtime::seccomp::architecture::Architecture;
use runtime::seccomp::parse::{Surroundings, parse, version};
use runtime::seccomp::profile::{Profile, Verdict};

fn read(profile: &Value, capabilities: u64) -> Result<Profile, String> {
    let surroundings = Surroundings { capabilities, machine: Architecture::X86_64, kernel: (6, 1) };
    parse(profile.to_string().as_bytes(), &surroundings)
}

fn refusal(change: Value) -> String {
    let mut profile = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    profile.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    read(&profile, 0).expect_err("a refusal")
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let rule = |change: Value| {
        let mut rule = json!({ "names": ["chmod"], "action": "SCMP_ACT_KILL" });
        rule.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({ "syscalls": [rule] })
    };
    for (begins, change) in [
        ("listenerPath: ", json!({ "listenerPath": "/run/agent.sock" })),
        ("listenerMetadata: ", json!({ "listenerMetadata": "x" })),
        ("defaultAction: SCMP_ACT_NOTIFY", json!({ "defaultAction": "SCMP_ACT_NOTIFY" })),
        ("defaultAction: \"SCMP_ACT_FLY\" ", json!({ "defaultAction": "SCMP_ACT_FLY" })),
        ("defaultAction: SCMP_ACT_ALLOW takes no", json!({ "defaultErrnoRet": 1 })),
        (
            "flags[1]: \"SECCOMP_FILTER_FLAG_FLY\"",
            json!({ "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_FLY"] }),
        ),
        ("architectures: \"SCMP_ARCH_PDP11\"", json!({ "architectures": ["SCMP_ARCH_PDP11"] })),
        (
            "archMap: cannot stand",
            json!({ "architectures": ["SCMP_ARCH_X86"], "archMap": [{ "architecture": "SCMP_ARCH_X86_64" }] }),
        ),
        ("archMap: \"x\"", json!({ "archMap": [{ "architecture": "x" }] })),
        ("syscalls[0].action: SCMP_ACT_NOTIFY", rule(json!({ "action": "SCMP_ACT_NOTIFY" }))),
        ("syscalls[0].action: SCMP_ACT_KILL takes", rule(json!({ "errnoRet": 1 }))),
        (
            "syscalls[0].action: the error number 4096",
            rule(json!({ "action": "SCMP_ACT_ERRNO", "errnoRet": 4096 })),
        ),
        (
            "syscalls[0].action: the error number 65536",
            rule(json!({ "action": "SCMP_ACT_TRACE", "errnoRet": 65536 })),
        ),
        ("syscalls[0].names: is empty", rule(json!({ "names": [] }))),
        ("syscalls[0].names[1]: is empty", rule(json!({ "names": ["chmod", ""] }))),
        ("syscalls[0].name: ", rule(json!({ "name": "chown" }))),
        (
            "syscalls[0].args[0].index: 6",
            rule(json!({ "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }] })),
        ),
        ("syscalls[0].args[0].op: \"=\"", rule(json!({ "args": [{ "index": 0, "value": 0, "op": "=" }] }))),
        ("syscalls[0].includes.minKernel: \"new\"", rule(json!({ "includes": { "minKernel": "new" } }))),
        ("invalid type: string", json!({ "syscalls": "all" })),
        (
            "invalid value: integer `-1`",
            rule(json!({ "args": [{ "index": 0, "value": -1, "op": "SCMP_CMP_EQ" }] })),
        ),
    ] {
        let why = refusal(change);
        assert!(why.starts_with(begins), "{why}");
    }
    assert!(
        parse(b"{", &Surroundings { capabilities: 0, machine: Architecture::X86_64, kernel: (6, 1) })
            .is_err()
    );
    assert!(read(&json!({}), 0).is_err_and(|why| why.contains("defaultAction")));
}

proptest::proptest! {
    /// Whatever stands in a file, the answer is a profile or a reason.
    #[test]
    fn no_text_makes_the_reader_fall(noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64), at in 0..400_usize) {
        let surroundings = Surroundings { capabilities: 0, machine: Architecture::X86_64, kernel: (6, 1) };
        let mut text = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "archMap": [{ "architecture": "SCMP_ARCH_X86_64" }], "flags": [],
            "syscalls": [{ "names": ["chmod"], "action": "SCMP_ACT_TRACE", "errnoRet": 5, "includes": { "minKernel": "4.8" },
                           "args": [{ "index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 7, "valueTwo": 1 }] }],
        }).to_string().into_bytes();
        proptest::prop_assert!(parse(&text, &surroundings).is_ok());
        let at = at % text.len();
        text.splice(at..(at + noise.len() / 8).min(text.len()), noise);
        if let Ok(profile) = parse(&text, &surroundings) {
            let _either = runtime::seccomp::compile(&profile);
        }
    }
}

#[test]
fn a_short_text_does_not_become_a_million_rules() {
    let argument = json!({ "index": 0, "value": 0, "op": "SCMP_CMP_EQ" });
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
        "names": vec!["chmod"; 1000], "action": "SCMP_ACT_KILL", "args": vec![argument; 1000],
    }] });
    assert!(read(&profile, 0).is_err_and(|why| why.contains("65536")));
}

#[test]
fn flags_are_the_kernels() {
    let flags = |flags: Value| {
        read(&json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags }), 0).map(|p| p.flags)
    };
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"])), Ok(3));
    assert_eq!(
        flags(json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])),
        Ok(4)
    );
    assert_eq!(flags(json!([])), Ok(0));
    assert_eq!(flags(Value::Null), Ok(4), "as runc has it when nothing is said");
}

#[test]
fn the_form_of_docker_is_understood() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] },
            { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] },
        ],
        "syscalls": [
            { "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {} },
            { "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": { "caps": ["CAP_SYS_ADMIN"], "arches": ["s390"] } },
            { "names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["amd64", "x32"] } },
            { "names": ["cacheflush"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["arm"] } },
            { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "4.8" } },
            { "names": ["mseal"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "6.10" } },
            { "name": "getpid", "action": "SCMP_ACT_ALLOW" },
        ],
    });
    let names = |capabilities| {
        let profile = read(&profile, capabilities).unwrap();
        assert_eq!(profile.architectures, [Architecture::X86, Architecture::X32]);
        profile.rules.iter().flat_map(|rule| rule.names.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(0), ["read", "clone", "arch_prctl", "ptrace", "getpid"]);
    assert_eq!(names(1 << 21), ["read", "mount", "arch_prctl", "ptrace", "getpid"]);
    assert_eq!(version("6.12.3-amd64"), Some((6, 12)));
}

#[test]
fn a_profile_is_described_as_it_was_written() {
    let profile = read(
        &json!({
            "defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 5, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "architectures": ["SCMP_ARCH_X86"], "unknown": true,
            "syscalls": [{ "names": ["chmod", "fchmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30,
                           "args": [{ "index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 7, "valueTwo": 1 }] }],
        }),
        0,
    )
    .unwrap();
    assert_eq!(profile.default, Verdict::trace(5));
    assert_eq!(
        serde_json::to_value(describe::whole(&profile)).unwrap(),
        json!({
            "defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 5, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{ "names": ["chmod", "fchmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30,
                           "args": [{ "index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 7, "valueTwo": 1 }] }],
        })
    );
}

#[test]
fn one_content_is_compiled_once() {
    let key = shared::Key::Text([7; 32], 0);
    let made = |number| {
        let profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": number });
        shared::compiled(key, || read(&profile, 0)).unwrap().filter
    };
    let (first, second) = (made(11), made(12));
    assert!(std::sync::Arc::ptr_eq(&first.program, &second.program), "the second was not compiled");
    let copy = runtime::plan::SeccompFilter { flags: 2, program: first.program.to_vec().into() };
    let again = shared::shared(copy);
    assert!(std::sync::Arc::ptr_eq(&first.program, &again.program) && again.flags == 2);
}
