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

/// Whether the kernel has AppArmor switched on and profiles can be loaded.
///
/// # Errors
/// Why not, for the report of a skipped test.
pub fn apparmor() -> Result<(), String> {
    let path = "/sys/module/apparmor/parameters/enabled";
    match std::fs::read_to_string(path) {
        Ok(enabled) if enabled.trim() == "Y" => {}
        Ok(enabled) => return Err(format!("{path} is {}", enabled.trim())),
        Err(error) => return Err(format!("{path}: {error}")),
    }
    program("apparmor_parser").map(drop).ok_or_else(|| "apparmor_parser is not installed".to_owned())
}

/// Whether this machine is run by systemd, which can be asked over the system bus.
///
/// # Errors
/// Why not, for the report of a skipped test.
pub fn systemd() -> Result<(), String> {
    for path in ["/run/systemd/system", "/run/dbus/system_bus_socket"] {
        if !Path::new(path).exists() {
            return Err(format!("\"{path}\" is not there"));
        }
    }
    program("systemctl").map(drop).ok_or_else(|| "systemctl is not installed".to_owned())
}

/// Whether there is a journal that takes entries, and can be asked.
///
/// # Errors
/// Why not, for the report of a skipped test.
pub fn journald() -> Result<(), String> {
    let path = "/run/systemd/journal/socket";
    if !Path::new(path).exists() {
        return Err(format!("\"{path}\" is not there"));
    }
    program("journalctl").map(drop).ok_or_else(|| "journalctl is not installed".to_owned())
}

/// Whether the kernel has SELinux with a policy loaded.
///
/// # Errors
/// Why not, for the report of a skipped test.
pub fn selinux() -> Result<(), String> {
    let path = "/sys/fs/selinux/enforce";
    std::fs::read_to_string(path).map(drop).map_err(|error| format!("{path}: {error}"))
}

/// Whether the node under test is one that the test configures, and not a peer at `E2E_ENDPOINT`.
///
/// # Errors
/// Why not, for the report of a skipped test.
pub fn own_node() -> Result<(), String> {
    match std::env::var("E2E_ENDPOINT") {
        Ok(endpoint) => Err(format!("{endpoint} has networks of its own")),
        Err(_) => Ok(()),
    }
}

/// Whether the programs under test are those that are installed, of which promises are made, and not built for tests.
///
/// # Errors
/// Why not, for the report of a skipped test.
pub fn installed() -> Result<(), String> {
    let named = std::env::var_os("KNARR_BIN_DIR").ok_or("KNARR_BIN_DIR names no installed programs")?;
    let is_debug = Path::new(&named).ends_with("debug");
    if is_debug { Err("KNARR_BIN_DIR has programs that are built for tests".to_owned()) } else { Ok(()) }
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file())
}
