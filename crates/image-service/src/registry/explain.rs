//! What a pull would do, for people: which hosts it would ask, in what order, as whom and why, and what they say now.
//!
//! Every host is asked, the later ones too, all at once: with `HEAD`, which registries don't count as pulls, and without
//! any token that is known already. Those that may not say what a tag means are asked for the digest that another host
//! gave for it. The first host in the order that has an answer is the one that a pull would believe; from it the document
//! is fetched, and read as a pull would read it.
//! What is told goes over the wire as JSON: fields are added, and never get another meaning.
//! Not here: how any of it is shown.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::client::{ContentProof, Get};
use super::hosts::{self, Role, Settings};
use super::trace::{Exchange, Trace};
use super::{Endpoint, Known, RawDocument, Registries, Repository, choose};
use crate::auth::{Chooser, CredentialSource, Login};
use crate::config::Limits;
use crate::error::{Error, chain};
use crate::manifest::{self, Document, Platform};
use crate::reference::{Pointer, Reference};

/// Longest time that asking one host may take; three such times are the longest that all of it takes.
const PROBE: Duration = Duration::from_secs(20);
/// Longest wait for a connection, or for the next byte: a person is waiting.
const PATIENCE: Duration = Duration::from_secs(8);

/// What a pull of an image would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// The image's full name.
    pub reference: String,
    /// The registry's name.
    pub registry: String,
    /// The file, or directory of certificates, that says where the registry is reached; none where nothing does.
    pub said_by: Option<PathBuf>,
    /// Directories that would say so if that one weren't there.
    pub passed_over: Vec<PathBuf>,
    /// In the order in which they would be asked.
    pub hosts: Vec<HostExplanation>,
    /// What the name means, if anybody says so.
    pub meant: Option<Meant>,
}

/// One host, as a pull would use it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostExplanation {
    /// Address of its API.
    pub address: String,
    /// Whether it is the registry or a mirror.
    pub role: HostRole,
    /// `resolve` (what a tag means), `pull` (content by digest), `push`.
    pub capabilities: Vec<String>,
    /// How it is connected to.
    pub tls: TlsExplanation,
    /// Names of the headers that it gets with each request.
    pub headers: Vec<String>,
    /// The proxy on the way there.
    pub proxy: Option<String>,
    /// Longest wait for a connection in milliseconds, where its file has one.
    pub dial_timeout_ms: Option<u64>,
    /// Whose credentials it sees, if it asks for any.
    pub credentials: String,
    /// The user's name in them, where it is known.
    pub username: Option<String>,
    /// Why it is these.
    pub because: String,
    /// What it answers now; none where it wasn't asked.
    pub probe: Option<Probe>,
    /// Why it wasn't asked.
    pub not_asked: Option<String>,
}

/// What a host is to a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostRole {
    /// The registry itself.
    #[default]
    Registry,
    /// A mirror of it.
    Mirror,
}

/// TLS settings of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsExplanation {
    /// Whether there must be TLS.
    pub used: bool,
    /// Whether it is done without where the host has none.
    pub optional: bool,
    /// Whether any certificate will do.
    pub skip_verify: bool,
    /// Files of authorities that are trusted beside the system's.
    pub authorities: Vec<PathBuf>,
    /// Our own certificate.
    pub client: Option<PathBuf>,
}

/// What came of asking a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probe {
    /// The tag or digest that it was asked for.
    pub asked_for: String,
    /// The requests that it took, with those for tokens and where we were sent.
    pub exchanges: Vec<Exchange>,
    /// The digest that it stated.
    pub digest: Option<String>,
    /// The media type that it stated.
    pub media_type: Option<String>,
    /// Why it is of no use; none where it has the image.
    pub failure: Option<String>,
}

/// What a name means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meant {
    /// Address of the host that says so.
    pub by: String,
    /// Digest of the manifest or index.
    pub digest: String,
    /// What it is: `manifest` or `index`; none where it can't be read.
    pub kind: Option<String>,
    /// This machine's platform.
    pub platform: String,
    /// Digest of the manifest for this machine, as far as can be told without its configuration.
    pub manifest: Option<String>,
    /// Why it can't be pulled.
    pub refused: Option<String>,
}

impl Explanation {
    /// Whether a pull would find a manifest that it accepts.
    pub fn is_resolved(&self) -> bool {
        self.meant.as_ref().is_some_and(|meant| meant.refused.is_none())
    }
}

/// A host on its way to being explained.
struct Host {
    explanation: HostExplanation,
    can: hosts::Capabilities,
    /// None where its credentials can't be read.
    endpoint: Option<Arc<Endpoint>>,
}

impl Registries {
    /// Explains a pull of `reference`. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::RegistryConfig`].
    pub(crate) async fn explain(&self, reference: &Reference, login: Login) -> Result<Explanation, Error> {
        let access = self.access();
        let known = Known::nothing(&access.helper_dirs);
        let connect = self.limits.connect.min(PATIENCE);
        let wanted = reference.clone();
        let read = move || {
            let plan = hosts::plan(&access.config_dir, wanted.registry())?;
            let chooser = Chooser::new(&login, &access.credentials);
            let host = |settings: &Settings| host(settings, (&chooser, &wanted), connect);
            let hosts: Vec<Host> = plan.endpoints.iter().map(host).collect();
            Ok::<_, Error>((plan, hosts))
        };
        let (plan, mut hosts) = crate::blocking("reading the registry's configuration", read).await?;
        let repository = Arc::new(Repository {
            name: reference.repository().to_owned(),
            registry: reference.registry().to_owned(),
            endpoints: hosts.iter().filter_map(|host| host.endpoint.clone()).collect(),
            known,
            limits: Limits { stall: self.limits.stall.min(PATIENCE), ..self.limits.clone() },
        });
        let meant = ask_all(&repository, &mut hosts, reference.pointer()).await;
        Ok(Explanation {
            reference: reference.to_string(),
            registry: reference.registry().to_owned(),
            said_by: plan.said_by,
            passed_over: plan.passed_over,
            hosts: hosts.into_iter().map(|host| host.explanation).collect(),
            meant,
        })
    }
}

/// What can be told of a host without asking it.
fn host(settings: &Settings, (chooser, wanted): (&Chooser<'_>, &Reference), connect: Duration) -> Host {
    let chosen = choose(chooser, settings, wanted);
    let mut explanation = HostExplanation {
        address: settings.base.to_string(),
        role: match settings.role {
            Role::Registry => HostRole::Registry,
            Role::Mirror => HostRole::Mirror,
        },
        capabilities: capabilities(settings.can),
        tls: TlsExplanation {
            used: settings.base.scheme() == "https",
            optional: false,
            skip_verify: settings.tls.skip_verify,
            authorities: settings.tls.authorities.clone(),
            client: settings.tls.client.as_ref().map(|(certificate, _)| certificate.clone()),
        },
        headers: settings.headers.keys().map(ToString::to_string).collect(),
        proxy: settings.proxy.as_ref().map(without_login).or_else(|| environment_proxy(&settings.base)),
        dial_timeout_ms: settings.connect.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        credentials: CredentialSource::Nobody.to_string(),
        username: None,
        because: String::new(),
        probe: None,
        not_asked: None,
    };
    let endpoint = match chosen {
        Ok(chosen) => {
            explanation.credentials = chosen.source.to_string();
            explanation.username = chosen.username().map(ToOwned::to_owned);
            explanation.because = chosen.why.to_owned();
            let endpoint = Endpoint::new(settings.clone(), chosen, wanted.registry(), connect);
            explanation.tls.optional = endpoint.may_be_plain();
            Some(Arc::new(endpoint))
        }
        Err(error) => {
            explanation.because = "they can't be read, and every pull fails".to_owned();
            explanation.not_asked = Some(chain(&error));
            None
        }
    };
    Host { explanation, can: settings.can, endpoint }
}

fn capabilities(can: hosts::Capabilities) -> Vec<String> {
    let all = [("resolve", can.resolve), ("pull", can.pull), ("push", can.push)];
    all.into_iter().filter(|(_, can)| *can).map(|(name, _)| name.to_owned()).collect()
}

/// A proxy's address as it may be shown.
fn without_login(proxy: &Url) -> String {
    let mut proxy = proxy.clone();
    let _ = proxy.set_username("");
    let _ = proxy.set_password(None);
    proxy.to_string()
}

/// The variables that decide on a proxy where the file says nothing.
fn environment_proxy(base: &Url) -> Option<String> {
    if base.host_str().is_some_and(hosts::is_loopback) {
        return None;
    }
    let names: &[&str] = match base.scheme() {
        "https" => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let is_set = |name: &&&str| std::env::var_os(**name).is_some_and(|value| !value.is_empty());
    let name = names.iter().find(is_set)?;
    Some(format!("as the daemon's {name} and NO_PROXY have it"))
}

/// Asks all hosts, and finds out what the name means.
async fn ask_all(repository: &Arc<Repository>, hosts: &mut [Host], pointer: &Pointer) -> Option<Meant> {
    let by_tag = matches!(pointer, Pointer::Tag(_));
    let can_answer = |can: hosts::Capabilities| if by_tag { can.resolve } else { can.pull };
    ask(repository, hosts, (pointer, &can_answer)).await;
    let found = hosts.iter().position(has_it);
    let meant = match found {
        Some(at) => read(repository, &hosts[at], pointer).await,
        None => None,
    };
    let digest = meant.as_ref().and_then(|meant| meant.digest.parse().ok());
    if let Some(digest) = digest.filter(|_| by_tag) {
        ask(repository, hosts, (&Pointer::Digest(digest), &|can| can.pull && !can.resolve)).await;
    }
    for host in hosts.iter_mut().filter(|host| host.explanation.probe.is_none()) {
        let explanation = &mut host.explanation;
        let reason = match (host.can.pull, by_tag) {
            (false, false) => "it may not be asked for content",
            (false, true) => "it may not say what a tag means, nor be asked for content",
            (true, _) => "it may not say what a tag means, and nobody else does",
        };
        explanation.not_asked.get_or_insert_with(|| reason.to_owned());
    }
    meant
}

fn has_it(host: &Host) -> bool {
    host.explanation.probe.as_ref().is_some_and(|probe| probe.failure.is_none())
}

/// Asks those hosts that `is_meant`, all at once.
async fn ask(
    repository: &Arc<Repository>,
    hosts: &mut [Host],
    (pointer, is_meant): (&Pointer, &(dyn Fn(hosts::Capabilities) -> bool + Sync)),
) {
    let mut asked = JoinSet::new();
    for (at, host) in hosts.iter().enumerate().filter(|(_, host)| is_meant(host.can)) {
        let Some(endpoint) = host.endpoint.clone() else { continue };
        let (repository, pointer) = (Arc::clone(repository), pointer.clone());
        asked.spawn(async move { (at, probe(&repository, &endpoint, &pointer).await) });
    }
    while let Some(answered) = asked.join_next().await {
        if let Ok((at, probe)) = answered {
            hosts[at].explanation.probe = Some(probe);
        }
    }
}

/// Asks one host for what it says about the manifest.
async fn probe(repository: &Repository, endpoint: &Endpoint, pointer: &Pointer) -> Probe {
    let trace = Trace::default();
    let asker = repository.asker_noting(Some(&trace));
    let outcome = tokio::time::timeout(PROBE, async {
        match asker.get(endpoint, &manifest_of(repository, pointer, Method::HEAD)).await {
            // Some serve manifests, but don't tell about them.
            Err(Error::Answer { status, .. }) if matches!(status.as_u16(), 405 | 501) => {
                asker.get(endpoint, &manifest_of(repository, pointer, Method::GET)).await
            }
            outcome => outcome,
        }
    });
    let mut probe = Probe { asked_for: pointer.to_string(), ..Probe::default() };
    match outcome.await {
        Ok(Ok(answer)) => {
            let stated = |name: &str| answer.header(name).map(|value| value.chars().take(200).collect());
            probe.digest = stated("docker-content-digest");
            probe.media_type = stated("content-type");
        }
        Ok(Err(error)) => probe.failure = Some(chain(&error)),
        Err(_) => probe.failure = Some(format!("it took longer than {} s", PROBE.as_secs())),
    }
    probe.exchanges = trace.exchanges();
    probe
}

fn manifest_of(repository: &Repository, pointer: &Pointer, method: Method) -> Get {
    let proof = match pointer {
        Pointer::Tag(_) => ContentProof::Transport,
        Pointer::Digest(_) => ContentProof::Digest,
    };
    let path = format!("{}/manifests/{pointer}", repository.name);
    Get { path, accept: Some(manifest::ACCEPT), offset: 0, proof, method }
}

/// Fetches and reads what a host has under the name.
async fn read(repository: &Repository, host: &Host, pointer: &Pointer) -> Option<Meant> {
    let endpoint = host.endpoint.as_ref()?;
    let get = manifest_of(repository, pointer, Method::GET);
    let fetched = tokio::time::timeout(PROBE, repository.document_from(endpoint, &get, pointer)).await;
    let stated = host.explanation.probe.as_ref().and_then(|probe| probe.digest.clone());
    let mut meant = Meant {
        by: host.explanation.address.clone(),
        digest: stated.unwrap_or_default(),
        kind: None,
        platform: Platform::host().to_string(),
        manifest: None,
        refused: None,
    };
    match fetched {
        Ok(Ok(raw)) => judge(&raw, &mut meant),
        Ok(Err(error)) => meant.refused = Some(chain(&error)),
        Err(_) => meant.refused = Some(format!("fetching it took longer than {} s", PROBE.as_secs())),
    }
    Some(meant)
}

/// Reads a document as a pull does.
fn judge(raw: &RawDocument, meant: &mut Meant) {
    meant.digest = raw.digest.to_string();
    match manifest::parse(raw, None) {
        Ok(Document::Manifest(_)) => {
            meant.kind = Some("manifest".to_owned());
            meant.manifest = Some(meant.digest.clone());
        }
        Ok(Document::Index(index)) => {
            meant.kind = Some("index".to_owned());
            match index.select(&Platform::host()) {
                Ok(choice) => meant.manifest = Some(choice.descriptor.digest.to_string()),
                Err(error) => meant.refused = Some(chain(&error)),
            }
        }
        Err(error) => meant.refused = Some(chain(&error)),
    }
}
