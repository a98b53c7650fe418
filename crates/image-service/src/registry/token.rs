//! Answers to a registry's challenges: basic credentials, or a bearer token from the service that it names.
//!
//! | the registry wants | we have | what is done |
//! |---|---|---|
//! | Bearer | nothing | GET the realm, anonymously |
//! | Bearer | user and password | GET the realm with basic credentials |
//! | Bearer | an identity token | POST it to the realm (OAuth 2, `grant_type=refresh_token`) |
//! | Bearer | a registry token | it is sent as it is |
//! | Basic | user and password | they are sent |
//!
//! The forms are those of the distribution project ("Token Authentication Specification" and "OAuth2 Token
//! Authentication"). A token is kept for its life, per endpoint, repository and identity; several that want one at once
//! get one.
//! Not here: reading challenges (`challenge`), sending requests (`client`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use tokio::sync::OwnedMutexGuard;

use super::challenge::Challenge;
use crate::auth::Proof;
use crate::digest::Digest;
use crate::turns::Turns;

/// A token's life where the service doesn't say, in seconds (Token Authentication Specification, `expires_in`).
const DEFAULT_LIFE: u64 = 60;
/// A token isn't used in its last seconds: the request has a way to go.
const MARGIN: Duration = Duration::from_secs(5);
/// Longest time that anything is kept, so that a password that was changed doesn't live on in memory.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// Tokens kept; with more, the ones that expire first go.
const KEPT: usize = 256;

/// What tokens are known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Address of the endpoint.
    pub(crate) endpoint: String,
    pub(crate) repository: String,
    pub(crate) identity: Digest,
}

/// The tokens of the whole service.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<Key, Known>>,
    /// Who is fetching one at the moment: the others wait for it.
    turns: Turns<Key>,
}

#[derive(Debug)]
struct Known {
    authorization: HeaderValue,
    expires: Instant,
}

impl Tokens {
    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets those that are good no more: they needn't be in memory for longer than they are of use.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.known().retain(|_, known| known.expires > now);
    }

    /// Waits until nobody else fetches a token for this key. Safe to cancel.
    pub(crate) async fn turn(&self, key: &Key) -> OwnedMutexGuard<()> {
        self.turns.wait(key).await
    }

    /// The `Authorization` that worked before and is still good.
    pub(crate) fn get(&self, key: &Key) -> Option<HeaderValue> {
        let known = self.known();
        let found = known.get(key).filter(|known| known.expires > Instant::now())?;
        Some(found.authorization.clone())
    }

    /// Keeps an answer for its life.
    pub(crate) fn keep(&self, key: Key, answer: &Answered) {
        let life = answer.life.min(LONGEST_LIFE).saturating_sub(MARGIN);
        let now = Instant::now();
        let mut known = self.known();
        known.retain(|_, known| known.expires > now);
        if known.len() >= KEPT {
            let first = known.iter().min_by_key(|(_, known)| known.expires).map(|(key, _)| key.clone());
            first.map(|key| known.remove(&key));
        }
        known.insert(key, Known { authorization: answer.authorization.clone(), expires: now + life });
    }

    /// Forgets this answer, which the registry no longer takes; a newer one stays.
    pub(crate) fn forget(&self, key: &Key, refused: &HeaderValue) {
        let mut known = self.known();
        if known.get(key).is_some_and(|known| known.authorization == refused) {
            known.remove(key);
        }
    }
}

/// An answer to a challenge.
#[derive(Debug)]
pub(crate) struct Answered {
    /// Value of the `Authorization` header.
    pub(crate) authorization: HeaderValue,
    life: Duration,
}

/// What has to be done to answer.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing more.
    Done(Answered),
    /// Get a token with this request.
    Fetch(TokenRequest),
}

/// A request for a token.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    /// Address, with its query for a GET.
    pub(crate) url: Url,
    /// `Authorization` of a GET.
    pub(crate) authorization: Option<HeaderValue>,
    /// Body of a POST, `application/x-www-form-urlencoded`; without one it is a GET.
    pub(crate) form: Option<String>,
}

/// Who has to answer whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The endpoint's address.
    pub(crate) endpoint: &'a Url,
    /// The repository that is wanted.
    pub(crate) repository: &'a str,
}

/// How to answer `challenges`: `Ok(None)` if we have nothing to answer with.
///
/// # Errors
/// The reason why such a challenge isn't answered.
pub(crate) fn answer(
    challenges: &[Challenge],
    proof: Option<&Proof>,
    asked: Asked<'_>,
) -> Result<Option<Step>, &'static str> {
    let find = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
    if let Some(challenge) = find("bearer") {
        return bearer(challenge, proof, asked).map(Some);
    }
    if find("basic").is_some() {
        return match proof {
            Some(Proof::Basic { username, password }) => {
                let authorization = basic(username, password).ok_or("the credentials can't be sent")?;
                Ok(Some(Step::Done(Answered { authorization, life: LONGEST_LIFE })))
            }
            Some(_) | None => Ok(None),
        };
    }
    match challenges.is_empty() {
        true => Ok(None),
        false => Err("it is neither Bearer nor Basic"),
    }
}

fn bearer(challenge: &Challenge, proof: Option<&Proof>, asked: Asked<'_>) -> Result<Step, &'static str> {
    if let Some(Proof::RegistryToken(token)) = proof {
        let authorization =
            sensitive(&format!("Bearer {token}")).ok_or("the registry token can't be sent")?;
        return Ok(Step::Done(Answered { authorization, life: LONGEST_LIFE }));
    }
    let realm = challenge.get("realm").ok_or("it names no realm")?;
    let mut url: Url = realm.parse().map_err(|_| "its realm is not an address")?;
    let plain = url.scheme() == "http" && asked.endpoint.scheme() == "http";
    if url.scheme() != "https" && !plain {
        return Err("its realm is not reached by https as the registry is");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("its realm contains credentials");
    }
    let scope = match challenge.get("scope") {
        Some(scope) => scope.to_owned(),
        None => format!("repository:{}:pull", asked.repository),
    };
    let service = challenge.get("service");
    if let Some(Proof::IdentityToken(token)) = proof {
        let mut pairs =
            vec![("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "knarr")];
        pairs.push(("scope", &scope));
        pairs.extend(service.map(|service| ("service", service)));
        let form = form(&pairs);
        return Ok(Step::Fetch(TokenRequest { url, authorization: None, form: Some(form) }));
    }
    let mut authorization = None;
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(service.map(|service| ("service", service)));
        for scope in scope.split(' ').filter(|scope| !scope.is_empty()) {
            query.append_pair("scope", scope);
        }
        if let Some(Proof::Basic { username, password }) = proof {
            query.append_pair("account", username);
            authorization = Some(basic(username, password).ok_or("the credentials can't be sent")?);
        }
    }
    Ok(Step::Fetch(TokenRequest { url, authorization, form: None }))
}

/// What a token service answers.
#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Number>,
}

/// Reads a token service's answer; `None` if there is no usable token in it.
pub(crate) fn granted(body: &[u8]) -> Option<Answered> {
    let granted: Granted = serde_json::from_slice(body).ok()?;
    let token = granted.token.or(granted.access_token).filter(|token| !token.is_empty())?;
    let authorization = sensitive(&format!("Bearer {token}"))?;
    // Clients must allow for services that state less than a minute (Token Authentication Specification).
    let life = granted.expires_in.and_then(|n| n.as_u64()).unwrap_or(DEFAULT_LIFE).max(DEFAULT_LIFE);
    Some(Answered { authorization, life: Duration::from_secs(life) })
}

fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// A header that no log shows.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::challenge::parse;

    const BEARER: &str =
        r#"Bearer realm="https://auth.example/t?x=1",service="s v",scope="repository:a/b:pull""#;

    fn steps(header: &str, proof: Option<Proof>) -> Result<Option<Step>, &'static str> {
        let endpoint: Url = "https://r.example/v2".parse().unwrap();
        answer(&parse(header), proof.as_ref(), Asked { endpoint: &endpoint, repository: "a/b" })
    }

    fn fetch(header: &str, proof: Option<Proof>) -> TokenRequest {
        match steps(header, proof) {
            Ok(Some(Step::Fetch(request))) => request,
            other => panic!("{other:?}"),
        }
    }

    fn user() -> Option<Proof> {
        Some(Proof::Basic { username: "u".to_owned(), password: "p".to_owned() })
    }

    #[test]
    fn asks_the_realm_with_what_we_have() {
        let anonymous = fetch(BEARER, None);
        let expected = "https://auth.example/t?x=1&service=s+v&scope=repository%3Aa%2Fb%3Apull";
        assert_eq!(anonymous.url.as_str(), expected);
        assert!(anonymous.authorization.is_none() && anonymous.form.is_none());
        let known = fetch(BEARER, user());
        assert_eq!(known.url.as_str(), format!("{expected}&account=u"));
        assert_eq!(known.authorization.unwrap(), "Basic dTpw");
        let refreshed = fetch(BEARER, Some(Proof::IdentityToken("a&b".to_owned())));
        assert_eq!(refreshed.url.as_str(), "https://auth.example/t?x=1");
        let form = "grant_type=refresh_token&refresh_token=a%26b&client_id=knarr&scope=repository%3Aa%2Fb%3Apull&service=s+v";
        assert_eq!(refreshed.form.as_deref(), Some(form));
    }

    #[test]
    fn without_a_scope_it_asks_for_the_repository() {
        let request = fetch("Bearer realm=\"https://auth.example/t\"", None);
        assert_eq!(request.url.query(), Some("scope=repository%3Aa%2Fb%3Apull"));
    }

    #[test]
    fn does_without_a_request_where_it_can() {
        let done = |header, proof| match steps(header, Some(proof)) {
            Ok(Some(Step::Done(answered))) => answered.authorization.to_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(done("Basic realm=\"x\"", user().unwrap()), "Basic dTpw");
        assert_eq!(done(BEARER, Proof::RegistryToken("t".to_owned())), "Bearer t");
        assert!(matches!(steps("Basic realm=\"x\"", None), Ok(None)));
        assert!(matches!(steps("", user()), Ok(None)));
    }

    #[test]
    fn refuses_to_send_credentials_in_the_open() {
        assert!(steps("Bearer realm=\"http://auth.example/t\"", user()).is_err());
        assert!(steps("Bearer realm=\"ftp://auth.example/t\"", None).is_err());
        assert!(steps("Bearer realm=\"https://x:y@auth.example/t\"", None).is_err());
        assert!(steps("Bearer service=\"x\"", None).is_err());
        assert!(steps("Negotiate", user()).is_err());
    }

    #[test]
    fn reads_tokens_of_either_name() {
        for body in [
            r#"{"token":"t"}"#,
            r#"{"access_token":"t","expires_in":1}"#,
            r#"{"token":"t","expires_in":1.5}"#,
        ] {
            let answered = granted(body.as_bytes()).unwrap();
            assert_eq!(answered.authorization, "Bearer t");
            assert_eq!(answered.life, Duration::from_secs(60));
        }
        assert_eq!(granted(br#"{"token":"t","expires_in":300}"#).unwrap().life, Duration::from_secs(300));
        for body in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, "[]"] {
            assert!(granted(body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn keeps_tokens_apart_and_few() {
        let tokens = Tokens::default();
        let key = |n: usize| Key {
            endpoint: "https://r.example/v2".to_owned(),
            repository: format!("r{n}"),
            identity: Digest::of(b""),
        };
        let answered = granted(br#"{"token":"t","expires_in":300}"#).unwrap();
        for n in 0..KEPT + 10 {
            tokens.keep(key(n), &answered);
        }
        assert_eq!(tokens.known().len(), KEPT);
        assert!(tokens.get(&key(KEPT + 9)).is_some());
        tokens.forget(&key(KEPT + 9), &HeaderValue::from_static("Bearer another"));
        assert!(tokens.get(&key(KEPT + 9)).is_some());
        tokens.forget(&key(KEPT + 9), &answered.authorization);
        assert!(tokens.get(&key(KEPT + 9)).is_none());
        tokens.known().get_mut(&key(KEPT + 8)).unwrap().expires = Instant::now();
        tokens.sweep();
        assert_eq!(tokens.known().len(), KEPT - 2, "what is good no more is forgotten");
    }
}
