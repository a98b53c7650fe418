//! Real containers: clones, mounts, cgroups and a busybox. Needs root and /bin/busybox (Debian's
//! busybox-static).
//!
//! A program without the standard harness, since launching takes a process with one thread: the tests run one
//! after the other in it, each with its own rig. An argument that is no option selects the tests with it in
//! their names, and `--skip` leaves out the one that is called so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test program"
)]

mod basics;
mod hostile;
mod joining;
#[path = "../common/patience.rs"]
mod patience;
mod pods;
mod rig;
mod users;
mod volumes;

use std::panic::catch_unwind;

type Test = (&'static str, fn());

fn main() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: containers need root");
        return;
    }
    if !std::path::Path::new("/bin/busybox").exists() {
        println!("skipped: /bin/busybox is missing (install busybox-static)");
        return;
    }
    if let Some(directory) = std::env::var_os(hostile::SWAP) {
        return hostile::swap_until_end_of_input(directory.as_ref());
    }
    // What is mounted here reaches nobody.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let (wanted, left_out) = arguments();
    let tests: Vec<Test> =
        [basics::TESTS, hostile::TESTS, joining::TESTS, pods::TESTS, users::TESTS, volumes::TESTS]
            .into_iter()
            .flatten()
            .copied()
            .collect();
    let selected = tests
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(part)))
        .filter(|(name, _)| !left_out.iter().any(|left| left == name));
    let mut failed = Vec::new();
    let mut count = 0;
    for (name, test) in selected {
        count += 1;
        let before = rig::Left::now();
        let mut outcome = catch_unwind(test).map_err(|_| ());
        let after = rig::Left::now();
        if before != after {
            println!("left behind by {name}: {before:?} became {after:?}");
            outcome = Err(());
        }
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    println!("\n{count} run, {} failed {failed:?}", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}

/// The parts of names that are wanted, and the names that are not.
fn arguments() -> (Vec<String>, Vec<String>) {
    let (mut wanted, mut left_out) = (Vec::new(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--skip" {
            left_out.extend(arguments.next());
        } else if !argument.starts_with('-') {
            wanted.push(argument);
        }
    }
    (wanted, left_out)
}
