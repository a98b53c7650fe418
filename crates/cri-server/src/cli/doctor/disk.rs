//! Where images and records are: room, and what the file systems can do.

use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;
use nix::sys::statvfs::statvfs;

use super::Subject;
use super::finding::{Finding, may, must};

/// Less free than this, in hundredths, kubelet evicts pods (its default for imagefs.available is 15).
const LEAST_FREE: u64 = 15;
const LEAST_INODES: u64 = 5;

/// File systems by their numbers (linux/magic.h), and whether overlays can be made on them.
const KINDS: [(i64, &str, bool); 9] = [
    (0xef53, "ext4", true),
    (0x5846_5342, "xfs", true),
    (0x9123_683e, "btrfs", true),
    (0x0102_1994, "tmpfs", true),
    (0x2fc1_2fc1, "zfs", true),
    (0xf2f5_2010, "f2fs", true),
    (0x794c_7630, "overlay", false),
    (0x6969, "nfs", false),
    (0x0102_1997, "9p", false),
];

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    let config = subject.config;
    let mut found = vec![
        room("root", &config.root),
        kind(&config.root),
        room("state", &config.state),
        volatile(&config.state),
    ];
    found.extend(writable_layers(subject));
    found
}

/// The directory, or the nearest above it that is there.
fn there(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(path).to_owned()
}

fn room(what: &str, path: &Path) -> Finding {
    let what = format!("room for {what}");
    let lack = may("kubelet evicts pods and removes images", "");
    let remedy =
        "knarr image prune, or a larger file system (images.collect_above removes what nothing uses)";
    let Ok(told) = statvfs(&there(path)) else {
        return Finding::lacks(what, format!("{} can't be looked at", path.display()), lack).remedied(remedy);
    };
    // Some file systems don't count what they have.
    let part = |free: u64, all: u64| free.saturating_mul(100).checked_div(all).unwrap_or(100);
    let (free, inodes) =
        (part(told.blocks_available(), told.blocks()), part(told.files_available(), told.files()));
    let bytes = told.blocks_available().saturating_mul(told.fragment_size()) >> 20;
    let seen = format!("{free}% free ({bytes} MiB), {inodes}% of inodes, at {}", path.display());
    match free < LEAST_FREE || inodes < LEAST_INODES {
        true => Finding::lacks(what, seen, lack).remedied(remedy),
        false => Finding::ok(what, seen),
    }
}

fn magic(path: &Path) -> Option<i64> {
    statfs(&there(path)).ok().map(|told| told.filesystem_type().0)
}

fn name(magic: i64) -> (String, bool) {
    let known = KINDS.iter().find(|(number, ..)| *number == magic);
    known.map_or_else(
        || (format!("a file system of number {magic:#x}"), true),
        |(_, name, can)| ((*name).to_owned(), *can),
    )
}

fn kind(root: &Path) -> Finding {
    let Some(magic) = magic(root) else {
        let lack = must("images are kept there", "mount it");
        return Finding::lacks("root's files", format!("{} can't be looked at", root.display()), lack);
    };
    match name(magic) {
        (name, true) => Finding::ok("root's files", format!("{name} at {}", root.display())),
        (name, false) => {
            let lack = must(
                "writable layers are overlays, which can't lie on it",
                "set root to a directory on ext4 or xfs",
            );
            Finding::lacks("root's files", format!("{name} at {}", root.display()), lack)
        }
    }
}

fn volatile(state: &Path) -> Finding {
    match magic(state).map(name) {
        Some((name, _)) if name == "tmpfs" => {
            Finding::ok("state's files", format!("tmpfs at {}", state.display()))
        }
        other => {
            let kind = other.map_or_else(|| "nothing".to_owned(), |(name, _)| name);
            let why = "records of processes outlive the boot that the processes had; they are recognised and cleared away, but each one is written to disk";
            let lack = may(why, "set state to a directory on a tmpfs, such as /run/knarr");
            Finding::lacks("state's files", format!("{kind} at {}", state.display()), lack)
        }
    }
}

/// Whether containers can be held to what they may write, when they are to be.
fn writable_layers(subject: &Subject<'_>) -> Option<Finding> {
    let limit = subject.config.containers.writable()?;
    let looked = limit.check(&subject.config.root.join("containers"));
    let looked = looked.map(|()| "projects of xfs".to_owned()).map_err(|why| crate::chain(&why));
    let remedy =
        "put root on xfs mounted with prjquota, or set containers.writable_bytes and writable_inodes to 0";
    Some(Finding::of("writable layers", looked, must("the daemon doesn't start with such limits", remedy)))
}
