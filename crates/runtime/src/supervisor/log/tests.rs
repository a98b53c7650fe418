//! A log on a real file, with made-up time.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::*;
use crate::supervisor::lines::Lines;

/// A log, and a clock that goes when it is told to.
struct Rig {
    directory: tempfile::TempDir,
    log: Log,
    moment: Moment,
    lines: [Lines; 2],
}

impl Rig {
    fn new(limits: LogLimits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let wanted = Wanted { limits, journal: None };
        let log = Log::open(directory.path().join("0.log"), &wanted).unwrap();
        let lines = [Lines::new(Source::Stdout), Lines::new(Source::Stderr)];
        Self { directory, log, moment: Moment::now(), lines }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("0.log")
    }

    fn later(&mut self, milliseconds: u64) {
        self.moment.instant += Duration::from_millis(milliseconds);
    }

    fn write(&mut self, source: Source, text: &str) -> Vec<LogNews> {
        let mut lines = Vec::new();
        let stream = &mut self.lines[usize::from(source == Source::Stderr)];
        stream.feed(text.as_bytes(), self.moment.time(), (&mut lines, usize::MAX));
        if lines.is_empty() { Vec::new() } else { self.log.append(source, &lines, &self.moment) }
    }

    fn out(&mut self, text: &str) -> Vec<LogNews> {
        self.write(Source::Stdout, text)
    }
}

/// The lines without their times.
fn said(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// How many lines of the container's are there, and how many are said to be missing.
fn count(path: &Path) -> (u64, u64) {
    let (mut there, mut missing) = (0, 0);
    for line in said(path) {
        match line.strip_prefix("stderr F knarr: ") {
            Some(words) if words.contains("missing here") => {
                missing += words.split(' ').next().unwrap().parse::<u64>().unwrap();
            }
            Some(_) => {}
            None => there += 1,
        }
    }
    (there, missing)
}

fn full() -> OwnedFd {
    // It refuses every write as a full disk does.
    openat(CWD, "/dev/full", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// The root of a disk of so many bytes, which goes with it.
fn small(bytes: usize) -> OwnedFd {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "size", bytes.to_string()).unwrap();
    fsconfig_create(&context).unwrap();
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

#[test]
fn a_full_disk_is_told_once_and_so_is_its_end() {
    let mut rig = Rig::new(LogLimits::default());
    rig.out("one\n");
    let good = rig.log.file.replace(full());
    let path = rig.path();
    assert_eq!(rig.out("two\n"), [LogNews::Failed { path: path.clone(), errno: Errno::NOSPC }]);
    assert_eq!(rig.out("three\n"), []);
    let full = rig.log.file.replace(good);
    rig.later(10);
    assert_eq!(rig.out("four\n"), [], "it may be full again at once");
    let good = rig.log.file.replace(full);
    assert_eq!(rig.out("five\n"), [], "the same episode");
    drop(rig.log.file.replace(good));
    rig.later(2000);
    assert_eq!(rig.out("six\n"), [LogNews::Lost { path: path.clone(), lines: 3, bytes: 15 }]);
    let no_space = "No space left on device (os error 28)";
    assert_eq!(
        said(&path),
        [
            "stdout F one".to_owned(),
            format!("stderr F knarr: 2 lines (10 bytes) are missing here: {no_space}"),
            "stdout F four".to_owned(),
            format!("stderr F knarr: 1 line (5 bytes) are missing here: {no_space}"),
            "stdout F six".to_owned(),
        ]
    );
}

#[test]
fn a_disk_that_works_again_is_noticed_without_output() {
    let mut rig = Rig::new(LogLimits::default());
    let good = rig.log.file.replace(full());
    assert_eq!(rig.log.due(), None);
    rig.out("one\n");
    assert_eq!(rig.log.due(), Some(rig.moment.instant + RETRY));
    rig.later(5000);
    assert_eq!(rig.log.catch_up(&rig.moment), None);
    assert_eq!(rig.log.due(), Some(rig.moment.instant + RETRY));
    drop(rig.log.file.replace(good));
    rig.later(5000);
    assert_eq!(rig.log.catch_up(&rig.moment), Some(LogNews::Lost { path: rig.path(), lines: 1, bytes: 4 }));
    assert_eq!(rig.log.due(), None);
    assert_eq!(count(&rig.path()), (0, 1));
}

#[test]
fn a_gap_that_cannot_be_told_of_is_not_tried_again_and_again() {
    let mut rig = Rig::new(LogLimits { rate: Some(100), size: None });
    rig.out(&"0123456789\n".repeat(10));
    let _good = rig.log.file.replace(full());
    rig.moment.instant = rig.log.due().expect("something was lost");
    assert!(matches!(rig.log.catch_up(&rig.moment), Some(LogNews::Failed { errno: Errno::NOSPC, .. })));
    assert_eq!(rig.log.due(), Some(rig.moment.instant + RETRY));
}

#[test]
fn what_is_lost_at_the_end_is_told_then() {
    let mut rig = Rig::new(LogLimits::default());
    let _good = rig.log.file.replace(full());
    rig.out("one\n");
    assert_eq!(rig.log.finish(&rig.moment), [LogNews::Lost { path: rig.path(), lines: 1, bytes: 4 }]);
    assert_eq!(rig.log.finish(&rig.moment), []);
}

#[test]
fn a_line_that_breaks_off_is_ended_and_its_rest_dropped() {
    let mut rig = Rig::new(LogLimits::default());
    rig.out(&"x".repeat(20_000));
    let good = rig.log.file.replace(full());
    rig.out(&"y".repeat(30_000));
    drop(rig.log.file.replace(good));
    rig.out("the end\n");
    rig.write(Source::Stderr, "trouble\n");
    rig.out("next\n");
    let lines = said(&rig.path());
    assert_eq!(lines[0], format!("stdout P {}", "x".repeat(16 << 10)));
    assert_eq!(lines[1], "stdout F ");
    assert!(lines[2].starts_with("stderr F knarr: 3 lines (33624 bytes) are missing"), "{}", lines[2]);
    assert_eq!(lines[3..], ["stderr F trouble", "stdout F next"]);
}

#[test]
fn a_line_is_ended_once_where_there_is_room_for_its_end_alone() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a small disk needs root");
        return;
    }
    let mut rig = Rig::new(LogLimits::default());
    let (page, end) = (rustix::param::page_size(), line(rig.moment.time(), Source::Stdout, "").len());
    let (first, left) = (end + (16 << 10), end + 20);
    let full = (first + left).next_multiple_of(page);
    let disk = small(full + page);
    let on_disk = |name: &str| Path::new("/proc/self/fd").join(disk.as_raw_fd().to_string()).join(name);
    let (path, other) = (on_disk("0.log"), on_disk("other"));
    fs::write(&other, vec![0; page]).unwrap();
    fs::write(&path, format!("{}\n", "w".repeat(full - first - left - 1))).unwrap();
    rig.log = Log::open(path.clone(), &Wanted::default()).unwrap();
    rig.out(&"x".repeat(20_000));
    assert!(matches!(rig.out(&"y".repeat(30_000))[..], [LogNews::Failed { errno: Errno::NOSPC, .. }]));
    let size = || usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    assert_eq!(size(), full - left);
    assert_eq!(rig.log.catch_up(&rig.moment), None);
    assert_eq!(size(), full - left + end, "there is no room for more than the end");
    fs::remove_file(other).unwrap();
    assert!(matches!(rig.log.catch_up(&rig.moment), Some(LogNews::Lost { lines: 2, .. })));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches("stdout F \n").count(), 1);
    assert!(text.lines().last().unwrap().contains("stderr F knarr: 2 lines"), "behind it is what was lost");
}

#[test]
fn a_log_that_is_removed_comes_back_when_it_is_opened_anew() {
    let mut rig = Rig::new(LogLimits::default());
    rig.out("one\n");
    fs::remove_file(rig.path()).unwrap();
    rig.later(1000);
    let path = rig.path();
    assert_eq!(rig.out("two\n"), [LogNews::Failed { path: path.clone(), errno: Errno::NOENT }]);
    assert_eq!(rig.log.due(), None, "it is not made again by itself");
    assert_eq!(rig.out("three\n"), []);
    assert!(!path.exists());
    assert_eq!(
        rig.log.reopen(&rig.moment),
        Ok(vec![LogNews::Lost { path: path.clone(), lines: 2, bytes: 10 }])
    );
    assert_eq!(count(&path), (0, 2));
    rig.out("four\n");
    assert_eq!(count(&path), (1, 2));
}

#[test]
fn a_log_whose_directory_was_removed_keeps_what_it_has() {
    let mut rig = Rig::new(LogLimits::default());
    fs::remove_dir_all(rig.directory.path()).unwrap();
    assert_eq!(rig.log.reopen(&rig.moment), Err(Errno::NOENT));
    assert_eq!(rig.out("nobody will ever read this\n"), []);
}

#[test]
fn a_rate_is_kept_and_told_of_once_a_second() {
    let mut rig = Rig::new(LogLimits { rate: Some(1000), size: None });
    for _ in 0..50 {
        assert_eq!(rig.out(&"0123456789\n".repeat(10)), []);
        rig.later(100);
    }
    let due = rig.log.due().expect("something was lost");
    assert!(due <= rig.moment.instant + Duration::from_millis(1100));
    rig.moment.instant = due;
    assert_eq!(rig.log.catch_up(&rig.moment), None);
    let (there, missing) = count(&rig.path());
    assert_eq!(there + missing, 500);
    // 51 bytes a line, five seconds and what may come at once.
    assert!(there * 51 <= 6 * 1000 + 51, "{there}");
    assert!(there * 51 >= 4 * 1000, "{there}");
    assert!(said(&rig.path()).iter().filter(|line| line.contains("rate_limit")).count() <= 6);
}

#[test]
fn a_file_ends_at_its_size_and_the_next_one_says_what_is_missing() {
    let mut rig = Rig::new(LogLimits { rate: None, size: Some(4096) });
    for _ in 0..100 {
        rig.out("0123456789\n");
    }
    rig.out(&"0123456789\n".repeat(100));
    let path = rig.path();
    let lines = said(&path);
    assert_eq!(
        lines.last().unwrap(),
        "stderr F knarr: the log has reached 4096 bytes (size_limit): what follows is lost"
    );
    let there = lines.len() as u64 - 1;
    assert!((4096 - RESERVE) / 51 - there <= 1, "{there}");
    assert!(fs::metadata(&path).unwrap().len() <= 4096);
    assert_eq!(rig.log.due(), None);
    let old = rig.directory.path().join("old");
    fs::rename(&path, &old).unwrap();
    assert_eq!(rig.log.reopen(&rig.moment), Ok(vec![]));
    rig.out("on\n");
    assert_eq!(count(&path), (1, 200 - there));
    assert!(said(&path)[0].contains("(size_limit)"), "the first line");
    // The same file again, and one that somebody has emptied.
    rig.out(&"0123456789\n".repeat(100));
    assert_eq!(rig.log.reopen(&rig.moment), Ok(vec![]));
    rig.out("lost\n");
    fs::write(&path, "").unwrap();
    rig.later(1000);
    rig.out("on\n");
    assert_eq!(said(&path).last().unwrap(), "stdout F on");
    assert_eq!(count(&path).0, 1);
}

#[test]
fn at_the_end_a_full_log_says_what_is_missing() {
    let mut rig = Rig::new(LogLimits { rate: None, size: Some(2048) });
    rig.out(&"0123456789\n".repeat(100));
    rig.out(&"x".repeat(20_000));
    rig.log.finish(&rig.moment);
    let (there, missing) = count(&rig.path());
    assert_eq!(there + missing, 101);
    assert!(fs::metadata(rig.path()).unwrap().len() <= 2048);
}

#[test]
fn a_line_fits_as_a_whole_or_not_at_all() {
    let limits = Limits { rate: None, size: Some(RESERVE + 10), is_full: false };
    assert_eq!(limits.fitting(b"1234\n6789\n", 0), 10);
    assert_eq!(limits.fitting(b"1234\n6789\n", 1), 5);
    assert_eq!(limits.fitting(b"1234\n6789\n", 6), 0);
    assert_eq!(limits.fitting(b"1234\n", 1000), 0);
    assert_eq!(last_line(b"1234\n6789\n"), Some(&b"6789\n"[..]));
    assert_eq!(last_line(b"1234\n"), Some(&b"1234\n"[..]));
    assert_eq!(last_line(b""), None);
}
