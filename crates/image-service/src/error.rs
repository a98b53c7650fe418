//! Everything that can go wrong with images, as one type.
//!
//! A variant names what was attempted on which thing; its source says why. Not here: which gRPC code an error becomes
//! (the daemon's one table decides that).

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;

/// An operation of the image service that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // --- the store: layers and root filesystems -------------------------------------------------------------------
    /// A text that should be a digest isn't one.
    #[error("\"{text}\" is not a digest")]
    BadDigest {
        /// The text as given.
        text: String,
    },
    /// A file or directory of the store could not be made, read or changed.
    #[error("cannot {action} \"{}\"", path.display())]
    Store {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The thing it was attempted on.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// The filesystem is full (or its quota is): retried once space is free, the operation works.
    #[error("no space is left for {what}")]
    NoSpace {
        /// What didn't fit, with its name.
        what: String,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// A layer that was asked for isn't in the store.
    #[error("layer \"{diff_id}\" is not in the store")]
    LayerMissing {
        /// Digest of the layer's uncompressed archive.
        diff_id: Digest,
    },
    /// The uncompressed bytes of a layer are not those that the image names.
    #[error("layer \"{expected}\" has the digest \"{actual}\"")]
    LayerDigest {
        /// What the image's configuration says.
        expected: Digest,
        /// What the bytes say.
        actual: Digest,
    },
    /// A layer's bytes could not be decompressed, or ended too early.
    #[error("cannot decompress layer \"{diff_id}\"")]
    LayerStream {
        /// The layer.
        diff_id: Digest,
        /// The decompressor's reason.
        #[source]
        cause: io::Error,
    },
    /// A layer's archive breaks the tar format, or a bound on it.
    #[error("layer \"{diff_id}\" is not a valid archive: {reason}")]
    LayerArchive {
        /// The layer.
        diff_id: Digest,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry of a layer is refused because of what it asks for.
    #[error("entry \"{entry}\" of layer \"{diff_id}\" is refused: {reason}")]
    EntryRefused {
        /// The layer.
        diff_id: Digest,
        /// The entry's name, as far as it is text.
        entry: String,
        /// Why.
        reason: &'static str,
    },
    /// An entry of a layer could not be created.
    #[error("cannot unpack entry \"{entry}\" of layer \"{diff_id}\"")]
    EntryUnpack {
        /// The layer.
        diff_id: Digest,
        /// The entry's name, as far as it is text.
        entry: String,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// A container's name can't be used as the name of its directory.
    #[error("\"{container}\" is not a container id")]
    BadContainerId {
        /// The id as given.
        container: String,
    },
    /// A container has a root filesystem already, made of other layers.
    #[error("container \"{container}\" has another root filesystem already")]
    RootfsExists {
        /// The container's id.
        container: String,
    },
    /// No root filesystem was prepared for a container.
    #[error("container \"{container}\" has no root filesystem")]
    RootfsMissing {
        /// The container's id.
        container: String,
    },
    /// The kernel refused to mount a container's root filesystem.
    #[error("cannot {action} the root filesystem of container \"{container}\"")]
    RootfsMount {
        /// The container's id.
        container: String,
        /// The step that failed, as a verb.
        action: &'static str,
        /// The kernel's reason, with its own words where it gave some.
        #[source]
        cause: io::Error,
    },
}
