//! Any bytes as a packet between daemon and supervisor. What is understood is written, and read again, as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::wire::Message;
use runtime::wire::frame::{HEADER, Header};

fuzz_target!(|input: &[u8]| {
    let Ok(header) = Header::decode(input) else { return };
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    let Ok(message) = Message::decode(header.kind, &input[HEADER..]) else { return };
    assert_eq!(message.kind(), header.kind);
    let body = message.encode().expect("what was read is text");
    let again = Message::decode(header.kind, &body).expect("a body of ours");
    // Compared as bytes: a number that is none isn't equal to itself.
    assert_eq!(again.encode().expect("what was read is text"), body);
});
