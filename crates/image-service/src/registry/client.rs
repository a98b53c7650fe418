//! One request to one endpoint: authorization, redirects, time limits, and errors that name what was asked for.
//!
//! ```text
//! GET ─► 2xx ─────────────────────────► body
//!   ├──► 401 ─► answer the challenge ─► GET once more
//!   ├──► 3xx ─► GET there; another host sees no Authorization and none of the endpoint's own headers
//!   └──► else ► Error::Answer, with the registry's words
//! ```
//!
//! Not here: which endpoint is asked, and how often (`rounds`).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{RequestBuilder, Response, StatusCode, Url};

use super::challenge::{self, Challenge};
use super::endpoint::Endpoint;
use super::token::{self, Answered, Asked, Key, Step, TokenRequest, Tokens};
use crate::auth::Login;
use crate::error::Error;

/// Redirects followed for one request. Registries need one, some storage two.
const HOPS: usize = 8;
/// Bytes of a token service's answer: tokens with many scopes have some kilobytes.
const TOKEN_BYTES: u64 = 1 << 20;
/// Bytes of an error's body that are read.
const DETAIL_BYTES: usize = 8 << 10;
/// Characters of a registry's own words that go into an error.
const DETAIL_CHARS: usize = 300;
/// Longest wait for the words of an error.
const DETAIL_WAIT: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Get {
    /// Path below the API's base, such as `library/busybox/manifests/latest`.
    pub(crate) path: String,
    /// `Accept`, if the kind of content matters.
    pub(crate) accept: Option<&'static str>,
    /// First byte wanted.
    pub(crate) offset: u64,
    /// What proves that it is the right content.
    pub(crate) proof: ContentProof,
}

/// What proves that content is the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentProof {
    /// Its digest: it may come over any way.
    Digest,
    /// Only the way it comes: it isn't taken from a redirect out of HTTPS.
    Transport,
}

/// Who asks, and for which repository.
pub(crate) struct Asker<'a> {
    pub(crate) login: &'a Login,
    pub(crate) repository: &'a str,
    pub(crate) tokens: &'a Tokens,
    /// Longest wait for the next byte.
    pub(crate) stall: Duration,
}

impl Asker<'_> {
    /// Asks `endpoint`. The answer is a success; its body hasn't been read. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Request`], [`Error::Stalled`], [`Error::Answer`], [`Error::Redirect`], [`Error::Challenge`],
    /// [`Error::Client`], [`Error::RegistryConfig`].
    pub(crate) async fn get(&self, endpoint: &Endpoint, get: &Get) -> Result<Body, Error> {
        let key = Key {
            endpoint: endpoint.settings.base.to_string(),
            repository: self.repository.to_owned(),
            identity: self.login.identity().clone(),
        };
        let known = self.tokens.get(&key);
        let first = self.follow(endpoint, get, known.as_ref()).await?;
        let Some(challenges) = first.challenges(endpoint) else { return first.into_body(self.stall).await };
        self.tokens.forget(&key);
        let Some(answered) = self.answer(endpoint, &challenges, &first).await? else {
            return first.into_body(self.stall).await;
        };
        drop(first);
        let second = self.follow(endpoint, get, Some(&answered.authorization)).await?;
        if second.response.status() != StatusCode::UNAUTHORIZED {
            self.tokens.keep(key, &answered);
        }
        second.into_body(self.stall).await
    }

    /// Sends the request, and again where it is redirected.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        get: &Get,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, Error> {
        let mut url = endpoint.url(&get.path);
        for _ in 0..=HOPS {
            let mut headers = HeaderMap::new();
            if endpoint.is_origin_of(&url) {
                headers.extend(endpoint.settings.headers.clone());
                if let Some(value) = authorization {
                    headers.insert(AUTHORIZATION, value.clone());
                }
            }
            if let Some(accept) = get.accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            if get.offset > 0 {
                let range = HeaderValue::try_from(format!("bytes={}-", get.offset));
                range.map(|range| headers.insert(RANGE, range)).ok();
            }
            let request = endpoint.client_for(&url)?.get(url.clone()).headers(headers);
            let response = self.send(request, &url).await?;
            match redirect(&response, &url) {
                None => return Ok(Reply { response, url }),
                Some(target) => url = checked(target, &url, get.proof)?,
            }
        }
        Err(Error::Redirect { url: shown(&endpoint.url(&get.path)), reason: "there are too many" })
    }

    async fn send(&self, request: RequestBuilder, url: &Url) -> Result<Response, Error> {
        match tokio::time::timeout(self.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(cause)) => Err(Error::Request { url: shown(url), cause: cause.into() }),
            Err(_) => Err(Error::Stalled { url: shown(url), waited: self.stall }),
        }
    }

    /// Answers a challenge; nothing if we have nothing to answer with.
    async fn answer(
        &self,
        endpoint: &Endpoint,
        challenges: &[Challenge],
        reply: &Reply,
    ) -> Result<Option<Answered>, Error> {
        let proof = self.login.proof_for(endpoint.seen());
        let asked = Asked { endpoint: &endpoint.settings.base, repository: self.repository };
        let step = token::answer(challenges, proof, asked)
            .map_err(|reason| Error::Challenge { url: shown(&reply.url), reason })?;
        match step {
            None => Ok(None),
            Some(Step::Done(answered)) => Ok(Some(answered)),
            Some(Step::Fetch(request)) => self.fetch_token(endpoint, request).await.map(Some),
        }
    }

    async fn fetch_token(&self, endpoint: &Endpoint, token: TokenRequest) -> Result<Answered, Error> {
        let url = token.url;
        let client = endpoint.client_for(&url)?;
        let mut request = match token.form {
            Some(form) => {
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                client.post(url.clone()).header(CONTENT_TYPE, kind).body(form)
            }
            None => client.get(url.clone()),
        };
        if let Some(authorization) = token.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = self.send(request, &url).await?;
        let reply = Reply { response, url: url.clone() };
        let body = reply.into_body(self.stall).await?.whole(TOKEN_BYTES).await?;
        token::granted(&body)
            .ok_or_else(|| Error::Challenge { url: shown(&url), reason: "its answer has no usable token" })
    }
}

/// An answer of whatever status.
struct Reply {
    response: Response,
    /// Where it came from in the end.
    url: Url,
}

impl Reply {
    /// The challenges of a 401, if it comes from the endpoint and not from where it sent us.
    fn challenges(&self, endpoint: &Endpoint) -> Option<Vec<Challenge>> {
        if self.response.status() != StatusCode::UNAUTHORIZED || !endpoint.is_origin_of(&self.url) {
            return None;
        }
        let headers = self.response.headers().get_all(WWW_AUTHENTICATE);
        Some(headers.iter().filter_map(|h| h.to_str().ok()).flat_map(challenge::parse).collect())
    }

    /// The body of a success, or the error that another status is.
    async fn into_body(self, stall: Duration) -> Result<Body, Error> {
        let Reply { response, url } = self;
        let url = shown(&url);
        let status = response.status();
        if status.is_success() {
            return Ok(Body { response, url, stall, received: 0 });
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let detail = tokio::time::timeout(DETAIL_WAIT, detail(response)).await.ok().flatten();
        let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
        Err(Error::Answer { url, status, detail, retry_after })
    }
}

/// The content of an answer.
#[derive(Debug)]
pub(crate) struct Body {
    response: Response,
    /// As errors show it.
    pub(crate) url: String,
    stall: Duration,
    received: u64,
}

impl Body {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The next bytes; nothing at the end. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Request`] when the connection breaks, [`Error::Stalled`] when nothing comes.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(self.stall, self.response.chunk()).await {
            Ok(Ok(chunk)) => {
                self.received += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                Ok(chunk)
            }
            Ok(Err(cause)) => Err(Error::Request { url: self.url.clone(), cause: cause.into() }),
            Err(_) => Err(Error::Stalled { url: self.url.clone(), waited: self.stall }),
        }
    }

    /// All of it, up to `limit` bytes. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::TooLarge`], and those of [`Body::chunk`].
    pub(crate) async fn whole(mut self, limit: u64) -> Result<Vec<u8>, Error> {
        let too_large = |url: &str| Error::TooLarge { url: url.to_owned(), limit };
        if self.response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(&self.url));
        }
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if self.received > limit {
                return Err(too_large(&self.url));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

/// Where an answer sends us, if it does.
fn redirect(response: &Response, url: &Url) -> Option<Result<Url, &'static str>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?;
    let target = location.to_str().ok().and_then(|text| url.join(text).ok());
    Some(target.ok_or("it is not an address"))
}

fn checked(target: Result<Url, &'static str>, from: &Url, proof: ContentProof) -> Result<Url, Error> {
    let refused = |reason| Error::Redirect { url: shown(from), reason };
    let mut target = target.map_err(refused)?;
    match (from.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") if proof == ContentProof::Digest => {}
        ("https", "http") => return Err(refused("it leads out of https")),
        _ => return Err(refused("it leads to neither http nor https")),
    }
    // Credentials in an address would be sent as basic ones.
    if !target.username().is_empty() || target.password().is_some() {
        return Err(refused("it contains credentials"));
    }
    target.set_fragment(None);
    Ok(target)
}

/// An address as errors show it: queries are long, and those of storage services are keys.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A registry's own words about a failure.
async fn detail(mut response: Response) -> Option<String> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(DETAIL_BYTES - body.len())]);
        if body.len() == DETAIL_BYTES {
            break;
        }
    }
    words(&body)
}

/// Reads an error's body: the specification's JSON, a token service's, or short plain text. Pages are left out.
fn words(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Failures {
        errors: Option<Vec<Failure>>,
        details: Option<String>,
        error_description: Option<String>,
        error: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Failure {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Failures>(body) {
        Ok(Failures { errors: Some(errors), .. }) if !errors.is_empty() => {
            let one =
                |e: Failure| [e.code, e.message].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>();
            errors.into_iter().map(|e| one(e).join(": ")).collect::<Vec<_>>().join("; ")
        }
        Ok(Failures { details, error_description, error, .. }) => details.or(error_description).or(error)?,
        Err(_) => {
            String::from_utf8(body.to_owned()).ok().filter(|text| !text.trim_start().starts_with('<'))?
        }
    };
    let text: String = text.trim().chars().take(DETAIL_CHARS).filter(|c| !c.is_control()).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn errors_have_the_registry_s_words() {
        let spec =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"x":1}}]}"#;
        assert_eq!(words(spec).unwrap(), "MANIFEST_UNKNOWN: manifest unknown");
        assert_eq!(
            words(br#"{"details":"incorrect username or password"}"#).unwrap(),
            "incorrect username or password"
        );
        assert_eq!(words(b" slow\ndown ").unwrap(), "slowdown");
        assert_eq!(words(b"<html>no</html>"), None);
        assert_eq!(words(b""), None);
        assert_eq!(words(b"{}"), None);
        assert_eq!(words("é".repeat(4000).as_bytes()).unwrap().chars().count(), DETAIL_CHARS);
    }

    #[test]
    fn errors_show_no_keys_of_addresses() {
        assert_eq!(shown(&url("https://u:p@h.example:1/a?X-Amz-Signature=s#f")), "https://h.example:1/a");
    }

    #[test]
    fn redirects_keep_to_https_unless_a_digest_proves_the_content() {
        let go = |from: &str, to: &str, proof| checked(Ok(url(to)), &url(from), proof);
        for proof in [ContentProof::Digest, ContentProof::Transport] {
            assert!(go("https://a/", "https://b/", proof).is_ok());
            assert!(go("http://a/", "http://b/", proof).is_ok());
            assert!(go("http://a/", "https://b/", proof).is_ok());
            assert!(go("https://a/", "file:///etc/shadow", proof).is_err());
            assert!(go("https://a/", "https://u:p@b/", proof).is_err());
        }
        assert!(go("https://a/", "http://b/", ContentProof::Digest).is_ok());
        assert!(go("https://a/", "http://b/", ContentProof::Transport).is_err());
    }

    #[test]
    fn waits_are_seconds_or_dates() {
        let of = |text: &'static str| retry_after(&HeaderValue::from_static(text));
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert!(of("Fri, 31 Dec 9999 23:59:59 GMT").unwrap() > Duration::from_secs(1 << 30));
        assert_eq!(of("soon"), None);
    }
}
