//! Hooks around containers, and containers that wait to be started.

use std::fs;
use std::path::{Path, PathBuf};

use runtime::container::Until;
use runtime::spec::oci;
use runtime::wire::{ContainerState, Reply, Request, Scope, Target};
use runtime::{FailedStep, Failure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Client;
use crate::patience::{slowness, until};
use crate::rig::{self, Container, Rig, container, is_alive};

/// The specification with a hook of the host's shell.
fn with_hooks<'a>(id: &'a str, command: &str, hooks: Value) -> Container<'a> {
    let mut made = container(id, command);
    let hooks: oci::Hooks = serde_json::from_value(hooks).unwrap();
    made.spec.set_hooks(Some(hooks)).set_annotations(Some([("key".to_owned(), "value".to_owned())].into()));
    made
}

fn shell(script: &str) -> Value {
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin", "GIVEN=yes"] }])
}

/// Has a hook write its state and what it sees into a file.
fn proof(place: &Path, name: &str) -> Value {
    let file = place.join(name);
    let script = format!(
        "exec >{0}.new; cat; echo; env | grep -c .; echo $GIVEN; pwd; readlink /proc/$$/ns/mnt /proc/self/ns/mnt; mv {0}.new {0}",
        file.display()
    );
    shell(&script)
}

struct Proof {
    state: Value,
    lines: Vec<String>,
}

fn read(place: &Path, name: &str) -> Proof {
    let text = until(name, || fs::read_to_string(place.join(name)).ok());
    let mut lines = text.lines().map(str::to_owned);
    let state = serde_json::from_str(&lines.next().unwrap()).unwrap();
    Proof { state, lines: lines.collect() }
}

fn place(rig: &Rig) -> PathBuf {
    let place = rig.directory.path().join("proofs");
    fs::create_dir_all(&place).unwrap();
    place
}

fn failed(reply: Reply) -> Failure {
    match reply {
        Reply::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hooks_run_at_their_moments_and_are_told_the_state() {
    let (mut rig, mut client) = Rig::new();
    let place = place(&rig);
    let hooks = json!({
        "prestart": proof(&place, "prestart"),
        "createRuntime": proof(&place, "createRuntime"),
        "createContainer": proof(&place, "createContainer"),
        "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "cat >/tmp/start; id -u >>/tmp/start"] }],
        "poststart": proof(&place, "poststart"),
        "poststop": proof(&place, "poststop"),
    });
    let mut wanted = with_hooks("c1", "cat /tmp/start; read line", hooks);
    wanted.stdin = runtime::wire::Stdin::Open;
    let pid = rig.start(&mut client, &wanted);
    let host = fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    let expected = [("prestart", "creating"), ("createRuntime", "creating"), ("poststart", "running")];
    for (name, status) in expected {
        let proof = read(&place, name);
        let bundle = rig.bundle("c1");
        let state = json!({
            "ociVersion": proof.state["ociVersion"], "id": "c1", "status": status, "pid": pid,
            "bundle": bundle, "annotations": { "key": "value" },
        });
        assert_eq!(proof.state, state, "{name}");
        // The shell adds PWD, and dash OLDPWD at times.
        assert!(proof.lines[0].parse::<u32>().unwrap() <= 5, "{name}: {:?}", proof.lines);
        assert_eq!(
            proof.lines[1..4],
            ["yes".to_owned(), bundle.display().to_string(), host.clone()],
            "{name}"
        );
    }
    let inside = read(&place, "createContainer");
    assert_eq!((&inside.state["status"], &inside.state["pid"]), (&json!("creating"), &json!(1)));
    assert_eq!(inside.lines[2], rig.bundle("c1").join("rootfs").display().to_string());
    until("the container's word", || (!rig.log("c1").is_empty()).then_some(()));
    let said = rig::content(&rig.log("c1"));
    let start: Value = serde_json::from_str(said.trim_end().trim_end_matches(['0', '\n']))
        .unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((&start["status"], &start["pid"]), (&json!("created"), &json!(1)));
    assert!(!place.join("poststop").exists(), "before the end");
    let kill = rig::signal(Target::Container("c1".to_owned()), Signal::KILL, Scope::All);
    assert_eq!(client.call(kill), Reply::Done);
    client.exit("c1");
    let stopped = read(&place, "poststop");
    assert_eq!((&stopped.state["status"], &stopped.state["pid"]), (&json!("stopped"), &Value::Null));
    rig.shut_down(&mut client);
    assert_eq!(rig.complaints(), "");
}

#[test]
fn hooks_may_have_as_many_files_open_as_was_given() {
    let (rig, mut client) = Rig::new();
    let place = place(&rig);
    let limit = |name: &str| shell(&format!("ulimit -Sn >{}", place.join(name).display()));
    let hooks = json!({
        "createRuntime": limit("createRuntime"),
        "createContainer": limit("createContainer"),
        "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "ulimit -n >/tmp/start"] }],
    });
    let mut wanted = with_hooks("c1", "cat /tmp/start", hooks);
    rig::edit_process(&mut wanted.spec, |process| {
        process.set_rlimits(Some(vec![rig::open_files(40)]));
    });
    rig.start(&mut client, &wanted);
    assert_eq!(client.exit("c1").exit_code, 0);
    assert_eq!(rig.log("c1"), ["stdout F 40"], "one behind the process's limits");
    for name in ["createRuntime", "createContainer"] {
        assert_eq!(
            fs::read_to_string(place.join(name)).unwrap(),
            format!("{}\n", rig::GIVEN_FILES),
            "{name}"
        );
    }
}

#[test]
fn a_create_hook_changes_the_root_and_sees_the_mounts() {
    let (rig, mut client) = Rig::new();
    let place = place(&rig);
    // As the hooks of GPUs do: the way to the root leads over the bundle's configuration, the mounts are there, and
    // what is written is the container's.
    let script = format!(
        "root=$PWD; test \"$(stat -f -c %T $root/proc)\" = proc && test -c $root/dev/null && \
         echo from-hook >$root/etc-made && ln -s etc-made $root/link && mount -t tmpfs hooked $root/tmp && \
         echo hidden >$root/tmp/x && grep -c hooked /proc/1/mountinfo /proc/self/mountinfo >{}/seen || exit 9",
        place.display()
    );
    let hooks = json!({ "createContainer": shell(&script) });
    rig.start(
        &mut client,
        &with_hooks("c1", "cat /link /tmp/x; ls /proc/1/exe /run 2>&1; echo $(ls /)", hooks),
    );
    assert_eq!(client.exit("c1").exit_code, 0);
    let said = rig::content(&rig.log("c1"));
    assert!(said.starts_with("from-hook\nhidden\n"), "{said}");
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!after.contains("hooked"), "a mount of the hook's came out: {after}");
    let place = rig.directory.path().display().to_string();
    assert!(!after.contains(&place), "a mount of the container's came out: {after}");
    assert!(fs::read_dir(rig.bundle("c1").join("rootfs")).unwrap().next().is_none());
}

#[test]
fn a_hook_that_fails_fails_the_start_and_is_named() {
    let (mut rig, mut client) = Rig::new();
    let place = place(&rig);
    for moment in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
        let failing = shell("echo first >&2; echo no device >&2; exit 3");
        let hooks = json!({ moment: failing, "poststop": proof(&place, moment) });
        let failure = failed(rig.try_start(&mut client, &with_hooks(moment, "exec sleep 1000", hooks)));
        assert_eq!(failure.step, FailedStep::Hook);
        let text = failure.to_string();
        let says = format!("hook {moment}[0] \"/bin/sh\" ended with exit code 3: \"first\\nno device\"");
        assert_eq!(text, says);
        assert_eq!(read(&place, moment).state["status"], "stopped", "what was begun is told to be over");
        assert!(client.snapshot().containers.is_empty(), "{moment}");
        until("an empty cgroup", || rig.cgroup(moment).procs().unwrap().is_empty().then_some(()));
    }
    let absent = json!({ "createRuntime": [{ "path": "/not/there" }] });
    let failure = failed(rig.try_start(&mut client, &with_hooks("absent", "true", absent))).to_string();
    assert!(failure.contains("createRuntime[0] \"/not/there\" was not run: cannot execute"), "{failure}");
    // A failure at the end is nobody's any more.
    let last = json!({ "poststop": shell("echo lost >&2; exit 4") });
    rig.start(&mut client, &with_hooks("c1", "true", last));
    assert_eq!(client.exit("c1").exit_code, 0);
    until("the complaint", || {
        rig.complaints().contains("poststop[0] \"/bin/sh\" ended with exit code 4: \"lost\"").then_some(())
    });
    rig.shut_down(&mut client);
}

#[test]
fn a_hook_that_hangs_is_killed_with_its_children() {
    let (rig, mut client) = Rig::new();
    let place = place(&rig);
    let hang = |name: &str| {
        format!(
            "sh -c 'read pid rest </proc/self/stat; echo $pid >{0}/{name}.new; mv {0}/{name}.new {0}/{name}; exec sleep 1000' & sleep 1000",
            place.display()
        )
    };
    for (moment, deadline_ms) in
        [("createRuntime", 60_000), ("createContainer", 60_000), ("poststart", 60_000)]
    {
        let mut hook = shell(&hang(moment));
        hook[0]["timeout"] = json!(slowness());
        let mut wanted = with_hooks(moment, "exec sleep 1000", json!({ moment: hook }));
        wanted.deadline_ms = deadline_ms;
        let failure = failed(rig.try_start(&mut client, &wanted)).to_string();
        assert!(failure.contains(&format!("was killed after {} s", slowness())), "{failure}");
        let child: i32 = fs::read_to_string(place.join(moment)).unwrap().trim().parse().unwrap();
        until("the hook's child is gone", || (!is_alive(child)).then_some(()));
    }
    // Without a time of its own it has that of the start; others are served meanwhile.
    let mut wanted = with_hooks("late", "exec sleep 1000", json!({ "createRuntime": shell(&hang("late")) }));
    wanted.deadline_ms = 1500 * u64::from(slowness());
    let (start, descriptors) = rig.request(&wanted);
    let borrowed: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
    let sequence = client.send(Request::Start(Box::new(start)), &borrowed);
    until("the hook runs", || place.join("late").exists().then_some(()));
    let mut other = rig.connect();
    assert_eq!(other.snapshot().containers[0].state, ContainerState::Starting);
    drop((other, sequence));
    let child: i32 = fs::read_to_string(place.join("late")).unwrap().trim().parse().unwrap();
    until("the hook's child is gone", || (!is_alive(child)).then_some(()));
    let mut client = rig.connect();
    until("the start is given up", || client.snapshot().containers.is_empty().then_some(()));
}

#[test]
fn a_hook_that_the_start_does_not_wait_for_any_longer_is_named() {
    let (rig, mut client) = Rig::new();
    for moment in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
        let hooks = json!([{ "path": "/bin/true" }, { "path": "/bin/sleep", "args": ["sleep", "1000"] }]);
        let mut wanted = with_hooks(moment, "exec sleep 1000", json!({ moment: hooks }));
        wanted.deadline_ms = 1500 * u64::from(slowness());
        let failure = failed(rig.try_start(&mut client, &wanted));
        let says = format!("hook {moment}[1] \"/bin/sleep\" was killed: the start took too long");
        assert_eq!((failure.step, failure.to_string()), (FailedStep::Hook, says));
    }
}

#[test]
fn hooks_of_the_image_have_the_rights_of_the_process() {
    let (rig, mut client) = Rig::new();
    let hooks = json!({ "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "cat /proc/self/status >/tmp/status; id -u >>/tmp/status"] }] });
    let mut wanted = with_hooks("c1", "cat /tmp/status", hooks);
    rig::edit_process(&mut wanted.spec, |process| {
        process.set_user(oci::UserBuilder::default().uid(33u32).gid(33u32).build().unwrap());
    });
    fs::set_permissions(
        rig.directory.path().join("image/tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    rig.start(&mut client, &wanted);
    client.exit("c1");
    let said = rig::content(&rig.log("c1"));
    for line in
        ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "SigBlk:\t0000000000000000", "Uid:\t33\t33\t33\t33"]
    {
        assert!(said.contains(line), "{line} is missing in {said}");
    }
    let direct = json!({ "startContainer": [{ "path": "/proc/self/exe" }] });
    let failure = failed(rig.try_start(&mut client, &with_hooks("c2", "true", direct)));
    assert_eq!(failure.step, FailedStep::Exec, "the supervisor is no program of a container's: {failure}");
}

fn held<'a>(id: &'a str, command: &str) -> Container<'a> {
    Container { until: Until::Created, ..container(id, command) }
}

fn execute(client: &mut Client, id: &str) -> Reply {
    client.call(Request::Execute { container: id.to_owned(), deadline_ms: 10_000 * u64::from(slowness()) })
}

#[test]
fn a_created_container_waits_for_the_word() {
    let (rig, mut client) = Rig::new();
    let Reply::Created { pid, start_time } = rig.try_start(&mut client, &held("c1", "echo ran; exit 5"))
    else {
        panic!("not created");
    };
    assert_eq!(rig.try_start(&mut client, &held("c1", "true")), Reply::Created { pid, start_time });
    assert_eq!(client.snapshot().containers[0].state, ContainerState::Created { pid, start_time });
    assert!(rig.log("c1").is_empty() && is_alive(pid));
    // It survives its daemon.
    drop(client);
    let mut client = rig.connect();
    assert!(matches!(execute(&mut client, "c1"), Reply::Started { pid: started, .. } if started == pid));
    assert_eq!(client.exit("c1").exit_code, 5);
    assert_eq!(rig.log("c1"), ["stdout F ran"]);
    assert!(matches!(execute(&mut client, "c1"), Reply::Exited(_)));
    assert_eq!(execute(&mut client, "unknown"), Reply::Gone);
}

#[test]
fn a_created_container_can_be_killed_and_shut_down() {
    let (mut rig, mut client) = Rig::new();
    for id in ["c1", "c2"] {
        assert!(matches!(rig.try_start(&mut client, &held(id, "echo ran")), Reply::Created { .. }));
    }
    let kill = rig::signal(Target::Container("c1".to_owned()), Signal::KILL, Scope::Init);
    assert_eq!(client.call(kill), Reply::Done);
    let exit = client.exit("c1");
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    assert!(matches!(execute(&mut client, "c1"), Reply::Exited(_)));
    assert_eq!(rig.log("c1"), Vec::<String>::new());
    rig.shut_down(&mut client);
}
