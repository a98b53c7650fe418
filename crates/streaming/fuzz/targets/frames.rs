//! Any bytes, in pieces of any length, as frames: what is kept is bounded, and what is understood can be written again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use streaming_fuzz::spdy::frame::{Decoder, Event, HEAD};

const LIMIT: usize = 200;

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let (mut decoder, mut buffer) = (Decoder::new(LIMIT), BytesMut::new());
    for part in bytes.chunks(usize::from(*piece).max(1)) {
        buffer.extend_from_slice(part);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(Event::Control(frame))) => {
                    let mut again = BytesMut::new();
                    frame.encode(&mut again);
                    assert_eq!(Decoder::new(LIMIT).next(&mut again).unwrap(), Some(Event::Control(frame)));
                    assert!(again.is_empty());
                }
                Ok(Some(Event::Data { .. })) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(buffer.len() < HEAD + LIMIT);
    }
});
