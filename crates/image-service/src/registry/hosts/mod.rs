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
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn bases(dir: &Path, registry: &str) -> Vec<String> {
        plan(dir, registry).unwrap().endpoints.iter().map(|e| e.base.to_string()).collect()
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
        let found = plan(dir.path(), "docker.io").unwrap().endpoints;
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
        assert!(found[0].can.pull && !found[0].can.resolve);
        assert!(found[1].can == Capabilities::ALL && found[1].tls.skip_verify);
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
    }

    /// A directory for one registry takes `_default` away from it, even an empty one: containerd's rule, which surprised
    /// many (bottlerocket-core-kit issue 1039). Who asks is told.
    #[test]
    fn what_is_passed_over_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let found = |registry: &str| plan(dir.path(), registry).unwrap();
        assert_eq!((found("r.example:5000").said_by, found("r.example:5000").passed_over), (None, vec![]));
        write(dir.path(), "_default/hosts.toml", "[host.\"http://any.example\"]");
        write(dir.path(), "r.example:5000/hosts.toml", "server = \"http://plain.example\"");
        fs::create_dir(dir.path().join("r.example_5000_")).unwrap();
        let plan = found("r.example:5000");
        assert_eq!(plan.said_by, Some(dir.path().join("r.example_5000_")));
        assert_eq!(plan.passed_over, [dir.path().join("r.example:5000"), dir.path().join("_default")]);
        assert_eq!(bases(dir.path(), "r.example:5000"), ["https://r.example:5000/v2"]);
        write(dir.path(), "r.example_5000_/hosts.toml", " \n");
        assert_eq!(bases(dir.path(), "r.example:5000"), ["https://r.example:5000/v2"]);
        assert_eq!(found("other.example").said_by, Some(dir.path().join("_default/hosts.toml")));
    }

    #[test]
    fn docker_hub_is_never_asked_at_its_name() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "docker.io/hosts.toml",
            "server = \"https://docker.io\"\n[host.\"index.docker.io/v2\"]",
        );
        let hub = "https://registry-1.docker.io/v2";
        assert_eq!(bases(dir.path(), "docker.io"), [hub, hub]);
    }

    #[test]
    fn an_address_of_ipv6_may_have_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "[fd00::1]_5000_/hosts.toml", "server = \"http://a.example\"");
        assert_eq!(bases(dir.path(), "[fd00::1]:5000"), ["http://a.example/v2"]);
        write(dir.path(), "[fd00::2]/hosts.toml", "[host.\"http://[fd00::3]:5000\"]");
        assert_eq!(bases(dir.path(), "[fd00::2]"), ["http://[fd00::3]:5000/v2", "https://[fd00::2]/v2"]);
    }

    #[test]
    fn an_endpoint_has_its_own_way_and_patience() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"
            dial_timeout = "1m"
            [host."https://m.example"]
              capabilities = ["Pull", "push"]
              dial_timeout = "250ms"
              proxy = "socks5h://proxy.example:1080/"
        "#;
        write(dir.path(), "r.example/hosts.toml", text);
        let found = plan(dir.path(), "r.example").unwrap().endpoints;
        assert_eq!(found[0].can, Capabilities { pull: true, resolve: false, push: true });
        assert_eq!(found[0].connect, Some(Duration::from_millis(250)));
        assert_eq!(found[0].proxy.as_ref().unwrap().as_str(), "socks5h://proxy.example:1080/");
        assert_eq!((found[1].connect, &found[1].proxy), (Some(Duration::from_secs(60)), &None));
    }

    #[test]
    fn an_endpoint_may_have_credentials_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"
            credentials = "none"
            [host."https://a.example".credentials]
              file = "auths.json"
            [host."https://b.example".credentials]
              helper = "ecr-login"
            [host."https://c.example".credentials]
              username = "robot"
              password_file = "/run/secrets/robot"
            [host."https://d.example"]
        "#;
        write(dir.path(), "r.example/hosts.toml", text);
        let found = plan(dir.path(), "r.example").unwrap().endpoints;
        let credentials: Vec<_> = found.into_iter().map(|e| e.credentials).collect();
        let password =
            HostCredentials::Password { username: "robot".into(), file: "/run/secrets/robot".into() };
        let expected = [
            Some(HostCredentials::File(dir.path().join("r.example/auths.json"))),
            Some(HostCredentials::Helper("ecr-login".into())),
            Some(password),
            None,
            Some(HostCredentials::Nobody),
        ];
        assert_eq!(credentials, expected);
    }

    /// Other runtimes pass over what they don't know, and over a whole file that they can't read: then the registry is
    /// asked instead of the mirror, and nobody knows.
    #[test]
    fn a_typo_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        for (text, words) in [
            ("[host.\"https://m\"]\ncapabilites = [\"pull\"]", ["[host.\"https://m\"]", "capabilites"]),
            ("[hosts.\"https://m\"]", ["outside of all [host]", "hosts"]),
            ("servr = \"https://m\"", ["outside of all [host]", "servr"]),
            ("capabilities = [\"pul\"]", ["pul", "none of the capabilities"]),
            ("dial_timeout = \"fast\"", ["dial_timeout", "fast"]),
            ("proxy = \"ftp://p.example\"", ["proxy", "bare address"]),
            ("proxy = \"http://p.example/path\"", ["proxy", "bare address"]),
            ("credentials = \"all\"", ["credentials", "none"]),
            ("[credentials]\nfile = \"a\"\nhelper = \"b\"", ["credentials", "one of"]),
            ("[credentials]\nusername = \"a\"", ["credentials", "one of"]),
            ("[credentials]\npassword = \"a\"", ["password", "password_file"]),
            ("[host.\"https://u:s3cret@m\"]", ["[host.\"m\"]", "credentials"]),
            ("[header]\nauthorization = [1]", ["header", "authorization"]),
            ("[header]\nauthorization = \"s3cret\\n\"", ["header", "can't be sent"]),
        ] {
            write(dir.path(), "r.example/hosts.toml", text);
            let error = crate::error::chain(&plan(dir.path(), "r.example").unwrap_err());
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
            assert!(error.contains("r.example/hosts.toml") && !error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn certificates_are_relative_to_the_file_and_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["r.example/ca.pem", "r.example/c.pem", "r.example/k.pem", "s.example/b.pem"] {
            write(dir.path(), name, "");
        }
        let outside = dir.path().join("a.pem");
        write(dir.path(), "a.pem", "");
        let text = "ca = \"ca.pem\"\nclient = [[\"c.pem\", \"k.pem\"], [\"d.pem\", \"l.pem\"]]";
        write(dir.path(), "r.example/hosts.toml", text);
        let base = dir.path().join("r.example");
        let tls = &plan(dir.path(), "r.example").unwrap().endpoints[0].tls;
        assert_eq!(tls.authorities, [base.join("ca.pem")]);
        assert_eq!(tls.client, Some((base.join("c.pem"), Some(base.join("k.pem")))));
        let text = format!("ca = [\"{}\", \"b.pem\"]\nclient = \"both.pem\"", outside.display());
        write(dir.path(), "s.example/hosts.toml", &text);
        match plan(dir.path(), "s.example") {
            Err(Error::RegistryConfig { path, .. }) => {
                assert_eq!(path, dir.path().join("s.example/both.pem"))
            }
            other => panic!("{other:?}"),
        }
        write(dir.path(), "s.example/both.pem", "");
        let tls = &plan(dir.path(), "s.example").unwrap().endpoints[0].tls;
        assert_eq!(tls.authorities, [outside, dir.path().join("s.example/b.pem")]);
        assert_eq!(tls.client, Some((dir.path().join("s.example/both.pem"), None)));
    }

    #[test]
    fn docker_s_certificates_do_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ca.crt", "me.cert", "me.key"] {
            write(dir.path(), &format!("r.example/{name}"), "");
        }
        let base = dir.path().join("r.example");
        let plan = plan(dir.path(), "r.example").unwrap();
        assert_eq!(plan.said_by.as_deref(), Some(base.as_path()));
        let tls = &plan.endpoints[0].tls;
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
            match plan(dir.path(), "r.example") {
                Err(Error::RegistryConfig { path, .. }) => assert!(path.ends_with("_default/hosts.toml")),
                other => panic!("{text:?} gives {other:?}"),
            }
        }
    }
}
