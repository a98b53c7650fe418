//! The runtime's confinement of threads as what the image service's threads enter.

use std::path::Path;

use image_service::{Confinement, Files};
use sandbox::Rights;

/// For threads of the image service.
pub(crate) fn confinement() -> Confinement {
    Confinement::new(|below: &Path| {
        let confinement = sandbox::Confinement::below(below);
        move |files| confinement.enter(rights(files))
    })
}

fn rights(files: Files) -> Rights {
    match files {
        Files::Own => Rights::None,
        Files::Anybodys => Rights::Files,
        Files::Deleted => Rights::Deletion,
    }
}
