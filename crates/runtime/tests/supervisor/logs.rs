//! What containers write, and where it ends up.

use std::fs;

use runtime::spec::oci;
use runtime::wire::{Event, Reply, Request, Scope, Stdin, Target};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use crate::patience::until;
use crate::rig::{self, Rig, container, content, edit_process, lines};

fn reopen(container: &str) -> Request {
    Request::ReopenLog { container: container.to_owned() }
}

#[test]
fn long_lines_are_split_and_come_back() {
    let (rig, mut client) = Rig::new();
    let script =
        "head -c 40000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo; echo z";
    rig.start(&mut client, &container("c1", script));
    assert_eq!(client.exit("c1").exit_code, 0);
    let log = rig.log("c1");
    let tags: Vec<&str> = log.iter().map(|line| &line[..9]).collect();
    assert_eq!(tags, ["stdout P ", "stdout P ", "stdout F ", "stdout F ", "stdout F "]);
    assert!(log.iter().all(|line| line.len() <= 9 + (16 << 10)));
    assert_eq!(content(&log), format!("{}\n{}\nz\n", "x".repeat(40000), "y".repeat(16384)));
}

#[test]
fn a_log_that_is_rotated_while_it_is_written_has_every_line_once() {
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "seq 1 200000"));
    let mut rotated = Vec::new();
    for number in 0..20 {
        let to = rig.directory.path().join(format!("logs/c1.{number}"));
        if fs::rename(rig.log_path("c1"), &to).is_ok() {
            rotated.push(to);
        }
        match client.call(reopen("c1")) {
            Reply::Done => {}
            Reply::Gone => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.exit("c1").exit_code, 0);
    if rig.log_path("c1").exists() {
        rotated.push(rig.log_path("c1"));
    }
    let all: Vec<String> = rotated.iter().flat_map(|path| lines(path)).collect();
    let wanted: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(content(&all) == wanted, "{} lines in {} files", all.len(), rotated.len());
}

#[test]
fn a_line_that_is_being_written_goes_on_in_the_new_log() {
    let (rig, mut client) = Rig::new();
    let mut typist = container("c1", "printf 'one\\ntw'; read x; printf 'o\\nthree'");
    typist.stdin = Stdin::Open;
    // Until there is attach nobody can write to it: it ends its line when the shell's `read` is interrupted.
    typist.spec = rig::spec(&[
        "sh",
        "-c",
        "trap 'printf \"o\\nthree\"; exit 0' TERM; printf 'one\\ntw'; while :; do sleep 0.01; done",
    ]);
    rig.start(&mut client, &typist);
    until("the first line is there", || (rig.log("c1") == ["stdout F one"]).then_some(()));
    let old = rig.directory.path().join("logs/c1.old");
    fs::rename(rig.log_path("c1"), &old).unwrap();
    assert_eq!(client.call(reopen("c1")), Reply::Done);
    let term = rig::signal(Target::Container("c1".to_owned()), Signal::TERM, Scope::Init);
    assert_eq!(client.call(term), Reply::Done);
    assert_eq!(client.exit("c1").exit_code, 0);
    assert_eq!(lines(&old), ["stdout F one"]);
    assert_eq!(rig.log("c1"), ["stdout F two", "stdout F three"]);
}

#[test]
fn a_log_that_cannot_be_reopened_goes_on_where_it_was() {
    let (rig, mut client) = Rig::new();
    rig.start(
        &mut client,
        &container("c1", "trap 'echo last; exit 0' TERM; echo first; while :; do sleep 0.01; done"),
    );
    until("the first line is there", || (rig.log("c1") == ["stdout F first"]).then_some(()));
    let old = rig.directory.path().join("old.log");
    fs::rename(rig.log_path("c1"), &old).unwrap();
    std::os::unix::fs::symlink("/dev/null", rig.log_path("c1")).unwrap();
    let reply = client.call(reopen("c1"));
    assert!(matches!(reply, Reply::Failed(_)), "{reply:?}");
    let term = rig::signal(Target::Container("c1".to_owned()), Signal::TERM, Scope::Init);
    assert_eq!(client.call(term), Reply::Done);
    client.exit("c1");
    assert_eq!(lines(&old), ["stdout F first", "stdout F last"]);
    assert_eq!(client.call(reopen("nobody")), Reply::Gone);
}

/// A mount that goes away with the test.
struct Tmpfs(std::path::PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_stops_no_container_and_is_told_once() {
    let (rig, mut client) = Rig::new();
    let directory = rig.directory.path().join("small");
    fs::create_dir(&directory).unwrap();
    mount("small", &directory, "tmpfs", MountFlags::empty(), Some(c"size=256k")).unwrap();
    let small = Tmpfs(directory.clone());
    let (mut start, descriptors) = rig.request(&container("c1", "seq 1 100000; exit 6"));
    start.log = Some(directory.join("c1.log"));
    let borrowed: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
    let reply = client.call_with(Request::Start(Box::new(start)), &borrowed);
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    assert_eq!(client.exit("c1").exit_code, 6);
    let failure = |event: &Event| match event {
        Event::LogWriteFailed { container, errno, .. } => Some((container.clone(), *errno)),
        _ => None,
    };
    let told = client.event("log failure", failure);
    assert_eq!(told, ("c1".to_owned(), rustix::io::Errno::NOSPC.raw_os_error()));
    client.snapshot();
    assert!(!client.has_event(|event| failure(event).is_some()), "told more than once");
    assert!(fs::metadata(directory.join("c1.log")).unwrap().len() > 100_000);
    drop(small);
}

#[test]
fn a_terminal_is_one_stream() {
    let (rig, mut client) = Rig::new();
    let mut terminal = container("c1", "tty; stty size; echo problem >&2; exit 2");
    edit_process(&mut terminal.spec, |process| {
        process
            .set_terminal(Some(true))
            .set_console_size(Some(oci::BoxBuilder::default().height(24_u64).width(80_u64).build().unwrap()));
    });
    rig.start(&mut client, &terminal);
    assert_eq!(client.exit("c1").exit_code, 2);
    let log = rig.log("c1");
    let said: Vec<&str> = log.iter().map(|line| line.trim_end_matches('\r')).collect();
    assert_eq!(said.len(), 3, "{log:?}");
    assert!(said[0].starts_with("stdout F /dev/pts/"), "{log:?}");
    assert_eq!(said[1..], ["stdout F 24 80", "stdout F problem"]);
}

#[test]
fn a_log_has_its_mode_and_follows_no_link() {
    use std::os::unix::fs::PermissionsExt;
    let (rig, mut client) = Rig::new();
    rig.start(&mut client, &container("c1", "echo here"));
    client.exit("c1");
    assert_eq!(fs::metadata(rig.log_path("c1")).unwrap().permissions().mode() & 0o7777, 0o640);
    let victim = rig.directory.path().join("victim");
    fs::write(&victim, "").unwrap();
    std::os::unix::fs::symlink(&victim, rig.log_path("c2")).unwrap();
    let reply = rig.try_start(&mut client, &container("c2", "echo here"));
    assert!(matches!(reply, Reply::Failed(_)), "{reply:?}");
    assert_eq!(fs::read(&victim).unwrap(), b"");
}

#[test]
fn what_is_no_file_is_no_log_and_is_told_as_that() {
    let (rig, mut client) = Rig::new();
    let path = rig.log_path("c1");
    rig.start(&mut client, &container("c1", "exec sleep 1000"));
    let mut refused = |what: &str| match client.call(Request::ReopenLog { container: "c1".to_owned() }) {
        Reply::Failed(failure) => failure.to_string(),
        other => panic!("{what}: {other:?}"),
    };
    let log = path.display();
    let no_file = format!("cannot open log \"{log}\": it is not a regular file");
    fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    assert_eq!(refused("FIFO"), no_file);
    fs::remove_file(&path).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_eq!(refused("socket"), no_file);
    drop(socket);
    fs::remove_file(&path).unwrap();
    for target in ["/etc/hostname", "/dev/null", "nothing"] {
        std::os::unix::fs::symlink(target, &path).unwrap();
        assert_eq!(refused(target), no_file);
        fs::remove_file(&path).unwrap();
    }
    fs::create_dir(&path).unwrap();
    assert_eq!(refused("directory"), no_file);
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let nowhere = format!("cannot open log \"{log}\": No such file or directory (os error 2)");
    assert_eq!(refused("nothing"), nowhere);
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::create_dir(rig.log_path("c2")).unwrap();
    match rig.try_start(&mut client, &container("c2", "echo here")) {
        Reply::Failed(failure) => assert!(failure.to_string().ends_with("not a regular file"), "{failure}"),
        other => panic!("{other:?}"),
    }
}
