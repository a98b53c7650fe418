//! Freeing what belongs to no pod: addresses and ports of the network, scopes of systemd, events that nobody came for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Pods;
use crate::config::CgroupDriver;
use crate::error::chain;
use crate::id::PodId;
use crate::scopes;
use crate::shared::Shared;

/// How long systemd may take to list scopes: the start of the daemon waits for it.
const LIST_PATIENCE: Duration = Duration::from_secs(3);

impl Pods {
    /// Has the network free what belongs to no pod, ends the scopes of such, and lets go of events that nobody came for. To be called from
    /// time to time. Safe to cancel.
    pub async fn collect(&self) {
        self.shared.events.give_up_on_listeners();
        let shared = self.shared.clone();
        let census = move || {
            let mut pods = shared.registry.pod_ids();
            // A pod whose record cannot be read still has its network.
            pods.extend(shared.store.pod_ids());
            pods
        };
        collect_scopes(&self.shared, &census).await;
        if let Err(error) = self.shared.network.collect(Arc::new(census)).await {
            tracing::warn!(error = chain(&error), "the network did not free what belongs to no pod");
        }
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
