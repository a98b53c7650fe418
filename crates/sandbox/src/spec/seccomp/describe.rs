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
