//! A stream of bytes over the binary messages of a WebSocket: SPDY runs on it as it does on TCP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::flood::Flood;
use crate::backend::Duplex;

/// How much one message carries at most.
const CHUNK: usize = 32 << 10;

/// The connection should have been opened with no buffer for writing: what is written goes out, as with TCP, though nobody
/// flushes.
pub(crate) struct Tunnel<S> {
    socket: WebSocketStream<S>,
    unread: Bytes,
    empty: Flood,
}

impl<S: Duplex> Tunnel<S> {
    /// Begins with what comes next.
    pub(crate) fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, unread: Bytes::new(), empty: Flood::default() }
    }
}

impl<S: Duplex> AsyncRead for Tunnel<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, unread, empty } = &mut *self;
        while unread.is_empty() {
            match ready!(socket.poll_next_unpin(cx)) {
                Some(Ok(Message::Binary(bytes))) if !bytes.is_empty() => *unread = bytes,
                Some(Ok(Message::Text(_))) => {
                    let why = "a text message in a tunnel for bytes";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                    empty.count().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
            }
        }
        let count = unread.len().min(into.remaining());
        unread.copy_to_slice(into.initialize_unfilled_to(count));
        into.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: Duplex> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.socket.poll_ready_unpin(cx)).map_err(failure)?;
        let chunk = bytes.get(..CHUNK).unwrap_or(bytes);
        self.socket.start_send_unpin(Message::Binary(Bytes::copy_from_slice(chunk))).map_err(failure)?;
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(cx).map_err(failure)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_close_unpin(cx).map_err(failure)
    }
}

fn failure(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        WsError::ConnectionClosed | WsError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::websocket::{self, fragments::Fragments};

    async fn pair() -> (Tunnel<Fragments<tokio::io::DuplexStream>>, WebSocketStream<tokio::io::DuplexStream>)
    {
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        (Tunnel::new(websocket::open(ours, websocket::Carries::Tunnel).await), client)
    }

    #[tokio::test]
    async fn bytes_go_through_however_they_are_cut() {
        let (mut tunnel, mut client) = pair().await;
        let sent: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        let expected = sent.clone();
        let client = async move {
            let mut got = Vec::new();
            while got.len() < expected.len() {
                match client.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => {
                        got.extend_from_slice(&bytes);
                        if got.len() % 4 == 0 {
                            client.send(Message::Ping(Bytes::new())).await.unwrap();
                        }
                        client.send(Message::Binary(bytes)).await.unwrap();
                    }
                    Message::Pong(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(got, expected);
            client.close(None).await.unwrap();
        };
        let tunnel = async {
            let (mut reader, mut writer) = tokio::io::split(&mut tunnel);
            let write = async {
                writer.write_all(&sent).await.unwrap();
                writer.flush().await.unwrap();
            };
            let mut back = Vec::new();
            let read = reader.read_to_end(&mut back);
            tokio::join!(write, read).1.unwrap();
            assert_eq!(back, sent);
        };
        tokio::join!(client, tunnel);
    }

    #[tokio::test]
    async fn text_and_what_is_too_long_end_it() {
        let (mut tunnel, mut client) = pair().await;
        client.send(Message::Text("SPDY".into())).await.unwrap();
        let error = tunnel.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let (mut tunnel, mut client) = pair().await;
        let long = Message::Binary(vec![0; websocket::room::SHORT + 1].into());
        let (error, _) = tokio::join!(tunnel.read_u8(), async {
            let _cut_off = tokio::time::timeout(std::time::Duration::from_secs(1), client.send(long)).await;
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_what_carries_nothing_ends_it() {
        for empty in [Message::Ping(Bytes::new()), Message::Pong(Bytes::new()), Message::Binary(Bytes::new())]
        {
            let (mut tunnel, mut client) = pair().await;
            let flood = async {
                // Fewer than are too many, then more.
                for number in 0.. {
                    if client.send(empty.clone()).await.is_err() {
                        return number;
                    }
                    // What comes back is to be read, or the pongs stay where they are.
                    let _ = client.next().now_or_never();
                }
                0
            };
            let read = async {
                let error = tunnel.read_u8().await.unwrap_err();
                drop(tunnel);
                error
            };
            let (sent, error) = tokio::join!(flood, read);
            assert!(sent > 200, "{sent}");
            assert_eq!(error.to_string(), "too many messages that carry nothing");
        }
    }
}
