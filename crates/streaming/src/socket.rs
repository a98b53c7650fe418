//! A client's TCP connection: shared, so that its end can be seen while nobody reads.
//!
//! A reader that holds back, because a command doesn't take its input, would never see that the client has gone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::activity::Activity;

/// How often a connection with unread bytes is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// When the kernel asks a silent client's host whether it is still there, how often, and how many answers may be missing.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 6;

/// How much of a client's late input is thrown away before the connection is closed.
const LINGER_BYTES: usize = 16 << 20;

/// How long a client has to read an answer that refuses it, or why it is cut off, and close.
pub(crate) const LINGER_CUT_OFF: Duration = Duration::from_secs(2);

/// The connection as a stream of bytes.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    taken: Arc<Activity>,
}

impl Socket {
    /// Sets what the connection of a terminal needs: no delay, and an end when the client's host is gone.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
        Ok(Self { stream: Arc::new(stream), taken: Arc::default() })
    }

    /// When the kernel last took a byte for the client: its buffer being full, when the client last read.
    pub(crate) fn taken(&self) -> Arc<Activity> {
        Arc::clone(&self.taken)
    }

    /// Waits until the client has closed its side, or the connection broke, whatever lies unread. Safe to cancel.
    pub(crate) async fn gone(&self) {
        loop {
            match self.stream.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() && !ready.is_error() => tokio::time::sleep(LOOK).await,
                _ => return,
            }
        }
    }

    /// Ends our side, and takes what the client still sends until it ends its own: closing a socket with unread bytes resets the
    /// connection, and the client would lose the last that it was sent; so would one that pauses before the last of its output, by the
    /// answer to its next ping. The kernel may hold MiB for it, and how much of that is taken isn't seen here: `patience` is for all of
    /// it. Bounded in time and bytes. Safe to cancel.
    pub(crate) async fn linger(&self, patience: Duration) {
        let _gone_already = shutdown(&self.stream, Shutdown::Write);
        let mut left = LINGER_BYTES;
        let mut buffer = vec![0; 16 << 10];
        let discard = async {
            while left > 0 && self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => left = left.saturating_sub(read),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        let _in_time = tokio::time::timeout(patience, discard).await;
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(into.initialize_unfilled()) {
                Ok(read) => {
                    into.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(bytes) {
                Ok(written) => {
                    self.taken.now();
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(&self.stream, Shutdown::Write).map_err(io::Error::from))
    }
}
