//! Any bytes as a profile of the node. What is accepted compiles to a program that the kernel would take: every jump goes forward and
//! stays inside, nothing is read but the call, and every way ends with a verdict.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::seccomp::bpf::{ABOVE, AND, EQUAL, JUMP, LOAD, LONGEST, NOT_BELOW, RETURN};
use runtime::seccomp::{Architecture, Surroundings, compile, parse};

/// Bytes of struct seccomp_data.
const CALL: u32 = 64;

fuzz_target!(|input: &[u8]| {
    let Some((&least, text)) = input.split_first() else { return };
    let kernel = (u32::from(least >> 4), u32::from(least & 15));
    let surroundings = Surroundings { capabilities: 0, machine: Architecture::NATIVE, kernel };
    let Ok(profile) = parse(text, &surroundings) else { return };
    let Ok(filter) = compile(&profile) else { return };
    let length = filter.program.len();
    assert!(length <= LONGEST);
    for (at, line) in filter.program.iter().enumerate() {
        let reached = |further: u64| assert!(at as u64 + 1 + further < length as u64, "{at}: {line:?}");
        match line.code {
            LOAD => assert!(line.k % 4 == 0 && line.k < CALL, "{line:?}"),
            AND => reached(0),
            JUMP => reached(line.k.into()),
            EQUAL | ABOVE | NOT_BELOW => [line.jt, line.jf].map(u64::from).into_iter().for_each(reached),
            RETURN => {}
            other => panic!("an instruction of another kind: {other:#x}"),
        }
    }
    assert_eq!(filter.program.last().map(|line| line.code), Some(RETURN));
});
