//! What pulls of images take: time, processor time, memory, disk; and what removing one takes.
//!
//! Before each pull everything that was written before is on disk, and what was removed has gone, so that nobody waits for
//! another's data. The large images are pulled once unmeasured: a virtual machine that has given memory back to its host gets each
//! page of it anew, which the first who pulls would pay for. Whether a
//! runtime syncs what it unpacks is its own affair and is said beside the table: knarr does, containerd unless it is told.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use k8s_cri::v1::RemoveImageRequest;

use super::measure::{Figures, Images, add};
use super::peers::Peer;
use crate::client::image_spec;

/// Pulls and removes each image so many times, then keeps all of them and looks at the disk.
///
/// # Panics
/// When a call fails: a figure without its work is none.
pub(super) async fn all(peer: &Peer, images: &Images, times: usize, figures: &mut Figures) {
    let images = [
        ("8 layers", &images.layered),
        ("8 zstd layers", &images.zstd),
        ("many small files", &images.small_files),
    ];
    // What the daemon has before its first pull is no part of a pull.
    let (idle, bare) = (peer.resident(), disk(&peer.path("root")));
    for (what, image) in &images[..2] {
        peer.client().pull(image).await.expect("a pull");
        remove(peer, (what, image), &mut Figures::new()).await;
    }
    for _ in 0..times {
        for (what, image) in images {
            gone(peer, bare).await;
            pull(peer, (what, image), idle, figures).await;
            rustix::fs::sync();
            let held = disk(&peer.path("root")).saturating_sub(bare);
            add(figures, &format!("disk used by {what}, MiB"), held as f64 / MIB);
            remove(peer, (what, image), figures).await;
        }
    }
    gone(peer, bare).await;
    for (_, image) in images {
        peer.client().pull(image).await.expect("a pull");
    }
    add(
        figures,
        "memory above idle after all pulls, MiB",
        peer.resident().saturating_sub(idle) as f64 / 1024.0,
    );
    rustix::fs::sync();
    let held = disk(&peer.path("root")).saturating_sub(bare);
    add(figures, "disk used by all of them, MiB", held as f64 / MIB);
    for (what, image) in images {
        remove(peer, (what, image), figures).await;
    }
}

const MIB: f64 = (1 << 20) as f64;

async fn pull(peer: &Peer, (what, image): (&str, &str), idle: u64, figures: &mut Figures) {
    rustix::fs::sync();
    peer.forget_peak();
    let used = peer.processor_time();
    let begun = Instant::now();
    let pulled = peer.client().pull(image).await;
    let seconds = begun.elapsed().as_secs_f64();
    pulled.unwrap_or_else(|status| panic!("pull of {what}: {status}"));
    add(figures, &format!("pull of {what}, ms"), seconds * 1000.0);
    let used = peer.processor_time().saturating_sub(used) as f64 / 1e6;
    add(figures, &format!("pull of {what}: processor time, ms"), used);
    let above = peer.peak().saturating_sub(idle) as f64 / 1024.0;
    add(figures, &format!("pull of {what}: peak memory above idle, MiB"), above);
    for (stage, milliseconds) in stages(&peer.log(), image) {
        add(figures, &format!("pull of {what}: {stage}, ms"), milliseconds);
    }
}

/// Waits until nothing is left of what was removed, but for some that databases keep.
async fn gone(peer: &Peer, bare: u64) {
    let deadline = std::time::Duration::from_secs(60);
    let look = || async {
        let held = disk(&peer.path("root")).saturating_sub(bare);
        if held <= LEFT { Ok(()) } else { Err(format!("{held} bytes")) }
    };
    crate::until(deadline, "what was removed to be gone", look).await;
}

/// Bytes: more than bookkeeping, less than a layer of those that are measured.
const LEFT: u64 = 24 << 20;

/// What our daemon says of its last pull of an image: the time of each stage, over all layers. Peers say nothing.
fn stages(log: &str, image: &str) -> Vec<(String, f64)> {
    let is_about = |line: &&str| line.contains(" pulled ") && line.contains(image);
    let Some(line) = log.lines().rev().find(is_about) else { return Vec::new() };
    let stage = |word: &str| {
        let (name, value) = word.split_once("_ms=")?;
        Some((name.replace('_', " "), value.parse().ok()?))
    };
    line.split_whitespace().filter_map(stage).collect()
}

async fn remove(peer: &Peer, (what, image): (&str, &str), figures: &mut Figures) {
    let request = RemoveImageRequest { image: Some(image_spec(image)) };
    let begun = Instant::now();
    let removed = peer.client().images.remove_image(request).await;
    add(figures, &format!("removal of {what}, ms"), begun.elapsed().as_secs_f64() * 1000.0);
    removed.unwrap_or_else(|status| panic!("removal of {what}: {status}"));
}

/// Bytes of disk below a directory; a file of several names counts once. What goes away meanwhile counts for nothing.
fn disk(directory: &Path) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    let (mut bytes, mut left) = (0, vec![directory.to_owned()]);
    while let Some(path) = left.pop() {
        let Ok(meta) = path.symlink_metadata() else { continue };
        if seen.insert((meta.dev(), meta.ino())) {
            bytes += meta.blocks() * 512;
        }
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path()));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_those_of_the_last_pull_of_the_image() {
        let line = |image: &str, hash: u32| {
            format!("INFO pulled image={image} milliseconds=9 fetched=7 hash_ms={hash} sync_wait_ms=2.5\n")
        };
        let log = [line("r/a:1", 1), line("r/a:1", 3), line("r/b:1", 4)].concat();
        assert_eq!(stages(&log, "r/a:1"), [("hash".to_owned(), 3.0), ("sync wait".to_owned(), 2.5)]);
        assert!(stages(&log, "r/c:1").is_empty());
    }

    #[test]
    fn a_file_of_two_names_takes_its_room_once() {
        let directory = tempfile::tempdir().unwrap();
        let empty = disk(directory.path());
        std::fs::write(directory.path().join("a"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
        rustix::fs::sync();
        let taken = disk(directory.path()) - empty;
        assert!((1 << 20..(1 << 20) + 65_536).contains(&taken), "{taken}");
    }
}
