//! A profile in the words of the OCI specification, for `spec.json`.

use runtime::spec::oci;

use runtime::seccomp::architecture::Architecture;
use runtime::seccomp::profile::{
    Condition, FLAG_LOG, FLAG_SPEC_ALLOW, FLAG_TSYNC, Profile, Rule, Test, Verdict,
};

/// Its default action alone: what the default profile allows is the same everywhere, and long.
pub(super) fn outline(profile: &Profile) -> oci::LinuxSeccomp {
    let (action, number) = action(profile.default);
    let mut seccomp = oci::LinuxSeccomp::default();
    seccomp.set_default_action(action).set_default_errno_ret(number);
    seccomp
}

/// A profile for another runtime, which knows neither ours nor exceptions: what they say is said by rules.
pub(super) fn explicit(profile: &Profile) -> oci::LinuxSeccomp {
    let mut profile = profile.clone();
    for (name, otherwise) in std::mem::take(&mut profile.exceptions) {
        let of_it = |rule: &&Rule| rule.names.iter().any(|other| other == name);
        let tests = profile.rules.iter().filter(of_it).flat_map(|rule| rule.conditions.iter());
        let Some((mask, values)) = same_mask(tests) else { continue };
        let rest = rest(mask, &values).into_iter().map(|test| Rule {
            names: vec![name.into()],
            conditions: vec![Condition { index: 0, test }],
            verdict: otherwise,
        });
        profile.rules.extend(rest.collect::<Vec<_>>());
    }
    whole(&profile)
}

/// The mask that all tests have, which are of the first argument, and their values.
fn same_mask<'a>(tests: impl Iterator<Item = &'a Condition>) -> Option<(u64, Vec<u64>)> {
    let mut found: Option<(u64, Vec<u64>)> = None;
    for condition in tests {
        let Condition { index: 0, test: Test::Masked { mask, value } } = condition else { return None };
        let (known, values) = found.get_or_insert_with(|| (*mask, Vec::new()));
        if known != mask {
            return None;
        }
        values.push(*value);
    }
    found
}

/// Tests of which exactly one holds when none does that compares what `mask` leaves with one of `values`: bit for bit from the highest,
/// a way that leads to none of them ends in a test.
fn rest(mask: u64, values: &[u64]) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut ways = vec![(0, 0, values.to_vec())];
    for bit in (0..64).rev().map(|bit| 1_u64 << bit).filter(|bit| mask & bit != 0) {
        let mut on = Vec::new();
        for (looked, value, left) in ways {
            for chosen in [0, bit] {
                let along: Vec<u64> = left.iter().copied().filter(|value| value & bit == chosen).collect();
                match along.is_empty() {
                    true => tests.push(Test::Masked { mask: looked | bit, value: value | chosen }),
                    false => on.push((looked | bit, value | chosen, along)),
                }
            }
        }
        ways = on;
    }
    tests
}

/// All of it, as far as it counts for this container.
pub(super) fn whole(profile: &Profile) -> oci::LinuxSeccomp {
    let flags = [
        (FLAG_LOG, oci::LinuxSeccompFilterFlag::SeccompFilterFlagLog),
        (FLAG_TSYNC, oci::LinuxSeccompFilterFlag::SeccompFilterFlagTsync),
        (FLAG_SPEC_ALLOW, oci::LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow),
    ];
    let flags = flags.into_iter().filter(|(bit, _)| profile.flags & bit != 0).map(|(_, flag)| flag);
    let mut seccomp = outline(profile);
    seccomp
        .set_architectures(Some(profile.architectures.iter().copied().map(architecture).collect()))
        .set_flags(Some(flags.collect()))
        .set_syscalls(Some(profile.rules.iter().map(rule).collect()));
    seccomp
}

fn architecture(architecture: Architecture) -> oci::Arch {
    match architecture {
        Architecture::X86_64 => oci::Arch::ScmpArchX86_64,
        Architecture::X86 => oci::Arch::ScmpArchX86,
        Architecture::X32 => oci::Arch::ScmpArchX32,
        Architecture::Aarch64 => oci::Arch::ScmpArchAarch64,
        Architecture::Arm => oci::Arch::ScmpArchArm,
    }
}

fn rule(rule: &Rule) -> oci::LinuxSyscall {
    let (action, number) = action(rule.verdict);
    let mut call = oci::LinuxSyscall::default();
    call.set_names(rule.names.iter().map(ToString::to_string).collect())
        .set_action(action)
        .set_errno_ret(number)
        .set_args((!rule.conditions.is_empty()).then(|| rule.conditions.iter().map(argument).collect()));
    call
}

fn argument(condition: &Condition) -> oci::LinuxSeccompArg {
    use oci::LinuxSeccompOperator as Operator;
    let (operator, value, second) = match condition.test {
        Test::Equal(value) => (Operator::ScmpCmpEq, value, None),
        Test::NotEqual(value) => (Operator::ScmpCmpNe, value, None),
        Test::Less(value) => (Operator::ScmpCmpLt, value, None),
        Test::LessOrEqual(value) => (Operator::ScmpCmpLe, value, None),
        Test::Greater(value) => (Operator::ScmpCmpGt, value, None),
        Test::GreaterOrEqual(value) => (Operator::ScmpCmpGe, value, None),
        Test::Masked { mask, value } => (Operator::ScmpCmpMaskedEq, mask, Some(value)),
    };
    let argument = oci::LinuxSeccompArgBuilder::default().index(condition.index).op(operator).value(value);
    let argument = match second {
        Some(second) => argument.value_two(second),
        None => argument,
    };
    // Every field has a default: there is nothing that could be missing.
    argument.build().unwrap_or_default()
}

fn action(verdict: Verdict) -> (oci::LinuxSeccompAction, Option<u32>) {
    use oci::LinuxSeccompAction as Action;
    let word = verdict.value() & 0xffff;
    match verdict {
        Verdict::ALLOW => (Action::ScmpActAllow, None),
        Verdict::LOG => (Action::ScmpActLog, None),
        Verdict::TRAP => (Action::ScmpActTrap, None),
        Verdict::KILL_THREAD => (Action::ScmpActKillThread, None),
        Verdict::KILL_PROCESS => (Action::ScmpActKillProcess, None),
        other if other.leniency() == Verdict::trace(0).leniency() => (Action::ScmpActTrace, Some(word)),
        _ => (Action::ScmpActErrno, Some(word)),
    }
}
