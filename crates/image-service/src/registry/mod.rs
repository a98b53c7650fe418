//! Registries: the pull half of the OCI distribution specification 1.1.
//!
//! | module | what it is |
//! |---|---|
//! | `hosts` | where a registry is reached |
//! | `endpoint` | one such address, and connections to it |
//! | `challenge`, `token` | who we are |
//! | `client`, `answer` | one request to one endpoint |
//! | `rounds` | which endpoint is asked next, and when to give up |
//! | `explain`, `trace` | what would be done, and what comes of it, for people |
//!
//! Here: one repository of a registry, as one pull sees it. Everything that it returns has been checked against its
//! digest, except the stream of a layer, whose reader checks it.
//! Not here: what the documents say (`manifest`).

mod answer;
pub(crate) mod challenge;
mod client;
mod endpoint;
mod explain;
pub(crate) mod hosts;
mod rounds;
mod token;
mod trace;

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Method;
use tokio::sync::watch;

use crate::auth::{Candidate, Chooser, Chosen, Helpers, Login};
use crate::config::{Config, CredentialsFile, Limits};
use crate::digest::{Digest, Digester};
use crate::error::Error;
use crate::manifest;
use crate::reference::{Pointer, Reference};

pub(crate) use answer::Body;
pub(crate) use endpoint::Endpoint;
pub use explain::{Explanation, HostExplanation, HostRole, Meant, Probe, TlsExplanation};
pub(crate) use rounds::Rounds;
pub use trace::Exchange;

use client::{Asker, ContentProof, Get};
use hosts::Settings;
use token::Tokens;
use trace::Trace;

/// All registries, as this node reaches them.
#[derive(Debug)]
pub(crate) struct Registries {
    limits: Limits,
    /// Exchanged as a whole: what was learnt with other credentials or helpers is forgotten with them.
    access: watch::Sender<Arc<Access>>,
}

/// Where registries are configured, and as whom they are asked.
#[derive(Debug)]
struct Access {
    config_dir: PathBuf,
    credentials: CredentialsFile,
    helper_dirs: Vec<PathBuf>,
    known: Known,
}

/// What was learnt from registries and helpers, for a while.
#[derive(Debug, Clone)]
struct Known {
    tokens: Arc<Tokens>,
    helpers: Arc<Helpers>,
}

/// A repository of a registry, during one pull.
pub(crate) struct Repository {
    name: String,
    registry: String,
    endpoints: Vec<Arc<Endpoint>>,
    known: Known,
    limits: Limits,
}

/// A manifest or index as a registry gave it.
#[derive(Debug)]
pub(crate) struct RawDocument {
    pub(crate) digest: Digest,
    /// `Content-Type` without its parameters.
    pub(crate) content_type: Option<String>,
    pub(crate) bytes: Vec<u8>,
}

/// What an endpoint is asked for.
#[derive(Debug, Clone, Copy)]
enum Capability {
    Resolve,
    Pull,
}

impl Registries {
    pub(crate) fn new(config: &Config) -> Registries {
        Registries {
            limits: config.limits.clone(),
            access: watch::Sender::new(Arc::new(Access::new(config))),
        }
    }

    /// Whoever opens a registry from now on does so by this configuration; its limits stay as they were.
    pub(crate) fn change_over(&self, config: &Config) {
        self.access.send_replace(Arc::new(Access::new(config)));
    }

    fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.borrow())
    }

    /// Forgets what was learnt and is good no more.
    pub(crate) fn sweep(&self) {
        let access = self.access();
        access.known.tokens.sweep();
        access.known.helpers.sweep();
    }

    /// Reads a registry's configuration, and the node's credentials. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::RegistryConfig`].
    pub(crate) async fn open(&self, reference: &Reference, login: Login) -> Result<Repository, Error> {
        let access = self.access();
        let known = access.known.clone();
        let (wanted, connect) = (reference.clone(), self.limits.connect);
        let read = move || {
            let plan = hosts::plan(&access.config_dir, wanted.registry())?;
            let chooser = Chooser::new(&login, &access.credentials);
            let endpoint = |settings| {
                let chosen = choose(&chooser, &settings, &wanted)?;
                Ok(Arc::new(Endpoint::new(settings, chosen, wanted.registry(), connect)))
            };
            plan.endpoints.into_iter().map(endpoint).collect::<Result<Vec<_>, Error>>()
        };
        let endpoints = crate::blocking("reading the registry's configuration", read).await?;
        Ok(Repository {
            name: reference.repository().to_owned(),
            registry: reference.registry().to_owned(),
            endpoints,
            known,
            limits: self.limits.clone(),
        })
    }
}

impl Access {
    fn new(config: &Config) -> Access {
        Access {
            config_dir: config.registry_config_dir.clone(),
            credentials: config.credentials.clone(),
            helper_dirs: config.credential_helper_dirs.clone(),
            known: Known::nothing(&config.credential_helper_dirs),
        }
    }
}

/// Looks through the configuration of all registries, and the node's credentials: how many directories there are, and what would
/// make pulls fail. Reads files: blocks.
pub fn registry_problems(config: &Config) -> (usize, Vec<Error>) {
    let (count, mut problems) = hosts::survey(&config.registry_config_dir);
    problems.extend(crate::auth::file_problem(&config.credentials));
    (count, problems)
}

impl Known {
    fn nothing(helper_dirs: &[PathBuf]) -> Known {
        Known { tokens: Arc::default(), helpers: Arc::new(Helpers::new(helper_dirs.to_vec())) }
    }
}

/// What an endpoint sees when this image is wanted.
fn choose(chooser: &Chooser<'_>, settings: &Settings, wanted: &Reference) -> Result<Chosen, Error> {
    let host = endpoint::host(&settings.base);
    // Behind the API's version, a mirror's address may have a path of its own, which its repositories begin with.
    let path = format!("{}/{}", without_version(settings.base.path()), wanted.repository());
    chooser.choose(Candidate {
        seen: endpoint::seen(settings, &host, wanted.registry()),
        configured: settings.credentials.as_ref(),
        path: path.trim_start_matches('/'),
    })
}

/// A path of an API without the API's version, at its beginning or its end.
fn without_version(path: &str) -> &str {
    let path = path.trim_matches('/');
    let behind = path.strip_prefix("v2").filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let before = path.strip_suffix("v2").filter(|rest| rest.ends_with('/'));
    behind.or(before).unwrap_or(path).trim_matches('/')
}

impl Repository {
    /// The registry, as references name it.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    /// A manifest or index. Safe to cancel.
    ///
    /// # Errors
    /// The registry's failure; [`Error::DigestMismatch`], [`Error::TooLarge`].
    pub(crate) async fn document(&self, pointer: &Pointer) -> Result<RawDocument, Error> {
        let (capability, proof) = match pointer {
            Pointer::Tag(_) => (Capability::Resolve, ContentProof::Transport),
            Pointer::Digest(_) => (Capability::Pull, ContentProof::Digest),
        };
        let path = format!("{}/manifests/{pointer}", self.name);
        let get = Get { path, accept: Some(manifest::ACCEPT), offset: 0, proof, method: Method::GET };
        let mut rounds = self.rounds(capability)?;
        loop {
            let endpoint = rounds.next().await?;
            match self.document_from(&endpoint, &get, pointer).await {
                Ok(document) => return Ok(document),
                Err(error) => rounds.failed(error),
            }
        }
    }

    async fn document_from(
        &self,
        endpoint: &Endpoint,
        get: &Get,
        pointer: &Pointer,
    ) -> Result<RawDocument, Error> {
        let body = self.asker().get(endpoint, get).await?;
        let content_type = body.header("content-type").map(essence);
        let stated = body.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let url = body.url.clone();
        let bytes = body.whole(self.limits.document_bytes).await?;
        let expected = match pointer {
            Pointer::Digest(digest) => Some(digest.clone()),
            Pointer::Tag(_) => stated,
        };
        let digest = match expected {
            Some(expected) => check(&bytes, expected, &url)?,
            None => Digest::of(&bytes),
        };
        Ok(RawDocument { digest, content_type, bytes })
    }

    /// A small blob, such as an image's configuration. Safe to cancel.
    ///
    /// # Errors
    /// The registry's failure; [`Error::DigestMismatch`], [`Error::TooLarge`].
    pub(crate) async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, Error> {
        let limit = size.min(self.limits.document_bytes);
        let mut rounds = self.pull_rounds()?;
        loop {
            let endpoint = rounds.next().await?;
            let fetched = async {
                let body = self.blob_from(&endpoint, digest, 0).await?;
                let url = body.url.clone();
                let bytes = body.whole(limit).await?;
                check(&bytes, digest.clone(), &url).map(|_| bytes)
            };
            match fetched.await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => rounds.failed(error),
            }
        }
    }

    /// The order in which endpoints are asked for blobs.
    ///
    /// # Errors
    /// [`Error::NoEndpoint`].
    pub(crate) fn pull_rounds(&self) -> Result<Rounds, Error> {
        self.rounds(Capability::Pull)
    }

    /// A blob from its byte `offset` on, where the endpoint knows how; otherwise the status isn't 206, and it comes from
    /// its beginning. Safe to cancel.
    ///
    /// # Errors
    /// The endpoint's failure.
    pub(crate) async fn blob_from(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        offset: u64,
    ) -> Result<Body, Error> {
        let path = format!("{}/blobs/{digest}", self.name);
        let proof = ContentProof::Digest;
        let get = Get { path, accept: None, offset, proof, method: Method::GET };
        self.asker().get(endpoint, &get).await
    }

    fn asker(&self) -> Asker<'_> {
        self.asker_noting(None)
    }

    fn asker_noting<'a>(&'a self, trace: Option<&'a Trace>) -> Asker<'a> {
        Asker {
            repository: &self.name,
            tokens: &self.known.tokens,
            helpers: &self.known.helpers,
            stall: self.limits.stall,
            trace,
        }
    }

    fn rounds(&self, capability: Capability) -> Result<Rounds, Error> {
        let (name, can): (_, fn(&Endpoint) -> bool) = match capability {
            Capability::Resolve => ("resolve", |endpoint| endpoint.settings.can.resolve),
            Capability::Pull => ("pull", |endpoint| endpoint.settings.can.pull),
        };
        let able: Vec<_> = self.endpoints.iter().filter(|endpoint| can(endpoint)).cloned().collect();
        if able.is_empty() {
            return Err(Error::NoEndpoint { registry: self.registry.clone(), capability: name });
        }
        Ok(Rounds::new(able, &self.limits))
    }
}

/// Compares content with its digest.
fn check(bytes: &[u8], expected: Digest, url: &str) -> Result<Digest, Error> {
    let mut digester = Digester::new(expected.algorithm());
    digester.update(bytes);
    let actual = digester.finish();
    if actual != expected {
        return Err(Error::DigestMismatch { url: url.to_owned(), expected, actual });
    }
    Ok(actual)
}

/// A media type without its parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_part_of_a_path_is_the_version() {
        for (path, below) in [
            ("/v2", ""),
            ("/mirror/hub/v2/", "mirror/hub"),
            ("/v2/mirror", "mirror"),
            ("/v2ray/v2", "v2ray"),
            ("/libv2", "libv2"),
            ("/", ""),
        ] {
            assert_eq!(without_version(path), below, "{path}");
        }
    }
}
