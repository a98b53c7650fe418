//! From create to delete.

use std::fs;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;

use crate::patience::until;
use crate::rig::Rig;

fn is_there(pid: &serde_json::Value) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_container_is_created_started_joined_killed_and_deleted() {
    let rig = Rig::new("echo ran; exec sleep 1000");
    let pid_file = rig.file("pid");
    rig.make(&["create", "--pid-file", pid_file.to_str().unwrap(), "c"]).ok();
    let created = rig.state();
    assert_eq!(
        (&created["status"], &created["id"], &created["bundle"]),
        (&json!("created"), &json!("c"), &json!(rig.bundle()))
    );
    assert_eq!(fs::read_to_string(pid_file).unwrap(), created["pid"].to_string());
    assert!(is_there(&created["pid"]));
    assert_eq!(rig.output(), "", "nothing runs before the start");
    assert!(rig.make(&["create", "c"]).refused().contains("there is a container \"c\" already"));
    assert!(rig.call(&["delete", "c"]).refused().contains("it is created"));
    rig.call(&["start", "c"]).ok();
    let running = rig.wait_for("running");
    assert_eq!(running["pid"], created["pid"]);
    assert!(rig.call(&["start", "c"]).refused().contains("cannot start container \"c\": it is running"));
    assert!(rig.call(&["delete", "c"]).refused().contains("it is running"));
    until("the output", || (rig.output() == "ran\n").then_some(()));

    let joined = rig.call(&[
        "exec",
        "--cwd",
        "/tmp",
        "--env",
        "A=b",
        "--user",
        "33:34",
        "c",
        "sh",
        "-c",
        "echo $A $PWD; id -u; id -g; exit 7",
    ]);
    assert_eq!((joined.code, joined.out.as_str()), (7, "b /tmp\n33\n34\n"));
    assert!(rig.call(&["exec", "c", "/not/there"]).refused().contains("cannot execute \"/not/there\""));
    assert!(rig.call(&["list", "--quiet"]).ok().contains('c'));
    let procs: Vec<i32> = serde_json::from_str(&rig.call(&["ps", "c"]).ok()).unwrap();
    assert_eq!(json!(procs), json!([created["pid"]]));

    rig.call(&["kill", "c", "SIGKILL"]).ok();
    let stopped = rig.wait_for("stopped");
    assert_eq!(stopped["pid"], 0);
    for words in [&["kill", "c", "TERM"][..], &["start", "c"], &["exec", "c", "true"]] {
        assert!(rig.call(words).refused().contains("it is stopped"));
    }
    rig.call(&["delete", "c"]).ok();
    assert!(rig.call(&["state", "c"]).refused().contains("container \"c\" does not exist"));
    rig.assert_nothing_left();
}

#[test]
fn run_does_it_all_and_answers_with_the_exit_code() {
    let rig = Rig::new("echo out; exit 9");
    let said = rig.make(&["run", "c"]);
    assert_eq!((said.code, said.out.as_str()), (9, "out\n"));
    rig.assert_nothing_left();
}

#[test]
fn a_created_container_can_be_killed_and_deleted_by_force() {
    let rig = Rig::new("echo never");
    rig.make(&["create", "c"]).ok();
    rig.call(&["kill", "c", "9"]).ok();
    rig.wait_for("stopped");
    rig.call(&["delete", "c"]).ok();
    rig.assert_nothing_left();
    rig.make(&["create", "c"]).ok();
    let pid = rig.state()["pid"].clone();
    rig.call(&["delete", "--force", "c"]).ok();
    assert!(!is_there(&pid));
    rig.call(&["delete", "--force", "c"]).ok();
    assert_eq!(rig.output(), "");
    rig.assert_nothing_left();
}

#[test]
fn hooks_run_around_and_one_that_fails_leaves_nothing() {
    let mut rig = Rig::new("exec sleep 1000");
    let log = rig.file("hooks");
    let hook = |word: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {word} >>{}", log.display())] }]);
    rig.config["hooks"] = json!({
        "prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "createContainer": hook("createContainer"),
        "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "cat >/tmp/state"] }],
        "poststart": hook("poststart"), "poststop": hook("poststop"),
    });
    rig.make(&["create", "c"]).ok();
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(lines(), "prestart\ncreateRuntime\ncreateContainer\n");
    let state = rig.file("bundle/rootfs/tmp/state");
    assert!(!state.exists());
    rig.call(&["start", "c"]).ok();
    assert!(fs::read_to_string(state).unwrap().contains("\"status\":\"created\""));
    assert!(lines().ends_with("\npoststart\n"));
    rig.call(&["delete", "--force", "c"]).ok();
    assert!(lines().ends_with("\npoststop\n"));
    rig.assert_nothing_left();

    fs::remove_file(&log).unwrap();
    rig.config["hooks"]["createContainer"] =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo broken >&2; exit 5"] }]);
    let error = rig.make(&["create", "c"]).refused();
    assert!(
        error.contains("hook createContainer[0] \"/bin/sh\" ended with exit code 5: \"broken\""),
        "{error}"
    );
    assert_eq!(lines(), "prestart\ncreateRuntime\npoststop\n");
    rig.assert_nothing_left();

    rig.config["hooks"] = json!({ "poststart": [{ "path": "/bin/false" }] });
    rig.make(&["create", "c"]).ok();
    assert!(rig.call(&["start", "c"]).refused().contains("hook poststart[0]"));
    rig.wait_for("stopped");
    rig.call(&["delete", "c"]).ok();
}

#[test]
fn a_terminal_is_handed_to_whoever_listens() {
    let mut rig = Rig::new("tty; read line; echo got $line");
    rig.config["process"]["terminal"] = json!(true);
    assert!(rig.make(&["create", "c"]).refused().contains("process.terminal: needs --console-socket"));
    let path = rig.file("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rig.make(&["create", "--console-socket", path.to_str().unwrap(), "c"]).ok();
    let (stream, _) = listener.accept().unwrap();
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut buffer = [0; 64];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let descriptor = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    #[expect(unsafe_code, reason = "a descriptor that has just come")]
    // SAFETY: the message has brought it, and nothing else knows its number.
    let terminal = unsafe { OwnedFd::from_raw_fd(descriptor.unwrap()) };
    rig.call(&["start", "c"]).ok();
    rustix::io::write(&terminal, b"word\n").unwrap();
    let mut terminal = fs::File::from(terminal);
    let mut said = String::new();
    until("the answer", || {
        let mut some = [0; 256];
        let length = terminal.read(&mut some).unwrap_or(0);
        said += &String::from_utf8_lossy(&some[..length]);
        said.contains("got word").then_some(())
    });
    assert!(said.contains("/dev/pts/0") || said.contains("/dev/console"), "{said}");
    rig.wait_for("stopped");
}
