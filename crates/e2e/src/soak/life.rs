//! A pod's life: made, asked things, ended; and what its log must say.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_cri::v1::{ContainerConfig, ContainerState, PodSandboxConfig};
use tokio::sync::Mutex;
use tonic::Status;

use super::latencies::Call;
use super::place::Place;
use crate::{Client, config, patience};

/// What containers run: a line a second, each with the next number; an answer to each line of input; and an end when asked.
/// Nothing is forked for it.
const SCRIPT: &str = "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo \"line $n\"; \
    if read -t 1 word; then echo \"heard $word\"; fi; done";

/// How long a container may take to end, in seconds: a loaded machine has its time.
const GRACE: i64 = 60;

/// How long its first line may take.
const FIRST_WORD: Duration = Duration::from_secs(60);

/// How often one looks for it.
const AGAIN: Duration = Duration::from_millis(2);

/// A pod with one container, which runs.
pub struct Life {
    /// The pod.
    pub pod: String,
    /// Its container.
    pub container: String,
    /// Which stream of events was open when it began.
    pub(super) stream: Option<u64>,
    is_leaving: AtomicBool,
    logs: PathBuf,
    /// Held by whoever reads or rotates the log.
    log: Mutex<()>,
}

impl Life {
    /// Runs a pod, makes a container, and starts it.
    ///
    /// # Errors
    /// The call that failed.
    pub async fn begin(place: &Place, client: &Client) -> Result<Self, String> {
        let number = place.number();
        let name = format!("soak-{number}");
        let logs = place.logs.join(&name);
        std::fs::create_dir_all(&logs).map_err(|error| format!("{name}: {error}"))?;
        let stream = place.heard.stream();
        let (sandbox, wanted) = (sandbox(place, (&name, &logs)), container(&place.image));
        let made = place.clock.timed(Call::Start, made(place, client, (sandbox, wanted))).await;
        let (pod, container) = made.map_err(|(call, status)| format!("{call} of {name}: {status}"))?;
        let (is_leaving, log) = (AtomicBool::new(false), Mutex::new(()));
        let life = Self { pod, container, stream, is_leaving, logs, log };
        let spoken = tokio::time::timeout(patience(FIRST_WORD), life.has_spoken()).await;
        spoken.map_err(|_| life.said("says nothing")).map(|()| life)
    }

    /// Waits for its first line: before that the shell, which is PID 1, hears no signal.
    async fn has_spoken(&self) {
        while std::fs::read(self.current()).map_or(true, |log| log.is_empty()) {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Stops and removes it, as kubelet would, and reads its log to the end.
    ///
    /// # Errors
    /// The call that failed, an exit code that isn't 0, or a line that the log lacks.
    pub async fn end(&self, place: &Place, client: &Client) -> Result<(), String> {
        self.leave();
        place.clock.timed(Call::End, self.stop(place, client)).await.map_err(|said| self.said(&said))?;
        self.read_log(Reading::Whole).await.map_err(|said| self.said(&said))?;
        place.heard.expect(self);
        std::fs::remove_dir_all(&self.logs).map_err(|error| self.said(&error.to_string()))
    }

    async fn stop(&self, place: &Place, client: &Client) -> Result<(), String> {
        let said = |call: &str| {
            let call = call.to_owned();
            move |status: Status| format!("{call}: {status}")
        };
        place.insist(|| client.stop(&self.container, GRACE)).await.map_err(said("StopContainer"))?;
        let status = place.insist(|| client.container(&self.container)).await;
        let status = status.map_err(said("ContainerStatus"))?;
        if (status.state(), status.exit_code) != (ContainerState::ContainerExited, 0) {
            return Err(format!("stopped, and yet {status:?}"));
        }
        place.insist(|| client.stop_pod(&self.pod)).await.map_err(said("StopPodSandbox"))?;
        place.insist(|| client.remove_pod(&self.pod)).await.map_err(said("RemovePodSandbox"))
    }

    /// From now on calls may fail because it goes.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::SeqCst);
    }

    /// Whether it goes.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::SeqCst)
    }

    /// Reads the log, and looks whether each of the container's lines is there once, in order.
    ///
    /// # Errors
    /// The line that isn't what it should be.
    pub async fn read_log(&self, reading: Reading) -> Result<(), String> {
        let _held = self.log.lock().await;
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let text = read(self.rotated()) + &read(self.current());
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if reading == Reading::Whole && whole != text.len() {
            return Err(format!("the log ends in the middle of a line: {:?}", &text[whole..]));
        }
        in_order(&text[..whole], reading)
    }

    /// Moves the log away once and has a new one opened, as kubelet does.
    ///
    /// # Errors
    /// The call that failed.
    pub async fn rotate_log(&self, place: &Place, client: &Client) -> Result<(), String> {
        let _held = self.log.lock().await;
        if self.is_leaving() || self.rotated().exists() {
            return Ok(());
        }
        std::fs::rename(self.current(), self.rotated()).map_err(|error| self.said(&error.to_string()))?;
        let reopen = || async {
            let request = k8s_cri::v1::ReopenContainerLogRequest { container_id: self.container.clone() };
            client.runtime.clone().reopen_container_log(request).await.map(drop)
        };
        let reopened = place.insist(reopen).await;
        reopened.map_err(|status| self.said(&format!("ReopenContainerLog: {status}")))
    }

    fn current(&self) -> PathBuf {
        self.logs.join("main.log")
    }

    fn rotated(&self) -> PathBuf {
        self.logs.join("main.log.1")
    }

    fn said(&self, what: &str) -> String {
        format!("pod {}, container {}: {what}", self.pod, self.container)
    }
}

/// How much of a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// What there is at the moment.
    SoFar,
    /// What there is when the container has ended: at least its first line.
    Whole,
}

/// Whether whole lines of a log are in the format of CRI (kubelet's `pkg/kubelet/kuberuntime/logs`), and their numbers follow each other.
fn in_order(text: &str, reading: Reading) -> Result<(), String> {
    let mut next = 1;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let (_time, stream, tag, said) = (words.next(), words.next(), words.next(), words.next());
        let (Some("stdout"), Some("F"), Some(said)) = (stream, tag, said) else {
            return Err(format!("a line of the log is no line of standard output: {line:?}"));
        };
        let Some(number) = said.strip_prefix("line ") else { continue };
        if number != next.to_string() {
            return Err(format!("line {next} was to come in the log, and there is {line:?}"));
        }
        next += 1;
    }
    if reading == Reading::Whole && next == 1 { Err("the log is empty".into()) } else { Ok(()) }
}

/// RunPodSandbox, CreateContainer, StartContainer; the ids.
async fn made(
    place: &Place,
    client: &Client,
    (sandbox, wanted): (PodSandboxConfig, ContainerConfig),
) -> Result<(String, String), (&'static str, Status)> {
    let pod = place.insist(|| client.run_pod(sandbox.clone())).await;
    let pod = pod.map_err(|status| ("RunPodSandbox", status))?;
    let container = place.insist(|| client.create(&pod, wanted.clone(), &sandbox)).await;
    let container = container.map_err(|status| ("CreateContainer", status))?;
    let kills = place.kills();
    match place.insist(|| client.start(&container)).await {
        // It was started by the call whose answer was lost.
        Err(_) if place.was_killed_since(kills) && runs(place, client, &container).await => {}
        started => started.map_err(|status| ("StartContainer", status))?,
    }
    Ok((pod, container))
}

async fn runs(place: &Place, client: &Client, container: &str) -> bool {
    let status = place.insist(|| client.container(container)).await;
    status.is_ok_and(|status| status.state() == ContainerState::ContainerRunning)
}

fn sandbox(place: &Place, (name, logs): (&str, &Path)) -> PodSandboxConfig {
    let mut config = config::pod(name, &place.cgroup_parent, logs);
    // As kubelet labels them.
    let labels = [("name", name), ("namespace", "e2e"), ("uid", name)];
    config.labels = labels.map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.to_owned())).into();
    config
}

fn container(image: &str) -> ContainerConfig {
    let mut config = config::container("main", image, &["sh", "-c", SCRIPT]);
    config.stdin = true;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_missing_doubled_or_torn_is_found() {
        let line = |said: &str| format!("2026-01-01T00:00:00Z stdout F {said}\n");
        let log = |lines: &[&str]| lines.iter().map(|said| line(said)).collect::<String>();
        in_order(&log(&["line 1", "heard word 7", "line 2"]), Reading::Whole).unwrap();
        in_order("", Reading::SoFar).unwrap();
        for wrong in [&["line 2"][..], &["line 1", "line 3"], &["line 1", "line 1"], &["heard it"], &[]] {
            in_order(&log(wrong), Reading::Whole).unwrap_err();
        }
        in_order("2026-01-01T00:00:00Z stdout P line 1\n", Reading::Whole).unwrap_err();
    }
}
