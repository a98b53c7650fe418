//! What an upgraded connection does: which protocol runs over it, and for what.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::activity::Activity;
use crate::backend::{Backend, Duplex, Request, Streams};
use crate::http::Upgrade;
use crate::port_forward::{self, Target};
use crate::remote_command::{self, Channels, Version, pump, pump::Parting, spdy::OpenError};
use crate::spdy;
use crate::websocket;
use crate::websocket::Carries;
use crate::websocket::room::Room;
use crate::websocket::tunnel::Tunnel;

/// What all sessions are run by.
#[derive(Clone)]
pub(crate) struct Terms {
    /// Who runs processes and connects.
    pub(crate) backend: Arc<dyn Backend>,
    /// How long nothing may move.
    pub(crate) idle: Duration,
    /// One for each connection that may be forwarded.
    pub(crate) forwarded: Arc<Semaphore>,
    /// For long messages over WebSocket.
    pub(crate) room: Room,
    /// Becomes true when the server ends.
    pub(crate) ending: watch::Receiver<bool>,
}

/// Why a session ended before its time.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// A rule of SPDY's, or the connection.
    #[error(transparent)]
    Spdy(#[from] spdy::Error),
    /// The streams of a remote command.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Whether a request can be served by a protocol.
///
/// # Errors
/// Why not.
pub(crate) fn check(upgrade: Upgrade, request: &Request) -> Result<(), &'static str> {
    match (upgrade, request) {
        (Upgrade::WebSocketForward(_), Request::PortForward { ports, .. }) => match ports.len() {
            0 => Err("without SPDY the ports must be named when the stream is asked for"),
            1..=websocket::forward::MOST_PORTS => Ok(()),
            _ => Err("that many ports need SPDY"),
        },
        _ => Ok(()),
    }
}

/// Who has come.
pub(crate) struct Client {
    /// The connection, upgraded.
    pub(crate) io: Box<dyn Duplex>,
    /// When it last took a byte.
    pub(crate) taken: Arc<Activity>,
}

/// Runs a session until its end, and says what its client still needs. Safe to cancel: everything in it is dropped.
pub(crate) async fn run(client: Client, (upgrade, request): (Upgrade, Request), mut terms: Terms) -> Parting {
    let ended = match request {
        Request::PortForward { pod, ports } => {
            let target =
                Target { backend: terms.backend, pod, ports, idle: terms.idle, places: terms.forwarded };
            tokio::select! {
                ended = forwarding(client.io, (upgrade, terms.room), target) => ended,
                _ = terms.ending.wait_for(|ending| *ending) => Ok(Parting::CutOff),
            }
        }
        Request::Exec(ref exec) => command(client, (upgrade, exec.streams), request, terms).await,
        Request::Attach(ref attach) => command(client, (upgrade, attach.streams), request, terms).await,
    };
    ended.unwrap_or_else(|error| {
        tracing::debug!(%error, "a stream ended");
        Parting::CutOff
    })
}

async fn forwarding(
    io: Box<dyn Duplex>,
    (upgrade, room): (Upgrade, Room),
    target: Target,
) -> Result<Parting, Broken> {
    match upgrade {
        Upgrade::WebSocketForward(coding) => {
            let socket = websocket::open(io, Carries::Channels(room)).await;
            return Ok(websocket::forward::serve(socket, coding, target).await);
        }
        Upgrade::Tunnel => {
            port_forward::serve(Tunnel::new(websocket::open(io, Carries::Tunnel).await), target).await?
        }
        _ => port_forward::serve(io, target).await?,
    }
    Ok(Parting::Told)
}

async fn command(
    Client { io, taken }: Client,
    (upgrade, streams): (Upgrade, Streams),
    request: Request,
    terms: Terms,
) -> Result<Parting, Broken> {
    let Some((purpose, begin)) = pump::begin(&terms.backend, request) else { return Ok(Parting::CutOff) };
    let Some((channels, version)) = channels(io, (upgrade, streams), (terms.room, terms.idle)).await? else {
        return Ok(Parting::CutOff);
    };
    let terms = pump::Terms { version, purpose, idle: terms.idle, taken, ending: terms.ending };
    Ok(pump::run(channels, begin, terms).await)
}

/// None for what can't be: ports are not forwarded by a command's protocol (`crate::http` sees to that).
async fn channels(
    io: Box<dyn Duplex>,
    (upgrade, streams): (Upgrade, Streams),
    (room, idle): (Room, Duration),
) -> Result<Option<(Channels, Version)>, OpenError> {
    match upgrade {
        Upgrade::Spdy(version) => {
            Ok(Some((remote_command::spdy::channels(io, streams, (version, idle)).await?, version)))
        }
        Upgrade::WebSocket(version, coding) => {
            let socket = websocket::open(io, Carries::Channels(room)).await;
            Ok(Some((websocket::channels::remote(socket, (version, coding), streams), version)))
        }
        Upgrade::SpdyForward | Upgrade::WebSocketForward(_) | Upgrade::Tunnel => Ok(None),
    }
}
