#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| image_service::fuzz::documents::check_config(input));
