//! Freeing what belongs to no pod: addresses and ports of the network, scopes of systemd, events that nobody came for.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Pods;
use crate::config::CgroupDriver;
use crate::error::chain;
use crate::id::PodId;
use crate::scopes;
use crate::shared::Shared;

/// How long the start of the daemon waits for the first collection: nearly always it is done in that.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// How long a pod that is to be attached waits for it: then it has to do with what is free.
const ADD_PATIENCE: Duration = Duration::from_secs(10);

/// How long systemd may take to list scopes: the start of the daemon waits for it.
const LIST_PATIENCE: Duration = Duration::from_secs(3);

impl Pods {
    /// Has the network free what belongs to no pod, ends the scopes of such, and lets go of events that nobody came for. To be called from
    /// time to time. Safe to cancel.
    pub async fn collect(&self) {
        collect(&self.shared).await;
    }

    /// The same for the first time, at the start: behind it, when it takes longer than a moment. A plugin that hangs over what is
    /// left of a pod keeps nobody from being served.
    pub(super) async fn collect_first(&self) {
        let shared = self.shared.clone();
        // Pods that are there have their addresses, and others were to be had beside them: only after a boot all are to be freed.
        let is_boot = shared.registry.pod_ids().is_empty();
        shared.is_collected.send_replace(!is_boot);
        let (tell, collected) = oneshot::channel();
        let first = async move {
            collect(&shared).await;
            shared.is_collected.send_replace(true);
            let _nobody_waits = tell.send(());
        };
        self.background.lock().unwrap_or_else(PoisonError::into_inner).spawn(first);
        let _goes_on = tokio::time::timeout(START_PATIENCE, collected).await;
    }
}

/// Waits until what belonged to no pod at the start has been freed, for a while: the first pods after a boot may need the addresses of
/// those before it. Safe to cancel.
pub(crate) async fn first_collection(shared: &Shared) {
    let mut is_collected = shared.is_collected.subscribe();
    let _goes_on = tokio::time::timeout(ADD_PATIENCE, is_collected.wait_for(|is| *is)).await;
}

async fn collect(shared: &Arc<Shared>) {
    shared.events.give_up_on_listeners();
    let of = shared.clone();
    let census = move || {
        let mut pods = of.registry.pod_ids();
        // A pod whose record cannot be read still has its network.
        pods.extend(of.store.pod_ids());
        pods
    };
    collect_scopes(shared, &census).await;
    if let Err(error) = shared.network.collect(Arc::new(census)).await {
        tracing::warn!(error = chain(&error), "the network did not free what belongs to no pod");
    }
}

/// Ends the scopes of this daemon's that belong to no pod: the state directory was lost under them.
async fn collect_scopes(shared: &Shared, census: &(dyn Fn() -> BTreeSet<PodId> + Sync)) {
    let CgroupDriver::Systemd(systemd) = &shared.config.cgroup_driver else { return };
    let found = match tokio::time::timeout(LIST_PATIENCE, systemd.list(scopes::PATTERN)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            return tracing::warn!(error = chain(&error), "systemd does not list its scopes");
        }
        Err(_) => return tracing::warn!("systemd does not list its scopes in time"),
    };
    // Asked for afterwards: pods are made meanwhile.
    let pods = census();
    for (name, description) in found {
        let Some(pod) = scopes::pod_of(&name).filter(|pod| !pods.contains(pod)) else { continue };
        // Those of daemons on other directories are theirs.
        if description != scopes::description(&pod, &shared.config.state_dir) {
            continue;
        }
        tracing::warn!(scope = name, "a scope without a pod is ended");
        if let Err(error) = systemd.end(&name).await {
            tracing::error!(scope = name, error = chain(&error), "a scope without a pod stays");
        }
    }
}
