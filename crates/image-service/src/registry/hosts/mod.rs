//! Where a registry is reached: its `hosts.toml`, or what holds without one.
//!
//! The layout is containerd's. The first of these directories that exists counts, alone, even if nothing is in it:
//!
//! | directory | for the registry `host.example:5000` |
//! |---|---|
//! | the host, its port between underscores | `host.example_5000_` |
//! | the host as it is | `host.example:5000` |
//! | the fallback for all | `_default` |
//!
//! So a directory for one registry takes the mirrors of `_default` away from it. That rule is kept, because the same files
//! serve other runtimes; `explain` says which directories are passed over.
//!
//! Mirrors are asked in the order of the file, then the `server`; without a `server`, the registry itself. Without a
//! file, a registry on this machine (`localhost`, 127.0.0.0/8, `::1`; but not at port 443) is spoken to by plain HTTP, and
//! all others by HTTPS. A directory without `hosts.toml` may have Docker's `*.crt`, `*.cert` and `*.key` files.
//! Not here: what a file says (`file`), connections (`endpoint`).

mod docker;
mod duration;
mod file;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::auth::HostCredentials;
use crate::error::Error;
use crate::reference::DOCKER_HUB;

/// Where Docker Hub is reached; no registry answers at its name.
const HUB_HOST: &str = "registry-1.docker.io";

/// An endpoint as configured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Address of the API, up to and including `/v2` (or what `override_path` has instead of it).
    pub(crate) base: Url,
    /// Whether it is the registry itself.
    pub(crate) role: Role,
    /// What it may be asked for.
    pub(crate) can: Capabilities,
    /// How its certificates are checked, and ours shown.
    pub(crate) tls: Tls,
    /// Headers for every request to it.
    pub(crate) headers: HeaderMap,
    /// Longest wait for a connection, where it isn't the usual one.
    pub(crate) connect: Option<Duration>,
    /// The proxy that it is reached through, whatever the environment says.
    pub(crate) proxy: Option<Url>,
    /// Whose credentials it sees, if the file says so.
    pub(crate) credentials: Option<HostCredentials>,
}

/// What an endpoint may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Content by digest.
    pub(crate) pull: bool,
    /// What a tag means.
    pub(crate) resolve: bool,
    /// Taking content; nothing here does that yet.
    pub(crate) push: bool,
}

impl Capabilities {
    pub(crate) const ALL: Capabilities = Capabilities { pull: true, resolve: true, push: true };
}

/// What an endpoint is to the registry that it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The registry itself.
    Registry,
    /// A mirror of it.
    Mirror,
}

/// TLS settings of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Files of authorities that are trusted beside the system's.
    pub(crate) authorities: Vec<PathBuf>,
    /// Our certificate and its key; one file may have both.
    pub(crate) client: Option<(PathBuf, Option<PathBuf>)>,
    /// Any certificate will do.
    pub(crate) skip_verify: bool,
}

impl Tls {
    /// Finds out whether its files are there: a mirror that could never be reached would be passed over without a word.
    fn check(&self) -> Result<(), Error> {
        let client = self.client.iter().flat_map(|(certificate, key)| [Some(certificate), key.as_ref()]);
        let files = self.authorities.iter().chain(client.flatten());
        let opened = files.map(|path| (path, fs::File::open(path)));
        for (path, opened) in opened {
            opened.map_err(|cause| Error::RegistryConfig { path: path.clone(), cause })?;
        }
        Ok(())
    }
}

/// Where a registry is reached, and who says so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// In the order in which they are asked.
    pub(crate) endpoints: Vec<Settings>,
    /// The `hosts.toml`, or the directory of certificates; none where nothing is configured.
    pub(crate) said_by: Option<PathBuf>,
    /// Directories that would count if that one weren't there.
    pub(crate) passed_over: Vec<PathBuf>,
}

/// Where `registry` is reached. Reads files: blocks.
///
/// # Errors
/// [`Error::RegistryConfig`] names the file that can't be used.
pub(crate) fn plan(config_dir: &Path, registry: &str) -> Result<Plan, Error> {
    let own = own_endpoint(registry)
        .map_err(|cause| Error::RegistryConfig { path: config_dir.join(registry), cause })?;
    let mut there = Vec::new();
    for dir in candidates(config_dir, registry) {
        let is_there = exists(&dir).map_err(|cause| Error::RegistryConfig { path: dir.clone(), cause })?;
        there.extend(is_there.then_some(dir));
    }
    let mut there = there.into_iter();
    let Some(dir) = there.next() else {
        return Ok(Plan { endpoints: vec![own], said_by: None, passed_over: Vec::new() });
    };
    let (endpoints, said_by) = in_directory(&dir, own)?;
    endpoints.iter().try_for_each(|endpoint| endpoint.tls.check())?;
    Ok(Plan { endpoints, said_by: Some(said_by), passed_over: there.collect() })
}

/// How many directories there are, and what is wrong with them. Reads files: blocks.
pub(crate) fn survey(config_dir: &Path) -> (usize, Vec<Error>) {
    let broken = |cause| Error::RegistryConfig { path: config_dir.to_owned(), cause };
    let entries = match fs::read_dir(config_dir) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return (0, Vec::new()),
        Err(cause) => return (0, vec![broken(cause)]),
    };
    let mut dirs: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    let problem = |dir: &PathBuf| {
        // Whose directory it is makes no difference to what may be in it.
        let own = own_endpoint("registry.invalid").map_err(broken)?;
        let (endpoints, _) = in_directory(dir, own)?;
        endpoints.iter().try_for_each(|endpoint| endpoint.tls.check())
    };
    let problems = dirs.iter().filter_map(|dir| problem(dir).err()).collect();
    (dirs.len(), problems)
}

/// What one directory says: its `hosts.toml`, or certificates in Docker's way.
fn in_directory(dir: &Path, own: Settings) -> Result<(Vec<Settings>, PathBuf), Error> {
    let path = dir.join("hosts.toml");
    let broken = |path: &Path| {
        let path = path.to_owned();
        move |cause| Error::RegistryConfig { path, cause }
    };
    let text = crate::files::read_bounded(&path, file::LARGEST).map_err(broken(&path))?;
    // An empty one is as good as none, as containerd has it.
    if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
        return Ok((file::parse(&text, dir, &own).map_err(broken(&path))?, path));
    }
    let tls = docker::certificates(dir).map_err(broken(dir))?;
    Ok((vec![Settings { tls, ..own }], dir.to_owned()))
}

fn candidates(config_dir: &Path, registry: &str) -> Vec<PathBuf> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names.iter().map(|name| config_dir.join(name)).collect()
}

fn exists(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(cause) => Err(cause),
    }
}

/// The registry itself, where nobody has said anything else.
fn own_endpoint(registry: &str) -> io::Result<Settings> {
    let scheme = if is_loopback(registry) && !registry.ends_with(":443") { "http" } else { "https" };
    Ok(Settings {
        base: api_base(&format!("{scheme}://{registry}"), false)?,
        role: Role::Registry,
        can: Capabilities::ALL,
        tls: Tls::default(),
        headers: HeaderMap::new(),
        connect: None,
        proxy: None,
        credentials: None,
    })
}

/// Whether a host, with or without a port, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Puts the API's version behind an address, unless it is there or the operator wants the path as it is.
fn api_base(address: &str, override_path: bool) -> io::Result<Url> {
    let mut base = match address.contains("://") {
        true => url(address)?,
        false => url(&format!("https://{address}"))?,
    };
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(invalid(format!("\"{address}\" is not an address of http or https")));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(invalid("an address has credentials in it: they go into \"credentials\""));
    }
    // Written so in the manuals of other runtimes, where it is never asked.
    if matches!(base.host_str(), Some(DOCKER_HUB | "index.docker.io")) {
        base.set_host(Some(HUB_HOST)).map_err(invalid)?;
    }
    base.set_query(None);
    base.set_fragment(None);
    let path = base.path().trim_end_matches('/').to_owned();
    let versioned = override_path || path.ends_with("/v2");
    base.set_path(&if versioned { path } else { format!("{path}/v2") });
    Ok(base)
}

fn url(text: &str) -> io::Result<Url> {
    Url::parse(text).map_err(|cause| invalid(format!("\"{text}\" is not an address: {cause}")))
}

fn invalid(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

#[cfg(test)]
mod tests;
