//! Running a plugin's binary: one process, configuration in, result out (SPEC.md section 2).
//!
//! What a plugin may cost is bounded: time by a deadline, after which it and its process group are killed; output by
//! size. Which plugin is asked for what, in which order, is `network`'s affair.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::fs::Access;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command as Process};
use tokio::time::timeout;

use crate::error::Error;
use crate::orphans;
use crate::request::Request;

/// No result comes near; what prints more is broken, and must not fill our memory.
pub(crate) const STDOUT_LIMIT: usize = 1 << 20;
/// Standard error is only shown; the rest is read and dropped, so that the plugin doesn't block.
const STDERR_KEPT: usize = 4 << 10;
/// How much of a bad answer an error shows.
const EXCERPT: usize = 300;
/// How long a pipe may stay open after the plugin's end: a grandchild that holds it mustn't hold us.
const DRAIN: Duration = Duration::from_millis(500);
/// How often, and how far apart, a binary is tried that is just being written (an upgrade in place).
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// What plugins find their own helpers by when the daemon has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds and runs plugins; by default there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runner {
    /// Where binaries are looked for, in this order.
    pub(crate) bin_dirs: Vec<PathBuf>,
    /// How long one run may take.
    pub(crate) deadline: Duration,
    /// Whose the processes are: see [`orphans::Owner`].
    pub(crate) owner: String,
}

/// What a finished process left.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// The error object (SPEC.md section 5, "Error").
#[derive(Deserialize)]
struct ErrorObject {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Runner {
    /// The plugin's binary.
    ///
    /// # Errors
    /// [`Error::PluginMissing`].
    pub(crate) fn find(&self, plugin: &str) -> Result<PathBuf, Error> {
        find_in(&self.bin_dirs, plugin)
    }

    /// Runs a plugin whose answer is a result.
    ///
    /// Not cancel safe: a dropped future leaves the process running.
    ///
    /// # Errors
    /// Those of [`Runner::run`], and [`Error::PluginGarbage`].
    pub(crate) async fn run_for_result(&self, call: &Request) -> Result<Value, Error> {
        let stdout = self.run(call).await?;
        serde_json::from_slice(&stdout).map_err(|source| garbage(call, &stdout, source))
    }

    /// Runs a plugin, and returns what it printed.
    ///
    /// Not cancel safe: a dropped future leaves the process running.
    ///
    /// # Errors
    /// [`Error::PluginMissing`], [`Error::PluginRun`], [`Error::PluginTimedOut`], [`Error::PluginOutput`],
    /// [`Error::PluginFailed`], [`Error::PluginCrashed`].
    pub(crate) async fn run(&self, call: &Request) -> Result<Vec<u8>, Error> {
        let binary = self.find(&call.plugin)?;
        let failed =
            |source| Error::PluginRun { plugin: call.plugin.to_owned(), command: call.command, source };
        let mut child = self.spawn(&binary, call).await.map_err(failed)?;
        let outcome = timeout(self.deadline, talk(&mut child, call)).await;
        match outcome {
            Ok(Ok(finished)) => judge(call, finished),
            Ok(Err(Talk::Io(source))) => {
                end(&mut child).await;
                Err(failed(source))
            }
            Ok(Err(Talk::TooMuch)) => {
                end(&mut child).await;
                let (plugin, command) = (call.plugin.to_owned(), call.command);
                Err(Error::PluginOutput { plugin, command, limit: STDOUT_LIMIT })
            }
            Err(_elapsed) => {
                end(&mut child).await;
                let (plugin, command) = (call.plugin.to_owned(), call.command);
                Err(Error::PluginTimedOut { plugin, command, deadline: self.deadline })
            }
        }
    }

    async fn spawn(&self, binary: &Path, call: &Request) -> io::Result<Child> {
        let bin_dirs = std::env::join_paths(&self.bin_dirs).map_err(io::Error::other)?;
        let mut process = Process::new(binary);
        process
            .env_clear()
            .envs(environment(call, bin_dirs, Some(&self.owner)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for _ in 1..BUSY_TRIES {
            match process.spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
        process.spawn()
    }
}

/// All that a plugin's process finds in its environment. Whose it is nobody may know: see [`orphans::VARIABLE`].
pub(crate) fn environment(
    call: &Request,
    bin_dirs: OsString,
    owner: Option<&str>,
) -> Vec<(&'static str, OsString)> {
    let mut variables = vec![
        ("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())),
        ("CNI_COMMAND", call.command.as_str().into()),
        ("CNI_PATH", bin_dirs),
    ];
    variables.extend(owner.map(|owner| (orphans::VARIABLE, owner.into())));
    variables.extend(call.environment().into_iter().map(|(name, value)| (name, value.into())));
    variables
}

/// The plugin's binary below one of those directories, of which its name, which comes from a configuration, must not lead out.
///
/// # Errors
/// [`Error::PluginMissing`].
pub(crate) fn find_in(dirs: &[PathBuf], plugin: &str) -> Result<PathBuf, Error> {
    let mut candidates = dirs.iter().map(|dir| dir.join(plugin));
    let found = candidates.find(|path| is_name(plugin) && is_executable(path));
    found.ok_or_else(|| Error::PluginMissing { plugin: plugin.to_owned(), searched: dirs.to_vec() })
}

/// Whether that can be the name of a file in a directory.
pub(crate) fn is_name(plugin: &str) -> bool {
    !plugin.is_empty() && !plugin.contains(['/', '\0']) && plugin != ".."
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

enum Talk {
    Io(io::Error),
    TooMuch,
}

/// Feeds the process, reads what it prints, and sees it end.
async fn talk(child: &mut Child, call: &Request) -> Result<Finished, Talk> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let status = {
        let talking = async {
            tokio::try_join!(
                write_config(pipes.0, call),
                read_result(pipes.1, &mut stdout),
                read_tail(pipes.2, &mut stderr)
            )
        };
        tokio::pin!(talking);
        tokio::select! {
            done = talking.as_mut() => {
                done?;
                child.wait().await.map_err(Talk::Io)?
            }
            status = child.wait() => {
                // The process's end is what counts; the pipes get a moment more to run dry.
                if let Ok(done) = timeout(DRAIN, talking).await {
                    done?;
                }
                status.map_err(Talk::Io)?
            }
        }
    };
    Ok(Finished { status, stdout, stderr })
}

async fn write_config(pipe: Option<impl AsyncWrite + Unpin>, call: &Request) -> Result<(), Talk> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let config = serde_json::to_vec(&call.config).map_err(|error| Talk::Io(error.into()))?;
    match pipe.write_all(&config).await {
        // A plugin needn't read it all; whether it did its work is told by its answer.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Talk::Io(error)),
        _ => Ok(()),
    }
}

async fn read_result(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), Talk> {
    let Some(pipe) = pipe else { return Ok(()) };
    pipe.take(STDOUT_LIMIT as u64 + 1).read_to_end(into).await.map_err(Talk::Io)?;
    if into.len() > STDOUT_LIMIT { Err(Talk::TooMuch) } else { Ok(()) }
}

/// Keeps the end of what is printed: the last lines say why.
async fn read_tail(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), Talk> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut buffer = [0; 4096];
    loop {
        let read = pipe.read(&mut buffer).await.map_err(Talk::Io)?;
        if read == 0 {
            return Ok(());
        }
        into.extend_from_slice(&buffer[..read]);
        let surplus = into.len().saturating_sub(STDERR_KEPT);
        into.drain(..surplus);
    }
}

/// Kills the process and its group. It hasn't been waited for, so that the number is still its own.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // A process stuck in the kernel ends when the kernel lets it; tokio reaps it then.
    let _ = timeout(DRAIN, child.wait()).await;
}

/// What it printed, if it succeeded.
pub(crate) fn judge(call: &Request, finished: Finished) -> Result<Vec<u8>, Error> {
    let (plugin, command) = (call.plugin.to_owned(), call.command);
    let stderr = excerpt_end(&finished.stderr);
    if finished.status.success() {
        if !stderr.is_empty() {
            tracing::debug!(plugin, %command, stderr, "CNI plugin printed on standard error");
        }
        return Ok(finished.stdout);
    }
    match serde_json::from_slice::<ErrorObject>(&finished.stdout) {
        Ok(error) => {
            let (code, msg, details) = (error.code, error.msg, error.details);
            Err(Error::PluginFailed { plugin, command, code, msg, details })
        }
        Err(_) => {
            let said = if stderr.is_empty() { excerpt(&finished.stdout) } else { stderr };
            Err(Error::PluginCrashed { plugin, command, status: finished.status, stderr: said })
        }
    }
}

/// The error for an answer that isn't what it should be.
pub(crate) fn garbage(call: &Request, printed: &[u8], source: serde_json::Error) -> Error {
    Error::PluginGarbage {
        plugin: call.plugin.to_owned(),
        command: call.command,
        excerpt: excerpt(printed),
        source,
    }
}

fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(EXCERPT)];
    printable(shown) + if shown.len() < bytes.len() { "…" } else { "" }
}

fn excerpt_end(bytes: &[u8]) -> String {
    let shown = &bytes[bytes.len().saturating_sub(EXCERPT)..];
    (if shown.len() < bytes.len() { "…" } else { "" }).to_owned() + &printable(shown)
}

/// One line, without what could confuse a terminal or a log.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_directories() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, out) = (dir.path().join("bin"), dir.path().join("out"));
        std::fs::create_dir(&bin).unwrap();
        for path in [&out, &bin.join("plugin")] {
            std::fs::copy("/bin/true", path).unwrap();
        }
        let find = |name: &str| find_in(std::slice::from_ref(&bin), name);
        assert_eq!(find("plugin").unwrap(), bin.join("plugin"));
        for name in ["../out", out.to_str().unwrap(), "..", "", "./plugin"] {
            assert!(matches!(find(name), Err(Error::PluginMissing { .. })), "{name}");
        }
    }

    #[test]
    fn excerpts_are_short_and_harmless() {
        assert_eq!(excerpt(b"\x1b[31mred\nline\n"), "[31mred line");
        assert_eq!(excerpt(&vec![b'x'; 5000]).chars().count(), EXCERPT + 1);
        let mut long = vec![b'x'; 5000];
        long.extend(b"why");
        assert!(excerpt_end(&long).ends_with("why"));
    }
}
