//! How client commands reach a running daemon: over its socket, with CRI or with the services of our own.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Uri};

use crate::config::Sources;

/// Which daemon a command speaks to.
#[derive(Debug, Clone, Args)]
pub(crate) struct Endpoint {
    /// The daemon's socket [default: `listen` of /etc/knarr/config.toml, unix:///run/knarr/knarr.sock without]
    #[arg(long, global = true, value_name = "ADDRESS")]
    endpoint: Option<String>,
}

/// Why a command got no answer that it can use.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// The address.
    #[error("the endpoint \"{endpoint}\" must be unix:// and an absolute path")]
    Address {
        /// As it was given.
        endpoint: String,
    },
    /// Nobody answers there.
    #[error("no daemon answers at \"{}\"", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// The daemon's answer: its message is a whole sentence already.
    #[error("{}", .0.message())]
    Refused(Box<tonic::Status>),
}

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl Endpoint {
    /// A connection to the daemon, for any of its services. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Unreachable`].
    pub(crate) async fn connect(&self) -> Result<Channel, ClientError> {
        let path = &self.socket()?;
        // Tried out here: what a channel says of a socket that isn't there names neither the socket nor the reason.
        let tried = UnixStream::connect(path).await;
        tried.map_err(|cause| ClientError::Unreachable { path: path.to_owned(), cause })?;
        Ok(channel(path))
    }

    /// Where the daemon is looked for.
    ///
    /// # Errors
    /// [`ClientError::Address`].
    pub(crate) fn socket(&self) -> Result<PathBuf, ClientError> {
        let endpoint = self.endpoint.clone().unwrap_or_else(|| Sources::new(None).listen());
        let path = endpoint.strip_prefix("unix://").map(PathBuf::from).filter(|path| path.is_absolute());
        path.ok_or(ClientError::Address { endpoint })
    }
}

/// Bounds a call: a daemon that is stopped holds nobody up.
///
/// # Errors
/// [`ClientError::Refused`] when it is late, with what it said otherwise.
pub(crate) async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let late = |_| Status::deadline_exceeded(format!("the daemon has not answered within {patience:?}"));
    tokio::time::timeout(patience, call).await.map_err(late)?
}

/// The unix sockets that a process listens at: those of its descriptors that the kernel's table has with a path, and as ones that
/// accept (linux/net.h, __SO_ACCEPTCON).
pub(crate) fn sockets_of(pid: u32) -> Vec<PathBuf> {
    const ACCEPTS: u32 = 1 << 16;
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open: BTreeSet<String> = descriptors
        .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let listens = |line: &str| {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut fields = line.split_whitespace().skip(3);
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        let (inode, path) = (fields.nth(2)?, fields.next()?);
        (flags & ACCEPTS != 0 && open.contains(inode)).then(|| PathBuf::from(path))
    };
    table.lines().filter_map(listens).filter(|path| path.is_absolute()).collect()
}

/// A channel that connects when it is first used, and anew when its connection is gone.
pub(crate) fn channel(socket: &Path) -> Channel {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let nowhere = tonic::transport::Endpoint::from_static("http://knarr.invalid");
    nowhere.connect_with_connector_lazy(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_where_it_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let _listens = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let _connects = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let found = sockets_of(std::process::id());
        assert_eq!(found.iter().filter(|found| **found == path).count(), 1, "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_is_silent_holds_nobody_up() {
        let never = std::future::pending::<Result<(), ClientError>>();
        let late = within(Duration::from_secs(9), never).await.unwrap_err().to_string();
        assert_eq!(late, "the daemon has not answered within 9s");
    }
}
