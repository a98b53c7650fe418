//! What the image service is told when it is opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::care::CareSettings;
use crate::collection::CollectSettings;
use crate::layers::LayerSettings;
use crate::rootfs::WritableLimit;

/// Settings of the image service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The daemon's root directory: images go to `<root>/images`, writable layers to `<root>/containers`.
    pub root: PathBuf,
    /// Directory with `<host>/hosts.toml` files, read again at each pull. It may be absent.
    pub registry_config_dir: PathBuf,
    /// The node's credentials for registries, in the format of Docker's `config.json`; read again at each pull.
    pub credentials: CredentialsFile,
    /// Directories in which credential helpers (`docker-credential-…`) are looked for, in order.
    pub credential_helper_dirs: Vec<PathBuf>,
    /// References of images that kubelet must not collect.
    pub pinned: Vec<String>,
    /// Bounds on what registries may make us do.
    pub limits: Limits,
    /// How damage is looked for and repaired.
    pub care: CareSettings,
    /// When images that nothing uses are removed without being asked for.
    pub collect: CollectSettings,
    /// How layers are kept.
    pub layers: LayerSettings,
    /// How much each container may write; without it as much as the disk has.
    pub writable: Option<WritableLimit>,
    /// Age up to which what a writable layer uses is told without measuring it again; longer where measuring takes long. With
    /// zero everything is measured whenever it is asked for.
    pub usage_age: Duration,
    /// Called when the last pull has ended: what pulls needed and the allocator still has can go back to the kernel.
    pub at_rest: fn(),
}

impl Config {
    /// The usual settings for these two directories.
    pub fn new(root: PathBuf, registry_config_dir: PathBuf) -> Config {
        Config {
            root,
            registry_config_dir,
            credentials: CredentialsFile::None,
            credential_helper_dirs: vec!["/usr/local/bin".into(), "/usr/bin".into()],
            pinned: Vec::new(),
            limits: Limits::default(),
            care: CareSettings::default(),
            collect: CollectSettings::default(),
            layers: LayerSettings::default(),
            writable: None,
            // Kubelet asks each ten seconds.
            usage_age: Duration::from_secs(10),
            at_rest: || (),
        }
    }
}

/// Whether a node has credentials of its own, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialsFile {
    /// It has none.
    None,
    /// In this file, if it is there.
    IfThere(PathBuf),
    /// In this file: without it, no pull that would need it works.
    Required(PathBuf),
}

impl CredentialsFile {
    /// The file's path.
    pub fn path(&self) -> Option<&Path> {
        match self {
            CredentialsFile::None => None,
            CredentialsFile::IfThere(path) | CredentialsFile::Required(path) => Some(path),
        }
    }
}

/// Bounds on pulls.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest manifest, index or configuration, in bytes. Registries themselves refuse manifests above 4 MiB
    /// (distribution-spec, "Pushing Manifests"); twice that leaves room.
    pub document_bytes: u64,
    /// Pulls that are carried out at once; the next wait for their turn, in order.
    pub pulls: usize,
    /// Layers that are fetched at once, by all pulls together. Each has a connection and two threads.
    pub connections: usize,
    /// Compressed bytes that are in memory at once, of all layers together.
    pub in_flight: u64,
    /// Bytes that a single zstd frame may refer back to; one that wants more is refused. The tool `zstd` has this bound too.
    pub zstd_window: u64,
    /// The same for all layers together that are being decompressed. A frame that wants more alone has to be alone.
    pub zstd_windows: u64,
    /// A layer may unpack to so many bytes whatever its size,
    pub unpacked_floor: u64,
    /// and to so many bytes more for each of its compressed ones. Programs, texts and logs stay below 30; zeros alone
    /// reach 1,030 with gzip.
    pub expansion: u64,
    /// Longest wait for a connection to be made.
    pub connect: Duration,
    /// Longest wait for the next byte of an answer, and the time in which `stall_bytes` have to come.
    pub stall: Duration,
    /// Fewest bytes of a layer in each `stall` of waiting for them. Whoever sends less keeps us busy and never ends.
    pub stall_bytes: u64,
    /// Times that a request is tried when the failure may be passing. A layer of which some arrived begins to count anew.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles with each further one.
    pub backoff: Duration,
    /// Longest wait that a registry can ask for with `Retry-After`; if it wants more, the pull fails.
    pub retry_after: Duration,
    /// Compressed size from which on a layer's bytes are kept on disk while it is fetched, so that a later attempt goes on.
    pub spool_from: u64,
    /// Bytes that may be kept so, of all layers together.
    pub spool_bytes: u64,
    /// How long they are kept when nobody goes on.
    pub spool_age: Duration,
    /// Part of the file system, in hundredths, that keeping them leaves free.
    pub spool_leaves: u64,
}

impl Limits {
    /// Bytes that so many compressed ones may unpack to.
    pub(crate) fn unpacked(&self, size: u64) -> u64 {
        self.unpacked_floor.saturating_add(size.saturating_mul(self.expansion))
    }
}

/// Layers that are fetched at once: two for each processor. With more of them than it can unpack their buffers drive each other
/// from its caches (measured on two: eight layers of a fast registry took a twentieth longer all at once than by four, and twice
/// the memory); fewer than four, or more than eight, a slow registry would notice, or the daemon's memory.
fn at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (2 * processors).clamp(4, 8)
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            document_bytes: 8 << 20,
            // What they fetch is bounded by itself; each holds some documents and connections besides.
            pulls: 32,
            connections: at_once(),
            in_flight: 12 << 20,
            zstd_window: 128 << 20,
            zstd_windows: 24 << 20,
            unpacked_floor: 1 << 30,
            expansion: 500,
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            stall_bytes: 16 << 10,
            attempts: 6,
            backoff: Duration::from_millis(200),
            retry_after: Duration::from_secs(20),
            spool_from: 1 << 20,
            spool_bytes: 32 << 30,
            spool_age: Duration::from_secs(24 * 60 * 60),
            spool_leaves: 10,
        }
    }
}
