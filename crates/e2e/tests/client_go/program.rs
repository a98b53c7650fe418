//! The program in Go: found or built, told what to do, and heard. Plans and reports are described in its source.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// The exit code by which the script says that there is no Go to build with.
const NO_GO: i32 = 3;

/// The built program.
#[derive(Clone, Copy)]
pub struct ClientGo(&'static Path);

/// One run of it.
pub struct Run {
    child: Child,
    told: ChildStdin,
    heard: BufReader<ChildStdout>,
}

impl ClientGo {
    /// The program, beside the built binaries or else built here; without Go the test is reported as skipped.
    pub fn new() -> Option<Self> {
        static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let program = BUILT.get_or_init(|| {
            let beside = e2e::node::binary("client_go");
            if beside.is_file() { Ok(beside) } else { build() }
        });
        if let Err(why) = program {
            println!("skipped: client_go can't be built: {why}");
        }
        program.as_deref().ok().map(Self)
    }

    /// Its file.
    pub fn path(self) -> &'static Path {
        self.0
    }

    /// Does a job to its end and gives the report.
    pub async fn reports(self, job: &str, plan: &Value) -> Value {
        self.run(job, plan).await.ended().await
    }

    /// Begins a job.
    pub async fn run(self, job: &str, plan: &Value) -> Run {
        let mut command = tokio::process::Command::new(self.0);
        command.arg(job).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program in Go");
        let mut told = child.stdin.take().expect("a pipe");
        let heard = BufReader::new(child.stdout.take().expect("a pipe"));
        told.write_all(plan.to_string().as_bytes()).await.expect("a plan that is read");
        Run { child, told, heard }
    }
}

impl Run {
    /// The next report.
    pub async fn report(&mut self) -> Value {
        let mut line = String::new();
        self.heard.read_line(&mut line).await.expect("a report");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Says a line more.
    pub async fn tell(&mut self, line: &Value) {
        self.told.write_all(format!("{line}\n").as_bytes()).await.expect("a line that is read");
    }

    /// Ends it, whatever it still reports.
    pub async fn leave(mut self) {
        drop(self.told);
        let status = self.child.wait().await.expect("an end");
        assert!(status.success(), "{status}");
    }

    /// The last report, after the end of input.
    pub async fn ended(mut self) -> Value {
        drop(self.told);
        let mut line = String::new();
        self.heard.read_line(&mut line).await.expect("a report");
        let status = self.child.wait().await.expect("an end");
        assert!(status.success(), "{status}: {line}");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

fn build() -> Result<PathBuf, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/go.sh");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("client_go");
    let built = Command::new(script).arg("build").arg(&program).output();
    let built = built.map_err(|error| format!("{script}: {error}"))?;
    let said = String::from_utf8_lossy(&built.stderr).trim().to_owned();
    if built.status.code() == Some(NO_GO) {
        return Err(said);
    }
    assert!(built.status.success(), "{said}");
    Ok(program)
}
