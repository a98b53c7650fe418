//! One layer: from an endpoint's bytes to the layer store.
//!
//! ```text
//! endpoint ─► chunks ─► pump (a thread: digest of the compressed bytes) ─► LayerWriter (a thread: unpacking)
//! ```
//!
//! When a connection breaks, the next one goes on where it broke off, from the same endpoint or another: the digest of
//! the whole proves the parts. If the whole is wrong, an endpoint has lied, and the layer begins anew with the next one.
//! Not here: decompression and files (`layers`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use reqwest::StatusCode;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore, mpsc, oneshot};

use crate::digest::{Digest, Digester};
use crate::error::Error;
use crate::layers::{Layer, LayerWriter, Layers, NewLayer};
use crate::manifest::Descriptor;
use crate::registry::{Body, Endpoint, Repository};

/// Chunks on their way to the pump: enough to bridge a hiccup. Each holds a read buffer of up to 400 KiB.
const CHUNKS: usize = 4;

/// The layers being fetched by whatever pull, so that each is fetched once.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    locks: Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>,
}

impl Fetches {
    /// Waits until nobody else fetches this layer. Safe to cancel.
    async fn only_one(&self, diff_id: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(diff_id).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(AsyncMutex::new(()));
                    locks.insert(diff_id.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// A layer to be fetched.
pub(super) struct LayerFetch {
    pub(super) repository: Arc<Repository>,
    pub(super) layers: Layers,
    pub(super) fetches: Arc<Fetches>,
    /// Connections that this pull may have.
    pub(super) slots: Arc<Semaphore>,
    /// Kept by every thread that works for this pull: closed, when all have ended.
    pub(super) working: mpsc::Sender<()>,
    pub(super) diff_id: Digest,
    pub(super) blob: Descriptor,
}

impl LayerFetch {
    /// Fetches the layer, unless it is in the store by the time that it is our turn. Cancelled, it leaves nothing.
    ///
    /// # Errors
    /// The registry's failure, or the layer's.
    pub(super) async fn run(self) -> Result<Layer, Error> {
        let _turn = self.fetches.only_one(&self.diff_id).await;
        if let Some(layer) = self.layers.get(&self.diff_id) {
            return Ok(layer);
        }
        // The semaphore is never closed; and if it were, without a bound is better than without a layer.
        let _slot = self.slots.acquire().await;
        let mut rounds = self.repository.pull_rounds()?;
        let mut pump = self.pump();
        loop {
            let endpoint = rounds.next().await?;
            match self.transfer(&endpoint, &mut pump).await {
                Ok(()) => {}
                Err(Interrupted::Network(error)) => {
                    rounds.failed(error);
                    continue;
                }
                // The pump's own outcome says why.
                Err(Interrupted::PumpStopped) => {}
            }
            match pump.finish().await {
                Err(error @ Error::DigestMismatch { .. }) => rounds.failed(error),
                outcome => return outcome,
            }
            pump = self.pump();
        }
    }

    fn pump(&self) -> Pump {
        Pump::start(PumpPlan {
            layers: self.layers.clone(),
            diff_id: self.diff_id.clone(),
            expected: self.blob.digest.clone(),
            working: self.working.clone(),
        })
    }

    /// Moves what lacks of the layer from `endpoint` into the pump.
    async fn transfer(&self, endpoint: &Endpoint, pump: &mut Pump) -> Result<(), Interrupted> {
        let size = self.blob.size;
        if pump.received == size && size > 0 {
            return Ok(());
        }
        let mut body = self.repository.blob_from(endpoint, &self.blob.digest, pump.received).await?;
        let mut skip = bytes_before(&body, pump.received);
        pump.url.clone_from(&body.url);
        while let Some(mut chunk) = body.chunk().await? {
            let known = skip.min(chunk.len() as u64);
            skip -= known;
            let _ = chunk.split_to(usize::try_from(known).unwrap_or(usize::MAX));
            if pump.received + chunk.len() as u64 > size {
                return Err(Error::TooLarge { url: body.url.clone(), limit: size }.into());
            }
            pump.send(chunk).await?;
        }
        if pump.received < size {
            return Err(
                Error::BrokenOff { url: body.url.clone(), received: pump.received, expected: size }.into()
            );
        }
        Ok(())
    }
}

/// How many bytes of an answer we have already: none if the endpoint goes on at `offset` as it was asked to.
fn bytes_before(body: &Body, offset: u64) -> u64 {
    if body.status() != StatusCode::PARTIAL_CONTENT {
        return offset;
    }
    // `bytes <first>-<last>/<length>` (RFC 9110 section 14.4).
    let range = body.header("content-range").and_then(|text| text.trim().strip_prefix("bytes "));
    let first = range.and_then(|range| range.split('-').next()).and_then(|first| first.trim().parse().ok());
    offset.saturating_sub(first.unwrap_or(offset))
}

/// Why a transfer ended early.
enum Interrupted {
    Network(Error),
    PumpStopped,
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Interrupted {
        Interrupted::Network(error)
    }
}

/// Hashes compressed bytes and hands them to the layer store, on a thread of its own. Dropped unfinished, it makes the
/// thread give the layer up.
struct Pump {
    pieces: mpsc::Sender<Piece>,
    outcome: oneshot::Receiver<Result<Layer, Error>>,
    /// Bytes sent.
    received: u64,
    /// Where they came from last.
    url: String,
}

enum Piece {
    Bytes(Bytes),
    /// All bytes have come, lastly from this address.
    End {
        url: String,
    },
}

impl Pump {
    fn start(plan: PumpPlan) -> Pump {
        let (pieces, received) = mpsc::channel(CHUNKS);
        let (tell, outcome) = oneshot::channel();
        let working = plan.working.clone();
        tokio::task::spawn_blocking(move || {
            // Nobody wants it any more: then it is dropped here, and with it what keeps the layer from being collected.
            drop(tell.send(plan.run(received)));
            drop(working);
        });
        Pump { pieces, outcome, received: 0, url: String::new() }
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Interrupted> {
        let count = bytes.len() as u64;
        self.pieces.send(Piece::Bytes(bytes)).await.map_err(|_| Interrupted::PumpStopped)?;
        self.received += count;
        Ok(())
    }

    /// Ends the layer, which is in the store when this returns.
    async fn finish(self) -> Result<Layer, Error> {
        let Pump { pieces, outcome, url, .. } = self;
        // Nobody there any more: then the outcome is an error already.
        let _ = pieces.send(Piece::End { url }).await;
        drop(pieces);
        outcome.await.unwrap_or(Err(Error::ShuttingDown))
    }
}

struct PumpPlan {
    layers: Layers,
    diff_id: Digest,
    /// Digest of the compressed bytes.
    expected: Digest,
    /// Dropped last, when a layer that was given up has gone.
    working: mpsc::Sender<()>,
}

impl PumpPlan {
    fn run(self, mut pieces: mpsc::Receiver<Piece>) -> Result<Layer, Error> {
        let mut digester = Digester::new(self.expected.algorithm());
        let mut target = Target::Writing(self.layers.begin(NewLayer { diff_id: self.diff_id.clone() })?);
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Bytes(bytes) => {
                    digester.update(&bytes);
                    target = target.write(bytes)?;
                }
                Piece::End { url } => {
                    let actual = digester.finish();
                    if actual != self.expected {
                        return Err(Error::DigestMismatch { url, expected: self.expected, actual });
                    }
                    return target.commit();
                }
            }
        }
        // The fetch was given up, and nobody reads this.
        Err(Error::ShuttingDown)
    }
}

/// Where the bytes go.
enum Target {
    Writing(LayerWriter),
    /// Unpacking failed because of what the bytes are. They are still hashed: if the digest is wrong too, then that is
    /// the reason, and another endpoint may do better.
    Failed(Error),
}

impl Target {
    fn write(self, bytes: Bytes) -> Result<Target, Error> {
        let Target::Writing(mut writer) = self else { return Ok(self) };
        match writer.write(bytes) {
            Ok(()) => Ok(Target::Writing(writer)),
            Err(error) if error.kind() == crate::error::ErrorKind::Corrupt => Ok(Target::Failed(error)),
            Err(error) => Err(error),
        }
    }

    fn commit(self) -> Result<Layer, Error> {
        match self {
            Target::Writing(writer) => writer.commit(),
            Target::Failed(error) => Err(error),
        }
    }
}
