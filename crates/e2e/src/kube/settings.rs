//! What kubelet changes on its machine outside of its own directories, put back when the rig goes.

use std::path::{Path, PathBuf};

/// Settings of the kernel that kubelet sets at its start (container manager, "setupKernelTunables") and that no namespace
/// has for itself.
const KERNEL: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Directories whose paths kubelet has written into it: the socket of device plugins, links to logs.
const DIRECTORIES: [&str; 3] = ["/var/lib/kubelet/device-plugins", "/var/lib/kubelet", "/var/log/containers"];

/// The machine as it was.
#[derive(Debug)]
pub(super) struct Settings {
    kernel: Vec<(PathBuf, String)>,
    absent: Vec<&'static Path>,
}

impl Settings {
    /// Notes what there is.
    pub(super) fn note() -> Self {
        let paths = KERNEL.iter().map(|name| Path::new("/proc/sys").join(name));
        let kernel = paths.filter_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?)));
        let absent = DIRECTORIES.iter().map(Path::new).filter(|path| !path.exists());
        Self { kernel: kernel.collect(), absent: absent.collect() }
    }

    /// Puts everything back; says what could not be.
    pub(super) fn restore(&self) -> Vec<String> {
        for directory in &self.absent {
            clear(directory);
        }
        let not = |(path, value): &(PathBuf, String)| {
            let _ = std::fs::write(path, value);
            std::fs::read_to_string(path).ok().as_ref() != Some(value)
        };
        let settings = self.kernel.iter().filter(|setting| not(setting)).map(|(path, _)| path.as_path());
        let directories = self.absent.iter().copied().filter(|path| path.exists());
        settings.chain(directories).map(|path| format!("changed: {}", path.display())).collect()
    }
}

/// Takes away a directory that wasn't there: the sockets and the links that are left in it, and what kubelet left there of
/// its own, but nothing further below.
fn clear(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
    let _ = std::fs::remove_dir(directory);
}
