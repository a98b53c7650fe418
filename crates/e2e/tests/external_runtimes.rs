//! Pods whose handler names an external OCI runtime: the whole life of their containers with Debian's runc and crun.
//!
//! That nothing is left (processes, mounts, cgroups) is checked when the node goes; what the runtime writes down is checked here.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::cri::{self, ContainerConfig, Int64Value, LinuxContainerResources, NamespaceMode};
use e2e::newest;
use e2e::{Client, Network, Node, config, needs, until};
use proto::runtime::v1 as cri_new;

const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// A pod of a handler with an external runtime.
struct Pod {
    node: Node,
    client: Client,
    sandbox: cri::PodSandboxConfig,
    id: String,
}

fn handlers(directory: &Path) -> String {
    let handler = |name: &&str| {
        let path = e2e::needs::program(name)?;
        let path = if *name == "crun" { out_of_hybrid(&path, directory) } else { path };
        Some(format!("[handlers.{name}]\nruntime = \"{}\"\n", path.display()))
    };
    RUNTIMES.iter().filter_map(handler).collect()
}

/// A stand-in for crun where both versions of cgroups have controllers, which it refuses: without version 2 before its eyes.
fn out_of_hybrid(crun: &Path, directory: &Path) -> PathBuf {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if !unified.exists() {
        return crun.to_owned();
    }
    let (hide, crun) = (format!("umount {}", unified.display()), crun.display());
    let script = format!("#!/bin/sh\nexec unshare -m sh -c '{hide} && exec {crun} \"$@\"' crun \"$@\"\n");
    let path = directory.join("crun");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn node_with(handlers: impl FnOnce(&Path) -> String) -> Node {
    let mut node = Node::start(Network::BuiltIn).await;
    node.stop_daemon();
    let path = node.path("knarr.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{before}\n{}", handlers(&node.path("")))).unwrap();
    node.start_daemon();
    node
}

async fn run(
    client: &Client,
    sandbox: &cri::PodSandboxConfig,
    handler: &str,
) -> Result<String, tonic::Status> {
    let config = Some(sandbox.clone());
    let request = cri::RunPodSandboxRequest { config, runtime_handler: handler.to_owned() };
    Ok(client.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

impl Pod {
    async fn new(handler: &str, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Self {
        let node = node_with(handlers).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let mut sandbox = node.pod();
        change(&mut sandbox);
        let id = run(&client, &sandbox, handler).await.unwrap();
        Self { node, client, sandbox, id }
    }

    async fn create(&self, name: &str, script: &str, change: impl FnOnce(&mut ContainerConfig)) -> String {
        let mut wanted = self.node.busybox(name, &["sh", "-c", script]);
        change(&mut wanted);
        self.client.create(&self.id, wanted, &self.sandbox).await.unwrap()
    }

    async fn start(&self, name: &str, script: &str, change: impl FnOnce(&mut ContainerConfig)) -> String {
        let id = self.create(name, script, change).await;
        self.client.start(&id).await.unwrap_or_else(|status| panic!("{status}\n{}", self.node.log_tail()));
        id
    }

    fn log(&self, name: &str) -> Vec<String> {
        let path = Path::new(&self.sandbox.log_directory).join(format!("{name}.log"));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .filter_map(|line| line.split(' ').nth(1).zip(line.splitn(4, ' ').nth(3)))
            .map(|(stream, line)| format!("{stream}: {line}"))
            .collect()
    }

    /// What a script prints on standard output in a running container.
    async fn exec(&self, container: &str, script: &str) -> String {
        let output = self.client.exec(container, &["sh", "-c", script], 20).await.unwrap();
        assert_eq!(output.exit_code, 0, "{script}: {output:?}");
        output.stdout.trim().to_owned()
    }

    /// Stops and removes the pod, and looks for what the runtime has kept.
    async fn end(self) {
        self.client.stop_pod(&self.id).await.unwrap();
        assert_eq!(mounts(&self.node), Vec::<String>::new(), "mounts of a stopped pod");
        self.client.remove_pod(&self.id).await.unwrap();
        assert_eq!(kept(&self.node), Vec::<PathBuf>::new(), "what runtimes keep");
    }
}

/// Mounts below the node's state directory, which only external runtimes need.
fn mounts(node: &Node) -> Vec<String> {
    let state = node.path("state").display().to_string();
    let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines().filter(|line| line.contains(&state)).map(str::to_owned).collect()
}

/// What runtimes have written down of containers. Crun keeps filters that it has compiled beside that, for all containers to come.
fn kept(node: &Node) -> Vec<PathBuf> {
    let roots = std::fs::read_dir(node.path("state/runtimes")).into_iter().flatten().flatten();
    roots
        .flat_map(|root| std::fs::read_dir(root.path()).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name() != ".cache")
        .map(|entry| entry.path())
        .collect()
}

macro_rules! with_both {
    ($($name:ident),+ $(,)?) => {
        mod runc {
            $(#[tokio::test] async fn $name() { e2e::needs!("runc"); super::$name("runc").await; })+
        }
        mod crun {
            $(#[tokio::test] async fn $name() { e2e::needs!("crun"); super::$name("crun").await; })+
        }
    };
}

with_both!(
    a_container_lives_and_leaves_nothing,
    a_command_that_is_not_there_fails_the_start,
    processes_join_and_are_bounded,
    a_container_is_what_was_asked_for,
    no_process_has_signals_blocked,
    a_terminal_is_one,
    limits_hold_and_change_and_a_lack_of_memory_is_told,
    containers_share_what_is_the_pods,
    a_privileged_container_has_what_the_host_has,
    volumes_are_mounted_as_asked_for,
    a_killed_daemon_loses_nothing,
    a_killed_supervisor_leaves_nothing,
);

async fn a_container_lives_and_leaves_nothing(handler: &str) {
    let pod = Pod::new(handler, |_| {}).await;
    let script = "trap 'echo bye; exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.05; done";
    let id = pod.start("one", script, |_| {}).await;
    assert_eq!(kept(&pod.node).len(), 1, "its runtime knows it");
    until(Duration::from_secs(20), "its output", || async {
        let log = pod.log("one");
        if log.len() == 2 { Ok(()) } else { Err(log) }
    })
    .await;
    pod.client.stop(&id, 20).await.unwrap();
    let status = pod.client.container(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"), "{status:?}");
    let mut log = pod.log("one");
    log.sort();
    assert_eq!(log, ["stderr: err", "stdout: bye", "stdout: out"]);
    assert_eq!(kept(&pod.node), Vec::<PathBuf>::new(), "forgotten before its end is told");
    let stubborn = pod.start("two", "trap '' TERM; while :; do sleep 1; done", |_| {}).await;
    pod.client.stop(&stubborn, 0).await.unwrap();
    assert_eq!(pod.client.container(&stubborn).await.unwrap().exit_code, 137);
    pod.client.remove(&stubborn).await.unwrap();
    pod.start("three", "sleep 1000", |_| {}).await;
    pod.end().await;
}

async fn a_command_that_is_not_there_fails_the_start(handler: &str) {
    let pod = Pod::new(handler, |_| {}).await;
    let id = pod.create("missing", "", |wanted| wanted.command = vec!["/no/such/command".to_owned()]).await;
    let refused = pod.client.start(&id).await.unwrap_err();
    assert!(refused.message().contains("/no/such/command"), "{refused}");
    let status = pod.client.container(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{status:?}");
    assert!(status.message.contains("/no/such/command"), "{status:?}");
    assert_eq!(kept(&pod.node), Vec::<PathBuf>::new());
    pod.end().await;
}

async fn processes_join_and_are_bounded(handler: &str) {
    let pod = Pod::new(handler, |_| {}).await;
    let id = pod
        .start("one", "sleep 1000", |wanted| {
            wanted.envs = vec![cri::KeyValue { key: "FROM".to_owned(), value: "request".to_owned() }];
            config::security(wanted).run_as_user = Some(Int64Value { value: 12 });
        })
        .await;
    let output =
        pod.client.exec(&id, &["sh", "-c", "echo out $FROM $(id -u); echo err >&2; exit 5"], 20).await;
    let output = output.unwrap();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str(), output.exit_code),
        ("out request 12\n", "err\n", 5)
    );
    let missing = pod.client.exec(&id, &["/no/such/command"], 20).await.unwrap_err();
    assert!(missing.message().contains("/no/such/command"), "{missing}");
    let late = pod.client.exec(&id, &["sleep", "1000.125"], 2).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    until(Duration::from_secs(10), "the end of a command that was too late", || async {
        let processes = pod.exec(&id, "ps -o args").await;
        if processes.contains("1000.125") { Err(processes) } else { Ok(()) }
    })
    .await;
    // Many at once, each with its own end.
    let many = (0..8).map(|code| {
        let (client, id) = (pod.client.clone(), id.clone());
        tokio::spawn(async move { client.exec(&id, &["sh", "-c", &format!("exit {code}")], 30).await })
    });
    for (code, exec) in many.collect::<Vec<_>>().into_iter().enumerate() {
        let output = exec.await.unwrap().unwrap();
        assert_eq!(usize::try_from(output.exit_code), Ok(code));
    }
    pod.end().await;
}

async fn a_container_is_what_was_asked_for(handler: &str) {
    let pod = Pod::new(handler, |_| {}).await;
    let volume = pod.node.path("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("file"), "of the host").unwrap();
    let id = pod
        .start("one", "id -u; id -G; umask; pwd; sleep 1000", |wanted| {
            wanted.working_dir = "/tmp/made".to_owned();
            wanted.mounts = vec![cri::Mount {
                container_path: "/data".to_owned(),
                host_path: volume.display().to_string(),
                readonly: true,
                ..Default::default()
            }];
            let security = config::security(wanted);
            security.run_as_user = Some(Int64Value { value: 7 });
            security.run_as_group = Some(Int64Value { value: 8 });
            security.supplemental_groups = vec![9];
            security.no_new_privs = true;
            security.masked_paths = vec!["/proc/uptime".to_owned()];
            security.readonly_paths = vec!["/proc/sys".to_owned()];
            let default = cri::security_profile::ProfileType::RuntimeDefault as i32;
            security.seccomp =
                Some(cri::SecurityProfile { profile_type: default, localhost_ref: String::new() });
            security.capabilities = Some(cri::Capability {
                add_capabilities: vec!["NET_ADMIN".to_owned()],
                drop_capabilities: vec!["ALL".to_owned()],
                ..Default::default()
            });
        })
        .await;
    let status =
        pod.exec(&id, "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/1/status | tr -d '\\t\\n'").await;
    assert_eq!(status, "CapBnd:0000000000001000NoNewPrivs:1Seccomp:2");
    assert_eq!(
        pod.exec(&id, "cat /data/file; touch /data/x 2>/dev/null || echo ' read-only'").await,
        "of the host read-only"
    );
    assert_eq!(pod.exec(&id, "hostname; cat /etc/hostname").await, format!("{0}\n{0}", pod.sandbox.hostname));
    assert_eq!(pod.exec(&id, "wc -c < /proc/uptime").await, "0", "masked");
    assert_eq!(pod.log("one"), ["stdout: 7", "stdout: 8 9", "stdout: 0022", "stdout: /tmp/made"]);
    pod.end().await;
}

async fn no_process_has_signals_blocked(handler: &str) {
    const NONE: &str = "SigBlk:\t0000000000000000";
    let pod = Pod::new(handler, |_| {}).await;
    let id = pod.start("one", "grep SigBlk /proc/1/status; exec sleep 1000", |_| {}).await;
    until(Duration::from_secs(20), "its mask", || async {
        let log = pod.log("one");
        if log.is_empty() { Err(log) } else { Ok(()) }
    })
    .await;
    assert_eq!(pod.log("one"), [format!("stdout: {NONE}")]);
    assert_eq!(pod.exec(&id, "grep SigBlk /proc/self/status").await, NONE);
    pod.end().await;
}

async fn a_terminal_is_one(handler: &str) {
    let pod = Pod::new(handler, |_| {}).await;
    let id = pod.start("tty", "tty; test -t 0 -a -t 1 && echo a terminal", |wanted| wanted.tty = true).await;
    assert_eq!(pod.client.exited(&id).await.exit_code, 0);
    let log: Vec<String> = pod.log("tty").iter().map(|line| line.trim_end().to_owned()).collect();
    assert!(log.iter().any(|line| line == "stdout: a terminal"), "{log:?}");
    pod.end().await;
}

async fn limits_hold_and_change_and_a_lack_of_memory_is_told(handler: &str) {
    let pod = Pod::new(handler, |_| {}).await;
    let limited = |memory, shares| LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_shares: shares,
        ..Default::default()
    };
    let give = |resources: LinuxContainerResources| {
        move |wanted: &mut ContainerConfig| wanted.linux.as_mut().unwrap().resources = Some(resources)
    };
    let id = pod.start("one", "sleep 1000", give(limited(64 << 20, 512))).await;
    let memory = |id: &str| {
        let found = pod.node.traces().cgroup_path(id, &["memory.limit_in_bytes", "memory.max"]);
        std::fs::read_to_string(found.unwrap()).unwrap().trim().to_owned()
    };
    assert_eq!(memory(&id), (64 << 20).to_string());
    let update = |id: &str| {
        let update = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(limited(96 << 20, 0)),
            ..Default::default()
        };
        let mut client = pod.client.runtime.clone();
        async move { client.update_container_resources(update).await.unwrap() }
    };
    update(&id).await;
    assert_eq!(memory(&id), (96 << 20).to_string());
    let changed = pod.create("changed", "sleep 1000", give(limited(64 << 20, 512))).await;
    update(&changed).await;
    pod.client.start(&changed).await.unwrap();
    assert_eq!(memory(&changed), (96 << 20).to_string(), "what was changed before the start");
    let request = cri::ContainerStatsRequest { container_id: id.clone() };
    let stats =
        pod.client.runtime.clone().container_stats(request).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);

    let eager = pod.start("eager", "tail /dev/zero", give(limited(48 << 20, 0))).await;
    let status = pod.client.exited(&eager).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("OOMKilled", 137), "{status:?}");
    pod.end().await;
}

async fn containers_share_what_is_the_pods(handler: &str) {
    let pod = Pod::new(handler, |sandbox| {
        let context = sandbox.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options = Some(config::namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
    })
    .await;
    let in_pod = |wanted: &mut ContainerConfig| {
        config::security(wanted).namespace_options =
            Some(config::namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
    };
    let one = pod.start("one", "touch /dev/shm/shared; sleep 1000", in_pod).await;
    let two = pod.start("two", "sleep 1000", in_pod).await;
    for kind in ["net", "ipc", "uts", "pid"] {
        let look = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(pod.exec(&one, &look).await, pod.exec(&two, &look).await, "{kind}");
    }
    assert_eq!(pod.exec(&two, "ls /dev/shm").await, "shared");
    let processes = pod.exec(&two, "ps -o comm").await;
    assert_eq!(processes.lines().filter(|line| *line == "sleep").count(), 2, "{processes}");
    pod.end().await;

    let pod = Pod::new(handler, |_| {}).await;
    let one = pod.start("one", "sleep 1000", |_| {}).await;
    let join = |target: &str| {
        let target = target.to_owned();
        move |wanted: &mut ContainerConfig| {
            let options = cri::NamespaceOption {
                target_id: target,
                ..config::namespaces(NamespaceMode::Pod, NamespaceMode::Target)
            };
            config::security(wanted).namespace_options = Some(options);
        }
    };
    let guest = pod.start("guest", "sleep 1000", join(&one)).await;
    assert_eq!(
        pod.exec(&guest, "readlink /proc/self/ns/pid").await,
        pod.exec(&one, "readlink /proc/self/ns/pid").await
    );
    pod.end().await;
}

async fn a_privileged_container_has_what_the_host_has(handler: &str) {
    let pod = Pod::new(handler, |sandbox| {
        sandbox.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    })
    .await;
    let id = pod.start("one", "sleep 1000", |wanted| config::security(wanted).privileged = true).await;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own.lines().find(|line| line.starts_with("CapBnd:")).unwrap();
    assert_eq!(pod.exec(&id, "grep CapBnd: /proc/1/status").await, bounding);
    pod.exec(&id, "test -c /dev/kmsg || test -c /dev/net/tun || test -c /dev/fuse").await;
    pod.exec(&id, "echo 2 > /proc/self/oom_score_adj && mkdir /tmp/x && mount -t tmpfs x /tmp/x").await;
    pod.end().await;
}

async fn volumes_are_mounted_as_asked_for(handler: &str) {
    let pod = Pod::new(handler, |_| {}).await;
    let image = pod.node.registry.image("busybox:latest");
    let volume = |image: &str| cri_new::Mount {
        image: Some(cri_new::ImageSpec { image: image.to_owned(), ..Default::default() }),
        image_sub_path: "bin".to_owned(),
        container_path: "/of-image".to_owned(),
        readonly: true,
        ..Default::default()
    };
    let plain = pod.node.busybox("images", &["sleep", "1000"]);
    let wanted = cri_new::ContainerConfig { mounts: vec![volume(&image)], ..newest::container(&plain) };
    let id = newest::Newest::of(&pod.client).create(&pod.id, wanted, &pod.sandbox).await.unwrap();
    pod.client.start(&id).await.unwrap();
    assert_eq!(
        pod.exec(&id, "test -x /of-image/busybox && touch /of-image/x 2>&1 | grep -o Read-only").await,
        "Read-only"
    );

    let shared = pod.node.path("shared");
    std::fs::create_dir_all(&shared).unwrap();
    let mounted = pod.node.path("shared/late");
    let host = SharedMount::new(&shared);
    let slave = cri::Mount {
        container_path: "/late".to_owned(),
        host_path: shared.display().to_string(),
        propagation: cri::MountPropagation::PropagationHostToContainer as i32,
        ..Default::default()
    };
    let id = pod.start("slave", "sleep 1000", |wanted| wanted.mounts = vec![slave]).await;
    std::fs::create_dir_all(&mounted).unwrap();
    nix::mount::mount(Some("late"), &mounted, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
        .unwrap();
    std::fs::write(mounted.join("file"), "").unwrap();
    let seen = pod.client.exec(&id, &["ls", "/late/late"], 20).await.unwrap().stdout;
    nix::mount::umount(&mounted).unwrap();
    // The stand-in for crun has a mount namespace of its own, which lets nothing in.
    if pod.node.path("crun").exists() && handler == "crun" {
        println!("skipped: what is mounted later, with a stand-in for crun");
    } else {
        assert_eq!(seen.trim(), "file");
    }
    pod.client.stop(&id, 0).await.unwrap();
    drop(host);
    pod.end().await;
}

/// A directory that is a shared mount of its own.
struct SharedMount(PathBuf);

impl SharedMount {
    fn new(path: &Path) -> Self {
        use nix::mount::{MsFlags, mount};
        mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

async fn a_killed_daemon_loses_nothing(handler: &str) {
    let mut pod = Pod::new(handler, |_| {}).await;
    let flag = pod.node.path("go");
    let volume = |wanted: &mut ContainerConfig| {
        let directory = flag.parent().unwrap().display().to_string();
        wanted.mounts = vec![cri::Mount {
            container_path: "/host".to_owned(),
            host_path: directory,
            ..Default::default()
        }];
    };
    let ends =
        pod.start("ends", "while ! test -e /host/go; do sleep 0.05; done; echo bye; exit 7", volume).await;
    let stays = pod.start("stays", "sleep 1000", |_| {}).await;
    let made = pod.create("made", "sleep 1000", |_| {}).await;
    pod.node.kill_daemon();
    std::fs::write(&flag, "").unwrap();
    until(Duration::from_secs(20), "its last line", || async {
        let log = pod.log("ends");
        if log == ["stdout: bye"] { Ok(()) } else { Err(log) }
    })
    .await;
    pod.node.start_daemon();
    pod.client = pod.node.client();
    assert_eq!(pod.client.exited(&ends).await.exit_code, 7);
    assert_eq!(pod.exec(&stays, "echo here").await, "here");
    pod.client.start(&made).await.unwrap();
    assert_eq!(pod.exec(&made, "echo here").await, "here");
    until(Duration::from_secs(10), "the end of its mounts", || async {
        let left: Vec<_> = mounts(&pod.node).into_iter().filter(|line| line.contains(&ends)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    pod.end().await;
}

async fn a_killed_supervisor_leaves_nothing(handler: &str) {
    let pod = Pod::new(handler, |_| {}).await;
    let id = pod.start("one", "sleep 1000", |_| {}).await;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let info = pod.client.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let supervisor = i32::try_from(info["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    assert_eq!(pod.client.exited(&id).await.exit_code, 137);
    pod.end().await;
}

#[tokio::test]
async fn a_runtime_that_cannot_be_used_refuses_its_pods_and_no_others() {
    let broken =
        "[handlers.broken]\nruntime = \"/bin/false\"\n[handlers.missing]\nruntime = \"/nowhere/runtime\"\n";
    let later = |directory: &Path| format!("[handlers.later]\nruntime = \"{}/later\"\n", directory.display());
    let node = node_with(|directory| format!("{broken}{}", later(directory))).await;
    let client = node.client();
    for handler in ["broken", "missing", "later"] {
        let refused = run(&client, &node.pod(), handler).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(
            refused.message().contains(handler) && refused.message().contains("can't be used"),
            "{refused}"
        );
    }
    run(&client, &node.pod(), "").await.unwrap();
    // One that is installed while the daemon runs is asked by the next pod that wants it.
    std::os::unix::fs::symlink("/bin/true", node.path("later")).unwrap();
    run(&client, &node.pod(), "later").await.unwrap();
}

#[tokio::test]
async fn what_an_external_runtime_cannot_be_asked_for_is_refused_by_name() {
    needs!("runc");
    let pod = Pod::new("runc", |_| {}).await;
    let mut wanted = pod.node.pod();
    let range = |host_id| cri::IdMapping { host_id, container_id: 0, length: 65_536 };
    let context = wanted.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.namespace_options.as_mut().unwrap().userns_options = Some(cri::UserNamespace {
        mode: NamespaceMode::Pod as i32,
        uids: vec![range(1 << 20)],
        gids: vec![range(1 << 20)],
    });
    let refused = run(&pod.client, &wanted, "runc").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("userns_options"), "{refused}");
    let mut wanted = pod.node.busybox("c", &["true"]);
    wanted.mounts = vec![cri::Mount {
        container_path: "/data".to_owned(),
        host_path: "/tmp".to_owned(),
        uid_mappings: vec![range(1 << 20)],
        gid_mappings: vec![range(1 << 20)],
        ..Default::default()
    }];
    let refused = pod.client.create(&pod.id, wanted, &pod.sandbox).await.unwrap_err();
    assert!(refused.message().contains("mounts[0].uidMappings"), "{refused}");
    let status = pod.client.runtime.clone().status(cri::StatusRequest { verbose: false }).await.unwrap();
    let handlers = status.into_inner().runtime_handlers;
    let of_runc = handlers.iter().find(|handler| handler.name == "runc").unwrap().features.unwrap();
    assert!(!of_runc.user_namespaces);
    pod.end().await;
}
