//! A registry that breaks off, trickles, goes away and comes back, and knows of every byte how often it gave it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::image::Content;
use crate::registry::{Reply, Request, read};

/// How it gives large blobs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Bytes after which each connection ends.
    pub(crate) breaks_after: usize,
    /// Bytes that are given at once, and the pause after them.
    pub(crate) pieces: (usize, Duration),
    pub(crate) knows_ranges: bool,
    /// Bytes of large blobs after which it gives nothing more, but keeps connections open.
    pub(crate) gives: u64,
}

impl Default for Manner {
    fn default() -> Manner {
        let pieces = (64 << 10, Duration::ZERO);
        Manner { breaks_after: usize::MAX, pieces, knows_ranges: true, gives: u64::MAX }
    }
}

/// Bytes from which on a blob is large.
const LARGE: usize = 1 << 20;

/// What it did.
#[derive(Debug, Default)]
struct Done {
    /// Of each large blob: path, first byte and number of bytes of each answer.
    answers: Vec<(String, u64, u64)>,
    given: u64,
}

/// The registry; it listens until it is stopped.
pub(crate) struct Breaking {
    pub(crate) address: SocketAddr,
    content: Arc<Content>,
    manner: Arc<Mutex<Manner>>,
    done: Arc<Mutex<Done>>,
    task: Option<JoinHandle<()>>,
}

impl Breaking {
    pub(crate) async fn start(content: Content, manner: Manner) -> Breaking {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut registry = Breaking {
            address: listener.local_addr().unwrap(),
            content: Arc::new(content),
            manner: Arc::new(Mutex::new(manner)),
            done: Arc::default(),
            task: None,
        };
        registry.serve(listener);
        registry
    }

    pub(crate) fn change(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// Ends all connections and listens no more.
    pub(crate) async fn stop(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    /// Listens again, at the same address.
    pub(crate) async fn restart(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.serve(socket.listen(64).unwrap());
    }

    /// Bytes of large blobs given so far.
    pub(crate) fn given(&self) -> u64 {
        self.done.lock().unwrap().given
    }

    /// Answers with large blobs so far.
    pub(crate) fn answers(&self) -> usize {
        self.done.lock().unwrap().answers.len()
    }

    /// Bytes that were given of `path` more than once: each answer's part before the end of what had been given.
    pub(crate) fn given_again(&self, path: &str) -> u64 {
        let done = self.done.lock().unwrap();
        let mut end = 0;
        let mut again = 0;
        for (_, first, count) in done.answers.iter().filter(|(answered, ..)| answered == path) {
            assert!(*first <= end, "bytes from {end} to {first} were never asked for");
            again += (end - first).min(*count);
            end = end.max(first + count);
        }
        again
    }

    fn serve(&mut self, listener: TcpListener) {
        let (content, manner, done) =
            (Arc::clone(&self.content), Arc::clone(&self.manner), Arc::clone(&self.done));
        self.task = Some(tokio::spawn(async move {
            // They end with this task.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (content, manner, done) = (Arc::clone(&content), Arc::clone(&manner), Arc::clone(&done));
                connections.spawn(async move {
                    // A client that goes away in the middle is none of the test's business.
                    let _ = answer(stream, &content, &manner, &done).await;
                });
            }
        }));
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}

async fn answer(
    stream: TcpStream,
    content: &Content,
    manner: &Mutex<Manner>,
    done: &Mutex<Done>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let request = read(&mut stream).await?;
    let now = *manner.lock().unwrap();
    let reply = content.reply(&request);
    let large = reply.body.len() >= LARGE;
    let reply = if now.knows_ranges { reply.ranged(&request) } else { reply };
    stream.write_all(head(&reply).as_bytes()).await?;
    if !large {
        stream.write_all(&reply.body).await?;
        return stream.shutdown().await;
    }
    let number = begin(&request, &reply, done);
    let end = reply.body.len().min(now.breaks_after);
    for piece in reply.body[..end].chunks(now.pieces.0) {
        while done.lock().unwrap().given + piece.len() as u64 > manner.lock().unwrap().gives {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Counted before: what is on its way may have arrived.
        {
            let mut done = done.lock().unwrap();
            done.given += piece.len() as u64;
            done.answers[number].2 += piece.len() as u64;
        }
        stream.write_all(piece).await?;
        stream.flush().await?;
        if !now.pieces.1.is_zero() {
            tokio::time::sleep(now.pieces.1).await;
        }
    }
    stream.shutdown().await
}

fn begin(request: &Request, reply: &Reply, done: &Mutex<Done>) -> usize {
    let range = reply.headers.iter().find(|(name, _)| name == "content-range");
    let first = range.and_then(|(_, range)| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    let mut done = done.lock().unwrap();
    done.answers.push((request.path.clone(), first.unwrap_or(0), 0));
    done.answers.len() - 1
}

fn head(reply: &Reply) -> String {
    let mut head = format!("HTTP/1.1 {} Status\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "connection: close\r\n\r\n"
}
