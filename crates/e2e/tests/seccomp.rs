//! Seccomp: profiles of the node, the default profile, and who has none.

use e2e::cri::security_profile::ProfileType;
use e2e::cri::{self, Capability, ContainerConfig, Int64Value, Mount, SecurityProfile};
use e2e::{Client, Network, Node, config, needs};
use serde_json::{Value, json};
use tonic::{Code, Status};

const FIELD: &str = "linux.security_context.seccomp.localhost_ref";

/// A pod in which containers are tried.
struct Bench {
    node: Node,
    client: Client,
    sandbox: cri::PodSandboxConfig,
    pod: String,
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut cri::LinuxSandboxSecurityContext)) -> Self {
        let node = Node::start(Network::None).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let mut sandbox = pod(&node);
        change(sandbox_security(&mut sandbox));
        let pod = client.run_pod(sandbox.clone()).await.unwrap();
        Self { node, client, sandbox, pod }
    }

    /// Writes a profile and gives its path.
    fn profile(&self, name: &str, content: &Value) -> String {
        self.file(name, content.to_string().as_bytes())
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.node.path(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    async fn create(
        &self,
        command: &[&str],
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<String, Status> {
        let mut wanted = self.node.busybox("main", command);
        change(&mut wanted);
        self.client.create(&self.pod, wanted, &self.sandbox).await
    }

    /// How a script ends and what it prints.
    async fn run(&self, script: &str, change: impl FnOnce(&mut ContainerConfig)) -> (i32, String) {
        let id = self.create(&["sh", "-c", script], change).await.unwrap();
        self.client.start(&id).await.unwrap();
        let status = self.client.exited(&id).await;
        self.client.remove(&id).await.unwrap();
        let log = std::path::Path::new(&self.sandbox.log_directory).join("main.log");
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::remove_file(&log).unwrap();
        let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
        (status.exit_code, lines.join("\n"))
    }

    async fn refused(&self, path: &str, words: &str) {
        let status = self.create(&["true"], localhost(path)).await.expect_err("a refusal");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        for word in [FIELD, path, words] {
            assert!(status.message().contains(word), "no \"{word}\" in: {}", status.message());
        }
        assert!(self.client.containers().await.unwrap().is_empty(), "nothing is kept after {status}");
    }
}

/// A pod on the host's network, for which kubelet names no host.
fn pod(node: &Node) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig { hostname: String::new(), ..node.pod() }
}

fn sandbox_security(sandbox: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    sandbox.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn of_the_node(path: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: path.into() })
}

fn localhost(path: &str) -> impl FnOnce(&mut ContainerConfig) {
    let profile = of_the_node(path);
    move |wanted| config::security(wanted).seccomp = profile
}

fn runtime_default(wanted: &mut ContainerConfig) {
    let kind = ProfileType::RuntimeDefault as i32;
    config::security(wanted).seccomp =
        Some(SecurityProfile { profile_type: kind, localhost_ref: String::new() });
}

fn add_capabilities(wanted: &mut ContainerConfig, names: &[&str]) {
    let add_capabilities = names.iter().map(ToString::to_string).collect();
    config::security(wanted).capabilities = Some(Capability { add_capabilities, ..Default::default() });
}

/// Everything passes but for these rules.
fn but(rules: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules })
}

const CHMOD: [&str; 4] = ["chmod", "fchmod", "fchmodat", "fchmodat2"];

#[tokio::test]
async fn a_profile_of_the_node_answers_with_its_error() {
    let bench = Bench::new().await;
    let no_chmod = but(json!([{ "names": CHMOD, "action": "SCMP_ACT_ERRNO", "errnoRet": libc_erofs() }]));
    let path = bench.profile("no-chmod.json", &no_chmod);
    let script = "touch /tmp/x; chmod 600 /tmp/x 2>&1; grep Seccomp: /proc/self/status";
    let (code, printed) = bench.run(script, localhost(&path)).await;
    assert!(printed.contains("Read-only file system") && printed.ends_with('2'), "{printed}");
    assert_eq!(code, 0);
    let (_, printed) = bench.run(script, |_| {}).await;
    assert!(!printed.contains("Read-only") && printed.ends_with('0'), "without a profile: {printed}");
    let default = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 95,
        "syscalls": [{ "names": NEEDED, "action": "SCMP_ACT_ALLOW" }],
    });
    let (_, printed) = bench.run(script, localhost(&bench.profile("default.json", &default))).await;
    assert!(printed.contains("Operation not supported"), "{printed}");
}

/// EROFS, which chmod has no other reason to answer with.
fn libc_erofs() -> i32 {
    nix::errno::Errno::EROFS as i32
}

/// What a busybox needs to do the same, chmod apart.
const NEEDED: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "chdir",
    "clone",
    "close",
    "dup2",
    "dup3",
    "execve",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fcntl",
    "fork",
    "fstat",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getrandom",
    "getuid",
    "ioctl",
    "lseek",
    "lstat",
    "mmap",
    "mprotect",
    "munmap",
    "newfstatat",
    "open",
    "openat",
    "poll",
    "ppoll",
    "prctl",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "set_robust_list",
    "set_tid_address",
    "stat",
    "statx",
    "umask",
    "uname",
    "utimensat",
    "vfork",
    "wait4",
    "write",
];

#[tokio::test]
async fn rules_look_at_arguments() {
    let bench = Bench::new().await;
    let arguments = |value: u64| json!([{ "index": 1, "op": "SCMP_CMP_EQ", "value": value }]);
    // Two rules for one call: either is enough. Two arguments in one rule: both must be so.
    let both = json!([
        { "index": 0, "op": "SCMP_CMP_GT", "value": 1 },
        { "index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 0xff, "valueTwo": 18 },
    ]);
    let path = bench.profile(
        "kill.json",
        &but(json!([
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": arguments(10) },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": arguments(12) },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": both },
        ])),
    );
    let script =
        "sleep 100 & for signal in USR1 USR2 URG; do kill -$signal 1 2>/dev/null && echo $signal; done
        kill -CONT 1 2>/dev/null && echo CONT to 1; kill -CONT $! 2>/dev/null && echo CONT to $!; kill -9 $!";
    let (code, printed) = bench.run(script, localhost(&path)).await;
    assert_eq!((code, printed.as_str()), (0, "URG\nCONT to 1"));
}

#[tokio::test]
async fn a_profile_may_be_as_large_as_the_kernel_takes() {
    let bench = Bench::new().await;
    let rule = |mode: u32| {
        json!({ "names": ["fchmodat", "chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc_erofs(),
                "args": [{ "index": if cfg!(target_arch = "x86_64") { 1 } else { 2 }, "op": "SCMP_CMP_EQ", "value": mode }] })
    };
    let rules: Vec<Value> = (0..790).map(rule).collect();
    let path = bench.profile("large.json", &but(json!(rules)));
    // In octal: 789 is the last that is refused.
    let script = "for mode in 0 777 1425 1426; do chmod $mode /tmp 2>/dev/null && echo $mode; done";
    assert_eq!(bench.run(script, localhost(&path)).await.1, "1426");
    let id = bench.create(&["sleep", "1000"], localhost(&path)).await.unwrap();
    bench.client.start(&id).await.unwrap();
    assert_eq!(bench.client.exec(&id, &["chmod", "777", "/tmp"], 10).await.unwrap().exit_code, 1);
}

#[tokio::test]
async fn a_call_can_kill_and_a_call_can_be_logged() {
    let bench = Bench::new().await;
    for (action, expected) in [
        ("SCMP_ACT_KILL_PROCESS", "Bad system call\n159"),
        ("SCMP_ACT_KILL", "Bad system call\n159"),
        ("SCMP_ACT_TRAP", "Bad system call\n159"),
        ("SCMP_ACT_LOG", "0"),
    ] {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{ "names": ["syncfs", "sync"], "action": action }],
        });
        let path = bench.profile("sync.json", &profile);
        assert_eq!(bench.run("sync 2>&1; echo $?", localhost(&path)).await.1, expected, "{action}");
    }
    let path =
        bench.profile("sync.json", &but(json!([{ "names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS" }])));
    let (code, _) = bench.run("exec sync", localhost(&path)).await;
    assert_eq!(code, 159, "128 and SIGSYS, of the first process too");
}

#[tokio::test]
async fn profiles_that_cannot_be_had_are_refused_with_their_path() {
    let bench = Bench::new().await;
    let missing = bench.node.path("missing.json").display().to_string();
    bench.refused(&missing, "No such file").await;
    bench.refused("profiles/relative.json", "not an absolute path").await;
    bench.refused(&bench.node.path("").display().to_string(), "not a regular file").await;
    let fifo = bench.node.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    bench.refused(&fifo.display().to_string(), "not a regular file").await;
    bench.refused(&bench.file("garbage.json", b"\x7fELF and so on"), "expected value at line 1").await;
    bench.refused(&bench.file("cut.json", br#"{ "defaultAction": "SCMP_ACT_ALLOW", "#), "EOF").await;
    bench.refused(&bench.file("huge.json", &vec![b' '; (1 << 20) + 1]), "larger than 1048576 bytes").await;
    bench.refused("/dev/zero", "not a regular file").await;
    let rule = |rule: Value| but(json!([rule]));
    for (name, profile, words) in [
        ("empty.json", json!({}), "defaultAction"),
        (
            "notify.json",
            rule(json!({ "names": ["chmod"], "action": "SCMP_ACT_NOTIFY" })),
            "syscalls[0].action: SCMP_ACT_NOTIFY",
        ),
        (
            "listener.json",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x" }),
            "listenerPath",
        ),
        (
            "action.json",
            rule(json!({ "names": ["chmod"], "action": "SCMP_ACT_FLY" })),
            "\"SCMP_ACT_FLY\" is not an action",
        ),
        (
            "arch.json",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["PDP11"] }),
            "\"PDP11\" is not an architecture",
        ),
    ] {
        bench.refused(&bench.profile(name, &profile), words).await;
    }
    let values: Vec<Value> = (0..1000)
        .map(|value| json!({ "names": ["chmod"], "action": "SCMP_ACT_KILL", "args": [{ "index": 0, "op": "SCMP_CMP_EQ", "value": value }] }))
        .collect();
    bench.refused(&bench.profile("long.json", &but(json!(values))), "4096").await;
    let id = bench.create(&["true"], |_| {}).await.expect("the retry works");
    bench.client.remove(&id).await.unwrap();
}

#[tokio::test]
async fn the_profile_of_a_sandbox_is_looked_at() {
    let bench = Bench::new().await;
    let run = async |path: &str, privileged: bool| {
        let mut sandbox = pod(&bench.node);
        let security = sandbox_security(&mut sandbox);
        (security.seccomp, security.privileged) = (of_the_node(path), privileged);
        bench.client.run_pod(sandbox).await
    };
    for (path, words) in [("/no/such/profile.json", "No such file"), ("profile.json", "not an absolute path")]
    {
        let status = run(path, false).await.expect_err("a refusal");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(FIELD) && status.message().contains(words), "{status}");
    }
    assert_eq!(bench.client.pods().await.unwrap().len(), 1, "nothing is kept");
    run("/no/such/profile.json", true).await.expect("a privileged sandbox has none");
    let path = bench.profile("allow.json", &json!({ "defaultAction": "SCMP_ACT_ALLOW" }));
    run(&path, false).await.expect("a profile that is there");
}

#[tokio::test]
async fn a_privileged_container_ignores_its_profile() {
    let bench = Bench::with(|security| security.privileged = true).await;
    let path = bench
        .profile("no-name.json", &but(json!([{ "names": ["sethostname"], "action": "SCMP_ACT_ERRNO" }])));
    let script = "unshare -u hostname other 2>&1 && echo set; grep Seccomp: /proc/self/status";
    let profile = of_the_node(&path);
    let (_, printed) = bench
        .run(script, |wanted| {
            config::security(wanted).seccomp = profile.clone();
            config::security(wanted).privileged = true;
        })
        .await;
    assert_eq!(printed, "set\nSeccomp:\t0");
    let (_, printed) = bench
        .run(script, |wanted| {
            config::security(wanted).seccomp = profile.clone();
            add_capabilities(wanted, &["SYS_ADMIN"]);
        })
        .await;
    assert!(
        printed.contains("not permitted") && printed.ends_with('2'),
        "with the capability alone: {printed}"
    );
}

#[tokio::test]
async fn a_profile_need_not_know_what_the_runtime_does() {
    let bench = Bench::new().await;
    // What setting up a process takes, and a busybox doesn't.
    let ours = [
        "capget",
        "capset",
        "setresuid",
        "setresgid",
        "setgroups",
        "close_range",
        "seccomp",
        "sendmsg",
        "openat2",
        "fchdir",
    ];
    let path =
        bench.profile("strict.json", &but(json!([{ "names": ours, "action": "SCMP_ACT_KILL_PROCESS" }])));
    for (user, no_new_privs) in [(0, true), (0, false), (1234, true), (1234, false)] {
        let (code, printed) = bench
            .run("id -u; grep -E 'CapPrm|NoNewPrivs|Seccomp:' /proc/self/status", |wanted| {
                localhost(&path)(wanted);
                let security = config::security(wanted);
                security.run_as_user = Some(Int64Value { value: user });
                security.no_new_privs = no_new_privs;
            })
            .await;
        let permitted = if user == 0 { "00000000a80425fb" } else { "0000000000000000" };
        let flag = u8::from(no_new_privs);
        let expected = format!("{user}\nCapPrm:\t{permitted}\nNoNewPrivs:\t{flag}\nSeccomp:\t2");
        assert_eq!((code, printed), (0, expected));
    }
}

#[tokio::test]
async fn an_exec_has_the_filter_that_its_container_was_made_with() {
    let mut bench = Bench::new().await;
    let no_chmod = but(json!([{ "names": CHMOD, "action": "SCMP_ACT_ERRNO", "errnoRet": libc_erofs() }]));
    let path = bench.profile("changing.json", &no_chmod);
    let id = bench.create(&["sleep", "1000"], localhost(&path)).await.unwrap();
    bench.client.start(&id).await.unwrap();
    let chmod = async |client: &Client| client.exec(&id, &["chmod", "600", "/tmp"], 10).await.unwrap();
    assert!(chmod(&bench.client).await.stderr.contains("Read-only file system"));
    std::fs::write(&path, json!({ "defaultAction": "SCMP_ACT_ALLOW" }).to_string()).unwrap();
    assert_eq!(chmod(&bench.client).await.exit_code, 1, "the file has changed, the container not");
    std::fs::remove_file(&path).unwrap();
    bench.node.kill_daemon();
    bench.node.start_daemon();
    bench.client = bench.node.client();
    assert!(
        chmod(&bench.client).await.stderr.contains("Read-only file system"),
        "after another daemon took it up"
    );
}

#[tokio::test]
async fn the_form_of_docker_depends_on_capabilities() {
    let bench = Bench::new().await;
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] }],
        "syscalls": [{ "names": CHMOD, "action": "SCMP_ACT_ERRNO", "comment": "", "args": null,
                       "includes": {}, "excludes": { "caps": ["CAP_SYS_NICE"] } }],
    });
    let path = bench.profile("docker.json", &profile);
    let script = "chmod 777 /tmp 2>/dev/null && echo changed || echo refused";
    assert_eq!(bench.run(script, localhost(&path)).await.1, "refused");
    let with = |wanted: &mut ContainerConfig| {
        localhost(&path)(wanted);
        add_capabilities(wanted, &["SYS_NICE"]);
    };
    assert_eq!(bench.run(script, with).await.1, "changed");
}

#[tokio::test]
async fn the_default_profile_keeps_dangerous_calls_away() {
    needs!("perl");
    let bench = Bench::new().await;
    // perl can make any call; it is the host's, as is all that it needs.
    let host = |wanted: &mut ContainerConfig| {
        let mount = Mount {
            container_path: "/host".into(),
            host_path: "/".into(),
            readonly: true,
            ..Default::default()
        };
        wanted.mounts.push(mount);
    };
    let answers = async |calls: &[(&str, &str)], change: &dyn Fn(&mut ContainerConfig)| {
        let tries: Vec<String> = calls
            .iter()
            .map(|(name, call)| {
                format!("$! = 0; my $r = syscall({call}); print \"{name} \", $r < 0 ? $!+0 : 0, \"\\n\";")
            })
            .collect();
        let script = format!("chroot /host perl -e '{}'", tries.join(" "));
        let (code, printed) = bench
            .run(&script, |wanted| {
                host(wanted);
                change(wanted);
            })
            .await;
        assert_eq!(code, 0, "{printed}");
        printed
    };
    let socket = if cfg!(target_arch = "aarch64") { 198 } else { 41 };
    let personality = if cfg!(target_arch = "aarch64") { 92 } else { 135 };
    let unshare = if cfg!(target_arch = "aarch64") { 97 } else { 272 };
    let calls = [
        ("alg", format!("{socket}, 38, 5, 0")),
        // The kernel looks at the lower half of the family alone.
        ("alg-dirty", format!("{socket}, (1 << 32) | 38, 5, 0")),
        ("vsock", format!("{socket}, 40, 1, 0")),
        ("inet", format!("{socket}, 2, 1, 0")),
        ("no-aslr", format!("{personality}, 0x40000")),
        ("ask", format!("{personality}, 0xffffffff")),
        ("unshare", format!("{unshare}, 0")),
        ("io_uring", "425, 1, 0".to_owned()),
        ("clone3", "435, 0, 0".to_owned()),
        ("open_tree", "428, -100, 0, 0".to_owned()),
    ];
    let calls: Vec<(&str, &str)> = calls.iter().map(|(name, call)| (*name, call.as_str())).collect();
    let confined = answers(&calls, &|wanted| runtime_default(wanted)).await;
    let expected = "alg 1\nalg-dirty 1\nvsock 1\ninet 0\nno-aslr 1\nask 0\nunshare 1\nio_uring 38\nclone3 38\nopen_tree 1";
    assert_eq!(confined, expected);
    let administrator = |wanted: &mut ContainerConfig| {
        runtime_default(wanted);
        add_capabilities(wanted, &["SYS_ADMIN"]);
    };
    let opened = answers(&calls[6..], &administrator).await;
    assert_eq!(opened, "unshare 0\nio_uring 38\nclone3 22\nopen_tree 14", "what CAP_SYS_ADMIN opens");
    let unconfined = answers(&calls[4..], &|_| {}).await;
    assert!(unconfined.starts_with("no-aslr 0\nask 0\nunshare 0\n"), "without a filter: {unconfined}");
    assert!(unconfined.ends_with("clone3 22\nopen_tree 14"), "without a filter: {unconfined}");
}
