//! What was asked of whom, and what was answered, for who wants to know.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// A request and its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exchange {
    /// `HEAD`, `GET` or `POST`.
    pub method: String,
    /// What was asked for, without its query.
    pub url: String,
    /// The HTTP status of the answer, if there was one.
    pub status: Option<u16>,
    /// Why there was none.
    pub failure: Option<String>,
    /// Milliseconds until the answer began.
    pub milliseconds: u64,
}

/// The requests of one call, in their order.
#[derive(Debug, Default)]
pub(crate) struct Trace(Mutex<Vec<Exchange>>);

impl Trace {
    /// Adds a request that was begun at `begun` and has this outcome.
    pub(super) fn add(&self, (method, url): (&str, &str), begun: Instant, outcome: Result<u16, String>) {
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (status, failure) = match outcome {
            Ok(status) => (Some(status), None),
            Err(failure) => (None, Some(failure)),
        };
        let exchange =
            Exchange { method: method.to_owned(), url: url.to_owned(), status, failure, milliseconds };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
    }

    /// All of them so far.
    pub(super) fn exchanges(&self) -> Vec<Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
