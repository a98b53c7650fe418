//! Whose credentials an endpoint sees.
//!
//! The first line that has some counts; if they are refused, no others are tried.
//!
//! | | the registry itself (the `server`) | a mirror of it |
//! |---|---|---|
//! | 1 | the request's, if their `server_address` is empty, or names the registry or the `server` | the request's, if their `server_address` names the mirror |
//! | 2 | `credentials` at the top of `hosts.toml` | `credentials` of its `[host]` |
//! | 3 | the node's file: for the `server`'s host, then for the registry's name | the node's file: for the mirror's host |
//! | 4 | | the request's, if their `server_address` is empty |
//!
//! `credentials = "none"` ends the search at line 2. kubelet leaves `server_address` empty, so a pull secret goes to the
//! mirrors that have nothing of their own, as with containerd: an operator who doesn't want that writes `"none"`.
//! The node's file is the one that the daemon's configuration names. kubelet's own files needn't be named there: what it
//! finds in them comes with its requests.
//! Not here: what a proof is exchanged for (`registry::token`).

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::docker_config::{self, DockerConfig, Found};
use super::helper::{HelperCall, Helpers};
use super::{Credentials, Fit, Login, Proof, Seen, identity};
use crate::config::CredentialsFile;
use crate::digest::Digest;
use crate::error::Error;

/// Largest file of a password, in bytes.
const PASSWORD_BYTES: u64 = 64 << 10;

/// What a `hosts.toml` says about the credentials of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostCredentials {
    /// It sees none, whoever has some.
    Nobody,
    /// A file in Docker's format has them.
    File(PathBuf),
    /// A helper of this name knows them.
    Helper(String),
    /// A user, whose password is all that is in a file.
    Password { username: String, file: PathBuf },
}

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// There are none.
    Nobody,
    /// The request brought them.
    Request,
    /// A file that has nothing but a password.
    PasswordFile(PathBuf),
    /// An entry of a file in Docker's format.
    Entry {
        /// The file.
        file: PathBuf,
        /// The entry's key.
        key: String,
    },
    /// A credential helper.
    Helper {
        /// Its name, without `docker-credential-`.
        name: String,
        /// The words that it is asked with.
        server: String,
    },
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialSource::Nobody => f.write_str("no credentials"),
            CredentialSource::Request => f.write_str("the credentials of the request"),
            CredentialSource::PasswordFile(file) => write!(f, "the password in \"{}\"", file.display()),
            CredentialSource::Entry { file, key } => {
                write!(f, "the entry \"{key}\" of \"{}\"", file.display())
            }
            CredentialSource::Helper { name, server } => {
                write!(f, "what helper \"{name}\" has for \"{server}\"")
            }
        }
    }
}

/// What one endpoint sees, during one pull.
#[derive(Clone)]
pub(crate) struct Chosen {
    pub(crate) source: CredentialSource,
    /// Why it is these.
    pub(crate) why: &'static str,
    secret: Secret,
    identity: Digest,
}

#[derive(Clone)]
enum Secret {
    Nothing,
    Proof(Proof),
    Helper(HelperCall),
}

impl fmt::Debug for Chosen {
    /// Says nothing that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Chosen {
    fn nobody(why: &'static str) -> Chosen {
        let identity = Digest::of(b"");
        Chosen { source: CredentialSource::Nobody, why, secret: Secret::Nothing, identity }
    }

    fn proof_of(proof: Proof, source: CredentialSource, why: &'static str) -> Chosen {
        let identity = identity(&proof, None);
        Chosen { source, why, secret: Secret::Proof(proof), identity }
    }

    fn helper_of(call: HelperCall, why: &'static str) -> Chosen {
        let identity =
            Digest::of(format!("helper {}:{}{}", call.name.len(), call.name, call.server).as_bytes());
        let source = CredentialSource::Helper { name: call.name.clone(), server: call.server.clone() };
        Chosen { source, why, secret: Secret::Helper(call), identity }
    }

    /// The proof, asked of a helper where one has it. Safe to cancel.
    ///
    /// # Errors
    /// The helper's.
    pub(crate) async fn proof(&self, helpers: &Helpers) -> Result<Option<Proof>, Error> {
        match &self.secret {
            Secret::Nothing => Ok(None),
            Secret::Proof(proof) => Ok(Some(proof.clone())),
            Secret::Helper(call) => helpers.get(call).await,
        }
    }

    /// The helper that has them, if one does.
    pub(crate) fn helper(&self) -> Option<&HelperCall> {
        match &self.secret {
            Secret::Helper(call) => Some(call),
            Secret::Nothing | Secret::Proof(_) => None,
        }
    }

    /// The user's name, where it is known before anybody is asked.
    pub(crate) fn username(&self) -> Option<&str> {
        match &self.secret {
            Secret::Proof(Proof::Basic { username, .. }) => Some(username),
            Secret::Proof(_) | Secret::Nothing | Secret::Helper(_) => None,
        }
    }

    /// A digest that tells one asker from another, without giving away the secret.
    pub(crate) fn identity(&self) -> &Digest {
        &self.identity
    }
}

/// An endpoint that is to see credentials.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) seen: Seen<'a>,
    /// What `hosts.toml` says.
    pub(crate) configured: Option<&'a HostCredentials>,
    /// Path of the repository there, as entries of files may name it.
    pub(crate) path: &'a str,
}

/// Chooses for the endpoints of one pull.
pub(crate) struct Chooser<'a> {
    login: &'a Login,
    file: &'a CredentialsFile,
    /// What is in that file, once somebody needed it.
    read: OnceCell<Option<DockerConfig>>,
}

impl<'a> Chooser<'a> {
    pub(crate) fn new(login: &'a Login, file: &'a CredentialsFile) -> Chooser<'a> {
        Chooser { login, file, read: OnceCell::new() }
    }

    /// What this endpoint sees. Reads files: blocks.
    ///
    /// # Errors
    /// [`Error::RegistryConfig`] names the file that can't be used.
    pub(crate) fn choose(&self, endpoint: Candidate<'_>) -> Result<Chosen, Error> {
        let requested = self.login.for_endpoint(endpoint.seen);
        let of_request = |proof: &Proof, why| Chosen::proof_of(proof.clone(), CredentialSource::Request, why);
        let is_mirror = matches!(endpoint.seen, Seen::Mirror { .. });
        match requested {
            Some((proof, Fit::Named)) => return Ok(of_request(proof, "their server_address names it")),
            Some((proof, Fit::Anywhere)) if !is_mirror => {
                return Ok(of_request(proof, "they came for this image"));
            }
            _ => {}
        }
        if let Some(configured) = endpoint.configured {
            return of_hosts_file(configured, endpoint);
        }
        if let Some(chosen) = self.of_node(endpoint)? {
            return Ok(chosen);
        }
        Ok(match requested {
            Some((proof, _)) => {
                of_request(proof, "they name no server, and nothing else is configured for it")
            }
            None if self.login.has_proof() => Chosen::nobody("the request's are for another server"),
            None => Chosen::nobody("nobody has any for it"),
        })
    }

    /// What the node's own file has.
    fn of_node(&self, endpoint: Candidate<'_>) -> Result<Option<Chosen>, Error> {
        let Some(path) = self.file.path() else { return Ok(None) };
        if self.read.get().is_none() {
            let _ = self.read.set(read_file(self.file, path)?);
        }
        let Some(config) = self.read.get().and_then(Option::as_ref) else { return Ok(None) };
        let found = hosts_of(endpoint.seen).find_map(|host| config.find(host, endpoint.path));
        found.map(|found| of_file(found, path, "the node's file has them for it")).transpose()
    }
}

fn read_file(file: &CredentialsFile, path: &Path) -> Result<Option<DockerConfig>, Error> {
    let read = DockerConfig::read(path).map_err(|cause| broken(path, cause))?;
    match (&read, file) {
        (None, CredentialsFile::Required(_)) => Err(broken(path, io::ErrorKind::NotFound.into())),
        _ => Ok(read),
    }
}

/// What is wrong with the node's file, if anything. Reads it: blocks.
pub(crate) fn file_problem(file: &CredentialsFile) -> Option<Error> {
    read_file(file, file.path()?).err()
}

/// The names that a file may have an endpoint's credentials under: where it is, then what it stands for.
fn hosts_of(seen: Seen<'_>) -> impl Iterator<Item = &str> {
    let (first, second) = match seen {
        Seen::Registry { name, host } => (host, Some(name)),
        Seen::Mirror { host } => (host, None),
    };
    std::iter::once(first).chain(second)
}

fn of_hosts_file(configured: &HostCredentials, endpoint: Candidate<'_>) -> Result<Chosen, Error> {
    let why = "hosts.toml says so";
    match configured {
        HostCredentials::Nobody => Ok(Chosen::nobody(why)),
        HostCredentials::Helper(name) => {
            let server = docker_config::server_words(hosts_of(endpoint.seen).next().unwrap_or_default());
            Ok(Chosen::helper_of(HelperCall { name: name.clone(), server }, why))
        }
        HostCredentials::Password { username, file } => {
            let text =
                crate::files::read_bounded(file, PASSWORD_BYTES).map_err(|cause| broken(file, cause))?;
            let text = text.ok_or_else(|| broken(file, io::ErrorKind::NotFound.into()))?;
            // Editors end a file with a line break.
            let password = text.trim_end_matches(['\r', '\n']).to_owned();
            let proof = Proof::Basic { username: username.clone(), password };
            Ok(Chosen::proof_of(proof, CredentialSource::PasswordFile(file.clone()), why))
        }
        HostCredentials::File(file) => {
            let config = DockerConfig::read(file).map_err(|cause| broken(file, cause))?;
            let config = config.ok_or_else(|| broken(file, io::ErrorKind::NotFound.into()))?;
            let found = hosts_of(endpoint.seen).find_map(|host| config.find(host, endpoint.path));
            match found {
                Some(found) => of_file(found, file, why),
                None => Ok(Chosen::nobody("the file that hosts.toml names has none for it")),
            }
        }
    }
}

fn of_file(found: Found, file: &Path, why: &'static str) -> Result<Chosen, Error> {
    match found {
        Found::Helper { name, server } => Ok(Chosen::helper_of(HelperCall { name, server }, why)),
        Found::Entry { key, credentials } => {
            let source = CredentialSource::Entry { file: file.to_owned(), key };
            match of_entry(&credentials).map_err(|cause| broken(file, cause))? {
                Some(proof) => Ok(Chosen::proof_of(proof, source, why)),
                None => Ok(Chosen::nobody(why)),
            }
        }
    }
}

fn of_entry(credentials: &Credentials) -> io::Result<Option<Proof>> {
    super::proof(credentials).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

fn broken(path: &Path, cause: io::Error) -> Error {
    Error::RegistryConfig { path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: Seen<'_> = Seen::Registry { name: "docker.io", host: "registry-1.docker.io" };
    const MIRROR: Seen<'_> = Seen::Mirror { host: "mirror.example:5000" };

    fn login(server_address: &str) -> Login {
        let credentials = Credentials {
            username: "asker".to_owned(),
            password: "p".to_owned(),
            server_address: server_address.to_owned(),
            ..Credentials::default()
        };
        Login::new(&credentials).unwrap()
    }

    fn file(text: &str) -> (tempfile::TempDir, CredentialsFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        (dir, CredentialsFile::Required(path))
    }

    /// The user, or a helper's name, that the endpoint sees.
    fn chosen(
        login: &Login,
        file: &CredentialsFile,
        seen: Seen<'_>,
        configured: Option<HostCredentials>,
    ) -> String {
        let candidate = Candidate { seen, configured: configured.as_ref(), path: "library/a" };
        let chosen = Chooser::new(login, file).choose(candidate).unwrap();
        match &chosen.source {
            CredentialSource::Nobody => "nobody".to_owned(),
            CredentialSource::Helper { name, .. } => name.clone(),
            _ => chosen.username().unwrap().to_owned(),
        }
    }

    /// The module's table, line by line.
    #[test]
    fn the_first_line_of_the_table_that_has_some_counts() {
        let (_dir, node) = file(
            r#"{"auths":{"https://index.docker.io/v1/":{"username":"node","password":"p"},
                "mirror.example:5000":{"username":"node-mirror","password":"p"}}}"#,
        );
        let helper = || Some(HostCredentials::Helper("own".to_owned()));
        let none = || Some(HostCredentials::Nobody);
        let nothing = &CredentialsFile::None;
        for (address, file, seen, configured, expected) in [
            ("", &node, HUB, helper(), "asker"),
            ("docker.io", &node, HUB, none(), "asker"),
            ("https://registry-1.docker.io/v2/", &node, HUB, None, "asker"),
            ("mirror.example:5000", &node, MIRROR, helper(), "asker"),
            ("mirror.example:5000", &node, HUB, helper(), "own"),
            ("mirror.example:5000", &node, HUB, None, "node"),
            ("mirror.example:5000", nothing, HUB, None, "nobody"),
            ("", &node, MIRROR, helper(), "own"),
            ("", &node, MIRROR, none(), "nobody"),
            ("", &node, MIRROR, None, "node-mirror"),
            ("", nothing, MIRROR, None, "asker"),
            ("docker.io", &node, MIRROR, None, "node-mirror"),
            ("docker.io", nothing, MIRROR, None, "nobody"),
        ] {
            let found = chosen(&login(address), file, seen, configured.clone());
            assert_eq!(found, expected, "\"{address}\" for {seen:?} with {configured:?} and {file:?}");
        }
        assert_eq!(chosen(&Login::anonymous(), &node, HUB, None), "node");
        assert_eq!(chosen(&Login::anonymous(), nothing, HUB, None), "nobody");
    }

    #[test]
    fn hosts_toml_may_name_files() {
        let (dir, _) =
            file(r#"{"auths":{"mirror.example:5000/library":{"username":"robot","password":"p"}}}"#);
        let named = HostCredentials::File(dir.path().join("config.json"));
        let found = chosen(&Login::anonymous(), &CredentialsFile::None, MIRROR, Some(named.clone()));
        assert_eq!(found, "robot");
        assert_eq!(
            chosen(&login(""), &CredentialsFile::None, Seen::Mirror { host: "o.example" }, Some(named)),
            "nobody"
        );
        let password = dir.path().join("password");
        std::fs::write(&password, "s3 cret\n").unwrap();
        let configured = HostCredentials::Password { username: "u".to_owned(), file: password };
        let candidate = Candidate { seen: MIRROR, configured: Some(&configured), path: "a" };
        let nobody = Login::anonymous();
        let chosen = Chooser::new(&nobody, &CredentialsFile::None).choose(candidate).unwrap();
        assert!(
            matches!(&chosen.secret, Secret::Proof(Proof::Basic { password, .. }) if password == "s3 cret")
        );
        assert!(!format!("{chosen:?}").contains("s3 cret"));
    }

    #[test]
    fn files_that_lack_or_are_broken_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lacking");
        let of = |file: &CredentialsFile, configured: Option<&HostCredentials>| {
            let nobody = Login::anonymous();
            Chooser::new(&nobody, file).choose(Candidate { seen: MIRROR, configured, path: "a" })
        };
        let named = |outcome: Result<Chosen, Error>| match outcome {
            Err(Error::RegistryConfig { path, .. }) => path,
            other => panic!("{other:?}"),
        };
        assert!(of(&CredentialsFile::IfThere(path.clone()), None).is_ok());
        assert_eq!(named(of(&CredentialsFile::Required(path.clone()), None)), path);
        assert!(file_problem(&CredentialsFile::Required(path.clone())).is_some());
        assert!(file_problem(&CredentialsFile::IfThere(path.clone())).is_none());
        let none = &CredentialsFile::None;
        assert_eq!(named(of(none, Some(&HostCredentials::File(path.clone())))), path);
        let password = HostCredentials::Password { username: "u".to_owned(), file: path.clone() };
        assert_eq!(named(of(none, Some(&password))), path);
        std::fs::write(&path, r#"{"auths":{"mirror.example:5000":{"auth":"***"}}}"#).unwrap();
        assert_eq!(named(of(&CredentialsFile::IfThere(path.clone()), None)), path);
    }

    #[test]
    fn identities_differ_where_the_source_does() {
        let helper = |name: &str, server: &str| {
            Chosen::helper_of(HelperCall { name: name.to_owned(), server: server.to_owned() }, "").identity
        };
        assert_ne!(helper("a", "b"), helper("a", "c"));
        assert_ne!(helper("a", "bc"), helper("ab", "c"));
        assert_eq!(Chosen::nobody("").identity(), Login::anonymous().identity());
    }
}
