#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| image_service_fuzz::texts::check_reference(input));
