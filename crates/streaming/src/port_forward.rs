//! Forwarded ports: the client opens two streams for each connection, `error` and `data`, which the header `requestid` makes a
//! pair; the data of one goes to a port of the pod and back.
//!
//! | what happens | data stream | error stream |
//! |---|---|---|
//! | the port can't be reached | reset | the reason, end |
//! | both sides have ended | both directions end, each when its side does | end |
//! | the pod's side breaks off, or the client's | reset | end |
//! | the other stream doesn't come in 30 s | reset | the reason, end |
//!
//! A reason makes clients end all forwarding, so that one is given only before a byte has passed. The same session runs over
//! SPDY and over SPDY in a WebSocket tunnel. Not here: how a port is reached ([`Backend::connect`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::backend::Backend;
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
    let Pair { port, mut data, mut error } = pair;
    let connected = if target.ports.is_empty() || target.ports.contains(&port) {
        target.backend.connect(&target.pod, port).await.map_err(|failure| failure.to_string())
    } else {
        Err("not one of the ports that were asked for".to_owned())
    };
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(why) => {
            let text = format!("forwarding port {port} to pod \"{}\": {why}", target.pod);
            // A client that has gone needs no reason.
            _ = error.write_all(text.as_bytes()).await;
            error.finish();
            return;
        }
    };
    // Whatever breaks off resets the data stream: dropped unfinished.
    if let Err(broken) = copy_bidirectional_with_sizes(&mut data, &mut connection, COPY, COPY).await {
        tracing::debug!(port, error = %broken, "a forwarded connection broke off");
    }
    error.finish();
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
mod tests {
    use async_trait::async_trait;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;
    use crate::backend::{AttachRequest, Duplex, ExecRequest, Failure, Session};
    use crate::spdy::client::{Client, Seen};
    use crate::spdy::frame::Control;

    fn wish(kind: Kind, port: u16, request: &str) -> Wish {
        Wish { kind, port, request: request.to_owned() }
    }

    #[test]
    fn headers_say_what_a_stream_is() {
        let parse = |pairs: &[(&str, &str)], stream| Wish::parse(&Headers::from_pairs(pairs), stream);
        let full = [("streamtype", "data"), ("port", "80"), ("requestid", "7")];
        assert_eq!(parse(&full, 3), Ok(wish(Kind::Data, 80, "7")));
        assert_eq!(parse(&full[..2], 3), Ok(wish(Kind::Data, 80, "1")));
        assert_eq!(parse(&[("streamtype", "error"), ("port", "80")], 1), Ok(wish(Kind::Error, 80, "1")));
        for port in ["0", "-1", "65536", "http", ""] {
            assert_eq!(parse(&[("streamtype", "data"), ("port", port)], 1), Err(Refusal::Port));
        }
        assert_eq!(parse(&[("streamtype", "stdin"), ("port", "80")], 1), Err(Refusal::Kind));
        assert_eq!(parse(&[("port", "80")], 1), Err(Refusal::Kind));
        let long = "1".repeat(65);
        assert_eq!(parse(&[full[0], full[1], ("requestid", &long)], 1), Err(Refusal::Request));
    }

    #[test]
    fn partners_find_each_other_or_are_given_up() {
        let (mut pairs, now) = (Pairs::default(), Instant::now());
        assert_eq!(pairs.add(wish(Kind::Error, 80, "1"), 1, now), None);
        assert_eq!(pairs.add(wish(Kind::Data, 81, "2"), 3, now), None);
        assert!(pairs.has(&wish(Kind::Error, 80, "1")) && !pairs.has(&wish(Kind::Data, 80, "1")));
        assert_eq!(pairs.add(wish(Kind::Data, 80, "1"), 5, now), Some(Pair { port: 80, data: 5, error: 1 }));
        assert_eq!(pairs.expire(now + CREATION - Duration::from_millis(1)), []);
        assert_eq!(pairs.expiry(), Some(now + CREATION));
        assert_eq!(pairs.expire(now + CREATION), [(Kind::Data, 3)]);
        assert_eq!(pairs.expiry(), None);
        assert_eq!(pairs.add(wish(Kind::Data, 81, "2"), 7, now), None);
        assert_eq!(pairs.add(wish(Kind::Error, 80, "2"), 9, now), Some(Pair { port: 81, data: 7, error: 9 }));
    }

    /// A pod in which port 7 sends back what it gets, 9 breaks off, and nobody listens on others.
    struct Pod;

    #[async_trait]
    impl Backend for Pod {
        async fn exec(&self, _: &ExecRequest) -> Result<Session, Failure> {
            Err(Failure("not here".into()))
        }

        async fn attach(&self, _: &AttachRequest) -> Result<Session, Failure> {
            Err(Failure("not here".into()))
        }

        async fn connect(&self, pod: &str, port: u16) -> Result<Box<dyn Duplex>, Failure> {
            assert_eq!(pod, "web");
            let (ours, theirs): (DuplexStream, DuplexStream) = duplex(1000);
            match port {
                7 => tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(theirs);
                    _ = tokio::io::copy(&mut from, &mut to).await;
                    _ = to.shutdown().await;
                }),
                9 => tokio::spawn(async move {
                    let mut theirs = theirs;
                    _ = theirs.read_u8().await;
                }),
                _ => return Err(Failure("nobody listens".into())),
            };
            Ok(Box::new(ours))
        }
    }

    const IDLE: Duration = Duration::from_secs(600);

    fn start(ports: &[u16]) -> (Client, tokio::task::JoinHandle<Result<(), Error>>) {
        let (ours, theirs) = duplex(4096);
        let target = Target { backend: Arc::new(Pod), pod: "web".into(), ports: ports.to_vec(), idle: IDLE };
        (Client::new(theirs), tokio::spawn(serve(ours, target)))
    }

    async fn pair(client: &mut Client, first: u32, port: &str) {
        let request = first.to_string();
        for (stream, kind) in [(first, "error"), (first + 2, "data")] {
            client.open(stream, &[("streamtype", kind), ("port", port), ("requestid", &request)]).await;
        }
        // As clients do: they write nothing to it.
        client.data(first, b"", true).await;
    }

    #[tokio::test]
    async fn a_connection_goes_both_ways_and_ends_in_halves() {
        let (mut client, server) = start(&[7]);
        pair(&mut client, 1, "7").await;
        client.data(3, b"hello", false).await;
        assert_eq!(client.next().await, Some(Seen::Data { stream: 3, bytes: b"hello".to_vec(), fin: false }));
        client.data(3, b" and bye", true).await;
        let mut ends = [client.until_end().await, client.until_end().await];
        ends.sort();
        assert_eq!(ends, [(1, Vec::new()), (3, b" and bye".to_vec())]);
        drop(client);
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_port_that_cannot_be_reached_is_told_on_the_error_stream() {
        let (mut client, _server) = start(&[]);
        pair(&mut client, 1, "8").await;
        let mut seen = vec![client.next().await.unwrap(), client.next().await.unwrap()];
        if !seen.iter().any(|seen| matches!(seen, Seen::Data { fin: true, .. })) {
            seen.push(client.next().await.unwrap());
        }
        assert!(seen.contains(&Seen::Control(Control::RstStream { stream: 3, status: 5 })), "{seen:?}");
        let text: Vec<u8> = seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Data { stream: 1, bytes, .. } => Some(bytes.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(String::from_utf8(text).unwrap(), "forwarding port 8 to pod \"web\": nobody listens");
    }

    #[tokio::test]
    async fn a_port_that_was_not_asked_for_is_not_reached() {
        let (mut client, _server) = start(&[8]);
        pair(&mut client, 1, "7").await;
        let (stream, text) = client.until_end().await;
        assert_eq!(stream, 1);
        assert!(String::from_utf8(text).unwrap().ends_with("not one of the ports that were asked for"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_its_partner_is_given_up_after_thirty_seconds() {
        let (mut client, _server) = start(&[]);
        let began = Instant::now();
        client.open(1, &[("streamtype", "error"), ("port", "7"), ("requestid", "a")]).await;
        client.open(3, &[("streamtype", "data"), ("port", "7"), ("requestid", "b")]).await;
        let mut seen = vec![client.next().await.unwrap(), client.next().await.unwrap()];
        if !seen.iter().any(|seen| matches!(seen, Seen::Data { fin: true, .. })) {
            seen.push(client.next().await.unwrap());
        }
        assert_eq!(began.elapsed().as_secs(), 30);
        assert!(seen.contains(&Seen::Control(Control::RstStream { stream: 3, status: 5 })), "{seen:?}");
        assert!(
            seen.iter().any(
                |seen| matches!(seen, Seen::Data { stream: 1, bytes, .. } if bytes.starts_with(b"no data"))
            ),
            "{seen:?}"
        );
    }

    #[tokio::test]
    async fn a_hundred_connections_at_once_do_not_disturb_each_other() {
        let (mut client, _server) = start(&[]);
        for number in 0..100 {
            pair(&mut client, number * 4 + 1, "7").await;
        }
        for number in 0..100 {
            client.data(number * 4 + 3, format!("{number}").as_bytes(), true).await;
        }
        let mut ends = Vec::new();
        while ends.len() < 200 {
            ends.push(client.until_end().await);
        }
        for number in 0..100 {
            assert!(ends.contains(&(number * 4 + 3, format!("{number}").into_bytes())));
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_not_of_a_pair_is_refused() {
        let (mut client, _server) = start(&[]);
        client.syn(1, &[("streamtype", "stdin"), ("port", "7")]).await;
        assert_eq!(client.next().await, Some(Seen::Control(Control::RstStream { stream: 1, status: 3 })));
        client.open(3, &[("streamtype", "data"), ("port", "7"), ("requestid", "1")]).await;
        client.syn(5, &[("streamtype", "data"), ("port", "7"), ("requestid", "1")]).await;
        assert_eq!(client.next().await, Some(Seen::Control(Control::RstStream { stream: 5, status: 3 })));
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_moves_keeps_a_connection() {
        let (mut client, server) = start(&[7]);
        let begun = Instant::now();
        pair(&mut client, 1, "7").await;
        tokio::time::sleep(IDLE / 2).await;
        client.data(3, b"on", false).await;
        while !matches!(client.next().await, Some(Seen::Data { stream: 3, .. })) {}
        let pinging = async {
            for number in 0.. {
                client.control(Control::Ping(number * 2 + 1)).await;
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        };
        let ended = tokio::select! {
            ended = server => ended.unwrap(),
            () = pinging => unreachable!(),
        };
        assert!(matches!(ended, Err(Error::Idle(IDLE))), "{ended:?}");
        assert_eq!(begun.elapsed(), IDLE / 2 + IDLE);
    }
}
