//! Where a registry is reached: its `hosts.toml`, or what holds without one.
//!
//! The layout is containerd's. The first of these directories that exists and says something counts, alone:
//!
//! | directory | for the registry `host.example:5000` |
//! |---|---|
//! | the host, its port between underscores | `host.example_5000_` |
//! | the host as it is | `host.example:5000` |
//! | the fallback for all | `_default` |
//!
//! Mirrors are asked in the order of the file, then the `server`; without a `server`, the registry itself. Without a
//! file, a registry on this machine (`localhost`, 127.0.0.0/8, `::1`; but not at port 443) is spoken to by plain HTTP, and
//! all others by HTTPS. A directory without `hosts.toml` may have Docker's `*.crt`, `*.cert` and `*.key` files.
//! Not here: connections (`endpoint`).

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use crate::error::Error;
use crate::reference::DOCKER_HUB;

/// Largest `hosts.toml`, in bytes: far above what anybody writes.
const FILE_BYTES: u64 = 1 << 20;

/// An endpoint as configured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Address of the API, up to and including `/v2` (or what `override_path` has instead of it).
    pub(crate) base: Url,
    /// Whether it is the registry itself.
    pub(crate) role: Role,
    /// May be asked for content by digest.
    pub(crate) pull: bool,
    /// May be asked what a tag means.
    pub(crate) resolve: bool,
    /// How its certificates are checked, and ours shown.
    pub(crate) tls: Tls,
    /// Headers for every request to it.
    pub(crate) headers: HeaderMap,
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

/// The endpoints of `registry`, in the order in which they are asked. Reads files: blocks.
///
/// # Errors
/// [`Error::RegistryConfig`] names the file that can't be used.
pub(crate) fn endpoints(config_dir: &Path, registry: &str) -> Result<Vec<Settings>, Error> {
    let own = own_endpoint(registry)
        .map_err(|cause| Error::RegistryConfig { path: config_dir.join(registry), cause })?;
    for dir in candidates(config_dir, registry) {
        let file = dir.join("hosts.toml");
        let read = read_bounded(&file).and_then(|text| text.map(|t| parse(&t, &dir, &own)).transpose());
        if let Some(endpoints) = read.map_err(|cause| Error::RegistryConfig { path: file.clone(), cause })? {
            return Ok(endpoints);
        }
        if let Some(tls) =
            certificates(&dir).map_err(|cause| Error::RegistryConfig { path: dir.clone(), cause })?
        {
            return Ok(vec![Settings { tls, ..own }]);
        }
    }
    Ok(vec![own])
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

/// The registry itself, where nobody has said anything else.
fn own_endpoint(registry: &str) -> io::Result<Settings> {
    let host = if registry == DOCKER_HUB { "registry-1.docker.io" } else { registry };
    let scheme = if is_loopback(registry) && !registry.ends_with(":443") { "http" } else { "https" };
    Ok(Settings {
        base: url(&format!("{scheme}://{host}/v2"))?,
        role: Role::Registry,
        pull: true,
        resolve: true,
        tls: Tls::default(),
        headers: HeaderMap::new(),
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

/// The text of a file, or nothing where there is none.
fn read_bounded(path: &Path) -> io::Result<Option<String>> {
    use std::io::Read as _;
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(cause) => return Err(cause),
    };
    let mut text = String::new();
    file.take(FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES {
        return Err(invalid("it is larger than 1 MiB"));
    }
    Ok(Some(text))
}

/// What a `[host."…"]` section, or the top of the file, may say. Other keys are containerd's business.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Section {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<String>>,
    client: Option<Client>,
    skip_verify: bool,
    header: Option<toml::map::Map<String, toml::Value>>,
    override_path: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// `"pair.pem"`, `["pair.pem", …]` or `[["cert.pem", "key.pem"], …]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Client {
    File(String),
    List(Vec<OneOrMany<String>>),
}

fn parse(text: &str, dir: &Path, own: &Settings) -> io::Result<Vec<Settings>> {
    let mut table: toml::Table = toml::from_str(text).map_err(invalid)?;
    let hosts = match table.remove("host") {
        Some(toml::Value::Table(hosts)) => hosts,
        Some(_) => return Err(invalid("\"host\" is not a table")),
        None => toml::Table::new(),
    };
    let server = match table.remove("server") {
        Some(toml::Value::String(server)) => Some(server),
        Some(_) => return Err(invalid("\"server\" is not a text")),
        None => None,
    };
    let mut endpoints = Vec::new();
    for (address, section) in hosts {
        let section: Section = section.try_into().map_err(invalid)?;
        endpoints.push(settings(Some(&address), section, Base { dir, own, role: Role::Mirror })?);
    }
    let section: Section = table.try_into().map_err(invalid)?;
    endpoints.push(settings(server.as_deref(), section, Base { dir, own, role: Role::Registry })?);
    Ok(endpoints)
}

/// What a section's values are relative to.
struct Base<'a> {
    dir: &'a Path,
    own: &'a Settings,
    role: Role,
}

fn settings(address: Option<&str>, section: Section, from: Base<'_>) -> io::Result<Settings> {
    let base = match address {
        Some(address) => api_base(address, section.override_path)?,
        None => from.own.base.clone(),
    };
    // No capabilities named means all of them.
    let can = |name: &str| {
        section.capabilities.as_ref().is_none_or(|list| list.is_empty() || list.iter().any(|c| c == name))
    };
    let (pull, resolve) = (can("pull"), can("resolve"));
    let tls = Tls {
        authorities: section
            .ca
            .map_or_else(Vec::new, OneOrMany::into_vec)
            .iter()
            .map(|p| from.dir.join(p))
            .collect(),
        client: section.client.map(|client| client_files(client, from.dir)).transpose()?,
        skip_verify: section.skip_verify,
    };
    let headers = headers(section.header.unwrap_or_default())?;
    Ok(Settings { base, role: from.role, pull, resolve, tls, headers })
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
    base.set_query(None);
    base.set_fragment(None);
    let path = base.path().trim_end_matches('/').to_owned();
    let versioned = override_path || path.ends_with("/v2");
    base.set_path(&if versioned { path } else { format!("{path}/v2") });
    Ok(base)
}

/// The first certificate of those configured: a connection shows only one.
fn client_files(client: Client, dir: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let first = match client {
        Client::File(file) => OneOrMany::One(file),
        Client::List(list) => list.into_iter().next().ok_or_else(|| invalid("\"client\" is empty"))?,
    };
    match first.into_vec().as_slice() {
        [both] => Ok((dir.join(both), None)),
        [certificate, key] => Ok((dir.join(certificate), (!key.is_empty()).then(|| dir.join(key)))),
        _ => Err(invalid("\"client\" is neither a file nor a certificate with its key")),
    }
}

fn headers(table: toml::Table) -> io::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let name: HeaderName = name.parse().map_err(invalid)?;
        let values: OneOrMany<String> = value.try_into().map_err(invalid)?;
        for value in values.into_vec() {
            let mut value: HeaderValue = value.parse().map_err(invalid)?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

/// Docker's way of giving certificates: `*.crt` are authorities, and `x.cert` with `x.key` is ours.
fn certificates(dir: &Path) -> io::Result<Option<Tls>> {
    let mut paths = match fs::read_dir(dir) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?,
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(cause) => return Err(cause),
    };
    paths.sort();
    let has = |path: &&PathBuf, extension: &str| path.extension().is_some_and(|e| e == extension);
    let authorities: Vec<PathBuf> = paths.iter().filter(|p| has(p, "crt")).cloned().collect();
    let client = paths.iter().find(|p| has(p, "cert")).map(|p| (p.clone(), Some(p.with_extension("key"))));
    let found = !authorities.is_empty() || client.is_some();
    Ok(found.then_some(Tls { authorities, client, skip_verify: false }))
}

fn url(text: &str) -> io::Result<Url> {
    Url::parse(text).map_err(|cause| invalid(format!("\"{text}\" is not an address: {cause}")))
}

fn invalid(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn bases(dir: &Path, registry: &str) -> Vec<String> {
        endpoints(dir, registry).unwrap().iter().map(|e| e.base.to_string()).collect()
    }

    #[test]
    fn without_a_file_it_is_the_registry_itself() {
        let dir = tempfile::tempdir().unwrap();
        for (registry, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("quay.io", "https://quay.io/v2"),
            ("r.example:5000", "https://r.example:5000/v2"),
            ("localhost", "http://localhost/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.8.8.8:5000", "http://127.8.8.8:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("localhost:443", "https://localhost/v2"),
            ("localhost.example", "https://localhost.example/v2"),
        ] {
            assert_eq!(bases(dir.path(), registry), [base], "{registry}");
        }
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_then_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"
            server = "https://upstream.example"
            [host."https://z.example"]
              capabilities = ["pull"]
            [host."http://a.example:5000/some/path"]
              skip_verify = true
              [host."http://a.example:5000/some/path".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."m.example/v2/"]
            [host."https://o.example/as/it/is"]
              override_path = true
        "#;
        write(dir.path(), "docker.io/hosts.toml", text);
        let found = endpoints(dir.path(), "docker.io").unwrap();
        let bases: Vec<_> = found.iter().map(|e| e.base.as_str()).collect();
        assert_eq!(
            bases,
            [
                "https://z.example/v2",
                "http://a.example:5000/some/path/v2",
                "https://m.example/v2",
                "https://o.example/as/it/is",
                "https://upstream.example/v2"
            ]
        );
        assert!(found[0].pull && !found[0].resolve);
        assert!(found[1].pull && found[1].resolve && found[1].tls.skip_verify);
        assert_eq!(found[1].headers.get_all("x-two").iter().count(), 2);
        assert_eq!(found[4].role, Role::Registry);
        assert!(found[..4].iter().all(|e| e.role == Role::Mirror));
    }

    #[test]
    fn the_host_comes_before_the_default() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "_default/hosts.toml", "server = \"http://any.example\"");
        assert_eq!(bases(dir.path(), "r.example:5000"), ["http://any.example/v2"]);
        write(dir.path(), "r.example:5000/hosts.toml", "server = \"http://plain.example\"");
        assert_eq!(bases(dir.path(), "r.example:5000"), ["http://plain.example/v2"]);
        write(dir.path(), "r.example_5000_/hosts.toml", "[host.\"http://m.example\"]");
        let expected = ["http://m.example/v2", "https://r.example:5000/v2"];
        assert_eq!(bases(dir.path(), "r.example:5000"), expected);
        fs::create_dir(dir.path().join("empty.example")).unwrap();
        assert_eq!(bases(dir.path(), "empty.example"), ["http://any.example/v2"]);
    }

    #[test]
    fn certificates_are_relative_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let text = "ca = \"ca.pem\"\nclient = [[\"c.pem\", \"k.pem\"], [\"d.pem\", \"l.pem\"]]";
        write(dir.path(), "r.example/hosts.toml", text);
        let base = dir.path().join("r.example");
        let tls = &endpoints(dir.path(), "r.example").unwrap()[0].tls;
        assert_eq!(tls.authorities, [base.join("ca.pem")]);
        assert_eq!(tls.client, Some((base.join("c.pem"), Some(base.join("k.pem")))));
        write(dir.path(), "s.example/hosts.toml", "ca = [\"/a.pem\", \"b.pem\"]\nclient = \"both.pem\"");
        let tls = &endpoints(dir.path(), "s.example").unwrap()[0].tls;
        assert_eq!(tls.authorities, [PathBuf::from("/a.pem"), dir.path().join("s.example/b.pem")]);
        assert_eq!(tls.client, Some((dir.path().join("s.example/both.pem"), None)));
    }

    #[test]
    fn docker_s_certificates_do_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ca.crt", "me.cert", "me.key"] {
            write(dir.path(), &format!("r.example/{name}"), "");
        }
        let base = dir.path().join("r.example");
        let tls = &endpoints(dir.path(), "r.example").unwrap()[0].tls;
        assert_eq!(tls.authorities, [base.join("ca.crt")]);
        assert_eq!(tls.client, Some((base.join("me.cert"), Some(base.join("me.key")))));
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            "server = 1",
            "host = 1",
            "[host.\"ftp://x\"]",
            "[host.\"https://x\"]\nskip_verify = \"no\"",
            "client = []",
            "[header]\n\"a b\" = \"c\"",
            "not toml",
        ] {
            write(dir.path(), "_default/hosts.toml", text);
            match endpoints(dir.path(), "r.example") {
                Err(Error::RegistryConfig { path, .. }) => assert!(path.ends_with("_default/hosts.toml")),
                other => panic!("{text:?} gives {other:?}"),
            }
        }
    }
}
