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

/// Layers of one image: overlay stacks up to 500 (`OVL_MAX_STACK`, fs/overlayfs/params.h), of which a volume's root is one.
const MAX_LAYERS: usize = 499;
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
    pub(crate) fn select(&self, wanted: &Platform) -> Result<Descriptor, Error> {
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
        entry.clone().checked().map_err(|reason| Error::DocumentRefused {
            kind: "index",
            digest: self.digest.clone(),
            reason: format!("its entry for {wanted} {reason}"),
        })
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
mod tests {
    use super::media::{DOCKER_LIST, DOCKER_MANIFEST};
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
        assert!(refusal(OCI_INDEX, MANIFEST).contains("lists no manifests"));
        assert!(refusal(OCI_MANIFEST, INDEX).contains("names no configuration"));
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
        let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        for media_type in [signed, "application/vnd.docker.distribution.manifest.v1+json"] {
            let own = MANIFEST.replacen('{', &format!("{{\"mediaType\":\"{media_type}\","), 1);
            assert!(refusal("application/json", &own).contains("schema 1"));
            assert!(refusal(media_type, "not even JSON").contains("schema 1"));
        }
        let odd = MANIFEST.replace("layer.v1.tar+gzip", "layer.v1.squashfs");
        assert!(refusal(OCI_MANIFEST, &odd).contains("has the unsupported type"));
        let encrypted = MANIFEST.replace("layer.v1.tar+gzip", "layer.v1.tar+gzip+encrypted");
        assert!(refusal(OCI_MANIFEST, &encrypted).contains("is encrypted"));
        assert!(refusal(OCI_MANIFEST, &MANIFEST.replace("SHA", "sha256:../../x")).contains("not a digest"));
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

    #[test]
    fn an_artifact_is_refused_by_the_name_of_its_type() {
        let empty = MANIFEST.replace("image.config.v1", "empty.v1");
        let sbom = empty.replacen('{', r#"{"artifactType":"application/vnd.x.sbom","#, 1);
        let reason = refusal(OCI_MANIFEST, &sbom);
        assert_eq!(
            reason,
            "it is an artifact of the type \"application/vnd.x.sbom\" and no container image: nothing can be run or mounted of it"
        );
        // One needs neither layers, nor a configuration that anybody could read.
        let bare = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"x","size":1}}"#;
        assert!(refusal(OCI_MANIFEST, bare).contains("\"application/vnd.cncf.helm.config.v1+json\""));
        assert!(refusal(OCI_MANIFEST, &empty).contains("without a type"));
        let about_another = MANIFEST.replacen(
            '{',
            r#"{"artifactType":"application/vnd.x","subject":{"mediaType":"a/b","digest":"SHA","size":1},"#,
            1,
        );
        assert!(parse(&raw(OCI_MANIFEST, &about_another), None).is_ok());
    }

    /// CVE-2021-41190 by another way: other readers don't regard letter case.
    #[test]
    fn letter_case_makes_no_second_document() {
        let twice = |key: &str, value: &str| MANIFEST.replacen('{', &format!("{{\"{key}\":{value},"), 1);
        for document in [
            twice("Layers", "[]"),
            twice("MANIFESTS", "[]"),
            twice("Config", "null"),
            twice("SchemaVersion", "1"),
            twice("MediaType", "\"\""),
            twice("fslayers", "[]"),
            twice("layer\u{17f}", "[]"),
            twice("laYer\\u0073", "[]"),
            MANIFEST.replacen("\"digest\"", "\"Digest\":\"\",\"digest\"", 1),
            MANIFEST.replace("\"size\":3", "\"size\":3,\"SIZE\":4"),
            MANIFEST.replace("\"urls\"", "\"URLs\""),
        ] {
            assert!(refusal(OCI_MANIFEST, &document).contains("other letter case"), "{document}");
        }
        let index = INDEX.replacen('{', "{\"Config\":{},", 1);
        assert!(refusal(OCI_INDEX, &index).contains("other letter case"));
        let platform = INDEX.replace("\"os\":", "\"OS\":\"linux\",\"os\":");
        assert!(refusal(OCI_INDEX, &platform).contains("other letter case"));
        // Annotations are free, and so is what nobody reads.
        let free = MANIFEST.replacen('{', "{\"annotations\":{\"a\":\"\",\"A\":\"\"},\"x\":1,\"X\":2,", 1);
        assert!(parse(&raw(OCI_MANIFEST, &free), None).is_ok());
    }

    #[test]
    fn lists_in_place_of_objects_are_refused() {
        let list =
            format!(r#"[2,"{OCI_MANIFEST}",null,["application/vnd.oci.image.config.v1+json","SHA",1],[]]"#);
        refusal(OCI_MANIFEST, &list);
        let config = MANIFEST.replace(
            r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"SHA","size":2}"#,
            r#"["application/vnd.oci.image.config.v1+json","SHA",2,null,null]"#,
        );
        assert_ne!(config, MANIFEST);
        assert!(refusal(OCI_MANIFEST, &config).contains("expected an object"));
    }

    #[test]
    fn what_is_not_utf_8_is_refused_also_where_nobody_looks() {
        let mut document = raw(OCI_MANIFEST, &MANIFEST.replacen('{', "{\"x\":\"?\",", 1));
        let at = document.bytes.iter().position(|b| *b == b'?').unwrap();
        document.bytes[at] = 0xff;
        match parse(&document, None) {
            Err(Error::DocumentRefused { reason, .. }) => assert_eq!(reason, "it is not UTF-8"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn too_much_is_refused_with_its_number() {
        let layer = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"SHA","size":3}"#;
        let of = |count: usize| {
            let layers = vec![layer; count].join(",");
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"SHA","size":2}},"layers":[{layers}]}}"#
            )
        };
        assert!(parse(&raw(OCI_MANIFEST, &of(499)), None).is_ok());
        assert_eq!(refusal(OCI_MANIFEST, &of(10_000)), "it has 10000 layers where 499 are the most");
        let entries = vec![r#"{"digest":"","size":0}"#; 100_000].join(",");
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
        assert_eq!(refusal(OCI_INDEX, &index), "it has 100000 entries where 1000 are the most");
    }

    #[test]
    fn sizes_are_whole_and_possible() {
        for size in ["-3", "3.5", "1e3", "\"3\"", "18446744073709551616", "null"] {
            refusal(OCI_MANIFEST, &MANIFEST.replace("\"size\":3", &format!("\"size\":{size}")));
        }
        let huge = MANIFEST.replace("\"size\":3", "\"size\":9223372036854775808");
        assert_eq!(
            refusal(OCI_MANIFEST, &huge),
            "its layer 1 has the impossible size of 9223372036854775808 bytes"
        );
        assert!(parse(&raw(OCI_MANIFEST, &MANIFEST.replace("\"size\":3", "\"size\":0")), None).is_ok());
    }

    #[test]
    fn a_stranger_s_megabytes_are_not_repeated() {
        let long = "x".repeat(1 << 20);
        for document in [
            MANIFEST.replacen("SHA", &long, 2),
            MANIFEST.replace("layer.v1.tar+gzip", &long),
            MANIFEST.replace("image.config.v1", &long),
            MANIFEST.replacen("\"size\":2", &format!("\"size\":\"{long}\""), 1),
            MANIFEST.replacen('{', &format!("{{\"mediaType\":\"{long}\","), 1),
        ] {
            let error = parse(&raw(OCI_MANIFEST, &document), None).unwrap_err();
            assert!(crate::error::chain(&error).len() < 1000);
        }
    }

    #[test]
    fn what_belongs_to_an_image_is_not_taken_for_one() {
        let entries = [
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"SHA","size":1,"platform":{{"os":"unknown","architecture":"unknown"}}}}"#
            ),
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"SHA","size":2,"artifactType":"application/vnd.x.signature"}}"#
            ),
        ];
        let select = |entries: &[String]| {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
            let Ok(Document::Index(index)) = parse(&raw(OCI_INDEX, &text), None) else { panic!() };
            index.select(&Platform::linux("amd64"))
        };
        let Err(Error::NoPlatform { offered, .. }) = select(&entries) else { panic!() };
        assert_eq!(offered, "nothing");
        let plain = format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"SHA","size":3}}"#);
        assert_eq!(select(&[&entries[..], &[plain]].concat()).unwrap().size, 3);
    }
}
