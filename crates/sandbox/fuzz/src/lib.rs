//! Files of the Container Device Interface by themselves, for the fuzz target: the rest of the crate draws in the runtime.
#![allow(dead_code, reason = "what is needed by requests for devices alone")]

#[path = "../../src/cdi/file.rs"]
mod file;
#[path = "../../src/cdi/name.rs"]
mod name;

use std::sync::OnceLock;

/// Reads a text as a file of either form. What is accepted has names that are names, each once.
pub fn read(ending: &str, text: &[u8]) {
    static PLACE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let place = PLACE.get_or_init(|| tempfile::tempdir_in("/dev/shm").expect("a directory in memory"));
    let path = place.path().join("file").with_extension(ending);
    std::fs::write(&path, text).expect("a file");
    let Ok(file) = file::File::read(&path) else { return };
    assert!(name::is_kind(&file.kind), "{:?}", file.kind);
    let mut names: Vec<&str> = file.devices.iter().map(|device| device.name.as_str()).collect();
    assert!(names.iter().all(|name| name::is_device(name)), "{names:?}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), file.devices.len());
}
