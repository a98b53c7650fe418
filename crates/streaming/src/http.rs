//! What a client asks for, from path and headers: a token, and the protocol to upgrade to. Pure, but for the answers' bodies.
//!
//! | asked | answer |
//! |---|---|
//! | another path, a token that isn't known | 404 |
//! | another method than GET and POST (WebSocket: GET) | 405 |
//! | no upgrade, or none that is known; no `X-Stream-Protocol-Version`; a body; a bad key | 400 |
//! | no version or sub-protocol in common | 403, with ours in `X-Accepted-Stream-Protocol-Versions` |
//! | WebSocket of another version than 13 | 426 |
//! | too many connections | 503 |
//!
//! As peers answer (`k8s.io/streaming`, `httpstream.Handshake`; cri-streaming, `server.go`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::backend::Request;
use crate::remote_command::{SPDY_VERSIONS, Version};
use crate::websocket::{Coding, FORWARD_PROTOCOLS, Protocol, REMOTE_PROTOCOLS};

/// What is sent back.
pub(crate) type Answer = Response<Full<Bytes>>;

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

const SPDY: &str = "SPDY/3.1";

/// What SPDY clients name when they forward ports.
const FORWARD_VERSION: &str = "portforward.k8s.io";

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `/exec/<token>`
    Exec,
    /// `/attach/<token>`
    Attach,
    /// `/portforward/<token>`
    PortForward,
}

/// What a connection becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// Remote command over SPDY.
    Spdy(Version),
    /// Ports over SPDY.
    SpdyForward,
    /// Remote command over WebSocket.
    WebSocket(Version, Coding),
    /// Ports over WebSocket channels.
    WebSocketForward(Coding),
    /// Ports over SPDY over WebSocket.
    Tunnel,
}

impl Kind {
    /// The kind and the token of a path.
    pub(crate) fn of_path(path: &str) -> Option<(Self, &str)> {
        let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
        let kind = match kind {
            "exec" => Self::Exec,
            "attach" => Self::Attach,
            "portforward" => Self::PortForward,
            _ => return None,
        };
        Some((kind, token))
    }

    /// The part of a path before the token.
    pub(crate) fn of(request: &Request) -> &'static str {
        match request {
            Request::Exec(_) => "exec",
            Request::Attach(_) => "attach",
            Request::PortForward { .. } => "portforward",
        }
    }

    /// Tells requests of this kind from others.
    pub(crate) fn test(self) -> fn(&Request) -> bool {
        match self {
            Self::Exec => |request| matches!(request, Request::Exec(_)),
            Self::Attach => |request| matches!(request, Request::Attach(_)),
            Self::PortForward => |request| matches!(request, Request::PortForward { .. }),
        }
    }
}

/// Finds the protocol, and the answer that begins it.
///
/// # Errors
/// The answer that says what is wrong.
pub(crate) fn negotiate<B: Body>(
    kind: Kind,
    request: &hyper::Request<B>,
) -> Result<(Upgrade, Answer), Box<Answer>> {
    let headers = request.headers();
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(Box::new(not_allowed("GET, POST")));
    }
    if !request.body().is_end_stream() {
        return Err(refusal(StatusCode::BAD_REQUEST, "a request for streams has no body"));
    }
    let wanted = words(headers, &header::UPGRADE);
    if !words(headers, &header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(refusal(StatusCode::BAD_REQUEST, "streams need an upgrade to SPDY/3.1 or websocket"));
    }
    for word in wanted {
        if word.eq_ignore_ascii_case("websocket") {
            return websocket(kind, request.method(), headers);
        }
        if word.eq_ignore_ascii_case(SPDY) {
            return spdy(kind, headers);
        }
    }
    Err(refusal(StatusCode::BAD_REQUEST, "streams need an upgrade to SPDY/3.1 or websocket"))
}

fn spdy(kind: Kind, headers: &HeaderMap) -> Result<(Upgrade, Answer), Box<Answer>> {
    let offered: Vec<&str> = words(headers, &PROTOCOL_VERSION).collect();
    if offered.is_empty() {
        return Err(refusal(StatusCode::BAD_REQUEST, "the header X-Stream-Protocol-Version is missing"));
    }
    let forward = [(FORWARD_VERSION, Upgrade::SpdyForward)];
    let remote = SPDY_VERSIONS.map(|(name, version)| (name, Upgrade::Spdy(version)));
    let ours: &[(&str, Upgrade)] = if kind == Kind::PortForward { &forward } else { &remote };
    let (name, upgrade) = choose(&offered, ours)?;
    let answer = switching(SPDY, [(PROTOCOL_VERSION, name)]);
    Ok((upgrade, answer))
}

fn websocket(kind: Kind, method: &Method, headers: &HeaderMap) -> Result<(Upgrade, Answer), Box<Answer>> {
    if *method != Method::GET {
        return Err(Box::new(not_allowed("GET")));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut answer = refusal(StatusCode::UPGRADE_REQUIRED, "WebSocket is spoken in version 13");
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(answer);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    // RFC 6455, 4.2.1: 16 bytes in base64.
    let key = key.filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16));
    let key = key.ok_or_else(|| {
        refusal(StatusCode::BAD_REQUEST, "the header Sec-WebSocket-Key is missing or wrong")
    })?;
    let accept = derive_accept_key(key);
    let mut offered: Vec<&str> = words(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        offered.push("");
    }
    let ours: &[(&str, Protocol)] =
        if kind == Kind::PortForward { &FORWARD_PROTOCOLS } else { &REMOTE_PROTOCOLS };
    let (name, protocol) = choose(&offered, ours)?;
    let named = Some((header::SEC_WEBSOCKET_PROTOCOL, name)).filter(|_| !name.is_empty());
    let answer =
        switching("websocket", named.into_iter().chain([(header::SEC_WEBSOCKET_ACCEPT, accept.as_str())]));
    let upgrade = match protocol {
        Protocol::Remote(version, coding) => Upgrade::WebSocket(version, coding),
        Protocol::Forward(coding) => Upgrade::WebSocketForward(coding),
        Protocol::Tunnel => Upgrade::Tunnel,
    };
    Ok((upgrade, answer))
}

/// The first that the client offers and we have: the client's order counts.
fn choose<T: Copy>(offered: &[&str], ours: &[(&'static str, T)]) -> Result<(&'static str, T), Box<Answer>> {
    let common = offered.iter().find_map(|name| ours.iter().find(|(have, _)| have == name));
    if let Some(common) = common {
        return Ok(*common);
    }
    let text = format!("no protocol in common: {}", offered.join(", ").escape_default());
    let mut answer = refusal(StatusCode::FORBIDDEN, &text);
    for (name, _) in ours {
        answer.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(name));
    }
    Err(answer)
}

/// The words of a header, which may come several times and hold several, separated by commas.
fn words<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn switching<'a>(to: &'static str, more: impl IntoIterator<Item = (HeaderName, &'a str)>) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(to));
    for (name, value) in more {
        // Names of ours and base64: always a header's value.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    answer
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "another method is needed");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    *answer
}

/// An answer that ends the connection.
pub(crate) fn refusal(status: StatusCode, why: &str) -> Box<Answer> {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{why}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    Box::new(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> hyper::Request<Full<Bytes>> {
        let request = hyper::Request::builder().method("GET").uri("/exec/x");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(Full::default()).unwrap()
    }

    fn spdy_request(versions: &[&str]) -> hyper::Request<Full<Bytes>> {
        let mut headers = vec![("connection", "keep-alive, Upgrade"), ("upgrade", "spdy/3.1")];
        headers.extend(versions.iter().map(|version| ("x-stream-protocol-version", *version)));
        request(&headers)
    }

    fn websocket_request(protocols: &[&str]) -> hyper::Request<Full<Bytes>> {
        let mut headers = vec![
            ("connection", "upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.extend(protocols.iter().map(|protocol| ("sec-websocket-protocol", *protocol)));
        request(&headers)
    }

    #[test]
    fn paths() {
        assert_eq!(Kind::of_path("/exec/abc"), Some((Kind::Exec, "abc")));
        assert_eq!(Kind::of_path("/portforward/abc"), Some((Kind::PortForward, "abc")));
        assert_eq!(Kind::of_path("/Exec/abc"), None);
        assert_eq!(Kind::of_path("/exec"), None);
        assert_eq!(Kind::of_path("*"), None);
    }

    #[test]
    fn the_client_s_first_choice_that_we_have_is_taken() {
        let request = spdy_request(&["v9.channel.k8s.io, v2.channel.k8s.io", "v4.channel.k8s.io"]);
        let (upgrade, answer) = negotiate(Kind::Exec, &request).unwrap();
        assert_eq!(upgrade, Upgrade::Spdy(Version::V2));
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()["x-stream-protocol-version"], "v2.channel.k8s.io");
        assert_eq!(answer.headers()["upgrade"], "SPDY/3.1");
    }

    #[test]
    fn nothing_in_common_is_told_with_what_there_is() {
        for request in [spdy_request(&["v9.channel.k8s.io"]), websocket_request(&["v9.channel.k8s.io"])] {
            let answer = negotiate(Kind::Exec, &request).unwrap_err();
            assert_eq!(answer.status(), StatusCode::FORBIDDEN);
            assert!(
                answer.headers().get_all(ACCEPTED_VERSIONS).iter().any(|name| name == "v4.channel.k8s.io")
            );
        }
        let answer = negotiate(Kind::PortForward, &spdy_request(&["v4.channel.k8s.io"])).unwrap_err();
        assert_eq!(answer.headers()[ACCEPTED_VERSIONS], "portforward.k8s.io");
    }

    #[test]
    fn websocket_sub_protocols() {
        let chosen = |kind, protocols: &[&str]| negotiate(kind, &websocket_request(protocols)).unwrap();
        let (upgrade, answer) = chosen(Kind::Exec, &["v5.channel.k8s.io", "v4.channel.k8s.io"]);
        assert_eq!(upgrade, Upgrade::WebSocket(Version::V5, Coding::Binary));
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        // RFC 6455, 1.3, has this key and its answer.
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (upgrade, answer) = chosen(Kind::Attach, &[]);
        assert_eq!(upgrade, Upgrade::WebSocket(Version::V1, Coding::Binary));
        assert!(!answer.headers().contains_key("sec-websocket-protocol"));
        let (upgrade, _) = chosen(Kind::Attach, &["base64.channel.k8s.io"]);
        assert_eq!(upgrade, Upgrade::WebSocket(Version::V1, Coding::Base64));
        let (upgrade, _) = chosen(Kind::PortForward, &["SPDY/3.1+portforward.k8s.io"]);
        assert_eq!(upgrade, Upgrade::Tunnel);
        let (upgrade, _) = chosen(Kind::PortForward, &["v4.base64.channel.k8s.io"]);
        assert_eq!(upgrade, Upgrade::WebSocketForward(Coding::Base64));
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        let bad = [
            request(&[]),
            request(&[("connection", "upgrade"), ("upgrade", "h2c")]),
            request(&[("connection", "close"), ("upgrade", "websocket")]),
            request(&[("connection", "upgrade"), ("upgrade", "SPDY/3.1")]),
            request(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]),
        ];
        for request in bad {
            let answer = negotiate(Kind::Exec, &request).unwrap_err();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{request:?}");
        }
        let old =
            request(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "8")]);
        assert_eq!(negotiate(Kind::Exec, &old).unwrap_err().status(), StatusCode::UPGRADE_REQUIRED);
        let mut posted = websocket_request(&[]);
        *posted.method_mut() = Method::POST;
        assert_eq!(negotiate(Kind::Exec, &posted).unwrap_err().status(), StatusCode::METHOD_NOT_ALLOWED);
        let body = request(&[]).map(|_| Full::new(Bytes::from_static(b"x")));
        assert_eq!(negotiate(Kind::Exec, &body).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }
}
