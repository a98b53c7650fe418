//! Credential helpers: programs `docker-credential-<name>` that know the credentials of registries.
//!
//! ```text
//! docker-credential-<name> get  ◄─ the server's words, on standard input
//!   └─► {"ServerURL":…, "Username":…, "Secret":…}, and success: a user name `<token>` means an identity token
//!   └─► "credentials not found in native keychain", and failure: there are none
//!   └─► other words, and failure: they are the reason
//! ```
//!
//! The protocol is that of the docker-credential-helpers project. A helper is found in the configured directories alone,
//! which are its PATH too; it is killed with all that it started when it takes too long. Its answer is kept for a minute:
//! a hundred pods that start at once ask it once. It is asked once a registry wants to know who we are, and not before.
//! Not here: who has a helper (`docker_config`, `choice`).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::{Credentials, Proof};
use crate::error::Error;
use crate::turns::Turns;

/// Longest time that a helper may take; those of clouds ask services of theirs.
const DEADLINE: Duration = Duration::from_secs(20);
/// Time that an answer is good for.
const LIFE: Duration = Duration::from_secs(60);
/// Bytes of an answer: tokens of clouds have up to some 4 KiB.
const LARGEST: u64 = 64 << 10;
/// Characters of a helper's own words that go into an error.
const WORDS: usize = 300;
/// Answers kept; with more, all go.
const KEPT: usize = 256;
/// What a helper says when it has nothing (docker-credential-helpers, `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";
/// How often a program is tried that is being written at the moment, and the time in between.
const BUSY_TRIES: usize = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What a helper is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HelperCall {
    /// What follows `docker-credential-` in its name.
    pub(crate) name: String,
    /// The server, in the words that it knows it by.
    pub(crate) server: String,
}

/// The helpers of this machine, and what they said lately.
#[derive(Debug)]
pub(crate) struct Helpers {
    dirs: Vec<PathBuf>,
    deadline: Duration,
    known: Mutex<HashMap<HelperCall, Known>>,
    turns: Turns<HelperCall>,
}

struct Known {
    proof: Option<Proof>,
    since: Instant,
}

impl std::fmt::Debug for Known {
    /// Says nothing that is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("since", &self.since).finish_non_exhaustive()
    }
}

impl Helpers {
    pub(crate) fn new(dirs: Vec<PathBuf>) -> Helpers {
        Helpers { dirs, deadline: DEADLINE, known: Mutex::default(), turns: Turns::default() }
    }

    /// The credentials that a helper has, or nothing. Safe to cancel: the helper is killed.
    ///
    /// # Errors
    /// [`Error::CredentialHelper`], [`Error::HelperTimedOut`].
    pub(crate) async fn get(&self, call: &HelperCall) -> Result<Option<Proof>, Error> {
        let _turn = self.turns.wait(call).await;
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = known.get(call).filter(|known| known.since.elapsed() < LIFE) {
                return Ok(known.proof.clone());
            }
        }
        let proof = self.ask(call).await?;
        self.sweep();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(call.clone(), Known { proof: proof.clone(), since: Instant::now() });
        Ok(proof)
    }

    /// Forgets an answer that is older than `begun`, and says whether there was one.
    pub(crate) fn forget(&self, call: &HelperCall, begun: Instant) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = known.get(call).is_some_and(|known| known.since < begun);
        if is_old {
            known.remove(call);
        }
        is_old
    }

    /// Forgets answers that are good no more: secrets needn't be in memory for longer than they are of use.
    pub(crate) fn sweep(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.since.elapsed() < LIFE);
    }

    async fn ask(&self, call: &HelperCall) -> Result<Option<Proof>, Error> {
        let failed = |reason: String| Error::CredentialHelper { helper: call.name.clone(), reason };
        let program = self.find(&call.name).map_err(failed)?;
        let child = self.spawn(&program).await.map_err(|cause| failed(cause.to_string()))?;
        let mut running = Running(child);
        let talked = tokio::time::timeout(self.deadline, talk(&mut running.0, &call.server)).await;
        let (succeeded, output) = match talked {
            Ok(talked) => talked.map_err(|cause| failed(cause.to_string()))?,
            Err(_) => {
                return Err(Error::HelperTimedOut { helper: call.name.clone(), waited: self.deadline });
            }
        };
        if succeeded {
            proof(&output).map_err(failed)
        } else {
            refusal(&output).map_or(Ok(None), |reason| Err(failed(reason)))
        }
    }

    /// The program, in the first of the directories that has it.
    fn find(&self, name: &str) -> Result<PathBuf, String> {
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err("its name can't be that of a program".to_owned());
        }
        let file = format!("docker-credential-{name}");
        let found = self.dirs.iter().map(|dir| dir.join(&file)).find(|path| path.is_file());
        found.ok_or_else(|| {
            let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
            format!("there is no \"{file}\" in {}", dirs.join(", "))
        })
    }

    async fn spawn(&self, program: &Path) -> io::Result<Child> {
        let mut command = Command::new(program);
        command
            .arg("get")
            .env("PATH", std::env::join_paths(&self.dirs).map_err(io::Error::other)?)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        if std::env::var_os("HOME").is_none() {
            // Helpers look there for their own configuration; services of systemd may have none.
            command.env("HOME", "/root");
        }
        for _ in 1..BUSY_TRIES {
            match command.spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
        command.spawn()
    }
}

/// A helper's process; with it goes what it started, unless it has ended by itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // There is a number until the process has been waited for: until then it is nobody else's.
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Hands the server's words over, and reads the answer to its end. The process is waited for last: see [`Running`].
async fn talk(child: &mut Child, server: &str) -> io::Result<(bool, Vec<u8>)> {
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut answer = Vec::new();
    let asking = async {
        let Some(mut input) = input else { return Ok(()) };
        match input.write_all(server.as_bytes()).await {
            // It needn't read what it knows already.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    };
    let listening = async {
        let Some(output) = output else { return Ok(()) };
        output.take(LARGEST + 1).read_to_end(&mut answer).await?;
        match answer.len() as u64 > LARGEST {
            true => Err(io::Error::other(format!("it said more than {LARGEST} bytes"))),
            false => Ok(()),
        }
    };
    tokio::try_join!(asking, listening)?;
    let status = child.wait().await?;
    Ok((status.success(), answer))
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

fn proof(output: &[u8]) -> Result<Option<Proof>, String> {
    // The library's words would repeat what it found.
    let answer: Answer =
        serde_json::from_slice(output).map_err(|_| "its answer makes no sense".to_owned())?;
    let credentials =
        Credentials { username: answer.username, password: answer.secret, ..Credentials::default() };
    super::proof(&credentials).map_err(|error| error.to_string())
}

/// Why a helper failed; nothing if it only has no credentials.
fn refusal(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let words: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS).collect();
    if words == NOT_FOUND {
        return None;
    }
    // What looks like an answer may have a secret in it.
    match words.is_empty() || words.starts_with(['{', '[', '"']) {
        true => Some("it failed without a word".to_owned()),
        false => Some(format!("it failed: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Helpers of one script, `docker-credential-x`.
    fn helpers(script: &str) -> (tempfile::TempDir, Helpers) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-x");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let dirs = vec!["/usr/bin".into(), "/bin".into(), dir.path().to_owned()];
        (dir, Helpers { deadline: Duration::from_secs(10), ..Helpers::new(dirs) })
    }

    fn call(server: &str) -> HelperCall {
        HelperCall { name: "x".to_owned(), server: server.to_owned() }
    }

    async fn failure(script: &str) -> String {
        let (_dir, helpers) = helpers(script);
        helpers.get(&call("r.example")).await.err().unwrap().to_string()
    }

    #[tokio::test]
    async fn the_protocol_is_docker_s() {
        let script = r#"[ "$1" = get ] || exit 3; read -r server; echo "{\"ServerURL\":\"$server\",\"Username\":\"u\",\"Secret\":\"$server\"}""#;
        let (_dir, helpers) = helpers(script);
        let Some(Proof::Basic { username, password }) = helpers.get(&call("r.example:5000")).await.unwrap()
        else {
            panic!()
        };
        assert_eq!((username.as_str(), password.as_str()), ("u", "r.example:5000"));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        let (_dir, helpers) = self::helpers(token);
        let found = helpers.get(&call("r.example")).await.unwrap();
        assert!(matches!(found, Some(Proof::IdentityToken(token)) if token == "t"));
    }

    #[tokio::test]
    async fn having_none_is_no_failure() {
        for script in [
            "echo 'credentials not found in native keychain'; exit 1",
            r#"echo '{"Username":"","Secret":""}'"#,
        ] {
            let (_dir, helpers) = helpers(script);
            assert!(helpers.get(&call("r.example")).await.unwrap().is_none(), "{script}");
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_and_a_secret_is_not() {
        let told = failure("echo 'no such account'; exit 1").await;
        assert_eq!(told, "credential helper \"x\" is of no use: it failed: no such account");
        assert!(failure(r#"echo '{"Secret":"s3cret"}'; exit 1"#).await.ends_with("failed without a word"));
        assert!(failure("echo s3cret").await.ends_with("its answer makes no sense"));
        assert!(failure("head -c 100000 /dev/zero").await.ends_with("more than 65536 bytes"));
        let helpers = Helpers::new(vec!["/nowhere".into()]);
        let lacking = helpers.get(&call("r.example")).await.err().unwrap().to_string();
        assert!(lacking.ends_with("no \"docker-credential-x\" in /nowhere"), "{lacking}");
        let out = HelperCall { name: "../x".to_owned(), server: String::new() };
        assert!(helpers.get(&out).await.is_err());
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_what_it_started() {
        let (dir, mut helpers) = helpers("echo $$ > \"$(dirname \"$0\")/pid\"; sleep 1000 & wait");
        helpers.deadline = Duration::from_millis(500);
        let error = helpers.get(&call("r.example")).await.err().unwrap();
        assert!(matches!(error, Error::HelperTimedOut { .. }), "{error}");
        let group: i32 = std::fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
        // The group is empty once the last of its processes has been reaped.
        let begun = Instant::now();
        while killpg(Pid::from_raw(group), None).is_ok() && begun.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(killpg(Pid::from_raw(group), None).is_err());
    }

    #[tokio::test]
    async fn all_that_ask_at_once_share_one_answer() {
        let (dir, helpers) =
            helpers(r#"echo x >> "$(dirname "$0")/calls"; echo '{"Username":"u","Secret":"p"}'"#);
        let begun = Instant::now();
        let ours = call("r.example");
        let asked = futures::future::join_all((0..20).map(|_| helpers.get(&ours))).await;
        assert!(asked.into_iter().all(|answer| answer.unwrap().is_some()));
        let calls = || std::fs::read_to_string(dir.path().join("calls")).unwrap().lines().count();
        assert_eq!(calls(), 1);
        // One that came after the registry was asked is no older than its refusal.
        assert!(!helpers.forget(&ours, begun));
        assert!(helpers.forget(&ours, Instant::now()));
        helpers.get(&ours).await.unwrap();
        assert_eq!(calls(), 2);
    }

    #[tokio::test]
    async fn secrets_that_are_good_no_more_are_forgotten() {
        let (_dir, helpers) = helpers(r#"echo '{"Username":"u","Secret":"p"}'"#);
        let servers = || {
            let mut servers: Vec<String> =
                helpers.known.lock().unwrap().keys().map(|call| call.server.clone()).collect();
            servers.sort();
            servers
        };
        let age = |server: &str| {
            helpers.known.lock().unwrap().get_mut(&call(server)).unwrap().since -= LIFE;
        };
        helpers.get(&call("a")).await.unwrap();
        helpers.get(&call("b")).await.unwrap();
        age("a");
        helpers.get(&call("c")).await.unwrap();
        assert_eq!(servers(), ["b", "c"], "by whoever asks next");
        age("b");
        helpers.sweep();
        assert_eq!(servers(), ["c"], "where nobody asks");
    }

    #[test]
    fn debug_output_has_no_secret() {
        let helpers = Helpers::new(Vec::new());
        let proof = Some(Proof::IdentityToken("s3cret".to_owned()));
        helpers.known.lock().unwrap().insert(call("r"), Known { proof, since: Instant::now() });
        assert!(!format!("{helpers:?}").contains("s3cret"));
    }
}
