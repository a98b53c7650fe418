//! `spec` and `features`.

use std::path::Path;

use runtime::spec::{MASKED_PATHS, READONLY_PATHS, default_mounts};
use serde_json::json;

use crate::Outcome;
use crate::arguments::{Flags, Parsed};
use crate::store::Store;

pub const FLAGS: Flags = Flags { values: &["--bundle", "-b"], switches: &["--rootless"] };

/// `spec [--bundle DIR]`: writes a configuration to start from.
pub fn spec(_: &Store, line: &Parsed) -> Outcome {
    if line.has("--rootless") {
        return Err("--rootless is not supported".into());
    }
    let path = Path::new(line.either(("--bundle", "-b")).unwrap_or(".")).join("config.json");
    if path.exists() {
        return Err(format!("{} is there already", path.display()).into());
    }
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
    let spec = json!({
        "ociVersion": runtime::features::NEWEST_VERSION,
        "process": {
            "terminal": true, "user": { "uid": 0, "gid": 0 }, "args": ["sh"], "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "knarr",
        "mounts": default_mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces, "maskedPaths": MASKED_PATHS, "readonlyPaths": READONLY_PATHS,
        },
    });
    std::fs::write(path, format!("{spec:#}\n"))?;
    Ok(0)
}

/// `features`: what the crate can do (features.md).
pub fn features(_: &Store, _: &Parsed) -> Outcome {
    println!("{}", serde_json::to_string_pretty(&runtime::features::features())?);
    Ok(0)
}
