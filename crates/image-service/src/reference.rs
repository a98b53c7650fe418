//! Names of images as users write them, and their full form.
//!
//! | written | meant |
//! |---|---|
//! | `busybox` | `docker.io/library/busybox:latest` |
//! | `team/app:1` | `docker.io/team/app:1` |
//! | `host:5000/app` | `host:5000/app:latest` |
//! | `app@sha256:…` | `docker.io/library/app@sha256:…` |
//! | `app:1@sha256:…` | the same: a digest says more than a tag |
//!
//! The grammar is that of the distribution project's `reference` package, which kubelet uses too.
//! Not here: where a registry is reached (`registry`), ids of images (`catalog`).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use reqwest::Url;

use crate::digest::Digest;
use crate::error::Error;

/// The registry of names that name none.
pub(crate) const DOCKER_HUB: &str = "docker.io";
/// Another name that Docker's tools have used for it.
const DOCKER_HUB_OLD: &str = "index.docker.io";
/// Longest repository, in bytes (distribution's `reference`, `RepositoryNameTotalLengthMax`).
const REPOSITORY_BYTES: usize = 255;
/// Longest tag, in bytes (distribution-spec, "Pulling manifests").
const TAG_BYTES: usize = 128;

/// A checked, full name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    pointer: Pointer,
}

/// What of a repository is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pointer {
    /// Whatever has this tag at the moment.
    Tag(String),
    /// This manifest or index.
    Digest(Digest),
}

impl Reference {
    /// Host and port of the registry, `docker.io` where none was written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, such as `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag or digest.
    pub fn pointer(&self) -> &Pointer {
        &self.pointer
    }

    /// The same repository, by digest.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { pointer: Pointer::Digest(digest), ..self.clone() }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pointer::Tag(tag) => f.write_str(tag),
            Pointer::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.pointer {
            Pointer::Tag(_) => ':',
            Pointer::Digest(_) => '@',
        };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.pointer)
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// # Errors
    /// [`Error::BadReference`] says what is wrong with the text.
    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| Error::BadReference { text: shortened(text), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse::<Digest>().map_err(|_| "what follows the \"@\" is not a digest")?))
        }
        None => (text, None),
    };
    // A colon after the last slash begins a tag; one before it, a port.
    let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[name_end..].split_once(':') {
        Some((last, tag)) => (&rest[..name_end + last.len()], Some(tag)),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag is not one to 128 letters, digits, \"_\", \".\" and \"-\"");
    }
    let (registry, repository) = split_registry(name)?;
    check_repository(&repository)?;
    let pointer = match (digest, tag) {
        (Some(digest), _) => Pointer::Digest(digest),
        (None, Some(tag)) => Pointer::Tag(tag.to_owned()),
        (None, None) => Pointer::Tag("latest".to_owned()),
    };
    Ok(Reference { registry, repository, pointer })
}

/// Tells the registry from the repository: a first component with a dot or a port, or `localhost`, is a host.
fn split_registry(name: &str) -> Result<(String, String), &'static str> {
    let (host, rest) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DOCKER_HUB, name),
    };
    if !is_host(host) {
        return Err("the registry is not a host with an optional port");
    }
    let registry = match host.to_ascii_lowercase() {
        old if old == DOCKER_HUB_OLD => DOCKER_HUB.to_owned(),
        other => other,
    };
    if is_id(rest) && registry == DOCKER_HUB {
        return Err("it has the form of an image's id");
    }
    let official = registry == DOCKER_HUB && !rest.contains('/');
    let repository = if official { format!("library/{rest}") } else { rest.to_owned() };
    Ok((registry, repository))
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.len() > REPOSITORY_BYTES {
        return Err("the repository is longer than 255 bytes");
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository has upper-case letters");
    }
    match repository.split('/').all(is_component) {
        true => Ok(()),
        false => Err("the repository is not made of lower-case letters and digits with single separators"),
    }
}

/// Letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    let separators = bytes.split(|&b| is_word(b)).filter(|run| !run.is_empty());
    let good = |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-');
    is_word(first) && is_word(last) && separators.into_iter().all(good)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= TAG_BYTES
        && bytes.next().is_some_and(is_word)
        && bytes.all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let is_v6 = address.parse::<Ipv6Addr>().is_ok();
            return is_v6 && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    name.split('.').all(is_label) && is_asked_as_written(name) && port.is_none_or(is_port)
}

/// Whether the host that is asked for such an address is the one that is written. Addresses of the web take `127.1` and `0x7f.0.0.1`
/// for 127.0.0.1, under names that no other rule takes for this machine, and some names for none at all (URL Standard, "host parser").
fn is_asked_as_written(name: &str) -> bool {
    let url = Url::parse(&format!("https://{name}/"));
    url.is_ok_and(|url| url.host_str().is_some_and(|host| host.eq_ignore_ascii_case(name)))
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// Whether a text has the form of a whole image id without its algorithm.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

/// What of a text goes into an error: a caller may send a megabyte.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(512) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap_or_else(|e| panic!("{text:?}: {e}")).to_string()
    }

    #[test]
    fn short_names_get_their_full_form() {
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
            ("[::1]:5000/app:v1", "[::1]:5000/app:v1"),
            ("Registry.Example.COM/app", "registry.example.com/app:latest"),
            ("quay.io/a-b/c__d/e.f/g---h:T_1.2-3", "quay.io/a-b/c__d/e.f/g---h:T_1.2-3"),
        ] {
            assert_eq!(full(text), expected);
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let expected = format!("docker.io/library/busybox@{DIGEST}");
        assert_eq!(full(&format!("busybox@{DIGEST}")), expected);
        assert_eq!(full(&format!("busybox:1@{DIGEST}")), expected);
        assert_eq!(full(&expected), expected);
    }

    #[test]
    fn refuses_what_no_registry_would_take() {
        let hex = &DIGEST[7..];
        for text in [
            "",
            ":",
            "@",
            "/",
            "busybox:",
            "busybox@",
            "Busybox",
            "team/App",
            "UPPER/app",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "_a",
            "a_",
            "-a",
            "a b",
            "a\n",
            "a:b c",
            "a:-x",
            "a:.x",
            "ho st/a.b",
            "-h.x/a",
            "h.x:99999/a",
            "h.x:/a",
            "[::1/a",
            "[zz]/a",
            "127.1/a",
            "0x7f.0.0.1/a",
            "127.0.0.0x1:5000/a",
            "1.2.3.256/a",
            "h.0/a",
            "h.0x/a",
            "xn--x.example/a",
            "c--x.xN---x.xN-o/a",
            "http://h.x/a",
            "../a",
            "a/../b",
            "é",
            "a:é",
            hex,
        ] {
            assert!(matches!(text.parse::<Reference>(), Err(Error::BadReference { .. })), "{text:?}");
        }
        for text in [
            format!("busybox@{}", &DIGEST[..70]),
            format!("busybox@md5:{hex}"),
            format!("a:{}", "t".repeat(129)),
            format!("h.x/{}", "a".repeat(256)),
        ] {
            assert!(matches!(text.parse::<Reference>(), Err(Error::BadReference { .. })), "{text:?}");
        }
        assert_eq!(full(&format!("a:{}", "t".repeat(128))).len(), "docker.io/library/a:".len() + 128);
    }

    #[test]
    fn a_long_text_is_not_repeated_in_full() {
        let error = "É".repeat(1 << 16).parse::<Reference>().unwrap_err();
        assert!(error.to_string().len() < 2048);
    }
}
