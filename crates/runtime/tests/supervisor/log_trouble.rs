//! Logs that can't take everything: full disks, removed directories, limits; and their copy for journald.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use runtime::wire::{ContainerState, Event, JournalCopy, LogLimits, Reply, Request, Scope, Stdin, Target};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use crate::attach::{BOTH, attach};
use crate::client::Client;
use crate::patience::{patience, until};
use crate::rig::{self, Container, Rig, container, lines};

/// Counts, a line at a time and slowly enough to be watched, until it is asked to end.
const COUNTS: &str = "trap 'exit 5' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";

fn reopen(client: &mut Client) -> Reply {
    client.call(Request::ReopenLog { container: "c1".to_owned() })
}

fn end(client: &mut Client) -> i32 {
    let term = rig::signal(Target::Container("c1".to_owned()), Signal::TERM, Scope::Init);
    assert_eq!(client.call(term), Reply::Done);
    client.exit("c1").exit_code
}

fn runs(client: &mut Client) -> bool {
    matches!(client.snapshot().containers[..], [ref one] if matches!(one.state, ContainerState::Running { .. }))
}

/// The path and the error that a failure is told with.
fn failed(client: &mut Client) -> (PathBuf, i32) {
    client.event("log failure", |event| match event {
        Event::LogWriteFailed { path, errno, .. } => Some((path.clone(), *errno)),
        _ => None,
    })
}

/// The path and the lines that an end of it is told with.
fn lost(client: &mut Client) -> (PathBuf, u64) {
    client.event("end of a log failure", |event| match event {
        Event::LogLost { path, lines, .. } => Some((path.clone(), *lines)),
        _ => None,
    })
}

/// Starts a container whose log is somewhere else.
fn start_at(rig: &Rig, client: &mut Client, (wanted, log): (&Container<'_>, &Path)) {
    let (mut start, descriptors) = rig.request(wanted);
    start.log = Some(log.to_owned());
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let reply = client.call_with(Request::Start(Box::new(start)), &borrowed);
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
}

/// Numbers that a container counted, and how many lines are said to be missing: each in its place, so that the next number follows.
/// Gives the last number that is there or accounted for.
fn accounted(files: &[&Path]) -> u64 {
    let mut next = 1;
    for line in files.iter().flat_map(|file| lines(file)) {
        match (line.strip_prefix("stdout F "), line.strip_prefix("stderr F knarr: ")) {
            (Some(number), _) => {
                assert_eq!(number.parse(), Ok(next), "{line}");
                next += 1;
            }
            (None, Some(words)) if words.contains("missing here") => {
                next += words.split(' ').next().unwrap().parse::<u64>().unwrap();
            }
            (None, Some(words)) => assert!(words.contains("size_limit"), "{line}"),
            (None, None) => panic!("{line}"),
        }
    }
    next - 1
}

/// Text that can be looked at while it is written.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A small disk that goes away with the test.
struct Small(PathBuf);

impl Small {
    fn mount(rig: &Rig) -> Self {
        let directory = rig.directory.path().join("small");
        fs::create_dir(&directory).unwrap();
        mount("small", &directory, "tmpfs", MountFlags::empty(), Some(c"size=256k")).unwrap();
        Self(directory)
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let error = fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
        filler
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_what_is_told_and_nothing_else() {
    let (rig, mut client) = Rig::new();
    let small = Small::mount(&rig);
    let (log, filler) = (small.0.join("c1.log"), small.fill());
    start_at(&rig, &mut client, (&container("c1", COUNTS), &log));
    assert_eq!(failed(&mut client), (log.clone(), Errno::NOSPC.raw_os_error()));
    assert!(runs(&mut client));
    fs::remove_file(filler).unwrap();
    let (path, missing) = lost(&mut client);
    assert_eq!(path, log);
    until("it is written again", || text(&log).lines().nth(5).map(drop));
    assert_eq!(end(&mut client), 5);
    let there = lines(&log);
    let (first, rest) = there.split_first().unwrap();
    assert!(first.starts_with(&format!("stderr F knarr: {missing} line")), "{first}: {missing}");
    assert!(first.ends_with("missing here: No space left on device (os error 28)"), "{first}");
    assert_eq!(accounted(&[&log]), missing + rest.len() as u64);
}

#[test]
fn a_disk_that_is_full_to_the_end_is_told_at_the_end() {
    let (rig, mut client) = Rig::new();
    let small = Small::mount(&rig);
    let (log, _filler) = (small.0.join("c1.log"), small.fill());
    start_at(&rig, &mut client, (&container("c1", "seq 1 1000; exit 6"), &log));
    assert_eq!(client.exit("c1").exit_code, 6);
    failed(&mut client);
    assert_eq!(lost(&mut client), (log.clone(), 1000));
    assert_eq!(fs::read(log).unwrap(), b"");
}

#[test]
fn a_log_directory_that_is_removed_stops_nothing_and_comes_back() {
    let (rig, mut client) = Rig::new();
    let directory = rig.directory.path().join("logs/below");
    fs::create_dir(&directory).unwrap();
    let log = directory.join("c1.log");
    start_at(&rig, &mut client, (&container("c1", COUNTS), &log));
    until("the first line is there", || (!text(&log).is_empty()).then_some(()));
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(failed(&mut client), (log.clone(), Errno::NOENT.raw_os_error()));
    let reply = reopen(&mut client);
    assert!(matches!(&reply, Reply::Failed(failure) if failure.errno == Some(2)), "{reply:?}");
    assert!(runs(&mut client));
    fs::create_dir(&directory).unwrap();
    assert_eq!(reopen(&mut client), Reply::Done);
    let (path, missing) = lost(&mut client);
    assert_eq!(path, log);
    until("it is written again", || text(&log).lines().nth(5).map(drop));
    assert_eq!(end(&mut client), 5);
    let there = lines(&log);
    assert!(missing > 0 && there[0].starts_with(&format!("stderr F knarr: {missing} line")), "{}", there[0]);
    let number = |line: &String| line.strip_prefix("stdout F ").unwrap().parse::<u64>().unwrap();
    // Some were written when nobody had noticed yet.
    assert!(number(&there[1]) > missing);
    assert!(there[1..].windows(2).all(|pair| number(&pair[1]) == number(&pair[0]) + 1));
}

#[test]
fn a_log_that_has_its_size_goes_on_after_a_rotation() {
    const SIZE: u64 = 4096;
    let (rig, mut client) = Rig::new();
    let wanted =
        Container { log_limits: Some(LogLimits { rate: None, size: Some(SIZE) }), ..container("c1", COUNTS) };
    rig.start(&mut client, &wanted);
    let (log, old) = (rig.log_path("c1"), rig.directory.path().join("logs/c1.1"));
    let said = |path: &Path| text(path).contains("the log has reached 4096 bytes (size_limit)");
    until("it has its size", || said(&log).then_some(()));
    // A daemon that comes back finds the limit where it was.
    drop(client);
    let mut client = rig.connect();
    fs::rename(&log, &old).unwrap();
    assert_eq!(reopen(&mut client), Reply::Done);
    until("the new one has its size", || said(&log).then_some(()));
    assert_eq!(end(&mut client), 5);
    let (first, second) = (fs::metadata(&old).unwrap().len(), fs::metadata(&log).unwrap().len());
    assert!(first <= SIZE && second <= SIZE, "{first}, {second}");
    let numbers = lines(&log).iter().filter(|line| line.starts_with("stdout")).count();
    assert!(accounted(&[&old, &log]) > numbers as u64);
}

#[test]
fn a_rate_is_kept_and_what_is_lost_is_counted_without_waiting_for_more() {
    const LINES: u64 = 20_000;
    let (rig, mut client) = Rig::new();
    let script = "trap 'exit 5' TERM; read go; seq 1 20000; while :; do sleep 0.01; done";
    let log_limits = Some(LogLimits { rate: Some(4096), size: None });
    rig.start(&mut client, &Container { log_limits, stdin: Stdin::Open, ..container("c1", script) });
    // Who looks on sees everything: the limit is the log's.
    let mut onlooker = attach(&mut client, "a1", &BOTH);
    onlooker.say("go\n");
    onlooker.expect(&(1..=LINES).map(|number| format!("{number}\n")).collect::<String>());
    until("it is counted while the container is silent", || {
        text(&rig.log_path("c1"))
            .ends_with("missing here: more than 4096 bytes a second (rate_limit)\n")
            .then_some(())
    });
    assert_eq!(end(&mut client), 5);
    assert_eq!(accounted(&[&rig.log_path("c1")]), LINES);
    assert!(!client.has_event(|event| matches!(event, Event::LogWriteFailed { .. } | Event::LogLost { .. })));
}

/// A container whose output goes to a socket of the test's.
fn copied<'a>(rig: &Rig, script: &str) -> Container<'a> {
    let fields = [("CONTAINER_NAME".to_owned(), "web".to_owned())].into();
    let log_copy = Some(JournalCopy { socket: rig.directory.path().join("journald"), fields });
    Container { log_copy, ..container("c1", script) }
}

fn journald(rig: &Rig) -> UnixDatagram {
    let socket = UnixDatagram::bind(rig.directory.path().join("journald")).unwrap();
    socket.set_read_timeout(Some(patience())).unwrap();
    socket
}

fn entry(journald: &UnixDatagram) -> String {
    let mut entry = vec![0; 1 << 17];
    let length = journald.recv(&mut entry).unwrap();
    String::from_utf8(entry[..length].to_vec()).unwrap()
}

#[test]
fn journald_gets_a_copy_of_every_line() {
    let (rig, mut client) = Rig::new();
    let journald = journald(&rig);
    let copied = copied(&rig, "echo one; read go; echo two >&2; read go; printf three");
    rig.start(&mut client, &Container { stdin: Stdin::Open, ..copied });
    let mut attached = attach(&mut client, "a1", &BOTH);
    let priorities = [("one", 6), ("two", 3), ("three", 6)];
    for (message, priority) in priorities {
        let wanted = format!("CONTAINER_NAME=web\nPRIORITY={priority}\nMESSAGE={message}\n");
        assert_eq!(entry(&journald), wanted);
        if message != "three" {
            attached.say("go\n");
        }
    }
    client.exit("c1");
    assert_eq!(rig.log("c1"), ["stdout F one", "stderr F two", "stdout F three"]);
}

#[test]
fn a_journald_that_does_not_read_holds_nobody_up_and_is_told_what_it_missed() {
    const LINES: u64 = 50_000;
    let (rig, mut client) = Rig::new();
    let journald = journald(&rig);
    rig.start(&mut client, &copied(&rig, "trap 'exit 5' TERM; seq 1 50000; while :; do sleep 0.01; done"));
    until("the log has it all", || text(&rig.log_path("c1")).ends_with(" 50000\n").then_some(()));
    let (mut there, mut missing) = (0, 0);
    while there + missing < LINES {
        let entry = entry(&journald);
        let message = entry.split("MESSAGE=").nth(1).unwrap();
        match message.strip_prefix("knarr: ") {
            None => there += 1,
            Some(words) => missing += words.split(' ').next().unwrap().parse::<u64>().unwrap(),
        }
    }
    assert!(there > 1000 && missing > 0, "{there} and {missing}");
    assert_eq!(there + missing, LINES);
    assert_eq!(end(&mut client), 5);
    assert!(!client.has_event(|event| matches!(event, Event::LogWriteFailed { .. })));
}

#[test]
fn a_journald_that_is_not_there_is_told_once() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &copied(&rig, COUNTS));
    let socket = rig.directory.path().join("journald");
    assert_eq!(failed(&mut client), (socket.clone(), Errno::NOENT.raw_os_error()));
    let journald = journald(&rig);
    let (path, missing) = lost(&mut client);
    assert_eq!(path, socket);
    assert!(entry(&journald).contains(&format!("MESSAGE=knarr: {missing} line")));
    assert_eq!(end(&mut client), 5);
    assert!(!client.has_event(|event| matches!(event, Event::LogWriteFailed { .. })));
    accounted(&[&rig.log_path("c1")]);
}

/// A real journald in a /run of its own, on sockets and files of the test's.
struct Journald(std::process::Child);

impl Journald {
    const BINARY: &str = "/lib/systemd/systemd-journald";

    fn start(directory: &Path) -> Self {
        for part in ["sockets", "files"] {
            fs::create_dir(directory.join(part)).unwrap();
        }
        // The kernel's messages and its audit are the machine's.
        let settings = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitBurst=0\n";
        fs::write(directory.join("journald.conf"), settings).unwrap();
        let script = format!(
            "mount -t tmpfs run /run && mkdir -p /run/systemd/journal /run/log && \
             mount --bind {at}/sockets /run/systemd/journal && mount --bind {at}/files /run/log && \
             mount --bind {at}/journald.conf /etc/systemd/journald.conf && exec {binary}",
            at = directory.display(),
            binary = Self::BINARY,
        );
        let output = fs::File::create(directory.join("journald.log")).unwrap();
        let mut command = std::process::Command::new("unshare");
        let child =
            command.args(["--mount", "sh", "-c", &script]).stdout(output.try_clone().unwrap()).stderr(output);
        let journald = Self(child.spawn().unwrap());
        let complaints = || fs::read_to_string(directory.join("journald.log")).unwrap_or_default();
        until(&format!("journald listens: {}", complaints()), || {
            directory.join("sockets/socket").exists().then_some(())
        });
        journald
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_journald_understands_it() {
    if !Path::new(Journald::BINARY).exists() || !Path::new("/usr/bin/journalctl").exists() {
        eprintln!("skipped: this machine has no systemd-journald");
        return;
    }
    let (rig, mut client) = Rig::new();
    let directory = rig.directory.path().join("journal");
    fs::create_dir(&directory).unwrap();
    let _journald = Journald::start(&directory);
    let script = "printf 'one\\ntwo\\n'; head -c 20000 /dev/zero | tr '\\0' y; echo; printf 'a\\tb\\001c\\n'; echo end >&2";
    let mut wanted = copied(&rig, script);
    wanted.log_copy.as_mut().unwrap().socket = directory.join("sockets/socket");
    rig.start(&mut client, &wanted);
    assert_eq!(client.exit("c1").exit_code, 0);
    let read = || {
        let mut journalctl = std::process::Command::new("journalctl");
        journalctl.arg("--directory").arg(directory.join("files/journal")).args([
            "-o",
            "json",
            "--all",
            "CONTAINER_NAME=web",
        ]);
        let text = String::from_utf8(journalctl.output().unwrap().stdout).unwrap();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let entries = until("all of it is there", || Some(read()).filter(|entries| entries.len() == 6));
    let said: Vec<(String, &str, bool)> = entries
        .iter()
        .map(|entry| {
            // What is not printable comes as numbers.
            let message = match &entry["MESSAGE"] {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Array(bytes) => bytes
                    .iter()
                    .map(|byte| char::from(u8::try_from(byte.as_u64().unwrap()).unwrap()))
                    .collect(),
                other => panic!("{other}"),
            };
            let part = entry.get("CONTAINER_PARTIAL_MESSAGE").is_some();
            (message, entry["PRIORITY"].as_str().unwrap(), part)
        })
        .collect();
    let wanted = [
        ("one".to_owned(), "6", false),
        ("two".to_owned(), "6", false),
        ("y".repeat(16 << 10), "6", true),
        ("y".repeat(20_000 - (16 << 10)), "6", false),
        ("a\tb\u{1}c".to_owned(), "6", false),
        ("end".to_owned(), "3", false),
    ];
    assert!(said.iter().all(|entry| wanted.contains(entry)), "{said:?}");
    // The streams may come in any order among each other.
    assert_eq!(
        said.iter().filter(|entry| entry.1 == "6").collect::<Vec<_>>(),
        wanted[..5].iter().collect::<Vec<_>>()
    );
}
