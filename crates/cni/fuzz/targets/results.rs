//! Any text as what a plugin printed.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cni::fuzz::check_result(input));
