//! Credentials: those that come with a request, those of the node, and which hosts may see them.
//!
//! | module | what it is |
//! |---|---|
//! | `choice` | whose credentials an endpoint sees: **the** order, in a table |
//! | `docker_config` | files in the format of Docker's `config.json` |
//! | `helper` | programs that know credentials |
//!
//! Here: what a request brings.
//!
//! | what the request (or an entry of a file) has | what is used |
//! |---|---|
//! | `registry_token` | it is the bearer token |
//! | `identity_token`, or a user name `<token>` | exchanged for a bearer token by OAuth 2 |
//! | `username`, `password` | basic, or exchanged for a bearer token |
//! | `auth` | base64 of `username:password` |
//!
//! Not here: challenges and tokens (`registry::token`).

mod choice;
pub(crate) mod docker_config;
mod helper;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::digest::Digest;
use crate::error::Error;
use crate::reference::DOCKER_HUB;

pub use choice::CredentialSource;
pub(crate) use choice::{Candidate, Chooser, Chosen, HostCredentials};
pub(crate) use helper::Helpers;

/// Credentials as CRI's `AuthConfig` has them. Empty fields are absent ones.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password of that user.
    pub password: String,
    /// Base64 of `username:password`.
    pub auth: String,
    /// Host, or address, of the registry that they are for. Where it is empty, they are for every endpoint that the
    /// operator has configured for the image's registry.
    pub server_address: String,
    /// Token to be exchanged for a bearer token.
    pub identity_token: String,
    /// Bearer token for the registry.
    pub registry_token: String,
}

impl std::fmt::Debug for Credentials {
    /// Says nothing that is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// How we can prove who is asking.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Basic { username: String, password: String },
    IdentityToken(String),
    RegistryToken(String),
}

/// The one who asks for an image: nobody in particular, or somebody with a proof.
#[derive(Clone)]
pub(crate) struct Login {
    proof: Option<Proof>,
    /// Host that the proof is for; `None` is all.
    server: Option<String>,
    identity: Digest,
}

impl Login {
    /// Nobody in particular.
    pub(crate) fn anonymous() -> Login {
        Login { proof: None, server: None, identity: Digest::of(b"") }
    }

    /// Reads a request's credentials.
    ///
    /// # Errors
    /// [`Error::BadCredentials`] where `auth` isn't what it should be.
    pub(crate) fn new(credentials: &Credentials) -> Result<Login, Error> {
        let Some(proof) = proof(credentials)? else { return Ok(Login::anonymous()) };
        let server = match credentials.server_address.trim() {
            "" => None,
            address => Some(host_of(address)),
        };
        let identity = identity(&proof, server.as_deref());
        Ok(Login { proof: Some(proof), server, identity })
    }

    /// A digest that tells one who asks from another, without giving away the secret.
    pub(crate) fn identity(&self) -> &Digest {
        &self.identity
    }

    /// Whether there is a proof at all.
    pub(crate) fn has_proof(&self) -> bool {
        self.proof.is_some()
    }

    /// The proof, if the endpoint may see it, and how that was found out.
    pub(crate) fn for_endpoint(&self, endpoint: Seen<'_>) -> Option<(&Proof, Fit)> {
        let proof = self.proof.as_ref()?;
        let Some(server) = &self.server else { return Some((proof, Fit::Anywhere)) };
        let named = match endpoint {
            Seen::Registry { name, host } => *server == host_of(name) || *server == host_of(host),
            Seen::Mirror { host } => *server == host_of(host),
        };
        named.then_some((proof, Fit::Named))
    }
}

/// Why a proof may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The request names this endpoint.
    Named,
    /// The request names none.
    Anywhere,
}

/// Who would see a proof.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen<'a> {
    /// The registry `name`, reached at `host`.
    Registry { name: &'a str, host: &'a str },
    /// A mirror of it.
    Mirror { host: &'a str },
}

fn proof(credentials: &Credentials) -> Result<Option<Proof>, Error> {
    let Credentials { username, password, auth, identity_token, registry_token, .. } = credentials;
    if !registry_token.is_empty() {
        return Ok(Some(Proof::RegistryToken(registry_token.clone())));
    }
    if !identity_token.is_empty() {
        return Ok(Some(Proof::IdentityToken(identity_token.clone())));
    }
    let (username, password) = match (username.is_empty() && password.is_empty(), auth.is_empty()) {
        (false, _) => (username.clone(), password.clone()),
        (true, false) => decode(auth)?,
        (true, true) => return Ok(None),
    };
    // What credential helpers answer when the password is an identity token.
    if username == "<token>" {
        return Ok(Some(Proof::IdentityToken(password)));
    }
    Ok(Some(Proof::Basic { username, password }))
}

/// Reads base64 of `username:password`, with or without padding; some tools pad with NUL bytes inside, too.
fn decode(auth: &str) -> Result<(String, String), Error> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const ENGINE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
    let bad = |reason| Error::BadCredentials { reason };
    let bytes = ENGINE.decode(auth.trim()).map_err(|_| bad("auth is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("auth is not base64 of a text"))?;
    let (username, password) =
        text.split_once(':').ok_or(bad("auth is not base64 of a user name, a colon and a password"))?;
    Ok((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

fn identity(proof: &Proof, server: Option<&str>) -> Digest {
    let parts = match proof {
        Proof::Basic { username, password } => ["basic", username, password],
        Proof::IdentityToken(token) => ["identity", token, ""],
        Proof::RegistryToken(token) => ["registry", token, ""],
    };
    let mut text = String::new();
    for part in parts.into_iter().chain(server) {
        // The length keeps parts apart whatever they contain.
        text.push_str(&format!("{}:{part}", part.len()));
    }
    Digest::of(text.as_bytes())
}

/// The host and port of an address that may have a scheme and a path; the names of Docker Hub are one.
fn host_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials { username: username.to_owned(), password: password.to_owned(), ..Credentials::default() }
    }

    fn anywhere(login: &Login) -> Option<(String, String)> {
        match login.for_endpoint(Seen::Mirror { host: "m.example" })?.0 {
            Proof::Basic { username, password } => Some((username.clone(), password.clone())),
            _ => None,
        }
    }

    #[test]
    fn auth_is_user_and_password_in_base64() {
        for auth in ["dXNlcjpwYTpzcw==", "dXNlcjpwYTpzcw", "dXNlcjpwYTpzcwAA", " dXNlcjpwYTpzcw==\n"] {
            let login = Login::new(&Credentials { auth: auth.to_owned(), ..Credentials::default() }).unwrap();
            assert_eq!(anywhere(&login), Some(("user".to_owned(), "pa:ss".to_owned())), "{auth:?}");
        }
        for auth in ["dXNlcg==", "***", "/w=="] {
            let refused = Login::new(&Credentials { auth: auth.to_owned(), ..Credentials::default() });
            assert!(matches!(refused, Err(Error::BadCredentials { .. })), "{auth:?}");
        }
    }

    #[test]
    fn nothing_given_is_nobody() {
        let login = Login::new(&Credentials::default()).unwrap();
        assert_eq!(login.identity(), Login::anonymous().identity());
        assert!(anywhere(&login).is_none());
    }

    #[test]
    fn identities_differ_where_the_secret_does() {
        let of = |c: &Credentials| Login::new(c).unwrap().identity().clone();
        assert_eq!(of(&basic("a", "b")), of(&basic("a", "b")));
        assert_ne!(of(&basic("a", "b")), of(&basic("a", "c")));
        assert_ne!(of(&basic("a", "bc")), of(&basic("ab", "c")));
        let elsewhere = Credentials { server_address: "x".to_owned(), ..basic("a", "b") };
        assert_ne!(of(&basic("a", "b")), of(&elsewhere));
    }

    #[test]
    fn a_named_server_keeps_others_from_seeing_them() {
        let with = |server: &str| {
            Login::new(&Credentials { server_address: server.to_owned(), ..basic("a", "b") }).unwrap()
        };
        let hub = Seen::Registry { name: "docker.io", host: "registry-1.docker.io" };
        let mirror = Seen::Mirror { host: "mirror.example:5000" };
        for server in ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"] {
            assert!(with(server).for_endpoint(hub).is_some(), "{server}");
            assert!(with(server).for_endpoint(mirror).is_none(), "{server}");
        }
        assert!(with("mirror.example:5000").for_endpoint(mirror).is_some());
        assert!(with("mirror.example:5000").for_endpoint(hub).is_none());
        assert!(with("").for_endpoint(hub).is_some());
    }

    #[test]
    fn debug_output_has_no_secret() {
        let all = Credentials {
            username: "user".to_owned(),
            password: "s3cret".to_owned(),
            auth: "s3cret".to_owned(),
            server_address: "h".to_owned(),
            identity_token: "s3cret".to_owned(),
            registry_token: "s3cret".to_owned(),
        };
        assert!(!format!("{all:?}").contains("s3cret"));
    }
}
