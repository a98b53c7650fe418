//! Who may write what the daemon, as root, goes by; and the journal that is to have a copy of logs.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Subject;
use super::finding::{Finding, may};
use crate::config::JOURNALD;

/// Writable by the group or by all.
const OTHERS: u32 = 0o022;

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    let config = subject.config;
    let directories = [&config.cni_conf_dir, &config.registry_config_dir];
    let directories = directories.into_iter().chain(&config.cni_bin_dir).cloned();
    let mut named: BTreeSet<PathBuf> = directories.clone().chain(subject.files.iter().cloned()).collect();
    // Who can write to a directory can put another file into the place of one.
    named.extend(subject.files.iter().filter_map(|file| file.parent().map(Path::to_owned)));
    named.extend(directories.flat_map(|directory| below(&directory)));
    let mut found: Vec<Finding> = named.iter().filter_map(|path| writable(path)).collect();
    if found.is_empty() {
        let seen =
            format!("only root can change the {} files and directories that the daemon goes by", named.len());
        found.push(Finding::ok("configuration", seen));
    }
    found.extend(config.registry.credentials().path().and_then(readable));
    if config.logs.journald {
        found.push(journald());
    }
    found
}

/// What is in a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn writable(path: &Path) -> Option<Finding> {
    let meta = std::fs::metadata(path).ok()?;
    if meta.uid() == 0 && meta.mode() & OTHERS == 0 {
        return None;
    }
    let seen = format!("{} belongs to {} with mode {:o}", path.display(), meta.uid(), meta.mode() & 0o7777);
    let why = "whoever can write it is root on this node";
    let remedy = format!("chown root: {0} && chmod go-w {0}", path.display());
    Some(Finding::lacks("configuration", seen, may(why, "")).remedied(remedy))
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
