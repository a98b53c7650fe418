//! A layer whose compressed bytes are handed over piece by piece: a thread that unpacks them, and the channel to it.
//!
//! Not here: what makes a layer of them (`draft`).

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use bytes::Bytes;

use super::draft::Draft;
use super::{Inner, Layer, NewLayer, store};
use crate::digest::Digest;
use crate::error::Error;
use crate::unpack::{self, Chunk, Tools};

/// Bytes that one zstd frame may refer back to: as in pulls, by default.
const WINDOW: u64 = 128 << 20;

/// Takes the compressed bytes of a layer and unpacks them on a thread of its own, while more are on their way.
///
/// Dropped without [`LayerWriter::commit`], it leaves nothing.
#[derive(Debug)]
pub struct LayerWriter {
    diff_id: Digest,
    chunks: Option<SyncSender<Chunk>>,
    thread: Option<JoinHandle<Result<Layer, Error>>>,
}

impl LayerWriter {
    pub(super) fn begin(inner: &Arc<Inner>, new: NewLayer, most: u64) -> Result<LayerWriter, Error> {
        let diff_id = new.diff_id.clone();
        let draft = Draft::begin(inner, new)?;
        let (chunks, received) = unpack::channel();
        let tools = Tools::alone(WINDOW);
        let tools = tools.map_err(|cause| store("start a thread that fills", &inner.root, cause))?;
        let tools = Tools { most, ..tools };
        let run = move || {
            draft.confine()?;
            draft.receive(received, tools)
        };
        let thread = std::thread::Builder::new().name("unpack".to_owned()).spawn(run);
        let thread = thread.map_err(|cause| store("start the thread that fills", &inner.root, cause))?;
        Ok(LayerWriter { diff_id, chunks: Some(chunks), thread: Some(thread) })
    }

    /// Hands over the next compressed bytes. Blocks while the unpacking thread is behind.
    ///
    /// # Errors
    /// Whatever made the layer fail: a broken archive or stream, a refused entry, [`Error::NoSpace`].
    pub fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.send(Chunk::Bytes(bytes))
    }

    /// Ends the layer and makes it visible, unless another writer has done so meanwhile.
    ///
    /// # Errors
    /// As [`LayerWriter::write`]; [`Error::LayerDigest`] if the bytes are another layer's.
    pub fn commit(mut self) -> Result<Layer, Error> {
        self.send(Chunk::End)?;
        self.join()
    }

    fn send(&mut self, chunk: Chunk) -> Result<(), Error> {
        let sent = self.chunks.as_ref().map(|chunks| chunks.send(chunk));
        match sent {
            Some(Ok(())) => Ok(()),
            // The thread ends early only when it fails; its outcome says why.
            Some(Err(_)) | None => match self.join() {
                Err(error) => Err(error),
                Ok(_) => Err(stopped(&self.diff_id)),
            },
        }
    }

    fn join(&mut self) -> Result<Layer, Error> {
        self.chunks = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) | None => Err(stopped(&self.diff_id)),
        }
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The error of a writer that is used after it failed.
fn stopped(diff_id: &Digest) -> Error {
    let cause = io::Error::other("unpacking it has failed before");
    Error::LayerStream { diff_id: diff_id.clone(), cause }
}
