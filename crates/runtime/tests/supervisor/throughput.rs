//! What it costs to write down what a chatty container prints, in counts rather than in time.

use std::fs;
use std::time::Instant;

use crate::client::Client;
use crate::rig::{Rig, container};

/// A line of the container's, its end included, in bytes.
const LINE: usize = 100;
/// What is printed at once, in bytes.
const FILE: usize = (LINE * 640) << 10;
/// A line of the log without its content: 2016-10-06T00:17:09.669794202Z stdout F, and a blank behind it.
const HEAD: usize = 40;

/// The numbers of a file in procfs by their names.
fn number(pid: i32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// Processor time that a process has used, its own and the kernel's, in seconds.
fn used(pid: i32) -> [f64; 2] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    [fields[11], fields[12]].map(|ticks| ticks.parse::<f64>().unwrap() / 100.0)
}

/// What it took, for each MiB that a container prints.
struct Cost {
    mib: f64,
    seconds: f64,
    /// Processor time, the supervisor's own and the kernel's, in seconds.
    used: [f64; 2],
    reads: f64,
    writes: f64,
}

/// Has a container print a file so many times.
fn print(rig: &Rig, client: &mut Client, times: usize) -> Cost {
    let line = format!("{}\n", "x".repeat(LINE - 1));
    fs::write(rig.directory.path().join("image/words"), line.repeat(FILE / LINE)).unwrap();
    let count = |name| number(rig.pid(), "io", name);
    let (reads, writes, before) = (count("syscr"), count("syscw"), used(rig.pid()));
    let begun = Instant::now();
    rig.start(client, &container("c1", &format!("exec cat{}", " /words".repeat(times))));
    assert_eq!(client.exit("c1").exit_code, 0);
    let (seconds, after) = (begun.elapsed().as_secs_f64(), used(rig.pid()));
    let mib = (times * FILE) as f64 / f64::from(1 << 20);
    let each = |counted: u64| counted as f64 / mib;
    let used = [0, 1].map(|at| (after[at] - before[at]) / mib);
    Cost { mib, seconds, used, reads: each(count("syscr") - reads), writes: each(count("syscw") - writes) }
}

#[test]
fn a_chatty_container_costs_a_write_for_many_lines() {
    /// Reads and writes for a MiB that a container prints, each: one for every line would be 10,486.
    const MOST: f64 = 64.0;
    // More for a measurement.
    let times: usize = std::env::var("KNARR_LOG_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let (rig, mut client) = Rig::new();
    let Cost { mib, seconds, used: [own, kernel], reads, writes } = print(&rig, &mut client, times);
    let lines = times * FILE / LINE;
    assert_eq!(fs::metadata(rig.log_path("c1")).unwrap().len(), (lines * (LINE + HEAD)) as u64);
    eprintln!(
        "{mib:.0} MiB: {:.0} MiB/s; a GiB: {:.2} s of its own, {:.2} s of the kernel's; a MiB: {reads:.1} reads, {writes:.1} writes; VmHWM {} KiB",
        mib / seconds,
        own * 1024.0,
        kernel * 1024.0,
        number(rig.pid(), "status", "VmHWM"),
    );
    assert!(writes <= MOST && reads <= MOST, "{reads} reads and {writes} writes for a MiB");
}

#[test]
fn a_flood_of_empty_lines_makes_nothing_grow() {
    const LINES: u64 = 1_000_000;
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "head -c 1000000 /dev/zero | tr '\\0' '\\n'"));
    assert_eq!(client.exit("c1").exit_code, 0);
    // Each of them is 41 bytes in the log.
    assert_eq!(fs::metadata(rig.log_path("c1")).unwrap().len(), LINES * (HEAD as u64 + 1));
    let peak = number(rig.pid(), "status", "VmHWM");
    assert!(peak < 8 << 10, "{peak} KiB");
}
