//! The client's side, for tests: what it sends is up to the test, right or wrong.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::frame::{Control, Decoder, Event, encode_data_head};
use super::headers::{HeaderReader, Headers, plain};
use super::{Limits, dictionary};

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It accepted a stream.
    Reply(u32),
    /// Another control frame.
    Control(Control),
    /// Data, as much of a frame as was there.
    Data { stream: u32, bytes: Vec<u8>, fin: bool },
}

/// Both directions.
pub(crate) struct Client {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

/// The direction to the server.
pub(crate) struct Sender {
    io: WriteHalf<DuplexStream>,
    deflate: Compress,
}

/// The direction from the server.
pub(crate) struct Receiver {
    io: ReadHalf<DuplexStream>,
    decoder: Decoder,
    headers: HeaderReader,
    buffer: BytesMut,
    /// What was passed over while something else was waited for.
    kept: VecDeque<Seen>,
    data: HashMap<u32, Vec<u8>>,
}

impl Client {
    pub(crate) fn new(io: DuplexStream) -> Self {
        let (read, write) = tokio::io::split(io);
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(dictionary()).unwrap();
        let receiver = Receiver {
            io: read,
            decoder: Decoder::new(1 << 20),
            headers: HeaderReader::new(&Limits::default()),
            buffer: BytesMut::new(),
            kept: VecDeque::new(),
            data: HashMap::new(),
        };
        Self { sender: Sender { io: write, deflate }, receiver }
    }

    /// Opens a stream and waits for the reply.
    pub(crate) async fn open(&mut self, stream: u32, pairs: &[(&str, &str)]) {
        self.syn(stream, pairs).await;
        let mut others = VecDeque::new();
        loop {
            match self.receiver.next().await.expect("a reply") {
                Seen::Reply(replied) if replied == stream => break,
                other => others.push_back(other),
            }
        }
        others.append(&mut self.receiver.kept);
        self.receiver.kept = others;
    }

    /// Opens a stream.
    pub(crate) async fn syn(&mut self, stream: u32, pairs: &[(&str, &str)]) {
        self.sender.syn(stream, pairs).await;
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        self.sender.data(stream, bytes, fin).await.unwrap();
    }

    pub(crate) async fn control(&mut self, frame: Control) {
        self.sender.control(frame).await;
    }

    /// The next thing; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        self.receiver.next().await
    }

    /// The next stream that the server ends, and what it sent before.
    pub(crate) async fn until_end(&mut self) -> (u32, Vec<u8>) {
        self.receiver.until_end().await
    }
}

impl Sender {
    pub(crate) async fn syn(&mut self, stream: u32, pairs: &[(&str, &str)]) {
        let block = self.block(&plain(&Headers::from_pairs(pairs)));
        self.control(Control::SynStream { stream, fin: false, unidirectional: false, block }).await;
    }

    /// Compresses what is to be a header block.
    pub(crate) fn block(&mut self, plain: &[u8]) -> Bytes {
        let mut block = Vec::with_capacity(plain.len() + 1024);
        self.deflate.compress_vec(plain, &mut block, FlushCompress::Sync).unwrap();
        Bytes::from(block)
    }

    /// Sends a frame; it may get lost when the server has gone.
    pub(crate) async fn control(&mut self, frame: Control) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        _ = self.io.write_all(&bytes).await;
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) -> std::io::Result<()> {
        let mut frame = BytesMut::new();
        encode_data_head(stream, bytes.len(), fin, &mut frame);
        frame.extend_from_slice(bytes);
        self.io.write_all(&frame).await
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        _ = self.io.write_all(bytes).await;
    }
}

impl Receiver {
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        loop {
            match self.decoder.next(&mut self.buffer).unwrap() {
                Some(Event::Data { stream, bytes, fin }) => {
                    return Some(Seen::Data { stream, bytes: bytes.to_vec(), fin });
                }
                Some(Event::Control(Control::SynReply { stream, block, .. })) => {
                    assert_eq!(self.headers.read(&block), Ok(Headers::default()));
                    return Some(Seen::Reply(stream));
                }
                Some(Event::Control(frame)) => return Some(Seen::Control(frame)),
                None => {}
            }
            if self.io.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn until_end(&mut self) -> (u32, Vec<u8>) {
        loop {
            if let Seen::Data { stream, bytes, fin } = self.next().await.expect("more data") {
                let data = self.data.entry(stream).or_default();
                data.extend_from_slice(&bytes);
                if fin {
                    return (stream, self.data.remove(&stream).unwrap_or_default());
                }
            }
        }
    }

    /// The control frames up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<Control> {
        let mut frames = Vec::new();
        while let Some(seen) = self.next().await {
            if let Seen::Control(frame) = seen {
                frames.push(frame);
            }
        }
        frames
    }
}
