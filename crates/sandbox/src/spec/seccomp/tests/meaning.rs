//! Compiled profiles say of every call what the profile means.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::machine::{Call, assert_valid, run};
use runtime::seccomp::architecture::{Architecture, X32_BIT};
use runtime::seccomp::parse::{Surroundings, parse};
use runtime::seccomp::{bpf, resolve};

fn surroundings(machine: Architecture) -> Surroundings {
    Surroundings { capabilities: 0, machine, kernel: (6, 12) }
}

fn program(profile: &Value, machine: Architecture) -> Vec<runtime::plan::seccomp::Instruction> {
    let profile = parse(profile.to_string().as_bytes(), &surroundings(machine)).unwrap();
    let program = bpf::compile(&resolve::sections(&profile, machine)).unwrap();
    assert_valid(&program);
    program
}

fn ask(profile: &Value, number: u32, arguments: [u64; 6]) -> u32 {
    let audit = Architecture::X86_64.audit();
    run(&program(profile, Architecture::X86_64), &Call { number, audit, arguments })
}

/// Index, operator, and both values.
type Comparison = (usize, usize, u64, u64);
/// Name, action and conditions.
type OneRule = (&'static str, usize, Vec<Comparison>);

/// A profile as the test itself understands it.
#[derive(Debug, Clone)]
struct Rules {
    default: usize,
    rules: Vec<OneRule>,
    architectures: usize,
}

/// Action, error number, and what the kernel is told, from the strictest on.
const ACTIONS: [(&str, Option<u32>, u32); 9] = [
    ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
    ("SCMP_ACT_KILL", None, 0),
    ("SCMP_ACT_KILL_THREAD", None, 0),
    ("SCMP_ACT_TRAP", None, 0x0003_0000),
    ("SCMP_ACT_ERRNO", None, 0x0005_0001),
    ("SCMP_ACT_ERRNO", Some(99), 0x0005_0063),
    ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
    ("SCMP_ACT_LOG", None, 0x7ffc_0000),
    ("SCMP_ACT_ALLOW", None, 0x7fff_0000),
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];
/// With its numbers on x86-64, x86 and x32; the last is in no kernel.
const CALLS: [(&str, Option<u32>, Option<u32>); 6] = [
    ("read", Some(0), Some(3)),
    ("chmod", Some(90), Some(15)),
    ("execve", Some(59), Some(11)),
    ("waitpid", None, Some(7)),
    ("openat2", Some(437), Some(437)),
    ("no_such_call", None, None),
];
const ARCHITECTURES: [&[&str]; 4] = [
    &[],
    &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    &["SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
    &["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390X"],
];
/// Where comparisons turn.
const VALUES: [u64; 10] =
    [0, 1, 38, 0xffff_ffff, 1 << 32, (1 << 32) | 38, 0x7fff_ffff_ffff_ffff, 1 << 63, u64::MAX - 1, u64::MAX];

impl Rules {
    fn written(&self) -> Value {
        let rule = |(name, action, conditions): &OneRule| {
            let args: Vec<Value> = conditions
                .iter()
                .map(|(index, operator, value, two)| {
                    json!({ "index": index, "op": OPERATORS[*operator], "value": value, "valueTwo": two })
                })
                .collect();
            let (action, errno, _) = ACTIONS[*action];
            json!({ "names": [name], "action": action, "errnoRet": errno, "args": args })
        };
        let (action, errno, _) = ACTIONS[self.default];
        json!({
            "defaultAction": action, "defaultErrnoRet": errno,
            "architectures": ARCHITECTURES[self.architectures],
            "syscalls": self.rules.iter().map(rule).collect::<Vec<_>>(),
        })
    }

    /// What the profile means for a call: the documented rule, without any of the compiler's ways.
    fn means(&self, name: Option<&str>, arguments: [u64; 6], narrow: bool) -> u32 {
        let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
        let value = |action: usize| ACTIONS[action].2;
        let default = value(self.default);
        let holds = |(index, operator, a, b): &Comparison| {
            let (argument, a, b) = (cut(arguments[*index]), cut(*a), cut(*b));
            match OPERATORS[*operator] {
                "SCMP_CMP_NE" => argument != a,
                "SCMP_CMP_LT" => argument < a,
                "SCMP_CMP_LE" => argument <= a,
                "SCMP_CMP_EQ" => argument == a,
                "SCMP_CMP_GE" => argument >= a,
                "SCMP_CMP_GT" => argument > a,
                _ => argument & a == b & a,
            }
        };
        let of_call = || self.rules.iter().filter(|rule| Some(rule.0) == name);
        let strictest = |verdicts: &mut dyn Iterator<Item = u32>| {
            verdicts.min_by_key(|verdict| (verdict & 0xffff_0000).cast_signed())
        };
        let mut whole = of_call().filter(|rule| rule.2.is_empty()).map(|rule| value(rule.1));
        if let Some(verdict) = strictest(&mut whole.by_ref().filter(|verdict| *verdict != default)) {
            return verdict;
        }
        let matching = |rule: &&OneRule| {
            let conditions = &rule.2;
            let repeated = (0..6).any(|index| conditions.iter().filter(|one| one.0 == index).count() > 1);
            match repeated {
                true => conditions.iter().any(holds),
                false => !conditions.is_empty() && conditions.iter().all(holds),
            }
        };
        strictest(&mut of_call().filter(matching).map(|rule| value(rule.1))).unwrap_or(default)
    }

    fn lets_in(&self, architecture: &str) -> bool {
        ARCHITECTURES[self.architectures].contains(&architecture)
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let condition = (0..6_usize, 0..7_usize, proptest::sample::select(&VALUES[..]), any::<u64>());
    let condition = condition.prop_map(|(index, operator, value, two)| (index, operator, value, two));
    let call = proptest::sample::select(CALLS.map(|call| call.0).to_vec());
    let rule = (call, 0..ACTIONS.len(), proptest::collection::vec(condition, 0..4));
    (0..ACTIONS.len(), proptest::collection::vec(rule, 0..12), 0..ARCHITECTURES.len())
        .prop_map(|(default, rules, architectures)| Rules { default, rules, architectures })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_says_what_its_profile_means(
        rules in rules(),
        calls in proptest::collection::vec((0..CALLS.len(), proptest::array::uniform6(proptest::sample::select(&VALUES[..]))), 24),
    ) {
        let program = program(&rules.written(), Architecture::X86_64);
        let ask = |audit: Architecture, number, arguments| run(&program, &Call { number, audit: audit.audit(), arguments });
        let (wide, narrow, x32) = (Architecture::X86_64, Architecture::X86, Architecture::X32);
        for (call, arguments) in calls {
            let (name, number, narrow_number) = CALLS[call];
            if let Some(number) = number {
                let meant = rules.means(Some(name), arguments, false);
                prop_assert_eq!(ask(wide, number, arguments), meant, "{} {:?}", name, arguments);
                let meant = if rules.lets_in("SCMP_ARCH_X32") { meant } else { 0x8000_0000 };
                prop_assert_eq!(ask(x32, number | X32_BIT, arguments), meant, "{} of x32", name);
            }
            if let Some(number) = narrow_number {
                let meant = rules.means(Some(name), arguments, true);
                let meant = if rules.lets_in("SCMP_ARCH_X86") { meant } else { 0x8000_0000 };
                // As the kernel hands them over: the upper halves are empty.
                let arguments = arguments.map(|argument| argument & 0xffff_ffff);
                prop_assert_eq!(ask(narrow, number, arguments), meant, "{} of x86", name);
            }
            let default = rules.means(None, arguments, false);
            for unknown in [5000, 0x3fff_ffff, u32::MAX] {
                prop_assert_eq!(ask(wide, unknown, arguments), default);
            }
            prop_assert_eq!(ask(Architecture::Aarch64, 90, arguments), 0x8000_0000, "of another machine");
        }
    }

    #[test]
    fn the_order_of_rules_means_nothing(rules in rules(), arguments in proptest::array::uniform6(proptest::sample::select(&VALUES[..]))) {
        let mut turned = rules.clone();
        turned.rules.reverse();
        let (one, other) = (program(&rules.written(), Architecture::X86_64), program(&turned.written(), Architecture::X86_64));
        for number in CALLS.iter().filter_map(|call| call.1) {
            let call = Call { number, audit: Architecture::X86_64.audit(), arguments };
            let class = |program: &[_]| run(program, &call) & 0xffff_0000;
            prop_assert_eq!(class(&one), class(&other));
        }
    }
}

#[test]
fn every_call_can_have_a_rule_of_its_own() {
    // All names of the machine, each with another argument: as large as a sensible profile gets.
    let names: Vec<String> = (0..500)
        .filter_map(|number| syscalls::x86_64::Sysno::new(number).map(|call| call.name().to_owned()))
        .collect();
    assert!(names.len() > 350);
    let rule = |(at, name): (usize, &String)| {
        json!({ "names": [name], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 1, "op": "SCMP_CMP_EQ", "value": at }] })
    };
    let rules: Vec<Value> = names.iter().enumerate().map(rule).collect();
    let profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules });
    let program = program(&profile, Architecture::X86_64);
    assert!(program.len() > 2500, "long enough for far jumps");
    for (at, name) in names.iter().enumerate() {
        let number = Architecture::X86_64.numbers(name)[0];
        let ask = |argument| {
            let arguments = [0, argument, 0, 0, 0, 0];
            run(&program, &Call { number, audit: Architecture::X86_64.audit(), arguments })
        };
        assert_eq!((ask(at as u64), ask(at as u64 + 1)), (0x7fff_0000, 0x0005_0001), "{name}");
    }
}

#[test]
fn a_filter_that_is_too_long_is_refused() {
    let rule = |value: u64| {
        json!({ "names": ["chmod"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "op": "SCMP_CMP_EQ", "value": value }] })
    };
    let compiled = |rules: u64| {
        let profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": (0..rules).map(rule).collect::<Vec<_>>() });
        let profile = parse(profile.to_string().as_bytes(), &surroundings(Architecture::X86_64)).unwrap();
        runtime::seccomp::compile(&profile).map(|filter| filter.program.len())
    };
    assert!(compiled(800).is_ok_and(|length| length > 4000));
    assert!(compiled(1000).is_err_and(|why| why.contains("takes 5") && why.contains("4096")));
}

#[test]
fn calls_that_stand_for_many_have_the_rules_of_those() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
            { "names": ["connect"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
            { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "op": "SCMP_CMP_EQ", "value": 38 }] },
            { "names": ["shmget", "semtimedop"], "action": "SCMP_ACT_KILL_PROCESS" },
        ],
    });
    let program = program(&profile, Architecture::X86_64);
    let ask = |number, first| {
        run(&program, &Call { number, audit: Architecture::X86.audit(), arguments: [first, 0, 0, 0, 0, 0] })
    };
    assert_eq!(ask(102, 3), 0x0005_000d, "socketcall of connect");
    assert_eq!(ask(102, 1), 0x0005_0001, "the family of a socket can't be seen, so that none passes");
    assert_eq!(ask(102, 2), 0x7fff_0000, "socketcall of bind");
    assert_eq!(ask(117, 23), 0x8000_0000, "ipc of shmget");
    assert_eq!(ask(117, 4 | 1 << 16), 0x8000_0000, "a version in the upper half changes nothing");
    assert_eq!(ask(117, 1), 0x7fff_0000, "ipc of semop");
    assert_eq!(ask(362, 0), 0x0005_000d, "connect itself");
}

#[test]
fn one_argument_twice_is_one_or_the_other() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
            { "index": 0, "op": "SCMP_CMP_EQ", "value": 1 }, { "index": 0, "op": "SCMP_CMP_EQ", "value": 2 },
        ] }],
    });
    let family = |family| ask(&profile, 41, [family, 0, 0, 0, 0, 0]);
    assert_eq!([1, 2, 3].map(family), [0x7fff_0000, 0x7fff_0000, 0x0005_0001]);
}
