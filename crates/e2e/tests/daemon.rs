//! The daemon as a process: how it ends, what it hands down, what it logs, and the demo that has one of its own.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::cri::{Mount, PodSandboxConfig};
use e2e::{Client, DeadMount, Network, Node, Pod, needs, node, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::runtime::v1 as cri;

/// A node with a pod, and a CreateContainer that waits for a mount source that never answers.
struct Waiting {
    pod: String,
    call: tokio::task::JoinHandle<()>,
    // Before the node: with it mounted, the node's directory could not be removed.
    _source: DeadMount,
    node: Node,
}

impl Waiting {
    /// `None` where there is no FUSE.
    async fn new() -> Option<Self> {
        let node = Node::start(Network::None).await;
        let Some(source) = DeadMount::new(node.path("dead")) else {
            println!("skipped: {} needs /dev/fuse", module_path!());
            return None;
        };
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let config = node.pod();
        let pod = client.run_pod(config.clone()).await.unwrap();
        let mut wanted = node.busybox("main", &["true"]);
        wanted.mounts.push(Mount {
            container_path: "/data".into(),
            host_path: source.path().to_string_lossy().into_owned(),
            ..Default::default()
        });
        let looks = format!("{} ", nix::libc::SYS_statx);
        let call = tokio::spawn(create(client, pod.clone(), wanted, config));
        until(node::PATIENCE, "a thread of the daemon that waits for the source", || async {
            let calls = system_calls(node.pid());
            if calls.iter().any(|call| call.starts_with(&looks)) { Ok(()) } else { Err(calls) }
        })
        .await;
        Some(Self { pod, call, _source: source, node })
    }
}

async fn create(client: Client, pod: String, wanted: e2e::cri::ContainerConfig, sandbox: PodSandboxConfig) {
    let _answer = client.create(&pod, wanted, &sandbox).await;
}

/// What each thread of a process waits in: the number of the system call and its arguments; `running` otherwise.
fn system_calls(pid: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("syscall")).ok()).collect()
}

#[tokio::test]
async fn a_dead_mount_source_does_not_keep_the_daemon_from_ending() {
    let Some(mut waiting) = Waiting::new().await else { return };
    let pid = Pid::from_raw(waiting.node.pid().cast_signed());
    let begun = Instant::now();
    kill(pid, Signal::SIGTERM).unwrap();
    until(Duration::from_secs(60), "the daemon's end", || async {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_over = state.rsplit(") ").next().is_none_or(|rest| rest.starts_with('Z'));
        if is_over { Ok(()) } else { Err(state) }
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(25), "it took {:?}", begun.elapsed());
    waiting.node.stop_daemon();
    waiting.node.start_daemon();
    let pods = waiting.node.client().pods().await.unwrap();
    assert!(pods.iter().any(|pod| pod.id == waiting.pod), "{pods:?}");
}

#[tokio::test]
async fn a_call_that_its_client_gave_up_is_logged_with_its_pod() {
    let Some(waiting) = Waiting::new().await else { return };
    waiting.call.abort();
    until(node::PATIENCE, "a line about the cancelled call", || async {
        let log = waiting.node.log_tail();
        let about = |line: &str| line.contains("CreateContainer") && line.contains(&waiting.pod);
        if log.lines().any(|line| about(line) && line.contains("cancelled")) { Ok(()) } else { Err(log) }
    })
    .await;
}

/// The fields of a line that names `word`.
fn line(node: &Node, word: &str) -> Result<String, String> {
    let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
    log.lines().find(|line| line.contains(word)).map(str::to_owned).ok_or(log)
}

#[tokio::test]
async fn lines_about_a_pod_say_whose_it_is() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let metadata = pod.sandbox.metadata.clone().unwrap();
    let names = [
        format!("pod=\"{}\"", pod.id),
        format!("pod.name=\"{}\"", metadata.name),
        format!("pod.namespace=\"{}\"", metadata.namespace),
        format!("pod.uid=\"{}\"", metadata.uid),
    ];
    let of_start = line(&pod.node, "method=\"StartContainer\"").unwrap();
    let of_container = format!("container=\"{container}\"");
    assert!(names.iter().all(|name| of_start.contains(name)), "{of_start}");
    assert!(of_start.contains(&of_container) && of_start.contains("container.name=\"main\""), "{of_start}");
    // What it does by itself.
    let supervisor = pod.info(&pod.id).await["pid"].as_i64().unwrap();
    kill(Pid::from_raw(supervisor.try_into().unwrap()), Signal::SIGKILL).unwrap();
    let lost =
        until(node::PATIENCE, "a word of it", || async { line(&pod.node, "supervisor is gone") }).await;
    assert!(names[1..].iter().all(|name| lost.contains(name)) && lost.contains(&pod.id), "{lost}");
}

#[tokio::test]
async fn the_daemon_may_open_more_files_than_it_hands_down() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let given = 4096.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, given, hard).unwrap();
    let node = Node::start(Network::None).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    let files: Vec<&str> = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(files[..2], [hard.to_string(), hard.to_string()]);
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["sleep", "1000"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    let pid =
        client.exec(&container, &["sh", "-c", "grep 'open files' /proc/1/limits; ulimit -Sn"], 10).await;
    let shown = pid.unwrap().stdout;
    let first: Vec<&str> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(first[3..5], [given.to_string(), hard.to_string()], "the container's: {shown}");
    assert_eq!(shown.lines().nth(1), Some(given.to_string().as_str()), "an exec's");
}

/// Private memory of the daemon in KiB.
fn memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Commands side by side that print so many bytes each.
async fn eight_that_print(pod: &Pod, container: &str, bytes: usize) {
    let client = pod.runtime.clone().max_decoding_message_size(2 * bytes);
    let commands = (0..8).map(|_| {
        let (mut client, container_id) = (client.clone(), container.to_owned());
        let cmd = vec!["head".to_owned(), "-c".into(), bytes.to_string(), "/dev/zero".into()];
        tokio::spawn(
            async move { client.exec_sync(cri::ExecSyncRequest { container_id, cmd, timeout: 0 }).await },
        )
    });
    for command in commands.collect::<Vec<_>>() {
        assert_eq!(command.await.unwrap().unwrap().into_inner().stdout.len(), bytes);
    }
}

#[tokio::test]
async fn what_many_commands_print_does_not_stay_in_the_daemons_memory() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let main = pod.waiting("main", |_| {}).await;
    pod.exec(&main, "true").await;
    let before = memory(pod.node.pid());
    // glibc learns from the first ones that they were freed.
    for _ in 0..3 {
        eight_that_print(&pod, &main, 15_000_000).await;
    }
    until(Duration::from_secs(10), "the memory to be given back", || async {
        let now = memory(pod.node.pid());
        if now < before + (8 << 10) { Ok(()) } else { Err(format!("{before} KiB before, {now} now")) }
    })
    .await;
}

#[tokio::test]
async fn an_interrupted_demo_cleans_up() {
    needs!("ip");
    for word in ["daemon", "image", "pod", "container"] {
        let directory = tempfile::tempdir().unwrap();
        let mut demo = Command::new(node::binary("knarr"))
            .arg("demo")
            .env("TMPDIR", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let shown = std::io::BufReader::new(demo.stdout.take().unwrap());
        let mut lines = std::io::BufRead::lines(shown).map_while(Result::ok);
        let bridge = format!("knarrdemo{}", demo.id() % 250);
        assert!(lines.any(|line| line.starts_with(word)), "the demo says \"{word}\"");
        kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).unwrap();
        // It may have been done already; in neither case is anything left.
        lines.for_each(drop);
        demo.wait().unwrap();
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().flatten().collect();
        assert!(left.is_empty(), "after \"{word}\": {left:?}");
        let link = std::path::Path::new("/sys/class/net").join(&bridge);
        assert!(!link.exists(), "after \"{word}\": {bridge}");
    }
}
