//! An image as others see it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// An image's id: the digest of its configuration (OCI image-spec, "ImageID").
pub type ImageId = Digest;

/// An image of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Full names with tags, such as `docker.io/library/busybox:latest`; sorted.
    pub repo_tags: Vec<String>,
    /// Full names with the digest of the manifest or index that was pulled; sorted.
    pub repo_digests: Vec<String>,
    /// Bytes of the compressed layers and the configuration, as the registry counts them: what other runtimes report
    /// too. The disk space of unpacked layers is in [`crate::Images::filesystem_usage`].
    pub size_bytes: u64,
    /// Whom its containers run as.
    pub user: ImageUser,
    /// What it says about its containers.
    pub config: ImageConfig,
    /// Whether kubelet must not collect it.
    pub pinned: bool,
    /// When it was built, as its configuration says (RFC 3339).
    pub created: Option<String>,
    /// Processor architecture in Go's words, such as `amd64`.
    pub architecture: String,
    /// Digests of the layers' uncompressed archives, the lowest first.
    pub layers: Vec<Digest>,
}

impl Image {
    /// What statuses call the image: its first repo digest, or the id where it has none.
    pub fn reference(&self) -> String {
        self.repo_digests.first().cloned().unwrap_or_else(|| self.id.to_string())
    }
}

/// Whom an image's containers run as, the group left out as CRI does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ImageUser {
    /// The image doesn't say: root.
    #[default]
    Unspecified,
    /// A numeric user id.
    Uid(i64),
    /// A name to be looked up in the image's own user list.
    Name(String),
}

impl ImageUser {
    /// Reads the `User` of an image's configuration: `user`, `uid`, `user:group` and so on (OCI image-spec, "config").
    pub fn parse(text: &str) -> ImageUser {
        let user = text.split(':').next().unwrap_or_default();
        match user.parse::<i64>() {
            Ok(uid) => ImageUser::Uid(uid),
            Err(_) if user.is_empty() => ImageUser::Unspecified,
            Err(_) => ImageUser::Name(user.to_owned()),
        }
    }
}

/// The parts of an image's configuration that shape a container (OCI image-spec, "config").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or empty.
    pub user: String,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// The entry point.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub cmd: Vec<String>,
    /// The working directory; empty for `/`.
    pub working_dir: String,
    /// The signal that asks the process to end, by name or number.
    pub stop_signal: Option<String>,
    /// Paths that the image declares as volumes; sorted.
    pub volumes: Vec<String>,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
}

/// A prepared root filesystem and what its image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsInfo {
    /// The image's id.
    pub image_id: ImageId,
    /// What statuses call the image: a repo digest, or the id where there is none.
    pub image_ref: String,
    /// The image's own configuration.
    pub config: ImageConfig,
}

/// Use of a filesystem by a kind of things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemUsage {
    /// Directory below which these things are: names the filesystem.
    pub path: PathBuf,
    /// Disk space in bytes.
    pub used_bytes: u64,
    /// Number of inodes.
    pub inodes_used: u64,
    /// When that was measured.
    pub at: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_a_number_or_a_name() {
        for (text, user) in [
            ("", ImageUser::Unspecified),
            (":12", ImageUser::Unspecified),
            ("0", ImageUser::Uid(0)),
            ("1000:1000", ImageUser::Uid(1000)),
            ("1000:staff", ImageUser::Uid(1000)),
            ("nobody", ImageUser::Name("nobody".to_owned())),
            ("nobody:nogroup", ImageUser::Name("nobody".to_owned())),
        ] {
            assert_eq!(ImageUser::parse(text), user, "{text:?}");
        }
    }
}
