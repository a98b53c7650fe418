//! The bytes of every message, as each released version sends them: `golden/wire-<version>.txt`.
//!
//! A line is the name of a case, its header in hexadecimal, and its body. A file of a released version is
//! never edited: what it holds has to be read the same for ever, since a supervisor outlives the daemon that
//! started it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use runtime::cgroup::Cgroup;
use runtime::container::Until;
use runtime::external::{External, ExternalRuntime};
use runtime::plan::{
    About, Hook, Hooks, IdMappings, Joined, NamespaceSource, Plan, PodPlan, Policy, ProcessPlan, Propagation,
    Scheduling,
};
use runtime::wire::frame::{Header, Place};
use runtime::wire::{
    AttachedInput, ContainerSnapshot, ContainerState, DetachReason, Event, ExecExit, Exit, JournalCopy,
    LogLimits, Message, PodCreated, Reply, Request, Scope, Snapshot, StartContainer, StartExec, Stdin,
    Stream, Target, VERSION,
};
use runtime::{FailedStep, Failure, FailureKind};

fn plan() -> Plan {
    serde_json::from_str(include_str!("golden/plan.json")).unwrap()
}

fn process() -> ProcessPlan {
    plan().process
}

fn cgroup() -> Cgroup {
    serde_json::from_value(serde_json::json!({
        "path": "/kubepods/pod1/c1",
        "unified": "/sys/fs/cgroup/unified/kubepods/pod1/c1",
        "legacy": [{
            "controllers": ["cpu", "cpuacct"],
            "name": "cpu,cpuacct",
            "directory": "/sys/fs/cgroup/cpu,cpuacct/kubepods/pod1/c1",
        }],
    }))
    .unwrap()
}

fn pod() -> PodPlan {
    serde_json::from_value(serde_json::json!({
        "network": "own",
        "ipc": "own",
        "uts": "own",
        "pid": "host",
        "hostname": "boat",
        "sysctls": { "net.ipv4.ip_unprivileged_port_start": "0" },
        "shared_memory": 67_108_864,
    }))
    .unwrap()
}

fn exit() -> Exit {
    Exit {
        container: "c1".to_owned(),
        pid: 4711,
        start_time: 123_456,
        exit_code: 137,
        signal: Some(9),
        oom_killed: true,
        started_at: 1_795_236_436_633_746_534,
        finished_at: 1_795_236_437_000_000_001,
    }
}

fn failure() -> Failure {
    Failure {
        kind: FailureKind::NotFound,
        step: FailedStep::Exec,
        errno: Some(2),
        subject: "/bin/nothing".to_owned(),
    }
}

fn created() -> PodCreated {
    PodCreated { network: Some("/proc/42/fd/7".into()), init: Some(43), ..PodCreated::default() }
}

fn requests() -> Vec<(&'static str, Request)> {
    let start = |log: Option<PathBuf>, stdin| {
        Request::Start(Box::new(StartContainer {
            container: "c1".to_owned(),
            plan: plan(),
            cgroup: cgroup(),
            log,
            log_limits: None,
            log_copy: None,
            stdin,
            deadline_ms: 30_000,
            external: None,
            until: Until::Executed,
            streams: Vec::new(),
        }))
    };
    let signal = |target, scope| Request::Signal { target, signal: 15, scope };
    let exec = StartExec {
        exec: "e1".to_owned(),
        container: "c1".to_owned(),
        process: process(),
        streams: vec![Stream::Stdin, Stream::Stdout, Stream::Stderr],
        deadline_ms: 10_000,
    };
    vec![
        ("hello", Request::Hello { version: VERSION }),
        ("create_pod", Request::CreatePod(pod())),
        ("snapshot", Request::Snapshot),
        ("start", start(Some("/var/log/pods/p1/c1/0.log".into()), Stdin::Null)),
        ("start_interactive", start(None, Stdin::Open)),
        ("start_interactive_once", start(None, Stdin::Once)),
        ("signal_container", signal(Target::Container("c1".to_owned()), Scope::Init)),
        ("signal_exec", signal(Target::Exec("e1".to_owned()), Scope::All)),
        ("exec", Request::Exec(Box::new(exec))),
        ("reopen_log", Request::ReopenLog { container: "c1".to_owned() }),
        ("forget", Request::Forget { container: "c1".to_owned() }),
        ("shutdown", Request::Shutdown),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    let snapshot = |state| ContainerSnapshot { container: "c1".to_owned(), state };
    let running = ContainerState::Running { pid: 4711, start_time: 123_456, started_at: 1 };
    let containers =
        [ContainerState::Starting, running, ContainerState::Exited(exit())].map(snapshot).to_vec();
    vec![
        ("welcome", Reply::Welcome { version: VERSION, pod: "p1".to_owned(), pid: 42 }),
        ("pod_created", Reply::PodCreated(created())),
        ("host_pod_created", Reply::PodCreated(PodCreated::default())),
        ("empty_snapshot", Reply::Snapshot(Snapshot { pod: None, containers: Vec::new() })),
        ("full_snapshot", Reply::Snapshot(Snapshot { pod: Some(created()), containers })),
        ("started", Reply::Started { pid: 4711, start_time: 123_456, started_at: 1 }),
        ("exited", Reply::Exited(exit())),
        ("exec_started", Reply::ExecStarted { pid: 4712 }),
        ("done", Reply::Done),
        ("gone", Reply::Gone),
        ("failed", Reply::Failed(failure())),
        ("unknown", Reply::Unknown { why: "unknown variant `dance`".to_owned() }),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let exec = ExecExit { exec: "e1".to_owned(), exit_code: 3, signal: None };
    let log = Event::LogWriteFailed {
        container: "c1".to_owned(),
        path: "/var/log/pods/p1/c1/0.log".into(),
        errno: 28,
    };
    vec![
        ("container_exited", Event::ContainerExited(exit())),
        ("exec_exited", Event::ExecExited(exec)),
        ("log_write_failed", log),
    ]
}

fn scheduling() -> Scheduling {
    let policy = Policy { policy: 6, flags: 1, nice: -5, priority: 2, runtime: 3, deadline: 4, period: 5 };
    Scheduling { personality: Some(8), io_priority: Some(0x4007), policy: Some(policy) }
}

fn joined() -> Joined {
    let path = |name: &str| Some(PathBuf::from("/run/netns").join(name));
    Joined { network: path("n"), ipc: path("i"), uts: path("u"), pid: path("p"), cgroup: path("c") }
}

fn hooks() -> Hooks {
    let hook = |path: &str| Hook {
        path: path.into(),
        args: vec!["hook".to_owned(), "--now".to_owned()],
        env: vec!["A=1".to_owned()],
        timeout_s: Some(5),
    };
    Hooks {
        about: About {
            oci_version: "1.2.0".to_owned(),
            id: "c1".to_owned(),
            bundle: "/run/bundle".into(),
            root: "/run/bundle/rootfs".into(),
            annotations: [("key".to_owned(), "value".to_owned())].into(),
        },
        prestart: vec![hook("/bin/prestart")],
        create_runtime: vec![hook("/bin/create-runtime")],
        create_container: vec![hook("/bin/create-container")],
        start_container: vec![hook("/bin/start-container")],
        poststart: vec![hook("/bin/poststart")],
        poststop: vec![Hook { args: Vec::new(), env: Vec::new(), timeout_s: None, ..hook("/bin/poststop") }],
    }
}

/// What messages gained after their first release: lines are only ever added.
fn later() -> Vec<(&'static str, u64, Message)> {
    let ids: IdMappings = serde_json::from_value(serde_json::json!({
        "uids": [{ "inside": 0, "outside": 65_536, "length": 65_536 }],
        "gids": [{ "inside": 0, "outside": 131_072, "length": 65_536 }],
    }))
    .unwrap();
    let pod = PodPlan { user: Some(ids.clone()), ..pod() };
    let mut plan = plan();
    plan.namespaces.user = NamespaceSource::Pod;
    plan.sources[0].ids = Some(ids);
    let start = StartContainer {
        container: "c1".to_owned(),
        plan,
        cgroup: cgroup(),
        log: None,
        log_limits: None,
        log_copy: None,
        stdin: Stdin::Null,
        deadline_ms: 30_000,
        external: None,
        until: Until::Executed,
        streams: Vec::new(),
    };
    let mut plan = Plan { hooks: Some(Box::new(hooks())), ..self::plan() };
    plan.root.propagation = Propagation::Unbindable;
    plan.process.scheduling = scheduling();
    let held = StartContainer { plan, until: Until::Created, streams: vec![Stream::Stdout], ..start.clone() };
    let snapshot = Snapshot {
        pod: None,
        containers: vec![ContainerSnapshot {
            container: "c1".to_owned(),
            state: ContainerState::Created { pid: 4711, start_time: 123_456 },
        }],
    };
    let execute = Request::Execute { container: "c1".to_owned(), deadline_ms: 30_000 };
    let hook = Failure {
        kind: FailureKind::System,
        step: FailedStep::Hook,
        errno: None,
        subject: "createRuntime[0] \"/bin/hook\" ended with exit code 1".to_owned(),
    };
    let created = PodCreated { user: Some("/proc/42/fd/9".into()), ..created() };
    let labelled =
        PodPlan { mount_label: Some("system_u:object_r:container_file_t:s0:c1,c2".into()), ..self::pod() };
    let mut start_labelled = start.clone();
    start_labelled.plan.mount_label.clone_from(&labelled.mount_label);
    start_labelled.plan.namespaces.user = NamespaceSource::Host;
    start_labelled.plan.sources[0].ids = None;
    vec![
        ("create_pod_with_users", 25, Message::Request(Request::CreatePod(pod))),
        ("start_with_users", 26, Message::Request(Request::Start(Box::new(start)))),
        ("pod_created_with_users", 27, Message::Reply(Reply::PodCreated(created))),
        ("start_held_with_hooks", 28, Message::Request(Request::Start(Box::new(held)))),
        ("execute", 29, Message::Request(execute)),
        ("created", 30, Message::Reply(Reply::Created { pid: 4711, start_time: 123_456 })),
        ("created_snapshot", 31, Message::Reply(Reply::Snapshot(snapshot))),
        ("failed_hook", 32, Message::Reply(Reply::Failed(hook))),
        (
            "create_pod_joined",
            33,
            Message::Request(Request::CreatePod(PodPlan { joined: Some(Box::new(joined())), ..self::pod() })),
        ),
        ("create_pod_labelled", 34, Message::Request(Request::CreatePod(labelled))),
        ("start_labelled", 35, Message::Request(Request::Start(Box::new(start_labelled)))),
    ]
    .into_iter()
    .chain(external())
    .chain(attachments())
    .chain(logs())
    .collect()
}

/// Of external runtimes.
fn external() -> Vec<(&'static str, u64, Message)> {
    let runtime = ExternalRuntime { path: "/usr/bin/runc".into(), args: vec!["--root=/run/r".to_owned()] };
    let start = StartContainer {
        container: "c1".to_owned(),
        plan: plan(),
        cgroup: cgroup(),
        log: None,
        log_limits: None,
        log_copy: None,
        stdin: Stdin::Null,
        deadline_ms: 30_000,
        until: Until::Executed,
        streams: Vec::new(),
        external: Some(External { runtime, bundle: "/run/knarr/pods/p1/containers/c1/bundle".into() }),
    };
    let created = PodCreated {
        ipc: Some("/proc/42/fd/10".into()),
        uts: Some("/proc/42/fd/11".into()),
        pid: Some("/proc/42/fd/12".into()),
        ..created()
    };
    let failure = Failure {
        kind: FailureKind::System,
        step: FailedStep::ExternalRuntime,
        errno: None,
        subject: "create: exec: \"nothing\" is not there".to_owned(),
    };
    vec![
        ("start_external", 41, Message::Request(Request::Start(Box::new(start)))),
        ("pod_created_whole", 43, Message::Reply(Reply::PodCreated(created))),
        ("failed_externally", 44, Message::Reply(Reply::Failed(failure))),
        ("failed_late", 52, failed(FailureKind::System, FailedStep::Deadline, "c1")),
        ("failed_over_procfs", 53, failed(FailureKind::OverProcfs, FailedStep::BindMount, "/innocent")),
        ("failed_out_of_memory", 54, failed(FailureKind::OutOfMemory, FailedStep::Prepare, "65536 bytes")),
    ]
}

fn failed(kind: FailureKind, step: FailedStep, subject: &str) -> Message {
    Message::Reply(Reply::Failed(Failure { kind, step, errno: None, subject: subject.to_owned() }))
}

/// Of attachments.
fn attachments() -> Vec<(&'static str, u64, Message)> {
    let attach = Request::Attach {
        container: "c1".to_owned(),
        attachment: "a1".to_owned(),
        streams: vec![Stream::Stdin, Stream::Stdout, Stream::Stderr],
    };
    let target = Target::Exec("e1".to_owned());
    let signal = Request::Signal { target, signal: 9, scope: Scope::Session };
    let detach = |streams| Request::Detach { attachment: "a1".to_owned(), streams };
    let detached = |why| Message::Event(Event::Detached { attachment: "a1".to_owned(), why });
    vec![
        ("attach", 45, Message::Request(attach)),
        ("detach", 46, Message::Request(detach(Vec::new()))),
        ("detach_stdin", 47, Message::Request(detach(vec![Stream::Stdin]))),
        ("attached", 48, Message::Reply(Reply::Attached { input: AttachedInput::None })),
        ("attached_pipe", 49, Message::Reply(Reply::Attached { input: AttachedInput::Pipe })),
        ("attached_terminal", 50, Message::Reply(Reply::Attached { input: AttachedInput::Terminal })),
        ("signal_exec_session", 51, Message::Request(signal)),
        ("detached", 0, detached(DetachReason::Ended)),
        ("detached_too_slow", 0, detached(DetachReason::TooSlow)),
    ]
}

/// Of logs.
fn logs() -> Vec<(&'static str, u64, Message)> {
    let fields = [("CONTAINER_NAME".to_owned(), "web".to_owned()), ("POD_UID".to_owned(), "u1".to_owned())];
    let copy = JournalCopy { socket: "/run/systemd/journal/socket".into(), fields: fields.into() };
    let start = StartContainer {
        container: "c1".to_owned(),
        plan: plan(),
        cgroup: cgroup(),
        log: Some("/var/log/pods/p1/c1/0.log".into()),
        log_limits: Some(LogLimits { rate: Some(1 << 20), size: Some(100 << 20) }),
        log_copy: Some(copy),
        stdin: Stdin::Null,
        deadline_ms: 30_000,
        external: None,
        until: Until::Executed,
        streams: Vec::new(),
    };
    let rate = LogLimits { rate: Some(1 << 20), size: None };
    let limited = StartContainer { log_limits: Some(rate), log_copy: None, ..start.clone() };
    let lost = Event::LogLost {
        container: "c1".to_owned(),
        path: "/var/log/pods/p1/c1/0.log".into(),
        lines: 7,
        bytes: 700,
    };
    vec![
        ("start_with_log_copy", 55, Message::Request(Request::Start(Box::new(start)))),
        ("start_with_log_rate", 56, Message::Request(Request::Start(Box::new(limited)))),
        ("log_lost", 0, Message::Event(lost)),
        ("failed_log", 57, failed(FailureKind::NotRegular, FailedStep::Log, "/var/log/pods/p1/c1/0.log")),
        ("failed_descriptors", 58, failed(FailureKind::Exhausted, FailedStep::Receive, "")),
    ]
}

/// Every message with its number: requests and replies count, events don't.
fn messages() -> Vec<(&'static str, u64, Message)> {
    let requests = requests().into_iter().map(|(name, request)| (name, Message::Request(request)));
    let replies = replies().into_iter().map(|(name, reply)| (name, Message::Reply(reply)));
    let counted = (1..).zip(requests.chain(replies)).map(|(number, (name, message))| (name, number, message));
    let events = events().into_iter().map(|(name, event)| (name, 0, Message::Event(event)));
    counted.chain(events).chain(later()).collect()
}

fn line((name, sequence, message): &(&str, u64, Message)) -> String {
    let body = String::from_utf8(message.encode().unwrap()).unwrap();
    let header = Header {
        version: VERSION,
        kind: message.kind(),
        place: Place::Inline,
        sequence: *sequence,
        length: body.len(),
    };
    let header: String = header.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} {header} {body}\n")
}

fn golden(version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/wire-{version}.txt"))
}

#[test]
fn messages_have_the_golden_bytes() {
    let text: String = messages().iter().map(line).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden(VERSION), &text).unwrap();
    }
    let golden = std::fs::read_to_string(golden(VERSION)).unwrap();
    for (made, golden) in text.lines().zip(golden.lines()) {
        assert_eq!(made, golden);
    }
    assert_eq!(text.lines().count(), golden.lines().count());
}

/// Bytes of all versions are read; those of the current one give back what was written.
#[test]
fn golden_bytes_are_read() {
    let known = messages();
    for version in 1..=VERSION {
        for line in std::fs::read_to_string(golden(version)).unwrap().lines() {
            let mut fields = line.splitn(3, ' ');
            let (name, header, body) =
                (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
            let bytes: Vec<u8> = (0..header.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&header[at..at + 2], 16).unwrap())
                .collect();
            let header = Header::decode(&bytes).unwrap();
            assert_eq!((header.version, header.length), (version, body.len()), "{name}");
            let message = Message::decode(header.kind, body.as_bytes())
                .unwrap_or_else(|error| panic!("{name} of version {version}: {error}"));
            if version == VERSION {
                let (_, sequence, wanted) = known.iter().find(|(known, ..)| *known == name).unwrap();
                assert_eq!((header.sequence, &message), (*sequence, wanted), "{name}");
            }
        }
    }
}

/// A new variant has to get its bytes here: this does not compile until it has.
#[test]
fn every_message_is_there() {
    let kinds = |messages: &[(&'static str, u64, Message)]| {
        messages.iter().map(|(.., message)| number(message)).collect::<std::collections::BTreeSet<u8>>()
    };
    let all: std::collections::BTreeSet<u8> = (0..29).collect();
    assert_eq!(kinds(&messages()), all);
}

fn number(message: &Message) -> u8 {
    match message {
        Message::Request(request) => match request {
            Request::Hello { .. } => 0,
            Request::CreatePod(_) => 1,
            Request::Snapshot => 2,
            Request::Start(_) => 3,
            Request::Signal { .. } => 4,
            Request::Exec(_) => 5,
            Request::ReopenLog { .. } => 6,
            Request::Forget { .. } => 7,
            Request::Shutdown => 8,
            Request::Execute { .. } => 22,
            Request::Attach { .. } => 24,
            Request::Detach { .. } => 25,
        },
        Message::Reply(reply) => match reply {
            Reply::Welcome { .. } => 9,
            Reply::PodCreated(_) => 10,
            Reply::Snapshot(_) => 11,
            Reply::Started { .. } => 12,
            Reply::Exited(_) => 13,
            Reply::ExecStarted { .. } => 14,
            Reply::Done => 15,
            Reply::Gone => 16,
            Reply::Failed(_) => 17,
            Reply::Unknown { .. } => 18,
            Reply::Created { .. } => 23,
            Reply::Attached { .. } => 26,
        },
        Message::Event(event) => match event {
            Event::ContainerExited(_) => 19,
            Event::ExecExited(_) => 20,
            Event::LogWriteFailed { .. } => 21,
            Event::Detached { .. } => 27,
            Event::LogLost { .. } => 28,
        },
    }
}
