//! Who may write what the daemon, as root, goes by; and the journal that is to have a copy of logs.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Subject;
use super::finding::{Finding, may, must};
use crate::config::{JOURNALD, USUAL};

/// Writable by the group or by all.
const OTHERS: u32 = 0o022;

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    let config = subject.config;
    let drop_ins = format!("{USUAL}.d");
    let credentials = config.registry.credentials();
    let named = [Path::new(USUAL), Path::new(&drop_ins), &config.cni_conf_dir, &config.registry_config_dir];
    let others: Vec<Finding> = named
        .into_iter()
        .chain(config.cni_bin_dir.iter().map(PathBuf::as_path))
        .filter_map(writable)
        .collect();
    let mut found = match others.is_empty() {
        true => vec![Finding::ok("configuration", "only root can change what the daemon goes by")],
        false => others,
    };
    found.extend(credentials.path().and_then(readable));
    if config.logs.journald {
        found.push(journald());
    }
    found
}

fn writable(path: &Path) -> Option<Finding> {
    let meta = std::fs::metadata(path).ok()?;
    if meta.uid() == 0 && meta.mode() & OTHERS == 0 {
        return None;
    }
    let seen = format!("{} belongs to {} with mode {:o}", path.display(), meta.uid(), meta.mode() & 0o7777);
    let why = "whoever can write it is root on this node";
    let remedy = format!("chown root: {0} && chmod go-w {0}", path.display());
    Some(Finding::lacks("configuration", seen, must(why, "")).remedied(remedy))
}

fn readable(path: &Path) -> Option<Finding> {
    let meta = std::fs::metadata(path).ok()?;
    let seen = format!("{} has mode {:o}", path.display(), meta.mode() & 0o7777);
    match meta.mode() & 0o077 {
        0 => Some(Finding::ok("credentials", seen)),
        _ => {
            let lack = may("others on this node can read the registries' passwords", "");
            Some(Finding::lacks("credentials", seen, lack).remedied(format!("chmod 600 {}", path.display())))
        }
    }
}

fn journald() -> Finding {
    match Path::new(JOURNALD).exists() {
        true => Finding::ok("journald", format!("takes entries at {JOURNALD}")),
        false => {
            let why = "logs.journald copies nothing; logs themselves are written";
            let remedy = "systemctl start systemd-journald.socket, or set logs.journald = false";
            Finding::lacks("journald", format!("\"{JOURNALD}\" is not there"), may(why, remedy))
        }
    }
}
