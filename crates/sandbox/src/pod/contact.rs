//! A supervisor that is out of touch is looked for; what one leaves that is gone is buried.
//!
//! Not here: telling the one from the other (see `supervisor::spawn`), what follows from it (see `pod::state` and `recover`).

use std::time::Duration;

use runtime::cgroup::Cgroup;

use crate::adopt::kill_strays;
use crate::container::end;
use crate::error::{Error, chain};
use crate::id::ContainerId;
use crate::pod::state::{PodEvent, ProcessId};
use crate::pod::work::{Done, Task, World, client};
use crate::shared::blocking;
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

pub(super) fn bury(world: &World<'_>) -> Task {
    let (shared, facts) = (world.shared.clone(), world.facts.clone());
    let ran: Vec<_> = world
        .members
        .iter()
        .filter_map(|(id, member)| {
            let (made, process) = (member.made.as_ref()?, member.state.process()?);
            Some((id.clone(), made.facts.cgroup.clone(), process.started_at))
        })
        .collect();
    let all: Vec<_> = ran.iter().map(|(id, ..)| id.clone()).collect();
    Box::pin(async move {
        let after = shared.config.deadlines.cgroup;
        let (host, path) = (shared.host.clone(), facts.cgroup.clone());
        let killed = blocking(("killing the cgroup", facts.id.as_str(), after), move || {
            let failed = |cause| Error::step("killing the cgroup", path.clone(), cause);
            Cgroup::at(&host, &path).and_then(|cgroup| cgroup.kill()).map_err(failed)?;
            // A cgroup can be removed when nothing lives in it any more. What lives on is not said to have ended.
            let is_empty = |path: &str| Cgroup::at(&host, path).and_then(|cgroup| cgroup.remove()).is_ok();
            Ok(ran.into_iter().partition::<Vec<_>, _>(|(_, path, _)| !is_empty(path)))
        });
        let (alive, ended) = match killed.await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(pod = %facts.id, error = chain(&error), "processes of a lost supervisor may still run");
                return Done::Buried { ends: Vec::new(), alive: all };
            }
        };
        let end = |(id, _, started_at): (ContainerId, String, i64)| {
            let known = end::known_exit(&shared.store.container_dir(&facts.id, &id));
            (id, known.unwrap_or_else(|| end::lost(started_at)))
        };
        Done::Buried {
            ends: ended.into_iter().map(end).collect(),
            alive: alive.into_iter().map(|(id, ..)| id).collect(),
        }
    })
}
