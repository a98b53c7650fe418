//! What the image service is told when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use crate::care::CareSettings;

/// Settings of the image service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The daemon's root directory: images go to `<root>/images`, writable layers to `<root>/containers`.
    pub root: PathBuf,
    /// Directory with `<host>/hosts.toml` files, read again at each pull. It may be absent.
    pub registry_config_dir: PathBuf,
    /// References of images that kubelet must not collect.
    pub pinned: Vec<String>,
    /// Bounds on what registries may make us do.
    pub limits: Limits,
    /// How damage is looked for and repaired.
    pub care: CareSettings,
}

impl Config {
    /// The usual settings for these two directories.
    pub fn new(root: PathBuf, registry_config_dir: PathBuf) -> Config {
        Config {
            root,
            registry_config_dir,
            pinned: Vec::new(),
            limits: Limits::default(),
            care: CareSettings::default(),
        }
    }
}

/// Bounds on a pull.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest manifest, index or configuration, in bytes. Registries themselves refuse manifests above 4 MiB
    /// (distribution-spec, "Pushing Manifests"); twice that leaves room.
    pub document_bytes: u64,
    /// Layers that one pull fetches at once.
    pub connections: usize,
    /// Longest wait for a connection to be made.
    pub connect: Duration,
    /// Longest wait for the next byte of an answer.
    pub stall: Duration,
    /// Times that a request is tried when the failure may be passing.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles with each further one.
    pub backoff: Duration,
    /// Longest wait that a registry can ask for with `Retry-After`; if it wants more, the pull fails.
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            document_bytes: 8 << 20,
            connections: 6,
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            attempts: 5,
            backoff: Duration::from_millis(200),
            retry_after: Duration::from_secs(20),
        }
    }
}
