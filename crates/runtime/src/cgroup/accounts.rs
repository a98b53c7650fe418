//! What the host's cgroups count at all, whatever a single one of them has counted.

use std::path::Path;

use super::{Host, Layout, files};

/// What some hosts count and others don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accounts {
    /// Reclaim, and how often usage was above `memory.high`: version 2 alone has them.
    pub reclaim: bool,
    /// Costs of devices (io.cost), which version 2 counts where an administrator has switched it on for a device.
    pub io_cost: bool,
    /// Limits of huge pages that were hit, for every container. In a tree beside version 1 those alone are counted that have limits.
    pub huge_page_hits: bool,
}

impl Accounts {
    /// All of it.
    pub const ALL: Self = Self { reclaim: true, io_cost: true, huge_page_hits: true };
}

impl Host {
    /// What this host counts now.
    pub fn accounts(&self) -> Accounts {
        let says = |file: &str, word: &str| self.unified.as_deref().is_some_and(|tree| has(tree, file, word));
        Accounts {
            reclaim: self.unified.is_some() && !self.is_legacy("memory"),
            io_cost: !self.is_legacy("blkio") && says("io.cost.qos", "enable=1"),
            huge_page_hits: self.is_legacy("hugetlb")
                || self.layout() == Layout::Unified && says("cgroup.controllers", "hugetlb"),
        }
    }

    fn is_legacy(&self, controller: &str) -> bool {
        self.legacy.iter().any(|hierarchy| hierarchy.controllers.iter().any(|known| known == controller))
    }
}

/// Whether a file of a tree's root has a word. The file of one that isn't the kernel's own root is not there.
fn has(tree: &Path, file: &str, word: &str) -> bool {
    files::read_if_there(&tree.join(file))
        .ok()
        .flatten()
        .is_some_and(|text| text.split_whitespace().any(|known| known == word))
}

#[cfg(test)]
mod tests {
    use super::super::Hierarchy;
    use super::*;

    fn host(tree: &Path, legacy: &[&str]) -> Host {
        let hierarchy =
            |name: &&str| Hierarchy { controllers: vec![(*name).to_owned()], mount: "/nowhere".into() };
        Host { unified: Some(tree.to_owned()), legacy: legacy.iter().map(hierarchy).collect() }
    }

    #[test]
    fn version_2_counts_more_and_io_cost_where_it_is_switched_on() {
        let tree = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(tree.path().join(file), text).unwrap();
        write("cgroup.controllers", "cpu io memory hugetlb pids\n");
        let unified = host(tree.path(), &[]);
        assert_eq!(unified.accounts(), Accounts { io_cost: false, ..Accounts::ALL });
        write("io.cost.qos", "8:0 enable=0 ctrl=auto\n");
        assert!(!unified.accounts().io_cost);
        write("io.cost.qos", "8:0 enable=0 ctrl=auto\n8:16 enable=1 ctrl=user\n");
        assert_eq!(unified.accounts(), Accounts::ALL);
        write("cgroup.controllers", "cpu io memory pids\n");
        assert!(!unified.accounts().huge_page_hits, "a kernel without huge pages' controller");
    }

    #[test]
    fn version_1_counts_less_whatever_stands_beside() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("cgroup.controllers"), "hugetlb\n").unwrap();
        std::fs::write(tree.path().join("io.cost.qos"), "8:0 enable=1\n").unwrap();
        let nothing = Accounts { reclaim: false, io_cost: false, huge_page_hits: false };
        assert_eq!(host(tree.path(), &["memory", "blkio"]).accounts(), nothing);
        let with = host(tree.path(), &["memory", "blkio", "hugetlb"]);
        assert_eq!(with.accounts(), Accounts { huge_page_hits: true, ..nothing });
    }
}
