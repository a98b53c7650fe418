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
//! Not here: fetching (`registry`), the order of it all (`pull`).

mod config;
mod platform;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::error::Error;
use crate::registry::RawDocument;

pub(crate) use config::ConfigFile;
pub(crate) use platform::Platform;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// Media types of what we write ourselves; a compressed layer's has `+gzip` or `+zstd` behind it.
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Annotations with an image's name in the index of a layout: the whole name, as containerd and Docker write it, and the
/// specification's own, which may be a tag alone (OCI image-spec, "Pre-Defined Annotation Keys").
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// `Accept` of a request for a manifest or an index.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Media types of an image's configuration. Docker's first tools said `application/octet-stream`.
const CONFIGS: [&str; 3] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
];

/// Media types of layers. How one is compressed is seen from its first bytes.
const LAYERS: [&str; 11] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Layers of one image: overlay stacks up to 500 (`OVL_MAX_STACK`, fs/overlayfs/params.h).
const MAX_LAYERS: usize = 500;

/// A pointer to content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// In bytes.
    pub(crate) size: u64,
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
    platform: Option<Platform>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Index,
    Manifest,
}

impl Kind {
    fn of_media_type(media_type: &str) -> Option<Kind> {
        match media_type {
            OCI_INDEX | DOCKER_LIST => Some(Kind::Index),
            OCI_MANIFEST | DOCKER_MANIFEST => Some(Kind::Manifest),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Index => "index",
            Kind::Manifest => "manifest",
        }
    }
}

/// Reads a manifest or an index. `pointed_by` is the descriptor that led to it, if an index did.
///
/// # Errors
/// [`Error::Document`], [`Error::DocumentRefused`].
pub(crate) fn parse(raw: &RawDocument, pointed_by: Option<&Descriptor>) -> Result<Document, Error> {
    let digest = &raw.digest;
    let refused = |kind, reason: String| Error::DocumentRefused { kind, digest: digest.clone(), reason };
    let content_type = raw.content_type.as_deref().unwrap_or_default();
    let schema_1 = || refused("manifest", "schema 1 of Docker's manifests is not supported".to_owned());
    if content_type.starts_with(DOCKER_SCHEMA_1) {
        return Err(schema_1());
    }
    let document: Raw = serde_json::from_slice(&raw.bytes).map_err(|cause| Error::Document {
        kind: "manifest",
        digest: digest.clone(),
        cause,
    })?;
    if document.schema_version == Some(1) || document.fs_layers.is_some() {
        return Err(schema_1());
    }
    let kind = kind(&document, content_type, pointed_by).map_err(|reason| refused("manifest", reason))?;
    let refused = |reason: String| refused(kind.name(), reason);
    if document.schema_version != Some(2) {
        return Err(refused("its schema version is not 2".to_owned()));
    }
    let image_parts = document.config.is_some() || document.layers.is_some();
    match (kind, document.manifests, document.config, document.layers) {
        (Kind::Index, Some(entries), _, _) if !image_parts => {
            Ok(Document::Index(Index { digest: digest.clone(), entries }))
        }
        (Kind::Manifest, None, Some(config), Some(layers)) => {
            Ok(Document::Manifest(manifest(config, layers).map_err(refused)?))
        }
        _ => Err(refused("it has parts of an index and of a manifest, or lacks its own".to_owned())),
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
            return Err(format!("it calls itself \"{own}\" where \"{stated}\" is expected"));
        }
        (Some(media_type), _) | (None, Some(media_type)) => media_type,
        (None, None) if document.manifests.is_some() => return Ok(Kind::Index),
        (None, None) => return Ok(Kind::Manifest),
    };
    Kind::of_media_type(media_type).ok_or_else(|| format!("its media type \"{media_type}\" is not supported"))
}

fn manifest(config: RawDescriptor, layers: Vec<RawDescriptor>) -> Result<Manifest, String> {
    let config = config.checked()?;
    if !CONFIGS.contains(&config.media_type.as_str()) {
        return Err(format!("it is no container image: its configuration is \"{}\"", config.media_type));
    }
    if layers.len() > MAX_LAYERS {
        return Err(format!("it has more than {MAX_LAYERS} layers"));
    }
    let layers = layers.into_iter().map(RawDescriptor::checked).collect::<Result<Vec<_>, _>>()?;
    if let Some(odd) = layers.iter().find(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
        return Err(format!("its layer \"{}\" has the unsupported type \"{}\"", odd.digest, odd.media_type));
    }
    Ok(Manifest { config, layers })
}

impl RawDescriptor {
    fn checked(self) -> Result<Descriptor, String> {
        let digest = self.digest.parse().map_err(|error: Error| error.to_string())?;
        Ok(Descriptor { media_type: self.media_type, digest, size: self.size })
    }
}

impl Index {
    /// The entry for `wanted`: the best of those that fit, and of equals the first.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] with the platforms that there are; [`Error::DocumentRefused`] if the entry is broken.
    pub(crate) fn select(&self, wanted: &Platform) -> Result<Descriptor, Error> {
        let usable = |entry: &&RawDescriptor| Kind::of_media_type(&entry.media_type).is_some();
        let ranked = self.entries.iter().filter(usable).filter_map(|entry| {
            let rank = match &entry.platform {
                Some(platform) => wanted.rank(platform)?,
                // Its configuration will tell.
                None => u8::MAX,
            };
            Some((rank, entry))
        });
        let Some((_, entry)) = ranked.min_by_key(|(rank, _)| *rank) else { return Err(self.nothing(wanted)) };
        entry.clone().checked().map_err(|reason| Error::DocumentRefused {
            kind: "index",
            digest: self.digest.clone(),
            reason,
        })
    }

    fn nothing(&self, wanted: &Platform) -> Error {
        let mut offered: Vec<String> = self
            .entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .map(Platform::to_string)
            .collect();
        offered.dedup();
        offered.truncate(20);
        let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
        Error::NoPlatform { digest: self.digest.clone(), wanted: wanted.to_string(), offered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn raw(content_type: &str, text: &str) -> RawDocument {
        let bytes = text.replace("SHA", SHA).into_bytes();
        RawDocument { digest: Digest::of(&bytes), content_type: Some(content_type.to_owned()), bytes }
    }

    fn refusal(content_type: &str, text: &str) -> String {
        match parse(&raw(content_type, text), None) {
            Err(Error::DocumentRefused { reason, .. }) => reason,
            Err(Error::Document { cause, .. }) => cause.to_string(),
            other => panic!("{text} gives {other:?}"),
        }
    }

    const MANIFEST: &str = r#"{"schemaVersion":2,
        "config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"SHA","size":2},
        "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"SHA","size":3,"urls":["http://x/"]}]}"#;
    const INDEX: &str = r#"{"schemaVersion":2,"manifests":[
        {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"SHA","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}"#;

    #[test]
    fn reads_both_kinds_whoever_names_them() {
        for content_type in [OCI_MANIFEST, DOCKER_MANIFEST, "application/json", ""] {
            let Ok(Document::Manifest(manifest)) = parse(&raw(content_type, MANIFEST), None) else {
                panic!()
            };
            assert_eq!((manifest.config.size, manifest.layers.len()), (2, 1));
        }
        for content_type in [OCI_INDEX, DOCKER_LIST, "text/plain"] {
            assert!(matches!(parse(&raw(content_type, INDEX), None), Ok(Document::Index(_))));
        }
    }

    #[test]
    fn an_ambiguous_document_is_refused() {
        let both =
            MANIFEST.replacen('{', &format!("{{\"manifests\":[],\"mediaType\":\"{OCI_MANIFEST}\","), 1);
        for content_type in [OCI_MANIFEST, OCI_INDEX, "application/json"] {
            refusal(content_type, &both);
        }
        assert!(refusal(OCI_INDEX, MANIFEST).contains("parts"));
        assert!(refusal(OCI_MANIFEST, INDEX).contains("parts"));
        let named = MANIFEST.replacen('{', &format!("{{\"mediaType\":\"{OCI_MANIFEST}\","), 1);
        assert!(refusal(DOCKER_MANIFEST, &named).contains("calls itself"));
        let twice = MANIFEST.replacen('{', "{\"layers\":[],", 1);
        assert!(refusal(OCI_MANIFEST, &twice).contains("duplicate"));
    }

    #[test]
    fn a_child_must_be_what_its_index_says() {
        let pointer = |media_type: &str| Descriptor {
            media_type: media_type.to_owned(),
            digest: SHA.parse().unwrap(),
            size: 1,
        };
        let named = MANIFEST.replacen('{', &format!("{{\"mediaType\":\"{OCI_MANIFEST}\","), 1);
        let document = raw("text/html", &named);
        assert!(parse(&document, Some(&pointer(OCI_MANIFEST))).is_ok());
        assert!(parse(&document, Some(&pointer(DOCKER_MANIFEST))).is_err());
        assert!(parse(&document, Some(&pointer(OCI_INDEX))).is_err());
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let old = r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#;
        assert!(refusal("application/json", old).contains("schema 1"));
        assert!(
            refusal("application/vnd.docker.distribution.manifest.v1+prettyjws", "").contains("schema 1")
        );
        let artifact = MANIFEST.replace("image.config.v1", "empty.v1");
        assert!(refusal(OCI_MANIFEST, &artifact).contains("no container image"));
        let odd = MANIFEST.replace("layer.v1.tar+gzip", "layer.v1.tar+encrypted");
        assert!(refusal(OCI_MANIFEST, &odd).contains("unsupported type"));
        assert!(refusal(OCI_MANIFEST, &MANIFEST.replace("SHA", "sha256:../../x")).contains("not a digest"));
        refusal(OCI_MANIFEST, &MANIFEST.replace("\"size\":3", "\"size\":-3"));
        refusal(OCI_MANIFEST, "[]");
        refusal(OCI_MANIFEST, "{}");
        refusal(OCI_MANIFEST, &"[".repeat(1 << 20));
    }

    #[test]
    fn selects_this_platform_s_entry() {
        let entry = |arch: &str, extra: &str, size: u64| {
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"SHA","size":{size},"platform":{{"os":"linux","architecture":"{arch}"{extra}}}}}"#
            )
        };
        let entries = [
            entry("unknown", "", 1),
            entry("arm", r#","variant":"v7""#, 2),
            entry("arm64", r#","variant":"v8""#, 3),
            entry("amd64", "", 4),
            entry("amd64", "", 5),
        ];
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let Ok(Document::Index(index)) = parse(&raw(OCI_INDEX, &text), None) else { panic!() };
        assert_eq!(index.select(&Platform::linux("amd64")).unwrap().size, 4);
        assert_eq!(index.select(&Platform::linux("arm64")).unwrap().size, 3);
        match index.select(&Platform::linux("riscv64")) {
            Err(Error::NoPlatform { wanted, offered, .. }) => {
                assert_eq!(wanted, "linux/riscv64");
                assert!(offered.contains("linux/arm64/v8"), "{offered}");
            }
            other => panic!("{other:?}"),
        }
    }
}
