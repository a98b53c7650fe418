//! Messages of D-Bus as bytes (D-Bus Specification, "Marshaling" and "Message Protocol"), little-endian on both sides: a bus
//! on the same machine speaks as we do.
//!
//! Written are the types that our calls have, read are those of the answers. Everything that is read is bounded by the message,
//! and a message by [`LONGEST`].

use crate::Error;

/// The longest message that is read: a list of some ten thousand units.
pub(crate) const LONGEST: usize = 16 << 20;

/// Bytes up to and with the length of the header's fields.
pub(crate) const PREAMBLE: usize = 16;

const LITTLE_ENDIAN: u8 = b'l';
const VERSION: u8 = 1;

/// Types of messages.
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;

/// A method of an object, called with arguments.
pub(crate) struct Call<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'static str,
    /// The types of the arguments.
    pub(crate) signature: &'a str,
    /// The arguments, written by a [`Writer`].
    pub(crate) body: Vec<u8>,
}

impl Call<'_> {
    /// The whole message.
    pub(crate) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        for byte in [LITTLE_ENDIAN, CALL, 0, VERSION] {
            writer.byte(byte);
        }
        writer.uint32(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        writer.uint32(serial);
        writer.array(8, |fields| {
            let texts = [
                (PATH, "o", self.path),
                (DESTINATION, "s", self.destination),
                (INTERFACE, "s", self.interface),
                (MEMBER, "s", self.member),
            ];
            for (field, kind, text) in texts {
                fields.align(8);
                fields.byte(field);
                fields.signature(kind);
                fields.string(text);
            }
            if !self.signature.is_empty() {
                fields.align(8);
                fields.byte(SIGNATURE);
                fields.signature("g");
                fields.signature(self.signature);
            }
        });
        writer.align(8);
        writer.bytes.extend_from_slice(&self.body);
        writer.bytes
    }
}

/// Writes values one after the other, each at its alignment.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn uint32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(crate) fn uint64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.uint32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    pub(crate) fn signature(&mut self, text: &str) {
        self.bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// An array whose elements `write` adds, each aligned to `alignment` bytes.
    pub(crate) fn array(&mut self, alignment: usize, write: impl FnOnce(&mut Self)) {
        self.uint32(0);
        let at = self.bytes.len();
        self.align(alignment);
        let from = self.bytes.len();
        write(self);
        let length = u32::try_from(self.bytes.len() - from).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(at - 4..at) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    pub(crate) fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

/// A message that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The answer to a call.
    Return { to: u32, body: Body },
    /// A call's error.
    Error { to: u32, name: String, body: Body },
    /// Something that happened.
    Signal { interface: String, member: String, body: Body },
    /// What is of no use here: calls, and what future versions of the protocol bring.
    Other,
}

/// Values of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) signature: String,
    pub(crate) bytes: Vec<u8>,
}

impl Body {
    /// A reader of the values, when they have the types that are awaited.
    pub(crate) fn read(&self, signature: &str) -> Result<Reader<'_>, Error> {
        if self.signature == signature {
            Ok(Reader::new(&self.bytes))
        } else {
            Err(broken("values of other types than those of the interface"))
        }
    }

    /// The text that errors begin with.
    pub(crate) fn text(&self) -> String {
        let text = if self.signature.starts_with('s') { Reader::new(&self.bytes).string() } else { Ok("") };
        text.unwrap_or_default().to_owned()
    }
}

/// How many bytes follow a preamble.
pub(crate) fn rest(preamble: &[u8; PREAMBLE]) -> Result<usize, Error> {
    if preamble[0] != LITTLE_ENDIAN || preamble[3] != VERSION {
        return Err(broken("another byte order or version"));
    }
    let mut reader = Reader { bytes: preamble, at: 4 };
    let (body, _serial, fields) = (reader.uint32()?, reader.uint32()?, reader.uint32()?);
    let length = u64::from(fields).next_multiple_of(8) + u64::from(body);
    usize::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or_else(|| broken("it is too long"))
}

/// Reads a whole message.
pub(crate) fn decode(message: &[u8]) -> Result<Message, Error> {
    let mut reader = Reader { bytes: message, at: 1 };
    let kind = reader.byte()?;
    reader.at = 4;
    let body = reader.uint32()? as usize;
    reader.at = 12;
    let length = reader.uint32()? as usize;
    let end = reader.at.checked_add(length).ok_or_else(|| broken("it ends too early"))?;
    let (mut to, mut name, mut interface, mut member, mut signature) = (None, None, None, None, None);
    while reader.at < end {
        reader.align(8)?;
        let field = reader.byte()?;
        let kind = reader.signature()?;
        match (field, kind) {
            (REPLY_SERIAL, "u") => to = Some(reader.uint32()?),
            (ERROR_NAME, "s") => name = Some(reader.string()?.to_owned()),
            (INTERFACE, "s") => interface = Some(reader.string()?.to_owned()),
            (MEMBER, "s") => member = Some(reader.string()?.to_owned()),
            (SIGNATURE, "g") => signature = Some(reader.signature()?.to_owned()),
            (PATH | DESTINATION | SENDER, "o" | "s") => drop(reader.string()?),
            (_, kind) => reader.skip(kind)?,
        }
    }
    reader.align(8)?;
    let bytes = reader.take(body)?.to_owned();
    let body = Body { signature: signature.unwrap_or_default(), bytes };
    Ok(match (kind, to, name, interface, member) {
        (RETURN, Some(to), ..) => Message::Return { to, body },
        (ERROR, Some(to), Some(name), ..) => Message::Error { to, name, body },
        (SIGNAL, _, _, Some(interface), Some(member)) => Message::Signal { interface, member, body },
        _ => Message::Other,
    })
}

/// Reads values one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(length).ok_or_else(|| broken("it ends too early"))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| broken("it ends too early"))?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn align(&mut self, to: usize) -> Result<(), Error> {
        let missing = self.at.next_multiple_of(to) - self.at;
        self.take(missing).map(drop)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Error> {
        self.take(1).map(|taken| taken.first().copied().unwrap_or_default())
    }

    pub(crate) fn uint32(&mut self) -> Result<u32, Error> {
        self.align(4)?;
        let taken = self.take(4)?;
        taken.try_into().map(u32::from_le_bytes).map_err(|_| broken("it ends too early"))
    }

    /// A string or an object path.
    pub(crate) fn string(&mut self) -> Result<&'a str, Error> {
        let length = self.uint32()? as usize;
        self.text(length)
    }

    pub(crate) fn signature(&mut self) -> Result<&'a str, Error> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Error> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| broken("a text that is not UTF-8"))?;
        self.take(1)?;
        Ok(text)
    }

    /// The bytes of an array whose elements are aligned to `alignment`: where it ends.
    pub(crate) fn array(&mut self, alignment: usize) -> Result<usize, Error> {
        let length = self.uint32()? as usize;
        self.align(alignment)?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        end.ok_or_else(|| broken("it ends too early"))
    }

    /// Whether there is more before `end`.
    pub(crate) fn is_before(&self, end: usize) -> bool {
        self.at < end
    }

    fn skip(&mut self, kind: &str) -> Result<(), Error> {
        match kind {
            "y" => self.byte().map(drop),
            "b" | "u" | "i" | "h" => self.uint32().map(drop),
            "t" | "x" | "d" => self.align(8).and_then(|()| self.take(8).map(drop)),
            "s" | "o" => self.string().map(drop),
            "g" => self.signature().map(drop),
            _ => Err(broken("a header field of unknown type")),
        }
    }
}

fn broken(why: &'static str) -> Error {
    Error::Message { why }
}

/// The other side's messages.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// The number and the method of a call.
    pub(crate) fn call(message: &[u8]) -> (u32, String) {
        let serial = Reader { bytes: message, at: 8 }.uint32().unwrap();
        let mut reader = Reader { bytes: message, at: 12 };
        let end = 16 + reader.uint32().unwrap() as usize;
        while reader.at < end {
            reader.align(8).unwrap();
            let field = reader.byte().unwrap();
            let kind = reader.signature().unwrap();
            if field == MEMBER {
                return (serial, reader.string().unwrap().to_owned());
            }
            reader.skip(kind).unwrap();
        }
        panic!("no method");
    }

    pub(crate) fn reply(to: u32, signature: &str, body: &[u8]) -> Vec<u8> {
        message(RETURN, &[], Some(to), (signature, body))
    }

    pub(crate) fn error(to: u32, name: &str, body: &[u8]) -> Vec<u8> {
        message(ERROR, &[(ERROR_NAME, "s", name)], Some(to), ("s", body))
    }

    pub(crate) fn signal(interface: &str, member: &str, signature: &str, body: &[u8]) -> Vec<u8> {
        let fields = [(PATH, "o", "/p"), (INTERFACE, "s", interface), (MEMBER, "s", member)];
        message(SIGNAL, &fields, None, (signature, body))
    }

    fn message(
        kind: u8,
        texts: &[(u8, &str, &str)],
        to: Option<u32>,
        (signature, body): (&str, &[u8]),
    ) -> Vec<u8> {
        let mut writer = Writer::default();
        [LITTLE_ENDIAN, kind, 0, VERSION].into_iter().for_each(|byte| writer.byte(byte));
        writer.uint32(u32::try_from(body.len()).unwrap());
        writer.uint32(1);
        writer.array(8, |fields| {
            for (field, kind, text) in texts {
                fields.align(8);
                fields.byte(*field);
                fields.signature(kind);
                fields.string(text);
            }
            if let Some(to) = to {
                fields.align(8);
                fields.byte(REPLY_SERIAL);
                fields.signature("u");
                fields.uint32(to);
            }
            fields.align(8);
            // Of no use to us, and of a type that has to be passed over.
            fields.byte(77);
            fields.signature("t");
            fields.uint64(1);
            fields.align(8);
            fields.byte(SIGNATURE);
            fields.signature("g");
            fields.signature(signature);
        });
        writer.align(8);
        writer.bytes.extend_from_slice(body);
        writer.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the specification's header, by hand: one byte of arguments would be at 8 times something.
    #[test]
    fn a_call_has_the_bytes_of_the_specification() {
        let call = Call {
            destination: "d.d",
            path: "/p",
            interface: "i.i",
            member: "M",
            signature: "u",
            body: vec![7, 0, 0, 0],
        };
        let expected: Vec<u8> = [
            &b"l\x01\0\x01\x04\0\0\0\x2a\0\0\0\x47\0\0\0"[..],
            b"\x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0d.d\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0i.i\0\0\0\0\0",
            b"\x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0",
            b"\x08\x01g\0\x01u\0\0",
            b"\x07\0\0\0",
        ]
        .concat();
        let bytes = call.encode(42);
        assert_eq!(bytes, expected);
        assert_eq!(rest(bytes[..PREAMBLE].try_into().unwrap()).unwrap(), bytes.len() - PREAMBLE);
        assert_eq!(decode(&bytes).unwrap(), Message::Other);
    }

    #[test]
    fn an_error_is_read() {
        let mut body = Writer::default();
        body.string("no");
        let bytes = testing::error(9, "e.E", &body.into_bytes());
        match decode(&bytes).unwrap() {
            Message::Error { to: 9, name, body } => {
                assert_eq!((name.as_str(), body.text().as_str()), ("e.E", "no"))
            }
            other => panic!("{other:?}"),
        }
        for short in 0..bytes.len() {
            assert!(decode(&bytes[..short]).is_err(), "cut at {short}");
        }
    }

    proptest! {
        #[test]
        fn what_strangers_write_breaks_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _any = decode(&bytes);
            if let Some(preamble) = bytes.first_chunk::<PREAMBLE>() {
                prop_assert!(rest(preamble).is_err() || rest(preamble).is_ok_and(|length| length <= LONGEST));
            }
        }
    }
}
