//! Volumes that change under the feet of a start: CVE-2021-30465 (mounts), 2024-45310 (directories), 2025-52881 (/proc).

use std::os::unix::fs::symlink;

use e2e::cri::ContainerConfig;

use crate::rig::{Host, Outcome, Rig, Swapper, mount};

/// As many tries as let a runtime that resolves paths by name lose the first few.
const STARTS: usize = 25;

/// Targets below the name that is swapped: each is a try of its own.
const TARGETS: usize = 8;

/// A container with a volume at /volume, in which `a` and `b` are swapped, and others below `a`.
fn victim(rig: &Rig, script: &str, below: &str) -> ContainerConfig {
    let mut wanted = rig.script(script);
    mount(&mut wanted, &rig.node.path("volume"), "/volume");
    for number in 0..TARGETS {
        mount(&mut wanted, &rig.node.path("other"), &below.replace('#', &number.to_string()));
    }
    wanted
}

async fn prepared() -> Rig {
    let rig = Rig::new().await;
    std::fs::create_dir_all(rig.node.path("volume/a")).unwrap();
    std::fs::create_dir_all(rig.node.path("other")).unwrap();
    std::fs::write(rig.node.path("other/file"), "other\n").unwrap();
    rig
}

/// The number of starts in which the container ran.
async fn start_again_and_again(rig: &Rig, wanted: &ContainerConfig, judge: impl Fn(&str)) -> usize {
    let mut ran = 0;
    for _ in 0..STARTS {
        if let Outcome::Ran { output, .. } = rig.run(wanted.clone()).await {
            ran += 1;
            judge(&output);
        }
    }
    ran
}

#[tokio::test]
async fn a_target_that_is_swapped_for_a_link_makes_nothing_on_the_host() {
    let rig = prepared().await;
    let host = Host::new();
    for link in [host.path().display().to_string(), host.climb()] {
        let _ = std::fs::remove_file(rig.node.path("volume/b"));
        let _ = std::fs::remove_dir_all(rig.node.path("volume/a"));
        std::fs::create_dir(rig.node.path("volume/a")).unwrap();
        symlink(&link, rig.node.path("volume/b")).unwrap();
        let swapper = Swapper::between(&rig.node.path("volume/a"), &rig.node.path("volume/b"));
        let wanted = victim(&rig, "cat /proc/self/mountinfo", "/volume/a/new-#/deep");
        let ran = start_again_and_again(&rig, &wanted, |mounts| {
            let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
            let outside = places.filter(|place| place.starts_with(&*host.path().to_string_lossy())).count();
            // What follows the link inside of the root is where the container says, and nobody's but its own.
            assert!(outside <= TARGETS, "the attack succeeded: {mounts}");
        })
        .await;
        drop(swapper);
        host.untouched("a target that is swapped");
        println!("{ran} of {STARTS} started");
    }
}

#[tokio::test]
async fn a_target_that_is_swapped_for_a_link_to_proc_covers_nothing_of_it() {
    let rig = prepared().await;
    for link in ["/proc/self", "/proc/sys/kernel", "/proc/1"] {
        let _ = std::fs::remove_file(rig.node.path("volume/b"));
        let _ = std::fs::remove_dir_all(rig.node.path("volume/a"));
        std::fs::create_dir_all(rig.node.path("volume/a/attr")).unwrap();
        symlink(link, rig.node.path("volume/b")).unwrap();
        let swapper = Swapper::between(&rig.node.path("volume/a"), &rig.node.path("volume/b"));
        let wanted = victim(&rig, "cat /proc/self/mountinfo", "/volume/a/attr");
        let wanted = ContainerConfig { mounts: wanted.mounts[..2].to_vec(), ..wanted };
        start_again_and_again(&rig, &wanted, |mounts| {
            let covered = mounts.lines().filter_map(|line| line.split(' ').nth(4)).find(|place| {
                place.contains("/attr") && place.starts_with("/proc/") || place.starts_with("/proc/sys/")
            });
            assert!(covered.is_none(), "the attack succeeded: a volume covers {covered:?}");
        })
        .await;
        drop(swapper);
    }
}
