//! The digest of a layer's uncompressed bytes, computed on a thread of its own.
//!
//! Decompressing, digesting and writing take about the same time each; with digesting aside, an image of one layer is
//! there a fifth to a third sooner where a second processor is free, and none is later for it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::digest::{Algorithm, Digest, Digester};

/// Buffers that may wait for the thread. Few: they are memory, and more don't make it faster.
const WAITING: usize = 2;

/// Bytes that two threads read at once: the first so many of the buffer.
pub(super) type Shared = (Arc<Vec<u8>>, usize);

/// The thread.
pub(super) struct DigestThread {
    buffers: Option<SyncSender<Shared>>,
    thread: Option<JoinHandle<Digest>>,
}

impl DigestThread {
    pub(super) fn start(algorithm: Algorithm) -> io::Result<DigestThread> {
        let (buffers, received) = sync_channel::<Shared>(WAITING);
        let run = move || {
            let mut digester = Digester::new(algorithm);
            for (buffer, length) in received {
                digester.update(&buffer[..length]);
            }
            digester.finish()
        };
        let thread = std::thread::Builder::new().name("digest".to_owned()).spawn(run)?;
        Ok(DigestThread { buffers: Some(buffers), thread: Some(thread) })
    }

    /// Adds bytes; waits while the thread is behind.
    pub(super) fn update(&self, bytes: Shared) {
        if let Some(buffers) = &self.buffers {
            // The thread ends only after the channel, or by a panic, which `finish` tells.
            let _ = buffers.send(bytes);
        }
    }

    /// The digest of all bytes.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        self.buffers = None;
        let digest = self.thread.take().map(JoinHandle::join);
        digest.and_then(Result::ok).ok_or_else(|| io::Error::other("the digesting thread failed"))
    }
}

impl Drop for DigestThread {
    fn drop(&mut self) {
        self.buffers = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
