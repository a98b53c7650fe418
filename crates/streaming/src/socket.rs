//! A client's TCP connection: shared, so that its end can be seen while nobody reads.
//!
//! A reader that holds back, because a command doesn't take its input, would never see that the client has gone.
//!
//! A client whose host vanishes is found by keepalive; by [`acks`] when bytes are under way to it. Known limit: one that had stopped reading
//! before that, with more waiting for it, is given up by the kernel, after `tcp_retries2` questions: some 15 minutes.

mod acks;

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

/// How long a client's host may leave bytes unanswered, as long as with keepalive, and how often that is looked at. The kernel doesn't
/// ask while bytes are under way, and sends them again for a quarter of an hour (`tcp_retries2`). `TCP_USER_TIMEOUT` would be no
/// answer: it also ends a connection whose client doesn't read (`| less`).
const SILENCE: Duration = Duration::from_secs(90);
const LOOK_AT_ACKS: Duration = Duration::from_secs(15);

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

    /// Waits until the client's host has vanished with bytes on their way to it. Safe to cancel.
    pub(crate) async fn lost(&self) {
        self.silent_for(SILENCE, LOOK_AT_ACKS).await;
    }

    async fn silent_for(&self, time: Duration, look: Duration) {
        let acks = || acks::of(self.stream.local_addr()?, self.stream.peer_addr()?);
        loop {
            tokio::time::sleep(look).await;
            match acks() {
                Ok(acks) if acks.is_silent_for(time) => return,
                Ok(_) => {}
                // No descriptor, a kernel without sock_diag: its own time-outs are left.
                Err(error) => tracing::debug!(%error, "asking what a client's host has acknowledged"),
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};
    use tokio::net::TcpListener;

    use super::*;

    fn run(command: &str) -> bool {
        let mut words = command.split(' ');
        Command::new(words.next().unwrap()).args(words).status().is_ok_and(|status| status.success())
    }

    /// In a network of its own, where packets get lost from now on.
    #[test]
    fn a_client_whose_host_vanishes_with_bytes_under_way_is_noticed() {
        const PATIENCE: Duration = Duration::from_secs(60);
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return eprintln!("skipped: a network namespace of its own: {error}");
        }
        assert!(run("ip link set lo up"));
        let lose = [
            "nft add table ip t",
            "nft add chain ip t i { type filter hook input priority 0; policy drop; }",
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let socket = Socket::new(listener.accept().await.unwrap().0).unwrap();
            let silent = || socket.silent_for(Duration::from_millis(500), Duration::from_millis(10));
            // Nothing is under way: that is keepalive's.
            assert!(tokio::time::timeout(Duration::from_secs(1), silent()).await.is_err());
            assert!(lose.iter().all(|command| run(command)));
            socket.stream.try_write(b"into the void").unwrap();
            tokio::time::timeout(PATIENCE, silent()).await.unwrap();
            let acks = acks::of(socket.stream.local_addr().unwrap(), socket.stream.peer_addr().unwrap());
            assert!(acks.unwrap().is_silent_for(Duration::from_millis(500)));
        });
    }
}
