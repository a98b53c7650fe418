//! Any bytes as a WebSocket client's: a message for channels, or all that comes into a tunnel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use streaming_fuzz::{run, websocket};

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((kind, message)) if kind % 2 == 0 => websocket::message(message),
        Some((_, bytes)) => run(websocket::tunnel(bytes)),
        None => {}
    }
});
