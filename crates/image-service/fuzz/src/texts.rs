//! What people and registries write on one line or one page: references, `hosts.toml`, challenges, credentials.

use std::fs;
use std::sync::OnceLock;

use base64::Engine as _;
use libfuzzer_sys::arbitrary::Unstructured;

use crate::auth::docker_config::{DockerConfig, Found};
use crate::auth::{Credentials, Login, Seen};
use crate::digest::Digest;
use crate::error::Error;
use crate::reference::{Pointer, Reference};
use crate::registry::challenge;
use crate::registry::hosts::{self, Role};

/// Names of images: an accepted one has one full text, which means the same.
pub fn check_reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    match text.parse::<Reference>() {
        Ok(reference) => accepted(&reference),
        Err(Error::BadReference { text, .. }) => assert!(text.chars().count() <= 513),
        Err(other) => panic!("{other}"),
    }
}

fn accepted(reference: &Reference) {
    let full = reference.to_string();
    assert_eq!(full.parse::<Reference>().as_ref().ok(), Some(reference), "{full}");
    // All that goes into an address or a path of a registry.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    assert!(reference.repository().chars().all(plain), "{full}");
    assert!(reference.repository().split('/').all(|part| !matches!(part, "" | "." | "..")), "{full}");
    assert!(!reference.registry().contains(['/', '@', '?', '#', ' ', '\\']), "{full}");
    let url = format!(
        "https://{}/v2/{}/manifests/{}",
        reference.registry(),
        reference.repository(),
        reference.pointer()
    );
    let url = reqwest::Url::parse(&url).unwrap_or_else(|error| panic!("{full}: {error}"));
    // The host that is asked is the one that was written, and no other spelling of another.
    let host = url.host_str().unwrap_or_default();
    let rest = reference
        .registry()
        .strip_prefix(host)
        .or_else(|| reference.registry().starts_with('[').then_some(""));
    assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':')), "{full} is asked at {host}");
    assert!(
        url.username().is_empty()
            && url.query().is_none()
            && url.path().ends_with(&reference.pointer().to_string())
    );
    if let Pointer::Tag(tag) = reference.pointer() {
        assert!((1..=128).contains(&tag.len()));
    }
}

/// `hosts.toml`: endpoints with addresses that can be asked, the registry or its stand-in last.
pub fn check_hosts(input: &[u8]) {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| tempfile::tempdir_in("/dev/shm").unwrap());
    let own = dir.path().join("r.example");
    let _ = fs::create_dir(&own);
    fs::write(own.join("hosts.toml"), input).unwrap();
    match hosts::plan(dir.path(), "r.example") {
        // What has nothing in it says nothing.
        Ok(plan) if plan.said_by.as_deref() != Some(&own.join("hosts.toml")) => {}
        Ok(hosts::Plan { endpoints, .. }) => {
            assert_eq!(endpoints.last().map(|last| last.role), Some(Role::Registry));
            for endpoint in &endpoints {
                let base = &endpoint.base;
                assert!(
                    matches!(base.scheme(), "http" | "https")
                        && base.host_str().is_some_and(|host| !host.is_empty())
                );
                assert!(base.query().is_none() && base.fragment().is_none(), "{base}");
            }
            assert!(std::str::from_utf8(input).is_ok_and(|text| text.parse::<toml::Table>().is_ok()));
        }
        // Or a certificate that it names, if that isn't there.
        Err(Error::RegistryConfig { path, .. }) => {
            assert!(path.ends_with("r.example/hosts.toml") || !path.is_file(), "{}", path.display());
        }
        Err(other) => panic!("{other}"),
    }
}

/// `WWW-Authenticate`: what was understood can be written again.
pub fn check_challenge(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for challenge in challenge::parse(text) {
        assert!(!challenge.scheme.is_empty() && challenge.scheme == challenge.scheme.to_ascii_lowercase());
        let mut again = challenge.scheme.clone();
        for name in ["realm", "service", "scope", "error"] {
            if let Some(value) = challenge.get(name) {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"");
                again.push_str(&format!(" {name}=\"{value}\","));
            }
        }
        let [second] = &challenge::parse(&again)[..] else { panic!("{again}") };
        for name in ["realm", "service", "scope", "error"] {
            assert_eq!(second.get(name), challenge.get(name), "{again}");
        }
    }
}

/// Credentials of a request: they come apart in one way, and a server they name is the only one to see them.
pub fn check_credentials(input: &[u8]) {
    let mut parts = Unstructured::new(input);
    let mut text = || parts.arbitrary::<String>().unwrap_or_default();
    let credentials = Credentials {
        username: text(),
        password: text(),
        auth: text(),
        server_address: text(),
        identity_token: text(),
        registry_token: text(),
    };
    let anywhere = Seen::Mirror { host: "stranger.example" };
    if let Ok(login) = Login::new(&credentials) {
        let named = !credentials.server_address.trim().is_empty();
        let meant = credentials.server_address.to_ascii_lowercase().contains("stranger.example");
        assert!(!named || meant || login.for_endpoint(anywhere).is_none());
    }
    let pair = format!("{}:{}", credentials.username.replace(':', ""), credentials.password);
    let auth = base64::engine::general_purpose::STANDARD.encode(&pair);
    let of = |credentials: &Credentials| Login::new(credentials).map(|login| login.identity().clone()).ok();
    let (username, password) = pair.split_once(':').unwrap();
    let plain =
        Credentials { username: username.into(), password: password.into(), ..Credentials::default() };
    if !pair.starts_with(':') && !password.ends_with('\0') {
        assert_eq!(of(&plain), of(&Credentials { auth, ..Credentials::default() }));
    }
}

/// A file of credentials in Docker's format: what is found for a host is under a key that names it.
pub fn check_docker_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(config) = DockerConfig::parse(text) else { return };
    assert!(
        serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() && text.trim_start().starts_with('{')
    );
    for (host, path) in [("r.example:5000", "team/app"), ("docker.io", "library/a"), ("a.b.example", "")] {
        match config.find(host, path) {
            Some(Found::Entry { key, .. }) => {
                let key = key.to_ascii_lowercase();
                let names = key.contains(host)
                    || key.contains('*')
                    || (host == "docker.io" && key.contains("docker.io"));
                assert!(names && text.contains('"'), "{key} for {host}");
            }
            Some(Found::Helper { name, .. }) => assert!(!name.is_empty()),
            None => {}
        }
    }
}
