//! A call of an external runtime's program by the daemon: bounded in time and output.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use runtime::external::ExternalRuntime;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// How much of each stream is read.
const MOST_OUTPUT: u64 = 1 << 20;

/// Where programs that a runtime needs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the program and gives its standard output.
///
/// Safe to cancel: the program is killed.
///
/// # Errors
/// What went wrong, in words.
pub(super) async fn call(
    runtime: &ExternalRuntime,
    arguments: &[&str],
    after: Duration,
) -> Result<String, String> {
    let mut command = Command::new(&runtime.path);
    command.args(&runtime.args).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_clear().env("PATH", PATH).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("\"{}\": {error}", runtime.path.display()))?;
    let group = child.id().map(|id| Pid::from_raw(id.cast_signed()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
        (stdout, stderr, child.wait().await)
    };
    let Ok((stdout, stderr, status)) = tokio::time::timeout(after, work).await else {
        // With what it has started. Not waited for yet, it keeps its number.
        let _ended = group.map(|group| killpg(group, Signal::SIGKILL));
        return Err(format!("took longer than {} s", after.as_secs()));
    };
    match status {
        Ok(status) if status.success() => Ok(stdout),
        Ok(status) => {
            let said = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            Err(if said.is_empty() { status.to_string() } else { said.trim().to_owned() })
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _cut = stream.take(MOST_OUTPUT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
