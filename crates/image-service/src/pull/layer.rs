//! One layer: from an endpoint's bytes to the thread that makes a layer of them.
//!
//! ```text
//!                     bytes of an earlier attempt ─┐
//! endpoint ─► chunks, counted ─► channel ─► a thread: Inlet (digest, spool) ─► Layers::receive: unpacked, synced
//! ```
//!
//! When a connection breaks, the next one goes on where it broke off, from the same endpoint or another: the digest of
//! the whole proves the parts. If a whole of several parts is wrong, it begins anew with the same endpoint; if one of a
//! single part is wrong, the endpoint has lied, and it begins anew with the next one.
//! Not here: decompression and files (`unpack`, `layers`), the thread's own part (`work`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use reqwest::StatusCode;
use tokio::sync::mpsc;

use super::budget::{Budget, PullNumber};
use super::fetches::Fetches;
use super::progress::LayerMeter;
use super::spool::Spools;
use super::work::{Outcome, Pump};
use crate::config::Limits;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::layers::{Layer, Layers};
use crate::manifest::Descriptor;
use crate::registry::{Body, Endpoint, Repository, Rounds};
use crate::step;

/// How long bytes wait for others to fill their chunk.
const LINGER: Duration = Duration::from_millis(5);

/// What all layers of one pull are fetched with.
#[derive(Clone)]
pub(super) struct Fetching {
    pub(super) repository: Arc<Repository>,
    pub(super) layers: Layers,
    pub(super) fetches: Arc<Fetches>,
    pub(super) budget: Arc<Budget>,
    pub(super) spools: Arc<Spools>,
    pub(super) limits: Limits,
    pub(super) pull: PullNumber,
    /// Kept by every thread that works for this pull: closed, when all have ended.
    pub(super) _working: mpsc::Sender<()>,
}

/// A layer to be fetched.
pub(super) struct LayerFetch {
    pub(super) with: Fetching,
    pub(super) diff_id: Digest,
    pub(super) blob: Descriptor,
    pub(super) meter: Arc<LayerMeter>,
}

impl LayerFetch {
    /// Fetches the layer, unless it is in the store by the time that it is our turn. Cancelled, it leaves nothing but what
    /// a later attempt can go on with.
    ///
    /// # Errors
    /// The registry's failure, or the layer's.
    pub(super) async fn run(self) -> Result<Layer, Error> {
        let _turn = self.with.fetches.only_one(self.with.repository.registry(), &self.diff_id).await;
        if let Some(layer) = self.with.layers.get(&self.diff_id) {
            self.meter.already_here();
            return Ok(layer);
        }
        let _connection = self.with.budget.connection(self.with.pull).await;
        let mut rounds = self.with.repository.pull_rounds()?;
        let mut may_begin_anew = true;
        loop {
            self.meter.begins();
            let mut pump = step::before("fetch", async { Pump::start(&self) }).await?;
            self.fill(&mut rounds, &mut pump).await?;
            let in_parts = pump.is_of_parts();
            let Outcome { layer, resumed } = pump.finish().await;
            match layer {
                Err(error) if may_begin_anew && is_for_the_parts(&error, resumed, in_parts) => {
                    tracing::debug!(layer = %self.blob.digest, %error, "a layer of several parts begins anew");
                    may_begin_anew = false;
                    rounds.again();
                }
                Err(error @ Error::DigestMismatch { .. }) => rounds.failed(error),
                Err(error) => return Err(error),
                Ok(layer) => {
                    self.meter.done();
                    return Ok(layer);
                }
            }
            self.meter.retried();
        }
    }

    /// Moves what lacks of the layer into the pump, from one endpoint after the other. It may have stopped by itself when
    /// this returns; its outcome says why.
    async fn fill(&self, rounds: &mut Rounds, pump: &mut Pump) -> Result<(), Error> {
        if pump.ready().await.is_err() || pump.received == self.blob.size && self.blob.size > 0 {
            return Ok(());
        }
        loop {
            let endpoint = rounds.next().await?;
            let before = pump.received;
            match self.transfer(&endpoint, pump).await {
                Ok(()) | Err(Interrupted::PumpStopped) => return Ok(()),
                Err(Interrupted::Network(error)) => rounds.broke_off(error, pump.received - before),
            }
            if pump.flush().await.is_err() {
                return Ok(());
            }
            self.meter.retried();
        }
    }

    /// Moves what lacks of the layer from `endpoint` into the pump.
    async fn transfer(&self, endpoint: &Endpoint, pump: &mut Pump) -> Result<(), Interrupted> {
        let size = self.blob.size;
        let asked = self.with.repository.blob_from(endpoint, &self.blob.digest, pump.received).await;
        let mut body = match asked {
            // What we have is no part of what it has. The digest will say whose fault that is.
            Err(Error::Answer { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) if pump.received > 0 => {
                return Ok(());
            }
            asked => asked?,
        };
        let mut skip = bytes_before(&body, pump.received);
        let mut pace = Pace::new(&self.with.limits);
        pump.begin_part(&body.url);
        while let Some(mut bytes) = next(&mut body, &mut pace, pump).await? {
            let (all, known) = (bytes.len() as u64, skip.min(bytes.len() as u64));
            skip -= known;
            bytes.advance(usize::try_from(known).unwrap_or(usize::MAX));
            self.meter.fetched(all, all - known);
            if pump.received + bytes.len() as u64 > size {
                return Err(Error::TooLarge { url: body.url.clone(), limit: size }.into());
            }
            pump.add(bytes, &self.with.budget.chunks).await?;
        }
        if pump.received < size {
            return Err(
                Error::BrokenOff { url: body.url.clone(), received: pump.received, expected: size }.into()
            );
        }
        Ok(())
    }
}

/// The next bytes of `body`. What has come before goes on its way when they are long in coming.
async fn next(body: &mut Body, pace: &mut Pace, pump: &mut Pump) -> Result<Option<Bytes>, Interrupted> {
    if pump.holds_some() {
        if let Ok(next) = tokio::time::timeout(LINGER, pace.next(body)).await {
            return Ok(next?);
        }
        pump.flush().await?;
    }
    Ok(pace.next(body).await?)
}

/// Whether a failure may be due to parts that don't belong together: what an earlier attempt kept, or what several answers
/// gave.
fn is_for_the_parts(error: &Error, resumed: bool, in_parts: bool) -> bool {
    match error {
        Error::DigestMismatch { .. } => resumed || in_parts,
        error => resumed && error.kind() == ErrorKind::Corrupt,
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

/// Watches that enough bytes come. Only the time counts in which we wait for them, not that in which they wait for us.
struct Pace {
    period: Duration,
    least: u64,
    waited: Duration,
    came: u64,
}

impl Pace {
    fn new(limits: &Limits) -> Pace {
        Pace { period: limits.stall, least: limits.stall_bytes, waited: Duration::ZERO, came: 0 }
    }

    /// The next bytes of `body`.
    async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, Error> {
        let begun = Instant::now();
        let chunk = body.chunk().await?;
        self.waited += begun.elapsed();
        self.came += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.waited >= self.period {
            if self.came < self.least && chunk.is_some() {
                return Err(Error::TooSlow {
                    url: body.url.clone(),
                    received: self.came,
                    waited: self.waited,
                });
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Ok(chunk)
    }
}

/// Why a transfer ended early.
pub(super) enum Interrupted {
    Network(Error),
    PumpStopped,
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Interrupted {
        Interrupted::Network(error)
    }
}
