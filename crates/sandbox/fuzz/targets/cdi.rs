//! Any text as a file of devices, in JSON or YAML.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((form, text)) = input.split_first() else { return };
    sandbox_fuzz::read(if form % 2 == 0 { "json" } else { "yaml" }, text);
});
