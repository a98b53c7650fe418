//! A cluster of one node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::control_plane::ControlPlane;
use super::kubelet::Kubelet;
use super::{Ground, Http, Kind, Programs, Runtime, Space};
use crate::{Registry, until};

/// A running cluster. The order of its fields is that in which they end when a run is cut short.
pub struct Cluster {
    /// What may be ended and started anew: by one scenario at a time, while no other runs.
    pub node: Mutex<NodeParts>,
    /// The API, with all rights.
    pub api: Http,
    /// Where images come from.
    pub registry: Arc<Registry>,
    plane: ControlPlane,
    serial: AtomicU32,
    /// What all stands on.
    pub ground: Ground,
}

/// The two daemons of the node.
pub struct NodeParts {
    kubelet: Kubelet,
    /// Who runs its pods.
    pub runtime: Runtime,
}

impl Cluster {
    /// Starts everything and waits until the node takes pods.
    ///
    /// # Panics
    /// When something doesn't come up.
    pub async fn start(programs: Programs, kind: Kind) -> Self {
        let ground = Ground::new(programs);
        let runtime = Runtime::start(&ground, kind).await;
        let mut plane = ControlPlane::start(&ground).await;
        let kubelet = Kubelet::joining(&ground, &runtime);
        plane.start_service_proxy(&ground);
        let cluster = Self {
            api: plane.api.clone(),
            registry: Arc::clone(runtime.registry()),
            node: Mutex::new(NodeParts { kubelet, runtime }),
            ground,
            plane,
            serial: AtomicU32::new(0),
        };
        cluster.until_ready().await;
        cluster
    }

    /// Waits until the node says that it takes pods.
    ///
    /// # Panics
    /// When it doesn't.
    pub async fn until_ready(&self) {
        let path = format!("/api/v1/nodes/{}", Ground::NAME);
        until(Duration::from_secs(90), "the node", || async {
            self.node.lock().await.kubelet.running()?;
            let node = self.api.json(&path).await?;
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
            match ready {
                Some(condition) if condition["status"] == "True" && node["spec"].get("taints").is_none() => {
                    Ok(())
                }
                other => Err(format!("{other:?}, {}", node["spec"])),
            }
        })
        .await;
    }

    /// A namespace of a scenario's own, called after it, with the account that pods run as.
    ///
    /// # Panics
    /// When the API doesn't make it.
    pub async fn space(self: &Arc<Self>, scenario: &str) -> Space {
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", scenario.replace([':', '_'], "-"));
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.api.send("POST /api/v1/namespaces", &namespace).await.expect("a namespace");
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        until(Duration::from_secs(30), "the account of pods", || self.api.get(&account)).await;
        Space::new(self, name)
    }

    /// Removes a namespace and waits until all in it is gone.
    ///
    /// # Panics
    /// When it doesn't go.
    pub async fn remove(&self, space: &str) {
        let path = format!("/api/v1/namespaces/{space}");
        // The controller of namespaces asks itself seldom: pods, which take longest, go first and by our wish.
        let _ = self.api.send(&format!("DELETE {path}/pods"), &json!({ "gracePeriodSeconds": 1 })).await;
        let _ = self.api.send(&format!("DELETE {path}"), &Value::Null).await;
        until(Duration::from_secs(120), "the namespace's end", || async {
            match self.api.get(&format!("{path}/pods")).await {
                Ok(pods) if pods.contains("\"items\":[]") => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Ends everything when all namespaces of scenarios are gone, and says what is left.
    ///
    /// # Panics
    /// When a scenario holds on to it.
    pub async fn finish(self: Arc<Self>) -> Vec<String> {
        let cluster = Arc::into_inner(self).expect("no scenario has the cluster any more");
        let NodeParts { mut kubelet, runtime } = cluster.node.into_inner();
        kubelet.stop();
        cluster.plane.stop();
        runtime.finish(&cluster.ground).await
    }
}

impl NodeParts {
    /// Ends kubelet at once.
    pub fn kill_kubelet(&mut self) {
        self.kubelet.kill();
    }

    /// Lets the machine go down and come up: all processes of the node and its pods end at once, what lives in memory
    /// (state, cgroups, links) is gone, and the daemons start on what is on disk.
    ///
    /// # Panics
    /// When they don't come up.
    pub fn boot(&mut self, ground: &Ground) {
        self.kubelet.kill();
        self.runtime.lose_power(ground);
        self.runtime.start_again(ground);
        self.kubelet.boot(ground, &self.runtime);
    }

    /// Starts kubelet on its directories.
    pub fn start_kubelet(&mut self, ground: &Ground) {
        self.kubelet.start(ground);
    }
}
