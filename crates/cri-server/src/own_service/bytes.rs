//! Archives on their way between a client and the image service: messages of a stream on one side, blocking writing or reading on
//! the other. A few messages are under way at a time; whoever is slower makes the other one wait.

use std::io::{self, BufRead, Read, Write};

use futures::stream::{self, StreamExt};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::v1;
use crate::runtime_service::stream::Streamed;

/// Messages under way.
const MESSAGES: usize = 4;
/// Bytes of a message.
const MESSAGE_BYTES: usize = 256 << 10;

/// What is written to it goes to a client.
pub(super) struct Outgoing {
    messages: mpsc::Sender<Vec<u8>>,
    next: Vec<u8>,
}

/// A writer, and the stream of what is written to it. The stream ends well when `work`, which has the writer, has done so.
pub(super) fn outgoing<W>(work: impl FnOnce(Outgoing) -> W) -> Streamed<v1::Bytes>
where
    W: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (messages, sent) = mpsc::channel(MESSAGES);
    let work = work(Outgoing { messages, next: Vec::with_capacity(MESSAGE_BYTES) });
    let bytes = stream::unfold(sent, |mut sent| async move {
        let bytes: Vec<u8> = sent.recv().await?;
        Some((Ok(v1::Bytes { bytes }), sent))
    });
    let failure = stream::once(work).filter_map(|ended| async { ended.err().map(Err) });
    Box::pin(stream::select(bytes, failure))
}

impl Outgoing {
    fn send(&mut self) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.next, Vec::with_capacity(MESSAGE_BYTES));
        self.messages
            .blocking_send(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"))
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MESSAGE_BYTES - self.next.len();
        let count = room.min(bytes.len());
        self.next.extend_from_slice(&bytes[..count]);
        if self.next.len() == MESSAGE_BYTES {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.next.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Reads what a client sends.
pub(super) struct Incoming {
    messages: mpsc::Receiver<Option<Vec<u8>>>,
    current: Vec<u8>,
    read: usize,
    is_over: bool,
}

/// The other end of an [`Incoming`].
pub(super) struct Feed(mpsc::Sender<Option<Vec<u8>>>);

/// A reader, and what it is fed by.
pub(super) fn incoming() -> (Feed, Incoming) {
    let (sender, messages) = mpsc::channel(MESSAGES);
    (Feed(sender), Incoming { messages, current: Vec::new(), read: 0, is_over: false })
}

impl Feed {
    /// Hands over what comes until the client says that this was all. Whoever reads finds out if it doesn't.
    pub(super) async fn forward(
        self,
        first: v1::LoadImagesRequest,
        mut rest: Streaming<v1::LoadImagesRequest>,
    ) {
        let mut next = Some(first);
        while let Some(v1::LoadImagesRequest { bytes, end, .. }) = next {
            // Where nobody reads any more, it has been refused.
            if self.0.send(Some(bytes)).await.is_err() {
                return;
            }
            if end {
                let _refused = self.0.send(None).await;
                return;
            }
            next = rest.message().await.ok().flatten();
        }
    }
}

impl BufRead for Incoming {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.read == self.current.len() && !self.is_over {
            match self.messages.blocking_recv() {
                Some(Some(bytes)) => (self.current, self.read) = (bytes, 0),
                Some(None) => self.is_over = true,
                None => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client has given it up"));
                }
            }
        }
        Ok(&self.current[self.read..])
    }

    fn consume(&mut self, amount: usize) {
        self.read += amount;
    }
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_comes_in_order_and_an_error_at_the_end() {
        for failure in [None, Some(Status::data_loss("damaged"))] {
            let ended = failure.clone();
            let stream = outgoing(|mut out| async move {
                let write = move || {
                    for number in 0..100_000u32 {
                        out.write_all(&number.to_le_bytes()).unwrap();
                    }
                    out.flush().unwrap();
                };
                tokio::task::spawn_blocking(write).await.unwrap();
                ended.map_or(Ok(()), Err)
            });
            let messages: Vec<_> = stream.collect().await;
            let bytes: Vec<u8> =
                messages.iter().flatten().flat_map(|message| message.bytes.clone()).collect();
            let expected: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
            let failed = messages.iter().find_map(|message| message.as_ref().err());
            assert_eq!(failed.map(Status::code), failure.as_ref().map(Status::code));
            assert!(failed.is_some() || bytes == expected);
        }
    }

    #[tokio::test]
    async fn a_client_that_goes_is_no_end() {
        let (feed, mut archive) = incoming();
        feed.0.send(Some(b"half".to_vec())).await.unwrap();
        drop(feed);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            (archive.read_to_end(&mut bytes).map_err(|error| error.kind()), bytes)
        });
        assert_eq!(read.await.unwrap(), (Err(io::ErrorKind::UnexpectedEof), b"half".to_vec()));
    }
}
