//! Limits of a whole pod: its overhead and the sum of what its containers ask for. What is kept of them, and what is written.
//!
//! | said | what becomes of it |
//! |---|---|
//! | CPU shares | those of both together are the weight of the pod's own cgroup, against others below the same parent |
//! | all else | kept and shown |
//!
//! Hard limits are not written. kubelet's sums count a container without a limit as nothing, so that the sum of a pod with one limited
//! container and one free one would bind them both; and an OOM setting for all of a cgroup would take the supervisor along. Where every
//! container is limited, kubelet has the sum in the cgroup that it makes for the pod, the parent of this one.
//!
//! Not here: limits of containers (`spec::resources`).

use std::sync::Arc;

use runtime::cgroup::Cgroup;
use serde::{Deserialize, Serialize};

use crate::config::CgroupDriver;
use crate::error::Error;
use crate::pod::config::PodConfig;
use crate::record::PodFacts;
use crate::resources::{Resources, USUAL_SHARES};
use crate::scopes;
use crate::shared::{Shared, blocking};
use crate::spec;

/// Limits of a whole pod, as requests carry them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodResources {
    /// What the pod costs beyond its containers, as the runtime class says.
    pub overhead: Option<Resources>,
    /// The sum of what the containers ask for.
    pub resources: Option<Resources>,
}

impl PodResources {
    /// What a pod was asked for with.
    pub(crate) fn of(config: &PodConfig) -> Self {
        Self { overhead: config.overhead.clone(), resources: config.resources.clone() }
    }

    /// These limits after an update: each of the two is taken whole, and stays when it isn't said.
    fn updated(&self, update: &Self) -> Self {
        let new = |new: &Option<Resources>, old: &Option<Resources>| new.clone().or_else(|| old.clone());
        Self {
            overhead: new(&update.overhead, &self.overhead),
            resources: new(&update.resources, &self.resources),
        }
    }

    /// The CPU shares of both together; `None` when neither says any.
    #[must_use]
    pub fn shares(&self) -> Option<u64> {
        let said = [&self.overhead, &self.resources].into_iter().flatten().filter_map(|part| part.cpu_shares);
        said.reduce(u64::saturating_add)
    }
}

/// A pod's limits now, and the updates that wait for one that is under way, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Limits<R> {
    /// `None` while they are those of the request.
    changed: Option<PodResources>,
    waiting: Option<std::collections::VecDeque<(PodResources, R)>>,
}

impl<R> Limits<R> {
    pub(crate) fn new(changed: Option<PodResources>) -> Self {
        Self { changed, waiting: None }
    }

    /// What a record has to have beside the request.
    pub(crate) fn changed(&self) -> Option<&PodResources> {
        self.changed.as_ref()
    }

    /// What holds now.
    pub(crate) fn now(&self, config: &PodConfig) -> PodResources {
        self.changed.clone().unwrap_or_else(|| PodResources::of(config))
    }

    /// Begins an update: what will hold after it. `None` when it has to wait.
    pub(crate) fn begin(
        &mut self,
        config: &PodConfig,
        (update, reply): (PodResources, R),
    ) -> Option<(PodResources, R)> {
        if let Some(waiting) = &mut self.waiting {
            waiting.push_back((update, reply));
            return None;
        }
        self.waiting = Some(std::collections::VecDeque::new());
        Some((self.now(config).updated(&update), reply))
    }

    /// Ends an update that was begun; `after` is what holds now, unless it failed. Gives those that waited.
    pub(crate) fn end(
        &mut self,
        after: Option<PodResources>,
    ) -> impl Iterator<Item = (PodResources, R)> + use<R> {
        self.changed = after.or_else(|| self.changed.take());
        self.waiting.take().into_iter().flatten()
    }
}

/// How the pod's cgroup is to be weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weigh {
    /// For the first time: one that nobody asked about is left alone.
    Anew,
    /// Once more: one that nobody asks about any more goes back to the usual.
    Again,
}

/// Writes the weight of a pod's cgroup.
///
/// Safe to cancel; the write goes on.
///
/// # Errors
/// [`Error::Deadline`], [`Error::Step`] when the kernel refuses.
pub(crate) async fn weigh(
    shared: &Arc<Shared>,
    facts: &PodFacts,
    (limits, how): (&PodResources, Weigh),
) -> Result<(), Error> {
    let shares = match (limits.shares(), how) {
        (None, Weigh::Anew) => return Ok(()),
        (shares, Weigh::Anew | Weigh::Again) => shares.unwrap_or(USUAL_SHARES),
    };
    let weight =
        spec::resources::without_devices(&Resources { cpu_shares: Some(shares), ..Resources::default() })?;
    let (host, path, pod) = (shared.host.clone(), facts.cgroup.clone(), facts.id.to_string());
    let after = shared.config.deadlines.cgroup;
    let weight = blocking(("weighing the pod", facts.id.as_str(), after), move || {
        let weigh = |cgroup: Cgroup| cgroup.apply(&weight).and_then(|()| cgroup.weight());
        match Cgroup::at(&host, &path).and_then(weigh) {
            // kubelet says shares always; a host without the controller shares in no way at all.
            Err(runtime::Error::NoController { .. }) => Ok(None),
            weighed => weighed.map_err(|cause| Error::step("weighing the pod", pod, cause)),
        }
    });
    match (weight.await?, &shared.config.cgroup_driver, scopes::of_cgroup(&facts.cgroup)) {
        (Some(weight), CgroupDriver::Systemd(systemd), Some((name, _))) => {
            let told = systemd.weigh(name, weight).await;
            told.map_err(|error| error.of("weighing the pod", facts.id.as_str()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(shares: u64) -> Option<Resources> {
        Some(Resources { cpu_shares: Some(shares), ..Resources::default() })
    }

    #[test]
    fn both_parts_weigh_and_an_update_replaces_what_it_says() {
        let before = PodResources { overhead: shares(10), resources: shares(500) };
        assert_eq!(before.shares(), Some(510));
        let after = before.updated(&PodResources { overhead: None, resources: shares(700) });
        assert_eq!((after.shares(), &after.overhead), (Some(710), &before.overhead));
        let free = after.updated(&PodResources { resources: Some(Resources::default()), overhead: None });
        assert_eq!(free.shares(), Some(10));
        assert_eq!(PodResources::default().shares(), None);
    }

    #[test]
    fn one_update_at_a_time_and_each_upon_the_last() {
        let config = PodConfig { resources: shares(1), ..PodConfig::default() };
        let update = |number| PodResources { resources: shares(number), ..PodResources::default() };
        let mut limits = Limits::new(None);
        let (first, ()) = limits.begin(&config, (update(2), ())).expect("begun");
        assert!(limits.begin(&config, (update(3), ())).is_none());
        assert_eq!(limits.now(&config), update(1), "not before it is written");
        let waited: Vec<_> = limits.end(Some(first)).collect();
        assert_eq!((limits.now(&config), waited), (update(2), vec![(update(3), ())]));
        let (_, ()) = limits.begin(&config, (update(4), ())).expect("begun");
        assert_eq!(limits.end(None).count(), 0);
        assert_eq!(limits.changed(), Some(&update(2)), "one that failed changes nothing");
    }
}
