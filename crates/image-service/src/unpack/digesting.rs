//! Digests of a layer, computed on one thread beside the one that unpacks it: that of the compressed bytes and that of
//! the uncompressed ones.
//!
//! Both together take half as long as decompressing gzip, and half as long again as decompressing zstd (measured with
//! programs' bytes). With the uncompressed ones digested aside, an image of one layer was there a fifth to a third sooner where
//! a second processor was free, and none was later for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use super::meter::{Meter, Stage, thread_time};
use crate::digest::{Algorithm, Digest, Digester};

/// Pieces that may wait for the thread. Few: they are memory, and more don't make it faster.
const WAITING: usize = 3;

/// Bytes that two threads read at once.
pub(crate) enum Piece {
    /// The first so many of a buffer.
    Buffer(Arc<Vec<u8>>, usize),
    /// A chunk as it came from the network.
    Chunk(Bytes),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Buffer(buffer, length) => &buffer[..*length],
            Piece::Chunk(bytes) => bytes,
        }
    }
}

enum Job {
    Begin(Algorithm),
    Update(usize, Piece),
    Tell(usize, SyncSender<Digest>),
}

/// The thread. It ends with the last clone of this and the last [`Lane`].
#[derive(Debug, Clone)]
pub(crate) struct Digesting {
    thread: Arc<Thread>,
}

#[derive(Debug)]
struct Thread {
    jobs: Option<SyncSender<Job>>,
    lanes: AtomicUsize,
    handle: Option<JoinHandle<()>>,
}

/// One digest in the making.
#[derive(Debug)]
pub(crate) struct Lane {
    thread: Arc<Thread>,
    number: usize,
}

impl Digesting {
    pub(crate) fn start(meter: Arc<Meter>) -> io::Result<Digesting> {
        let (jobs, received) = sync_channel(WAITING);
        let run = move || run(&received, &meter);
        let handle = std::thread::Builder::new().name("digest".to_owned()).spawn(run)?;
        let thread = Thread { jobs: Some(jobs), lanes: AtomicUsize::new(0), handle: Some(handle) };
        Ok(Digesting { thread: Arc::new(thread) })
    }

    /// Begins a digest. Lanes are begun by one thread at a time.
    pub(crate) fn lane(&self, algorithm: Algorithm) -> Lane {
        self.thread.send(Job::Begin(algorithm));
        let number = self.thread.lanes.fetch_add(1, Ordering::Relaxed);
        Lane { thread: Arc::clone(&self.thread), number }
    }
}

impl Lane {
    /// Adds bytes; waits while the thread is behind.
    pub(crate) fn update(&self, piece: Piece) {
        self.thread.send(Job::Update(self.number, piece));
    }

    /// The digest of all bytes. Waits for the thread.
    pub(crate) fn finish(&self) -> io::Result<Digest> {
        let (tell, told) = sync_channel(1);
        self.thread.send(Job::Tell(self.number, tell));
        told.recv().map_err(|_| io::Error::other("the digesting thread failed"))
    }
}

impl Thread {
    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only after the channel, or by a panic, which `finish` tells.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

fn run(jobs: &Receiver<Job>, meter: &Meter) {
    let mut lanes: Vec<Digester> = Vec::new();
    let mut counted = Duration::ZERO;
    for job in jobs {
        match job {
            Job::Begin(algorithm) => lanes.push(Digester::new(algorithm)),
            Job::Update(lane, piece) => lanes.get_mut(lane).into_iter().for_each(|d| d.update(piece.bytes())),
            Job::Tell(lane, tell) => {
                let used = thread_time();
                meter.spent(Stage::Hashing, used.saturating_sub(counted));
                counted = used;
                if let Some(digester) = lanes.get(lane) {
                    // Who asked and went away doesn't want to know.
                    let _ = tell.send(digester.clone().finish());
                }
            }
        }
    }
}
