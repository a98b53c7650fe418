//! WebSocket: messages whose first byte is the number of a channel.

use std::io;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The message that ends a channel begins so (version 5 of the remote command protocol).
const END: u8 = 255;

/// A connection.
pub struct Connection(WebSocketStream<TcpStream>);

impl Connection {
    /// Goes to an address with a sub-protocol.
    ///
    /// # Errors
    /// When there is no connection, or the server refuses.
    pub async fn open(url: &str, protocol: &str) -> io::Result<Self> {
        Self::over(super::connect(url).await?, url, protocol).await
    }

    /// Asks for an address over a connection that there is.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn over(stream: TcpStream, url: &str, protocol: &str) -> io::Result<Self> {
        let headers = [
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            // Any 16 bytes; the server's answer to them is not looked at.
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", protocol),
        ];
        let socket = super::upgrade(stream, (url, "GET"), &headers).await?;
        Ok(Self(WebSocketStream::from_raw_socket(socket, Role::Client, None).await))
    }

    /// Sends bytes on a channel.
    ///
    /// # Errors
    /// The connection's.
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        let message = Message::Binary([&[channel][..], bytes].concat().into());
        self.0.send(message).await.map_err(failure)
    }

    /// Ends a channel.
    ///
    /// # Errors
    /// The connection's.
    pub async fn end(&mut self, channel: u8) -> io::Result<()> {
        self.send(END, &[channel]).await
    }

    /// The next bytes with their channel; none at the end. Safe to cancel.
    ///
    /// # Errors
    /// The connection's.
    pub async fn next(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some(channel) = bytes.first().copied() {
                        return Ok(Some((channel, bytes.slice(1..))));
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(failure(error)),
            }
        }
    }
}

fn failure(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
