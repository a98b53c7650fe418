//! ExecSync.

use std::sync::Arc;
use std::time::Duration;

use proto::runtime::v1 as cri;
use sandbox::ExecRequest;
use sandbox::exec::{OUTPUT_OF_ALL, check_command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Status;

use super::Runtime;
use crate::call_log;
use crate::status::of_sandbox;

/// How long a command waits for its turn that has no time-out of its own. kubelet's default for a probe is one second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who may run a command: so many at a time, the others in the order in which they came.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    most: usize,
    places: Arc<Semaphore>,
}

impl Turns {
    /// So many at a time.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self { most, places: Arc::new(Semaphore::new(most)) }
    }

    /// A turn, and what is left of the command's time. Safe to cancel.
    ///
    /// # Errors
    /// ResourceExhausted, with the key, when it takes too long.
    async fn turn(
        &self,
        timeout: Option<Duration>,
    ) -> Result<(Option<OwnedSemaphorePermit>, Option<Duration>), Status> {
        let begun = Instant::now();
        let patience = timeout.unwrap_or(PATIENCE).min(PATIENCE);
        match tokio::time::timeout(patience, Arc::clone(&self.places).acquire_owned()).await {
            // Never closed.
            Ok(place) => Ok((place.ok(), timeout.map(|after| after.saturating_sub(begun.elapsed())))),
            Err(_) => {
                let most = self.most;
                let why = format!(
                    "{most} commands run already (server.max_exec_syncs), and none ended within {patience:?}"
                );
                Err(Status::resource_exhausted(why))
            }
        }
    }
}

pub(super) async fn sync(
    runtime: &Runtime,
    request: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    check_command(&request.cmd).map_err(|error| of_sandbox(&error))?;
    // Seconds; zero means that the command may take as long as it likes.
    let timeout = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let (_turn, timeout) = runtime.turns.turn(timeout).await?;
    let wanted = ExecRequest { command: request.cmd, timeout };
    let output =
        runtime.pods.exec_sync(&request.container_id, wanted).await.map_err(|error| failed(&error))?;
    Ok(cri::ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code })
}

/// The answer to a command that failed, with the key of the bound that it met.
fn failed(error: &sandbox::Error) -> Status {
    let status = of_sandbox(error);
    match error {
        sandbox::Error::Exhausted { what, .. } if *what == OUTPUT_OF_ALL => {
            Status::new(status.code(), format!("{} (server.max_exec_output)", status.message()))
        }
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_taken_in_order_and_waited_for_no_longer_than_the_command_has() {
        let turns = Turns::new(1);
        let (first, whole) = turns.turn(Some(Duration::from_secs(9))).await.unwrap();
        assert_eq!(whole, Some(Duration::from_secs(9)));
        let late = turns.turn(Some(Duration::from_secs(2))).await.unwrap_err();
        assert_eq!(late.code(), tonic::Code::ResourceExhausted);
        assert!(late.message().contains("server.max_exec_syncs"), "{late}");
        let waiting = turns.clone();
        let next = tokio::spawn(async move { waiting.turn(Some(Duration::from_secs(9))).await });
        tokio::time::sleep(Duration::from_secs(4)).await;
        drop(first);
        let (_place, left) = next.await.unwrap().unwrap();
        assert_eq!(left, Some(Duration::from_secs(5)), "the wait is of its own time");
        assert!(turns.turn(None).await.is_err(), "nobody waits for ever");
    }
}
