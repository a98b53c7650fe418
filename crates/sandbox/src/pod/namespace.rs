//! A pod's network namespace, held open by the daemon beside the pod's supervisor.
//!
//! A plugin that disconnects a pod looks inside for what it has made: Debian's bridge finds its masquerade rules by the addresses of
//! the link in there, and nobody else takes them away. A supervisor that is killed takes its descriptors along, so the daemon has one
//! of its own, until the network has let go of the pod. With both of them gone the namespace is, too, and plugins are asked without.
//!
//! Not here: making it (the supervisor does), where it is shown (see `pod::status`).

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{fstat, stat};

use crate::supervisor::client::Client;

/// A network namespace of a pod's own. Dropping this lets go of it.
#[derive(Debug)]
pub(crate) struct NetworkNamespace {
    /// Where the supervisor holds it.
    at: PathBuf,
    /// `None` when it could not be opened: it goes with its supervisor then.
    held: Option<OwnedFd>,
}

impl NetworkNamespace {
    /// Opens the namespace that a supervisor holds at a path.
    pub(crate) fn hold(at: PathBuf, supervisor: &Client) -> Self {
        let held = match File::open(&at) {
            // The path is the supervisor's, and so its own for as long as that lives.
            Ok(opened) if supervisor.is_there() => Some(OwnedFd::from(opened)),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(path = %at.display(), %error, "a pod's network namespace goes with its supervisor, for it cannot be held");
                None
            }
        };
        Self { at, held }
    }

    /// Where it can be opened now: where it was when the pod was attached, or here.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.held {
            Some(held) if !is_at(held, &self.at) => {
                // Of this process, and not of whoever looks: plugins are programs of their own.
                format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd()).into()
            }
            _ => self.at.clone(),
        }
    }
}

/// Whether a path leads to what is open. The number of a process that has ended may be another's by now.
fn is_at(held: &OwnedFd, path: &Path) -> bool {
    let (Ok(held), Ok(there)) = (fstat(held), stat(path)) else { return false };
    (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(at: &Path) -> NetworkNamespace {
        NetworkNamespace { at: at.to_owned(), held: Some(File::open("/proc/self/ns/net").unwrap().into()) }
    }

    #[test]
    fn a_namespace_is_where_its_supervisor_has_it_for_as_long_as_that_is_so() {
        let namespace = held(Path::new("/proc/self/ns/net"));
        assert_eq!(namespace.path(), Path::new("/proc/self/ns/net"));
        for elsewhere in ["/proc/self/ns/ipc", "/no/such/path"] {
            let namespace = held(Path::new(elsewhere));
            let path = namespace.path();
            assert_ne!(path, Path::new(elsewhere));
            assert!(is_at(namespace.held.as_ref().unwrap(), &path), "{}", path.display());
        }
    }
}
