//! One address of a registry, and the connections to it.
//!
//! Connections live as long as one pull: an idle daemon holds none, nor the memory of TLS, and changed certificates count
//! from the next pull on. They speak HTTP/1.1, so that layers fetched at once come over connections of their own and
//! are decrypted on several cores.
//! Not here: what is asked (`client`), who asks (`token`).

use std::fs;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity, Proxy, Url};

use super::hosts::{Role, Settings, Tls, is_loopback};
use crate::auth::{Chosen, Seen};
use crate::error::Error;

/// An endpoint of a registry, during one pull.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) settings: Settings,
    /// Whose credentials it sees.
    pub(crate) chosen: Chosen,
    /// Host and port, as errors name it.
    pub(crate) host: String,
    /// Name of the registry that it is asked for.
    registry: String,
    connect: Duration,
    /// Connections to the endpoint itself.
    own: OnceLock<Client>,
    /// Connections to where it sends us, on other machines and on this one: our certificate isn't shown there.
    elsewhere: [OnceLock<Client>; 2],
    /// Its address with HTTPS, where HTTP is configured together with settings of TLS: then it is tried first, as containerd
    /// does.
    secured: Option<Url>,
    /// It was found to have no TLS.
    is_plain: AtomicBool,
    /// It could not be reached lately: others are asked first.
    unreachable: AtomicBool,
}

impl Endpoint {
    /// An endpoint of `registry`; `connect` is the usual longest wait for a connection.
    pub(crate) fn new(settings: Settings, chosen: Chosen, registry: &str, connect: Duration) -> Endpoint {
        Endpoint {
            host: host(&settings.base),
            connect: settings.connect.unwrap_or(connect),
            secured: secured(&settings),
            is_plain: AtomicBool::new(false),
            settings,
            chosen,
            registry: registry.to_owned(),
            own: OnceLock::new(),
            elsewhere: Default::default(),
            unreachable: AtomicBool::new(false),
        }
    }

    /// The address of `path` in the API. A mirror is told which registry is meant, as containerd tells it.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base().clone();
        url.set_path(&format!("{}/{path}", self.base().path().trim_end_matches('/')));
        let hub = self.registry == crate::reference::DOCKER_HUB && self.host == "registry-1.docker.io";
        if self.host != self.registry && !hub {
            url.query_pairs_mut().append_pair("ns", &self.registry);
        }
        url
    }

    /// The address of its API, as it is spoken to at the moment.
    pub(crate) fn base(&self) -> &Url {
        let secured = self.secured.as_ref().filter(|_| !self.is_plain.load(Ordering::Relaxed));
        secured.unwrap_or(&self.settings.base)
    }

    /// Whether it may turn out to have no TLS.
    pub(crate) fn may_be_plain(&self) -> bool {
        self.secured.is_some()
    }

    /// Whether a request failed because it has no TLS, which is allowed, and is now known.
    pub(crate) fn found_plain(&self, failure: &Error) -> bool {
        let (Some(secured), Error::Request { url, cause }) = (&self.secured, failure) else { return false };
        let is_ours = url.starts_with(&secured.origin().ascii_serialization());
        // An answer in HTTP is no record of TLS: the library's word for that (rustls, `InvalidMessage`).
        let is_plain = is_ours && cause.to_string().contains("InvalidContentType");
        is_plain && !self.is_plain.swap(true, Ordering::Relaxed)
    }

    /// Whether `url` is on this very host, port and scheme.
    pub(crate) fn is_origin_of(&self, url: &Url) -> bool {
        url.origin() == self.base().origin()
    }

    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Ordering::Relaxed);
    }

    /// The client for a request to `url`.
    ///
    /// # Errors
    /// [`Error::RegistryConfig`] or [`Error::Client`] when its certificates can't be used.
    pub(crate) fn client_for(&self, url: &Url) -> Result<&Client, Error> {
        let own = self.is_origin_of(url);
        let is_here = url.host_str().is_some_and(is_loopback);
        let cell = if own { &self.own } else { &self.elsewhere[usize::from(is_here)] };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let client = self.build(url, own)?;
        Ok(cell.get_or_init(|| client))
    }

    fn build(&self, url: &Url, own: bool) -> Result<Client, Error> {
        let mut builder = Client::builder()
            .user_agent(concat!("knarr/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .referer(false)
            .http1_only()
            .connect_timeout(self.connect);
        builder = match &self.settings.proxy {
            Some(proxy) if own => builder.proxy(self.proxy(proxy)?),
            // As Go's clients do: a proxy can't reach what is only on this machine.
            _ if url.host_str().is_some_and(is_loopback) => builder.no_proxy(),
            // The environment's.
            _ => builder,
        };
        if own && url.scheme() == "http" {
            // Without it the system's authorities would be read, for nothing.
            builder = builder.tls_certs_only([]);
        } else {
            builder = builder.tls_certs_merge(self.authorities()?);
            builder = builder.tls_danger_accept_invalid_certs(self.settings.tls.skip_verify);
            if let Some(identity) = self.identity()?.filter(|_| own) {
                builder = builder.identity(identity);
            }
        }
        builder.build().map_err(|cause| Error::Client { host: self.host.clone(), cause })
    }

    fn proxy(&self, address: &Url) -> Result<Proxy, Error> {
        Proxy::all(address.clone()).map_err(|cause| Error::Client { host: self.host.clone(), cause })
    }

    fn authorities(&self) -> Result<Vec<Certificate>, Error> {
        let mut all = Vec::new();
        for path in &self.settings.tls.authorities {
            let pem = fs::read(path).map_err(|cause| Error::RegistryConfig { path: path.clone(), cause })?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .map_err(|cause| Error::Client { host: self.host.clone(), cause })?;
            if certificates.is_empty() {
                let cause = io::Error::new(io::ErrorKind::InvalidData, "there is no certificate in it (PEM)");
                return Err(Error::RegistryConfig { path: path.clone(), cause });
            }
            all.extend(certificates);
        }
        Ok(all)
    }

    fn identity(&self) -> Result<Option<Identity>, Error> {
        let Some((certificate, key)) = &self.settings.tls.client else { return Ok(None) };
        let mut pem = Vec::new();
        for path in [Some(certificate), key.as_ref()].into_iter().flatten() {
            let bytes =
                fs::read(path).map_err(|cause| Error::RegistryConfig { path: path.clone(), cause })?;
            pem.extend(bytes);
            pem.push(b'\n');
        }
        let identity =
            Identity::from_pem(&pem).map_err(|cause| Error::Client { host: self.host.clone(), cause })?;
        Ok(Some(identity))
    }
}

/// The address with HTTPS of an endpoint that is configured with HTTP and with settings of TLS.
fn secured(settings: &Settings) -> Option<Url> {
    let mut secured = settings.base.clone();
    // The port of plain HTTP leaves no doubt.
    let in_doubt = secured.scheme() == "http" && secured.port().is_some() && settings.tls != Tls::default();
    (in_doubt && secured.set_scheme("https").is_ok()).then_some(secured)
}

/// Who would see credentials that are sent to an endpoint with these settings, whose host is `host`.
pub(crate) fn seen<'a>(settings: &Settings, host: &'a str, registry: &'a str) -> Seen<'a> {
    match settings.role {
        Role::Registry => Seen::Registry { name: registry, host },
        Role::Mirror => Seen::Mirror { host },
    }
}

/// Host and port of an address; the port only where it isn't the scheme's own.
pub(crate) fn host(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => String::new(),
    }
}
