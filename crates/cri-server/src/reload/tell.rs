//! Who is told of a reload: the log, and systemd where it started the daemon.
//!
//! systemd waits for RELOADING=1 with the time and for READY=1 after its signal (systemd.service(5), `Type=notify-reload`); it is told of a
//! reload that somebody else asked for in the same way. That nothing could be changed is in the unit's status and in the log.

use sd_notify::NotifyState;

use super::{ReloadError, Reloaded};

pub(super) fn begun() {
    let now = NotifyState::monotonic_usec_now();
    // Without the time systemd would take the reload for failed and end the service.
    if let Ok(now) = now {
        let _nobody_listens = sd_notify::notify(false, &[NotifyState::Reloading, now]);
    }
}

pub(super) fn done(outcome: &Result<Reloaded, ReloadError>) {
    let status = match outcome {
        Ok(Reloaded { applied, waiting }) => {
            let waiting: Vec<&str> = waiting.iter().map(|(key, _)| *key).collect();
            let (applied, waiting) = (applied.join(" "), waiting.join(" "));
            tracing::info!(applied, needs_restart = waiting, "the configuration has been read again");
            if waiting.is_empty() { String::new() } else { format!("A restart is needed for: {waiting}") }
        }
        Err(error) => {
            let why = crate::chain(error);
            tracing::error!(why, "the configuration stays what it was");
            format!("Reload refused: {}", why.split_whitespace().collect::<Vec<_>>().join(" "))
        }
    };
    let _nobody_listens = sd_notify::notify(false, &[NotifyState::Ready, NotifyState::Status(&status)]);
}
