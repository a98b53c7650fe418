//! Manifests, indexes and configurations: what a registry says about an image, checked before anything is done with it.
//!
//! | document | media types |
//! |---|---|
//! | index | OCI image index 1.1, Docker manifest list v2 |
//! | manifest | OCI image manifest 1.1, Docker manifest v2 schema 2 |
//! | configuration | OCI image configuration 1.1, Docker container image v1 |
//!
//! A document that could be read as an index and as a manifest is refused (CVE-2021-41190), and so is one that calls
//! itself something else than whoever pointed to it. Addresses (`urls`) in descriptors are never looked at
//! (CVE-2020-15157): a layer comes from the registry or not at all. Docker's schema 1 is refused by name.
//! An artifact that is no image (OCI 1.1: a chart, a signature, a model) is refused by the name of its type, for containers and
//! for image volumes alike: what its layers are is known to its own tools alone. `subject` and `artifactType` of an image
//! that is one are fine, and without effect.
//! Not here: fetching (`registry`), the order of it all (`pull`).

mod config;
mod json;
mod media;
mod platform;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::error::Error;
use crate::registry::RawDocument;
use json::Bounded;
use media::{DOCKER_SCHEMA_1, Kind, shown};

pub(crate) use config::ConfigFile;
pub(crate) use json::{Keys, Object};
pub(crate) use media::{IMAGE_NAME, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, REF_NAME};
pub(crate) use platform::Platform;

/// `Accept` of a request for a manifest or an index.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Layers of one image: overlay stacks up to 500 (`OVL_MAX_STACK`, fs/overlayfs/params.h).
const MAX_LAYERS: usize = 500;
/// Entries of an index: the largest that are published have some fifty.
const MAX_ENTRIES: usize = 1000;
/// Largest size that a descriptor may state, in bytes (OCI image-spec, "Descriptors": an int64).
const MAX_SIZE: u64 = i64::MAX as u64;
/// Platforms that an error names.
const OFFERED: usize = 20;
/// Bytes of the library's words about a broken document that are repeated: they may have a part of it in them.
const MAX_WORDS: usize = 500;

/// A pointer to content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// In bytes.
    pub(crate) size: u64,
}

/// The entry of an index that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) descriptor: Descriptor,
    /// The index says that it is for this machine; else only its configuration does.
    pub(crate) for_platform: bool,
}

/// A document of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// One image for each of several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    digest: Digest,
    entries: Vec<RawDescriptor>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// The lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Object<Platform>>,
    artifact_type: Option<String>,
}

impl Keys for RawDescriptor {
    const KEYS: &'static [&'static str] =
        &["mediaType", "digest", "size", "platform", "artifactType", "urls", "data", "annotations"];
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Object<RawDescriptor>>,
    layers: Option<Bounded<Object<RawDescriptor>, MAX_LAYERS>>,
    manifests: Option<Bounded<Object<RawDescriptor>, MAX_ENTRIES>>,
    fs_layers: Option<IgnoredAny>,
}

impl Keys for Raw {
    const KEYS: &'static [&'static str] = &[
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "manifests",
        "fsLayers",
        "subject",
        "annotations",
    ];
}

/// Reads a document of this kind: JSON, and as a whole in UTF-8 (RFC 8259 section 8.1), also in what is passed over.
fn read<'de, T: Deserialize<'de> + Keys>(
    kind: &'static str,
    digest: &Digest,
    bytes: &'de [u8],
) -> Result<T, Error> {
    let refused = |reason: String| Error::DocumentRefused { kind, digest: digest.clone(), reason };
    let text = std::str::from_utf8(bytes).map_err(|_| refused("it is not UTF-8".to_owned()))?;
    serde_json::from_str::<Object<T>>(text).map(|object| object.0).map_err(|cause| {
        let words = cause.to_string();
        match words.len() > MAX_WORDS {
            true => refused(format!("it is not as it should be: {}", shown(&words))),
            false => Error::Document { kind, digest: digest.clone(), cause },
        }
    })
}

/// Reads a manifest or an index. `pointed_by` is the descriptor that led to it, if an index did.
///
/// # Errors
/// [`Error::Document`], [`Error::DocumentRefused`].
pub(crate) fn parse(raw: &RawDocument, pointed_by: Option<&Descriptor>) -> Result<Document, Error> {
    let digest = &raw.digest;
    let refused = |kind, reason: String| Error::DocumentRefused { kind, digest: digest.clone(), reason };
    let content_type = raw.content_type.as_deref().unwrap_or_default();
    let schema_1 = || {
        let reason =
            "schema 1 of Docker's manifests is not supported: push the image anew with a current tool";
        refused("manifest", reason.to_owned())
    };
    if content_type.starts_with(DOCKER_SCHEMA_1) {
        return Err(schema_1());
    }
    let document: Raw = read("manifest", digest, &raw.bytes)?;
    let own = document.media_type.as_deref().unwrap_or_default();
    if document.schema_version == Some(1) || document.fs_layers.is_some() || own.starts_with(DOCKER_SCHEMA_1)
    {
        return Err(schema_1());
    }
    let kind = kind(&document, content_type, pointed_by).map_err(|reason| refused("manifest", reason))?;
    let refused = |reason: String| refused(kind.name(), reason);
    if document.schema_version != Some(2) {
        return Err(refused("its schema version is not 2".to_owned()));
    }
    let is_ambiguous =
        document.manifests.is_some() && (document.config.is_some() || document.layers.is_some());
    match kind {
        Kind::Index if !is_ambiguous => index(document, digest).map(Document::Index).map_err(refused),
        Kind::Manifest if !is_ambiguous => manifest(document).map(Document::Manifest).map_err(refused),
        Kind::Index | Kind::Manifest => Err(refused(
            "it has parts of an index and of a manifest: it could be read in two ways".to_owned(),
        )),
    }
}

/// Whether a descriptor of this type leads to an image: to a manifest or an index.
pub(crate) fn is_image(media_type: &str) -> bool {
    Kind::of_media_type(media_type).is_some()
}

/// The media type of a manifest that [`parse`] has accepted: what points to it says, or it itself, or the answer.
pub(crate) fn media_type(raw: &RawDocument, pointed_by: Option<&Descriptor>) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Own {
        media_type: Option<String>,
    }
    let own = serde_json::from_slice::<Own>(&raw.bytes)
        .ok()
        .and_then(|document| document.media_type)
        .filter(|own| !own.is_empty());
    let said =
        pointed_by.map(|descriptor| descriptor.media_type.clone()).or(own).or(raw.content_type.clone());
    said.filter(|said| Kind::of_media_type(said).is_some()).unwrap_or_else(|| OCI_MANIFEST.to_owned())
}

/// What the document is, agreed upon by all that say something about it.
fn kind(document: &Raw, content_type: &str, pointed_by: Option<&Descriptor>) -> Result<Kind, String> {
    let own = document.media_type.as_deref().filter(|own| !own.is_empty());
    // What the answer's header says about content that is known by digest is no business of the content's.
    let stated = match pointed_by {
        Some(descriptor) => Some(descriptor.media_type.as_str()),
        None => Some(content_type).filter(|stated| Kind::of_media_type(stated).is_some()),
    };
    let media_type = match (own, stated) {
        (Some(own), Some(stated)) if own != stated => {
            return Err(format!(
                "it calls itself \"{}\" where \"{}\" is expected",
                shown(own),
                shown(stated)
            ));
        }
        (Some(media_type), _) | (None, Some(media_type)) => media_type,
        (None, None) if document.manifests.is_some() => return Ok(Kind::Index),
        (None, None) => return Ok(Kind::Manifest),
    };
    let kind = Kind::of_media_type(media_type);
    kind.ok_or_else(|| format!("its media type \"{}\" is not supported", shown(media_type)))
}

fn index(document: Raw, digest: &Digest) -> Result<Index, String> {
    let entries = document.manifests.ok_or("it lists no manifests")?.all("entries")?;
    let entries = entries.into_iter().map(|entry| entry.0).collect();
    Ok(Index { digest: digest.clone(), entries })
}

fn manifest(document: Raw) -> Result<Manifest, String> {
    let config = document.config.ok_or("it names no configuration")?.0;
    // First of all: what is no image needn't have anything of an image's.
    if let Some(refusal) = media::config_refusal(&config.media_type, document.artifact_type.as_deref()) {
        return Err(refusal);
    }
    let config = config.checked().map_err(|reason| format!("its configuration {reason}"))?;
    let layers = document.layers.ok_or("it names no layers")?.all("layers")?;
    let layer = |(at, layer): (usize, Object<RawDescriptor>)| {
        let layer = layer.0.checked().map_err(|reason| format!("its layer {} {reason}", at + 1))?;
        match media::layer_refusal(&layer.media_type) {
            Some(reason) => Err(format!("its layer {} (\"{}\") {reason}", at + 1, layer.digest)),
            None => Ok(layer),
        }
    };
    let layers = layers.into_iter().enumerate().map(layer).collect::<Result<_, _>>()?;
    Ok(Manifest { config, layers })
}

impl RawDescriptor {
    /// The descriptor, or what is wrong with it.
    fn checked(self) -> Result<Descriptor, String> {
        let Ok(digest) = self.digest.parse::<Digest>() else {
            return Err(format!("has \"{}\" for a digest, which is not a digest", shown(&self.digest)));
        };
        if self.size > MAX_SIZE {
            return Err(format!("has the impossible size of {} bytes", self.size));
        }
        Ok(Descriptor { media_type: self.media_type, digest, size: self.size })
    }
}

impl Index {
    /// The entry for `wanted`: the best of those that fit, and of equals the first.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] with the platforms that there are; [`Error::DocumentRefused`] if the entry is broken.
    pub(crate) fn select(&self, wanted: &Platform) -> Result<Choice, Error> {
        let usable = |entry: &&RawDescriptor| Kind::of_media_type(&entry.media_type).is_some();
        let ranked = self.entries.iter().filter(usable).filter_map(|entry| {
            let rank = match (&entry.platform, &entry.artifact_type) {
                (Some(platform), _) => wanted.rank(&platform.0)?,
                // Its configuration will tell.
                (None, None) => u8::MAX,
                // Something that belongs to an image, such as its signature.
                (None, Some(_)) => return None,
            };
            Some((rank, entry))
        });
        let Some((_, entry)) = ranked.min_by_key(|(rank, _)| *rank) else { return Err(self.nothing(wanted)) };
        let for_platform = entry.platform.is_some();
        let descriptor = entry.clone().checked().map_err(|reason| Error::DocumentRefused {
            kind: "index",
            digest: self.digest.clone(),
            reason: format!("its entry for {wanted} {reason}"),
        })?;
        Ok(Choice { descriptor, for_platform })
    }

    fn nothing(&self, wanted: &Platform) -> Error {
        let platforms = self.entries.iter().filter_map(|entry| entry.platform.as_ref());
        // Attestations are listed as being for nobody (BuildKit, docs/attestations).
        let named =
            platforms.map(|platform| shown(&platform.0.to_string())).filter(|p| p != "unknown/unknown");
        let mut offered: Vec<String> = Vec::new();
        for platform in named {
            if offered.len() < OFFERED && !offered.contains(&platform) {
                offered.push(platform);
            }
        }
        let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
        Error::NoPlatform { digest: self.digest.clone(), wanted: wanted.to_string(), offered }
    }
}

#[cfg(test)]
mod tests;
