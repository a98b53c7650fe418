//! Registries: the pull half of the OCI distribution specification 1.1.
//!
//! | module | what it is |
//! |---|---|
//! | `hosts` | where a registry is reached |
//! | `endpoint` | one such address, and connections to it |
//! | `challenge`, `token` | who we are |
//! | `client` | one request to one endpoint |
//! | `rounds` | which endpoint is asked next, and when to give up |
//!
//! Here: one repository of a registry, as one pull sees it. Everything that it returns has been checked against its
//! digest, except the stream of a layer, whose reader checks it.
//! Not here: what the documents say (`manifest`).

pub(crate) mod challenge;
mod client;
mod endpoint;
pub(crate) mod hosts;
mod rounds;
mod token;

use std::path::PathBuf;
use std::sync::Arc;

use crate::auth::Login;
use crate::config::Limits;
use crate::digest::{Digest, Digester};
use crate::error::Error;
use crate::manifest;
use crate::reference::{Pointer, Reference};

pub(crate) use client::Body;
pub(crate) use endpoint::Endpoint;
pub(crate) use rounds::Rounds;
pub(crate) use token::Tokens;

use client::{Asker, ContentProof, Get};

/// A repository of a registry, during one pull.
pub(crate) struct Repository {
    name: String,
    registry: String,
    endpoints: Vec<Arc<Endpoint>>,
    login: Login,
    tokens: Arc<Tokens>,
    limits: Limits,
}

/// What a [`Repository`] is opened with.
pub(crate) struct Access {
    pub(crate) config_dir: PathBuf,
    pub(crate) login: Login,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) limits: Limits,
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

impl Repository {
    /// Reads the registry's configuration. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::RegistryConfig`].
    pub(crate) async fn open(reference: &Reference, access: Access) -> Result<Repository, Error> {
        let Access { config_dir, login, tokens, limits } = access;
        let registry = reference.registry().to_owned();
        let read = crate::blocking("reading the registry's configuration", {
            let registry = registry.clone();
            move || hosts::endpoints(&config_dir, &registry)
        });
        let endpoint = |settings| Arc::new(Endpoint::new(settings, &registry, limits.connect));
        let endpoints = read.await?.into_iter().map(endpoint).collect();
        Ok(Repository { name: reference.repository().to_owned(), registry, endpoints, login, tokens, limits })
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
        let get = Get { path, accept: Some(manifest::ACCEPT), offset: 0, proof };
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
        let get = Get { path, accept: None, offset, proof: ContentProof::Digest };
        self.asker().get(endpoint, &get).await
    }

    fn asker(&self) -> Asker<'_> {
        Asker { login: &self.login, repository: &self.name, tokens: &self.tokens, stall: self.limits.stall }
    }

    fn rounds(&self, capability: Capability) -> Result<Rounds, Error> {
        let (name, can): (_, fn(&Endpoint) -> bool) = match capability {
            Capability::Resolve => ("resolve", |endpoint| endpoint.settings.resolve),
            Capability::Pull => ("pull", |endpoint| endpoint.settings.pull),
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
