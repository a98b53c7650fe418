//! Runs that are ended by a signal (Ctrl-C, a CI's time-out), and take down what they have made as one that fails does.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for a signal that ends the run, and gives its name. Safe to cancel.
///
/// # Panics
/// When there can be no handler of signals: outside of a runtime.
pub async fn ended() -> &'static str {
    let listen = |kind| signal(kind).expect("a handler of signals");
    let mut hangup = listen(SignalKind::hangup());
    let mut interrupt = listen(SignalKind::interrupt());
    let mut terminate = listen(SignalKind::terminate());
    tokio::select! {
        _ = hangup.recv() => "SIGHUP",
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
