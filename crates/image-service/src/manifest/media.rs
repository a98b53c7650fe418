//! Media types of what images are made of, and what is said of the others.

/// OCI image index 1.1.
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest 1.1.
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker manifest list, version 2.
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker manifest, version 2, schema 2.
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What the media types of Docker's manifests of schema 1 begin with, signed (`+prettyjws`) or not (`+json`).
pub(super) const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";
/// The content that says nothing (OCI image-spec 1.1, "Guidance for an Empty Descriptor").
pub(super) const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Media types of an image's configuration. Docker's first tools said `application/octet-stream`.
const CONFIGS: [&str; 3] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
];

/// Media types of layers. How one is compressed is seen from its first bytes. Those of layers that may not be distributed
/// (Docker: foreign) are asked of the registry as any other, which may have them.
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

/// Bytes of a stranger's text that are repeated in an error.
const SHOWN: usize = 200;

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Index,
    Manifest,
}

impl Kind {
    pub(super) fn of_media_type(media_type: &str) -> Option<Kind> {
        match media_type {
            OCI_INDEX | DOCKER_LIST => Some(Kind::Index),
            OCI_MANIFEST | DOCKER_MANIFEST => Some(Kind::Manifest),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Index => "index",
            Kind::Manifest => "manifest",
        }
    }
}

/// Why a manifest with such a configuration is no image, if it isn't: an artifact, by its name.
pub(super) fn config_refusal(config: &str, artifact: Option<&str>) -> Option<String> {
    if CONFIGS.contains(&config) {
        return None;
    }
    // An artifact has a type of its own, or is what its configuration is (OCI image-spec 1.1, "Guidelines for Artifact Usage").
    let artifact =
        artifact.filter(|kind| !kind.is_empty()).or(Some(config).filter(|config| *config != EMPTY));
    let kind = artifact.map_or("an artifact without a type".to_owned(), |kind| {
        format!("an artifact of the type \"{}\"", shown(kind))
    });
    Some(format!("it is {kind} and no container image: nothing can be run or mounted of it"))
}

/// Why a layer of this type is refused, if it is.
pub(super) fn layer_refusal(media_type: &str) -> Option<String> {
    if LAYERS.contains(&media_type) {
        return None;
    }
    // What ocicrypt puts behind the type of what is within.
    if let Some(plain) = media_type.strip_suffix("+encrypted") {
        return Some(format!("is encrypted (\"{}\"), and nothing here can decrypt it", shown(plain)));
    }
    Some(format!("has the unsupported type \"{}\"", shown(media_type)))
}

/// A stranger's text as errors show it: not a megabyte of it, and nothing that a terminal would act upon.
pub(super) fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN);
    let more = if end < text.len() { "…" } else { "" };
    let clean: String = text[..end].chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("{clean}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image_is_called_by_its_name() {
        let of = |config: &str, artifact: Option<&str>| config_refusal(config, artifact).unwrap_or_default();
        assert_eq!(of(CONFIGS[0], None), "");
        // An image may say beside that what kind of image it is.
        assert_eq!(of(CONFIGS[1], Some("application/x")), "");
        assert!(of(EMPTY, Some("application/vnd.x.sbom")).contains("of the type \"application/vnd.x.sbom\""));
        assert!(of("application/vnd.cncf.helm.config.v1+json", None).contains("helm"));
        assert!(of(EMPTY, None).contains("without a type"));
        assert!(of(EMPTY, Some("")).contains("without a type"));
    }

    #[test]
    fn layers_that_cannot_be_unpacked_are_called_by_their_names() {
        assert!(LAYERS.iter().all(|layer| layer_refusal(layer).is_none()));
        let encrypted = layer_refusal("application/vnd.oci.image.layer.v1.tar+gzip+encrypted").unwrap();
        assert!(encrypted.starts_with("is encrypted (\"application/vnd.oci.image.layer.v1.tar+gzip\")"));
        assert!(
            layer_refusal("application/vnd.x").unwrap().contains("unsupported type \"application/vnd.x\"")
        );
        assert!(layer_refusal("").is_some());
    }

    #[test]
    fn a_stranger_s_text_is_short_and_harmless() {
        assert_eq!(shown("a\u{1b}[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
        let long = shown(&"é".repeat(1 << 20));
        assert!(long.len() < 210 && long.ends_with('…'));
    }
}
