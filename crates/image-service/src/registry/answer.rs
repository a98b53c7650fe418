//! An answer to one request: its challenges, its body with bounds, and the error that it is if it is no success.
//!
//! Not here: asking (`client`).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};

use super::challenge::{self, Challenge};
use super::endpoint::Endpoint;
use crate::error::Error;

/// Characters of an address that go into an error: a redirect may have any.
const ADDRESS_CHARS: usize = 500;
/// Bytes of an error's body that are read.
const DETAIL_BYTES: usize = 8 << 10;
/// Characters of a registry's own words that go into an error.
const DETAIL_CHARS: usize = 300;
/// Longest wait for the words of an error.
const DETAIL_WAIT: Duration = Duration::from_secs(2);

/// An answer of whatever status.
pub(super) struct Reply {
    pub(super) response: Response,
    /// Where it came from in the end.
    pub(super) url: Url,
}

impl Reply {
    /// The challenges of a 401, if it comes from the endpoint and not from where it sent us.
    pub(super) fn challenges(&self, endpoint: &Endpoint) -> Option<Vec<Challenge>> {
        if self.response.status() != StatusCode::UNAUTHORIZED || !endpoint.is_origin_of(&self.url) {
            return None;
        }
        let headers = self.response.headers().get_all(WWW_AUTHENTICATE);
        Some(headers.iter().filter_map(|h| h.to_str().ok()).flat_map(challenge::parse).collect())
    }

    /// The body of a success, or the error that another status is.
    pub(super) async fn into_body(self, stall: Duration) -> Result<Body, Error> {
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

/// An address as errors show it: queries are long, and those of storage services are keys.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let text = url.to_string();
    match text.char_indices().nth(ADDRESS_CHARS) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
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
        assert_eq!(
            shown(&"https://u:p@h.example:1/a?X-Amz-Signature=s#f".parse().unwrap()),
            "https://h.example:1/a"
        );
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
