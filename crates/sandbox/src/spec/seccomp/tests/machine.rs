//! The kernel's side: checks a program as seccomp(2) does, and runs it.

use runtime::plan::seccomp::Instruction;

use runtime::seccomp::bpf::{ABOVE, AND, EQUAL, JUMP, LOAD, LONGEST, NOT_BELOW, RETURN};

/// What a filter is asked about (struct seccomp_data).
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) audit: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let mut bytes = Vec::new();
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.audit.to_le_bytes());
        bytes.extend(0x7fff_dead_beef_u64.to_le_bytes()); // instruction pointer
        bytes.extend(self.arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let offset = offset as usize;
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }
}

/// Asserts what the kernel asks of a program: its length, no way out of it, aligned loads, known instructions.
pub(super) fn assert_valid(program: &[Instruction]) {
    assert!(!program.is_empty() && program.len() <= LONGEST, "{} instructions", program.len());
    for (at, Instruction { code, jt, jf, k }) in program.iter().copied().enumerate() {
        let furthest = match code {
            RETURN => continue,
            LOAD => {
                assert!(k < 64 && k % 4 == 0, "load of {k}");
                0
            }
            AND => 0,
            JUMP => k as usize,
            EQUAL | ABOVE | NOT_BELOW => usize::from(jt.max(jf)),
            other => panic!("instruction {other:#x}"),
        };
        assert!(at + 1 + furthest < program.len(), "{at} leads out of {}", program.len());
    }
}

/// What a filter says to a call.
pub(super) fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        match code {
            LOAD => accumulator = call.word(k),
            AND => accumulator &= k,
            JUMP => at += k as usize,
            EQUAL => at += branch(accumulator == k),
            ABOVE => at += branch(accumulator > k),
            NOT_BELOW => at += branch(accumulator >= k),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}
