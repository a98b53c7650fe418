//! Any text as a network's configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cni::fuzz::check_network(input));
