//! Clients: WebSocket's, and bytes as they are.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

pub(crate) const PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];

/// The part of an address with host and port.
pub(crate) fn authority(url: &str) -> &str {
    url.split('/').nth(2).unwrap()
}

/// A connection that has been upgraded.
pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<TcpStream>,
    pub(crate) is_text: bool,
}

/// All that a session gave.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) channels: [Vec<u8>; 4],
    pub(crate) close: Option<CloseFrame>,
}

impl Heard {
    pub(crate) fn error(&self) -> &str {
        std::str::from_utf8(&self.channels[3]).unwrap()
    }
}

pub(crate) async fn connect(url: &str, protocol: &str) -> Result<Client, Box<Error>> {
    let stream = TcpStream::connect(authority(url)).await.unwrap();
    connect_over(stream, url, protocol).await
}

pub(crate) async fn connect_over(stream: TcpStream, url: &str, protocol: &str) -> Result<Client, Box<Error>> {
    let uri = url.replacen("http", "ws", 1).parse().unwrap();
    let mut request = ClientRequestBuilder::new(uri);
    if !protocol.is_empty() {
        request = request.with_sub_protocol(protocol);
    }
    let (socket, answer) = tokio_tungstenite::client_async(request, stream).await.map_err(Box::new)?;
    let chosen = answer.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap());
    assert_eq!(chosen.unwrap_or_default(), protocol);
    Ok(Client { socket, is_text: protocol.contains("base64") })
}

/// The HTTP status of an upgrade that failed.
pub(crate) async fn refused(url: &str, protocol: &str) -> u16 {
    match connect(url, protocol).await.map(drop) {
        Err(error) => match *error {
            Error::Http(answer) => answer.status().as_u16(),
            other => panic!("{other}"),
        },
        Ok(()) => panic!("connected"),
    }
}

impl Client {
    pub(crate) fn message(&self, channel: u8, bytes: &[u8]) -> Message {
        if self.is_text {
            return Message::Text(format!("{channel}{}", STANDARD.encode(bytes)).into());
        }
        Message::Binary([&[channel][..], bytes].concat().into())
    }

    pub(crate) async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = self.message(channel, bytes);
        self.socket.send(message).await.unwrap();
    }

    /// The next bytes on a channel, or the end.
    pub(crate) async fn next(&mut self) -> Result<(usize, Vec<u8>), Option<CloseFrame>> {
        next(&mut self.socket, self.is_text).await
    }

    /// Everything until the end.
    pub(crate) async fn heard(mut self) -> Heard {
        let mut heard = Heard::default();
        loop {
            match self.next().await {
                Ok((channel, bytes)) => heard.channels[channel].extend_from_slice(&bytes),
                Err(close) => {
                    heard.close = close;
                    return heard;
                }
            }
        }
    }
}

pub(crate) async fn next<S>(socket: &mut S, is_text: bool) -> Result<(usize, Vec<u8>), Option<CloseFrame>>
where
    S: futures::Stream<Item = Result<Message, Error>> + Unpin,
{
    loop {
        let payload: Bytes = match socket.next().await {
            Some(Ok(Message::Binary(bytes))) if !is_text => bytes,
            Some(Ok(Message::Text(text))) if is_text => text.into(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(frame))) => return Err(frame),
            None | Some(Err(_)) => return Err(None),
            Some(Ok(other)) => panic!("{other:?}"),
        };
        let (channel, bytes) = payload.split_first().unwrap();
        if is_text {
            return Ok((usize::from(channel - b'0'), STANDARD.decode(bytes).unwrap()));
        }
        return Ok((usize::from(*channel), bytes.to_vec()));
    }
}

/// Sends bytes, and gives all that comes back.
pub(crate) async fn talk(url: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(authority(url)).await.unwrap();
    let _cut_off = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
