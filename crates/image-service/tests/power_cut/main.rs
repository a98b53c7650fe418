//! Power cuts: whatever is visible afterwards is whole, and the next pull of everything works. Needs root.
//!
//! The store works on a real file system (ext4, xfs, btrfs) on a loop device, whose file is a disk in this process, served
//! through FUSE. The disk writes down every write and every flush in the order in which they come, and when each call of the
//! image service began and succeeded. Afterwards moments of that record are chosen. What the disk would have held is put
//! together from the writes before the last flush, which are safe, and from a choice of those after it: all, none, or each by
//! chance, torn between its sectors. That is mounted, which recovers the file system, and examined (`examine`).
//!
//! What is true to a cut: the order of flushes, the loss and reordering of all that wasn't flushed, torn writes, and that
//! what a call has reported as done stays done. What isn't: disks that lie about flushes, sectors that can't be read any
//! more, and damage to what had been safe for long.
//!
//! `KNARR_POWER_CUTS` sets the number of cuts on each file system (12 without it; the full run has 500 in all),
//! `KNARR_POWER_SEED` what chance begins with; a failure says which seed and which cut it was.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "../layers/archive.rs"]
#[allow(dead_code, reason = "shared with the tests of layers")]
mod archive;
mod disk;
mod examine;
mod filesystem;
mod fuse;
#[path = "../pulls/image.rs"]
#[allow(dead_code, reason = "shared with the tests of pulls")]
mod image;
#[path = "../layers/loop_device.rs"]
#[allow(dead_code, reason = "shared with the tests of layers")]
mod loop_device;
#[path = "../pulls/registry.rs"]
#[allow(dead_code, reason = "shared with the tests of pulls")]
mod registry;
#[path = "../pulls/slowness.rs"]
mod slowness;
#[path = "../layers/store.rs"]
#[allow(dead_code, reason = "shared with the tests of layers")]
mod store;
mod work;

use std::sync::Arc;

use disk::{Blocks, Disk, Loss, Random, Replay, Step};
use filesystem::{Kind, Mounted};
use fuse::Server;
use work::World;

#[test]
fn on_ext4() {
    cut_often(Kind::Ext4);
}

#[test]
fn on_xfs() {
    cut_often(Kind::Xfs);
}

#[test]
fn on_btrfs() {
    cut_often(Kind::Btrfs);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn cut_often(kind: Kind) {
    if !kind.is_here() {
        return;
    }
    let seed = number("KNARR_POWER_SEED")
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64);
    let cuts = number("KNARR_POWER_CUTS").unwrap_or(12) as usize;
    println!("{}: {cuts} cuts, KNARR_POWER_SEED={seed}", kind.name());
    // A thread of its own: its mounts are in a namespace that ends with it.
    let all = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private =
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        record_and_cut(kind, cuts, seed);
    };
    if let Err(panic) = std::thread::spawn(all).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs something like a process of its own: when this returns, none of its threads is left.
fn process<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(work)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn record_and_cut(kind: Kind, cuts: usize, seed: u64) {
    let dir = tempfile::Builder::new().prefix("knarr-power-").tempdir().unwrap();
    let (disks, at) = (dir.path().join("disks"), dir.path().join("mnt"));
    for made in [&disks, &at] {
        std::fs::create_dir(made).unwrap();
    }
    let mut server = Server::start(&disks);
    let registry = runtime();
    let world = Arc::new(registry.block_on(World::start()));
    let expected = process(work::expected(&dir.path().join("expected"), &world));
    let disk = Disk::new(kind.disk(), Blocks::default());
    let file = server.add(Arc::clone(&disk));
    kind.make(&file);
    let begin = disk.record();
    let mounted = Mounted::new(kind, &file, at.clone());
    for part in 0..2 {
        process(work::work(mounted.path(), &world, &disk, seed ^ (part << 32)));
    }
    let log = disk.recorded();
    drop(mounted);
    server.remove(&file);
    println!("{}: {}", kind.name(), summary(&log));
    let mut random = Random(seed);
    let mut replay = Replay::new(begin, &log);
    for (n, moment) in moments(&log, cuts, &mut random).into_iter().enumerate() {
        let loss = [Loss::Nothing, Loss::Everything, Loss::Some, Loss::Some][random.below(4)];
        println!("{}: cut {n} after step {moment} of {}, loss {loss:?}", kind.name(), log.len());
        let file = server.add(Disk::new(kind.disk(), replay.cut(moment, loss, &mut random)));
        let mounted = Mounted::new(kind, &file, at.clone());
        process(examine::examine(mounted.path(), &world, (&work::allowed(&log[..moment]), &expected)));
        drop(mounted);
        server.remove(&file);
    }
}

/// Moments of a record, in order: half of them anywhere, half just after a flush or a call's end, where what was promised
/// must hold already.
fn moments(log: &[Step], cuts: usize, random: &mut Random) -> Vec<usize> {
    let marks: Vec<usize> = (0..log.len()).filter(|at| !matches!(log[*at], Step::Write { .. })).collect();
    let one = |n: usize| match n % 2 {
        0 => random.below(log.len() + 1),
        _ => (marks[random.below(marks.len())] + 1 + random.below(3)).min(log.len()),
    };
    let mut moments: Vec<usize> = (0..cuts).map(one).collect();
    moments.sort_unstable();
    moments
}

fn summary(log: &[Step]) -> String {
    let flushes = log.iter().filter(|step| matches!(step, Step::Flush)).count();
    let events = log.iter().filter(|step| matches!(step, Step::Event(_))).count();
    let bytes: usize =
        log.iter().map(|s| if let Step::Write { bytes, .. } = s { bytes.len() } else { 0 }).sum();
    format!("{} steps, {flushes} flushes, {events} events, {} MiB written", log.len(), bytes >> 20)
}
