//! Any bytes as the answers of plugins about a container that is being made.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| nri_fuzz::answer(input));
