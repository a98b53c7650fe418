//! A supervisor that is out of touch is looked for; what one leaves that is gone is buried.
//!
//! Not here: telling the one from the other (see `supervisor::spawn`), what follows from it (see `pod::state` and `recover`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runtime::cgroup::Cgroup;

use crate::adopt::kill_strays;
use crate::container::end;
use crate::error::{Error, chain};
use crate::id::ContainerId;
use crate::pod::state::{PodEvent, ProcessId};
use crate::pod::work::{Done, Task, World, client};
use crate::record::PodFacts;
use crate::shared::{Shared, blocking};
use crate::supervisor::spawn::{self, Contact};

/// A supervisor to be looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seek {
    /// Which process it was, where that is known.
    pub(crate) expected: Option<ProcessId>,
}

/// How long to wait between attempts: this at first, twice as long each time, that at last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Never gives up: whether the process lives can be told for certain, and while it does it minds containers.
pub(super) fn look_for(world: &World<'_>, seek: Seek) -> Task {
    let (shared, facts) = (world.shared.clone(), world.facts.clone());
    Box::pin(async move {
        let directory = shared.store.pod_dir(&facts.id);
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = (seek.expected, shared.config.deadlines.supervisor);
            match spawn::reach(&facts.id, &directory, attempt).await {
                Contact::Answers(minder, snapshot) => return Done::Reached(Box::new(minder), snapshot),
                Contact::Gone(_) => return Done::Pod(PodEvent::SupervisorLost),
                Contact::Silent(error) => {
                    tracing::debug!(pod = %facts.id, error = chain(&error), "the supervisor is still silent");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    })
}

pub(super) fn kill(world: &World<'_>, strays: Vec<ContainerId>) -> Option<Task> {
    let (shared, client) = (world.shared.clone(), client(world)?);
    Some(Box::pin(async move {
        kill_strays(&shared, &client, strays).await;
        Done::Nothing
    }))
}

/// What is left of a container whose supervisor is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remains {
    /// Processes that a SIGKILL has not ended: they hang in the kernel, and stay within their limits.
    Live,
    /// Nothing: its processes were killed here.
    Killed,
    /// Nothing: there was none to be killed.
    Gone,
    /// Nothing: it ran before the machine was booted.
    Before,
}

/// Kills everything in a pod's cgroup, and says what is left of its containers, within a time. Their cgroups go when they are empty and
/// not before, so that nothing of a container is ever without its limits.
///
/// # Errors
/// [`Error::Step`] when they can't be killed, [`Error::Deadline`].
pub(crate) async fn kill_orphans(
    shared: &Arc<Shared>,
    (facts, after): (&PodFacts, Duration),
    orphaned: Vec<(ContainerId, String)>,
) -> Result<BTreeMap<ContainerId, Remains>, Error> {
    let (host, path) = (shared.host.clone(), facts.cgroup.clone());
    blocking(("killing the cgroup", facts.id.as_str(), after), move || {
        let runs = |path: &str| {
            Cgroup::at(&host, path).and_then(|cgroup| cgroup.procs()).is_ok_and(|found| !found.is_empty())
        };
        // Looked at before: nobody else tells whether it was the kill that ended them.
        let ran: Vec<bool> = orphaned.iter().map(|(_, path)| runs(path)).collect();
        let failed = |cause| Error::step("killing the cgroup", path.clone(), cause);
        Cgroup::at(&host, &path).and_then(|cgroup| cgroup.kill()).map_err(failed)?;
        let left = |path: &str, ran: bool| match Cgroup::at(&host, path).and_then(|cgroup| cgroup.remove()) {
            // A cgroup can be removed when nothing lives in it any more.
            Err(_) => Remains::Live,
            Ok(()) if ran => Remains::Killed,
            Ok(()) => Remains::Gone,
        };
        Ok(orphaned.into_iter().zip(ran).map(|((id, path), ran)| (id, left(&path, ran))).collect())
    })
    .await
}

pub(super) fn bury(world: &World<'_>) -> Task {
    let (shared, facts) = (world.shared.clone(), world.facts.clone());
    let orphaned: BTreeMap<_, _> = world
        .members
        .iter()
        .filter_map(|(id, member)| {
            let (made, process) = (member.made.as_ref()?, member.state.process()?);
            Some((id.clone(), (made.facts.cgroup.clone(), process.started_at)))
        })
        .collect();
    Box::pin(async move {
        let after = shared.config.deadlines.cgroup;
        let cgroups = orphaned.iter().map(|(id, (cgroup, _))| (id.clone(), cgroup.clone())).collect();
        let left = match kill_orphans(&shared, (&facts, after), cgroups).await {
            Ok(left) => left,
            Err(error) => {
                tracing::error!(pod = %facts.id, error = chain(&error), "processes of a lost supervisor may still run");
                orphaned.keys().map(|id| (id.clone(), Remains::Live)).collect()
            }
        };
        let (mut ends, mut alive) = (Vec::new(), Vec::new());
        for (id, (_, started_at)) in orphaned {
            let known = || end::known_exit(&shared.store.container_dir(&facts.id, &id));
            match left.get(&id) {
                Some(Remains::Live) | None => alive.push(id),
                Some(left) => {
                    ends.push((id.clone(), known().unwrap_or_else(|| end::lost(started_at, *left))))
                }
            }
        }
        Done::Buried { ends, alive }
    })
}
