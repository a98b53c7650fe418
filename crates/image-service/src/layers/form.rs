//! In which form layers are kept.
//!
//! A store may hold layers of both forms, also below one container: an image that was pulled before an upgrade goes on as
//! it is. What is chosen here is the form of new ones.

use std::path::Path;

use super::mounts::{LoopDevices, Mounting};
use super::record::Format;
use super::verity::Verity;
use super::{is_no_space, store};
use crate::confinement::Confinement;
use crate::error::Error;

/// In which form new layers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayerForm {
    /// EROFS images where this machine can mount them, else directories.
    #[default]
    Auto,
    /// EROFS images: one file a layer.
    Erofs,
    /// Plain directories.
    Directory,
}

/// How a layer store is opened.
#[derive(Debug, Clone, Default)]
pub struct LayerSettings {
    /// In which form new layers are kept.
    pub form: LayerForm,
    /// How loop devices are made, for kernels and filesystems where an image can't be mounted otherwise.
    pub loop_devices: Option<LoopDevices>,
    /// How a filesystem is told to check images whenever they are read, where it can.
    pub verity: Option<Verity>,
    /// What threads that unpack, check or delete give up.
    pub confinement: Option<Confinement>,
    /// Has images mounted as on kernels before 6.15 also where the kernel is newer: for tests.
    pub as_on_older_kernels: bool,
}

/// The form for new layers of the store at `root`.
///
/// # Errors
/// [`Error::NoSpace`] when nothing can be tried out; [`Error::Store`] when what is insisted on can't be done.
pub(super) fn choose(form: LayerForm, mounting: &Mounting, root: &Path) -> Result<Format, Error> {
    if form == LayerForm::Directory {
        return Ok(Format::Directory);
    }
    match (form, mounting.abilities()) {
        (_, Ok(abilities)) => {
            tracing::info!(?abilities, "layers are kept as EROFS images");
            Ok(Format::Erofs)
        }
        (LayerForm::Auto, Err((_, cause))) if is_no_space(&cause) => Err(store("write to", root, cause)),
        (LayerForm::Erofs, Err((_, cause))) => Err(store("mount an EROFS image in", root, cause)),
        (_, Err((action, cause))) => {
            tracing::info!(action, %cause, "layers are kept as directories: no EROFS image can be mounted here");
            Ok(Format::Directory)
        }
    }
}
