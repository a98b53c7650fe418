//! Files of credentials in Docker's format (`config.json`), which other tools have too (containers-auth.json(5)).
//!
//! | what it has | what it is for |
//! |---|---|
//! | `credHelpers` | the helper to be asked for one host |
//! | `auths` | credentials by host, or by host and the beginning of a repository's path |
//! | `credsStore` | the helper to be asked for all that the two above don't have |
//!
//! Of several entries that fit, the one with the host's exact name goes before one with `*` in it, and then the one with
//! the longest path. Keys are written in many ways: `quay.io`, `https://quay.io/v2/`, `registry.example:5000/team`,
//! `*.example.com`, `https://index.docker.io/v1/`. An entry without anything in it says that a helper has them.
//! Not here: asking helpers (`helper`), who may see what is found (`choice`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::{Credentials, host_of};

/// Largest file, in bytes: a thousand entries with long tokens have less.
const LARGEST: u64 = 4 << 20;

/// What Docker's helpers know Docker Hub by.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Such a file. Other keys are the business of Docker's command line.
#[derive(Default, Deserialize)]
pub(crate) struct DockerConfig {
    #[serde(default)]
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(default, rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

/// One entry of `auths`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// What a file says about a host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// These credentials, under this key.
    Entry { key: String, credentials: Credentials },
    /// Ask the helper, with these words.
    Helper { name: String, server: String },
}

impl DockerConfig {
    /// Reads a file; nothing where there is none. Blocks.
    ///
    /// # Errors
    /// The system's, or InvalidData. No secret is in it.
    pub(super) fn read(path: &Path) -> io::Result<Option<DockerConfig>> {
        let Some(text) = crate::files::read_bounded(path, LARGEST)? else { return Ok(None) };
        DockerConfig::parse(&text).map(Some)
    }

    /// Reads such a text.
    pub(crate) fn parse(text: &str) -> io::Result<DockerConfig> {
        let invalid = |why: String| {
            io::Error::new(io::ErrorKind::InvalidData, format!("it is not a file of credentials: {why}"))
        };
        // The library would take a list of the values for an object.
        if !text.trim_start().starts_with('{') {
            return Err(invalid("it begins with no brace".to_owned()));
        }
        // The library's words repeat what it found, which may be a password.
        let place =
            |wrong: serde_json::Error| format!("see line {}, column {}", wrong.line(), wrong.column());
        serde_json::from_str(text).map_err(|wrong| invalid(place(wrong)))
    }

    /// What it says about `host` (with its port), for the repository at `path`.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Found> {
        let host = host_of(host);
        let for_host = self.helpers.iter().flatten().filter(|(_, name)| !name.is_empty());
        if let Some((key, name)) = best(for_host, &host, "") {
            // A key with a `*` would mean nothing to it.
            let server = if key.contains('*') { &host } else { key };
            return Some(Found::Helper { name: name.clone(), server: server_words(server) });
        }
        let entries = self.auths.iter().flatten().filter_map(|(key, entry)| Some((key, entry.as_ref()?)));
        if let Some((key, entry)) = best(entries.filter(|(_, entry)| !entry.is_empty()), &host, path) {
            return Some(Found::Entry { key: key.clone(), credentials: entry.credentials() });
        }
        let name = self.store.clone().filter(|name| !name.is_empty())?;
        Some(Found::Helper { name, server: server_words(&host) })
    }
}

/// How a helper is asked for a host, or for one in the words of a key.
pub(super) fn server_words(host: &str) -> String {
    match host_of(host).as_str() {
        crate::reference::DOCKER_HUB => HUB_KEY.to_owned(),
        _ => host.to_owned(),
    }
}

/// The entry that fits best.
fn best<'a, T>(
    entries: impl Iterator<Item = (&'a String, T)>,
    host: &str,
    path: &str,
) -> Option<(&'a String, T)> {
    let fitting = entries.filter_map(|entry| Some((rank(entry.0, host, path)?, entry)));
    // Of equals the first, in the order of the alphabet.
    let best = fitting.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, found)| found)
}

/// How well a key fits: whether its host is written out, and the length of its path; nothing if it doesn't fit.
fn rank(key: &str, host: &str, path: &str) -> Option<(bool, usize)> {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let below = rest.split_once('/').map_or("", |(_, below)| below.trim_matches('/'));
    let below = if matches!(below, "v1" | "v2") { "" } else { below };
    let key_host = host_of(key);
    if key_host != host && !(key_host.contains('*') && fits(&key_host, host)) {
        return None;
    }
    let within = below.is_empty()
        || path.strip_prefix(below).is_some_and(|after| after.is_empty() || after.starts_with('/'));
    within.then_some((key_host == host, below.len()))
}

/// Whether a host is one of those that a pattern means: a `*` stands for anything but a dot, as kubelet has it.
fn fits(pattern: &str, host: &str) -> bool {
    let (pattern, host): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern.len() == host.len()
        && pattern.iter().zip(&host).all(|(pattern, label)| label_fits(pattern, label))
}

fn label_fits(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(label) = label.strip_prefix(head) else { return false };
    (0..=label.len()).any(|end| label.get(end..).is_some_and(|tail| label_fits(rest, tail)))
}

impl Entry {
    fn is_empty(&self) -> bool {
        let fields = [&self.auth, &self.username, &self.password, &self.identitytoken, &self.registrytoken];
        fields.into_iter().flatten().all(String::is_empty)
    }

    fn credentials(&self) -> Credentials {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Credentials {
            username: text(&self.username),
            password: text(&self.password),
            auth: text(&self.auth),
            server_address: String::new(),
            identity_token: text(&self.identitytoken),
            registry_token: text(&self.registrytoken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DockerConfig {
        serde_json::from_str(text).unwrap()
    }

    /// The key that is found.
    fn key(config: &DockerConfig, host: &str, path: &str) -> Option<String> {
        match config.find(host, path)? {
            Found::Entry { key, .. } => Some(key),
            Found::Helper { name, server } => Some(format!("{name} {server}")),
        }
    }

    #[test]
    fn keys_are_read_as_all_their_writers_mean_them() {
        for (written, host) in [
            ("quay.io", "quay.io"),
            ("https://quay.io", "quay.io"),
            ("https://quay.io/v2/", "quay.io"),
            ("QUAY.io/", "quay.io"),
            ("http://r.example:5000/v1/", "r.example:5000"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://index.docker.io/v1/", "registry-1.docker.io"),
            ("docker.io", "docker.io"),
            ("[::1]:5000", "[::1]:5000"),
            ("*.example.com", "r.example.com"),
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com"),
        ] {
            let config = config(&format!(r#"{{"auths":{{"{written}":{{"auth":"YTpi"}}}}}}"#));
            assert_eq!(key(&config, host, "library/a").as_deref(), Some(written));
            for other in
                ["example.com", "r.example", "quay.io:443", "quay.io.evil.example", "a.b.example.com"]
            {
                assert_eq!(key(&config, other, "library/a"), None, "{written} for {other}");
            }
        }
    }

    #[test]
    fn the_longest_path_counts_and_only_whole_parts_of_it() {
        let config = config(
            r#"{"auths":{"r.example":{"auth":"YTpi"},"r.example/team":{"auth":"YTpi"},
                "r.example/team/app":{"auth":"YTpi"},"*.example/team/app/deep":{"auth":"YTpi"},
                "only.example/team":{"auth":"YTpi"}}}"#,
        );
        for (path, expected) in [
            ("team/app", "r.example/team/app"),
            ("team/app/deep", "r.example/team/app"),
            ("team/apple", "r.example/team"),
            ("team", "r.example/team"),
            ("teams/app", "r.example"),
        ] {
            assert_eq!(key(&config, "r.example", path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(key(&config, "only.example", "other"), None);
        assert_eq!(key(&config, "x.example", "team/app/deep").as_deref(), Some("*.example/team/app/deep"));
    }

    #[test]
    fn helpers_of_a_host_go_first_and_the_one_for_all_last() {
        let config = config(
            r#"{"auths":{"a.example":{"auth":"YTpi"},"b.example":{"auth":"YTpi"},"c.example":{},"d.example":null},
                "credHelpers":{"a.example":"one","*.ecr.example":"ecr-login","index.docker.io":"hub"},
                "credsStore":"all","HttpHeaders":{"x":"y"}}"#,
        );
        for (host, expected) in [
            ("a.example", "one a.example"),
            ("b.example", "b.example"),
            ("c.example", "all c.example"),
            ("d.example", "all d.example"),
            ("e.example", "all e.example"),
            ("1.ecr.example", "ecr-login 1.ecr.example"),
            ("docker.io", "hub https://index.docker.io/v1/"),
        ] {
            assert_eq!(key(&config, host, "x").as_deref(), Some(expected));
        }
    }

    #[test]
    fn all_forms_of_credentials_are_handed_on() {
        let config = config(
            r#"{"auths":{"h":{"auth":"a","username":"u","password":"p","identitytoken":"i","registrytoken":"r","email":"e"}}}"#,
        );
        let Some(Found::Entry { credentials, .. }) = config.find("h", "x") else { panic!() };
        let found = (credentials.auth, credentials.username, credentials.password);
        assert_eq!(found, ("a".to_owned(), "u".to_owned(), "p".to_owned()));
        assert_eq!((credentials.identity_token.as_str(), credentials.registry_token.as_str()), ("i", "r"));
    }

    #[test]
    fn a_broken_file_is_told_without_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert!(DockerConfig::read(&path).unwrap().is_none());
        for text in [r#"{"auths":{"h":"s3cret"}}"#, r#"{"auths":{"h":{"auth":1}}}"#, "s3cret", "", "[]"] {
            std::fs::write(&path, text).unwrap();
            let error = DockerConfig::read(&path).err().unwrap().to_string();
            assert!(
                error.contains("not a file of credentials") && !error.contains("s3cret"),
                "{text}: {error}"
            );
        }
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(DockerConfig::read(&path).unwrap().unwrap().find("h", "x"), None);
    }
}
