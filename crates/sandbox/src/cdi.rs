//! The Container Device Interface: devices by name, and what a container needs to use them, from files of the device's vendor
//! (github.com/cncf-tags/container-device-interface, SPEC.md; versions up to 1.0).
//!
//! ```text
//! names of a request ──► name ──┐
//! files of directories ─► file ─► registry ──► edits ──► environment, devices, mounts, groups
//! ```
//! Files are read anew for each container that asks for a device: a vendor may write them at any time, and nothing has to be told.
//! A file that can't be read hides its own devices and no others.
//!
//! Not here: how devices and mounts get into a specification (`spec`).

mod edits;
mod file;
mod name;
mod registry;

use std::path::PathBuf;

use crate::container::config::ContainerConfig;
use crate::error::Error;
use crate::sources::Looker;
pub(crate) use edits::Edits;
use name::Name;
use registry::Registry;

/// What annotations that name devices begin with (SPEC.md, "Kubernetes").
const ANNOTATIONS: &str = "cdi.k8s.io/";

/// A device that is asked for, and the field that asks.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    name: Name,
    field: String,
}

/// What the devices of a request change about its container. Reads files and looks at devices and mount sources: for a blocking
/// thread.
///
/// # Errors
/// [`Error::Refused`] with the field that asks for what isn't there, is there twice, or asks for what is not supported;
/// [`Error::Deadline`] for a mount source that hangs.
pub(crate) fn edits(
    directories: &[PathBuf],
    container: &ContainerConfig,
    looker: &Looker,
) -> Result<Edits, Error> {
    let wanted = wanted(container)?;
    let mut edits = Edits::default();
    if wanted.is_empty() {
        return Ok(edits);
    }
    let registry = Registry::read(directories);
    let mut used: Vec<usize> = Vec::new();
    for Wanted { name, field } in wanted {
        let found = registry.find(&name).map_err(|why| Error::refused(field.clone(), why))?;
        if !used.contains(&found.number) {
            used.push(found.number);
            edits.add((&found.file.container_edits, &found.place("containerEdits")), (&field, looker))?;
        }
        let place = found.place(&format!("devices[{}].containerEdits", found.device));
        edits.add((&found.file.devices[found.device].container_edits, &place), (&field, looker))?;
    }
    Ok(edits)
}

/// All devices that a request names, each once.
fn wanted(container: &ContainerConfig) -> Result<Vec<Wanted>, Error> {
    let devices = container.cdi_devices.iter().enumerate();
    let mut all: Vec<(String, &str)> =
        devices.map(|(at, name)| (format!("CDI_devices[{at}].name"), name.as_str())).collect();
    for (key, value) in &container.annotations {
        if key.starts_with(ANNOTATIONS) {
            all.extend(value.split(',').map(|name| (format!("annotations[\"{key}\"]"), name)));
        }
    }
    let mut wanted: Vec<Wanted> = Vec::new();
    for (field, text) in all {
        let name = Name::parse(text).map_err(|why| Error::refused(field.clone(), why))?;
        if !wanted.iter().any(|known| known.name == name) {
            wanted.push(Wanted { name, field });
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_field_and_annotation_once_each() {
        let container = ContainerConfig {
            cdi_devices: vec!["v.com/gpu=0".into()],
            annotations: [
                ("cdi.k8s.io/one".to_owned(), "v.com/gpu=0,v.com/gpu=1".to_owned()),
                ("other.io/x".to_owned(), "v.com/gpu=9".to_owned()),
            ]
            .into(),
            ..ContainerConfig::default()
        };
        let names: Vec<String> =
            wanted(&container).unwrap().iter().map(|w| format!("{} {}", w.field, w.name)).collect();
        assert_eq!(names, ["CDI_devices[0].name v.com/gpu=0", "annotations[\"cdi.k8s.io/one\"] v.com/gpu=1"]);
        let bad = ContainerConfig {
            annotations: [("cdi.k8s.io/x".to_owned(), "v.com/gpu=0,".to_owned())].into(),
            ..ContainerConfig::default()
        };
        let refused = wanted(&bad).unwrap_err().to_string();
        assert!(refused.starts_with("annotations[\"cdi.k8s.io/x\"]: \"\""), "{refused}");
    }
}
