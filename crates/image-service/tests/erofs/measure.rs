//! Figures, on demand: `cargo test --release -p image-service --test erofs measure -- --ignored --nocapture`.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::archive::{Tar, dir, file};
use crate::generated::content;
use crate::image::{Image, directory};

fn cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.try_into().unwrap(), spent.tv_nsec.try_into().unwrap())
}

/// Time and processor time, the best of three.
fn timed<T>(run: impl Fn() -> T) -> (Duration, Duration) {
    let one = || {
        let (began, spent) = (Instant::now(), cpu());
        let kept = run();
        let took = (began.elapsed(), cpu() - spent);
        drop(kept);
        took
    };
    (0..3).map(|_| one()).min().unwrap()
}

fn report(name: &str, tar: &Tar) {
    let archive = tar.bytes();
    let (ours, ours_cpu) = timed(|| Image::unchecked(&archive).unwrap());
    let (directories, directories_cpu) = timed(|| directory(&archive).unwrap());
    let digest = timed(|| image_service::Digest::of(&archive)).0;
    let (dir, root) = directory(&archive).unwrap();
    let made = dir.path().join("made");
    let (made_in, _) = timed(|| Command::new("mkfs.erofs").args([&made, &root]).output());
    let image = Image::unchecked(&archive).unwrap();
    let length = std::fs::metadata(&made).map_or(0, |metadata| metadata.len());
    println!("{name}: image {ours:?} (processor {ours_cpu:?}), {} bytes", image.length());
    println!(
        "  of which the digest is {digest:?}; directories {directories:?} (processor {directories_cpu:?})"
    );
    println!("  mkfs.erofs over the unpacked tree {made_in:?}, {length} bytes");
}

#[test]
#[ignore = "measures, and takes its time"]
fn against_directories_and_mkfs() {
    let mut small = Tar::new();
    for n in 0..30_000 {
        if n % 300 == 0 {
            small.add(dir(&format!("d{}/", n / 300)));
        }
        small.add(file(&format!("d{}/file-{n}", n / 300), n.to_string()));
    }
    report("30,000 files of a few bytes", &small);
    let mut medium = Tar::new();
    for n in 0..10_000 {
        medium.add(file(&format!("d{}/file-{n}", n / 100), content(n * 37 % 20_000)));
    }
    report("10,000 files of 10 KB on average", &medium);
    let large = (0..8).fold(Tar::new(), |tar, n| tar.with(file(&n.to_string(), content(40_000_000))));
    report("8 files of 40 MB", &large);
}
