//! Trying out whether this machine can do user namespaces. One that nobody is in is made by the supervisor binary, since a
//! process with several threads can't.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use runtime::supervisor::HOLD_USER_NAMESPACE;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::error::{Error, chain};
use crate::rootfs::{RootFilesystems, RootfsError};
use crate::shared::within;
use crate::supervisor::spawn::Binary;
use crate::users::UserMap;

/// How long making one may take, and a root filesystem for its users: some ten system calls and the start of a program.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tries out whether pods can have user namespaces on this machine, with files in `directories`. To be used within a
/// tokio runtime; safe to cancel.
///
/// # Errors
/// What can't be done, in words.
pub async fn try_user_namespaces(supervisor: &Path, directories: &[&Path]) -> Result<(), String> {
    let binary = Binary::open(supervisor).map_err(|error| chain(&error))?;
    try_users(&binary, directories, None).await.map_err(|error| chain(&error))
}

/// Tries to make a user namespace, to map the ids of files in `directories`, and of root filesystems. Safe to cancel.
///
/// # Errors
/// [`Error::Exhausted`] and [`Error::Deadline`] for what may be done later, [`Error::Step`] for what can't be done.
pub(crate) async fn try_users(
    binary: &Binary,
    directories: &[&Path],
    rootfs: Option<&dyn RootFilesystems>,
) -> Result<(), Error> {
    let users = make(binary).await?;
    for directory in directories {
        runtime::mount::try_mapping(directory, |mount| users.map_ids(mount)).map_err(|cause| {
            Error::step("mapping the ids of files", directory.display().to_string(), cause)
        })?;
    }
    let Some(rootfs) = rootfs else { return Ok(()) };
    let (step, subject) = ("making a root filesystem for mapped users", "trial");
    let work = async {
        rootfs.try_mapping(users).await.map_err(|error| match error {
            RootfsError::Failed(cause) => Error::failed(step, subject, cause),
            RootfsError::Full(_) => {
                let cause = Arc::new(error);
                Error::Step { step, subject: subject.to_owned(), cause }.for_want_of("disk space")
            }
            error @ (RootfsError::NoImage { .. }
            | RootfsError::BadReference { .. }
            | RootfsError::NoPath(_)) => Error::step(step, subject, error),
        })
    };
    within((step, subject, PATIENCE), work).await
}

/// How many user namespaces there may be (user_namespaces(7)).
const MOST: &str = "/proc/sys/user/max_user_namespaces";

/// Why the kernel made none. ENOSPC is that there may be no more of them: none at all, where an administrator wants it so, and
/// then asking again is no use.
fn refusal(errno: i32, most: &str) -> std::io::Error {
    if errno == libc::ENOSPC && most == "0" {
        return std::io::Error::other("user.max_user_namespaces is 0");
    }
    std::io::Error::from_raw_os_error(errno)
}

async fn make(binary: &Binary) -> Result<UserMap, Error> {
    let (step, subject) = ("making a user namespace", "trial");
    let failed = |cause: std::io::Error| Error::step(step, subject, cause);
    let mut holder = Command::new(format!("/proc/self/fd/{}", binary.executable().as_raw_fd()))
        .arg(HOLD_USER_NAMESPACE)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let work = async {
        let missing = || failed(std::io::Error::other("the supervisor binary could not"));
        let mut said = String::new();
        let output = holder.stdout.take().ok_or_else(missing)?;
        BufReader::new(output).read_line(&mut said).await.map_err(failed)?;
        let users = match (said.trim_end(), said.trim_end().parse()) {
            ("", _) => return Err(missing()),
            (_, Ok(errno)) => {
                let most = std::fs::read_to_string(MOST).unwrap_or_default();
                return Err(failed(refusal(errno, most.trim())));
            }
            (path, Err(_)) => UserMap::open(Path::new(path))?,
        };
        drop(holder.stdin.take());
        holder.wait().await.map_err(failed)?;
        Ok(users)
    };
    within((step, subject, PATIENCE), work).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user_namespaces::may_pass;

    #[test]
    fn a_node_that_may_have_none_is_not_asked_again() {
        let tried = |errno, most| Error::step("making", "trial", refusal(errno, most));
        let none = tried(libc::ENOSPC, "0");
        assert!(!may_pass(&none), "{none:?}");
        assert!(chain(&none).contains("user.max_user_namespaces is 0"), "{none:?}");
        assert!(may_pass(&tried(libc::ENOSPC, "100")));
        assert!(!may_pass(&tried(libc::EPERM, "0")));
    }
}
