//! Asking an external runtime what it can do.
//!
//! Not here: when, and what becomes of the answer (see `runtimes`).

use std::time::{Duration, Instant};

use runtime::external::ExternalRuntime;
use serde::Deserialize;

use super::call::call;
use crate::config::Features;

/// How long each of the two questions may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The part of a runtime's answer that counts (OCI runtime-spec, features.md).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    mount_options: Vec<String>,
}

/// Asks a runtime what it can do. One without an answer can do little; one that can't be executed, nothing. Safe to cancel.
///
/// # Errors
/// Why it can't be used, in words.
pub async fn ask(runtime: &ExternalRuntime) -> Result<Features, String> {
    ask_within(runtime, PATIENCE).await
}

async fn ask_within(runtime: &ExternalRuntime, patience: Duration) -> Result<Features, String> {
    let asked = Instant::now();
    match call(runtime, &["features"], patience).await {
        Ok(answer) => Ok(read(&answer)),
        // One that hangs would hang again.
        Err(why) if asked.elapsed() >= patience => Err(why),
        // `features` is younger than many a runtime.
        Err(_) => call(runtime, &["--version"], patience).await.map(|_| read("")),
    }
}

fn read(answer: &str) -> Features {
    let answer: Answer = serde_json::from_str(answer).unwrap_or_default();
    Features {
        recursive_read_only_mounts: answer.mount_options.iter().any(|option| option == "rro"),
        // A runtime looks for root and volumes by path as the root of the pod's user namespace, who can't pass the state directory.
        user_namespaces: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(script: &str) -> ExternalRuntime {
        let args = ["-c", script, "sh"].map(str::to_owned).to_vec();
        ExternalRuntime { path: "/bin/sh".into(), args }
    }

    #[tokio::test]
    async fn a_runtime_is_believed_what_it_says_and_no_more() {
        let with = |script: &str| {
            let runtime = runtime(script);
            async move { ask(&runtime).await.map(|features| features.recursive_read_only_mounts) }
        };
        let says = r#"echo '{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"], "linux": {}}'"#;
        assert_eq!(with(says).await, Ok(true));
        assert_eq!(with(r#"echo '{"mountOptions": ["ro"]}'"#).await, Ok(false));
        assert_eq!(with("echo nonsense").await, Ok(false));
        assert_eq!(with("[ \"$1\" = --version ]").await, Ok(false), "one without the question");
        assert_eq!(with("echo broken >&2; exit 3").await, Err("broken".to_owned()));
        let missing = ExternalRuntime { path: "/nowhere/runc".into(), args: vec![] };
        assert!(ask(&missing).await.unwrap_err().contains("/nowhere/runc"));
    }

    #[tokio::test]
    async fn a_runtime_that_hangs_is_asked_once() {
        let directory = tempfile::tempdir().unwrap();
        let asked = directory.path().join("asked");
        let script = format!("echo \"$1\" >>'{}'; exec sleep 1000", asked.display());
        let hung = ask_within(&runtime(&script), Duration::from_secs(2)).await;
        assert!(hung.unwrap_err().contains("took longer"));
        assert_eq!(std::fs::read_to_string(asked).unwrap(), "features\n");
    }

    #[tokio::test]
    async fn a_runtime_that_hangs_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("held");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let script = format!("sleep 1000 3<>'{0}' & exec sleep 1000", fifo.display());
        let hung = call(&runtime(&script), &["features"], Duration::from_millis(300)).await;
        assert!(hung.unwrap_err().contains("took longer"));
        // No reader is left when its child is gone.
        let gone = async {
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
            while rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty()).is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("its child's end");
    }
}
