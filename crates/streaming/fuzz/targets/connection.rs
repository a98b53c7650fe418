//! Any bytes as a whole connection, whose streams are accepted, read and written to: it ends, and so does all that hangs on it.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use streaming_fuzz::run;
use streaming_fuzz::spdy::{Connection, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, duplex, sink};

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    run(async {
        // A client that leaves no window and reads on for ever is ended by nothing else.
        let idle = Some(Duration::from_secs(60));
        let limits =
            Limits { streams: 8, buffered: 500, floor: 20, outgoing: 100, idle, ..Limits::default() };
        let (ours, theirs) = duplex(usize::from(*piece).max(1));
        let (connection, mut streams, _closer) = Connection::new(ours, limits);
        let (mut from, mut to) = tokio::io::split(theirs);
        let serving = async {
            let mut tasks = tokio::task::JoinSet::new();
            while let Some(incoming) = streams.next().await {
                tasks.spawn(async move {
                    if incoming.id() % 8 == 7 {
                        return incoming.refuse();
                    }
                    let Some(mut stream) = incoming.accept() else { return };
                    let mut text = Vec::new();
                    _ = stream.read_to_end(&mut text).await;
                    _ = stream.write_all(&text).await;
                    stream.finish();
                });
            }
            while tasks.join_next().await.is_some() {}
        };
        let sending = async {
            _ = to.write_all(bytes).await;
            _ = to.shutdown().await;
        };
        let receiving = async { _ = copy(&mut from, &mut sink()).await };
        _ = tokio::join!(connection.run(), serving, sending, receiving);
    });
});
