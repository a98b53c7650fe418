//! A namespace of a scenario's own: making objects, looking at them, kubectl.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Cluster;
use crate::until_each;

/// A namespace; [`Cluster::remove`] ends it.
#[derive(Clone)]
pub struct Space {
    /// The cluster that it is in.
    pub cluster: Arc<Cluster>,
    /// Its name.
    pub name: String,
}

/// What a kubectl has done.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit code, -1 when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// How long anything in a cluster may take on a loaded machine that isn't waited for by Kubernetes itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often the API is asked: each request costs three processes some milliseconds.
const INTERVAL: Duration = Duration::from_millis(100);

/// Where the API has the kinds that scenarios make.
const KINDS: [(&str, &str); 8] = [
    ("Pod", "api/v1 pods"),
    ("Service", "api/v1 services"),
    ("ConfigMap", "api/v1 configmaps"),
    ("Secret", "api/v1 secrets"),
    ("Deployment", "apis/apps/v1 deployments"),
    ("DaemonSet", "apis/apps/v1 daemonsets"),
    ("Job", "apis/batch/v1 jobs"),
    ("CronJob", "apis/batch/v1 cronjobs"),
];

impl Space {
    pub(super) fn new(cluster: &Arc<Cluster>, name: String) -> Self {
        Self { cluster: Arc::clone(cluster), name }
    }

    /// The reference of an image in the tests' registry.
    pub fn image(&self, name: &str) -> String {
        self.cluster.registry.image(name)
    }

    /// Makes an object.
    ///
    /// # Panics
    /// When the API refuses it.
    pub async fn create(&self, object: &Value) {
        let kind = object["kind"].as_str().expect("an object's kind");
        let sent = self.cluster.api.send(&format!("POST {}", self.path(kind)), object).await;
        sent.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }

    /// Changes an object by a merge patch.
    ///
    /// # Panics
    /// When the API refuses it.
    pub async fn patch(&self, (kind, name): (&str, &str), change: &Value) {
        let path = format!("PATCH {}/{name}", self.path(kind));
        self.cluster.api.send(&path, change).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Removes an object with the grace that it asks for itself; those that it owns follow.
    ///
    /// # Panics
    /// When the API refuses it.
    pub async fn delete(&self, kind: &str, name: &str) {
        let path = format!("DELETE {}/{name}", self.path(kind));
        let wish = json!({ "propagationPolicy": "Background" });
        self.cluster.api.send(&path, &wish).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// An object as it is.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, kind: &str, name: &str) -> Result<Value, String> {
        self.cluster.api.json(&format!("{}/{name}", self.path(kind))).await
    }

    /// All objects of a kind.
    ///
    /// # Errors
    /// When the API doesn't answer.
    pub async fn list(&self, kind: &str) -> Result<Vec<Value>, String> {
        let list = self.cluster.api.json(&self.path(kind)).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until `look` finds in an object what it looks for, and gives that.
    ///
    /// # Panics
    /// When it doesn't in time: the message has the object's status.
    pub async fn until<T>(
        &self,
        (kind, name): (&str, &str),
        what: &str,
        look: impl Fn(&Value) -> Option<T>,
    ) -> T {
        until_each((INTERVAL, PATIENCE), &format!("{name}: {what}"), || async {
            let object = self.get(kind, name).await?;
            look(&object).ok_or_else(|| object["status"].to_string())
        })
        .await
    }

    /// Waits until a pod's container is in a state, such as `/terminated/reason` or `/waiting/reason`, by that value.
    ///
    /// # Panics
    /// As [`Space::until`].
    pub async fn until_container(
        &self,
        (pod, container): (&str, &str),
        pointer: &str,
        value: &Value,
    ) -> Value {
        let what = format!("{container} with {pointer} {value}");
        self.until(("Pod", pod), &what, |pod| {
            let status = container_status(pod, container)?;
            (status.pointer(pointer)? == value).then(|| status.clone())
        })
        .await
    }

    /// Waits until a pod is ready, and gives it.
    ///
    /// # Panics
    /// As [`Space::until`].
    pub async fn ready(&self, pod: &str) -> Value {
        self.until(("Pod", pod), "ready", |pod| has_condition(pod, "Ready").then(|| pod.clone())).await
    }

    /// Waits until a pod has ended well or not, and gives its phase.
    ///
    /// # Panics
    /// As [`Space::until`].
    pub async fn ended(&self, pod: &str) -> String {
        let phase = |pod: &Value| pod["status"]["phase"].as_str().map(str::to_owned);
        self.until(("Pod", pod), "the end", |pod| {
            phase(pod).filter(|phase| phase != "Pending" && phase != "Running")
        })
        .await
    }

    /// Waits until there is no such object any more.
    ///
    /// # Panics
    /// When it stays.
    pub async fn gone(&self, kind: &str, name: &str) {
        until_each((INTERVAL, PATIENCE), &format!("{name} to be gone"), || async {
            match self.get(kind, name).await {
                Err(error) if error.contains(": 404: ") => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Waits until some event of the namespace has this reason, and gives its message.
    ///
    /// # Panics
    /// When none comes.
    pub async fn event(&self, reason: &str) -> String {
        let path = format!("/api/v1/namespaces/{}/events", self.name);
        until_each((INTERVAL, PATIENCE), &format!("the event {reason}"), || async {
            let events = self.cluster.api.json(&path).await?;
            let mut found =
                events["items"].as_array().into_iter().flatten().filter(|event| event["reason"] == reason);
            let message = found.next().and_then(|event| event["message"].as_str().map(str::to_owned));
            message.ok_or_else(|| "no such event".to_owned())
        })
        .await
    }

    /// What a pod's first container has logged, all of it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn log(&self, pod: &str) -> Result<String, String> {
        self.cluster.api.get(&format!("{}/{pod}/log", self.path("Pod"))).await
    }

    /// Waits until a pod's log has a text in it.
    ///
    /// # Panics
    /// When it doesn't come.
    pub async fn logged(&self, pod: &str, text: &str) -> String {
        until_each((INTERVAL, PATIENCE), &format!("{pod} to log {text:?}"), || async {
            let log = self.log(pod).await?;
            if log.contains(text) { Ok(log) } else { Err(log) }
        })
        .await
    }

    /// What a shell in a pod prints.
    ///
    /// # Panics
    /// When it fails.
    pub async fn sh(&self, pod: &str, script: &str) -> String {
        self.kubectl(&["exec", pod, "--", "sh", "-c", script]).await.well()
    }

    /// Runs kubectl in this namespace.
    ///
    /// # Panics
    /// When it can't be started.
    pub async fn kubectl(&self, arguments: &[&str]) -> Ran {
        self.kubectl_with(arguments, "").await
    }

    /// The same with something on its standard input.
    ///
    /// # Panics
    /// As [`Space::kubectl`].
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.kubectl_command(arguments);
        let piped =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = piped.spawn().expect("kubectl");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.as_bytes().to_owned();
        let writing = tokio::spawn(async move { stdin.write_all(&input).await });
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {arguments:?} doesn't end")).expect("kubectl");
        // It may end before it has read everything.
        let _ = writing.await;
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A kubectl to be run by the test itself, such as one that goes on for long.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let ground = &self.cluster.ground;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", ground.host.path().display()))
            .arg(ground.programs.path("kubectl"))
            .arg(format!("--kubeconfig={}", ground.path("admin.kubeconfig").display()))
            .arg(format!("--cache-dir={}", ground.path("kubectl").display()))
            .args(["--namespace", &self.name])
            .args(arguments);
        command
    }

    /// What the API and kubectl have to say of a scenario that failed.
    pub async fn diagnosis(&self) -> String {
        let pods = self.kubectl(&["describe", "pods"]).await.stdout;
        let events = self.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).await.stdout;
        format!("{pods}\n{events}")
    }

    fn path(&self, kind: &str) -> String {
        let found = KINDS.iter().find(|(known, _)| *known == kind);
        let (_, place) = found.unwrap_or_else(|| panic!("kind {kind} lacks a row in KINDS"));
        let (group, plural) = place.split_once(' ').expect("two words");
        format!("/{group}/namespaces/{}/{plural}", self.name)
    }
}

impl Ran {
    /// What it printed, when it ended well.
    ///
    /// # Panics
    /// When it didn't.
    pub fn well(self) -> String {
        assert_eq!(self.code, 0, "kubectl: {}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Whether a pod's condition is true.
fn has_condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// A container's status among those of all kinds of containers.
fn container_status<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let kinds = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = kinds.iter().flat_map(|kind| pod["status"][kind].as_array().into_iter().flatten());
    all.find(|status| status["name"] == container)
}
