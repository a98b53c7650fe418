//! A registry that behaves as a test wants it to: any bytes under any name, connections that break, pauses; and it counts what it
//! gave. Plain HTTP/1.1, one request a connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::archive::{MANIFEST, Packed, digest, documents};

/// What it has, by path, with media types; behind locks, so that a test can change it meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Content {
    parts: Arc<Mutex<BTreeMap<String, Part>>>,
}

/// A media type and the bytes.
type Part = (String, Arc<Vec<u8>>);

/// How it gives blobs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Bytes after which a connection breaks, whatever was announced.
    pub breaks: Option<usize>,
    /// A pause before each 64 KiB.
    pub pause: Option<Duration>,
    /// The byte of each blob at which it stops, and keeps the connection open.
    pub stops: Option<usize>,
}

/// A request for a blob, and what was given of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The path.
    pub path: String,
    /// The first byte.
    pub from: usize,
    /// How many bytes went into the connection. The client may have seen less.
    pub bytes: usize,
}

/// A running registry; it ends, with its connections, when dropped.
pub struct Scripted {
    address: SocketAddr,
    content: Content,
    manner: Arc<Mutex<Manner>>,
    given: Arc<Mutex<Vec<Given>>>,
    task: tokio::task::JoinHandle<()>,
}

/// Bytes that are written at once.
const PIECE: usize = 64 << 10;

impl Content {
    /// Has these bytes at a path from now on.
    pub fn put(&self, path: &str, media_type: &str, bytes: impl Into<Vec<u8>>) {
        lock(&self.parts).insert(path.to_owned(), (media_type.to_owned(), Arc::new(bytes.into())));
    }

    /// Has a blob.
    pub fn blob(&self, repository: &str, bytes: &[u8]) {
        self.put(&format!("/v2/{repository}/blobs/{}", digest(bytes)), "application/octet-stream", bytes);
    }

    /// Has a manifest by this tag, whatever it is.
    pub fn manifest(&self, repository: &str, tag: &str, bytes: &[u8]) {
        self.put(&format!("/v2/{repository}/manifests/{tag}"), MANIFEST, bytes);
        self.put(&format!("/v2/{repository}/manifests/{}", digest(bytes)), MANIFEST, bytes);
    }

    /// Has an image by this tag, all of it sound as far as its layers are.
    pub fn image(&self, repository: &str, tag: &str, layers: &[Packed]) {
        let (config, manifest) = documents(layers);
        self.blob(repository, config.to_string().as_bytes());
        for layer in layers {
            self.blob(repository, &layer.blob);
        }
        self.manifest(repository, tag, manifest.to_string().as_bytes());
    }
}

impl Scripted {
    /// Starts one with this content and manner, on a free port.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(content: Content, manner: Manner) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at(free, content, manner).await
    }

    /// The same at a given address: where one was before that was dropped.
    ///
    /// # Panics
    /// When the address can't be had.
    pub async fn start_at(address: SocketAddr, content: Content, manner: Manner) -> Self {
        let listener = crate::until(Duration::from_secs(10), "a port", || TcpListener::bind(address)).await;
        let address = listener.local_addr().expect("a bound socket");
        let given = Arc::new(Mutex::new(Vec::new()));
        let manner = Arc::new(Mutex::new(manner));
        let (parts, log, now) = (content.clone(), Arc::clone(&given), Arc::clone(&manner));
        let task = tokio::spawn(async move {
            // Connections end with the registry.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (parts, log, now) = (parts.clone(), Arc::clone(&log), Arc::clone(&now));
                connections.spawn(async move {
                    // A client that goes away in the middle is none of the registry's business.
                    let _ = serve(stream, (&parts, &now), &log).await;
                });
            }
        });
        Self { address, content, manner, given, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The reference of an image in this registry.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Behaves so from the next request on.
    pub fn change(&self, manner: Manner) {
        *lock(&self.manner) = manner;
    }

    /// What it has.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// What it has given of blobs.
    pub fn given(&self) -> Vec<Given> {
        lock(&self.given).clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    stream: TcpStream,
    (content, manner): (&Content, &Mutex<Manner>),
    log: &Mutex<Vec<Given>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (path, range) = request(&mut stream).await?;
    let manner = *lock(manner);
    let found = lock(&content.parts).get(&path).cloned();
    let Some((media_type, bytes)) = found else {
        let head = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        return stream.write_all(head.as_bytes()).await;
    };
    let from = range.unwrap_or(0).min(bytes.len());
    let status = match range {
        Some(_) => format!(
            "206 Partial Content\r\ncontent-range: bytes {from}-{}/{}",
            bytes.len().saturating_sub(1),
            bytes.len()
        ),
        None => "200 OK".to_owned(),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        bytes.len() - from
    );
    stream.write_all(head.as_bytes()).await?;
    if !path.contains("/blobs/") {
        stream.write_all(&bytes[from..]).await?;
        return stream.shutdown().await;
    }
    let number = {
        let mut log = lock(log);
        log.push(Given { path, from, bytes: 0 });
        log.len() - 1
    };
    let end = manner.breaks.map_or(bytes.len(), |most| bytes.len().min(from + most));
    let stop = manner.stops.unwrap_or(end).clamp(from, end);
    for piece in bytes[from..stop].chunks(PIECE) {
        if let Some(pause) = manner.pause {
            tokio::time::sleep(pause).await;
        }
        stream.write_all(piece).await?;
        lock(log)[number].bytes += piece.len();
    }
    if stop < end {
        std::future::pending::<()>().await;
    }
    stream.shutdown().await
}

/// The path that is asked for, and the first byte of it where not all is wanted.
async fn request(stream: &mut BufReader<TcpStream>) -> std::io::Result<(String, Option<usize>)> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let target = line.split_whitespace().nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut from = None;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { return Ok((path, from)) };
        if name.eq_ignore_ascii_case("range") {
            let first = value.strip_prefix("bytes=").and_then(|range| range.split('-').next()?.parse().ok());
            from = first.or(from);
        }
    }
}
