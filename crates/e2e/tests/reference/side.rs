//! Whose plugins: directories of executables as CNI_PATH names them. Not here: how one is called.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where Debian's containernetworking-plugins lie.
const DEBIAN: &str = "/usr/lib/cni";

/// The types that are ours, too.
const OURS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// Where the executables of a call come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The reference: all of Debian's.
    Debian,
    /// Ours where we have one, else Debian's.
    Ours,
    /// Debian's but for our host-local.
    DebianOnOurAddresses,
    /// Ours but for Debian's host-local.
    OursOnDebiansAddresses,
}

impl Side {
    /// The name of its directory.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::Debian => "debian",
            Side::Ours => "ours",
            Side::DebianOnOurAddresses => "debian-on-our-addresses",
            Side::OursOnDebiansAddresses => "ours-on-debians-addresses",
        }
    }

    fn is_ours(self, plugin: &str) -> bool {
        OURS.contains(&plugin)
            && match self {
                Side::Debian => false,
                Side::Ours => true,
                Side::DebianOnOurAddresses => plugin == "host-local",
                Side::OursOnDebiansAddresses => plugin != "host-local",
            }
    }

    /// Makes its directory below `parent`.
    pub(crate) fn install(self, parent: &Path) {
        let directory = parent.join(self.name());
        fs::create_dir(&directory).unwrap();
        for plugin in plugins() {
            let program = if self.is_ours(&plugin) { ours(&plugin) } else { Path::new(DEBIAN).join(&plugin) };
            symlink(program, directory.join(&plugin)).unwrap();
        }
    }
}

/// Whether both sides are there.
///
/// # Errors
/// Why not, for the report of a skipped test.
pub(crate) fn installed() -> Result<(), String> {
    for plugin in OURS {
        if !Path::new(DEBIAN).join(plugin).exists() {
            return Err(format!("no \"{plugin}\" in {DEBIAN} (Debian: containernetworking-plugins)"));
        }
    }
    for program in ["ip", "iptables", "nft"] {
        e2e::needs::program(program).ok_or_else(|| format!("\"{program}\" is not installed"))?;
    }
    assert!(ours("bridge").exists(), "{} is not built", ours("bridge").display());
    Ok(())
}

fn plugins() -> Vec<String> {
    let entries = fs::read_dir(DEBIAN).unwrap().map(|entry| entry.unwrap().file_name());
    entries.map(|name| name.into_string().unwrap()).collect()
}

/// Our executable, which is each of the plugins by the name that it is called by; or another's plugins, to be held against
/// Debian's instead.
fn ours(plugin: &str) -> PathBuf {
    let others = std::env::var_os("KNARR_REFERENCE_OTHERS");
    others.map_or_else(|| e2e::node::binary("knarr"), |directory| Path::new(&directory).join(plugin))
}
