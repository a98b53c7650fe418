//! Ending containers: signals, kills that always end, what became of a process, and what is removed afterwards.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::cgroup::{Cgroup, Holdouts};
use tokio::time::Instant;

use crate::clock;
use crate::container::make;
use crate::container::state::ContainerEvent;
use crate::container::status::{Exited, Reason};
use crate::error::Error;
use crate::external;
use crate::pod::contact::Remains;
use crate::record::{self, ContainerFacts};
use crate::shared::{Shared, blocking};
use crate::stage::Stage;
use crate::step;
use crate::supervisor::client::{Client, ExitReport};

/// How long a supervisor may take to pass a signal on before it is passed over.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(2);

/// How long after the first kill it is looked who is left, and the second one follows; twice as long each time,
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// and at most so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// 128 and SIGKILL.
pub(crate) const KILLED: i32 = 137;

/// A container whose process is to end.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Option<Client>,
    pub(crate) facts: Arc<ContainerFacts>,
    /// Nanoseconds since the epoch; 0 before it has started.
    pub(crate) started_at: i64,
}

impl Ending {
    /// Sends the stop signal. A supervisor that doesn't answer is dealt with when the grace period is over.
    pub(crate) async fn ask(self) {
        if let Some(client) = &self.client
            && let Err(error) =
                step::before("signal", client.signal(&self.facts, self.facts.stop_signal, SIGNAL_DEADLINE))
                    .await
        {
            tracing::warn!(container = %self.facts.id, error = crate::error::chain(&error), "stop signal not delivered");
        }
    }

    /// Kills every process of the container and says when that took too long, or what is known of the end when its
    /// supervisor doesn't tell.
    pub(crate) async fn kill(self) -> ContainerEvent {
        let over = Instant::now() + self.shared.config.deadlines.kill;
        let told = match &self.client {
            Some(client) => client.kill(&self.facts, SIGNAL_DEADLINE).await.is_ok(),
            None => false,
        };
        if !told {
            self.kill_cgroup().await;
        }
        if let Err(left) = Stage::Kill.of(self.emptied(over)).await {
            return ContainerEvent::KillOverdue(left);
        }
        // The supervisor has the log to write before it tells.
        tokio::time::sleep_until(over).await;
        // Still here: had the end been reported, the news would be of a life that is over and count for nothing.
        ContainerEvent::Ended(self.unreported())
    }

    /// Waits until nothing is left in the cgroup, and kills what is there still, again and again: what forks may have got away, and
    /// who asked for that may have been frozen since.
    async fn emptied(&self, over: Instant) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep_until(over.min(Instant::now() + pause)).await;
            let left = self.left().await;
            match left {
                Ok(left) if left.is_empty() => return Ok(()),
                Ok(left) if Instant::now() >= over => {
                    let (step, subject) = ("the end after SIGKILL", self.facts.id.to_string());
                    return Err(Error::TimedOut { step, subject, cause: Arc::new(left) });
                }
                Err(error) if Instant::now() >= over => return Err(error),
                Ok(left) if left.are_frozen() => self.thaw_pod().await,
                Ok(_) | Err(_) => {}
            }
            self.kill_cgroup().await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Kills a start that is under way, and says when it took too long that its end was told.
    ///
    /// More than once: the request to start may be on its way to the supervisor still.
    pub(crate) async fn call_off(self) -> ContainerEvent {
        let after = self.shared.config.deadlines.kill;
        let mut pause = FIRST_PAUSE;
        let calling_off = async {
            loop {
                let told = match &self.client {
                    Some(client) => client.kill(&self.facts, SIGNAL_DEADLINE).await.is_ok(),
                    None => false,
                };
                if !told {
                    self.kill_cgroup().await;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        };
        let _always_over: Result<(), _> = tokio::time::timeout(after, calling_off).await;
        // Still here: had its end been told, the news would be of a life that is over and count for nothing.
        let subject = self.facts.id.to_string();
        ContainerEvent::KillOverdue(Error::Deadline { step: "calling off the start", subject, after })
    }

    async fn kill_cgroup(&self) {
        let (shared, facts) = (self.shared.clone(), self.facts.clone());
        let after = self.shared.config.deadlines.cgroup;
        let killed = blocking(("killing the cgroup", self.facts.id.as_str(), after), move || {
            let failed = |cause| Error::step("killing the cgroup", facts.cgroup.clone(), cause);
            Cgroup::at(&shared.host, &facts.cgroup).and_then(|cgroup| cgroup.kill()).map_err(failed)
        });
        if let Err(error) = killed.await {
            tracing::warn!(container = %self.facts.id, error = crate::error::chain(&error), "not killed by its cgroup");
        }
    }

    /// The kill has thawed the container's own cgroup. Somebody has frozen the pod's, which is ours too, and its supervisor with it.
    async fn thaw_pod(&self) {
        let Some((pod, _)) = self.facts.cgroup.rsplit_once('/') else { return };
        let (shared, pod) = (self.shared.clone(), pod.to_owned());
        let after = self.shared.config.deadlines.cgroup;
        let thawed = blocking(("thawing the pod", self.facts.id.as_str(), after), move || {
            let cgroup = Cgroup::at(&shared.host, &pod);
            cgroup.map(|cgroup| cgroup.thaw()).map_err(|cause| Error::step("thawing the pod", pod, cause))
        });
        if let Err(error) = thawed.await {
            tracing::warn!(container = %self.facts.id, error = crate::error::chain(&error), "its pod stays frozen");
        }
    }

    /// Who is in the cgroup.
    async fn left(&self) -> Result<Holdouts, Error> {
        let (shared, facts) = (self.shared.clone(), self.facts.clone());
        let after = self.shared.config.deadlines.cgroup;
        blocking(("reading the cgroup", self.facts.id.as_str(), after), move || {
            let failed = |cause| Error::step("reading the cgroup", facts.cgroup.clone(), cause);
            Cgroup::at(&shared.host, &facts.cgroup).and_then(|cgroup| cgroup.holdouts()).map_err(failed)
        })
        .await
    }

    fn unreported(&self) -> Exited {
        let directory = self.shared.store.container_dir(&self.facts.pod, &self.facts.id);
        known_exit(&directory).unwrap_or_else(|| Exited {
            exit_code: KILLED,
            reason: Reason::Error,
            message: "killed; its supervisor did not report the end".to_owned(),
            started_at: self.started_at,
            finished_at: clock::now(),
        })
    }
}

/// The exit code of a container whose end nobody saw, as users of other runtimes know it: no process that was killed has it.
pub(crate) const UNKNOWN: i32 = 255;

/// What the supervisor's report says of a container's end.
pub(crate) fn exited(report: &ExitReport) -> Exited {
    let reason = match (report.oom_killed, report.exit_code) {
        (true, _) => Reason::OOMKilled,
        (false, 0) => Reason::Completed,
        (false, _) => Reason::Error,
    };
    Exited {
        exit_code: report.exit_code,
        reason,
        message: String::new(),
        started_at: report.started_at,
        finished_at: report.finished_at,
    }
}

/// What the supervisor wrote down about a container's end, if it did.
pub(crate) fn known_exit(directory: &Path) -> Option<Exited> {
    ExitReport::read(directory).as_ref().map(exited)
}

/// The end of a container whose supervisor was lost before it could tell.
pub(crate) fn lost(started_at: i64, remains: Remains) -> Exited {
    let (exit_code, message) = match remains {
        Remains::Live | Remains::Killed => (KILLED, "its supervisor has died, and it was killed for that"),
        Remains::Gone => (UNKNOWN, "its supervisor has died, and nobody saw how it ended"),
        Remains::Before => (UNKNOWN, "the machine was booted, and nobody saw how it ended"),
    };
    Exited {
        exit_code,
        reason: Reason::SupervisorLost,
        message: message.to_owned(),
        started_at,
        finished_at: clock::now(),
    }
}

/// Removes the cgroup of a container that has ended.
///
/// # Errors
/// [`Error::Step`] when processes stay in it.
pub(crate) async fn remove_cgroup(shared: &Arc<Shared>, facts: &Arc<ContainerFacts>) -> Result<(), Error> {
    let after = shared.config.deadlines.cgroup;
    let (host, path) = (shared.host.clone(), facts.cgroup.clone());
    blocking(("removing the cgroup", facts.id.as_str(), after), move || {
        let cgroup = Cgroup::at(&host, &path)
            .map_err(|cause| Error::step("removing the cgroup", path.clone(), cause))?;
        // Children that outlived the first process, of a container that shares its process namespace.
        let killed = cgroup.kill();
        cgroup.remove().and(killed).map_err(|cause| Error::step("removing the cgroup", path, cause))
    })
    .await
}

/// Removes what is left of a container that doesn't run: cgroup, root filesystem, records. The log stays, it is kubelet's.
///
/// Safe to repeat; goes on to the end.
///
/// # Errors
/// All failures as one.
pub(crate) async fn erase(
    shared: &Arc<Shared>,
    facts: &Arc<ContainerFacts>,
    client: Option<&Client>,
) -> Result<(), Error> {
    if let Some(client) = client {
        // The supervisor forgets it when it ends, too.
        let _unreachable = client.forget(facts, SIGNAL_DEADLINE).await;
    }
    let cleared = external::clear(shared, facts).await;
    let cgroup = Stage::RemoveCgroup.of(remove_cgroup(shared, facts)).await;
    let rootfs = Stage::ReleaseRootfs.of(make::release(shared, &facts.id)).await;
    match Error::all([cleared, cgroup, rootfs].into_iter().filter_map(Result::err).collect()) {
        Some(error) => Err(error),
        // Last: while there is a record, there may be something to remove.
        None => record::remove_dir(&shared.store.container_dir(&facts.pod, &facts.id)),
    }
}
