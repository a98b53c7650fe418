//! What is forbidden fails, from within such a thread, and what is needed works; nobody else notices.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use super::*;

/// Whether a call can be made, in a few words.
fn tried<T, E: std::fmt::Display>(outcome: Result<T, E>) -> String {
    outcome.map_or_else(|error| error.to_string(), |_| "done".to_owned())
}

/// Runs `work` on a thread that has entered.
fn confined<T: Send>(rights: Rights, below: &Path, work: impl FnOnce() -> T + Send) -> T {
    let confinement = Confinement::below(below);
    let run = move || {
        confinement.enter(rights).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn status(key: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

/// Files of the store's can be made, written, moved and removed, in threads of its own too.
#[test]
fn what_the_work_needs_can_be_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    confined(Rights::None, dir.path(), || {
        fs::create_dir_all(path("ingest/a")).unwrap();
        fs::create_dir(path("layers")).unwrap();
        let mut file = File::create(path("ingest/a/image")).unwrap();
        file.write_all(b"bytes").unwrap();
        file.sync_data().unwrap();
        std::os::unix::fs::symlink("anywhere", path("ingest/a/link")).unwrap();
        fs::rename(path("ingest/a"), path("layers/a")).unwrap();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        let read = std::thread::Builder::new().name("digest".into());
        let read = read.spawn({
            let path = path("layers/a/image");
            move || (fs::read(path).unwrap(), tried(File::open("/etc/passwd")))
        });
        let (bytes, others) = read.unwrap().join().unwrap();
        assert_eq!(bytes, b"bytes");
        assert_ne!(others, "done", "a thread that it starts is as confined");
        fs::remove_dir_all(path("layers")).unwrap();
        let _memory = vec![0u8; 64 << 20];
        #[expect(clippy::disallowed_methods, reason = "whether it may sleep is what is tried")]
        std::thread::sleep(std::time::Duration::from_millis(1));
    });
}

#[test]
fn nothing_is_started_connected_mounted_or_traced() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let own = std::process::id();
    let outcomes = confined(Rights::Files, dir.path(), || {
        use nix::sched::CloneFlags;
        [
            ("a program", tried(Command::new("/bin/true").status())),
            ("a connection", tried(TcpStream::connect(address))),
            ("a socket", tried(UnixDatagram::unbound())),
            ("a mount namespace", tried(nix::sched::unshare(CloneFlags::CLONE_NEWNS))),
            ("a user namespace", tried(nix::sched::unshare(CloneFlags::CLONE_NEWUSER))),
            ("a filesystem", tried(rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::empty()))),
            ("a mount", tried(rustix::mount::mount_bind(dir.path(), dir.path()))),
            ("a new root", tried(rustix::process::chroot(dir.path()))),
            ("a kernel's name", tried(rustix::system::sethostname(b"stranger"))),
            ("a signal", tried(nix::sys::signal::kill(nix::unistd::Pid::from_raw(own.cast_signed()), None))),
            ("a file in memory", tried(rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC))),
        ]
    });
    for (what, outcome) in outcomes {
        assert!(outcome.contains("not implemented") || outcome.contains("ENOSYS"), "{what}: {outcome}");
    }
}

#[test]
fn nothing_outside_of_the_directory_is_read_or_changed() {
    let dir = tempfile::tempdir().unwrap();
    let [inside, outside] = ["in", "out"].map(|name| dir.path().join(name));
    for path in [&inside, &outside] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("file"), "kept").unwrap();
    }
    std::os::unix::fs::symlink("../out/file", inside.join("link")).unwrap();
    if sys::landlock_version().is_none_or(|version| version < LEAST_VERSION) {
        println!("skipped: this kernel has no Landlock");
        return;
    }
    for rights in [Rights::None, Rights::Files, Rights::Deletion] {
        all_is_refused(rights, (inside.as_path(), outside.as_path()));
    }
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

/// Whatever leads out.
fn all_is_refused(rights: Rights, (inside, outside): (&Path, &Path)) {
    let outcomes = confined(rights, inside, || {
        [
            ("read", tried(fs::read(outside.join("file")))),
            ("read through a link", tried(fs::read(inside.join("link")))),
            ("read from above", tried(fs::read_dir(inside.join("..")))),
            ("write", tried(fs::write(outside.join("file"), "changed"))),
            ("write through a link", tried(fs::write(inside.join("link"), "changed"))),
            ("create", tried(File::create(outside.join("new")))),
            ("remove", tried(fs::remove_file(outside.join("file")))),
            ("move out", tried(fs::rename(inside.join("file"), outside.join("moved")))),
            ("move in", tried(fs::rename(outside.join("file"), inside.join("moved")))),
            ("link", tried(fs::hard_link(outside.join("file"), inside.join("linked")))),
        ]
    });
    for (what, outcome) in outcomes {
        assert!(outcome.contains("denied") || outcome.contains("cross-device"), "{what}: {outcome}");
    }
}

#[test]
fn rights_are_gone_and_those_of_other_threads_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let before = ["CapEff", "NoNewPrivs", "Seccomp"].map(status);
    let own = |rights| {
        let held = capabilities(None).unwrap();
        confined(rights, dir.path(), move || {
            let now = capabilities(None).unwrap();
            assert_eq!(now.permitted, held.permitted & rights.set());
            (now.effective, now.inheritable, tried(set_capabilities(None, held)))
        })
    };
    let (effective, inheritable, again) = own(Rights::None);
    assert!(effective.is_empty() && inheritable.is_empty());
    assert_ne!(again, "done", "what is given up doesn't come back");
    let (effective, ..) = own(Rights::Files);
    assert_eq!(effective, capabilities(None).unwrap().permitted & Rights::Files.set());
    assert_eq!(["CapEff", "NoNewPrivs", "Seccomp"].map(status), before);
    assert!(Command::new("/bin/true").status().unwrap().success());
}

/// What the kernel keeps and runs for each call of such a thread.
#[test]
fn a_filter_is_small() {
    let filter = calls::filter().unwrap();
    assert!(filter.program.len() < 320, "{} instructions", filter.program.len());
}
