//! A backend whose processes are futures: what runs is counted, and a session that is dropped takes its process along.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use streaming::{
    AttachRequest, Backend, Config, Duplex, Ended, ExecRequest, Failure, Request, Server, Session, Size,
    Streams,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::patience::until;

const PIPE: usize = 64 << 10;

#[derive(Default)]
pub(crate) struct Processes {
    live: Arc<AtomicUsize>,
    pub(crate) sizes: Arc<Mutex<Vec<Size>>>,
}

struct Live(Arc<AtomicUsize>);

impl Live {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Processes {
    /// How many processes and connections live.
    pub(crate) fn count(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Waits until as many do.
    pub(crate) async fn live(&self, count: usize) {
        until(&format!("{count} live"), || match self.count() {
            live if live == count => Ok(()),
            live => Err(live),
        })
        .await;
    }

    fn session(&self, streams: Streams, command: Vec<String>) -> Session {
        let pipe = |wanted: bool| wanted.then(|| duplex(PIPE)).unzip();
        let (stdin, input) = pipe(streams.stdin);
        let (stdout, output) = pipe(streams.stdout);
        let (stderr, errors) = pipe(streams.stderr);
        let live = Live::new(&self.live);
        let ended = async move {
            let _live = live;
            Ok(run(&command, (input, output, errors)).await)
        };
        let sizes = Arc::clone(&self.sizes);
        Session {
            stdin: stdin.map(|stream| Box::new(stream) as _),
            stdout: stdout.map(|stream| Box::new(stream) as _),
            stderr: stderr.map(|stream| Box::new(stream) as _),
            resize: streams.tty.then(|| Box::new(move |size| sizes.lock().unwrap().push(size)) as _),
            ended: ended.boxed(),
        }
    }
}

type Standard = (Option<DuplexStream>, Option<DuplexStream>, Option<DuplexStream>);

/// The programs that there are.
async fn run(command: &[String], (stdin, stdout, stderr): Standard) -> Ended {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words[..] {
        ["cat"] => {
            let (mut stdin, mut stdout) = (stdin.unwrap(), stdout.unwrap());
            tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
            Ended::Exited(0)
        }
        ["say", words, code] => {
            for stream in [stdout, stderr].into_iter().flatten() {
                let mut stream = stream;
                stream.write_all(words.as_bytes()).await.unwrap();
            }
            Ended::Exited(code.parse().unwrap())
        }
        ["print", count] => {
            stdin.unwrap().read_u8().await.unwrap();
            stdout.unwrap().write_all(&vec![b'p'; count.parse().unwrap()]).await.unwrap();
            Ended::Exited(0)
        }
        ["head", count] => {
            let mut bytes = vec![0; count.parse().unwrap()];
            stdin.unwrap().read_exact(&mut bytes).await.unwrap();
            stdout.unwrap().write_all(&bytes).await.unwrap();
            Ended::Exited(3)
        }
        ["yes"] => {
            let mut stdout = stdout.unwrap();
            loop {
                stdout.write_all(&[b'y'; 1_024]).await.unwrap();
            }
        }
        ["detach", why] => Ended::Detached(Some(why.to_owned())),
        _ => {
            let _open = (stdin, stdout, stderr);
            std::future::pending().await
        }
    }
}

#[async_trait]
impl Backend for Processes {
    async fn exec(&self, request: &ExecRequest) -> Result<Session, Failure> {
        match request.command.first().map(String::as_str) {
            Some("missing") => Err(Failure("\"missing\" is not there".into())),
            _ => Ok(self.session(request.streams, request.command.clone())),
        }
    }

    async fn attach(&self, request: &AttachRequest) -> Result<Session, Failure> {
        Ok(self.session(request.streams, request.container.split(' ').map(str::to_owned).collect()))
    }

    async fn connect(&self, pod: &str, port: u16) -> Result<Box<dyn Duplex>, Failure> {
        if port == 1 {
            return Err(Failure(format!("nobody listens on port 1 of {pod}")));
        }
        let (ours, theirs) = duplex(PIPE);
        let live = Live::new(&self.live);
        tokio::spawn(async move {
            let _live = live;
            let (mut reader, mut writer) = tokio::io::split(theirs);
            let _ended = tokio::io::copy(&mut reader, &mut writer).await;
        });
        Ok(Box::new(ours))
    }
}

/// A server and what it runs.
pub(crate) struct Node {
    pub(crate) processes: Arc<Processes>,
    pub(crate) server: Server,
}

pub(crate) fn config() -> Config {
    Config {
        address: "127.0.0.1".parse().unwrap(),
        port: 0,
        tls: None,
        idle_timeout: Duration::from_secs(600),
        max_connections: 100,
        max_forwarded: 100,
    }
}

pub(crate) fn node() -> Node {
    node_with(config())
}

pub(crate) fn node_with(config: Config) -> Node {
    let processes = Arc::new(Processes::default());
    let server = Server::start(config, Arc::clone(&processes) as _).unwrap();
    Node { processes, server }
}

pub(crate) const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

impl Node {
    pub(crate) fn exec(&self, command: &str, streams: Streams) -> String {
        let command = command.split(' ').map(str::to_owned).collect();
        self.server.url(Request::Exec(ExecRequest { container: "c".into(), command, streams })).unwrap()
    }

    pub(crate) fn attach(&self, what: &str, streams: Streams) -> String {
        self.server.url(Request::Attach(AttachRequest { container: what.into(), streams })).unwrap()
    }

    pub(crate) fn forward(&self, ports: &[u16]) -> String {
        self.server.url(Request::PortForward { pod: "p".into(), ports: ports.to_vec() }).unwrap()
    }
}
