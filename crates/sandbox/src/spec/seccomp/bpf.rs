//! Rules by system call number, compiled to classic BPF (linux/seccomp.h, linux/bpf_common.h) as a binary search: some nine comparisons
//! a call where a list would need hundreds.

use std::collections::BTreeMap;

use runtime::plan::SeccompFilter;
use runtime::plan::seccomp::Instruction;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// It passes.
    Allow,
    /// It answers this error number.
    Refuse(u32),
    /// clone and unshare: passes unless its first argument asks for a new namespace.
    NoNewNamespaces,
    /// socket and socketpair: passes unless its first argument is a family that reaches the hypervisor or the kernel's own crypto.
    NoHostFamilies,
    /// personality: passes for the values that only ask or are harmless.
    HarmlessPersonality,
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const NOT_BELOW: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ERRNO: u32 = 0x0005_0000;

/// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The lower half of the first argument on a little-endian machine.
const FIRST_ARGUMENT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. (NEWTIME can't be given to clone.)
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// PER_LINUX, PER_LINUX32, both with UNAME26, and the question for the present one.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Compiles rules; a call without one answers ENOSYS.
pub(super) fn compile(rules: &BTreeMap<u32, Rule>) -> SeccompFilter {
    let mut program = vec![
        say(LOAD, ARCHITECTURE),
        Instruction { code: EQUAL, jt: 1, jf: 0, k: NATIVE },
        say(RETURN, RET_KILL_PROCESS),
        say(LOAD, NUMBER),
    ];
    program.extend(search(&ranges(rules)));
    SeccompFilter { flags: 0, program }
}

/// From where on which rule holds, up to where the next one begins.
fn ranges(rules: &BTreeMap<u32, Rule>) -> Vec<(u32, Rule)> {
    let unknown = Rule::Refuse(libc::ENOSYS.unsigned_abs());
    let mut ranges = vec![(0, unknown)];
    let mut begin = |from: u32, rule: Rule| {
        match ranges.last_mut() {
            Some(last) if last.1 == rule => {}
            Some(last) if last.0 == from => last.1 = rule,
            _ => ranges.push((from, rule)),
        };
    };
    for (number, rule) in rules {
        begin(*number, *rule);
        begin(number + 1, unknown);
    }
    merge(ranges)
}

/// Joins neighbours that came to have the same rule.
fn merge(ranges: Vec<(u32, Rule)>) -> Vec<(u32, Rule)> {
    let mut merged: Vec<(u32, Rule)> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if merged.last().is_none_or(|last| last.1 != range.1) {
            merged.push(range);
        }
    }
    merged
}

fn search(ranges: &[(u32, Rule)]) -> Vec<Instruction> {
    let [_, .., _] = ranges else {
        return ranges.first().map(|(_, rule)| verdict(*rule)).unwrap_or_default();
    };
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let pivot = high.first().map_or(0, |(from, _)| *from);
    let (low, high) = (search(low), search(high));
    let mut program = match u8::try_from(low.len()) {
        Ok(skip) => vec![Instruction { code: NOT_BELOW, jt: skip, jf: 0, k: pivot }],
        // Too far for a conditional jump of eight bits.
        Err(_) => vec![
            Instruction { code: NOT_BELOW, jt: 0, jf: 1, k: pivot },
            say(JUMP, u32::try_from(low.len()).unwrap_or(u32::MAX)),
        ],
    };
    program.extend(low);
    program.extend(high);
    program
}

fn verdict(rule: Rule) -> Vec<Instruction> {
    let refused = say(RETURN, RET_ERRNO | libc::EPERM.unsigned_abs());
    let allowed = say(RETURN, RET_ALLOW);
    let argument = say(LOAD, FIRST_ARGUMENT);
    match rule {
        Rule::Allow => vec![allowed],
        Rule::Refuse(errno) => vec![say(RETURN, RET_ERRNO | errno)],
        Rule::NoNewNamespaces => {
            vec![argument, Instruction { code: ANY_BIT, jt: 1, jf: 0, k: NEW_NAMESPACES }, allowed, refused]
        }
        Rule::NoHostFamilies => vec![
            argument,
            Instruction { code: EQUAL, jt: 2, jf: 0, k: libc::AF_VSOCK.unsigned_abs() },
            Instruction { code: EQUAL, jt: 1, jf: 0, k: libc::AF_ALG.unsigned_abs() },
            allowed,
            refused,
        ],
        Rule::HarmlessPersonality => {
            let left = |at: usize| u8::try_from(PERSONALITIES.len() - at).unwrap_or(0);
            let tests = PERSONALITIES.iter().enumerate();
            let tests = tests.map(|(at, value)| Instruction { code: EQUAL, jt: left(at), jf: 0, k: *value });
            std::iter::once(argument).chain(tests).chain([refused, allowed]).collect()
        }
    }
}

fn say(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a filter says to a call, by running it as the kernel would.
    pub(crate) fn run(filter: &SeccompFilter, number: u32, argument: u64) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let Instruction { code, jt, jf, k } = filter.program[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                LOAD => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCHITECTURE => NATIVE,
                        FIRST_ARGUMENT => (argument & 0xffff_ffff) as u32,
                        other => panic!("load of {other}"),
                    }
                }
                JUMP => at += k as usize,
                EQUAL => at += branch(accumulator == k),
                NOT_BELOW => at += branch(accumulator >= k),
                ANY_BIT => at += branch(accumulator & k != 0),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    proptest::proptest! {
        /// The search says of every number what the table says.
        #[test]
        fn the_search_agrees_with_the_table(
            allowed in proptest::collection::btree_set(0_u32..600, 0..300),
            refused in proptest::collection::btree_set(0_u32..600, 0..50),
        ) {
            let mut rules: BTreeMap<u32, Rule> = allowed.iter().map(|number| (*number, Rule::Allow)).collect();
            rules.extend(refused.iter().map(|number| (*number, Rule::Refuse(1))));
            let filter = compile(&rules);
            proptest::prop_assert!(filter.program.len() <= 4096);
            for number in (0..700).chain([0x4000_0000, u32::MAX]) {
                let expected = match rules.get(&number) {
                    Some(Rule::Allow) => RET_ALLOW,
                    Some(_) => RET_ERRNO | 1,
                    None => RET_ERRNO | 38,
                };
                proptest::prop_assert_eq!(run(&filter, number, 0), expected, "{}", number);
            }
        }
    }
}
