//! Everything that can go wrong with images, as one type.
//!
//! A variant names what was attempted on which thing; its source says why. Not here: which gRPC code an error becomes
//! (the daemon's one table decides that).

mod kind;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::digest::Digest;

pub use kind::ErrorKind;

/// An operation of the image service that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // --- names and requests ---------------------------------------------------------------------------------------
    /// A text that should name an image doesn't.
    #[error("\"{text}\" is not an image reference: {reason}")]
    BadReference {
        /// The text as given, shortened where it is long.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The credentials of a request make no sense.
    #[error("the credentials are unusable: {reason}")]
    BadCredentials {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// No such image is here.
    #[error("image \"{image}\" does not exist")]
    ImageMissing {
        /// The reference or id as given.
        image: String,
    },
    /// Layers that an image has lost can't be fetched.
    #[error(
        "nothing tells where the layers of image \"{image}\" came from: it has to be loaded or pulled again"
    )]
    NoOrigin {
        /// Digest of its configuration.
        image: Digest,
    },
    /// A shortened id fits several images.
    #[error("\"{id}\" is the beginning of more than one image id")]
    AmbiguousId {
        /// The beginning of an id, as given.
        id: String,
    },
    /// A pull failed. All that wait for it get this one failure.
    #[error("cannot pull image \"{image}\"")]
    Pull {
        /// The full reference.
        image: String,
        /// Why.
        #[source]
        cause: Arc<Error>,
    },
    /// The service went away while it was pulling.
    #[error("the image service is shutting down")]
    ShuttingDown,
    /// A thread for blocking work could not be used, or it ended without an answer.
    #[error("cannot finish {what} on a thread of its own")]
    Thread {
        /// The work.
        what: &'static str,
        /// The system's or the scheduler's reason.
        #[source]
        cause: io::Error,
    },
    // --- registries -----------------------------------------------------------------------------------------------
    /// A `hosts.toml`, or a certificate that it names, can't be used.
    #[error("cannot use registry configuration \"{}\"", path.display())]
    RegistryConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: io::Error,
    },
    /// No connection can be set up for an endpoint: mostly its certificates are unusable.
    #[error("cannot set up connections to \"{host}\"")]
    Client {
        /// The endpoint's host and port.
        host: String,
        /// The library's reason.
        #[source]
        cause: reqwest::Error,
    },
    /// No endpoint of a registry is configured to be asked for images.
    #[error("no endpoint of registry \"{registry}\" has the capability \"{capability}\"")]
    NoEndpoint {
        /// The registry's name.
        registry: String,
        /// `resolve` or `pull`.
        capability: &'static str,
    },
    /// An endpoint can't be reached, or the connection broke.
    #[error("cannot get \"{url}\"")]
    Request {
        /// What was asked for, without its query.
        url: String,
        /// The reason.
        #[source]
        cause: Broken,
    },
    /// An endpoint sent nothing for too long.
    #[error("no byte of \"{url}\" came for {} s", waited.as_secs_f32())]
    Stalled {
        /// What was asked for, without its query.
        url: String,
        /// How long we waited.
        waited: Duration,
    },
    /// An endpoint sends so little that it would never end.
    #[error("only {received} bytes of \"{url}\" came within {} s", waited.as_secs_f32())]
    TooSlow {
        /// What was asked for, without its query.
        url: String,
        /// Bytes that came.
        received: u64,
        /// How long we waited for them.
        waited: Duration,
    },
    /// An endpoint answered with something else than success.
    #[error("\"{url}\" answered {status}{detail}")]
    Answer {
        /// What was asked for, without its query.
        url: String,
        /// The HTTP status with its name.
        status: reqwest::StatusCode,
        /// The answer's own words with `: ` before them, or nothing.
        detail: String,
        /// How long the endpoint asks us to wait before trying again.
        retry_after: Option<Duration>,
    },
    /// An answer ended before it was whole.
    #[error("\"{url}\" broke off after {received} of {expected} bytes")]
    BrokenOff {
        /// What was asked for, without its query.
        url: String,
        /// Bytes that came.
        received: u64,
        /// Bytes that should have come.
        expected: u64,
    },
    /// A registry sends us where we don't go.
    #[error("the redirect of \"{url}\" is refused: {reason}")]
    Redirect {
        /// What was asked for, without its query.
        url: String,
        /// Why.
        reason: &'static str,
    },
    /// A registry asks for a proof in a way that can't be answered.
    #[error("the authentication that \"{url}\" asks for is refused: {reason}")]
    Challenge {
        /// What was asked for, without its query.
        url: String,
        /// Why.
        reason: &'static str,
    },
    /// A registry doesn't let the asker in.
    #[error("asked with {with}")]
    Denied {
        /// Whose credentials were shown, such as `no credentials`.
        with: String,
        /// What it answered.
        #[source]
        cause: Box<Error>,
    },
    /// A credential helper has an answer that can't be used, or can't be run.
    #[error("credential helper \"{helper}\" is of no use: {reason}")]
    CredentialHelper {
        /// Its name, without `docker-credential-`.
        helper: String,
        /// Why.
        reason: String,
    },
    /// A credential helper took too long, and was killed.
    #[error("credential helper \"{helper}\" said nothing for {} s", waited.as_secs_f32())]
    HelperTimedOut {
        /// Its name, without `docker-credential-`.
        helper: String,
        /// How long we waited.
        waited: Duration,
    },
    /// A registry failed after its mirrors had failed too.
    #[error("its mirrors failed ({mirrors}), and then")]
    Mirrors {
        /// Each mirror's failure.
        mirrors: String,
        /// The last endpoint's failure.
        #[source]
        cause: Box<Error>,
    },
    /// A request failed each time that it was tried.
    #[error("tried {attempts} times, and lastly")]
    Attempts {
        /// How often.
        attempts: u32,
        /// The last failure.
        #[source]
        cause: Box<Error>,
    },
    // --- what registries say --------------------------------------------------------------------------------------
    /// A document or a layer is larger than it may be.
    #[error("\"{url}\" is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for, without its query.
        url: String,
        /// The bound: ours, or the size that its descriptor states.
        limit: u64,
    },
    /// Content isn't what its digest says.
    #[error("\"{url}\" should have the digest \"{expected}\" but has \"{actual}\"")]
    DigestMismatch {
        /// What was asked for, without its query.
        url: String,
        /// The digest that it was asked for by, or that the registry stated.
        expected: Digest,
        /// What the bytes say.
        actual: Digest,
    },
    /// A manifest, index or configuration isn't the JSON that it should be.
    #[error("cannot read {kind} \"{digest}\"")]
    Document {
        /// `manifest`, `index` or `configuration`.
        kind: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
    /// A manifest, index or configuration is readable but refused.
    #[error("{kind} \"{digest}\" is refused: {reason}")]
    DocumentRefused {
        /// `manifest`, `index` or `configuration`.
        kind: &'static str,
        /// Its digest.
        digest: Digest,
        /// Why.
        reason: String,
    },
    /// An image isn't for this machine.
    #[error("\"{digest}\" has no image for {wanted}, only for {offered}")]
    NoPlatform {
        /// Digest of the index or manifest.
        digest: Digest,
        /// This machine's platform.
        wanted: String,
        /// The platforms that it has.
        offered: String,
    },
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
    /// So many pulls are under way or wait for their turn that no more are taken.
    #[error("{pulls} pulls are under way or wait for their turn")]
    TooManyPulls {
        /// How many.
        pulls: usize,
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
    /// A layer's archive can't be written again, because what that takes wasn't kept.
    #[error(
        "layer \"{diff_id}\" has no recipe of its archive: it was unpacked by an older version, or has too many headers"
    )]
    NoRecipe {
        /// The layer.
        diff_id: Digest,
    },
    /// An archive with images is refused.
    #[error("the archive is refused: {reason}")]
    ArchiveRefused {
        /// Why.
        reason: String,
    },
    /// An archive with images can't be read or decompressed.
    #[error("cannot read the archive")]
    ArchiveRead {
        /// The reason.
        #[source]
        cause: io::Error,
    },
    /// What was asked for could not be handed on: whoever asked has gone, mostly.
    #[error("cannot hand on what was asked for")]
    Output {
        /// The system's reason.
        #[source]
        cause: io::Error,
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
    /// A path of an image that is to be mounted can't be had.
    #[error("no \"{}\" in image \"{image}\"", path.display())]
    ImagePath {
        /// Digest of the image's configuration.
        image: Digest,
        /// The path.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
    /// An image can't be mounted on a directory of the node, or unmounted.
    #[error("cannot {action} \"{}\"", path.display())]
    MountTarget {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
    /// No image is mounted on a directory.
    #[error("no image is mounted on \"{}\"", path.display())]
    NotMounted {
        /// The directory.
        path: PathBuf,
    },
    /// An image is not removed, because it is needed.
    #[error("image \"{image}\" is not removed: {reason}")]
    ImageInUse {
        /// As it was asked for.
        image: String,
        /// What needs it.
        reason: String,
    },
    /// A volume that an image declares can't be made.
    #[error("the image's volume \"{}\" cannot be made", path.display())]
    Volume {
        /// Its path in the container.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Why a request got no whole answer: the innermost of the library's causes, which is the one that says something.
#[derive(Debug)]
pub struct Broken(reqwest::Error);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut innermost: &dyn std::error::Error = &self.0;
        while let Some(cause) = innermost.source() {
            innermost = cause;
        }
        std::fmt::Display::fmt(innermost, f)
    }
}

impl std::error::Error for Broken {}

impl From<reqwest::Error> for Broken {
    fn from(cause: reqwest::Error) -> Broken {
        // The address is in the error that this is the cause of, without its query.
        Broken(cause.without_url())
    }
}
