//! Forwarded ports: the client opens two streams for each connection, `error` and `data`, which the header `requestid` makes a
//! pair; the data of one goes to a port of the pod and back.
//!
//! | what happens | data stream | error stream |
//! |---|---|---|
//! | the port can't be reached | reset | the reason, end |
//! | the pod's side has ended | its direction ends | end |
//! | both sides have ended | both directions end, each when its side does | end |
//! | the pod's side breaks off, or the client's | reset | end |
//! | the other stream doesn't come in 30 s | reset | the reason, end |
//!
//! A reason makes clients end all forwarding, so that one is given only before a byte has passed. The same session runs over
//! SPDY and over SPDY in a WebSocket tunnel. Not here: how a port is reached ([`Backend::connect`]).

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::backend::{Backend, Duplex};
use crate::spdy::headers::Headers;
use crate::spdy::{Connection, Error, Incoming, Limits, Stream};

/// How long the second stream of a pair is waited for (`DefaultStreamCreationTimeout` of k8s.io/cri-streaming).
pub(crate) const CREATION: Duration = Duration::from_secs(30);

/// Bytes copied at once, in each direction of each connection.
const COPY: usize = 16 << 10;

/// The longest name of a pair; clients count.
const LONGEST_REQUEST: usize = 64;

/// Whose ports, and which.
#[derive(Clone)]
pub(crate) struct Target {
    /// Reaches them.
    pub(crate) backend: Arc<dyn Backend>,
    /// The pod.
    pub(crate) pod: String,
    /// Those that may be reached; empty for all.
    pub(crate) ports: Vec<u16>,
    /// How long nothing may move.
    pub(crate) idle: Duration,
    /// One for each connection that may be forwarded, whoever's.
    pub(crate) places: Arc<Semaphore>,
}

/// A connection to a port, and its place among those of the node.
pub(crate) type Reached = (Box<dyn Duplex>, OwnedSemaphorePermit);

impl Target {
    /// Connects to a port; the error is for the client. Safe to cancel.
    pub(crate) async fn reach(&self, port: u16) -> Result<Reached, String> {
        let reached = self.try_reach(port).await;
        reached.map_err(|why| format!("forwarding port {port} to pod \"{}\": {why}", self.pod))
    }

    async fn try_reach(&self, port: u16) -> Result<Reached, String> {
        if !self.ports.is_empty() && !self.ports.contains(&port) {
            return Err("not one of the ports that were asked for".to_owned());
        }
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| "too many connections are forwarded on this node".to_owned())?;
        let connection = self.backend.connect(&self.pod, port).await;
        connection.map(|connection| (connection, place)).map_err(|failure| failure.to_string())
    }
}

/// Serves a client to the end of its connection. Safe to cancel: all connections end.
///
/// # Errors
/// [`Error`] when the client broke a rule, moved nothing for too long or couldn't be reached any longer.
pub(crate) async fn serve<I>(io: I, target: Target) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limits = Limits { idle: Some(target.idle), ..Limits::default() };
    let (connection, mut streams, _) = Connection::new(io, limits);
    let run = connection.run();
    tokio::pin!(run);
    let target = Arc::new(target);
    let mut pairs = Pairs::default();
    // Ended with this function, whatever they do.
    let mut tasks = JoinSet::new();
    loop {
        let expiry = pairs.expiry();
        tokio::select! {
            outcome = &mut run => return outcome,
            Some(incoming) = streams.next() => {
                if let Some(pair) = accept(incoming, &mut pairs) {
                    tasks.spawn(forward(Arc::clone(&target), pair));
                }
            }
            Some(_) = tasks.join_next() => {}
            () = sleep_until(expiry.unwrap_or_else(Instant::now)), if expiry.is_some() => {
                for (kind, stream) in pairs.expire(Instant::now()) {
                    tasks.spawn(give_up(kind, stream));
                }
            }
        }
    }
}

/// Takes a stream in; a pair when it was the second.
fn accept(incoming: Incoming, pairs: &mut Pairs<Stream>) -> Option<Pair<Stream>> {
    let wish = match Wish::parse(incoming.headers(), incoming.id()) {
        Ok(wish) if !pairs.has(&wish) => wish,
        Ok(_) => {
            incoming.refuse();
            return None;
        }
        Err(refusal) => {
            tracing::debug!(stream = incoming.id(), %refusal, "refused a stream of a forwarded port");
            incoming.refuse();
            return None;
        }
    };
    // At once: the client opens the second stream only after the reply to the first.
    pairs.add(wish, incoming.accept()?, Instant::now())
}

/// Connects the two sides until both have ended.
async fn forward(target: Arc<Target>, pair: Pair<Stream>) {
    let Pair { port, data, mut error } = pair;
    let (connection, _place) = match target.reach(port).await {
        Ok(reached) => reached,
        Err(text) => {
            // A client that has gone needs no reason.
            _ = error.write_all(text.as_bytes()).await;
            error.finish();
            return;
        }
    };
    let mut error = Some(error);
    let mut finish = || {
        if let Some(mut error) = error.take() {
            error.finish();
        }
    };
    // Whatever breaks off resets the data stream: dropped unfinished.
    if let Err(broken) = join((data, connection), &mut finish).await {
        tracing::debug!(port, error = %broken, "a forwarded connection broke off");
    }
    finish();
}

/// Moves bytes both ways until both sides have ended. Tells when the pod's has: clients up to Kubernetes 1.31 then wait for the end of
/// the error stream before they close their side.
async fn join(
    (data, connection): (Stream, Box<dyn Duplex>),
    pod_has_ended: &mut (dyn FnMut() + Send),
) -> io::Result<()> {
    let (from_client, to_client) = tokio::io::split(data);
    let (from_pod, to_pod) = tokio::io::split(connection);
    let mut to_the_pod = pin!(pass(from_client, to_pod));
    let mut to_the_client = pin!(pass(from_pod, to_client));
    tokio::select! {
        passed = &mut to_the_client => {
            passed?;
            pod_has_ended();
            to_the_pod.await
        }
        passed = &mut to_the_pod => {
            passed?;
            to_the_client.await
        }
    }
}

/// Copies to the end, and ends.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; COPY];
    loop {
        let count = from.read(&mut buffer).await?;
        match buffer.get(..count) {
            None | Some([]) => return to.shutdown().await,
            Some(bytes) => to.write_all(bytes).await?,
        }
        to.flush().await?;
    }
}

async fn give_up(kind: Kind, mut stream: Stream) {
    if kind == Kind::Error {
        let text = format!("no data stream after {} s", CREATION.as_secs());
        _ = stream.write_all(text.as_bytes()).await;
        stream.finish();
    }
}

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    Data,
}

/// What the headers of a stream say.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    kind: Kind,
    port: u16,
    request: String,
}

/// Why a stream isn't taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("the header \"port\" is missing or no port")]
    Port,
    #[error("the header \"streamtype\" is missing or neither \"data\" nor \"error\"")]
    Kind,
    #[error("the header \"requestid\" is longer than {LONGEST_REQUEST} bytes")]
    Request,
}

impl Wish {
    fn parse(headers: &Headers, stream: u32) -> Result<Self, Refusal> {
        let port = headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        let port = port.ok_or(Refusal::Port)?;
        let kind = match headers.get("streamtype") {
            Some("error") => Kind::Error,
            Some("data") => Kind::Data,
            _ => return Err(Refusal::Kind),
        };
        let request = match (headers.get("requestid"), kind) {
            (Some(request), _) if !request.is_empty() => request.to_owned(),
            // Clients of old don't name pairs; they open the error stream and then, two numbers later, its data stream.
            (_, Kind::Error) => stream.to_string(),
            (_, Kind::Data) => stream.wrapping_sub(2).to_string(),
        };
        if request.len() > LONGEST_REQUEST {
            return Err(Refusal::Request);
        }
        Ok(Self { kind, port, request })
    }
}

/// Both streams of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Pair<S> {
    port: u16,
    data: S,
    error: S,
}

/// Streams whose partner hasn't come yet.
#[derive(Debug)]
struct Pairs<S>(HashMap<String, Half<S>>);

#[derive(Debug)]
struct Half<S> {
    kind: Kind,
    port: u16,
    stream: S,
    until: Instant,
}

impl<S> Default for Pairs<S> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<S> Pairs<S> {
    /// Whether such a stream is there already.
    fn has(&self, wish: &Wish) -> bool {
        self.0.get(&wish.request).is_some_and(|half| half.kind == wish.kind)
    }

    /// Takes a stream that isn't there yet; the pair, with the port of its data stream, when its partner is.
    fn add(&mut self, wish: Wish, stream: S, now: Instant) -> Option<Pair<S>> {
        let Wish { kind, port, request } = wish;
        match (self.0.remove(&request), kind) {
            (Some(half), Kind::Data) => Some(Pair { port, data: stream, error: half.stream }),
            (Some(half), Kind::Error) => Some(Pair { port: half.port, data: half.stream, error: stream }),
            (None, _) => {
                self.0.insert(request, Half { kind, port, stream, until: now + CREATION });
                None
            }
        }
    }

    /// When the next has waited long enough.
    fn expiry(&self) -> Option<Instant> {
        self.0.values().map(|half| half.until).min()
    }

    /// Takes out those that have.
    fn expire(&mut self, now: Instant) -> Vec<(Kind, S)> {
        self.0.extract_if(|_, half| half.until <= now).map(|(_, half)| (half.kind, half.stream)).collect()
    }
}

#[cfg(test)]
mod tests;
