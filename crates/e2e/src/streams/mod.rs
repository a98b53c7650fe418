//! A client of the addresses that Exec, Attach and PortForward give: over SPDY ([`spdy`]) and over WebSocket ([`websocket`]), as
//! little of each as a test and a measurement need, and nothing of the server's code.

pub mod spdy;
pub mod websocket;

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::node::PATIENCE;
use crate::patience;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SPDY/3.1, version 4 of the remote command protocol.
    Spdy,
    /// WebSocket, by the name of its sub-protocol.
    WebSocket(&'static str),
}

/// The version of the remote command protocol in which a WebSocket client can end its input.
pub const V5: Protocol = Protocol::WebSocket("v5.channel.k8s.io");

/// The version before it.
pub const V4: Protocol = Protocol::WebSocket("v4.channel.k8s.io");

/// The channels of a remote command, as WebSocket numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// To the process.
    Stdin,
    /// From it.
    Stdout,
    /// From it.
    Stderr,
    /// How it ended.
    Error,
    /// Sizes of the terminal.
    Resize,
}

impl Channel {
    const ALL: [Self; 5] = [Self::Stdin, Self::Stdout, Self::Stderr, Self::Error, Self::Resize];

    fn name(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Error => "error",
            Self::Resize => "resize",
        }
    }
}

/// Which streams a request was made for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the contract's")]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Wanted {
    /// The channels that a client opens, in the order of client-go.
    fn channels(self) -> Vec<Channel> {
        let Self { stdin, stdout, stderr, tty } = self;
        let all = [
            (true, Channel::Error),
            (stdin, Channel::Stdin),
            (stdout, Channel::Stdout),
            (stderr, Channel::Stderr),
            (tty, Channel::Resize),
        ];
        all.into_iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, channel)| channel).collect()
    }
}

/// A remote command's connection.
pub enum Command {
    /// Over SPDY: the stream of each channel.
    Spdy(spdy::Connection, Vec<(Channel, u32)>),
    /// Over WebSocket.
    WebSocket(websocket::Connection),
}

impl Command {
    /// Goes to an address.
    ///
    /// # Errors
    /// When there is no connection, or the server refuses; then with its answer.
    pub async fn open(url: &str, protocol: Protocol, wanted: Wanted) -> io::Result<Self> {
        match protocol {
            Protocol::WebSocket(name) => Ok(Self::WebSocket(websocket::Connection::open(url, name).await?)),
            Protocol::Spdy => {
                let mut connection = spdy::Connection::open(url, "v4.channel.k8s.io").await?;
                let mut streams = Vec::new();
                for channel in wanted.channels() {
                    streams.push((channel, connection.stream(&[("streamtype", channel.name())]).await?));
                }
                Ok(Self::Spdy(connection, streams))
            }
        }
    }

    /// Sends bytes on a channel.
    ///
    /// # Errors
    /// The connection's.
    pub async fn send(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::WebSocket(connection) => connection.send(channel as u8, bytes).await,
            Self::Spdy(connection, streams) => {
                let stream = stream_of(streams, channel)?;
                connection.send(stream, bytes, spdy::Fin::No).await
            }
        }
    }

    /// Says that no more input comes.
    ///
    /// # Errors
    /// The connection's.
    pub async fn end_input(&mut self) -> io::Result<()> {
        match self {
            Self::WebSocket(connection) => connection.end(Channel::Stdin as u8).await,
            Self::Spdy(connection, streams) => {
                let stream = stream_of(streams, Channel::Stdin)?;
                connection.send(stream, &[], spdy::Fin::Yes).await
            }
        }
    }

    /// The next bytes and where they came; none at the end of the session. Safe to cancel.
    ///
    /// # Errors
    /// The connection's.
    pub async fn next(&mut self) -> io::Result<Option<(Channel, Bytes)>> {
        match self {
            Self::WebSocket(connection) => {
                let Some((number, bytes)) = connection.next().await? else { return Ok(None) };
                let channel = Channel::ALL.get(usize::from(number)).copied();
                Ok(Some((channel.ok_or(io::ErrorKind::InvalidData)?, bytes)))
            }
            Self::Spdy(connection, streams) => next_of(connection, streams).await,
        }
    }

    /// All that comes until `enough` of it is there, or the end.
    ///
    /// # Panics
    /// When the connection breaks, or all that takes longer than [`PATIENCE`].
    pub async fn hear(&mut self, enough: impl Fn(&Heard) -> bool) -> Heard {
        let mut heard = Heard::default();
        let hearing = async {
            while !enough(&heard) {
                let Some((channel, bytes)) = self.next().await.expect("a connection") else { break };
                heard.0[channel as usize].extend_from_slice(&bytes);
            }
        };
        let in_time = timeout(patience(PATIENCE), hearing).await.is_ok();
        assert!(in_time, "no more than {heard:?}");
        heard
    }
}

/// What came on each channel.
#[derive(Default)]
pub struct Heard(pub [Vec<u8>; 5]);

impl std::fmt::Debug for Heard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_map().entries(Channel::ALL.map(|channel| (channel, self.text(channel)))).finish()
    }
}

impl Heard {
    /// What came on a channel, as text.
    pub fn text(&self, channel: Channel) -> String {
        String::from_utf8_lossy(&self.0[channel as usize]).into_owned()
    }
}

fn stream_of(streams: &[(Channel, u32)], channel: Channel) -> io::Result<u32> {
    let found = streams.iter().find(|(have, _)| *have == channel);
    found.map(|(_, stream)| *stream).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The session is over when the server has ended all of its streams, as client-go takes it.
async fn next_of(
    connection: &mut spdy::Connection,
    streams: &mut Vec<(Channel, u32)>,
) -> io::Result<Option<(Channel, Bytes)>> {
    while streams
        .iter()
        .any(|(channel, _)| matches!(channel, Channel::Stdout | Channel::Stderr | Channel::Error))
    {
        let Some(event) = connection.next().await? else { return Ok(None) };
        let Some(at) = streams.iter().position(|(_, stream)| *stream == event.stream) else { continue };
        let (channel, _) = streams[at];
        if event.ended {
            streams.swap_remove(at);
        }
        if !event.bytes.is_empty() {
            return Ok(Some((channel, event.bytes)));
        }
    }
    Ok(None)
}

/// Connects to the server of an address.
///
/// # Errors
/// When the address is none, or nobody listens.
pub async fn connect(url: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(parts(url)?.0).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Upgrades a connection: it is the protocol's from here on.
async fn upgrade(
    mut stream: TcpStream,
    (url, method): (&str, &str),
    headers: &[(&str, &str)],
) -> io::Result<TcpStream> {
    let (address, path) = parts(url)?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what comes behind is not HTTP.
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"HTTP/1.1 101 ") {
        return Ok(stream);
    }
    Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
}

/// Address and path of `http://address/path`.
fn parts(url: &str) -> io::Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").ok_or(io::ErrorKind::InvalidInput)?;
    let slash = rest.find('/').ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rest.split_at(slash))
}
