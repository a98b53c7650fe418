//! Pulls from registries in this process that do what a script says. Needs root, as unpacking does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod auth;
mod breaking;
mod credentials;
mod documents;
mod explain;
mod failures;
mod image;
mod mirrors;
mod ordinary;
mod proxies;
mod registry;
mod resuming;
mod slowness;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use image_service::{Config, Credentials, Error, ErrorKind, ImageId, Images, Limits, PullRequest};

/// An image service on a directory of its own.
struct Service {
    dir: tempfile::TempDir,
    images: Images,
}

impl Service {
    fn new() -> Service {
        Service::with(|_, _| ())
    }

    /// One that tries again for seconds.
    fn patient() -> Service {
        let stall = Duration::from_secs(20);
        Service::limited(|limits| Limits {
            attempts: 10,
            backoff: Duration::from_millis(20),
            stall,
            ..limits
        })
    }

    fn limited(change: impl FnOnce(Limits) -> Limits) -> Service {
        Service::with(|config, _| config.limits = change(config.limits.clone()))
    }

    /// A service whose configuration `change` makes other, given its directory.
    fn with(change: impl FnOnce(&mut Config, &Path)) -> Service {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir);
        change(&mut config, dir.path());
        let images = Images::open(config).unwrap();
        Service { dir, images }
    }

    /// The service after a restart.
    fn reopened(self) -> Service {
        let Service { dir, images } = self;
        drop(images);
        let images = Images::open(config(&dir)).unwrap();
        Service { dir, images }
    }

    fn hosts(&self, registry: &str, text: &str) {
        let dir = self.dir.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    }

    async fn pull(&self, reference: &str) -> Result<ImageId, Error> {
        self.images.pull(PullRequest { reference: reference.to_owned(), credentials: None }).await
    }

    async fn pull_as(&self, reference: &str, credentials: Credentials) -> Result<ImageId, Error> {
        let credentials = Some(credentials);
        self.images.pull(PullRequest { reference: reference.to_owned(), credentials }).await
    }

    /// The error of a pull that must fail, as a user sees it, with its kind.
    async fn refusal(&self, reference: &str) -> (ErrorKind, String) {
        refusal(self.pull(reference).await)
    }

    /// Layers in the store, whole or in the making, and what is kept of some for a later attempt.
    fn layers(&self) -> Vec<PathBuf> {
        let entries = |dir: &str| {
            let dir = self.dir.path().join("root/images").join(dir);
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path())
        };
        let making = entries("ingest").filter(|path| !path.ends_with("blobs"));
        entries("layers/sha256").chain(making).chain(entries("ingest/blobs")).collect()
    }
}

fn config(dir: &tempfile::TempDir) -> Config {
    let mut config = Config::new(dir.path().join("root"), dir.path().join("certs.d"));
    config.limits = Limits {
        backoff: Duration::from_millis(1),
        stall: Duration::from_millis(300) * slowness::slowness(),
        attempts: 3,
        // However full this machine's disk is.
        spool_leaves: 0,
        ..Limits::default()
    };
    config
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, Error>) -> (ErrorKind, String) {
    let error = outcome.unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    (error.kind(), text)
}
