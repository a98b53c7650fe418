//! Any bytes as a message of the bus.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| systemd_fuzz::read(input));
