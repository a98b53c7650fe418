//! How client commands reach a running daemon: over its socket, with CRI or with the services of our own.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
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

    fn socket(&self) -> Result<PathBuf, ClientError> {
        let endpoint = self.endpoint.clone().unwrap_or_else(|| Sources::new(None).listen());
        let path = endpoint.strip_prefix("unix://").map(PathBuf::from).filter(|path| path.is_absolute());
        path.ok_or(ClientError::Address { endpoint })
    }
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
