//! Messages of D-Bus as bytes (D-Bus Specification, "Marshaling" and "Message Protocol"). Who is asked here speaks
//! little-endian, as we do; of messages of the other byte order only the lengths are read, so that they can be passed over.
//!
//! Written are the types that our calls have, read are those of the answers. Everything that is read is bounded by the message,
//! and a message by [`LONGEST`] and [`LONGEST_HEADER`].

use crate::Error;

/// The longest body that is kept: a list of some ten thousand units.
pub(crate) const LONGEST: usize = 16 << 20;

/// The longest header that is kept: a few names, each of at most 255 bytes.
pub(crate) const LONGEST_HEADER: usize = 8 << 10;

/// The longest message that there can be ("Message Format").
const LONGEST_OF_ALL: usize = 1 << 27;

/// Bytes up to and with the length of the header's fields.
pub(crate) const PREAMBLE: usize = 16;

const LITTLE_ENDIAN: u8 = b'l';
const BIG_ENDIAN: u8 = b'B';
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
    pub(crate) destination: &'static str,
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

/// What a message says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Who sent it, by a name that only the bus gives. The bus writes this; nobody else can.
    pub(crate) sender: Option<String>,
    /// The types of its values.
    pub(crate) signature: String,
    pub(crate) what: What,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The answer to a call.
    Return { to: u32 },
    /// A call's error.
    Error { to: u32, name: String },
    /// Something that happened.
    Signal { interface: String, member: String },
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

/// What follows a preamble.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Bytes of the header's fields, and of what aligns the body.
    pub(crate) header: usize,
    /// Bytes of the values.
    pub(crate) body: usize,
    /// Written in another byte order than ours.
    pub(crate) is_foreign: bool,
}

/// Reads a preamble: how long the message is.
///
/// # Errors
/// When it is none of a message, so that nobody can know where the next one begins.
pub(crate) fn lengths(preamble: &[u8; PREAMBLE]) -> Result<Lengths, Error> {
    let [order, _kind, _flags, version, b0, b1, b2, b3, _, _, _, _, h0, h1, h2, h3] = *preamble;
    let number = match order {
        LITTLE_ENDIAN => u32::from_le_bytes,
        BIG_ENDIAN => u32::from_be_bytes,
        _ => return Err(broken("another byte order")),
    };
    if version != VERSION {
        return Err(broken("another version"));
    }
    let (body, fields) = (number([b0, b1, b2, b3]) as usize, number([h0, h1, h2, h3]) as usize);
    let header = fields.checked_next_multiple_of(8).filter(|header| *header <= LONGEST_OF_ALL);
    match header.filter(|header| body <= LONGEST_OF_ALL - header) {
        Some(header) => Ok(Lengths { header, body, is_foreign: order != LITTLE_ENDIAN }),
        None => Err(broken("it is longer than a message can be")),
    }
}

/// Reads a message up to its values.
pub(crate) fn header(message: &[u8]) -> Result<Header, Error> {
    let mut reader = Reader { bytes: message, at: 1 };
    let kind = reader.byte()?;
    reader.at = 12;
    let length = reader.uint32()? as usize;
    let end = reader.at.checked_add(length).ok_or_else(|| broken("it ends too early"))?;
    let (mut to, mut name, mut interface, mut member) = (None, None, None, None);
    let (mut sender, mut signature) = (None, None);
    while reader.at < end {
        reader.align(8)?;
        let field = reader.byte()?;
        let kind = reader.signature()?;
        match (field, kind) {
            (REPLY_SERIAL, "u") => to = Some(reader.uint32()?),
            (ERROR_NAME, "s") => name = Some(reader.string()?.to_owned()),
            (INTERFACE, "s") => interface = Some(reader.string()?.to_owned()),
            (MEMBER, "s") => member = Some(reader.string()?.to_owned()),
            (SENDER, "s") => set_once(&mut sender, reader.string()?)?,
            (SIGNATURE, "g") => signature = Some(reader.signature()?.to_owned()),
            (PATH | DESTINATION, "o" | "s") => drop(reader.string()?),
            (_, kind) => reader.skip(kind)?,
        }
    }
    reader.align(8)?;
    let what = match (kind, to, name, interface, member) {
        (RETURN, Some(to), ..) => What::Return { to },
        (ERROR, Some(to), Some(name), ..) => What::Error { to, name },
        (SIGNAL, _, _, Some(interface), Some(member)) => What::Signal { interface, member },
        _ => What::Other,
    };
    Ok(Header { sender, signature: signature.unwrap_or_default(), what })
}

/// Two senders are no sender: one of them may not be the bus's.
fn set_once(sender: &mut Option<String>, text: &str) -> Result<(), Error> {
    match sender.replace(text.to_owned()) {
        None => Ok(()),
        Some(_another) => Err(broken("two senders")),
    }
}

/// Reads values one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
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

    /// Passes over a value of a basic type.
    pub(crate) fn skip(&mut self, kind: &str) -> Result<(), Error> {
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

/// A message that is wrong.
pub(crate) fn broken(why: &'static str) -> Error {
    Error::Message { why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::sent::Sent;

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
        let lengths = lengths(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(lengths.header + lengths.body, bytes.len() - PREAMBLE);
        assert_eq!(header(&bytes[..PREAMBLE + lengths.header]).unwrap().what, What::Other);
    }

    #[test]
    fn a_header_is_read() {
        let mut body = Writer::default();
        body.string("no");
        let body = body.into_bytes();
        let bytes = Sent::error(9, "e.E").from(":1.1").with("s", &body).encode();
        let awaited = Header {
            sender: Some(":1.1".to_owned()),
            signature: "s".to_owned(),
            what: What::Error { to: 9, name: "e.E".to_owned() },
        };
        let values = bytes.len() - body.len();
        let lengths = lengths(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(lengths, Lengths { header: values - PREAMBLE, body: body.len(), is_foreign: false });
        assert_eq!(header(&bytes[..values]).unwrap(), awaited);
        assert_eq!(Body { signature: "s".to_owned(), bytes: body }.text(), "no");
        for short in 0..values {
            assert!(header(&bytes[..short]).is_err(), "cut at {short}");
        }
        let two = Sent::error(9, "e.E").from(":1.1").from(":1.2").encode();
        assert!(header(&two).is_err());
    }

    #[test]
    fn lengths_are_read_in_either_byte_order() {
        let little = *b"l\x04\x00\x01\x01\x02\x00\x00\x09\x00\x00\x00\x03\x00\x00\x00";
        let big = *b"B\x04\x00\x01\x00\x00\x02\x01\x00\x00\x00\x09\x00\x00\x00\x03";
        for (preamble, is_foreign) in [(little, false), (big, true)] {
            assert_eq!(lengths(&preamble).unwrap(), Lengths { header: 8, body: 0x201, is_foreign });
        }
        for none in [
            *b"x\x04\x00\x01\x00\x00\x00\x00\x09\x00\x00\x00\x03\x00\x00\x00",
            *b"l\x04\x00\x02\x00\x00\x00\x00\x09\x00\x00\x00\x03\x00\x00\x00",
            *b"l\x04\x00\x01\x00\x00\x00\x08\x09\x00\x00\x00\x03\x00\x00\x00",
            *b"l\x04\x00\x01\xff\xff\xff\xff\x09\x00\x00\x00\xff\xff\xff\xff",
        ] {
            assert!(lengths(&none).is_err(), "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn what_strangers_write_breaks_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _any = header(&bytes);
            if let Some(Ok(lengths)) = bytes.first_chunk().map(lengths) {
                prop_assert!(lengths.header + lengths.body <= LONGEST_OF_ALL);
            }
        }
    }
}
