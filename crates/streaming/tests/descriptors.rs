//! A server in a process that has no descriptor left. Alone in its process: the limit is for all of it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use streaming::{AttachRequest, Backend, Config, Duplex, ExecRequest, Failure, Server, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

struct Nobody;

#[async_trait]
impl Backend for Nobody {
    async fn exec(&self, _: &ExecRequest) -> Result<Session, Failure> {
        Err(Failure("not here".into()))
    }

    async fn attach(&self, _: &AttachRequest) -> Result<Session, Failure> {
        Err(Failure("not here".into()))
    }

    async fn connect(&self, _: &str, _: u16) -> Result<Box<dyn Duplex>, Failure> {
        Err(Failure("not here".into()))
    }
}

/// Counts warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicU32>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// As the server has it.
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn who_has_no_descriptor_left_pauses_whatever_else_happens() {
    let warnings = Warnings::default();
    let _counting = tracing::subscriber::set_default(warnings.clone());
    let config = Config {
        address: "127.0.0.1".parse().unwrap(),
        port: 0,
        tls: None,
        idle_timeout: Duration::from_secs(600),
        max_connections: 100,
        max_forwarded: 100,
    };
    let server = Server::start(config, Arc::new(Nobody)).unwrap();
    let address = server.base().split('/').nth(2).unwrap().parse().unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let expected = open() + 2 * 40;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    while open() < expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let late = TcpSocket::new_v4().unwrap();
    let limit = getrlimit(Resource::Nofile);
    // So few that no end of a connection helps.
    setrlimit(Resource::Nofile, Rlimit { current: Some(4), maximum: limit.maximum }).unwrap();
    let begun = Instant::now();
    let mut late = late.connect(address).await.unwrap();
    for mut client in clients {
        client.shutdown().await.unwrap();
        let _ended = client.read(&mut [0]).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    let (said, time) = (warnings.0.load(Ordering::SeqCst), begun.elapsed());
    setrlimit(Resource::Nofile, limit).unwrap();
    let most = 1 + time.as_millis() / PAUSE.as_millis();
    assert!((1..=most).contains(&said.into()), "{said} warnings in {time:?}");
    late.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    late.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}
