//! Messages as others send and read them.

use crate::message::{PREAMBLE, Reader};

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const MEMBER: u8 = 3;
const SENDER: u8 = 7;

/// A message in the making.
pub(crate) struct Sent {
    kind: u8,
    texts: Vec<(u8, &'static [u8; 1], String)>,
    reply_to: Option<u32>,
    signature: &'static str,
    body: Vec<u8>,
}

impl Sent {
    fn new(kind: u8, reply_to: Option<u32>) -> Self {
        Self { kind, texts: Vec::new(), reply_to, signature: "", body: Vec::new() }
    }

    fn text(mut self, field: u8, kind: &'static [u8; 1], text: &str) -> Self {
        self.texts.push((field, kind, text.to_owned()));
        self
    }

    pub(crate) fn reply(to: u32) -> Self {
        Self::new(RETURN, Some(to))
    }

    pub(crate) fn error(to: u32, name: &str) -> Self {
        Self::new(ERROR, Some(to)).text(4, b"s", name)
    }

    pub(crate) fn signal(interface: &str, member: &str) -> Self {
        let path = "/org/freedesktop/systemd1";
        Self::new(SIGNAL, None).text(1, b"o", path).text(2, b"s", interface).text(MEMBER, b"s", member)
    }

    /// A call of the bus.
    pub(crate) fn call(member: &str) -> Self {
        let bus = "org.freedesktop.DBus";
        Self::new(CALL, None)
            .text(1, b"o", "/org/freedesktop/DBus")
            .text(2, b"s", bus)
            .text(MEMBER, b"s", member)
            .to(bus)
    }

    pub(crate) fn from(self, name: &str) -> Self {
        self.text(SENDER, b"s", name)
    }

    pub(crate) fn to(self, name: &str) -> Self {
        self.text(6, b"s", name)
    }

    pub(crate) fn with(mut self, signature: &'static str, body: &[u8]) -> Self {
        (self.signature, self.body) = (signature, body.to_owned());
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.bytes(b'l', u32::to_le_bytes)
    }

    pub(crate) fn encode_big_endian(&self) -> Vec<u8> {
        self.bytes(b'B', u32::to_be_bytes)
    }

    fn bytes(&self, order: u8, number: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let align = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(8), 0);
        let length = |bytes: &[u8]| number(u32::try_from(bytes.len()).unwrap());
        let mut fields = Vec::new();
        for (field, kind, text) in &self.texts {
            align(&mut fields);
            fields.extend([*field, 1, kind[0], 0]);
            fields.extend(length(text.as_bytes()));
            fields.extend(text.as_bytes());
            fields.push(0);
        }
        if let Some(to) = self.reply_to {
            align(&mut fields);
            fields.extend(*b"\x05\x01u\0");
            fields.extend(number(to));
        }
        align(&mut fields);
        // Of no use to us, and of a type that has to be passed over.
        fields.extend(*b"\x4d\x01t\0\0\0\0\0\x01\0\0\0\0\0\0\0");
        if !self.signature.is_empty() {
            fields.extend(*b"\x08\x01g\0");
            fields.push(u8::try_from(self.signature.len()).unwrap());
            fields.extend(self.signature.as_bytes());
            fields.push(0);
        }
        let mut bytes = vec![order, self.kind, 0, 1];
        bytes.extend(length(&self.body));
        bytes.extend(number(1));
        bytes.extend(length(&fields));
        bytes.extend(fields);
        align(&mut bytes);
        bytes.extend(&self.body);
        bytes
    }
}

/// A message that another reads, in our byte order.
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) serial: u32,
    pub(crate) sender: String,
    pub(crate) member: String,
}

impl Received {
    /// Whether it answers a call.
    pub(crate) fn is_answer(&self) -> bool {
        [RETURN, ERROR].contains(&self.kind)
    }

    pub(crate) fn read(message: &[u8]) -> Self {
        let number = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap());
        let mut received =
            Self { kind: message[1], serial: number(8), sender: String::new(), member: String::new() };
        let length = number(12) as usize;
        let mut reader = Reader::new(&message[PREAMBLE..PREAMBLE + length]);
        while reader.is_before(length) {
            reader.align(8).unwrap();
            let field = reader.byte().unwrap();
            match (field, reader.signature().unwrap()) {
                (MEMBER, _) => received.member = reader.string().unwrap().to_owned(),
                (SENDER, _) => received.sender = reader.string().unwrap().to_owned(),
                (_, kind) => reader.skip(kind).unwrap(),
            }
        }
        received
    }
}
