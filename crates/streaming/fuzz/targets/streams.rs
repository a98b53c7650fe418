//! Rightly formed frames in any order, against a server that reads, writes and drops in any order: what is read of a stream is
//! what was sent, and the connection ends.
#![no_main]

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use libfuzzer_sys::fuzz_target;
use streaming_fuzz::run;
use streaming_fuzz::spdy::frame::{Control, encode_data_head};
use streaming_fuzz::spdy::headers::{Headers, plain};
use streaming_fuzz::spdy::{Connection, Limits, Stream, dictionary};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, duplex, sink};

/// What the client sends, and what of each stream may be read.
fn frames(input: &[u8]) -> (Vec<u8>, HashMap<u32, Vec<u8>>) {
    let mut deflate = Compress::new(Compression::fast(), true);
    deflate.set_dictionary(dictionary()).unwrap();
    let mut block = |plain: &[u8]| {
        let mut block = Vec::with_capacity(1024);
        deflate.compress_vec(plain, &mut block, FlushCompress::Sync).unwrap();
        Bytes::from(block)
    };
    let (mut out, mut sent) = (BytesMut::new(), HashMap::<u32, Vec<u8>>::new());
    let mut next = 1;
    for step in input.chunks_exact(3) {
        let (what, stream, value) = (step[0], u32::from(step[1] % 16), step[2]);
        let fin = value & 1 == 1;
        let frame = match what % 10 {
            0 => {
                let block = block(&plain(&Headers::from_pairs(&[("streamtype", "data")])));
                next += 2;
                Control::SynStream { stream: next - 2, fin, unidirectional: value & 2 == 2, block }
            }
            1..=4 => {
                let data = vec![value; usize::from(what)];
                encode_data_head(stream, data.len(), fin, &mut out);
                out.extend_from_slice(&data);
                // What comes before its stream is thrown away.
                if stream < next {
                    sent.entry(stream).or_default().extend_from_slice(&data);
                }
                continue;
            }
            5 => Control::RstStream { stream, status: 5 },
            6 => Control::WindowUpdate { stream, delta: u32::from(value) << (value % 25) },
            7 => Control::Settings(vec![(7, u32::from(value) << (value % 25))]),
            8 => Control::Ping(u32::from(value)),
            _ => Control::Headers { stream, fin, block: block(&[0; 4]) },
        };
        frame.encode(&mut out);
    }
    (out.to_vec(), sent)
}

/// Does with a stream what its script says.
async fn serve(mut stream: Stream, script: u8, sent: Vec<u8>) {
    let mut read = Vec::new();
    let mut buffer = vec![0; usize::from(script % 64) + 1];
    for round in 0..u32::from(script) {
        match (script >> (round % 8)) & 3 {
            0 | 1 => match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => read.extend_from_slice(&buffer[..length]),
            },
            2 => {
                if stream.write(&buffer).await.is_err() {
                    break;
                }
            }
            _ if round % 5 == 0 => stream.finish(),
            _ => {}
        }
    }
    assert!(sent.starts_with(&read));
}

fuzz_target!(|input: &[u8]| {
    let Some((pipe, rest)) = input.split_first() else { return };
    let (bytes, sent) = frames(rest);
    run(async {
        // A client that leaves no window and reads on for ever is ended by nothing else.
        let idle = Some(Duration::from_secs(60));
        let limits =
            Limits { streams: 8, buffered: 500, floor: 20, outgoing: 100, idle, ..Limits::default() };
        let (ours, theirs) = duplex(usize::from(*pipe).max(1));
        let (connection, mut streams, closer) = Connection::new(ours, limits);
        let (mut from, mut to) = tokio::io::split(theirs);
        let serving = async {
            let mut tasks = tokio::task::JoinSet::new();
            while let Some(incoming) = streams.next().await {
                let id = incoming.id();
                let script = rest.get(id as usize).copied().unwrap_or(0xa5);
                let sent = sent.get(&id).cloned().unwrap_or_default();
                if let Some(stream) = incoming.accept() {
                    tasks.spawn(serve(stream, script, sent));
                }
            }
            while let Some(outcome) = tasks.join_next().await {
                outcome.unwrap();
            }
        };
        let sending = async {
            _ = to.write_all(&bytes).await;
            if pipe % 2 == 0 {
                closer.close();
            } else {
                _ = to.shutdown().await;
            }
        };
        let receiving = async { _ = copy(&mut from, &mut sink()).await };
        _ = tokio::join!(connection.run(), serving, sending, receiving);
    });
});
