//! systemd's watchdog: a word from time to time that the daemon answers, after having asked it as a client would.
//!
//! Where the unit has `WatchdogSec=`, a daemon that is silent for so long is ended with SIGABRT and started again; pods go on. A task that
//! only slept and said so would prove that timers work. Not here: what a call that hangs waits for.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use proto::runtime::v1::{ListPodSandboxRequest, PodSandboxFilter, VersionRequest};
use sd_notify::NotifyState;
use tonic::{Code, Status};

use crate::cli::endpoint;

/// How many words fit into the time that systemd waits: one may fail, and the next one be late.
const WORDS: u32 = 3;

/// No pod has this id: ids are hexadecimal.
const NOBODY: &str = "watchdog";

/// Tells systemd that the daemon answers at this socket, as long as it does. Waits for ever where nobody wants to know.
pub(crate) async fn feed(socket: &Path) -> Infallible {
    let mut microseconds = 0;
    if !sd_notify::watchdog_enabled(false, &mut microseconds) {
        return std::future::pending().await;
    }
    let period = Duration::from_micros(microseconds) / WORDS;
    words(socket, period, || {
        let _told = sd_notify::notify(false, &[NotifyState::Watchdog]);
    })
    .await
}

/// A word in every period in which the daemon answers.
async fn words(socket: &Path, period: Duration, mut tell: impl FnMut()) -> Infallible {
    let mut ticks = tokio::time::interval(period);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(period, ask(socket)).await {
            Ok(Ok(())) => tell(),
            // It answers, though others have all its places: ending it would cost them their calls.
            Ok(Err(status)) if status.code() == Code::ResourceExhausted => tell(),
            Ok(Err(status)) => tracing::error!(%status, "the daemon doesn't answer itself"),
            Err(_) => tracing::error!(?period, "the daemon doesn't answer itself in time"),
        }
    }
}

/// A connection of its own, a call that needs nothing, and one that needs the list of pods.
async fn ask(socket: &Path) -> Result<(), Status> {
    let mut runtime = RuntimeServiceClient::new(endpoint::channel(socket));
    runtime.version(VersionRequest { version: "v1".to_owned() }).await?;
    let filter = PodSandboxFilter { id: NOBODY.to_owned(), ..PodSandboxFilter::default() };
    runtime.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_takes_calls_and_never_answers_is_not_alive() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("x.sock");
        let _accepts = tokio::net::UnixListener::bind(&socket).unwrap();
        let (period, mut told) = (Duration::from_secs(1), 0);
        let _elapsed = tokio::time::timeout(period * 20, words(&socket, period, || told += 1)).await;
        assert_eq!(told, 0);
        // Nor is one that isn't there.
        let gone = directory.path().join("gone.sock");
        let _elapsed = tokio::time::timeout(period * 20, words(&gone, period, || told += 1)).await;
        assert_eq!(told, 0);
    }
}
