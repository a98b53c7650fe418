//! The node's pod CIDRs: told by kubelet once in its life (UpdateRuntimeConfig), so kept for the daemons that come after this one.
//!
//! Not here: reading them from a request (`convert`), and what networks do with them.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// What is shown while there are none.
pub(crate) const WAITING: &str = "waiting for kubelet to tell the node's pod CIDR (network.pod_cidr)";

/// What kubelet has said last.
#[derive(Debug)]
pub(crate) struct PodCidrs {
    path: PathBuf,
    now: Mutex<Vec<String>>,
}

impl PodCidrs {
    /// What an earlier daemon was told, from the file at `path`; none where there is no such file.
    pub(crate) fn open(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let now = text.lines().map(str::to_owned).collect();
        Self { path, now: Mutex::new(now) }
    }

    /// One for each family; empty until kubelet has told them.
    pub(crate) fn now(&self) -> Vec<String> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps them. Pods that are there stay what they are.
    ///
    /// # Errors
    /// The file's: what held before holds still.
    pub(crate) fn set(&self, cidrs: Vec<String>) -> io::Result<()> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == cidrs {
            return Ok(());
        }
        let beside = self.path.with_extension("tmp");
        std::fs::write(&beside, cidrs.join("\n") + "\n")
            .and_then(|()| std::fs::rename(&beside, &self.path))?;
        *now = cidrs;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_there_for_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pod-cidrs");
        let cidrs = PodCidrs::open(path.clone());
        assert!(cidrs.now().is_empty());
        for told in [vec!["10.1.0.0/24".to_owned()], vec!["10.2.0.0/24".to_owned(), "fd00::/64".to_owned()]] {
            cidrs.set(told.clone()).unwrap();
            assert_eq!(cidrs.now(), told);
            assert_eq!(PodCidrs::open(path.clone()).now(), told);
        }
        std::fs::create_dir(path.with_extension("tmp")).unwrap();
        cidrs.set(Vec::new()).unwrap_err();
        assert_eq!(cidrs.now().len(), 2);
    }
}
