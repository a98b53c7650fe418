//! Kernel settings of the network namespace that the calling thread is in.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::Error;

/// Below here; what a thread finds is its own namespace's.
const ROOT: &str = "/proc/sys/net";

/// The least MTU that IPv6 works with (RFC 8200), below which an interface has none of it.
pub(super) const IPV6_MTU: u32 = 1280;

/// Whether an interface with that MTU speaks IPv6: the kernel may have been started without it.
pub(super) fn has_ipv6(mtu: u32) -> bool {
    mtu >= IPV6_MTU && Path::new(ROOT).join("ipv6").exists()
}

/// Whether there is such a setting: an interface's go with it.
pub(super) fn exists(name: &str) -> bool {
    Path::new(ROOT).join(name).exists()
}

/// What there is below a directory of settings.
pub(super) fn list(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new(ROOT).join(directory)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Sets a value. A setting that the kernel doesn't have (IPv6 switched off) needs none.
pub(super) fn set(name: &str, value: &str) -> Result<(), Error> {
    match fs::write(Path::new(ROOT).join(name), value) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Kernel { action: "set sysctl", subject: format!("net/{name}={value}"), source })
        }
        _ => Ok(()),
    }
}

/// Sets a value unless it is that already: some settings reset others when written.
pub(super) fn ensure(name: &str, value: &str) -> Result<(), Error> {
    if get(name).as_deref() == Some(value) { Ok(()) } else { set(name, value) }
}

/// Sets a value that is better set, where that is possible: in some containers settings can't be written.
pub(super) fn try_set(name: &str, value: &str) {
    told(set(name, value));
}

/// The same, unless it is that already.
pub(super) fn try_ensure(name: &str, value: &str) {
    told(ensure(name, value));
}

fn told(outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        tracing::debug!(error = crate::error::chain(&error), "a setting stays as it is");
    }
}

/// A value; `None` where there is no such setting.
pub(super) fn get(name: &str) -> Option<String> {
    fs::read_to_string(Path::new(ROOT).join(name)).ok().map(|text| text.trim().to_owned())
}

/// Has the host forward IPv6.
///
/// A host that forwards ignores router advertisements, and so would lose the default route that it has by one, unless
/// its interfaces are told to accept them still (Documentation/networking/ip-sysctl, `accept_ra`). Those that are to ignore
/// them, as bridges of pods are, go on to; those that come later are for others to decide about.
pub(super) fn forward_ipv6() -> Result<(), Error> {
    let all = "ipv6/conf/all/forwarding";
    if get(all).is_none_or(|value| value == "1") {
        return Ok(());
    }
    for link in list("ipv6/conf") {
        if ["all", "default"].contains(&link.as_str()) {
            continue;
        }
        let accept = format!("ipv6/conf/{link}/accept_ra");
        if get(&accept).as_deref() == Some("1") {
            set(&accept, "2")?;
        }
    }
    set(all, "1")
}
