//! A connection against a client of ours: what clients do, and what they should not.

mod attacks;
mod life;
mod windows;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::JoinHandle;

use super::client::Client;
use super::{Closer, Connection, Error, Limits, Stream, Streams};

/// A running connection and its client, with so many bytes under way between them.
struct Rig {
    client: Client,
    server: JoinHandle<Result<(), Error>>,
    streams: Streams,
    closer: Closer,
}

fn rig(limits: Limits, under_way: usize) -> Rig {
    let (ours, theirs) = duplex(under_way);
    let (connection, streams, closer) = Connection::new(ours, limits);
    Rig { client: Client::new(theirs), server: tokio::spawn(connection.run()), streams, closer }
}

fn plain_rig() -> Rig {
    rig(Limits::default(), 64 << 10)
}

impl Rig {
    /// Opens a stream and accepts it.
    async fn open(&mut self, stream: u32) -> Stream {
        self.client.syn(stream, &[("streamtype", "data")]).await;
        let accepted = self.streams.next().await.unwrap().accept().unwrap();
        assert_eq!(accepted.id(), stream);
        accepted
    }
}

/// Sends back what comes, to its end.
async fn echo(stream: Stream) {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let length = reader.read(&mut buffer).await.unwrap();
        if length == 0 {
            break;
        }
        writer.write_all(&buffer[..length]).await.unwrap();
    }
    writer.shutdown().await.unwrap();
}
