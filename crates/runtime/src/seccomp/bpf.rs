//! Sections of decisions, compiled to classic BPF (linux/seccomp.h, linux/bpf_common.h).
//!
//! ```text
//! which architecture? ─► section: binary search by number ─► verdict
//!                                                        └─► block: tests of arguments ─► verdict
//! ```
//! The search takes some nine comparisons a call where a list would need hundreds. Calls with equal decisions share a block.
//!
//! Own code, because the libraries serve less: rust-vmm's seccompiler has two actions a filter, one architecture, no x32 and jumps of eight bits;
//! libseccomp would be a C library in the daemon.

use std::collections::HashMap;

use crate::plan::seccomp::Instruction;

use super::profile::{Condition, Test, Verdict};
use super::resolve::{Decision, FOREIGN, Section};

pub const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub const ABOVE: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub const NOT_BELOW: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The longest program that the kernel takes (BPF_MAXINSNS of linux/bpf_common.h).
pub const LONGEST: usize = 4096;

/// Compiles sections.
///
/// # Errors
/// How many instructions it would take, when the kernel doesn't take so many.
pub fn compile(sections: &[Section]) -> Result<Vec<Instruction>, usize> {
    let mut assembler = Assembler::default();
    let labels: Vec<Label> = sections.iter().map(|_| assembler.label()).collect();
    assembler.lines.push(say(LOAD, ARCHITECTURE));
    for (section, label) in sections.iter().zip(&labels) {
        assembler.lines.push(Line::Do(Instruction { code: EQUAL, jt: 0, jf: 1, k: section.audit }));
        assembler.lines.push(Line::Go(*label));
    }
    assembler.lines.push(give(FOREIGN));
    for (section, label) in sections.iter().zip(labels) {
        assembler.here(label);
        assembler.lines.push(say(LOAD, NUMBER));
        let search = assembler.search(&section.ranges);
        assembler.lines.extend(search);
    }
    assembler.finish()
}

/// A place that a line goes to; all are further on, as classic BPF knows no way back.
#[derive(Debug, Clone, Copy)]
struct Label(usize);

#[derive(Debug)]
enum Line {
    Do(Instruction),
    Go(Label),
}

#[derive(Debug, Default)]
struct Assembler {
    lines: Vec<Line>,
    /// Where each label is, once that is known.
    places: Vec<usize>,
    /// The blocks that are gone to.
    blocks: HashMap<Decision, Label>,
    order: Vec<Decision>,
}

impl Assembler {
    fn label(&mut self) -> Label {
        self.places.push(0);
        Label(self.places.len() - 1)
    }

    fn here(&mut self, label: Label) {
        if let Some(place) = self.places.get_mut(label.0) {
            *place = self.lines.len();
        }
    }

    fn search(&mut self, ranges: &[(u32, Decision)]) -> Vec<Line> {
        let [_, .., _] = ranges else {
            return ranges.first().map(|(_, decision)| self.leaf(decision)).into_iter().collect();
        };
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let pivot = high.first().map_or(0, |(from, _)| *from);
        let (low, high) = (self.search(low), self.search(high));
        let mut lines = match u8::try_from(low.len()) {
            Ok(skip) => vec![Line::Do(Instruction { code: NOT_BELOW, jt: skip, jf: 0, k: pivot })],
            // Too far for a conditional jump of eight bits.
            Err(_) => vec![
                Line::Do(Instruction { code: NOT_BELOW, jt: 0, jf: 1, k: pivot }),
                say(JUMP, u32::try_from(low.len()).unwrap_or(u32::MAX)),
            ],
        };
        lines.extend(low);
        lines.extend(high);
        lines
    }

    fn leaf(&mut self, decision: &Decision) -> Line {
        if decision.rules.is_empty() {
            return give(decision.otherwise);
        }
        let label = match self.blocks.get(decision) {
            Some(label) => *label,
            None => {
                let label = self.label();
                self.blocks.insert(decision.clone(), label);
                self.order.push(decision.clone());
                label
            }
        };
        Line::Go(label)
    }

    fn finish(mut self) -> Result<Vec<Instruction>, usize> {
        for decision in std::mem::take(&mut self.order) {
            if let Some(label) = self.blocks.get(&decision).copied() {
                self.here(label);
            }
            self.lines.extend(block(&decision).into_iter().map(Line::Do));
        }
        if self.lines.len() > LONGEST {
            return Err(self.lines.len());
        }
        let instruction = |(at, line): (usize, &Line)| match line {
            Line::Do(instruction) => *instruction,
            Line::Go(label) => {
                let place = self.places.get(label.0).copied().unwrap_or_default();
                let distance = u32::try_from(place.saturating_sub(at + 1)).unwrap_or(u32::MAX);
                Instruction { code: JUMP, jt: 0, jf: 0, k: distance }
            }
        };
        Ok(self.lines.iter().enumerate().map(instruction).collect())
    }
}

/// Tests rule after rule.
fn block(decision: &Decision) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (conditions, verdict) in &decision.rules {
        program.extend(rule(conditions, *verdict));
    }
    program.push(plain(RETURN, decision.otherwise.value()));
    program
}

/// Where a test goes on.
#[derive(Debug, Clone, Copy)]
enum To {
    /// With the next instruction.
    On,
    /// With what follows this condition: it holds.
    Holds,
    /// With what follows the rule: it doesn't.
    Fails,
}

/// A piece of a test.
#[derive(Debug, Clone, Copy)]
enum Piece {
    Do(u16, u32),
    If { code: u16, k: u32, yes: To, no: To },
}

/// One rule: falls through to what follows it unless all its conditions hold. There are at most six of at most six
/// instructions, so that all jumps are short.
fn rule(conditions: &[Condition], verdict: Verdict) -> Vec<Instruction> {
    let tests: Vec<Vec<Piece>> = conditions.iter().map(pieces).collect();
    let length = tests.iter().map(Vec::len).sum::<usize>() + 1;
    let mut program: Vec<Instruction> = Vec::with_capacity(length);
    for test in tests {
        let end = program.len() + test.len();
        for piece in test {
            let next = program.len() + 1;
            let distance = |to: To| {
                let target = match to {
                    To::On => next,
                    To::Holds => end,
                    To::Fails => length,
                };
                u8::try_from(target - next).unwrap_or(u8::MAX)
            };
            program.push(match piece {
                Piece::Do(code, k) => plain(code, k),
                Piece::If { code, k, yes, no } => {
                    Instruction { code, jt: distance(yes), jf: distance(no), k }
                }
            });
        }
    }
    program.push(plain(RETURN, verdict.value()));
    program
}

/// A comparison of 64 bits by two of 32: the upper half decides, or leaves it to the lower one.
fn pieces(condition: &Condition) -> Vec<Piece> {
    // Little-endian, as all our machines are.
    let low = Piece::Do(LOAD, ARGUMENTS + 8 * u32::from(condition.index));
    let high = Piece::Do(LOAD, ARGUMENTS + 8 * u32::from(condition.index) + 4);
    let is = |code: u16, k: u32, yes: To, no: To| Piece::If { code, k, yes, no };
    let (on, holds, fails) = (To::On, To::Holds, To::Fails);
    match condition.test {
        Test::Equal(value) => {
            let (h, l) = halves(value);
            vec![high, is(EQUAL, h, on, fails), low, is(EQUAL, l, holds, fails)]
        }
        Test::NotEqual(value) => {
            let (h, l) = halves(value);
            vec![high, is(EQUAL, h, on, holds), low, is(EQUAL, l, fails, holds)]
        }
        Test::Masked { mask, value } => {
            let ((mask_h, mask_l), (h, l)) = (halves(mask), halves(value & mask));
            let mut pieces = match mask_h {
                // Whatever stands there.
                0 => vec![],
                _ => vec![high, Piece::Do(AND, mask_h), is(EQUAL, h, on, fails)],
            };
            pieces.extend([low, Piece::Do(AND, mask_l), is(EQUAL, l, holds, fails)]);
            pieces
        }
        Test::Greater(value) => ordered(value, (high, low), (ABOVE, holds, fails)),
        Test::GreaterOrEqual(value) => ordered(value, (high, low), (NOT_BELOW, holds, fails)),
        Test::LessOrEqual(value) => ordered(value, (high, low), (ABOVE, fails, holds)),
        Test::Less(value) => ordered(value, (high, low), (NOT_BELOW, fails, holds)),
    }
}

/// `code` compares the lower halves when the upper ones are equal; `over` is where a greater argument goes.
fn ordered(value: u64, (high, low): (Piece, Piece), (code, over, under): (u16, To, To)) -> Vec<Piece> {
    let (h, l) = halves(value);
    vec![
        high,
        Piece::If { code: ABOVE, k: h, yes: over, no: To::On },
        Piece::If { code: EQUAL, k: h, yes: To::On, no: under },
        low,
        Piece::If { code, k: l, yes: over, no: under },
    ]
}

fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn say(code: u16, k: u32) -> Line {
    Line::Do(plain(code, k))
}

fn give(verdict: Verdict) -> Line {
    say(RETURN, verdict.value())
}
