//! What WebSocket's messages carry: channels, and the tunnel for SPDY.

#[path = "../../src/websocket/flood.rs"]
mod flood;
#[path = "../../src/websocket/fragments.rs"]
#[allow(dead_code)]
mod fragments;
#[path = "../../src/websocket/frames.rs"]
#[allow(dead_code)]
mod frames;
#[path = "../../src/websocket/room.rs"]
#[allow(dead_code)]
mod room;
#[path = "../../src/websocket/tunnel.rs"]
mod tunnel;

use bytes::Bytes;
use fragments::Fragments;
use frames::{Frame, HalfClose};
use room::Room;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// As the crate has it.
#[derive(Clone, Copy)]
pub(crate) enum Coding {
    Binary,
    Base64,
}

const MESSAGE_BYTES: usize = 1 << 10;

/// A message of any bytes: what is understood can be written again.
pub fn message(input: &[u8]) {
    for coding in [Coding::Binary, Coding::Base64] {
        for half_close in [HalfClose::Known, HalfClose::Unknown] {
            let frame = frames::decode(Bytes::copy_from_slice(input), coding, half_close);
            if let Ok(Frame::Data { channel, bytes }) = frame
                && channel < 80
            {
                let again = frames::encode(channel, &bytes, coding).into_data();
                let again = frames::decode(again, coding, HalfClose::Unknown);
                assert_eq!(again, Ok(Frame::Data { channel, bytes }));
            }
        }
    }
}

/// A client that sends any bytes into a tunnel: no more comes out than went in, and it ends.
pub async fn tunnel(input: &[u8]) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let config = WebSocketConfig::default()
        .read_buffer_size(MESSAGE_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE_BYTES)
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES));
    let socket = WebSocketStream::from_raw_socket(Fragments::new(ours, Room::default()), Role::Server, Some(config)).await;
    let mut tunnel = tunnel::Tunnel::new(socket);
    let (mut reader, mut writer) = tokio::io::split(theirs);
    writer.write_all(input).await.unwrap();
    writer.shutdown().await.unwrap();
    let mut got = Vec::new();
    let read = async {
        let _refused = tunnel.read_to_end(&mut got).await;
        let _gone = tunnel.write_all(b"an answer").await;
        let _gone = tunnel.shutdown().await;
        drop(tunnel);
    };
    let mut answers = Vec::new();
    let (_, _) = tokio::join!(read, reader.read_to_end(&mut answers));
    assert!(got.len() <= input.len());
    // Pongs are as long as their pings.
    assert!(answers.len() <= input.len() + 256, "{}", answers.len());
}
