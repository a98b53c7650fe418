//! One request to one endpoint: authorization, redirects, time limits, and errors that name what was asked for.
//!
//! ```text
//! GET ─► 2xx ─────────────────────────► body
//!   ├──► 401 ─► answer the challenge ─► GET once more; several that are asked at once share the answer
//!   ├──► 3xx ─► GET there; another host sees no Authorization and none of the endpoint's own headers
//!   └──► else ► Error::Answer, with the registry's words
//! ```
//!
//! Not here: what an answer has in it (`answer`); which endpoint is asked, and how often (`rounds`).

use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::answer::{Body, Reply, shown};
use super::challenge::Challenge;
use super::endpoint::Endpoint;
use super::token::{self, Answered, Asked, Key, Step, TokenRequest, Tokens};
use super::trace::Trace;
use crate::auth::Helpers;
use crate::error::{Error, ErrorKind, chain};

/// Redirects followed for one request. Registries need one, some storage two.
const HOPS: usize = 8;
/// Bytes of a token service's answer: tokens with many scopes have some kilobytes, and 256 of them are kept.
const TOKEN_BYTES: u64 = 64 << 10;

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
    /// `GET` for the content, `HEAD` for what is said about it.
    pub(crate) method: Method,
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
    pub(crate) repository: &'a str,
    pub(crate) tokens: &'a Tokens,
    pub(crate) helpers: &'a Helpers,
    /// Longest wait for the next byte.
    pub(crate) stall: Duration,
    /// Where requests are noted, if anybody wants to know.
    pub(crate) trace: Option<&'a Trace>,
}

impl Asker<'_> {
    /// Asks `endpoint`. The answer is a success; its body hasn't been read. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Request`], [`Error::Stalled`], [`Error::Answer`], [`Error::Redirect`], [`Error::Challenge`],
    /// [`Error::Denied`], [`Error::Client`], [`Error::RegistryConfig`], [`Error::CredentialHelper`],
    /// [`Error::HelperTimedOut`].
    pub(crate) async fn get(&self, endpoint: &Endpoint, get: &Get) -> Result<Body, Error> {
        let begun = Instant::now();
        let key = Key {
            endpoint: endpoint.settings.base.to_string(),
            repository: self.repository.to_owned(),
            identity: endpoint.chosen.identity().clone(),
        };
        let known = self.tokens.get(&key);
        let first = self.follow(endpoint, get, known.as_ref()).await?;
        let Some(challenges) = first.challenges(endpoint) else { return self.body(endpoint, first).await };
        let challenged = Challenged { key, challenges, url: first.url.clone(), refused: known };
        let refusal = match self.body(endpoint, first).await {
            Ok(body) => return Ok(body),
            Err(refusal) => refusal,
        };
        let mut outcome = self.answered(endpoint, get, &challenged).await;
        let stale = |call| self.helpers.forget(call, begun);
        if is_unauthorized(&outcome) && endpoint.chosen.helper().is_some_and(stale) {
            // What the helper said a while ago is no longer good; by now it may have better.
            outcome = self.answered(endpoint, get, &challenged).await;
        }
        outcome?.ok_or(refusal)
    }

    /// Asks again, with an answer to a challenge; nothing if there is none.
    async fn answered(
        &self,
        endpoint: &Endpoint,
        get: &Get,
        challenged: &Challenged,
    ) -> Result<Option<Body>, Error> {
        let authorization = self.authorization(endpoint, challenged).await;
        let Some(authorization) = authorization.map_err(|cause| denied(endpoint, cause))? else {
            return Ok(None);
        };
        let reply = self.follow(endpoint, get, Some(&authorization)).await?;
        if reply.response.status() == StatusCode::UNAUTHORIZED && endpoint.is_origin_of(&reply.url) {
            self.tokens.forget(&challenged.key, &authorization);
        }
        self.body(endpoint, reply).await.map(Some)
    }

    /// The body of a success; a refusal by the endpoint itself says whom it refuses.
    async fn body(&self, endpoint: &Endpoint, reply: Reply) -> Result<Body, Error> {
        let is_own = endpoint.is_origin_of(&reply.url);
        let body = reply.into_body(self.stall).await;
        body.map_err(|cause| if is_own { denied(endpoint, cause) } else { cause })
    }

    /// What answers the challenge: what somebody else was given meanwhile, or our own.
    async fn authorization(
        &self,
        endpoint: &Endpoint,
        challenged: &Challenged,
    ) -> Result<Option<HeaderValue>, Error> {
        let key = &challenged.key;
        let _turn = self.tokens.turn(key).await;
        if let Some(known) = self.tokens.get(key).filter(|known| challenged.refused.as_ref() != Some(known)) {
            return Ok(Some(known));
        }
        let Some(answered) = self.answer(endpoint, challenged).await? else { return Ok(None) };
        self.tokens.keep(key.clone(), &answered);
        Ok(Some(answered.authorization))
    }

    /// Sends the request, and again if it is found out that it must be sent without TLS.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        get: &Get,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, Error> {
        match self.follow_as_it_is(endpoint, get, authorization).await {
            Err(error) if endpoint.found_plain(&error) => {
                tracing::info!(endpoint = %endpoint.host, "an endpoint with settings of TLS has none");
                self.follow_as_it_is(endpoint, get, authorization).await
            }
            outcome => outcome,
        }
    }

    /// Sends the request, and again where it is redirected.
    async fn follow_as_it_is(
        &self,
        endpoint: &Endpoint,
        get: &Get,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, Error> {
        let mut url = endpoint.url(&get.path);
        // Once we were sent elsewhere, nothing of ours goes along any more, not even if that leads back: it isn't us who
        // choose the address then.
        let mut at_home = true;
        for _ in 0..=HOPS {
            at_home = at_home && endpoint.is_origin_of(&url);
            let mut headers = HeaderMap::new();
            if at_home {
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
            let client = endpoint.client_for(&url)?;
            let request = client.request(get.method.clone(), url.clone()).headers(headers);
            let response = self.send(request, (&get.method, &url)).await?;
            match redirect(&response, &url) {
                None => return Ok(Reply { response, url }),
                Some(target) => url = checked(target, &url, get.proof)?,
            }
        }
        Err(Error::Redirect { url: shown(&endpoint.url(&get.path)), reason: "there are too many" })
    }

    async fn send(&self, request: RequestBuilder, (method, url): (&Method, &Url)) -> Result<Response, Error> {
        let begun = Instant::now();
        let outcome = match tokio::time::timeout(self.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(cause)) => Err(Error::Request { url: shown(url), cause: cause.into() }),
            Err(_) => Err(Error::Stalled { url: shown(url), waited: self.stall }),
        };
        if let Some(trace) = self.trace {
            let status = outcome.as_ref().map(|response| response.status().as_u16()).map_err(|e| chain(e));
            trace.add((method.as_str(), &shown(url)), begun, status);
        }
        outcome
    }

    /// Answers a challenge; nothing if we have nothing to answer with.
    async fn answer(&self, endpoint: &Endpoint, challenged: &Challenged) -> Result<Option<Answered>, Error> {
        let proof = endpoint.chosen.proof(self.helpers).await?;
        let asked = Asked { endpoint: endpoint.base(), repository: self.repository };
        let step = token::answer(&challenged.challenges, proof.as_ref(), asked)
            .map_err(|reason| Error::Challenge { url: shown(&challenged.url), reason })?;
        match step {
            None => Ok(None),
            Some(Step::Done(answered)) => Ok(Some(answered)),
            Some(Step::Fetch(request)) => self.fetch_token(endpoint, request).await.map(Some),
        }
    }

    async fn fetch_token(&self, endpoint: &Endpoint, token: TokenRequest) -> Result<Answered, Error> {
        let url = token.url;
        let client = endpoint.client_for(&url)?;
        let exchanging = token.form.is_some();
        let (method, mut request) = match token.form {
            Some(form) => {
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                (Method::POST, client.post(url.clone()).header(CONTENT_TYPE, kind).body(form))
            }
            None => (Method::GET, client.get(url.clone())),
        };
        if endpoint.is_origin_of(&url) {
            request = request.headers(endpoint.settings.headers.clone());
        }
        if let Some(authorization) = token.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = self.send(request, (&method, &url)).await?;
        // A refresh token that isn't known is answered so (RFC 6749 section 5.2).
        let is_refusal = exchanging && response.status() == StatusCode::BAD_REQUEST;
        let reply = Reply { response, url: url.clone() };
        let body = match reply.into_body(self.stall).await {
            Err(Error::Answer { url, detail, retry_after, .. }) if is_refusal => {
                return Err(Error::Answer { url, status: StatusCode::UNAUTHORIZED, detail, retry_after });
            }
            body => body?.whole(TOKEN_BYTES).await?,
        };
        token::granted(&body)
            .ok_or_else(|| Error::Challenge { url: shown(&url), reason: "its answer has no usable token" })
    }
}

/// What an endpoint wanted to know before it answers.
struct Challenged {
    /// What an answer is known by.
    key: Key,
    challenges: Vec<Challenge>,
    /// Who wanted to know.
    url: Url,
    /// What we said without being asked, in vain.
    refused: Option<HeaderValue>,
}

fn is_unauthorized(outcome: &Result<Option<Body>, Error>) -> bool {
    let Err(Error::Denied { cause, .. }) = outcome else { return false };
    matches!(**cause, Error::Answer { status: StatusCode::UNAUTHORIZED, .. })
}

/// Tells whose credentials weren't enough.
fn denied(endpoint: &Endpoint, cause: Error) -> Error {
    match cause.kind() {
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => {
            let mut with = endpoint.chosen.source.to_string();
            if let Some(username) = endpoint.chosen.username().filter(|name| !name.is_empty()) {
                with.push_str(&format!(" (user \"{}\")", username.escape_debug()));
            }
            Error::Denied { with, cause: Box::new(cause) }
        }
        _ => cause,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
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
}
