//! Header blocks: any bytes as compressed blocks, and any bytes as what such blocks unfold to.
#![no_main]

use bytes::BytesMut;
use flate2::{Compress, Compression, FlushCompress};
use libfuzzer_sys::fuzz_target;
use streaming_fuzz::spdy::headers::{HeaderReader, HeaderWriter, Headers, plain};
use streaming_fuzz::spdy::{Limits, dictionary};

fn check(reader: &mut HeaderReader, limits: &Limits, block: &[u8]) -> Option<Headers> {
    let headers = reader.read(block).ok()?;
    assert!(headers.pairs().len() <= limits.header_pairs);
    assert!(plain(&headers).len() <= limits.header_bytes);
    Some(headers)
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, mut bytes)) = input.split_first() else { return };
    let limits = Limits { header_bytes: 4096, ..Limits::default() };
    let mut reader = HeaderReader::new(&limits);
    let mut deflate = Compress::new(Compression::fast(), true);
    deflate.set_dictionary(dictionary()).unwrap();
    let mut writer = HeaderWriter::default();
    let mut ours = HeaderReader::new(&limits);
    // Blocks of one context, each with its length before it.
    while let Some((length, rest)) = bytes.split_first() {
        let (block, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        let headers = if mode & 1 == 0 {
            check(&mut reader, &limits, block)
        } else {
            let mut packed = Vec::with_capacity(1024);
            deflate.compress_vec(block, &mut packed, FlushCompress::Sync).unwrap();
            check(&mut reader, &limits, &packed)
        };
        let Some(headers) = headers else { return };
        let mut again = BytesMut::new();
        writer.write(&headers, &mut again);
        assert_eq!(ours.read(&again), Ok(headers));
    }
});
