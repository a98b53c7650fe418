//! Any bytes, in pieces of any length, as what a plugin sends.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    nri_fuzz::read(usize::from(*piece), bytes);
});
