//! What is left open: CVE-2024-21626 (working directory), 2016-9962 (processes on their way in), and terminals: 2025-52565.

use std::os::unix::fs::symlink;

use e2e::config;
use e2e::cri::{Capability, ContainerConfig};
use e2e::image::{Image, Layer};
use serde_json::json;

use crate::rig::{Host, Rig, bare_busybox, hostile, mount, output};

#[tokio::test]
async fn a_working_directory_is_no_descriptor() {
    let rig = Rig::new().await;
    let layer = Layer::new().symlink("way-out", "/proc/self/fd").symlink("seven", "/proc/self/fd/7/");
    let image = rig.image("fds:latest", hostile(layer)).await;
    let plain = (3..48).map(|number| format!("/proc/self/fd/{number}"));
    let further = ["/seven", "/way-out/8", "/proc/thread-self/fd/9", "/proc/1/fd/10/."].map(str::to_owned);
    for directory in plain.chain(further) {
        let mut wanted = rig.of(&image, &["sh", "-c", "busybox ls -la ."]);
        wanted.working_dir = directory.clone();
        rig.run(wanted).await.prevented(&directory);
    }
    for (number, directory) in
        ["/proc/self/fd/7", "/proc/self/fd/8", "proc/self/fd/9"].into_iter().enumerate()
    {
        let image =
            Image::new(json!({ "Env": ["PATH=/bin"], "WorkingDir": directory })).layer(bare_busybox());
        let image = rig.image(&format!("workdir-{number}:latest"), image).await;
        rig.run(rig.of(&image, &["sh", "-c", "busybox ls -la ."])).await.prevented(directory);
    }
}

#[tokio::test]
async fn nothing_is_open_but_the_streams() {
    let rig = Rig::new().await;
    let list = "ls /proc/$$/fd; true";
    let plain = rig.prints(rig.script(list)).await;
    assert_eq!(
        plain.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2"],
        "the attack succeeded: left open"
    );
    let mut terminal = rig.script(list);
    terminal.tty = true;
    let with_terminal = rig.prints(terminal).await;
    assert_eq!(with_terminal.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"], "the attack succeeded");
    let id = rig.running(rig.script("sleep 1000")).await;
    let joined = rig.client.exec(&id, &["sh", "-c", list], 10).await.unwrap();
    assert_eq!(joined.stdout.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"], "the attack succeeded");
    let first = rig.client.exec(&id, &["ls", "/proc/1/fd"], 10).await.unwrap();
    assert_eq!(first.stdout.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"], "the attack succeeded");
}

/// Between clone and execve a process that joins is the runtime's, with the runtime's descriptors. Who is in the container may not
/// look into it.
#[tokio::test]
async fn who_watches_those_that_join_gets_nothing_of_the_host() {
    watch_joins("links", |_| {}).await;
}

/// Somebody who may look into all processes that he sees finds the runtime's streams, and no place outside of the container.
#[tokio::test]
async fn who_may_trace_those_that_join_gets_nothing_of_the_host() {
    let tracer = Capability { add_capabilities: vec!["SYS_PTRACE".into()], ..Default::default() };
    watch_joins("places", |wanted| config::security(wanted).capabilities = Some(tracer)).await;
}

async fn watch_joins(kind: &str, change: impl FnOnce(&mut ContainerConfig)) {
    let rig = Rig::new().await;
    let (id, log) = rig.attacker((&["hunt", kind], "hunting"), Layer::new(), change).await;
    for _ in 0..300 {
        rig.client.exec(&id, &["true"], 10).await.unwrap();
        if output(&log).contains("foreign") {
            break;
        }
    }
    rig.client.exec(&id, &["touch", "/stop"], 10).await.unwrap();
    rig.client.exited(&id).await;
    let found = output(&log);
    assert!(!found.contains("foreign"), "the attack succeeded: {found}");
    let met = found.lines().find_map(|line| line.strip_prefix("met ")?.parse::<u32>().ok());
    assert!(met.is_some_and(|met| met >= 20), "hardly anybody was met: {found}");
}

/// A terminal is opened in the container's own devpts, whatever the names in /dev lead to.
#[tokio::test]
async fn a_terminal_is_opened_nowhere_else() {
    let rig = Rig::new().await;
    let host = Host::new();
    let with_terminal = |mut wanted: ContainerConfig| {
        wanted.tty = true;
        wanted
    };
    let layer = Layer::new()
        .directory("dev", 0o755)
        .symlink("dev/console", &host.path().join("console").display().to_string())
        .symlink("dev/ptmx", &host.path().join("victim").display().to_string())
        .symlink("dev/pts", &host.path().join("below").display().to_string());
    let image = rig.image("console:latest", hostile(layer)).await;
    let printed = rig.prints(with_terminal(rig.of(&image, &["sh", "-c", "busybox tty"]))).await;
    assert!(printed.starts_with("/dev/pts/"), "{printed}");
    host.untouched("links in the image's /dev");

    let dev = rig.node.path("dev");
    let victim = host.path().join("victim");
    for (place, target) in [("pts", host.path().join("below")), ("console", victim.clone()), ("ptmx", victim)]
    {
        let _ = std::fs::remove_dir_all(&dev);
        std::fs::create_dir_all(&dev).unwrap();
        symlink(&target, dev.join(place)).unwrap();
        let mut wanted = with_terminal(rig.script("true"));
        mount(&mut wanted, &dev, "/dev");
        rig.run(wanted).await;
        host.untouched(&format!("/dev/{place} of a volume is a link"));
    }
    let pts = rig.node.path("pts");
    std::fs::create_dir_all(&pts).unwrap();
    std::fs::write(pts.join("ptmx"), "no terminal").unwrap();
    let mut wanted = with_terminal(rig.script("true"));
    mount(&mut wanted, &pts, "/dev/pts");
    rig.run(wanted).await.prevented("a volume is /dev/pts");
    // Links to a true devpts, and from the terminal that it gives out to something else.
    std::fs::remove_file(pts.join("ptmx")).unwrap();
    symlink("/true/ptmx", pts.join("ptmx")).unwrap();
    for number in 0..64 {
        symlink("/proc/sys/kernel/core_pattern", pts.join(number.to_string())).unwrap();
    }
    let mut wanted = with_terminal(rig.script("true"));
    mount(&mut wanted, &pts, "/dev/pts");
    mount(&mut wanted, "/dev/pts".as_ref(), "/true");
    rig.run(wanted).await.prevented("/dev/pts/ptmx of a volume is a link");
}
