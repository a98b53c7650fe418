//! Tests that cannot run everywhere say so.

use std::path::{Path, PathBuf};

/// Leaves the test, reporting it as skipped with a reason, unless every named program is to be found.
///
/// `needs!("go", "crictl")`
#[macro_export]
macro_rules! needs {
    ($($program:literal),+ $(,)?) => {
        $(if $crate::needs::program($program).is_none() {
            println!("skipped: {} needs \"{}\", which is not on PATH", module_path!(), $program);
            return;
        })+
    };
}

/// Where `name` lies on PATH or among the directories in which Debian keeps system programs and CNI plugins.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/cni"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_file(candidate))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file())
}
