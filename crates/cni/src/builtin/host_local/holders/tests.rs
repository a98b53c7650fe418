use std::cell::Cell;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::super::run;
use super::super::store::Store;
use super::*;
use crate::command::Command as Verb;
use crate::request::Request;

thread_local! {
    /// How many addresses' files a thread has read.
    pub(super) static READ: Cell<usize> = const { Cell::new(0) };
}

fn id(container_id: &str) -> AttachmentId {
    AttachmentId { container_id: container_id.into(), ifname: "eth0".into() }
}

fn ip(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

fn give(dir: &Path, number: u32, container_id: &str) {
    fs::write(dir.join(ip(number).to_string()), format!("{container_id}\r\neth0")).unwrap();
}

/// Has those take turns who count what is read, and who have the process miss something.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On a file system that can be listened to, whatever tests have for theirs: in a container it may be overlay.
fn own_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// What a thread reads for an ADD and a DEL.
fn files_read(store: &Store) -> usize {
    let before = READ.get();
    let mut locked = store.lock().unwrap();
    assert!(!locked.is_taken(ip(1)) && locked.owned(&id("own")).next().is_none());
    assert!(locked.take(ip(1), &id("own")).unwrap());
    drop(locked);
    assert_eq!(store.lock().unwrap().release(&id("own")).unwrap(), [ip(1)]);
    READ.get() - before
}

#[test]
fn an_address_costs_the_same_however_many_others_there_are() {
    let _turn = turn();
    let dir = own_dir();
    let store = Store::of(dir.path().to_owned());
    for others in [10, 1000] {
        (0..others).for_each(|number| give(dir.path(), 1000 + number, "other"));
        // The first in a process reads all of them, and so does the second, which listens from then on.
        files_read(&store);
        assert_eq!(files_read(&store), 3, "of {others} others");
        assert_eq!(files_read(&store), 3, "of {others} others");
    }
}

#[test]
fn who_comes_but_once_does_not_listen() {
    let dir = own_dir();
    give(dir.path(), 2, "other");
    let once = Holders::read(dir.path(), Memory::Nothing).unwrap();
    assert!(once.hearing.ears().is_none() && once.of.len() == 1);
    let again = Holders::read(dir.path(), once.remember()).unwrap();
    assert!(again.hearing.ears().is_some());
}

/// What is known of a directory, after it has been listened to.
fn heard(dir: &Path, memory: Memory) -> Memory {
    let known = Holders::read(dir, memory).unwrap();
    assert_eq!(known.of, read_all(dir).unwrap());
    known.remember()
}

#[test]
fn what_was_missed_is_read_anew() {
    let _turn = turn();
    let parent = own_dir();
    let dir = parent.path().join("net");
    fs::create_dir(&dir).unwrap();
    give(&dir, 2, "a");
    let mut memory = heard(&dir, Memory::Visited);
    // Another directory in its place.
    fs::rename(&dir, parent.path().join("old")).unwrap();
    fs::create_dir(&dir).unwrap();
    give(&dir, 3, "b");
    memory = heard(&dir, memory);
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    give(&dir, 4, "c");
    memory = heard(&dir, memory);
    assert!(matches!(memory, Memory::Known(_)));
    // More changes than the kernel keeps.
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    for _ in 0..=most.trim().parse::<usize>().unwrap() / 2 {
        fs::write(dir.join("x"), "").unwrap();
        fs::remove_file(dir.join("x")).unwrap();
    }
    give(&dir, 5, "d");
    heard(&dir, memory);
}

/// Each is told what the other one does, though the kernel tells it but once.
#[test]
fn a_directory_by_two_paths_is_known_by_both() {
    let parent = own_dir();
    let (dir, link) = (parent.path().join("net"), parent.path().join("link"));
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink("net", &link).unwrap();
    let mut memories = [heard(&dir, Memory::Visited), heard(&link, Memory::Visited)];
    for number in 0..3 {
        give(&dir, number, "a");
        let [one, other] = memories;
        memories = [heard(&dir, one), heard(&link, other)];
    }
}

fn add(data: &Path, container_id: &str, asked: &[&str]) -> Result<String, Error> {
    let config = json!({"cniVersion": "1.0.0", "name": "net", "runtimeConfig": {"ips": asked},
        "ipam": {"type": "host-local", "dataDir": data, "subnet": "10.0.0.0/29"}});
    let config = config.as_object().unwrap().clone();
    let mut request = Request::about_network("host-local", Verb::Add, config);
    (request.container_id, request.ifname) = (container_id.into(), "eth0".into());
    run(&request).map(|result| result.unwrap().ips[0].address.address.to_string())
}

/// Gives an address, and nobody is told.
fn give_unheard(dir: &Path, number: u32, container_id: &str) {
    give(dir, number, container_id);
    let store = Store::of(dir.to_owned());
    let Memory::Known(known) = &*store.memory() else { panic!("{dir:?} isn't listened to") };
    assert!(known.hearing.ears().unwrap().changed().unwrap().contains(&ip(number)));
}

/// As on a directory that another machine writes, of which this kernel says nothing.
#[test]
fn an_address_that_somebody_has_unheard_of_is_not_given() {
    let _turn = turn();
    let data = own_dir();
    let dir = data.path().join("net");
    assert_eq!(add(data.path(), "a", &[]).unwrap(), "10.0.0.2");
    assert_eq!(add(data.path(), "b", &[]).unwrap(), "10.0.0.3");
    give_unheard(&dir, 4, "other");
    assert_eq!(add(data.path(), "c", &[]).unwrap(), "10.0.0.5");
    assert_eq!(fs::read_to_string(dir.join("10.0.0.4")).unwrap(), "other\r\neth0");
    assert!(!dir.join(".knarr").exists());
    // What is remembered was wrong, and isn't believed again.
    assert!(matches!(*Store::of(dir.clone()).memory(), Memory::Visited));
    Store::of(dir.clone()).lock().unwrap();
    give_unheard(&dir, 6, "other");
    let refused = add(data.path(), "d", &["10.0.0.6"]).unwrap_err();
    assert!(matches!(refused, Error::AddressUnavailable { .. }), "{refused}");
    // Nor has anybody a second one, or one too many.
    fs::remove_file(dir.join("10.0.0.6")).unwrap();
    Store::of(dir.clone()).lock().unwrap();
    give_unheard(&dir, 6, "d");
    let held = add(data.path(), "d", &[]).unwrap_err();
    assert!(matches!(held, Error::AddressHeld { .. }), "{held}");
    let exhausted = add(data.path(), "e", &[]).unwrap_err();
    assert!(matches!(exhausted, Error::AddressesExhausted { .. }), "{exhausted}");
}

#[test]
fn what_cannot_be_listened_to_is_read_at_every_lock() {
    // No address is there, but entries as in any directory.
    let mut memory = Memory::Nothing;
    for _ in 0..3 {
        memory = Holders::read(Path::new("/proc/self"), memory).unwrap().remember();
        assert!(matches!(memory, Memory::Visited | Memory::Unheard), "{memory:?}");
    }
    assert!(matches!(memory, Memory::Unheard), "{memory:?}");
}

/// Whether they are read for the first time or changed since.
#[test]
fn a_name_that_is_no_address_s_own_is_nobody_s() {
    let dir = own_dir();
    let mut memory = Memory::Nothing;
    for owner in ["a", "b", "c"] {
        for name in ["fd00::0002", "FD00::a", "fd00:0::3", "::ffff:a00:2"] {
            fs::write(dir.path().join(name), format!("{owner}\r\neth0")).unwrap();
        }
        fs::write(dir.path().join("fd00::4"), format!("{owner}\r\neth0")).unwrap();
        let known = Holders::read(dir.path(), memory).unwrap();
        assert_eq!(known.of.keys().collect::<Vec<_>>(), [&"fd00::4".parse::<IpAddr>().unwrap()]);
        memory = known.remember();
    }
}

/// What another process may do to an address; the reference plugin creates and removes.
#[derive(Debug, Clone)]
enum Change {
    Create(u32),
    Remove(u32),
    /// As ours is written.
    Rename(u32),
    /// The same file, with another in it.
    Rewrite(u32),
    Empty(u32),
    Look,
}

fn change() -> impl Strategy<Value = Change> {
    (0..6u8, 0..4u32).prop_map(|(kind, number)| match kind {
        0 => Change::Create(number),
        1 => Change::Remove(number),
        2 => Change::Rename(number),
        3 => Change::Rewrite(number),
        4 => Change::Empty(number),
        _ => Change::Look,
    })
}

proptest! {
    /// However fast one change follows the other, and whatever name or inode comes again.
    #[test]
    fn what_others_change_is_known(changes in prop::collection::vec(change(), 0..60)) {
        let dir = own_dir();
        let mut memory = heard(dir.path(), Memory::Visited);
        for (at, change) in changes.into_iter().enumerate() {
            let (path, owner) = (|number| dir.path().join(ip(number).to_string()), format!("c{at}\r\neth0"));
            match change {
                Change::Create(number) => {
                    let _ = fs::remove_file(path(number));
                    fs::write(path(number), owner).unwrap();
                }
                Change::Remove(number) => drop(fs::remove_file(path(number))),
                Change::Rename(number) => {
                    fs::write(dir.path().join("beside"), owner).unwrap();
                    fs::rename(dir.path().join("beside"), path(number)).unwrap();
                }
                Change::Rewrite(number) => fs::write(path(number), owner).unwrap(),
                Change::Empty(number) => fs::write(path(number), "").unwrap(),
                Change::Look => {
                    memory = heard(dir.path(), memory);
                    prop_assert!(matches!(memory, Memory::Known(_)));
                }
            }
        }
        heard(dir.path(), memory);
    }
}

/// The reference plugin as another runtime executes it, on the same addresses at the same time.
#[test]
fn the_reference_plugin_takes_and_gives_back_what_we_remember() {
    let plugin = Path::new("/usr/lib/cni/host-local");
    if !plugin.exists() {
        println!("skipped: no {} (Debian: containernetworking-plugins)", plugin.display());
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "host-local",
        "ipam": {"type": "host-local", "dataDir": data.path(), "subnet": "10.0.0.0/24"}});
    let run = |verb: &str, container_id: &str| {
        let mut command = Command::new(plugin);
        command.env_clear().envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", container_id)]);
        command.envs([("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/x"), ("CNI_PATH", "/usr/lib/cni")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        io::Write::write_all(&mut child.stdin.take().unwrap(), conf.to_string().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{verb} {container_id}");
    };
    let dir = data.path().join("net");
    let store = Store::of(dir.clone());
    std::thread::scope(|scope| {
        let theirs = scope.spawn(|| {
            for round in 0..20 {
                run("ADD", &format!("theirs{round}"));
                run("ADD", &format!("gone{round}"));
                run("DEL", &format!("gone{round}"));
            }
        });
        let mut round = 0;
        while !theirs.is_finished() || round < 20 {
            let mut locked = store.lock().unwrap();
            let free = (2..255).map(ip).find(|address| !locked.is_taken(*address)).unwrap();
            assert!(!dir.join(free.to_string()).exists(), "{free} is somebody's");
            assert!(locked.take(free, &id("ours")).unwrap());
            assert_eq!(locked.owned(&id("ours")).collect::<Vec<_>>(), [free]);
            drop(locked);
            assert_eq!(store.lock().unwrap().release(&id("ours")).unwrap(), [free]);
            round += 1;
        }
        theirs.join().unwrap();
    });
    for round in 0..20 {
        let theirs = id(&format!("theirs{round}"));
        assert_eq!(store.lock().unwrap().release(&theirs).unwrap().len(), 1, "{theirs:?}");
    }
    assert!(store.lock().unwrap().owned(&id("ours")).next().is_none());
    assert!(read_all(&dir).unwrap().is_empty());
}
