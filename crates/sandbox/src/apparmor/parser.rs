//! apparmor_parser: compiles the text of a profile and loads it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What its absence means for who reads it.
pub(super) const MISSING: &str = "apparmor_parser is not installed (Debian's package apparmor)";

/// Where it is looked for: never on PATH, which is whose the daemon was started by.
const PLACES: [&str; 4] = [
    "/usr/sbin/apparmor_parser",
    "/sbin/apparmor_parser",
    "/usr/bin/apparmor_parser",
    "/bin/apparmor_parser",
];

/// How long it may take. A profile as short as ours takes a tenth of a second, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why it didn't load a profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("the default profile is not loaded, and {MISSING}")]
    Missing,
    #[error("running \"{}\"", path.display())]
    Run {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("\"{}\" took longer than {PATIENCE:?}", path.display())]
    Late { path: PathBuf },
    #[error("\"{}\" ended with {status}: {said}", path.display())]
    Refused { path: PathBuf, status: std::process::ExitStatus, said: String },
}

/// The parser of this node.
pub(super) fn find() -> Option<PathBuf> {
    PLACES.into_iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Loads a profile in place of an older one of its name. The text is made for whether the parser has rules of an ABI.
///
/// Safe to cancel: the parser is killed.
///
/// # Errors
/// [`Failed`].
pub(super) async fn load(text: impl Fn(bool) -> String) -> Result<(), Failed> {
    let path = find().ok_or(Failed::Missing)?;
    let text = text(Path::new(super::profile::ABI).is_file());
    let output = match tokio::time::timeout(PATIENCE, run(&path, &text)).await {
        Ok(output) => output.map_err(|cause| Failed::Run { path: path.clone(), cause })?,
        Err(_) => return Err(Failed::Late { path }),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    Err(Failed::Refused { path, status: output.status, said })
}

async fn run(path: &Path, text: &str) -> std::io::Result<Output> {
    let mut parser = Command::new(path)
        // No cache: nothing of ours is left in the node's, and nothing of it is trusted.
        .args(["--replace", "--skip-cache"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = parser.stdin.take() {
        // One that doesn't read says why in its status.
        let _ = stdin.write_all(text.as_bytes()).await;
    }
    parser.wait_with_output().await
}
