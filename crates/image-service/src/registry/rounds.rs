//! Which endpoint is asked next, and when it is time to give up.
//!
//! ```text
//! round 1: mirror, mirror, registry ─► wait ─► round 2: those whose failure may pass ─► wait, twice as long ─► …
//!             └─ broke off after some bytes ─► the same again, at once, and round 1 once more
//! ```
//!
//! A failure may pass when the endpoint could not be reached, broke off, went silent, or answered 408, 429 or 5xx. After
//! a round without such a failure, or after the last round, the registry's own failure is what counts, those of the
//! mirrors are told beside it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::hosts::Role;
use crate::config::Limits;
use crate::error::{Error, chain};

/// The order of asking, for one thing wanted.
pub(crate) struct Rounds {
    limits: Limits,
    /// Still to be asked in this round.
    queue: VecDeque<Arc<Endpoint>>,
    /// The one being asked.
    current: Option<Arc<Endpoint>>,
    /// What went wrong last, by endpoint.
    failures: Vec<(Arc<Endpoint>, Error)>,
    round: u32,
    /// Requests so far.
    asked: u32,
}

/// Bytes for which a connection was worth its while: whoever gave them and then broke off is asked for the rest at once,
/// and the attempts are counted anew. So a registry that always breaks off still gives all of a layer in the end.
const WORTH: u64 = 64 << 10;

impl Rounds {
    /// Begins with `endpoints`, of which there is at least one; those out of reach lately come last.
    pub(crate) fn new(mut endpoints: Vec<Arc<Endpoint>>, limits: &Limits) -> Rounds {
        endpoints.sort_by_key(|endpoint| endpoint.is_unreachable());
        Rounds {
            limits: limits.clone(),
            queue: endpoints.into(),
            current: None,
            failures: Vec::new(),
            round: 1,
            asked: 0,
        }
    }

    /// The endpoint to be asked now. Waits between rounds. Safe to cancel.
    ///
    /// # Errors
    /// The failure of the whole, when there is nobody left to ask.
    pub(crate) async fn next(&mut self) -> Result<Arc<Endpoint>, Error> {
        if self.queue.is_empty() {
            let Some(wait) = self.wait() else { return Err(self.failure()) };
            tokio::time::sleep(wait).await;
            self.round += 1;
            let again = self.failures.iter().filter(|(_, error)| self.may_pass(error));
            self.queue = again.map(|(endpoint, _)| Arc::clone(endpoint)).collect();
        }
        let Some(endpoint) = self.queue.pop_front() else { return Err(self.failure()) };
        self.current = Some(Arc::clone(&endpoint));
        self.asked += 1;
        Ok(endpoint)
    }

    /// Notes that the endpoint last asked failed.
    pub(crate) fn failed(&mut self, error: Error) {
        let Some(endpoint) = self.current.take() else { return };
        endpoint.set_unreachable(matches!(&error, Error::Request { .. } | Error::Stalled { .. }));
        tracing::debug!(endpoint = %endpoint.host, round = self.round, error = %chain(&error), "an endpoint failed");
        self.failures.retain(|(other, _)| !Arc::ptr_eq(other, &endpoint));
        self.failures.push((endpoint, error));
    }

    /// Notes that the endpoint last asked broke off when it had got us so many bytes further.
    pub(crate) fn broke_off(&mut self, error: Error, bytes: u64) {
        if bytes < WORTH {
            return self.failed(error);
        }
        tracing::debug!(bytes, error = %chain(&error), "an endpoint broke off");
        self.round = 1;
        self.again();
    }

    /// Has the endpoint last asked be the next one too.
    pub(crate) fn again(&mut self) {
        if let Some(endpoint) = self.current.take() {
            self.failures.retain(|(other, _)| !Arc::ptr_eq(other, &endpoint));
            self.queue.push_front(endpoint);
        }
    }

    /// How long to wait before the next round; `None` where there is none.
    fn wait(&self) -> Option<Duration> {
        if self.round >= self.limits.attempts || !self.failures.iter().any(|(_, error)| self.may_pass(error))
        {
            return None;
        }
        let backoff = self.limits.backoff.saturating_mul(1 << (self.round - 1).min(6));
        let asked = self.failures.iter().filter_map(|(_, error)| retry_after(error));
        let asked = asked.filter(|wait| *wait <= self.limits.retry_after).max();
        Some(asked.map_or(Duration::ZERO, later).max(jittered(backoff)))
    }

    fn may_pass(&self, error: &Error) -> bool {
        match error {
            Error::Request { .. }
            | Error::Stalled { .. }
            | Error::TooSlow { .. }
            | Error::BrokenOff { .. } => true,
            Error::Answer { status, .. } => {
                let passing = matches!(status.as_u16(), 408 | 429 | 500..=599);
                passing && retry_after(error).is_none_or(|wait| wait <= self.limits.retry_after)
            }
            _ => false,
        }
    }

    /// The failure of the whole, with the number of attempts where there was more than one round.
    fn failure(&mut self) -> Error {
        let cause = self.last_failure();
        match self.round {
            1 => cause,
            _ => Error::Attempts { attempts: self.asked, cause: Box::new(cause) },
        }
    }

    /// The registry's own failure, or that of the last mirror.
    fn last_failure(&mut self) -> Error {
        let own = self.failures.iter().position(|(endpoint, _)| endpoint.settings.role == Role::Registry);
        let Some(last) = own.or(self.failures.len().checked_sub(1)) else { return Error::ShuttingDown };
        let (_, cause) = self.failures.remove(last);
        if self.failures.is_empty() {
            return cause;
        }
        let mirrors = self.failures.iter().map(|(_, error)| chain(error));
        Error::Mirrors { mirrors: mirrors.collect::<Vec<_>>().join("; "), cause: Box::new(cause) }
    }
}

fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::Answer { retry_after, .. } => *retry_after,
        _ => None,
    }
}

/// Three quarters of `wait` up to five quarters, so that a cluster's nodes don't all come back at once.
fn jittered(wait: Duration) -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let part = u32::try_from(now.tv_nsec / 1_000 % 512).unwrap_or(0);
    wait / 4 * 3 + wait / 1024 * part
}

/// `wait` and up to a quarter more: everybody was told to come back at the same moment.
fn later(wait: Duration) -> Duration {
    wait / 4 + jittered(wait)
}
