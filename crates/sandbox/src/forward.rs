//! Connections to ports of pods.
//!
//! A socket belongs to the network namespace that it was made in, so one is made in the pod's and used here: no process enters the pod, and
//! a port on the pod's loopback address is reached. IPv4 is tried first, as clients expect of `localhost`.
//!
//! Not here: how a client's streams are told apart, and what goes through the connection.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::namespaces::{TcpSockets, own_tcp_sockets, tcp_sockets};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::error::{Error, Kind};
use crate::pod::status::PodPhase;
use crate::registry::PodEntry;
use crate::shared::{Shared, blocking};
use crate::supervisor::client::Client;

/// Why nobody could be reached at either address.
#[derive(Debug, thiserror::Error)]
enum Unreachable {
    #[error("127.0.0.1: {v4}; [::1]: {v6}")]
    Refused { v4: io::Error, v6: io::Error },
    #[error("nobody has answered within {0:?}")]
    Silent(Duration),
}

/// Connects to a port on a pod's loopback address. Safe to cancel.
pub(crate) async fn connect(shared: &Shared, pod: &PodEntry, port: u16) -> Result<TcpStream, Error> {
    let wrong = |state| {
        let (kind, id, wish) = (Kind::Pod, pod.id.to_string(), "have its ports reached");
        Error::WrongState { kind, id, state, wish }
    };
    if port == 0 {
        return Err(Error::refused("port", "is 0, which is no port"));
    }
    let status = pod.status.as_ref().ok_or_else(|| wrong("being made"))?;
    if status.phase != PodPhase::Ready {
        return Err(wrong("not ready"));
    }
    let id = pod.id.as_str();
    let sockets = match (&status.netns, &pod.client) {
        (Some(path), Some(client)) => sockets_of(shared, id, (client, path)).await?,
        (Some(_), None) => return Err(wrong("without a supervisor")),
        // The node's network, which is this process's.
        (None, _) => own_tcp_sockets().map_err(|cause| Error::step("making a socket", id, cause))?,
    };
    let patience = shared.config.deadlines.connect;
    let reached = timeout(patience, reach(sockets, port)).await;
    let reached = reached.unwrap_or(Err(Unreachable::Silent(patience)));
    reached.map_err(|unreachable| Error::Unreachable { port, cause: Arc::new(unreachable) })
}

/// Sockets in the namespace that a supervisor holds.
async fn sockets_of(
    shared: &Shared,
    pod: &str,
    (client, path): (&Client, &Path),
) -> Result<TcpSockets, Error> {
    let step = "entering the network namespace";
    let subject = pod.to_owned();
    let failed = |cause: io::Error| Error::step(step, subject.clone(), cause);
    // Opening it doesn't wait for anything.
    let namespace = File::open(path).map_err(failed)?;
    // The path is the supervisor's, and so its own for as long as that lives: if it answers now, it lived when the path was opened.
    let held = client.namespaces(shared.config.deadlines.connect).await?.network;
    if held.as_deref() != Some(path) {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    let attempt = (step, subject.as_str(), shared.config.deadlines.connect);
    let made = subject.clone();
    blocking(attempt, move || {
        tcp_sockets(OwnedFd::from(namespace)).map_err(|cause| Error::step(step, made, cause))
    })
    .await
}

async fn reach(sockets: TcpSockets, port: u16) -> Result<TcpStream, Unreachable> {
    let v4 = match connected(sockets.v4, IpAddr::V4(Ipv4Addr::LOCALHOST), port).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let v6 = match sockets.v6 {
        Some(socket) => match connected(socket, IpAddr::V6(Ipv6Addr::LOCALHOST), port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        },
        None => io::ErrorKind::Unsupported.into(),
    };
    Err(Unreachable::Refused { v4, v6 })
}

async fn connected(socket: OwnedFd, address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(StdStream::from(socket));
    // Somebody types at the other end.
    socket.set_nodelay(true)?;
    socket.connect(SocketAddr::new(address, port)).await
}
