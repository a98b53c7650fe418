//! A kubelet without a cluster: it runs the pods whose manifests lie in its directory.

use std::time::Duration;

use serde_json::Value;

use super::kubelet::{Kubelet, READ_ONLY_PORT};
use super::{Ground, Http, Kind, Programs, Runtime};
use crate::cri::PodSandboxState;
use crate::{Client, until};

/// A running kubelet and what it stands on. The order of its fields is that in which they end when a run is cut short.
pub struct Standalone {
    process: Kubelet,
    /// kubelet's read-only port.
    pub kubelet: Http,
    /// Who runs its pods.
    pub runtime: Runtime,
    /// What all stands on.
    pub ground: Ground,
}

impl Standalone {
    /// Starts a runtime and a kubelet on it, and waits until kubelet answers.
    ///
    /// # Panics
    /// When one doesn't come up.
    pub async fn start(programs: Programs, kind: Kind) -> Self {
        let ground = Ground::new(programs);
        let runtime = Runtime::start(&ground, kind).await;
        let process = Kubelet::standalone(&ground, &runtime);
        let kubelet = Http::new(&ground.host, READ_ONLY_PORT);
        let mut rig = Self { ground, runtime, kubelet, process };
        rig.until_it_answers().await;
        rig
    }

    async fn until_it_answers(&mut self) {
        let (process, kubelet) = (&mut self.process, &self.kubelet);
        until(Duration::from_secs(60), "kubelet", || {
            let alive = process.running();
            async move { alive.and(kubelet.json("/pods").await) }
        })
        .await;
    }

    /// Puts a manifest into kubelet's directory, as a whole.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn place(&self, name: &str, manifest: &Value) {
        let beside = self.ground.path(name);
        std::fs::write(&beside, manifest.to_string()).expect("a manifest");
        std::fs::rename(beside, self.ground.path("manifests").join(format!("{name}.json")))
            .expect("a manifest");
    }

    /// Takes it away.
    ///
    /// # Panics
    /// When it isn't there.
    pub fn withdraw(&self, name: &str) {
        std::fs::remove_file(self.ground.path("manifests").join(format!("{name}.json"))).expect("a manifest");
    }

    /// What kubelet says of the static pod that a manifest calls `name`.
    ///
    /// # Errors
    /// When it can't be asked or has none.
    pub async fn pod(&self, name: &str) -> Result<Value, String> {
        let pods = self.kubelet.json("/pods").await?;
        let called = format!("{name}-{}", Ground::NAME);
        let pod =
            pods["items"].as_array().into_iter().flatten().find(|pod| pod["metadata"]["name"] == *called);
        pod.cloned().ok_or_else(|| format!("no pod \"{called}\" among {}", pods["items"]))
    }

    /// Starts kubelet anew, after a crash.
    pub fn restart_kubelet(&mut self) {
        self.process.kill();
        self.process.start(&self.ground);
    }

    /// Starts kubelet anew with more feature gates than it has in all scenarios; with none of them, as it was.
    ///
    /// # Panics
    /// When it doesn't come up.
    pub async fn gates(&mut self, gates: &[&str]) {
        self.process.gated((&self.ground, &self.runtime), gates);
        self.until_it_answers().await;
    }

    /// Takes all manifests away, waits until their pods have ended, ends everything and says what is left.
    ///
    /// # Panics
    /// When pods don't end.
    pub async fn finish(mut self) -> Vec<String> {
        let manifests = std::fs::read_dir(self.ground.path("manifests")).expect("manifests").flatten();
        manifests.for_each(|entry| std::fs::remove_file(entry.path()).expect("a manifest"));
        let client = Client::new(&self.runtime.socket());
        until(Duration::from_secs(60), "the static pods' end", || async {
            let pods = client.pods().await.map_err(|status| status.to_string())?;
            let ready = pods.iter().find(|pod| pod.state() == PodSandboxState::SandboxReady);
            ready.map_or(Ok(()), |pod| Err(format!("{pod:?}")))
        })
        .await;
        self.process.stop();
        self.runtime.finish(&self.ground).await
    }
}
