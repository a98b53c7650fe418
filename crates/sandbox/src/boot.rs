//! Whether what the records describe can still be there: processes end with the boot that they were begun in.
//!
//! The state directory belongs on a tmpfs, which is empty after a boot. Where it isn't one, records of before are found, and after
//! a power cut halves of them: a record that can't be read may describe a pod that runs, unless the machine was booted since.

use std::fs;
use std::path::{Path, PathBuf};

use crate::record::write_beside;

/// What the kernel calls this boot.
const KERNEL: &str = "/proc/sys/kernel/random/boot_id";

/// The boot that the records of a state directory are of.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    file: PathBuf,
    recorded: Option<String>,
    current: Option<String>,
}

impl Boot {
    /// Looks which one was noted in a state directory.
    pub(crate) fn of(state_dir: &Path) -> Self {
        let file = state_dir.join("boot");
        let read = |path: &Path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let (recorded, current) = (read(&file), read(Path::new(KERNEL)));
        Self { recorded: recorded.filter(|text| !text.is_empty()), current, file }
    }

    /// Whether the machine was booted since the records were written. Where that isn't known, it was not.
    pub(crate) fn is_over(&self) -> bool {
        matches!((&self.recorded, &self.current), (Some(recorded), Some(current)) if recorded != current)
    }

    /// Notes that the records are of this boot now: once nothing of another's is left to be found out.
    pub(crate) fn note(&self) {
        let Some(current) = self.current.as_ref().filter(|current| self.recorded.as_ref() != Some(*current))
        else {
            return;
        };
        if let Err(error) = write_beside(&self.file, format!("{current}\n").as_bytes(), 0o600) {
            let path = self.file.display();
            tracing::warn!(%path, %error, "the boot that the records are of cannot be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_boot_that_is_known_is_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let boot = Boot::of(directory.path());
        assert!(!boot.is_over(), "nothing was noted");
        boot.note();
        assert!(!Boot::of(directory.path()).is_over());
        fs::write(directory.path().join("boot"), "another\n").expect("written");
        let boot = Boot::of(directory.path());
        assert!(boot.is_over());
        boot.note();
        assert!(!Boot::of(directory.path()).is_over());
        // What a power cut leaves of it.
        fs::write(directory.path().join("boot"), "").expect("written");
        assert!(!Boot::of(directory.path()).is_over());
    }
}
