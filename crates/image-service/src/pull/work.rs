//! The thread that makes a layer of compressed bytes, and the handle by which it is fed.
//!
//! It is confined before it sees a byte (`confinement`). It has one thread more beside it, for digests (`unpack::digesting`): an image of one layer keeps two processors busy so, and
//! those of eight layers do anyway.

use std::cell::RefCell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::chunk::{Chunk, Chunks, User};
use super::inlet::{Arrival, Inlet, InletPlan};
use super::layer::{Fetching, Interrupted, LayerFetch};
use super::progress::LayerMeter;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::layers::{Layer, NewLayer};
use crate::manifest::Descriptor;
use crate::step;
use crate::unpack::{Digesting, Tools};

/// Chunks on their way to the thread: enough to bridge a hiccup.
const CHUNKS: usize = 2;

/// Feeds the thread. Dropped unfinished, it makes the thread give the layer up.
pub(super) struct Pump {
    arrivals: mpsc::Sender<Arrival>,
    kept: Option<oneshot::Receiver<u64>>,
    outcome: oneshot::Receiver<Outcome>,
    given_up: GivenUp,
    /// One that isn't full.
    chunk: Option<Chunk>,
    user: User,
    /// Bytes that the thread has or will get.
    pub(super) received: u64,
    /// Answers that the others came from.
    answers: u32,
    /// Where the last ones came from.
    url: String,
}

/// What came of a layer.
pub(super) struct Outcome {
    pub(super) layer: Result<Layer, Error>,
    /// Some of the bytes were kept by an earlier attempt.
    pub(super) resumed: bool,
}

/// Tells the thread when it isn't wanted any more, should it wait for something else than bytes.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Pump {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub(super) fn start(fetch: &LayerFetch) -> Result<Pump, Error> {
        let (arrivals, arriving) = mpsc::channel(CHUNKS);
        let (tell_kept, kept) = oneshot::channel();
        let (tell, outcome) = oneshot::channel();
        let given_up: Arc<AtomicBool> = Arc::default();
        let work = Work {
            with: fetch.with.clone(),
            diff_id: fetch.diff_id.clone(),
            blob: fetch.blob.clone(),
            meter: Arc::clone(&fetch.meter),
            given_up: Arc::clone(&given_up),
        };
        let run = move || {
            // Nobody wants it any more: then it is dropped here, and with it what keeps the layer from being collected.
            drop(tell.send(work.run(arriving, tell_kept)));
            drop(work);
        };
        let thread = std::thread::Builder::new().name("unpack".to_owned()).spawn(run);
        thread.map_err(|cause| Error::Thread { what: "unpacking a layer", cause })?;
        let given_up = GivenUp(given_up);
        let (kept, chunk, user) = (Some(kept), None, User::default());
        let (received, answers, url) = (0, 0, String::new());
        Ok(Pump { arrivals, kept, outcome, given_up, chunk, user, received, answers, url })
    }

    /// Waits until the bytes of an earlier attempt have passed. Safe to cancel.
    ///
    /// # Errors
    /// The thread has stopped.
    pub(super) async fn ready(&mut self) -> Result<(), Interrupted> {
        if let Some(kept) = self.kept.take() {
            self.received = kept.await.map_err(|_| Interrupted::PumpStopped)?;
        }
        Ok(())
    }

    /// The next bytes are an answer from this address.
    pub(super) fn begin_part(&mut self, url: &str) {
        self.answers += 1;
        url.clone_into(&mut self.url);
    }

    /// Whether the bytes are of several answers.
    pub(super) fn is_of_parts(&self) -> bool {
        self.answers > 1
    }

    /// Takes what has come, in chunks of `chunks`.
    ///
    /// # Errors
    /// The thread has stopped.
    pub(super) async fn add(&mut self, mut bytes: Bytes, chunks: &Chunks) -> Result<(), Interrupted> {
        while !bytes.is_empty() {
            let chunk = match &mut self.chunk {
                Some(chunk) => chunk,
                None => self.chunk.insert(chunks.take(&self.user, self.received).await),
            };
            self.received += chunk.fill(&mut bytes);
            if chunk.is_full() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Whether bytes wait for their chunk to be full.
    pub(super) fn holds_some(&self) -> bool {
        self.chunk.is_some()
    }

    /// Sends the chunk that isn't full.
    ///
    /// # Errors
    /// The thread has stopped.
    pub(super) async fn flush(&mut self) -> Result<(), Interrupted> {
        let Some(chunk) = self.chunk.take() else { return Ok(()) };
        let sent = self.arrivals.send(Arrival::Bytes(chunk.into_bytes())).await;
        sent.map_err(|_| Interrupted::PumpStopped)
    }

    /// Ends the layer, which is in the store when this returns.
    pub(super) async fn finish(mut self) -> Outcome {
        // Nobody there any more: then the outcome is an error already.
        let _ = self.flush().await;
        let Pump { arrivals, outcome, url, given_up, .. } = self;
        let _ = arrivals.send(Arrival::End { url }).await;
        drop(arrivals);
        let outcome = outcome.await;
        drop(given_up);
        outcome.unwrap_or(Outcome { layer: Err(Error::ShuttingDown), resumed: false })
    }
}

/// What the thread works with.
struct Work {
    /// With it, what the pull waits for at its end: dropped last, when a layer that was given up has gone.
    with: Fetching,
    diff_id: Digest,
    blob: Descriptor,
    meter: Arc<LayerMeter>,
    given_up: Arc<AtomicBool>,
}

impl Work {
    fn run(&self, arrivals: mpsc::Receiver<Arrival>, tell: oneshot::Sender<u64>) -> Outcome {
        // Before the digesting thread, which is bounded with this one.
        let may_begin = step::at_once("unpack").and_then(|()| self.with.layers.confine());
        let tools = match may_begin.and_then(|()| self.tools()) {
            Ok(tools) => tools,
            Err(error) => return Outcome { layer: Err(error), resumed: false },
        };
        let expected = self.blob.digest.clone();
        let inlet = Inlet::new(InletPlan {
            arrivals,
            spool: self.with.spools.take(&expected, self.blob.size),
            tell,
            lane: tools.digesting.lane(expected.algorithm()),
            expected,
            meter: Arc::clone(&self.meter),
        });
        let back = Rc::new(RefCell::new(None));
        let source = Lent { inlet: Some(inlet), back: Rc::clone(&back) };
        let layer = self.with.layers.receive(NewLayer { diff_id: self.diff_id.clone() }, source, tools);
        match back.take() {
            Some(inlet) => Outcome { resumed: inlet.has_resumed(), layer: verdict(layer, inlet) },
            // It wasn't even begun.
            None => Outcome { layer, resumed: false },
        }
    }

    fn tools(&self) -> Result<Tools, Error> {
        let meter = Arc::clone(&self.meter.layer);
        let digesting = Digesting::start(Arc::clone(&meter));
        let digesting = digesting.map_err(|cause| Error::Thread { what: "digesting a layer", cause })?;
        let limits = &self.with.limits;
        Ok(Tools {
            digesting,
            meter,
            windows: Arc::clone(&self.with.budget.windows),
            most: limits.unpacked_floor.saturating_add(self.blob.size.saturating_mul(limits.expansion)),
            given_up: Arc::clone(&self.given_up),
        })
    }
}

/// What came of the bytes, and what is kept of them. If unpacking failed because of what they are, they are still digested
/// to the end: if the digest is wrong too, then that is the reason, and another endpoint may do better.
fn verdict(layer: Result<Layer, Error>, mut inlet: Inlet) -> Result<Layer, Error> {
    match &layer {
        Err(_) if inlet.given_up => return layer,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            inlet.forget();
            // Of an earlier attempt's bytes the rest isn't worth fetching: without them it will be seen better.
            if !inlet.has_resumed() && inlet.wrong.is_none() {
                let _ = inlet.drain();
            }
        }
        Ok(_) => inlet.forget(),
        // What is kept on a full disk is given up with all else that is (`room`).
        Err(_) => {}
    }
    inlet.wrong.take().map_or(layer, Err)
}

/// An inlet that comes back when it was read.
struct Lent {
    inlet: Option<Inlet>,
    back: Rc<RefCell<Option<Inlet>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.back.borrow_mut() = self.inlet.take();
    }
}

impl BufRead for Lent {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inlet.as_mut().map_or(Ok(&[]), BufRead::fill_buf)
    }

    fn consume(&mut self, amount: usize) {
        self.inlet.iter_mut().for_each(|inlet| inlet.consume(amount));
    }
}

impl Read for Lent {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.inlet.as_mut().map_or(Ok(0), |inlet| inlet.read(into))
    }
}
