//! What a container finds: namespaces, user, directory, environment, mounts, limits, devices, masks.

use std::os::unix::fs::MetadataExt;

use e2e::cri::{self, ContainerConfig, Int64Value, LinuxContainerResources, Mount, NamespaceMode};
use e2e::{Client, Network, Node, config};

/// A pod in which scripts are run to their end.
struct Pod {
    node: Node,
    client: Client,
    sandbox: cri::PodSandboxConfig,
    id: String,
}

impl Pod {
    async fn new(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Self {
        let node = Node::start(Network::BuiltIn).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let mut sandbox = node.pod();
        change(&mut sandbox);
        let id = client.run_pod(sandbox.clone()).await.unwrap();
        Self { node, client, sandbox, id }
    }

    /// A running container that waits.
    async fn waiting(&self, name: &str, change: impl FnOnce(&mut ContainerConfig)) -> String {
        let mut wanted = self.node.busybox(name, &["sleep", "1000"]);
        change(&mut wanted);
        let id = self.client.create(&self.id, wanted, &self.sandbox).await.unwrap();
        self.client.start(&id).await.unwrap();
        id
    }

    /// What a script prints in a container of its own that has run to its end.
    async fn prints(&self, script: &str, change: impl FnOnce(&mut ContainerConfig)) -> String {
        let mut wanted = self.node.busybox("script", &["sh", "-c", script]);
        change(&mut wanted);
        let id = self.client.create(&self.id, wanted, &self.sandbox).await.unwrap();
        self.client.start(&id).await.unwrap();
        let status = self.client.exited(&id).await;
        self.client.remove(&id).await.unwrap();
        let log = std::path::Path::new(&self.sandbox.log_directory).join("script.log");
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::remove_file(&log).unwrap();
        let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
        assert_eq!(status.exit_code, 0, "{script}: {lines:?}");
        lines.join("\n")
    }

    async fn exec(&self, container: &str, command: &[&str]) -> String {
        let output = self.client.exec(container, command, 10).await.unwrap();
        assert_eq!(output.exit_code, 0, "{command:?}: {output:?}");
        output.stdout.trim().to_owned()
    }
}

fn namespaces(mode: NamespaceMode) -> impl FnOnce(&mut cri::PodSandboxConfig) {
    move |sandbox| {
        let context = sandbox.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options = Some(config::namespaces(NamespaceMode::Pod, mode));
    }
}

fn pid(mode: NamespaceMode) -> impl FnOnce(&mut ContainerConfig) {
    move |wanted| {
        config::security(wanted).namespace_options = Some(config::namespaces(NamespaceMode::Pod, mode));
    }
}

#[tokio::test]
async fn namespaces_are_the_pods_but_for_processes() {
    let pod = Pod::new(|_| {}).await;
    let (one, two) = (pod.waiting("one", |_| {}).await, pod.waiting("two", |_| {}).await);
    for kind in ["net", "ipc", "uts"] {
        let link = format!("/proc/self/ns/{kind}");
        let inside = pod.exec(&one, &["readlink", &link]).await;
        assert_eq!(inside, pod.exec(&two, &["readlink", &link]).await, "{kind} is shared");
        let host = std::fs::read_link(&link).unwrap();
        assert_ne!(inside, host.to_string_lossy(), "{kind} is not the host's");
    }
    let processes = pod.exec(&one, &["ps", "-o", "comm"]).await;
    assert_eq!(processes.lines().filter(|line| *line == "sleep").count(), 1, "{processes}");
    assert_eq!(pod.exec(&one, &["hostname"]).await, pod.sandbox.hostname);
    pod.exec(&one, &["touch", "/dev/shm/shared"]).await;
    pod.exec(&two, &["test", "-e", "/dev/shm/shared"]).await;
}

#[tokio::test]
async fn a_shared_process_namespace_has_a_powerless_first_process() {
    let pod = Pod::new(namespaces(NamespaceMode::Pod)).await;
    let one = pod.waiting("one", pid(NamespaceMode::Pod)).await;
    let two = pod.waiting("two", pid(NamespaceMode::Pod)).await;
    let processes = pod.exec(&one, &["ps", "-o", "pid,comm"]).await;
    assert_eq!(processes.lines().filter(|line| line.ends_with("sleep")).count(), 2, "{processes}");
    let status = pod.exec(&two, &["cat", "/proc/1/status"]).await;
    assert!(status.lines().any(|line| line == "CapEff:\t0000000000000000"), "{status}");
    // An orphan is reaped: no zombie stays.
    pod.exec(&one, &["sh", "-c", "(sleep 0.1 &)"]).await;
    e2e::until(e2e::node::PATIENCE, "the orphan to be reaped", || async {
        let states = pod.exec(&one, &["sh", "-c", "cat /proc/[0-9]*/stat | cut -d' ' -f3"]).await;
        let sleeping =
            pod.exec(&one, &["ps", "-o", "comm"]).await.lines().filter(|line| *line == "sleep").count();
        if states.contains('Z') || sleeping != 2 { Err(states) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn the_nodes_processes_and_another_containers_can_be_shared() {
    let pod = Pod::new(namespaces(NamespaceMode::Node)).await;
    let host = pod.prints("readlink /proc/self/ns/pid", pid(NamespaceMode::Node)).await;
    assert_eq!(host, std::fs::read_link("/proc/self/ns/pid").unwrap().to_string_lossy());

    let pod = Pod::new(|_| {}).await;
    let target = pod.waiting("target", |_| {}).await;
    let seen = pod
        .prints("ps -o comm", |wanted| {
            let mut options = config::namespaces(NamespaceMode::Pod, NamespaceMode::Target);
            options.target_id = target.clone();
            config::security(wanted).namespace_options = Some(options);
        })
        .await;
    assert!(seen.lines().any(|line| line == "sleep"), "{seen}");
}

#[tokio::test]
async fn the_nodes_ipc_namespace_can_be_used() {
    let pod = Pod::new(|sandbox| {
        let context = sandbox.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        let options = context.namespace_options.get_or_insert_default();
        options.ipc = NamespaceMode::Node as i32;
    })
    .await;
    let one = pod.waiting("one", |_| {}).await;
    let host = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    assert_eq!(pod.exec(&one, &["readlink", "/proc/self/ns/ipc"]).await, host.to_string_lossy());
    pod.exec(&one, &["grep", "-q", " /dev/mqueue mqueue ", "/proc/mounts"]).await;
}

#[tokio::test]
async fn users_are_found_by_number_name_and_group() {
    let pod = Pod::new(|_| {}).await;
    let identity = "id -u; id -g; id -G";
    assert_eq!(pod.prints(identity, |_| {}).await, "0\n0\n0");
    let www = pod.prints(identity, |c| config::security(c).run_as_username = "www".into()).await;
    assert_eq!(www, "33\n33\n33 50", "the image's groups count");
    let number = |c: &mut ContainerConfig| {
        let context = config::security(c);
        context.run_as_user = Some(Int64Value { value: 1234 });
        context.run_as_group = Some(Int64Value { value: 5678 });
        context.supplemental_groups = vec![77, 78];
    };
    assert_eq!(pod.prints(identity, number).await, "1234\n5678\n5678 77 78");
    let waiting = pod.waiting("user", number).await;
    assert_eq!(pod.exec(&waiting, &["id", "-u"]).await, "1234", "an exec runs as the container does");
}

#[tokio::test]
async fn directory_environment_and_arguments_are_those_asked_for() {
    let pod = Pod::new(|_| {}).await;
    let shown = pod
        .prints("pwd; echo $FROM_IMAGE $FROM_REQUEST $HOSTNAME $HOME; echo $0 $1", |c| {
            c.working_dir = "/made/on/the/way".into();
            c.envs = vec![cri::KeyValue { key: "FROM_REQUEST".into(), value: "yes".into() }];
            c.args = vec!["zero".into(), "one".into()];
        })
        .await;
    assert_eq!(shown, format!("/made/on/the/way\nyes yes {} /root\nzero one", pod.sandbox.hostname));
}

#[tokio::test]
async fn mounts_are_there_with_the_access_asked_for() {
    let pod = Pod::new(|_| {}).await;
    let source = pod.node.path("volume");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let mount = |readonly: bool| {
        let host_path = source.display().to_string();
        move |c: &mut ContainerConfig| {
            c.mounts = vec![Mount {
                container_path: "/deep/volume".into(),
                host_path,
                readonly,
                ..Default::default()
            }];
        }
    };
    let write = "cat /deep/volume/file; echo; (echo new > /deep/volume/new) 2>/dev/null && echo written || echo refused";
    assert_eq!(pod.prints(write, mount(true)).await, "content\nrefused");
    assert_eq!(pod.prints(write, mount(false)).await, "content\nwritten");
    assert_eq!(std::fs::metadata(source.join("new")).unwrap().uid(), 0);
    let root = "(echo x > /new) 2>/dev/null && echo written || echo refused";
    assert_eq!(pod.prints(root, |_| {}).await, "written");
    assert_eq!(pod.prints(root, |c| config::security(c).readonly_rootfs = true).await, "refused");
}

#[tokio::test]
async fn limits_are_set_and_changed_while_it_runs() {
    let pod = Pod::new(|_| {}).await;
    let limits = LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        oom_score_adj: 900,
        ..Default::default()
    };
    let id = pod.waiting("limited", |c| c.linux.as_mut().unwrap().resources = Some(limits.clone())).await;
    let limit = || find_limit(&pod, &id);
    assert_eq!(limit(), (64 << 20, 50_000));
    assert_eq!(pod.exec(&id, &["cat", "/proc/1/oom_score_adj"]).await, "900");
    let mut client = pod.client.runtime.clone();
    let linux =
        LinuxContainerResources { memory_limit_in_bytes: 96 << 20, cpu_quota: 70_000, ..Default::default() };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    client.update_container_resources(request).await.unwrap();
    assert_eq!(limit(), (96 << 20, 70_000));
    let shown = pod.client.container(&id).await.unwrap().resources.unwrap().linux.unwrap();
    assert_eq!((shown.memory_limit_in_bytes, shown.cpu_quota, shown.cpu_shares), (96 << 20, 70_000, 512));
}

/// Memory limit and CPU quota as the kernel has them, on cgroup v1 or v2.
fn find_limit(pod: &Pod, id: &str) -> (u64, i64) {
    let mut found = (0, 0);
    let mut todo = pod.node.traces().cgroup_parents();
    while let Some(directory) = todo.pop() {
        let inside = std::fs::read_dir(&directory).unwrap().flatten().map(|entry| entry.path());
        todo.extend(inside.filter(|path| path.is_dir()));
        if !directory.file_name().unwrap().to_string_lossy().contains(id) {
            continue;
        }
        let read = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
        let first = |text: String| text.split_whitespace().next().map(str::to_owned).unwrap_or_default();
        for file in ["memory.limit_in_bytes", "memory.max"] {
            found.0 = first(read(file)).parse().unwrap_or(found.0);
        }
        for file in ["cpu.cfs_quota_us", "cpu.max"] {
            found.1 = first(read(file)).parse().unwrap_or(found.1);
        }
    }
    found
}

#[tokio::test]
async fn a_container_killed_for_memory_says_so() {
    let pod = Pod::new(|_| {}).await;
    let mut wanted =
        pod.node.busybox("hungry", &["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"]);
    let limits = LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() };
    wanted.linux.as_mut().unwrap().resources = Some(limits);
    let id = pod.client.create(&pod.id, wanted, &pod.sandbox).await.unwrap();
    pod.client.start(&id).await.unwrap();
    let status = pod.client.exited(&id).await;
    assert_eq!(status.reason, "OOMKilled", "{status:?}");
    assert_eq!(status.exit_code, 137);
}

#[tokio::test]
async fn an_ordinary_container_is_confined() {
    let pod = Pod::new(|_| {}).await;
    let id = pod
        .waiting("confined", |c| {
            let context = config::security(c);
            context.masked_paths = vec!["/proc/kcore".into(), "/proc/keys".into(), "/sys/firmware".into()];
            context.readonly_paths = vec!["/proc/sys".into(), "/proc/irq".into()];
            context.no_new_privs = true;
        })
        .await;
    let status = pod.exec(&id, &["cat", "/proc/1/status"]).await;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("CapInh:"), "0000000000000000");
    assert_eq!(field("CapEff:"), field("CapBnd:"));
    assert_eq!(field("NoNewPrivs:"), "1");
    let effective = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
    let (sys_admin, chown) = (1 << 21, 1);
    assert_eq!(effective & (sys_admin | chown), chown, "the default set: {effective:x}");
    assert_eq!(pod.exec(&id, &["cat", "/proc/keys"]).await, "", "masked");
    let refused = pod.client.exec(&id, &["sh", "-c", "echo 1 > /proc/sys/kernel/panic"], 10).await.unwrap();
    assert_ne!(refused.exit_code, 0, "read-only");
    let refused = pod
        .client
        .exec(&id, &["sh", "-c", "mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/memory/x"], 10)
        .await;
    assert_ne!(refused.unwrap().exit_code, 0, "cgroups are read-only");
    // Of a shell's own descriptors 0 to 2 and that of the directory being listed are there, none of ours.
    let open = pod.exec(&id, &["ls", "/proc/1/fd"]).await;
    assert_eq!(open.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
    let devices = pod.exec(&id, &["ls", "/dev"]).await;
    for expected in
        ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin"]
    {
        assert!(devices.split_whitespace().any(|name| name == expected), "no {expected} in {devices}");
    }
    assert!(!devices.contains("vda") && !devices.contains("kmsg"), "{devices}");
}

/// Root in a container with the default capabilities may change what it owns, and standard streams are files too.
#[tokio::test]
async fn the_hosts_null_device_cannot_be_changed_through_a_stream() {
    let pod = Pod::new(|_| {}).await;
    let host = || {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let found = std::fs::metadata("/dev/null").unwrap();
        (found.permissions().mode(), found.uid(), found.gid())
    };
    let before = host();
    let attack = "for f in 0 1 2; do chmod 640 /proc/self/fd/$f; chown 7:7 /proc/self/fd/$f; done; exit 7";
    let mut wanted = pod.node.busybox("attack", &["sh", "-c", attack]);
    // Without a log all three are the null device.
    wanted.log_path = String::new();
    let id = pod.client.create(&pod.id, wanted, &pod.sandbox).await.unwrap();
    pod.client.start(&id).await.unwrap();
    assert_eq!(pod.client.exited(&id).await.exit_code, 7);
    assert_eq!(host(), before);
    let id = pod.waiting("main", |_| {}).await;
    pod.exec(&id, &["sh", "-c", "chmod 640 /dev/stdin; chown 7:7 /dev/stdin; true"]).await;
    assert_eq!(host(), before);
    pod.exec(&id, &["sh", "-c", "cat; echo x > /dev/null"]).await;
}

#[tokio::test]
async fn an_exec_is_bounded_in_time_and_output() {
    let pod = Pod::new(|_| {}).await;
    let id = pod.waiting("main", |_| {}).await;
    let late = pod.client.exec(&id, &["sleep", "100"], 1).await.expect_err("too late");
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    e2e::until(e2e::node::PATIENCE, "the late command to be killed", || async {
        let processes = pod.exec(&id, &["ps", "-o", "args"]).await;
        if processes.contains("sleep 100\n") || processes.ends_with("sleep 100") {
            Err(processes)
        } else {
            Ok(())
        }
    })
    .await;
    // A child left behind in the background holds the pipes, but not the answer.
    let begun = std::time::Instant::now();
    let output = pod.client.exec(&id, &["sh", "-c", "sleep 30 & echo done"], 20).await.unwrap();
    assert_eq!((output.stdout.as_str(), output.exit_code), ("done\n", 0));
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "took {:?}", begun.elapsed());
    // No more than kubelet reads.
    let mut much = pod.client.runtime.clone().max_decoding_message_size(16 << 20);
    // Nor does one that never stops writing.
    let cmd = ["sh", "-c", "yes & exit 0"].map(str::to_owned).to_vec();
    let request = cri::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 20 };
    let answer = much.exec_sync(request).await.unwrap().into_inner();
    assert_eq!((answer.stdout.get(..2), answer.exit_code), (Some(&b"y\n"[..]), 0));
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "took {:?}", begun.elapsed());
    let cmd = ["sh", "-c", "head -c 40m /dev/zero & head -c 40m /dev/zero >&2; wait; exit 4"]
        .map(str::to_owned)
        .to_vec();
    let request = cri::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 60 };
    let answer = much.exec_sync(request).await.unwrap().into_inner();
    assert_eq!(answer.exit_code, 4, "the command ran to its end");
    let kept = answer.stdout.len() + answer.stderr.len();
    assert!(kept > 15 << 20, "{kept} bytes");
    // The time that a client gives the call itself has the code that clients look for.
    let cmd = ["sleep", "200"].map(str::to_owned).to_vec();
    // The client's own clock ends the call, too: on a slow machine before the answer is here.
    let late = e2e::until(e2e::node::PATIENCE, "the daemon's answer", || async {
        let wanted = cri::ExecSyncRequest { container_id: id.clone(), cmd: cmd.clone(), timeout: 0 };
        let mut request = tonic::Request::new(wanted);
        request.set_timeout(std::time::Duration::from_secs(1));
        let late = much.clone().exec_sync(request).await.unwrap_err();
        if late.message() == "Timeout expired" { Err(late) } else { Ok(late) }
    })
    .await;
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    let missing = pod.client.exec(&id, &["/no/such/command"], 10).await;
    assert!(missing.is_err() || missing.is_ok_and(|output| output.exit_code != 0));
}

#[tokio::test]
async fn a_long_line_is_split_and_the_last_line_needs_no_end() {
    let pod = Pod::new(|_| {}).await;
    let script = "head -c 20000 /dev/zero | tr '\\0' x; echo; printf end";
    let id = pod
        .client
        .create(&pod.id, pod.node.busybox("long", &["sh", "-c", script]), &pod.sandbox)
        .await
        .unwrap();
    pod.client.start(&id).await.unwrap();
    pod.client.exited(&id).await;
    let log =
        std::fs::read_to_string(std::path::Path::new(&pod.sandbox.log_directory).join("long.log")).unwrap();
    let lines: Vec<(&str, usize)> = log
        .lines()
        .map(|line| {
            let mut parts = line.splitn(4, ' ').skip(2);
            (parts.next().unwrap(), parts.next().unwrap().len())
        })
        .collect();
    assert_eq!(lines, [("P", 16 << 10), ("F", 20_000 - (16 << 10)), ("F", 3)]);
}

#[tokio::test]
async fn a_log_is_reopened_without_losing_a_line() {
    let pod = Pod::new(|_| {}).await;
    let script = "i=0; while :; do i=$((i+1)); echo $i; usleep 1000; done";
    let id = pod
        .client
        .create(&pod.id, pod.node.busybox("loud", &["sh", "-c", script]), &pod.sandbox)
        .await
        .unwrap();
    pod.client.start(&id).await.unwrap();
    let log = std::path::Path::new(&pod.sandbox.log_directory).join("loud.log");
    let rotated = log.with_extension("log.1");
    let some = |path: std::path::PathBuf| {
        e2e::until(e2e::node::PATIENCE, "some lines", move || {
            let lines = std::fs::read_to_string(&path).unwrap_or_default().lines().count();
            async move { if lines > 5 { Ok(()) } else { Err(lines) } }
        })
    };
    some(log.clone()).await;
    std::fs::rename(&log, &rotated).unwrap();
    let request = cri::ReopenContainerLogRequest { container_id: id.clone() };
    pod.client.runtime.clone().reopen_container_log(request).await.unwrap();
    some(log.clone()).await;
    pod.client.stop(&id, 0).await.unwrap();
    let both = std::fs::read_to_string(&rotated).unwrap() + &std::fs::read_to_string(&log).unwrap();
    let numbers: Vec<u32> =
        both.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(
        numbers.iter().zip(1..).all(|(number, expected)| *number == expected),
        "a gap or a mix: {numbers:?}"
    );
}
