//! Ports over WebSocket channels, without SPDY: for each port a channel for its bytes and one for what went wrong, on which the
//! port's number comes first (two bytes, the lower one first). The ports are those of the request.
//!
//! The client can't end its side of a port. Not here: ports over SPDY, tunnelled or not (`crate::port_forward`).

use futures::FutureExt;
use futures::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;

use super::Coding;
use super::channels::{Reader, Wire, Writer};
use super::frames::HalfClose;
use crate::activity::Activity;
use crate::backend::Duplex;
use crate::port_forward::Target;
use crate::remote_command::pump::Parting;

/// The most ports that channels can be numbered for, as digits and what follows them in ASCII.
pub(crate) const MOST_PORTS: usize = 39;

const CHUNK: usize = 32 << 10;

struct Port {
    number: u16,
    from_client: Reader,
    data: Writer,
    error: Writer,
}

/// Serves until the client has gone, all ports are done, or nothing moved for the idle time. Safe to cancel.
pub(crate) async fn serve<S: Duplex>(socket: WebSocketStream<S>, coding: Coding, target: Target) -> Parting {
    let mut wire = Wire::new(coding, HalfClose::Unknown);
    let ports: Vec<Port> = (0u8..)
        .step_by(2)
        .zip(&target.ports)
        .map(|(channel, number)| Port {
            number: *number,
            from_client: wire.reader(channel),
            data: wire.writer(channel),
            error: wire.writer(channel + 1),
        })
        .collect();
    let moved = Activity::default();
    let serving = join_all(ports.into_iter().map(|port| serve_port(port, &target, &moved)));
    let mut gone = std::pin::pin!(wire.drive(socket));
    tokio::select! {
        () = &mut gone => Parting::CutOff,
        _ = serving => {
            gone.await;
            Parting::Told
        }
        () = moved.idle(target.idle) => Parting::CutOff,
    }
}

async fn serve_port(mut port: Port, target: &Target, moved: &Activity) {
    let number = port.number.to_le_bytes();
    let greeted = port.data.write_all(&number).await.is_ok() && port.error.write_all(&number).await.is_ok();
    if !greeted {
        return;
    }
    match target.reach(port.number).await {
        Ok((connection, _place)) => {
            let (from_pod, to_pod) = tokio::io::split(connection);
            tokio::select! {
                // The client has no end to tell: nothing is shut down on its account.
                never = copy(port.from_client, to_pod, moved).then(|()| std::future::pending::<()>()) => never,
                () = copy(from_pod, port.data, moved) => {}
            }
        }
        Err(text) => {
            let _gone = port.error.write_all(text.as_bytes()).await;
        }
    }
}

/// Copies until an end or an error.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &Activity) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let Some(chunk) = buffer.get(..read) else { return };
        if to.write_all(chunk).await.is_err() || to.flush().await.is_err() {
            return;
        }
        moved.now();
    }
}
