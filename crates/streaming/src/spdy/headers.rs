//! Header blocks: names and values, compressed with one context for all blocks of a direction (draft 3.1, section 2.6.10).
//!
//! What we send is in the compressed format but stored: the one block that a server sends is empty, and a compressor would cost
//! 256 KiB a connection, and mix what must be kept apart. Not here: which frames carry blocks ([`super::frame`]).

use bytes::{BufMut, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use super::{Limits, dictionary};

/// Names and values of a stream, in their order. A name is there once; several values of one name stand in one string,
/// parted by NUL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// From pairs; names are to be lower case and there once.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// The first value of a name, which must be given in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(candidate, _)| candidate == name)?;
        value.split('\0').next()
    }

    /// All pairs.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// What is wrong with a header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a stream that can be decompressed.
    #[error("corrupt compression")]
    Corrupt,
    /// Above the limit when decompressed.
    #[error("above the limit of {0} bytes")]
    TooLarge(usize),
    /// Too many names.
    #[error("{0} names, above the limit")]
    TooMany(u32),
    /// It ends before its last pair, or goes on after it.
    #[error("not as long as it says")]
    Length,
    /// A name that is empty or not in lower-case visible characters.
    #[error("bad name")]
    Name,
    /// A name twice.
    #[error("a name twice")]
    Duplicate,
    /// A value that isn't UTF-8.
    #[error("bad value")]
    Value,
}

/// Reads the blocks of one direction.
#[derive(Debug)]
pub struct HeaderReader {
    /// Made when the first block comes: it takes tens of kilobytes.
    inflate: Option<Decompress>,
    bytes: usize,
    pairs: usize,
}

impl HeaderReader {
    /// At the beginning of a connection.
    pub fn new(limits: &Limits) -> Self {
        Self { inflate: None, bytes: limits.header_bytes, pairs: limits.header_pairs }
    }

    /// Reads the next block.
    ///
    /// # Errors
    /// [`HeaderError`]; then the context is out of step and nothing more can be read.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        let plain = self.decompress(block)?;
        parse(&plain, self.pairs)
    }

    fn decompress(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let inflate = self.inflate.get_or_insert_with(|| Decompress::new(true));
        // One byte above the limit, so that reaching it can be told from passing it.
        let most = self.bytes.saturating_add(1);
        let mut plain = Vec::with_capacity(most.min(512));
        loop {
            let (taken, made) = (inflate.total_in(), plain.len());
            let status = match inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() => {
                    block = rest(block, inflate.total_in() - taken);
                    inflate.set_dictionary(dictionary()).map_err(|_| HeaderError::Corrupt)?;
                    continue;
                }
                Err(_) => return Err(HeaderError::Corrupt),
            };
            block = rest(block, inflate.total_in() - taken);
            if plain.len() > self.bytes {
                return Err(HeaderError::TooLarge(self.bytes));
            }
            // A context lasts as long as the connection.
            if status == Status::StreamEnd {
                return Err(HeaderError::Corrupt);
            }
            if plain.len() < plain.capacity() {
                let stuck = inflate.total_in() == taken && plain.len() == made;
                match (block.is_empty(), stuck) {
                    (true, _) => return Ok(plain),
                    (false, true) => return Err(HeaderError::Corrupt),
                    (false, false) => {}
                }
            } else {
                let more = plain.capacity().min(most - plain.len());
                plain.reserve_exact(more);
            }
        }
    }
}

fn rest(block: &[u8], taken: u64) -> &[u8] {
    block.get(usize::try_from(taken).unwrap_or(usize::MAX)..).unwrap_or_default()
}

/// Reads names and values as they are when decompressed.
fn parse(mut plain: &[u8], most: usize) -> Result<Headers, HeaderError> {
    let count = take_number(&mut plain)?;
    if count as usize > most {
        return Err(HeaderError::TooMany(count));
    }
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let name = take_bytes(&mut plain)?;
        // Lower case is asked for; what isn't visible would only serve to deceive.
        if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()) {
            return Err(HeaderError::Name);
        }
        let name = String::from_utf8_lossy(name).into_owned();
        let value = std::str::from_utf8(take_bytes(&mut plain)?).map_err(|_| HeaderError::Value)?;
        if pairs.iter().any(|(known, _)| *known == name) {
            return Err(HeaderError::Duplicate);
        }
        pairs.push((name, value.to_owned()));
    }
    if plain.is_empty() { Ok(Headers(pairs)) } else { Err(HeaderError::Length) }
}

fn take_number(plain: &mut &[u8]) -> Result<u32, HeaderError> {
    let (number, rest) = plain.split_first_chunk().ok_or(HeaderError::Length)?;
    *plain = rest;
    Ok(u32::from_be_bytes(*number))
}

fn take_bytes<'a>(plain: &mut &'a [u8]) -> Result<&'a [u8], HeaderError> {
    let length = take_number(plain)? as usize;
    let (bytes, rest) = plain.split_at_checked(length).ok_or(HeaderError::Length)?;
    *plain = rest;
    Ok(bytes)
}

/// Writes the blocks of one direction.
#[derive(Debug, Default)]
pub struct HeaderWriter {
    begun: bool,
}

impl HeaderWriter {
    /// Appends the next block.
    pub fn write(&mut self, headers: &Headers, block: &mut BytesMut) {
        if !self.begun {
            // Deflate with a window of 32 KiB and a dictionary, then its name (RFC 1950, section 2.2).
            block.put_u16(0x7820);
            block.put_u32(dictionary::ID);
            self.begun = true;
        }
        for chunk in plain(headers).chunks(usize::from(u16::MAX)) {
            stored(chunk, block);
        }
        // An empty one is what a flush looks like: readers hand over what they have.
        stored(&[], block);
    }
}

/// A block that isn't the last and isn't compressed (RFC 1951, section 3.2.4).
fn stored(chunk: &[u8], block: &mut BytesMut) {
    let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
    block.put_u8(0);
    block.put_u16_le(length);
    block.put_u16_le(!length);
    block.put_slice(chunk);
}

/// Names and values before compression.
pub fn plain(headers: &Headers) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(headers.0.len() as u32);
    for (name, value) in &headers.0 {
        for text in [name, value] {
            bytes.put_u32(text.len() as u32);
            bytes.put_slice(text.as_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    /// A peer's compressor, as Go's and every other has it.
    fn compressor() -> Compress {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(dictionary()).unwrap();
        deflate
    }

    fn compress(deflate: &mut Compress, plain: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(plain.len() + 1024);
        let taken = deflate.total_in();
        deflate.compress_vec(plain, &mut block, FlushCompress::Sync).unwrap();
        assert_eq!(deflate.total_in() - taken, plain.len() as u64);
        block
    }

    fn reader() -> HeaderReader {
        HeaderReader::new(&Limits::default())
    }

    fn some() -> Headers {
        Headers::from_pairs(&[("streamtype", "data"), ("port", "8080"), ("requestid", "17")])
    }

    #[test]
    fn blocks_of_a_peer_are_read_in_one_context() {
        let (mut deflate, mut reader) = (compressor(), reader());
        for _ in 0..100 {
            assert_eq!(reader.read(&compress(&mut deflate, &plain(&some()))), Ok(some()));
        }
        assert_eq!(some().get("port"), Some("8080"));
        assert_eq!(Headers::from_pairs(&[("a", "1\x002")]).get("a"), Some("1"));
    }

    #[test]
    fn what_we_write_can_be_read() {
        let (mut writer, mut reader) = (HeaderWriter::default(), reader());
        for headers in [Headers::default(), some(), Headers::default()] {
            let mut block = BytesMut::new();
            writer.write(&headers, &mut block);
            assert_eq!(reader.read(&block), Ok(headers));
        }
    }

    #[test]
    fn a_block_that_unfolds_beyond_the_limit_is_refused_early() {
        let mut bomb = 1_u32.to_be_bytes().to_vec();
        bomb.extend_from_slice(&1_u32.to_be_bytes());
        bomb.push(b'a');
        bomb.extend_from_slice(&(64_u32 << 20).to_be_bytes());
        bomb.resize(bomb.len() + (64 << 20), 0);
        let mut block = Vec::with_capacity(1 << 20);
        compressor().compress_vec(&bomb, &mut block, FlushCompress::Sync).unwrap();
        assert!(block.len() < 100_000, "{}", block.len());
        assert_eq!(reader().read(&block), Err(HeaderError::TooLarge(16 << 10)));
    }

    #[test]
    fn the_limit_is_what_may_be_reached() {
        let mut value = "x".repeat((16 << 10) - 4 - 4 - 1 - 4);
        let block = |value: &str| compress(&mut compressor(), &plain(&Headers::from_pairs(&[("a", value)])));
        assert!(reader().read(&block(&value)).is_ok());
        value.push('x');
        assert_eq!(reader().read(&block(&value)), Err(HeaderError::TooLarge(16 << 10)));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let read = |plain: &[u8]| reader().read(&compress(&mut compressor(), plain));
        let pairs = |pairs: &[(&str, &str)]| read(&plain(&Headers::from_pairs(pairs)));
        assert_eq!(pairs(&[("a", "1"), ("b", ""), ("a", "2")]), Err(HeaderError::Duplicate));
        assert_eq!(pairs(&[("Port", "1")]), Err(HeaderError::Name));
        assert_eq!(pairs(&[("", "1")]), Err(HeaderError::Name));
        assert_eq!(pairs(&[("a\n", "1")]), Err(HeaderError::Name));
        assert_eq!(read(&[0xff; 4]), Err(HeaderError::TooMany(u32::MAX)));
        assert_eq!(read(&65_u32.to_be_bytes()), Err(HeaderError::TooMany(65)));
        assert_eq!(read(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), Err(HeaderError::Length));
        assert_eq!(read(&[0, 0, 0, 0, 0]), Err(HeaderError::Length));
        assert_eq!(read(&[]), Err(HeaderError::Length));
        assert_eq!(read(&[0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 1, 0xff]), Err(HeaderError::Value));
    }

    #[test]
    fn a_context_that_ends_or_names_another_dictionary_is_refused() {
        let mut block = Vec::with_capacity(1024);
        compressor().compress_vec(&[0; 4], &mut block, FlushCompress::Finish).unwrap();
        assert_eq!(reader().read(&block), Err(HeaderError::Corrupt));
        let mut other = Compress::new(Compression::best(), true);
        other.set_dictionary(b"another").unwrap();
        assert_eq!(reader().read(&compress(&mut other, &[0; 4])), Err(HeaderError::Corrupt));
    }

    proptest! {
        #[test]
        fn any_headers_come_back(blocks in prop::collection::vec(
            prop::collection::btree_map("[a-z0-9:_-]{1,20}", any::<String>(), 0..10), 1..5,
        )) {
            let (mut deflate, mut writer) = (compressor(), HeaderWriter::default());
            let (mut theirs, mut ours) = (reader(), reader());
            for pairs in blocks {
                let headers = Headers(pairs.into_iter().collect());
                prop_assert_eq!(theirs.read(&compress(&mut deflate, &plain(&headers))), Ok(headers.clone()));
                let mut block = BytesMut::new();
                writer.write(&headers, &mut block);
                prop_assert_eq!(ours.read(&block), Ok(headers));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            _ = reader().read(&bytes);
            _ = parse(&bytes, 64);
            // Past the beginning of a context, so that more than its first bytes is looked at.
            let mut reader = reader();
            let mut deflate = compressor();
            reader.read(&compress(&mut deflate, &plain(&some()))).unwrap();
            _ = reader.read(&bytes);
        }
    }
}
