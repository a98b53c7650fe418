//! Containers of an external runtime: a scripted one, that does what a runtime must, or fails at it in one of many ways.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::FailedStep;
use runtime::container::Until;
use runtime::external::{External, ExternalRuntime, KNOWN};
use runtime::record::read_exit;
use runtime::wire::{AttachedInput, Reply, Request, Scope, StartContainer, Stdin, Stream, Target};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use crate::client::Client;
use crate::patience::{slowness, until};
use crate::rig::{self, Rig, is_alive};

/// What every operation finds: its command line, in variables.
const READ: &str = r#"#!/bin/sh
log=; bundle=.; pid=; operands=
while [ $# -gt 0 ]; do
  case "$1" in
    --log) log=$2; shift 2 ;;
    --bundle) bundle=$2; shift 2 ;;
    --pid-file) pid=$2; shift 2 ;;
    --log-format|--process|--console-socket) shift 2 ;;
    --*) shift ;;
    *) operands="$operands $1"; shift ;;
  esac
done
set -- $operands; verb=$1; id=$2; signal=$3
echo "$verb" >> verbs
fail() { echo "{\"level\":\"error\",\"msg\":\"$1\"}" >> "$log"; exit 1; }
# For what is begun in the background and may end soon: waits until the shell has become a program that waits for no child. It
# would wait for this one; runtimes don't.
left() { while read -r name < "/proc/$$/comm" && [ "$name" = runtime ]; do sleep 0.01; done 2> /dev/null; }
# Waits until a process has ended.
ended() { while grep -q '^State:.[RSDT]' "/proc/$1/status" 2> /dev/null; do sleep 0.01; done; }
"#;

/// A runtime: how it does each operation. Its containers wait for `start`, then run what is in the file `command`.
struct Script {
    create: &'static str,
    start: &'static str,
    exec: &'static str,
    kill: &'static str,
    delete: &'static str,
}

/// How long a runtime may take that hangs, in milliseconds: longer than it takes to come to that, however busy the machine.
const HANGING_MS: u64 = 3000;

const CREATE: &str =
    r#"(while ! [ -e go ]; do sleep 0.01; done; exec sh -c "$(cat command)") & echo $! | tee own > "$pid""#;

const GOOD: Script = Script {
    create: CREATE,
    start: "touch go",
    exec: "(left; exec sh -c \"$(cat exec)\") & echo $! > \"$pid\"; exec sleep 0.05",
    kill: "kill -$signal $(cat own)",
    delete: "[ -e own ] && kill -9 $(cat own) 2>/dev/null; true",
};

impl Script {
    fn text(&self) -> String {
        let Self { create, start, exec, kill, delete } = self;
        format!(
            "{READ}case $verb in\ncreate) {create} ;;\nstart) {start} ;;\nexec) {exec} ;;\nkill) {kill} ;;\ndelete) {delete} ;;\nesac\n"
        )
    }
}

fn bundle(rig: &Rig) -> PathBuf {
    rig.directory.path().join("bundle")
}

/// Writes a program, in a process of its own: what is open for writing here is open in any child, too, that another test starts at
/// that moment, until it has executed something; and until then nobody can execute this (ETXTBSY).
fn install(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

/// A request for a container of this runtime, which runs `command`.
fn request(rig: &Rig, script: &Script, command: &str) -> StartContainer {
    let bundle = bundle(rig);
    fs::create_dir_all(&bundle).unwrap();
    fs::write(bundle.join("command"), command).unwrap();
    let path = rig.directory.path().join("runtime");
    install(&path, &script.text());
    let spec = rig::spec(&["true"]);
    let mut plan = rig::planned(&spec, &rig::namespaces());
    plan.sources.clear();
    StartContainer {
        container: "c1".to_owned(),
        plan,
        cgroup: rig.cgroup("c1"),
        log: Some(rig.log_path("c1")),
        log_limits: None,
        log_copy: None,
        stdin: Stdin::Null,
        deadline_ms: 10_000 * u64::from(slowness()),
        until: Until::Executed,
        streams: Vec::new(),
        external: Some(External {
            runtime: ExternalRuntime { path, args: vec!["--root=/x".to_owned()] },
            bundle,
        }),
    }
}

fn start(client: &mut Client, request: StartContainer) -> Reply {
    client.call(Request::Start(Box::new(request)))
}

fn running(client: &mut Client, request: StartContainer) -> i32 {
    match start(client, request) {
        Reply::Started { pid, .. } => pid,
        other => panic!("{other:?}"),
    }
}

/// What was told of a start that has failed.
fn refused(client: &mut Client, request: StartContainer) -> String {
    match start(client, request) {
        Reply::Failed(failure) => {
            assert_eq!(failure.step, FailedStep::ExternalRuntime, "{failure}");
            assert!(client.snapshot().containers.is_empty(), "one that never ran is not kept");
            failure.to_string()
        }
        other => panic!("{other:?}"),
    }
}

fn verbs(rig: &Rig) -> String {
    fs::read_to_string(bundle(rig).join("verbs")).unwrap_or_default().replace('\n', " ")
}

/// The files of calls in the bundle (`runtime::external` has the table of them).
fn no_files_of_calls(rig: &Rig) {
    until("no file of a call is left", || {
        let mut files = fs::read_dir(bundle(rig)).unwrap().map(|entry| entry.unwrap().path());
        let is_of_one = |ending: &str| matches!(ending, "pid" | "json" | "log");
        (!files.any(|path| path.extension().is_some_and(|e| is_of_one(&e.to_string_lossy())))).then_some(())
    });
}

/// Waits until the supervisor has no children, zombies included.
fn childless(rig: &Rig) {
    until("no child is left", || {
        let task = format!("/proc/{0}/task/{0}/children", rig.pid());
        fs::read_to_string(task).unwrap().trim().is_empty().then_some(())
    });
}

#[test]
fn a_container_runs_logs_and_exits() {
    let (rig, mut client) = Rig::new();
    let pid = running(&mut client, request(&rig, &GOOD, "echo out; echo err >&2; exit 7"));
    let exit = client.exit("c1");
    assert_eq!((exit.exit_code, exit.signal, exit.pid), (7, None, pid));
    let mut lines = rig.log("c1");
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    assert_eq!(verbs(&rig), "create start delete ", "forgotten when its end is told");
    assert!(!bundle(&rig).join(KNOWN).exists());
    no_files_of_calls(&rig);
    assert_eq!(read_exit(&rig.pod().join("containers/c1")).unwrap(), Some(exit));
    childless(&rig);
}

#[test]
fn no_process_has_signals_blocked() {
    // Before the shell waits for anything: afterwards it has unblocked all signals itself.
    let script = Script {
        create: "(grep SigBlk /proc/self/status > first; exec sleep 1000) & echo $! | tee own > \"$pid\"",
        // Of a process that stays: the shell may wait for another one before anybody can adopt it.
        exec: "(grep SigBlk /proc/self/status > second; exec sleep 1000) & echo $! > \"$pid\"",
        ..GOOD
    };
    let (rig, mut client) = Rig::new();
    running(&mut client, request(&rig, &script, ""));
    let reply = exec(&rig, &mut client, ("e1", ""));
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    for file in ["first", "second"] {
        let said = || fs::read_to_string(bundle(&rig).join(file)).ok().filter(|text| text.ends_with('\n'));
        assert_eq!(until("it has said its mask", said), "SigBlk:\t0000000000000000\n", "{file}");
    }
}

#[test]
fn a_runtime_may_have_as_many_files_open_as_was_given() {
    let script = Script {
        create: "ulimit -Sn > files; (while ! [ -e go ]; do sleep 0.01; done; exec sleep 1000) & echo $! | tee own > \"$pid\"",
        ..GOOD
    };
    let (rig, mut client) = Rig::new();
    running(&mut client, request(&rig, &script, ""));
    assert_eq!(fs::read_to_string(bundle(&rig).join("files")).unwrap(), format!("{}\n", rig::GIVEN_FILES));
}

#[test]
fn clients_attach_to_a_container() {
    /// What runs in the background of a script has no input otherwise.
    const CREATE: &str = r#"exec 3<&0; (while ! [ -e go ]; do sleep 0.01; done; exec sh -c "$(cat command)") <&3 3<&- & echo $! > "$pid""#;
    let (rig, mut client) = Rig::new();
    let mut request = request(&rig, &Script { create: CREATE, ..GOOD }, "cat; exit 6");
    request.stdin = Stdin::Once;
    running(&mut client, request);
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let streams = vec![Stream::Stdin, Stream::Stdout];
    let attach = Request::Attach { container: "c1".to_owned(), attachment: "a1".to_owned(), streams };
    let (reply, mut descriptors) = client.call_for_descriptors(attach, &[writing.as_fd()]);
    assert_eq!(reply, Reply::Attached { input: AttachedInput::Pipe });
    drop(writing);
    let mut input = fs::File::from(descriptors.remove(0));
    input.write_all(b"through\n").unwrap();
    drop(input);
    let detach = Request::Detach { attachment: "a1".to_owned(), streams: vec![Stream::Stdin] };
    assert_eq!(client.call(detach), Reply::Done);
    assert_eq!(client.exit("c1").exit_code, 6);
    let mut read = String::new();
    fs::File::from(reading).read_to_string(&mut read).unwrap();
    assert_eq!(read, "through\n");
    childless(&rig);
}

#[test]
fn what_a_runtime_says_is_told_and_what_it_made_goes() {
    let failing = [
        (Script { create: "fail 'no such image'", ..GOOD }, "create: no such image", "create delete "),
        (Script { create: "echo words >> \"$log\"; exit 3", ..GOOD }, "create: words", "create delete "),
        (Script { create: "exit 3", ..GOOD }, "create: exit status 3", "create delete "),
        (Script { create: "kill -9 $$", ..GOOD }, "create: killed by signal 9", "create delete "),
        (Script { start: "fail 'no memory'", ..GOOD }, "start: no memory", "create start delete "),
        (Script { start: "echo on stderr >&2; exit 1", ..GOOD }, "start: on stderr", "create start delete "),
    ];
    for (script, said, called) in failing {
        let (rig, mut client) = Rig::new();
        let told = refused(&mut client, request(&rig, &script, "sleep 1000"));
        assert!(told.ends_with(said), "{told}");
        assert_eq!(verbs(&rig), called);
        childless(&rig);
        no_files_of_calls(&rig);
    }
    let (rig, mut client) = Rig::new();
    let mut missing = request(&rig, &GOOD, "true");
    missing.external.as_mut().unwrap().runtime.path = "/nowhere/runtime".into();
    assert!(refused(&mut client, missing).contains("create: No such file"));
    assert!(!bundle(&rig).join(KNOWN).exists(), "it was never called");
}

#[test]
fn a_pid_file_is_not_believed() {
    let lies = [
        ("", "No such file"),
        ("echo -n > \"$pid\"", "says \"\""),
        ("echo nonsense > \"$pid\"", "says \"nonsense"),
        ("echo 1 > \"$pid\"", "says \"1"),
        ("echo $PPID > \"$pid\"", "none of its own"),
        ("echo 4194303 > \"$pid\"", "is gone"),
        ("head -c 100000 /dev/zero > \"$pid\"", "says"),
        ("mkfifo \"$pid\"", "not a regular file"),
        ("ln -s /proc/self/stat \"$pid\"", "symbolic links"),
        ("mkdir \"$pid\"", "not a regular file"),
    ];
    for (create, why) in lies {
        let (rig, mut client) = Rig::new();
        let told = refused(&mut client, request(&rig, &Script { create, delete: "true", ..GOOD }, "true"));
        assert!(told.contains("pid file") && told.contains(why), "{create}: {told}");
        childless(&rig);
    }
    // Another container's process is not this one's.
    let (rig, mut client) = Rig::new();
    let first = running(&mut client, request(&rig, &GOOD, "sleep 1000"));
    // What is written for the second is written over what the first one reads its command from.
    until("the first has read its command", || {
        // Not every shell lets the only command of a script take its place.
        fs::read_to_string(format!("/proc/{first}/cmdline")).ok()?.contains("sleep").then_some(())
    });
    let second = Script { create: "cp init.first \"$pid\"", delete: "true", ..GOOD };
    fs::write(bundle(&rig).join("init.first"), first.to_string()).unwrap();
    let mut other = request(&rig, &second, "sleep 1000");
    other.container = "c2".to_owned();
    other.cgroup = rig.cgroup("c2");
    match start(&mut client, other) {
        Reply::Failed(failure) => assert!(failure.to_string().contains("another's"), "{failure}"),
        other => panic!("{other:?}"),
    }
    assert!(is_alive(first), "it has nothing to do with that");
}

#[test]
fn nothing_that_a_runtime_puts_into_the_bundle_is_waited_for() {
    // Its log is a FIFO, and it says why it failed in vain.
    let (rig, mut client) = Rig::new();
    let silent = Script { create: "rm -f \"$log\"; mkfifo \"$log\"; exit 3", ..GOOD };
    let told = refused(&mut client, request(&rig, &silent, "true"));
    assert!(told.ends_with("create: exit status 3"), "{told}");
    childless(&rig);
    // FIFOs under every name that a later call needs.
    let (rig, mut client) = Rig::new();
    let planted = "mkfifo init-start.log init-delete.log e1.json e1.pid e1-exec.log";
    let create: &'static str = format!("{planted}; {CREATE}").leak();
    // It ends after the runtime's own process, which would wait for it otherwise.
    let exec_script =
        "rm -f \"$pid\"; (while [ -d /proc/$$ ]; do sleep 0.01; done; exit 3) & echo $! > \"$pid\"";
    let planting = Script { create, exec: exec_script, ..GOOD };
    running(&mut client, request(&rig, &planting, "sleep 1000"));
    let reply = exec(&rig, &mut client, ("e1", ""));
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    assert_eq!(client.exec_exit("e1"), 3);
    let kill = rig::signal(Target::Container("c1".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(kill), Reply::Done);
    assert_eq!(client.exit("c1").exit_code, 137);
    childless(&rig);
}

#[test]
fn a_runtime_that_hangs_is_killed_with_all_that_it_started_and_nobody_waits() {
    let hanging = [
        (
            Script { create: "setsid sleep 1000 & echo $! > child; sleep 1000", ..GOOD },
            "create: it took too long",
        ),
        (
            Script { start: "setsid sleep 1000 & echo $! > child; sleep 1000", ..GOOD },
            "start: it took too long",
        ),
    ];
    for (script, said) in hanging {
        let (rig, mut client) = Rig::new();
        let deadline_ms = HANGING_MS * u64::from(slowness());
        let wanted = StartContainer { deadline_ms, ..request(&rig, &script, "sleep 1000") };
        let sequence = client.send(Request::Start(Box::new(wanted)), &[]);
        let begun = Instant::now();
        let child: i32 = until("it has begun", || {
            fs::read_to_string(bundle(&rig).join("child")).ok()?.trim().parse().ok()
        });
        // Another daemon is answered meanwhile.
        let (reply, _) = client.reply(sequence);
        assert!(begun.elapsed() < Duration::from_secs(8) * slowness(), "{:?}", begun.elapsed());
        match reply {
            Reply::Failed(failure) => assert!(failure.to_string().contains(said), "{failure}"),
            other => panic!("{other:?}"),
        }
        until("its child is dead", || (!is_alive(child)).then_some(()));
        childless(&rig);
        no_files_of_calls(&rig);
    }
}

#[test]
fn others_are_served_while_a_runtime_works() {
    let (rig, mut client) = Rig::new();
    let slow = Script { create: "sleep 1000", ..GOOD };
    client.send(Request::Start(Box::new(request(&rig, &slow, "true"))), &[]);
    // A connection that is newer would take the place of the first before its request is read.
    until("it is at work", || verbs(&rig).contains("create").then_some(()));
    drop(client);
    let mut client = rig.connect();
    let begun = Instant::now();
    assert_eq!(client.snapshot().containers.len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(5) * slowness());
    // A kill ends it, and what follows from that.
    let kill = rig::signal(Target::Container("c1".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(kill), Reply::Done);
    until("it is given up", || client.snapshot().containers.is_empty().then_some(()));
    assert_eq!(verbs(&rig), "create delete ");
    childless(&rig);
}

#[test]
fn a_process_that_dies_before_the_start_is_no_container() {
    let (rig, mut client) = Rig::new();
    const SHORT: &str = "(left; exit 5) & echo $! | tee own > \"$pid\"; exec sleep 0.05";
    let dying = Script { create: SHORT, start: "ended $(cat own); fail 'it is gone'", ..GOOD };
    let told = refused(&mut client, request(&rig, &dying, "true"));
    assert!(told.ends_with("start: it is gone"), "{told}");
    childless(&rig);
    // One that is told to have been started has run, however short.
    let (rig, mut client) = Rig::new();
    let short = Script { create: SHORT, start: "ended $(cat own)", ..GOOD };
    running(&mut client, request(&rig, &short, "true"));
    assert_eq!(client.exit("c1").exit_code, 5);
}

#[test]
fn a_stop_signal_comes_though_the_runtime_fails_it() {
    for kill in ["kill -$signal $(cat own)", "sleep 1000", "exit 1"] {
        let (rig, mut client) = Rig::new();
        let script = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done";
        running(&mut client, request(&rig, &Script { kill, ..GOOD }, script));
        until("the trap is set", || (rig.log("c1") == ["stdout F ready"]).then_some(()));
        let term = rig::signal(Target::Container("c1".to_owned()), Signal::TERM, Scope::Init);
        assert_eq!(client.call(term), Reply::Done, "{kill}");
        assert_eq!(client.exit("c1").exit_code, 4, "{kill}");
        childless(&rig);
    }
}

#[test]
fn an_end_is_told_though_the_runtime_will_not_forget() {
    for delete in ["exit 1", "sleep 1000"] {
        let (rig, mut client) = Rig::new();
        running(&mut client, request(&rig, &Script { delete, ..GOOD }, "exit 6"));
        assert_eq!(client.exit("c1").exit_code, 6);
        assert!(bundle(&rig).join(KNOWN).exists(), "for whoever clears up");
        assert!(rig.complaints().contains("could not delete"), "{}", rig.complaints());
        childless(&rig);
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

fn exec(rig: &Rig, client: &mut Client, (name, command): (&str, &str)) -> Reply {
    fs::write(bundle(rig).join("exec"), command).unwrap();
    let (_reading, writing) = pipe();
    let request = rig::exec(name, "c1", "", &[Stream::Stdout]);
    client.call_with(Request::Exec(Box::new(request)), &[writing.as_fd()])
}

#[test]
fn processes_join_and_their_ends_are_known_however_short_they_are() {
    let (rig, mut client) = Rig::new();
    running(&mut client, request(&rig, &GOOD, "sleep 1000"));
    for code in [0, 3, 77] {
        let name = format!("e{code}");
        let reply = exec(&rig, &mut client, (&name, &format!("exit {code}")));
        assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
        assert_eq!(client.exec_exit(&name), code);
    }
    let Reply::ExecStarted { pid } = exec(&rig, &mut client, ("long", "sleep 1000")) else {
        panic!("not started")
    };
    assert!(rig.cgroup("c1").procs().unwrap().contains(&pid), "in the container's cgroup");
    drop(client);
    until("it ends with the connection", || (!is_alive(pid)).then_some(()));
    let files: Vec<_> = fs::read_dir(bundle(&rig)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let left = files.iter().filter(|name| name.to_string_lossy().starts_with('e') && *name != "exec");
    assert_eq!(left.count(), 0, "{files:?}");
}

#[test]
fn a_process_that_does_not_come_to_be_leaves_nothing() {
    let (rig, mut client) = Rig::new();
    let failing = Script { exec: "fail 'no such command'", ..GOOD };
    running(&mut client, request(&rig, &failing, "sleep 1000"));
    match exec(&rig, &mut client, ("e1", "")) {
        Reply::Failed(failure) => {
            assert!(failure.to_string().ends_with("exec: no such command"), "{failure}")
        }
        other => panic!("{other:?}"),
    }
    drop(client);
    drop(rig);

    let (rig, mut client) = Rig::new();
    let hanging = Script { exec: "sleep 1000 & echo $! | tee got > \"$pid\"; sleep 1000", ..GOOD };
    running(&mut client, request(&rig, &hanging, "sleep 1000"));
    let mut request = rig::exec("e2", "c1", "", &[]);
    request.deadline_ms = HANGING_MS * u64::from(slowness());
    let sequence = client.send(Request::Exec(Box::new(request)), &[]);
    let pid = until("it has got as far as a process", || {
        // The pid file goes when the time is up.
        fs::read_to_string(bundle(&rig).join("got")).ok()?.trim().parse::<i32>().ok()
    });
    match client.reply(sequence) {
        (Reply::Failed(failure), _) => assert!(failure.to_string().contains("took too long"), "{failure}"),
        other => panic!("{other:?}"),
    }
    until("it is dead", || (!is_alive(pid)).then_some(()));
    no_files_of_calls(&rig);
    assert_eq!(client.snapshot().containers.len(), 1, "the container goes on");
}

#[test]
fn orphans_are_waited_for() {
    let (rig, mut client) = Rig::new();
    // Each leaves a process that ends when its parent has gone.
    let script = "for i in 1 2 3; do sh -c 'sleep 0.05 & exit'; done; echo done; sleep 1000";
    let pid = running(&mut client, request(&rig, &GOOD, script));
    until("it has forked", || (rig.log("c1") == ["stdout F done"]).then_some(()));
    until("no zombie is left", || {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", rig.pid())).unwrap();
        (children.trim() == pid.to_string()).then_some(())
    });
}

#[test]
fn a_shutdown_ends_what_is_being_made() {
    let (mut rig, mut client) = Rig::new();
    let slow = Script { create: "sleep 1000", ..GOOD };
    client.send(Request::Start(Box::new(request(&rig, &slow, "true"))), &[]);
    until("it is at work", || verbs(&rig).contains("create").then_some(()));
    drop(client);
    let mut client = rig.connect();
    rig.shut_down(&mut client);
    assert_eq!(verbs(&rig), "create delete ");
}
