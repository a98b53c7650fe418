//! WebSocket: channels of remote commands and of ports, and a tunnel for SPDY.
//!
//! What is bounded: a message's length (frames gathered or not), what long ones of all sessions hold ([`room`]), messages that move
//! nothing ([`flood`]) and frames that do ([`fragments`]), and what waits to be written: one message of each channel, and pongs.
//!
//! [`frames`] is what a message means (pure), [`channels`] moves messages between a connection and channels, [`tunnel`] makes a
//! stream of bytes of a connection, [`forward`] is ports over channels. The protocol itself is tokio-tungstenite's.

pub(crate) mod channels;
mod flood;
pub(crate) mod forward;
pub(crate) mod fragments;
pub(crate) mod frames;
pub(crate) mod room;
pub(crate) mod tunnel;

use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use self::channels::WRITE_BUFFER;
use self::fragments::Fragments;
use self::room::Room;
use crate::backend::Duplex;
use crate::remote_command::Version;

/// How a channel's bytes are in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// As they are, in binary messages; the channel's number before them.
    Binary,
    /// As base64, in text messages; the channel's number as a digit before them.
    Base64,
}

/// What a sub-protocol means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Remote command.
    Remote(Version, Coding),
    /// Ports, two channels each.
    Forward(Coding),
    /// A stream of bytes in binary messages.
    Tunnel,
}

/// Sub-protocols of remote commands.
pub(crate) const REMOTE_PROTOCOLS: [(&str, Protocol); 6] = [
    ("v5.channel.k8s.io", Protocol::Remote(Version::V5, Coding::Binary)),
    ("v4.channel.k8s.io", Protocol::Remote(Version::V4, Coding::Binary)),
    ("v4.base64.channel.k8s.io", Protocol::Remote(Version::V4, Coding::Base64)),
    ("channel.k8s.io", Protocol::Remote(Version::V1, Coding::Binary)),
    ("base64.channel.k8s.io", Protocol::Remote(Version::V1, Coding::Base64)),
    ("", Protocol::Remote(Version::V1, Coding::Binary)),
];

/// Sub-protocols of forwarded ports.
pub(crate) const FORWARD_PROTOCOLS: [(&str, Protocol); 4] = [
    ("SPDY/3.1+portforward.k8s.io", Protocol::Tunnel),
    ("v4.channel.k8s.io", Protocol::Forward(Coding::Binary)),
    ("v4.base64.channel.k8s.io", Protocol::Forward(Coding::Base64)),
    ("", Protocol::Forward(Coding::Binary)),
];

const BUFFER_BYTES: usize = 32 << 10;

/// How much may wait beyond what is gathered for writing: the longest message of ours, 32 KiB as base64, and the pongs of a client
/// that asks and doesn't read.
const UNWRITTEN: usize = 64 << 10;

/// What a connection carries.
pub(crate) enum Carries {
    /// Channels. What is written is gathered; long messages take of the room that there is for all.
    Channels(Room),
    /// SPDY, which is written as it comes, in short messages.
    Tunnel,
}

/// A WebSocket over a connection that has been upgraded. Safe to cancel.
pub(crate) async fn open<S: Duplex>(io: S, carries: Carries) -> WebSocketStream<Fragments<S>> {
    let (room, message, write_buffer) = match carries {
        Carries::Channels(room) => (room, room::LONG, WRITE_BUFFER),
        Carries::Tunnel => (Room::default(), room::SHORT, 0),
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(write_buffer)
        .max_write_buffer_size(write_buffer + UNWRITTEN)
        .max_message_size(Some(message))
        .max_frame_size(Some(message));
    WebSocketStream::from_raw_socket(Fragments::new(io, room), Role::Server, Some(config)).await
}
