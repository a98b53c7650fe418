//! What users do with kubectl: logs, commands, attachments, files, ports.

use std::process::Stdio;
use std::time::Duration;

use e2e::kube::Space;
use e2e::until;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::objects::{STAYS, pod, pod_of, shell, with};

pub(crate) async fn logs(space: Space) {
    let registry = &space.cluster.registry;
    // Its second run writes for as long as the file is there, which the test takes away.
    let script = "if ! test -e /kept/was; then touch /kept/was; echo first run; exit 1; fi; \
                  for i in 1 2 3; do echo line $i; echo error $i >&2; done; \
                  while ! test -e /kept/end; do sleep 0.1; done; echo the end; exec sleep 3600";
    let mounts = json!({ "volumeMounts": [{ "name": "kept", "mountPath": "/kept" }] });
    let other = with(shell(registry, &format!("echo other; {STAYS}")), json!({ "name": "other" }));
    let containers = json!([with(shell(registry, script), mounts), other]);
    space
        .create(&pod(
            "logs",
            json!({ "containers": containers, "volumes": [{ "name": "kept", "emptyDir": {} }] }),
        ))
        .await;
    space.until_container(("logs", "main"), "/restartCount", &json!(1)).await;
    space.ready("logs").await;
    let logs = async |arguments: &[&str]| {
        let all: Vec<&str> = ["logs", "logs"].iter().chain(arguments).copied().collect();
        space.kubectl(&all).await.well()
    };
    let lines = "line 1\nerror 1\nline 2\nerror 2\nline 3\nerror 3\n";
    until(Duration::from_secs(30), "all lines", || async {
        let log = logs(&["-c", "main"]).await;
        if sorted(&log) == sorted(lines) { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(logs(&["-c", "main", "--previous"]).await, "first run\n");
    assert_eq!(logs(&["-c", "main", "--tail=1"]).await.lines().count(), 1);
    assert_eq!(sorted(&logs(&["-c", "main", "--since=1h"]).await), sorted(lines));
    assert_eq!(logs(&["-c", "main", "--since-time=2099-01-01T00:00:00Z"]).await, "");
    let all = logs(&["--all-containers", "--prefix"]).await;
    assert!(all.contains("[pod/logs/main] line 1") && all.contains("[pod/logs/other] other"), "{all}");
    let stamped = logs(&["-c", "main", "--timestamps"]).await;
    assert!(
        stamped.lines().all(|line| line.starts_with("20") && line.contains("Z ") || line.contains("+0")),
        "{stamped}"
    );
    follow(&space).await;
}

/// What is written while somebody follows reaches him.
async fn follow(space: &Space) {
    let mut command = space.kubectl_command(&["logs", "logs", "-c", "main", "--follow", "--tail=1"]);
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("kubectl");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = lines.next_line().await.expect("a line").unwrap_or_default();
    assert!(first.ends_with('3'), "{first}");
    space.kubectl(&["exec", "logs", "-c", "main", "--", "touch", "/kept/end"]).await.well();
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("the end"));
}

fn sorted(log: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    lines
}

pub(crate) async fn exec(space: Space) {
    space.create(&pod_of("exec", shell(&space.cluster.registry, STAYS))).await;
    space.ready("exec").await;
    let ran = space.kubectl(&["exec", "exec", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (42, "out\n"), "{ran:?}");
    assert!(ran.stderr.starts_with("err\n"), "{ran:?}");
    let input = "a line\n".repeat(20_000);
    let ran = space.kubectl_with(&["exec", "-i", "exec", "--", "cat"], &input).await;
    assert!(ran.well() == input, "what goes in comes out");
    let ran = space.kubectl(&["exec", "exec", "--", "/no/such/program"]).await;
    assert!(ran.code != 0 && ran.stderr.contains("/no/such/program"), "{ran:?}");
    // With a terminal, which script(1) makes. Its size follows when the program runs.
    let command = space.kubectl_command(&[
        "exec",
        "-it",
        "exec",
        "--",
        "sh",
        "-c",
        "tty; until stty size 2>&1 | grep 77; do sleep 0.1; done",
    ]);
    let words: Vec<String> = std::iter::once(command.as_std().get_program())
        .chain(command.as_std().get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let line = format!("stty rows 33 cols 77; {}", words.join(" "));
    let output = tokio::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .output()
        .await
        .expect("script");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/dev/pts/") && text.contains("33 77"), "{text}");
}

pub(crate) async fn attach(space: Space) {
    let script = "echo hello; while read line; do echo got $line; done; echo end";
    let container = with(shell(&space.cluster.registry, script), json!({ "stdin": true, "stdinOnce": true }));
    space.create(&pod("attached", json!({ "restartPolicy": "Never", "containers": [container] }))).await;
    space.until_container(("attached", "main"), "/started", &json!(true)).await;
    let mut command = space.kubectl_command(&["attach", "-i", "attached"]);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = piped.spawn().expect("kubectl");
    let (mut input, mut output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    input.write_all(b"one\ntwo\n").await.expect("a pipe");
    drop(input);
    let mut text = String::new();
    output.read_to_string(&mut text).await.expect("text");
    assert!(text.contains("got one\ngot two\nend\n"), "{text}");
    assert_eq!(space.ended("attached").await, "Succeeded");
    assert_eq!(space.log("attached").await.expect("a log"), "hello\ngot one\ngot two\nend\n");
}

pub(crate) async fn run_and_remove(space: Space) {
    let image = space.image("busybox:latest");
    let arguments =
        ["run", "once", "-i", "--rm", "--restart=Never", "--image", &image, "--", "sh", "-c", "cat; exit 0"];
    let ran = space.kubectl_with(&arguments, "through\n").await;
    assert!(ran.stdout.contains("through"), "{ran:?}");
    space.gone("Pod", "once").await;
}

pub(crate) async fn copy(space: Space) {
    space.create(&pod_of("copy", shell(&space.cluster.registry, STAYS))).await;
    space.ready("copy").await;
    let directory = tempfile::tempdir().expect("a directory");
    let (there, back) = (directory.path().join("there"), directory.path().join("back"));
    let content: Vec<u8> =
        (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&there, &content).expect("a file");
    space.kubectl(&["cp", &there.to_string_lossy(), "copy:/tmp/file"]).await.well();
    space.kubectl(&["cp", "copy:/tmp/file", &back.to_string_lossy()]).await.well();
    assert!(std::fs::read(back).expect("a file") == content, "what went there came back");
}

pub(crate) async fn port_forward(space: Space) {
    space.create(&pod_of("web", json!({ "name": "main", "image": space.image("kube/web:1") }))).await;
    space.ready("web").await;
    let mut command = space.kubectl_command(&["port-forward", "pod/web", ":80"]);
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("kubectl");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let line = lines.next_line().await.expect("a line").unwrap_or_default();
    let address = line.split(' ').nth(2).unwrap_or_default().to_owned();
    for _ in 0..3 {
        let page = space.cluster.ground.host.sh(&format!("curl -s http://{address}/"));
        assert_eq!(page, "one\n", "{line}");
    }
}

pub(crate) async fn debug_of_the_node(space: Space) {
    let image = space.image("busybox:latest");
    let sign = space.cluster.ground.path("resolv.conf");
    let look = format!("cat /proc/1/comm; test -e /host{} && echo host", sign.display());
    let arguments =
        ["debug", "node/knarr-node", "--image", &image, "--profile=sysadmin", "--", "sh", "-c", &look];
    space.kubectl(&arguments).await.well();
    let debugger = until(Duration::from_secs(60), "the debugger's pod", || async {
        let pods = space.list("Pod").await?;
        let name = pods.first().and_then(|pod| pod["metadata"]["name"].as_str().map(str::to_owned));
        name.ok_or_else(|| "no pod".to_owned())
    })
    .await;
    assert_eq!(space.ended(&debugger).await, "Succeeded");
    let log = space.log(&debugger).await.expect("a log");
    let init = std::fs::read_to_string("/proc/1/comm").expect("the name of the node's first process");
    assert_eq!(log, format!("{init}host\n"));
}
