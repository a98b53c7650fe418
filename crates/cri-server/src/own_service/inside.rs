//! What goes on in the daemon: for bug reports. Secrets that are in it are `knarr debug dump`'s to remove.

use std::sync::Arc;

use sandbox::{ContainerFilter, ContainerPhase, PodFilter, PodPhase, Pods};
use serde_json::{Value, json};

use crate::config::Config;
use crate::telemetry::stages::Stages;

/// The parts that are looked into.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    pub(crate) pods: Pods,
    pub(crate) images: image_service::Images,
    pub(crate) networks: cni::Networks,
    pub(crate) stages: Stages,
    pub(crate) plugins: Option<Arc<nri::Nri>>,
    /// When the daemon began, in nanoseconds since the epoch.
    pub(crate) since: i64,
}

impl Inside {
    /// Never waits.
    pub(crate) fn look(&self, config: &Arc<Config>) -> Value {
        json!({
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "since": self.since,
            "now": crate::now(),
            "tasks": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            "config": &**config,
            "network": network(&self.networks),
            "preparedNamespaces": self.pods.prepared_networks(),
            "pods": self.pods(),
            "containers": self.containers(),
            "mailboxes": self.mailboxes(),
            "pulls": self.pulls(),
            "stages": self.stages(),
            "plugins": crate::adapters::plugins::shown(self.plugins.as_deref()),
        })
    }

    fn pods(&self) -> Vec<Value> {
        let all = self.pods.pods(&PodFilter::default());
        all.iter()
            .map(|pod| {
                json!({
                    "id": pod.id.as_str(),
                    "namespace": pod.config.metadata.namespace,
                    "name": pod.config.metadata.name,
                    "attempt": pod.config.metadata.attempt,
                    "handler": pod.config.runtime_handler,
                    "ready": pod.phase == PodPhase::Ready,
                    "message": pod.message,
                    "createdAt": pod.created_at,
                    "supervisor": pod.supervisor,
                    "cgroup": pod.cgroup,
                    "ips": pod.ips,
                })
            })
            .collect()
    }

    fn containers(&self) -> Vec<Value> {
        let all = self.pods.containers(&ContainerFilter::default());
        all.iter()
            .map(|container| {
                json!({
                    "id": container.id.as_str(),
                    "pod": container.pod.as_str(),
                    "name": container.config.metadata.name,
                    "attempt": container.config.metadata.attempt,
                    "state": state(&container.phase),
                    "image": container.image_id,
                })
            })
            .collect()
    }

    /// A pod whose mailbox is full, or that has been in the making for long, is stuck.
    fn mailboxes(&self) -> Vec<Value> {
        let queues = self.pods.queues().into_iter();
        queues
            .map(|queue| {
                json!({
                    "pod": queue.pod.as_str(),
                    "waiting": queue.waiting,
                    "room": queue.room,
                    "beingMade": queue.is_being_made,
                })
            })
            .collect()
    }

    /// What is under way, the oldest first: what is stuck is in front.
    fn stages(&self) -> Vec<Value> {
        let stages = self.stages.under_way().into_iter();
        stages.map(|stage| json!({ "stage": *stage.stage, "seconds": stage.age.as_secs_f64() })).collect()
    }

    fn pulls(&self) -> Vec<Value> {
        let pulls = self.images.pulls().into_iter();
        pulls.map(|pull| json!({ "image": pull.image, "stage": format!("{:?}", pull.stage), "layers": pull.layers.len() })).collect()
    }
}

fn network(networks: &cni::Networks) -> Value {
    match networks.status() {
        cni::Status::Ready { network } => json!({ "ready": true, "name": network }),
        cni::Status::NotReady { reason } => json!({ "ready": false, "reason": reason }),
    }
}

fn state(phase: &ContainerPhase) -> Value {
    match phase {
        ContainerPhase::Created => json!("created"),
        ContainerPhase::Running { pid, started_at } => json!({ "pid": pid, "startedAt": started_at }),
        ContainerPhase::Exited(exited) => json!(exited),
    }
}
