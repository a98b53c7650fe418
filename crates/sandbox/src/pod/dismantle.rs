//! Taking a pod's parts down. The same code undoes a pod that could not be made, stops one, removes one, and clears away what an
//! earlier daemon left half made: every part can be taken down whether it is whole, half there or gone.

use std::sync::Arc;
use std::time::Duration;

use runtime::cgroup::Cgroup;

use crate::config::CgroupDriver;
use crate::error::Error;
use crate::external;
use crate::pod::make::{attachment, network_error, supervisor_cgroup};
use crate::pod::namespace::NetworkNamespace;
use crate::pod::state::{Part, Parts};
use crate::record::PodFacts;
use crate::scopes;
use crate::shared::{Shared, blocking, within};
use crate::stage::Stage;
use crate::supervisor::Minder;

/// How long systemd may take to notice that a scope is empty before it is asked to end it.
const SCOPE_PATIENCE: Duration = Duration::from_secs(3);

/// A pod that is taken down.
pub(crate) struct Dismantling<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) facts: &'a Arc<PodFacts>,
    /// Its supervisor, if there is one that answers.
    pub(crate) minder: Option<&'a Minder>,
    /// Its network namespace, while it is held.
    pub(crate) netns: Option<&'a NetworkNamespace>,
}

/// Takes parts down, all of them, in their order.
///
/// Not safe to cancel, but safe to repeat.
pub(crate) async fn dismantle(down: &Dismantling<'_>, parts: &Parts) -> Vec<(Part, Error)> {
    let mut left = Vec::new();
    for part in parts {
        if let Err(error) = dismantle_part(down, *part).await {
            left.push((*part, error));
        }
    }
    left
}

/// One error for all that is left; `None` when nothing is.
pub(crate) fn summary(left: &[(Part, Error)]) -> Option<Error> {
    match left {
        [] => None,
        [(_, only)] => Some(only.clone()),
        [(_, first), others @ ..] => {
            let left = others.iter().map(|(_, error)| crate::error::chain(error)).collect();
            Some(Error::Undone { left, cause: Arc::new(first.clone()) })
        }
    }
}

/// Takes one part down.
///
/// # Errors
/// Those of the part, and its deadline.
pub(crate) async fn dismantle_part(down: &Dismantling<'_>, part: Part) -> Result<(), Error> {
    match part {
        Part::Network => Stage::DetachNetwork.beside(detach(down)).await,
        Part::Supervisor => Stage::EndSupervisor.of(end_supervisor(down)).await,
        Part::Cgroup => Stage::RemoveCgroup.of(remove_cgroup(down)).await,
    }
}

async fn detach(down: &Dismantling<'_>) -> Result<(), Error> {
    let netns = down.netns.map(NetworkNamespace::path).filter(|path| path.exists());
    let attachment = attachment(down.facts, netns);
    let subject = down.facts.id.as_str();
    let network = &down.shared.network;
    let work = async {
        network
            .detach(&attachment)
            .await
            .map_err(|error| network_error("detaching the network", subject, error))
    };
    within(("detaching the network", subject, down.shared.config.deadlines.detach), work).await
}

/// Asks the supervisor to end; one that doesn't is killed. One that an earlier daemon started without writing down which it
/// is sits in the pod's cgroup and ends with that.
async fn end_supervisor(down: &Dismantling<'_>) -> Result<(), Error> {
    match down.minder {
        None => Ok(()),
        Some(minder) => minder.end(down.shared.config.deadlines.supervisor).await,
    }
}

async fn remove_cgroup(down: &Dismantling<'_>) -> Result<(), Error> {
    match scopes::of_cgroup(&down.facts.cgroup) {
        None => on_cgroup(down, Cgroup::remove).await,
        Some((name, _)) => remove_scope(down, name).await,
    }
}

/// A scope goes with the last process in it; what was made below it is ours to remove, and it itself is systemd's.
async fn remove_scope(down: &Dismantling<'_>, name: &str) -> Result<(), Error> {
    let (gone, is_gone) = tokio::sync::oneshot::channel();
    let emptied = on_cgroup(down, move |cgroup| {
        let emptied = cgroup.remove_below();
        let _asker_has_gone = gone.send(cgroup.is_removed_by_systemd(SCOPE_PATIENCE));
        emptied
    });
    emptied.await?;
    let CgroupDriver::Systemd(systemd) = &down.shared.config.cgroup_driver else {
        // Made under another configuration: nobody to ask, and nothing in it.
        return on_cgroup(down, Cgroup::remove).await;
    };
    if !is_gone.await.unwrap_or(false) {
        let subject = down.facts.id.as_str();
        tracing::warn!(scope = name, "systemd has not removed an empty scope; it is asked to");
        systemd.end(name).await.map_err(|error| error.of("ending the scope", subject))?;
    }
    // Hierarchies that systemd doesn't keep its units in; and all, should it have lost sight of the scope.
    on_cgroup(down, Cgroup::remove).await
}

/// Kills everything in the pod's cgroup, and takes it down by `remove`.
async fn on_cgroup(
    down: &Dismantling<'_>,
    remove: impl FnOnce(&Cgroup) -> Result<(), runtime::Error> + Send + 'static,
) -> Result<(), Error> {
    let (host, path) = (down.shared.host.clone(), down.facts.cgroup.clone());
    let (shared, facts) = (down.shared.clone(), down.facts.clone());
    let leaf = supervisor_cgroup(down.facts);
    let after = down.shared.config.deadlines.cgroup;
    blocking(("removing the cgroup", down.facts.id.as_str(), after), move || {
        let failed = |cause| Error::step("removing the cgroup", path.clone(), cause);
        let cgroup = Cgroup::at(&host, &path).map_err(failed)?;
        let killed = cgroup.kill();
        // The leaf first: finding a cgroup below costs a wait in every hierarchy.
        let _removed_below = Cgroup::at(&host, &leaf).and_then(|leaf| leaf.remove());
        remove(&cgroup).and(killed).map_err(failed)?;
        external::detach_pod(&shared, &facts)
    })
    .await
}
