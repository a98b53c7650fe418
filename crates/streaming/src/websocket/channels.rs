//! A WebSocket connection as channels: each is a reader or a writer of its own.
//!
//! Reading and writing go on side by side in one future; there is no task. A channel whose reader holds back holds back the
//! connection, as WebSocket has no flow control for each channel; that its client has gone is seen by the socket then
//! (`crate::socket`).
//!
//! Known limit: what lies behind input that a command doesn't take isn't read, pings included: reading on to answer them would mean to
//! keep what lies between. A client that counts on the answers (client-go breaks off 61 s after the last) gives up a command that
//! takes no input for so long, as it does with the peers. Over SPDY, whose streams have buffers of their own, pings are read
//! until these are full.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::channel::mpsc::{Receiver, Sender, channel};
use futures::future::{Either, select};
use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::Coding;
use super::flood::Flood;
use super::fragments;
use super::frames::{Frame, HalfClose, decode, encode};
use crate::backend::{Duplex, Streams};
use crate::remote_command::{Channels, Version};

/// Channels of a remote command: the numbers of the descriptors, then the end and the size of the terminal.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// How much of a channel one message carries at most; kubectl's size.
const CHUNK: usize = 32 << 10;

/// How many bytes are gathered before they are written.
pub(crate) const WRITE_BUFFER: usize = 64 << 10;

/// How often the client is asked for a sign of life, for whoever lies between and closes quiet connections. A missing answer
/// means nothing: a client whose output is held back (`| less`) doesn't read. Dead hosts are found by TCP.
const PING: Duration = Duration::from_secs(30);

/// How long a client has to answer that the connection closes.
const CLOSE: Duration = Duration::from_secs(3);

/// What readers and writers are made of, before the connection is driven.
pub(crate) struct Wire {
    coding: Coding,
    half_close: HalfClose,
    inbound: Vec<Inbound>,
    sender: Sender<Message>,
    outbound: Receiver<Message>,
}

/// Where a client's message goes, by the number of its channel.
enum Inbound {
    /// Nowhere: there never was a reader.
    Nobody,
    /// To the channel's reader.
    Open(Sender<Bytes>),
    /// Nowhere any more: the client ended it, or the reader has enough.
    Over,
}

/// What a client is told that floods.
const FLOOD: &str = "too many messages that carry nothing";

/// What a client is told whose long message has no room.
const NO_ROOM: &str = "too much is held for long messages on this node";

/// Why reading ended.
enum End {
    /// The client closed, or the connection broke.
    Gone,
    /// The client sent what can't be.
    Violation(CloseCode, &'static str),
}

impl Wire {
    /// Without a channel yet.
    pub(crate) fn new(coding: Coding, half_close: HalfClose) -> Self {
        // One message for each writer: who writes waits for the client.
        let (sender, outbound) = channel(0);
        Self { coding, half_close, inbound: Vec::new(), sender, outbound }
    }

    /// What the client sends on a channel.
    pub(crate) fn reader(&mut self, number: u8) -> Reader {
        let (sender, receiver) = channel(0);
        let index = usize::from(number);
        if self.inbound.len() <= index {
            self.inbound.resize_with(index + 1, || Inbound::Nobody);
        }
        if let Some(slot) = self.inbound.get_mut(index) {
            *slot = Inbound::Open(sender);
        }
        Reader { receiver, unread: Bytes::new() }
    }

    /// What the client gets on a channel.
    pub(crate) fn writer(&self, number: u8) -> Writer {
        Writer { channel: number, coding: self.coding, sender: self.sender.clone() }
    }

    /// Moves bytes until the client has gone, or until all writers are done and what they wrote is sent and the connection
    /// closed. Safe to cancel: the connection is at its end then.
    pub(crate) async fn drive<S: Duplex>(self, socket: WebSocketStream<S>) {
        let Self { coding, half_close, mut inbound, sender, mut outbound } = self;
        drop(sender);
        let (mut sink, mut stream) = socket.split();
        let end = {
            let reading = pin!(read(&mut stream, &mut inbound, (coding, half_close)));
            let writing = pin!(write(&mut sink, &mut outbound));
            match select(reading, writing).await {
                Either::Left((end, _)) => end,
                Either::Right((Err(_), _)) => return,
                Either::Right((Ok(()), reading)) => {
                    // What the client still sends is thrown away until it has read the end.
                    timeout(CLOSE, reading).await.unwrap_or(End::Gone)
                }
            }
        };
        let farewell = async {
            match end {
                End::Gone => sink.close().await,
                End::Violation(code, why) => {
                    sink.send(Message::Close(Some(CloseFrame { code, reason: why.into() }))).await
                }
            }
        };
        let _heard = timeout(CLOSE, farewell).await;
    }
}

/// The channels of a remote command. The client is told by an empty message that it is connected, as peers do.
pub(crate) fn remote<S: Duplex + 'static>(
    socket: WebSocketStream<S>,
    (version, coding): (Version, Coding),
    streams: Streams,
) -> Channels {
    let half_close = if version >= Version::V5 { HalfClose::Known } else { HalfClose::Unknown };
    let mut wire = Wire::new(coding, half_close);
    let stdin = streams.stdin.then(|| wire.reader(STDIN));
    let resize = streams.tty.then(|| wire.reader(RESIZE));
    let mut stdout = streams.stdout.then(|| wire.writer(STDOUT));
    let mut stderr = streams.stderr.then(|| wire.writer(STDERR));
    let mut error = wire.writer(ERROR);
    stdout.as_mut().or(stderr.as_mut()).unwrap_or(&mut error).greet();
    Channels {
        error: Box::new(error),
        stdin: stdin.map(|reader| Box::new(reader) as _),
        stdout: stdout.map(|writer| Box::new(writer) as _),
        stderr: stderr.map(|writer| Box::new(writer) as _),
        resize: resize.map(|reader| Box::new(reader) as _),
        gone: wire.drive(socket).boxed(),
        finish: std::future::ready(()).boxed(),
    }
}

async fn read<S: Duplex>(
    stream: &mut SplitStream<WebSocketStream<S>>,
    inbound: &mut [Inbound],
    (coding, half_close): (Coding, HalfClose),
) -> End {
    let mut empty = Flood::default();
    loop {
        let payload = match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => text.into(),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Bytes::new(),
            Some(Err(WsError::Capacity(_))) => {
                return End::Violation(CloseCode::Size, "the message is too long");
            }
            Some(Err(WsError::Io(error))) if fragments::are_too_many(&error) => {
                return End::Violation(CloseCode::Policy, FLOOD);
            }
            Some(Err(WsError::Io(error))) if fragments::have_no_room(&error) => {
                return End::Violation(CloseCode::Again, NO_ROOM);
            }
            Some(Err(WsError::Protocol(_) | WsError::Utf8(_))) => {
                return End::Violation(CloseCode::Protocol, "that is not WebSocket");
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Gone,
        };
        let frame = match decode(payload, coding, half_close) {
            Ok(frame) => frame,
            Err(why) => return End::Violation(CloseCode::Invalid, why),
        };
        if deliver(frame, inbound).await == Moved::Nothing && empty.count().is_err() {
            return End::Violation(CloseCode::Policy, FLOOD);
        }
    }
}

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    /// It was for a channel, if for one that takes no more.
    Something,
    Nothing,
}

/// Hands a message to its channel's reader, and waits for that.
async fn deliver(frame: Frame, inbound: &mut [Inbound]) -> Moved {
    let (Frame::Data { channel, .. } | Frame::End { channel }) = frame else { return Moved::Nothing };
    let Some(slot) = inbound.get_mut(usize::from(channel)) else { return Moved::Nothing };
    match (frame, &mut *slot) {
        (Frame::Data { bytes, .. }, Inbound::Open(sender)) if !bytes.is_empty() => {
            if sender.send(bytes).await.is_err() {
                // Nobody reads it any more.
                *slot = Inbound::Over;
            }
            Moved::Something
        }
        (Frame::End { .. }, Inbound::Open(_)) => {
            *slot = Inbound::Over;
            Moved::Something
        }
        (Frame::Data { bytes, .. }, Inbound::Over) if !bytes.is_empty() => Moved::Something,
        _ => Moved::Nothing,
    }
}

async fn write<S: Duplex>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    outbound: &mut Receiver<Message>,
) -> Result<(), WsError> {
    let mut ping = interval_at(Instant::now() + PING, PING);
    loop {
        tokio::select! {
            message = outbound.next() => {
                let Some(message) = message else { break };
                sink.feed(message).await?;
                while let Some(Some(message)) = outbound.next().now_or_never() {
                    sink.feed(message).await?;
                }
                sink.flush().await?;
            }
            _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await?,
        }
    }
    sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
}

/// What the client sends on a channel, as a stream of bytes.
pub(crate) struct Reader {
    receiver: Receiver<Bytes>,
    unread: Bytes,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receiver.poll_next_unpin(cx)) {
                Some(bytes) => self.unread = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.unread.len().min(into.remaining());
        self.unread.copy_to_slice(into.initialize_unfilled_to(count));
        into.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// What the client gets on a channel, as a stream of bytes; shutting it down, or dropping it, is its end.
pub(crate) struct Writer {
    channel: u8,
    coding: Coding,
    sender: Sender<Message>,
}

impl Writer {
    /// Sends an empty message.
    fn greet(&mut self) {
        // There is always room for the first.
        let _ = self.sender.try_send(encode(self.channel, &[], self.coding));
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.sender.poll_ready(cx)).map_err(closed)?;
        let chunk = bytes.get(..CHUNK).unwrap_or(bytes);
        let message = encode(self.channel, chunk, self.coding);
        self.sender.start_send(message).map_err(closed)?;
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.disconnect();
        Poll::Ready(Ok(()))
    }
}
