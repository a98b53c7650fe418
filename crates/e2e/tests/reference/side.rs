//! Whose plugins: directories of executables as CNI_PATH names them. Not here: how one is called.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where Debian's containernetworking-plugins lie.
const DEBIAN: &str = "/usr/lib/cni";

/// The types that are ours, too.
const OURS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// Where the executables of a call come from: Debian's but for those that are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Side {
    /// The name of its directory.
    pub(crate) name: &'static str,
    ours: &'static [&'static str],
}

impl Side {
    /// The reference.
    pub(crate) const DEBIAN: Side = Side { name: "debian", ours: &[] };
    pub(crate) const OURS: Side = Side { name: "ours", ours: &OURS };
    pub(crate) const OUR_ADDRESSES: Side = Side { name: "our-addresses", ours: &["host-local"] };
    pub(crate) const DEBIANS_ADDRESSES: Side =
        Side { name: "debians-addresses", ours: &["bridge", "loopback", "portmap"] };
    pub(crate) const OUR_PORTS: Side = Side { name: "our-ports", ours: &["portmap"] };
    pub(crate) const DEBIANS_PORTS: Side =
        Side { name: "debians-ports", ours: &["bridge", "host-local", "loopback"] };

    /// Makes its directory below `parent`.
    pub(crate) fn install(self, parent: &Path) {
        let directory = parent.join(self.name);
        fs::create_dir(&directory).unwrap();
        for plugin in plugins() {
            let program = if self.ours.contains(&plugin.as_str()) {
                ours(&plugin)
            } else {
                Path::new(DEBIAN).join(&plugin)
            };
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
