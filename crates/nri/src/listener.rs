//! The socket that plugins connect to. It is root's alone: whoever is let in decides what containers are.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::hub::Core;
use crate::session;

/// How many plugins may be connected at a time, those that have not registered among them.
const CONNECTIONS: usize = 64;

/// Binds the socket. What lies in its way is removed, unless somebody listens there: two runtimes have two sockets.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Error> {
    let failed = |action: &'static str| move |cause| Error::File { action, path: path.to_owned(), cause };
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(|cause| Error::File { action: "making the directory", path: parent.to_owned(), cause })?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let taken = io::Error::new(io::ErrorKind::AddrInUse, "another runtime listens there");
        return Err(failed("listening on")(taken));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing the old socket")(error))
        }
        _ => Ok(()),
    }?;
    let listener = UnixListener::bind(path).map_err(failed("listening on"))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("protecting"))?;
    Ok(listener)
}

/// Takes plugins in, for ever.
pub(crate) async fn accept(core: Arc<Core>, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => take(&core, &places, &mut sessions, socket),
                Err(error) => {
                    tracing::warn!(%error, "a plugin can't connect");
                    // Out of descriptors: they come back by themselves, and not at once.
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

fn take(core: &Arc<Core>, places: &Arc<Semaphore>, sessions: &mut JoinSet<()>, socket: UnixStream) {
    let Ok(place) = places.clone().try_acquire_owned() else {
        return tracing::warn!(most = CONNECTIONS, "a plugin too many connects, and is sent away");
    };
    let (joined, _nobody_waits) = oneshot::channel();
    let core = core.clone();
    sessions.spawn(async move {
        session::serve(core, socket, None, joined).await;
        drop(place);
    });
}
