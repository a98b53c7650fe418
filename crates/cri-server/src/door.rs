//! The door: who comes in at the socket of calls, and how many there may be.
//!
//! Only root reaches the socket, but what root runs may be broken: an agent that opens connections and forgets them, a client that
//! was stopped, a loop that calls without waiting. None of them shall cost kubelet its answers, or the node its memory.
//!
//! | what | bound | then |
//! |---|---|---|
//! | connections | `server.max_connections` | whoever has been silent longest, without a call under way, makes room |
//! | … of which each has calls under way | the same, and [`guests::SPARE`] more | calls on those answer ResourceExhausted, with the key |
//! | a connection that says nothing | [`INTRODUCTION`] | it is closed |
//! | one that hears nothing | [`PING`] + [`PONG`] | it is closed, with what was waiting to be read |
//! | calls under way | `server.max_calls` | ResourceExhausted, with the key |
//! | no descriptor for the next connection | [`NO_DESCRIPTOR`] | it waits in the kernel, and is tried again |
//!
//! Not here: what a single call may take (see `deadline`), the largest request (see `serve`).

mod calls;
mod guests;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

pub(crate) use self::calls::CallLimit;
use self::guests::{Guests, Seat};

/// How long a connection may take until it has said that it speaks HTTP/2: a client does so before anything else.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// The bytes with which it says so (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// After how much silence a client is asked whether it is there.
pub(crate) const PING: Duration = Duration::from_secs(30);

/// How long it may take to answer that. On a starved node kubelet is late, but not by so much.
pub(crate) const PONG: Duration = Duration::from_secs(60);

/// Pause after a connection could not be taken: descriptors come back when calls end. Without it the loop would spin.
const NO_DESCRIPTOR: Duration = Duration::from_millis(200);

/// How much may come in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections.
    pub(crate) connections: usize,
    /// Calls under way, of all connections together.
    pub(crate) calls: usize,
}

/// A connection that was let in.
#[derive(Debug)]
pub(crate) struct Guest {
    stream: UnixStream,
    seat: Arc<Seat>,
    leave: guests::Leave,
    /// Until it has introduced itself: how many bytes that lacks, and how long it has.
    stranger: Option<(usize, Pin<Box<Sleep>>)>,
    /// It was shown out: it is at its end from then on, however often it is read.
    has_gone: bool,
}

/// All who come, one after another, as far as there is room for them. Never ends, and never fails.
pub(crate) fn guests(listener: UnixListener, bounds: Bounds) -> impl Stream<Item = Result<Guest, io::Error>> {
    let guests = Arc::new(Guests::new(bounds.connections));
    futures::stream::unfold((listener, guests), |(listener, guests)| async {
        let stream = accept(&listener).await;
        let (seat, leave) = guests.seat().await;
        let stranger = Some((PREFACE, Box::pin(tokio::time::sleep(INTRODUCTION))));
        let guest = Guest { stream, seat, leave, stranger, has_gone: false };
        Some((Ok(guest), (listener, guests)))
    })
}

async fn accept(listener: &UnixListener) -> UnixStream {
    let mut is_told = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Once for as long as it lasts.
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(%error, "no connection can be taken; those that come wait");
                }
                tokio::time::sleep(NO_DESCRIPTOR).await;
            }
        }
    }
}

impl Guest {
    /// Whether it has to go: somebody else has its place, or it says nothing.
    fn has_to_go(&mut self, context: &mut Context<'_>) -> bool {
        while !self.has_gone && Pin::new(&mut self.leave).poll(context).is_ready() {
            if self.seat.is_silent() {
                tracing::debug!("a silent connection made room for another");
                self.has_gone = true;
            } else {
                // Its call was on the way when it was asked.
                self.leave = self.seat.stay();
            }
        }
        let late = |(_, time): &mut (usize, Pin<Box<Sleep>>)| time.as_mut().poll(context).is_ready();
        self.has_gone = self.has_gone || self.stranger.as_mut().is_some_and(late);
        self.has_gone
    }

    fn has_said(&mut self, bytes: usize) {
        self.seat.heard();
        let left = self.stranger.as_ref().map_or(0, |(lacks, _)| lacks.saturating_sub(bytes));
        match &mut self.stranger {
            Some((lacks, _)) if left > 0 => *lacks = left,
            stranger => *stranger = None,
        }
    }
}

impl AsyncRead for Guest {
    /// Who has to go has reached the end of what it had to say: HTTP/2 closes such a connection.
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guest = self.get_mut();
        if guest.has_gone {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut guest.stream).poll_read(context, buffer);
        match read {
            Poll::Pending if guest.has_to_go(context) => Poll::Ready(Ok(())),
            Poll::Pending | Poll::Ready(Err(_)) => read,
            Poll::Ready(Ok(())) => {
                guest.has_said(buffer.filled().len() - before);
                read
            }
        }
    }
}

impl AsyncWrite for Guest {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl Connected for Guest {
    type ConnectInfo = Arc<Seat>;

    fn connect_info(&self) -> Arc<Seat> {
        Arc::clone(&self.seat)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.seat.give_back();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_shown_out_and_who_speaks_stays() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("x.sock");
        let bounds = Bounds { connections: 8, calls: 8 };
        let mut coming = Box::pin(guests(UnixListener::bind(&socket).unwrap(), bounds));
        let mut speaks = UnixStream::connect(&socket).await.unwrap();
        let mut heard = coming.next().await.unwrap().unwrap();
        let _silent = UnixStream::connect(&socket).await.unwrap();
        let mut unheard = coming.next().await.unwrap().unwrap();
        let mut read = [0; PREFACE];
        speaks.write_all(&read).await.unwrap();
        heard.read_exact(&mut read).await.unwrap();
        assert!(heard.read(&mut read).now_or_never().is_none());
        assert!(unheard.read(&mut read).now_or_never().is_none());
        tokio::time::advance(INTRODUCTION).await;
        assert_eq!(unheard.read(&mut read).await.unwrap(), 0);
        assert!(heard.read(&mut read).now_or_never().is_none(), "it has introduced itself");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_stays_by_a_byte_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("x.sock");
        let bounds = Bounds { connections: 8, calls: 8 };
        let mut coming = Box::pin(guests(UnixListener::bind(&socket).unwrap(), bounds));
        let mut drips = UnixStream::connect(&socket).await.unwrap();
        let mut guest = coming.next().await.unwrap().unwrap();
        let mut read = [0; 8];
        for _ in 0..4 {
            drips.write_all(b"P").await.unwrap();
            assert_eq!(guest.read(&mut read).await.unwrap(), 1);
            tokio::time::advance(INTRODUCTION / 4).await;
        }
        assert_eq!(guest.read(&mut read).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_speaks_when_it_is_to_make_room_stays_and_another_goes() {
        const MOMENT: Duration = Duration::from_millis(1);
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("x.sock");
        let bounds = Bounds { connections: 2, calls: 2 };
        let mut coming = Box::pin(guests(UnixListener::bind(&socket).unwrap(), bounds));
        let mut read = [0; PREFACE];
        let (mut clients, mut inside) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let mut client = UnixStream::connect(&socket).await.unwrap();
            client.write_all(&read).await.unwrap();
            let mut guest = coming.next().await.unwrap().unwrap();
            guest.read_exact(&mut read).await.unwrap();
            clients.push(client);
            inside.push(guest);
        }
        tokio::time::advance(INTRODUCTION).await;
        let _third = UnixStream::connect(&socket).await.unwrap();
        let mut next = coming.next();
        assert!(tokio::time::timeout(MOMENT, &mut next).await.is_err(), "the first is asked");
        clients[0].write_all(b"a call").await.unwrap();
        assert_eq!(inside[0].read(&mut read).await.unwrap(), 6);
        assert!(inside[0].read(&mut read).now_or_never().is_none(), "it would lose its call");
        assert!(tokio::time::timeout(MOMENT, &mut next).await.is_err(), "the second is asked");
        for _ in 0..2 {
            assert_eq!(inside[1].read(&mut read).await.unwrap(), 0);
        }
        inside.pop();
        next.await.unwrap().unwrap();
    }
}
