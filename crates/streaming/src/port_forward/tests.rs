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
            8080 => tokio::spawn(async move {
                let mut theirs = theirs;
                _ = theirs.write_all(b"page").await;
                _ = theirs.shutdown().await;
                // It still reads.
                _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
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
    start_with(ports, 1000)
}

fn start_with(ports: &[u16], places: usize) -> (Client, tokio::task::JoinHandle<Result<(), Error>>) {
    let places = Arc::new(Semaphore::new(places));
    let (ours, theirs) = duplex(4096);
    let target =
        Target { backend: Arc::new(Pod), pod: "web".into(), ports: ports.to_vec(), idle: IDLE, places };
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
async fn a_client_that_waits_for_the_pods_end_hears_of_it() {
    let (mut client, server) = start(&[8080]);
    pair(&mut client, 1, "8080").await;
    let mut ends = [client.until_end().await, client.until_end().await];
    ends.sort();
    assert_eq!(ends, [(1, Vec::new()), (3, b"page".to_vec())]);
    client.data(3, b"", true).await;
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

#[tokio::test]
async fn there_are_so_many_connections_and_the_next_is_told() {
    let (mut client, _server) = start_with(&[], 1);
    pair(&mut client, 1, "9").await;
    for first in [5, 9] {
        pair(&mut client, first, "7").await;
        let (stream, text) = client.until_end().await;
        let expected = "forwarding port 7 to pod \"web\": too many connections are forwarded on this node";
        assert_eq!((stream, String::from_utf8(text).unwrap().as_str()), (first, expected));
    }
    // Port 9 breaks off at the first byte: soon there is a place.
    client.data(3, b"x", true).await;
    for first in (13..4_000).step_by(4) {
        pair(&mut client, first, "7").await;
        client.data(first + 2, b"through", true).await;
        let text = loop {
            let (stream, text) = client.until_end().await;
            if stream == first {
                break text;
            }
        };
        if text.is_empty() {
            return;
        }
    }
    panic!("the place was never free again");
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
        seen.iter()
            .any(|seen| matches!(seen, Seen::Data { stream: 1, bytes, .. } if bytes.starts_with(b"no data"))),
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
