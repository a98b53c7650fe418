//! The handles to a stream: first [`Incoming`], then [`Stream`] and its halves.

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::Reset;
use super::headers::Headers;
use super::state::{Ours, Shared, Theirs};

/// Above this a stream that has been read empty gives its memory back.
const KEPT: usize = 16 << 10;

/// A stream that the peer has opened, to be accepted or refused. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    headers: Headers,
    handle: Option<Handle>,
    stream: u32,
}

impl Incoming {
    pub(super) fn new(shared: Arc<Shared>, stream: u32, headers: Headers) -> Self {
        Self { headers, handle: Some(Handle { shared, stream }), stream }
    }

    /// What the peer opened it with.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.stream
    }

    /// Accepts it: the peer is told.
    pub fn accept(mut self) -> Option<Stream> {
        let handle = self.handle.take()?;
        let mut state = handle.shared.lock();
        state.reply(handle.stream);
        state.hold(handle.stream);
        drop(state);
        handle.shared.work.notify_one();
        let second = Handle { shared: Arc::clone(&handle.shared), stream: handle.stream };
        Some(Stream { reader: ReadHalf { handle }, writer: WriteHalf { handle: second } })
    }

    /// Refuses it: the peer is told that nothing was done with it.
    pub fn refuse(self) {}
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            handle.reset(Reset::RefusedStream);
        }
    }
}

/// A stream. What is dropped without [`Stream::finish`] (or `shutdown`) is reset, so that the peer doesn't take what it got for
/// the whole.
#[derive(Debug)]
pub struct Stream {
    reader: ReadHalf,
    writer: WriteHalf,
}

impl Stream {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.reader.handle.stream
    }

    /// Ends our direction once what was written is sent.
    pub fn finish(&mut self) {
        self.writer.finish();
    }

    /// Ends both directions at once; what was written and isn't sent yet is lost.
    pub fn reset(self) {}

    /// Both directions apart. The stream is reset when the writing half is dropped unfinished; without the reading half the
    /// peer's data is thrown away.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.reader, self.writer)
    }
}

/// The direction from the peer. Reads fail with `ConnectionReset` when the stream was reset and `ConnectionAborted` when the
/// connection went, in both cases after what came before.
#[derive(Debug)]
pub struct ReadHalf {
    handle: Handle,
}

/// The direction to the peer. Writes fail with `BrokenPipe` when the peer takes no more.
#[derive(Debug)]
pub struct WriteHalf {
    handle: Handle,
}

impl WriteHalf {
    /// Ends the direction once what was written is sent.
    pub fn finish(&mut self) {
        self.handle.shared.lock().finish(self.handle.stream);
        self.handle.shared.work.notify_one();
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let Handle { shared, stream } = &self.handle;
        let mut state = shared.lock();
        let ended = state.ended();
        let Some(entry) = state.streams.get_mut(stream) else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        if entry.incoming.is_empty() {
            return match entry.theirs {
                Theirs::Finished => Poll::Ready(Ok(())),
                Theirs::Reset => {
                    Poll::Ready(Err(Error::new(ErrorKind::ConnectionReset, "the stream was reset")))
                }
                Theirs::Open | Theirs::Discarded if ended => {
                    Poll::Ready(Err(Error::new(ErrorKind::ConnectionAborted, "the connection has ended")))
                }
                Theirs::Open | Theirs::Discarded => {
                    entry.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            };
        }
        let length = entry.incoming.len().min(buffer.remaining());
        buffer.put_slice(entry.incoming.get(..length).unwrap_or_default());
        entry.incoming.advance(length);
        if entry.incoming.is_empty() && entry.incoming.capacity() > KEPT {
            entry.incoming = BytesMut::new();
        }
        state.took(*stream, length);
        drop(state);
        shared.room.notify_one();
        shared.work.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let Handle { shared, stream } = &self.handle;
        let mut state = shared.lock();
        let open = state.streams.get(stream).is_some_and(|entry| entry.ours == Ours::Open);
        if !open || state.ended() {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let taken = state.offer(*stream, bytes);
        if taken == 0 && !bytes.is_empty() {
            if let Some(entry) = state.streams.get_mut(stream) {
                entry.writer = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        drop(state);
        shared.work.notify_one();
        Poll::Ready(Ok(taken))
    }

    /// There is nothing to do: what was written is sent without asking.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.handle.shared.lock().discard(self.handle.stream);
        self.handle.shared.room.notify_one();
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        let open = {
            let state = self.handle.shared.lock();
            state.streams.get(&self.handle.stream).is_some_and(|entry| entry.ours == Ours::Open)
        };
        if open {
            self.handle.reset(Reset::Cancel);
        }
    }
}

/// One of those that keep a stream.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    stream: u32,
}

impl Handle {
    fn reset(&self, status: Reset) {
        self.shared.lock().reset(self.stream, status);
        self.shared.work.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().release(self.stream);
        self.shared.work.notify_one();
    }
}
