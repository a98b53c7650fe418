//! Where the programs of Kubernetes lie that `kube/build` has made.

use std::path::{Path, PathBuf};

/// The directory of kubelet, kubectl, the control plane, etcd and agnhost.
#[derive(Debug, Clone)]
pub struct Programs(PathBuf);

impl Programs {
    /// Those of this run: `KNARR_KUBE_PROGRAMS`, which `kube/test` sets.
    ///
    /// # Errors
    /// Why there are none, for the report of skipped tests.
    pub fn of_this_run() -> Result<Self, String> {
        let set = std::env::var_os("KNARR_KUBE_PROGRAMS").ok_or("KNARR_KUBE_PROGRAMS is not set")?;
        let directory = PathBuf::from(set);
        let whole = directory.join("complete");
        if whole.is_file() { Ok(Self(directory)) } else { Err(format!("{} is not there", whole.display())) }
    }

    /// The path of one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory of all.
    pub fn directory(&self) -> &Path {
        &self.0
    }
}
