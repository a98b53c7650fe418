//! OCI image layouts (OCI image-spec, "Image Layout").
//!
//! Of entries with one name, and of indexes, the one for this machine is taken. A `manifest.json` beside the index adds
//! Docker's names to images that both have, and nothing else: what an image is, the index says.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Configured, Found, MAX_IMAGES, Name, configured, docker, refused};
use crate::catalog::KeptManifest;
use crate::digest::Digest;
use crate::error::Error;
use crate::load::spool::{Spool, Spooled};
use crate::manifest::{self, Descriptor, Document, IMAGE_NAME, Keys, Manifest, Object, Platform, REF_NAME};
use crate::registry::RawDocument;

/// The layout's version.
const VERSION: &str = "1.0.0";
/// Indexes between the layout's own and a manifest, at most.
const INDEX_DEPTH: usize = 3;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

impl Keys for Layout {
    const KEYS: &'static [&'static str] = &["imageLayoutVersion"];
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    manifests: Option<Vec<Object<Entry>>>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Keys for Index {
    const KEYS: &'static [&'static str] =
        &["schemaVersion", "mediaType", "artifactType", "manifests", "config", "layers", "annotations"];
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<Object<Platform>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Keys for Entry {
    const KEYS: &'static [&'static str] =
        &["mediaType", "digest", "size", "platform", "artifactType", "annotations"];
}

/// The images of a layout that are for this machine.
pub(super) fn images(spool: &Spool) -> Result<Vec<Found>, Error> {
    let layout: Layout = parsed("oci-layout", &spool.document("oci-layout")?)?;
    if layout.image_layout_version != VERSION {
        let version = layout.image_layout_version;
        return Err(refused(format!("it is a layout of version \"{version}\" where \"{VERSION}\" is known")));
    }
    let bytes = spool.document("index.json")?;
    let index: Index = parsed("index.json", &bytes)?;
    if index.config.is_some() || index.layers.is_some() {
        return Err(refused("its index has parts of a manifest"));
    }
    let entries: Vec<Entry> = index.manifests.unwrap_or_default().into_iter().map(|entry| entry.0).collect();
    if entries.len() > MAX_IMAGES {
        return Err(refused(format!("its index has more than {MAX_IMAGES} entries")));
    }
    let offered = offered(&entries);
    let mut found: Vec<Found> = Vec::new();
    for (names, entry) in fitting(entries)? {
        let image = image(spool, entry.descriptor())?;
        match found.iter_mut().find(|known| known.id == image.id) {
            Some(known) => known.names.extend(names),
            None => found.push(Found { names, ..image }),
        }
    }
    if found.is_empty() {
        let wanted = Platform::host().to_string();
        return Err(Error::NoPlatform { digest: Digest::of(&bytes), wanted, offered });
    }
    docker::add_names(spool, &mut found)?;
    Ok(found)
}

fn parsed<'d, T: Deserialize<'d> + Keys>(name: &str, bytes: &'d [u8]) -> Result<T, Error> {
    let parsed = serde_json::from_slice::<Object<T>>(bytes).map(|object| object.0);
    parsed.map_err(|cause| refused(format!("\"{name}\" can't be read: {cause}")))
}

fn offered(entries: &[Entry]) -> String {
    let mut offered: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .map(|platform| platform.0.to_string())
        .collect();
    offered.dedup();
    offered.truncate(20);
    if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") }
}

/// Of the entries for this machine the best one of each name, and all without a name.
fn fitting(entries: Vec<Entry>) -> Result<Vec<(Vec<Name>, Entry)>, Error> {
    let host = Platform::host();
    let mut named: BTreeMap<Name, (u8, Entry)> = BTreeMap::new();
    let mut nameless = Vec::new();
    for entry in entries.into_iter().filter(Entry::is_image) {
        let rank = match &entry.platform {
            Some(platform) => host.rank(&platform.0),
            // Its configuration will tell.
            None => Some(u8::MAX),
        };
        let Some(rank) = rank else { continue };
        match entry.name()? {
            None => nameless.push((Vec::new(), entry)),
            Some(name) => match named.get(&name) {
                Some((known, _)) if *known <= rank => {}
                _ => {
                    named.insert(name, (rank, entry));
                }
            },
        }
    }
    let named = named.into_iter().map(|(name, (_, entry))| (vec![name], entry));
    Ok(named.chain(nameless).collect())
}

impl Entry {
    fn is_image(&self) -> bool {
        manifest::is_image(&self.media_type)
    }

    fn descriptor(self) -> Descriptor {
        Descriptor { media_type: self.media_type, digest: self.digest, size: self.size }
    }

    fn name(&self) -> Result<Option<Name>, Error> {
        let annotation = |key: &str| self.annotations.as_ref()?.get(key).filter(|value| !value.is_empty());
        if let Some(name) = annotation(IMAGE_NAME) {
            return Name::whole(name).map(Some);
        }
        match annotation(REF_NAME) {
            Some(name) if name.contains(['/', ':', '@']) => Name::whole(name).map(Some),
            Some(tag) => Ok(Some(Name::Tag(tag.clone()))),
            None => Ok(None),
        }
    }
}

/// The image that a descriptor leads to.
fn image(spool: &Spool, descriptor: Descriptor) -> Result<Found, Error> {
    let (raw, media_type, manifest) = find_manifest(spool, descriptor)?;
    let Manifest { config, layers } = manifest;
    let bytes = document(spool, &config)?;
    let Configured { id, text, file } = configured(config.digest, bytes, layers.len())?;
    let size_bytes = layers.iter().map(|layer| layer.size).fold(config.size, u64::saturating_add);
    let mut found = Vec::with_capacity(layers.len());
    for (diff_id, layer) in file.diff_ids.into_iter().zip(&layers) {
        found.push((diff_id, blob(spool, layer)?.map(|file| file.path.clone())));
    }
    let text_of_manifest = String::from_utf8(raw.bytes).map_err(|_| refused("a manifest is not UTF-8"))?;
    let manifest = KeptManifest { media_type, digest: raw.digest, text: text_of_manifest };
    Ok(Found { id, config: text, manifest: Some(manifest), names: Vec::new(), layers: found, size_bytes })
}

fn find_manifest(spool: &Spool, from: Descriptor) -> Result<(RawDocument, String, Manifest), Error> {
    let mut at = from;
    for _ in 0..=INDEX_DEPTH {
        let bytes = document(spool, &at)?;
        let raw = RawDocument { digest: at.digest.clone(), content_type: None, bytes };
        at = match manifest::parse(&raw, Some(&at))? {
            Document::Manifest(manifest) => return Ok((raw, at.media_type, manifest)),
            Document::Index(index) => index.select(&Platform::host())?.descriptor,
        };
    }
    Err(refused(format!("it leads through more than {INDEX_DEPTH} indexes")))
}

/// A blob that must be there, and be small.
fn document(spool: &Spool, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    if blob(spool, descriptor)?.is_none() {
        return Err(refused(format!("it lacks the blob \"{}\"", descriptor.digest)));
    }
    spool.document(&name(descriptor))
}

/// A blob, if it is there: it has the digest and size that its descriptor states.
fn blob<'s>(spool: &'s Spool, descriptor: &Descriptor) -> Result<Option<&'s Spooled>, Error> {
    let Descriptor { digest, size, .. } = descriptor;
    let Some(file) = spool.find(&name(descriptor)) else { return Ok(None) };
    if file.digest != *digest {
        return Err(refused(format!("its blob \"{digest}\" has the digest \"{}\"", file.digest)));
    }
    if file.size != *size {
        return Err(refused(format!(
            "its blob \"{digest}\" has {} bytes where {size} are stated",
            file.size
        )));
    }
    Ok(Some(file))
}

fn name(descriptor: &Descriptor) -> String {
    let digest = &descriptor.digest;
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
