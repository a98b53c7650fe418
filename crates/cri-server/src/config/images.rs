//! `[images]`: how images are kept.

use image_service::layers::{LayerForm, LayerSettings, LoopDevices};
use serde::{Deserialize, Serialize};

/// The keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ImagesConfig {
    /// In which form layers are kept that are pulled from now on; those that are there stay as they are.
    pub(crate) layers: Form,
}

/// Forms of layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// EROFS images where this machine can mount them, else directories.
    #[default]
    Auto,
    /// EROFS images; the daemon doesn't start where it can't mount them.
    Erofs,
    /// Directories.
    Directory,
}

impl ImagesConfig {
    /// What the image service is told of it.
    pub(crate) fn layers(&self) -> LayerSettings {
        let form = match self.layers {
            Form::Auto => LayerForm::Auto,
            Form::Erofs => LayerForm::Erofs,
            Form::Directory => LayerForm::Directory,
        };
        let loop_devices = Some(LoopDevices::new(sandbox::attach_loop_device));
        LayerSettings { form, loop_devices, ..LayerSettings::default() }
    }
}
