//! The server: listens, bounds what strangers can hold, and runs each connection to its end in one task.
//!
//! A connection is one request. Until it has shown a token it is one of a few, and has a short time; then it is a session, of which
//! there is a bounded number. Not here: what is asked (`crate::http`), what a session does (`crate::session`).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request as HttpRequest, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::backend::{Backend, Duplex, Request};
use crate::error::Error;
use crate::http::{self, Answer, Kind, Upgrade, refusal};
use crate::remote_command::pump::Parting;
use crate::session::{self, Client, Terms};
use crate::socket::{LINGER_CUT_OFF, Socket};
use crate::strangers::{Place, Strangers};
use crate::tls::{Tls, TlsFiles};
use crate::tokens::{LIFE, Tokens};
use crate::websocket::room::Room;

/// How long a connection may take from its beginning to its upgrade: handshake, headers, answer.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// All headers together, in bytes, and their number. A proxy's and a bearer's token fit well.
const HEADER_BYTES: usize = 32 << 10;
const HEADERS: usize = 64;

/// How long the next connection waits when there is no descriptor left for it.
const NO_DESCRIPTOR: Duration = Duration::from_millis(200);

/// How long sessions have to tell their clients of the server's end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the server runs by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub address: IpAddr,
    /// The port; 0 lets the kernel choose.
    pub port: u16,
    /// TLS; none for plain HTTP.
    pub tls: Option<TlsFiles>,
    /// After how long a session ends in which nothing moves. A client that has been told the end has so long for each part of what
    /// is still to be sent, and then for what the kernel holds for it and to close: its connection counts until then.
    pub idle_timeout: Duration,
    /// How many sessions there may be.
    pub max_connections: usize,
    /// How many connections to ports may be forwarded, in all sessions together. Each takes a descriptor.
    pub max_forwarded: usize,
}

/// A server that runs. It ends with [`Server::stop`], or at once when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Server(Arc<Running>);

#[derive(Debug)]
struct Running {
    tokens: Arc<Tokens>,
    address: SocketAddr,
    base: String,
    end: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What a connection needs to know.
struct Shared {
    tokens: Arc<Tokens>,
    tls: Option<Arc<Tls>>,
    sessions: Arc<Semaphore>,
    terms: Terms,
}

/// What a connection has become.
struct Upgraded {
    connection: OnUpgrade,
    upgrade: Upgrade,
    request: Request,
    /// Held until the session's end.
    place: OwnedSemaphorePermit,
}

impl Server {
    /// Listens, and serves from now on. To be called in a runtime of tokio's.
    ///
    /// # Errors
    /// [`Error::Listen`], and those of TLS when the files can't be used.
    pub fn start(config: Config, backend: Arc<dyn Backend>) -> Result<Self, Error> {
        let tls = config.tls.map(Tls::open).transpose()?.map(Arc::new);
        let address = SocketAddr::new(config.address, config.port);
        let failed = |cause| Error::Listen { address, cause };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", SocketAddr::new(reachable(config.address), address.port()));
        let tokens = Arc::new(Tokens::default());
        let (end, ending) = watch::channel(false);
        let forwarded = Arc::new(Semaphore::new(config.max_forwarded.min(Semaphore::MAX_PERMITS)));
        let terms = Terms {
            backend,
            idle: config.idle_timeout,
            forwarded,
            room: Room::default(),
            ending: ending.clone(),
        };
        let sessions = Arc::new(Semaphore::new(config.max_connections));
        let shared = Shared { tokens: Arc::clone(&tokens), tls, sessions, terms };
        let task = Mutex::new(Some(tokio::spawn(serve(listener, Arc::new(shared), ending))));
        Ok(Self(Arc::new(Running { tokens, address, base, end, task })))
    }

    /// Remembers a request, and gives the address that a client may come to for it: once, within a minute.
    ///
    /// # Errors
    /// [`Error::TooManyTokens`] and [`Error::TooLong`] when too much waits already, [`Error::Random`].
    pub fn url(&self, request: Request) -> Result<String, Error> {
        let kind = Kind::of(&request);
        let token = self.0.tokens.insert(request)?;
        Ok(format!("{}/{kind}/{token}", self.0.base))
    }

    /// Where it is reached: scheme, address and port.
    pub fn base(&self) -> &str {
        &self.0.base
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Stops listening, tells clients, and ends what is left after 2 s. Safe to cancel; what is left then ends with the last clone.
    pub async fn stop(&self) {
        self.0.end.send_replace(true);
        let task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ended = task.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

/// An address that a client can come to: for all addresses it is the one that packets to other nodes leave from, as peers have it.
fn reachable(address: IpAddr) -> IpAddr {
    // Addresses of documentation (RFC 5737, RFC 3849): connecting a datagram socket sends nothing.
    let tries: &[(IpAddr, &str)] = match address {
        IpAddr::V4(v4) if v4.is_unspecified() => &[(IpAddr::V4(Ipv4Addr::UNSPECIFIED), "192.0.2.1:9")],
        IpAddr::V6(v6) if v6.is_unspecified() => &[
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), "[2001:db8::1]:9"),
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), "192.0.2.1:9"),
        ],
        other => return other,
    };
    let source = |(any, target): &(IpAddr, &str)| {
        let socket = UdpSocket::bind((*any, 0)).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    let loopback = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    tries.iter().find_map(source).unwrap_or(loopback)
}

/// Takes connections until the end, then waits for those that are there, for a while.
async fn serve(listener: TcpListener, shared: Arc<Shared>, mut ending: watch::Receiver<bool>) {
    let strangers = Strangers::default();
    let mut connections = JoinSet::new();
    let mut cleaning = interval(LIFE);
    cleaning.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Kept from one turn to the next: dropped, it would forget that it pauses.
    let mut accepting = Box::pin(accept(&listener));
    loop {
        let (stream, from) = tokio::select! {
            _ = ending.wait_for(|ending| *ending) => break,
            Some(_) = connections.join_next() => continue,
            _ = cleaning.tick() => {
                shared.tokens.prune();
                continue;
            }
            accepted = &mut accepting => accepted,
        };
        accepting.set(accept(&listener));
        let stranger = tokio::select! {
            _ = ending.wait_for(|ending| *ending) => break,
            stranger = strangers.place(from.ip()) => stranger,
        };
        connections.spawn(connection(stream, stranger, Arc::clone(&shared)));
    }
    drop(accepting);
    drop(listener);
    let told = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_WORDS, told).await.is_err() {
        tracing::info!(left = connections.len(), "ending sessions whose clients don't listen");
    }
    connections.shutdown().await;
}

/// The next connection. Safe to cancel.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_its_own(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a connection for streams");
                sleep(NO_DESCRIPTOR).await;
            }
        }
    }
}

/// Whether an error is that of one connection, which broke before it was taken.
fn is_its_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

async fn connection(stream: TcpStream, stranger: Place, shared: Arc<Shared>) {
    let Ok(socket) = Socket::new(stream) else { return };
    let introduced = tokio::select! {
        // What it has said counts, also when it is asked to leave.
        biased;
        introduced = introduction(&socket, &shared) => introduced,
        () = stranger.wanted() => return tracing::debug!("a connection for streams made room for another"),
    };
    let Some((io, upgrade, request, place)) = introduced else { return };
    drop(stranger);
    let terms = shared.terms.clone();
    drop(shared);
    let (idle, client) = (terms.idle, Client { io, taken: socket.taken() });
    let served = async {
        tokio::select! {
            parting = session::run(client, (upgrade, request), terms) => match parting {
                Parting::Told => socket.linger(idle).await,
                Parting::CutOff => socket.linger(LINGER_CUT_OFF).await,
            },
            () = socket.gone() => {}
        }
    };
    tokio::select! {
        () = served => {}
        () = socket.lost() => tracing::debug!("the host of a stream's client doesn't answer any more"),
    }
    drop(place);
}

/// All that happens until a session begins; none when there is to be none, and the client knows that.
async fn introduction(socket: &Socket, shared: &Arc<Shared>) -> Option<Introduced> {
    let Ok(introduced) = timeout(INTRODUCTION, introduce(socket.clone(), shared)).await else {
        tracing::debug!("a connection for streams took too long to say what it wants");
        return None;
    };
    if introduced.is_none() {
        // The answer has been given; a client that sends a body shall read it all the same.
        socket.linger(LINGER_CUT_OFF).await;
    }
    introduced
}

type Introduced = (Box<dyn Duplex>, Upgrade, Request, OwnedSemaphorePermit);

async fn introduce(socket: Socket, shared: &Arc<Shared>) -> Option<Introduced> {
    let Some(tls) = &shared.tls else { return exchange(socket, shared).await };
    match TlsAcceptor::from(tls.current().await).accept(socket).await {
        Ok(stream) => exchange(stream, shared).await,
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake for streams failed");
            None
        }
    }
}

/// One request and its answer.
async fn exchange<S: Duplex + 'static>(stream: S, shared: &Arc<Shared>) -> Option<Introduced> {
    let upgraded = Arc::new(Mutex::new(None));
    let service = service_fn(|request| {
        let answer = answer(request, shared, &upgraded);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(INTRODUCTION)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for streams failed");
    }
    let upgraded = upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Upgraded { connection, upgrade, request, place } = upgraded?;
    let connection = connection.await.ok()?;
    Some((Box::new(TokioIo::new(connection)), upgrade, request, place))
}

fn answer(mut request: HttpRequest<Incoming>, shared: &Shared, upgraded: &Mutex<Option<Upgraded>>) -> Answer {
    match prepare(&mut request, shared) {
        Ok((next, answer)) => {
            *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
            answer
        }
        Err(answer) => *answer,
    }
}

/// The token is used by the last step: a client whose request can't be served may try another protocol.
fn prepare(http: &mut HttpRequest<Incoming>, shared: &Shared) -> Result<(Upgraded, Answer), Box<Answer>> {
    let not_found = || refusal(StatusCode::NOT_FOUND, "no such stream, or its token was used or has expired");
    let path = http.uri().path().to_owned();
    let (kind, token) = Kind::of_path(&path).ok_or_else(not_found)?;
    if !shared.tokens.knows(token, kind.test()) {
        return Err(not_found());
    }
    let (upgrade, answer) = http::negotiate(kind, http)?;
    let place = Arc::clone(&shared.sessions).try_acquire_owned();
    let place = place.map_err(|_| refusal(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open"))?;
    let fits = |request: &Request| session::check(upgrade, request);
    let taken = shared.tokens.take(token, fits).map_err(|why| refusal(StatusCode::BAD_REQUEST, why))?;
    let request = taken.ok_or_else(not_found)?;
    Ok((Upgraded { connection: hyper::upgrade::on(http), upgrade, request, place }, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_reached_by_one() {
        for any in ["0.0.0.0", "::"] {
            assert!(!reachable(any.parse().unwrap()).is_unspecified());
        }
        let given: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(reachable(given), given);
    }
}
