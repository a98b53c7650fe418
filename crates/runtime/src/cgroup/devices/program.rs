//! Device rules as a program for the kernel's eBPF machine (Documentation/bpf/standardization/instruction-set.rst):
//! encoding alone, nothing here touches the kernel.
//!
//! ```text
//! what is left to decide: the access that is asked for
//! rules from the last to the first: kind, major and minor are the rule's, else the next rule
//!     allow: take its access from what is left; nothing left ─► 1
//!     deny:  anything of its access left ─► 0
//! no rule left ─► 1
//! ```
//! All jumps are from a rule to the next one, so that a program may be as long as the kernel takes. What is compared is
//! loaded each time: the verifier would follow everything that it remembers of a register through all further rules,
//! and give up after some hundred (a million instructions; kernel/bpf/verifier.c).
//!
//! Own code, because there is little of it, and libraries for eBPF bring loaders, maps and type information.

use super::{EVERY_ACCESS, Kind, Rule, Verdict};
use crate::sys::BpfInstruction;

/// Instruction codes: class, operation, and where the second operand is (K: in the instruction, X: a register).
const LOAD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const LOAD_HALF: u8 = 0x69; // BPF_LDX | BPF_MEM | BPF_H
const COPY: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const SET: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const XOR: u8 = 0xa4; // BPF_ALU | BPF_XOR | BPF_K
const OR: u8 = 0x4c; // BPF_ALU | BPF_OR | BPF_X
const IF_EQUAL: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
const UNLESS_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const RETURN: u8 = 0x95; // BPF_JMP | BPF_EXIT

/// Registers: the answer, the argument, what is compared, what is left to decide, what is compared besides.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const VALUE: u8 = 2;
const LEFT: u8 = 3;
const OTHER: u8 = 4;

/// A part of struct bpf_cgroup_dev_ctx of linux/bpf.h: how it is loaded, and from where.
type Part = (u8, i16);
const KIND: Part = (LOAD_HALF, 0);
const ACCESS: Part = (LOAD_HALF, 2);
const MAJOR: Part = (LOAD, 4);
const MINOR: Part = (LOAD, 8);

/// Kinds of devices in linux/bpf.h, `BPF_DEVCG_DEV_*`.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

const ALLOWED: u32 = 1;
const DENIED: u32 = 0;

/// Compiles a list; none when it forbids nothing, for which no program is needed.
pub(super) fn compile(rules: &[Rule]) -> Option<Vec<BpfInstruction>> {
    let first = rules.iter().rposition(Rule::is_about_everything).unwrap_or(0);
    let rules = rules.get(first..).unwrap_or_default();
    if rules.iter().all(|rule| rule.verdict == Verdict::Allow) {
        return None;
    }
    let mut program = vec![load(LEFT, ACCESS)];
    for rule in rules.iter().rev() {
        program.extend(compile_rule(rule));
    }
    if !rules.first().is_some_and(Rule::is_about_everything) {
        program.extend(answer(ALLOWED));
    }
    Some(program)
}

/// One rule: falls through to what follows it unless it decides.
fn compile_rule(rule: &Rule) -> Vec<BpfInstruction> {
    let mut decision = match (rule.verdict, rule.access) {
        (Verdict::Allow, EVERY_ACCESS) => answer(ALLOWED).to_vec(),
        (Verdict::Deny, EVERY_ACCESS) => answer(DENIED).to_vec(),
        (Verdict::Allow, access) => {
            vec![plain(AND, LEFT, u32::from(!access & EVERY_ACCESS)), jump(UNLESS_EQUAL, LEFT, (0, 2))]
        }
        (Verdict::Deny, access) => vec![
            instruction(COPY, (ANSWER, LEFT), 0, 0),
            plain(AND, ANSWER, u32::from(access)),
            jump(IF_EQUAL, ANSWER, (0, 2)),
        ],
    };
    if rule.access != EVERY_ACCESS {
        decision.extend(answer(if rule.verdict == Verdict::Allow { ALLOWED } else { DENIED }));
    }
    let kind = match rule.kind {
        Kind::Both => None,
        Kind::Block => Some(BLOCK),
        Kind::Character => Some(CHARACTER),
    };
    let tests: Vec<(Part, u32)> = [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)]
        .into_iter()
        .filter_map(|(part, value)| Some((part, value?)))
        .collect();
    let mut program = compare(&tests);
    if let Some(last) = program.last_mut() {
        // At most five instructions.
        last.offset = i16::try_from(decision.len()).unwrap_or(i16::MAX);
    }
    program.extend(decision);
    program
}

/// Compares parts with values; the last instruction is a jump that is still without its distance, for when any of them
/// differs. One jump and no more: the verifier keeps each that is open, over all rules, and has room for 8192.
fn compare(tests: &[(Part, u32)]) -> Vec<BpfInstruction> {
    let Some(((first, value), others)) = tests.split_first() else { return Vec::new() };
    let mut program = vec![load(VALUE, *first)];
    if others.is_empty() {
        program.push(jump(UNLESS_EQUAL, VALUE, (*value, 0)));
        return program;
    }
    program.push(plain(XOR, VALUE, *value));
    for (part, value) in others {
        program.extend([
            load(OTHER, *part),
            plain(XOR, OTHER, *value),
            instruction(OR, (VALUE, OTHER), 0, 0),
        ]);
    }
    program.push(jump(UNLESS_EQUAL, VALUE, (0, 0)));
    program
}

fn answer(value: u32) -> [BpfInstruction; 2] {
    [plain(SET, ANSWER, value), plain(RETURN, 0, 0)]
}

fn load(register: u8, (code, offset): Part) -> BpfInstruction {
    instruction(code, (register, CONTEXT), offset, 0)
}

fn plain(code: u8, register: u8, value: u32) -> BpfInstruction {
    instruction(code, (register, 0), 0, value)
}

/// Compares a register with a value and goes so many instructions further than the next.
fn jump(code: u8, register: u8, (value, over): (u32, i16)) -> BpfInstruction {
    instruction(code, (register, 0), over, value)
}

fn instruction(code: u8, (to, from): (u8, u8), offset: i16, value: u32) -> BpfInstruction {
    // Little-endian, as all our machines are: the lower half of the byte is the destination.
    BpfInstruction { code, registers: from << 4 | to, offset, value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{MAKE, READ, WRITE};
    use super::*;

    /// What the kernel asks.
    #[derive(Debug, Clone, Copy)]
    struct Request {
        kind: u32,
        major: u32,
        minor: u32,
        access: u8,
    }

    /// The list, word for word: of each access the last rule about it decides.
    fn meaning(rules: &[Rule], request: Request) -> bool {
        [READ, WRITE, MAKE].into_iter().filter(|bit| request.access & bit != 0).all(|bit| {
            let is_about = |rule: &&Rule| {
                let is = |wanted: Option<u32>, value| wanted.is_none_or(|wanted| wanted == value);
                let kind = match rule.kind {
                    Kind::Both => true,
                    Kind::Block => request.kind == BLOCK,
                    Kind::Character => request.kind == CHARACTER,
                };
                kind && rule.access & bit != 0
                    && is(rule.major, request.major)
                    && is(rule.minor, request.minor)
            };
            rules.iter().rev().find(is_about).is_none_or(|rule| rule.verdict == Verdict::Allow)
        })
    }

    /// The machine, as far as programs here use it. Runs out of the program are bugs.
    fn run(program: &[BpfInstruction], request: Request) -> bool {
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let now = program[at];
            let (to, from) = (usize::from(now.registers & 15), usize::from(now.registers >> 4));
            at += 1;
            let low = registers[to] as u32;
            let mut go = |condition: bool| {
                if condition {
                    at = at.checked_add_signed(isize::from(now.offset)).unwrap();
                }
            };
            match now.code {
                LOAD | LOAD_HALF => {
                    assert_eq!(from, 1);
                    registers[to] = u64::from(match (now.code, now.offset) {
                        KIND => request.kind,
                        ACCESS => u32::from(request.access),
                        MAJOR => request.major,
                        MINOR => request.minor,
                        other => panic!("reads {other:?}"),
                    });
                }
                COPY => registers[to] = u64::from(registers[from] as u32),
                SET => registers[to] = u64::from(now.value),
                AND => registers[to] = u64::from(low & now.value),
                XOR => registers[to] = u64::from(low ^ now.value),
                OR => registers[to] = u64::from(low | registers[from] as u32),
                IF_EQUAL => go(low == now.value),
                UNLESS_EQUAL => go(low != now.value),
                RETURN => {
                    assert!(registers[0] < 2);
                    return registers[0] == 1;
                }
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let number = || prop_oneof![Just(None), (0..3_u32).prop_map(Some), Just(Some(u32::MAX))];
        let verdict = prop_oneof![Just(Verdict::Allow), Just(Verdict::Deny)];
        let kind = prop_oneof![Just(Kind::Both), Just(Kind::Block), Just(Kind::Character)];
        let rule = (verdict, kind, number(), number(), 1..=EVERY_ACCESS)
            .prop_map(|(verdict, kind, major, minor, access)| Rule { verdict, kind, major, minor, access });
        prop::collection::vec(rule, 0..12)
    }

    proptest! {
        #[test]
        fn a_program_says_what_its_list_means(
            rules in rules(),
            (kind, major, minor, access) in
                (BLOCK..=CHARACTER, prop_oneof![0..4_u32, Just(u32::MAX)], prop_oneof![0..4_u32, Just(u32::MAX)], 1..=EVERY_ACCESS)
        ) {
            let request = Request { kind, major, minor, access };
            let said = compile(&rules).is_none_or(|program| run(&program, request));
            prop_assert_eq!(said, meaning(&rules, request));
        }
    }

    #[test]
    fn what_forbids_nothing_needs_no_program() {
        let all = Rule {
            verdict: Verdict::Allow,
            kind: Kind::Both,
            major: None,
            minor: None,
            access: EVERY_ACCESS,
        };
        let none = Rule { verdict: Verdict::Deny, ..all };
        assert_eq!(compile(&[]), None);
        assert_eq!(compile(&[all]), None);
        assert_eq!(compile(&[none, all]), None, "what came before matters no more");
        assert!(compile(&[all, none]).is_some());
        // Nothing follows what decides everything: the kernel refuses instructions that nothing leads to.
        let program = compile(&[none]).unwrap();
        assert_eq!(program.len(), 1 + 2);
    }
}
