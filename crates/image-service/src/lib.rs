//! Images: fetching them from registries, keeping them, and making root filesystems of them.
//!
//! | module | what it is |
//! |---|---|
//! | [`images`](Images) | the one handle that the daemon holds |
//! | `reference` | names of images as users write them |
//! | `auth` | credentials: of a request, of the node, and who may see them |
//! | `registry` | endpoints, `hosts.toml`, tokens, HTTP |
//! | `manifest` | manifests, indexes and configurations, checked |
//! | `pull` | from a name to a catalogue entry |
//! | `catalog` | what images there are, and their names |
//! | `unpack`, `layers` | from compressed bytes to shared, synced layers |
//! | `erofs` | the bytes of an EROFS image's structures |
//! | `mounting` | the kernel's calls about mounts |
//! | `recipe` | what writes a layer's archive again |
//! | `save`, `load` | images in archives, both ways |
//! | `rootfs` | a container's writable layer above them, mounted |
//! | `care` | damage is looked for and repaired |
//! | `inspect`, `mounts` | looking at images, and into them |
//! | `confinement` | what the threads that work on strangers' files give up |
//! | `gc`, `collection` | getting rid of things; of images, when the disk fills up |
//! | `usage`, `measured`, `space` | measuring them |
//!
//! Not here: CRI and its types, pods, and the gRPC code of an error (see [`ErrorKind`]).

mod auth;
mod blocking;
mod care;
mod catalog;
mod collection;
mod config;
mod confinement;
mod digest;
mod erofs;
mod error;
mod files;
mod gc;
mod image;
mod images;
mod inspect;
pub mod layers;
mod load;
mod manifest;
mod measured;
mod mounting;
mod mounts;
mod names;
mod pull;
mod recipe;
mod reference;
mod registry;
pub mod rootfs;
mod save;
mod space;
mod step;
mod turns;
mod unpack;
mod usage;

/// The checks of the fuzz targets, which alone are built with this.
#[cfg(fuzzing)]
#[path = "../fuzz/src/mod.rs"]
pub mod fuzz;

use blocking::blocking;

pub use auth::{CredentialSource, Credentials};
pub use care::{CareSettings, Checked};
pub use collection::CollectSettings;
pub use config::{Config, CredentialsFile, Limits};
pub use confinement::{Confinement, Files};
pub use digest::{Algorithm, Digest, Digester};
pub use error::{Broken, Error, ErrorKind};
pub use image::{FilesystemUsage, Image, ImageConfig, ImageId, ImageUser, RootfsInfo};
pub use images::Images;
pub use inspect::{ImageDisk, Inspection, LayerInspection, ManifestText, PruneRequest, Pruned};
pub use load::{LoadRequest, LoadedImage};
pub use mounts::ImageMount;
pub use pull::{
    LayerProgress, LayerState, PullProgress, PullRequest, PullStage, PullStatistics, PullTotals, PullWatch,
};
pub use reference::{Pointer, Reference};
pub use registry::{
    Exchange, Explanation, HostExplanation, HostRole, Meant, Probe, TlsExplanation, registry_problems,
};
pub use save::{ArchiveForm, Compression, SaveRequest};
#[cfg(feature = "faults")]
pub use step::plug_faults;
pub use unpack::{ErofsImage, write_directory, write_erofs};
pub use usage::Usage;
