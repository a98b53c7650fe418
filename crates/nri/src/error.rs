//! What goes wrong with plugins.

use std::path::PathBuf;

/// What goes wrong with plugins.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something of the node's files: the socket, the directory of plugins.
    #[error("{action} \"{}\"", path.display())]
    File {
        /// What was done to it.
        action: &'static str,
        /// The thing.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// A plugin does not want it.
    #[error("the plugin \"{plugin}\" refuses {event}: {why}")]
    Refused {
        /// Its index and name.
        plugin: String,
        /// The event.
        event: &'static str,
        /// What it says.
        why: String,
    },
    /// A validator does not want what plugins change.
    #[error("{validator} rejects what plugins change of the container: {why}")]
    Rejected {
        /// Who.
        validator: String,
        /// What it says.
        why: String,
    },
    /// Two plugins want different things of one field.
    #[error("the plugins \"{plugin}\" and \"{other}\" both want to set {field}")]
    Conflict {
        /// Who came later.
        plugin: String,
        /// Who was there before.
        other: String,
        /// The field, with its entry if it has several.
        field: String,
    },
    /// A plugin changes a container as if it were there already.
    #[error("the plugin \"{plugin}\" updates the container \"{container}\", which is being made")]
    NotYet {
        /// Who.
        plugin: String,
        /// The container.
        container: String,
    },
    /// Something of an adjustment that can't be done.
    #[error("{field}: {why}")]
    Unsupported {
        /// The field of the adjustment.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The runtime goes down.
    #[error("the runtime goes down")]
    Closed,
}
