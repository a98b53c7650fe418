//! The stages of a pull, as spans of `tracing` called `stage`: whoever listens to spans knows what takes how long.
//!
//! Not here: what layers spend their time on side by side (see `statistics`).

use tracing::Instrument;
use tracing::field::Empty;

use crate::error::Error;
use crate::step;

/// Does work that is a stage. As safe to cancel as the work is.
///
/// # Errors
/// Those of the work.
pub(super) async fn stage<T>(
    stage: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    // Of the highest level, so that it is there whatever is logged.
    let span = tracing::error_span!("stage", stage, failed = Empty);
    let outcome = step::before(stage, work).instrument(span.clone()).await;
    if outcome.is_err() {
        span.record("failed", true);
    }
    outcome
}
