//! AppArmor: the default profile, profiles of the node, and who has none. Where the kernel has it; what must hold without it, elsewhere.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use e2e::cri::security_profile::ProfileType;
use e2e::cri::{
    self, Capability, ContainerConfig, IdMapping, Mount, NamespaceMode, SecurityProfile, UserNamespace,
};
use e2e::image::{self, Image, Layer};
use e2e::{Client, Network, Node, config, needs};
use serde_json::json;
use tokio::sync::RwLock;
use tonic::{Code, Status};

const FIELD: &str = "linux.security_context.apparmor";

/// The default profile as the kernel names it for a process.
const DEFAULT: &str = "knarr-default (enforce)";

/// Says which profile a shell runs under.
const WHICH: &str = "cat /proc/self/attr/current";

/// The default profile is the whole machine's: who takes it away does so alone.
static MACHINE: RwLock<()> = RwLock::const_new(());

macro_rules! needs_apparmor {
    () => {
        if let Err(why) = needs::apparmor() {
            println!("skipped: {} needs AppArmor: {why}", module_path!());
            return;
        }
    };
}

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

    async fn with(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Self {
        let node = Node::start(Network::None).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let mut sandbox = node.pod();
        change(&mut sandbox);
        let pod = client.run_pod(sandbox.clone()).await.unwrap();
        Self { node, client, sandbox, pod }
    }

    async fn create(
        &self,
        command: &[&str],
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<String, Status> {
        let mut wanted = self.node.busybox("main", command);
        let of_pod = self.sandbox.linux.as_ref().unwrap().security_context.as_ref().unwrap();
        config::security(&mut wanted).namespace_options.clone_from(&of_pod.namespace_options);
        change(&mut wanted);
        self.client.create(&self.pod, wanted, &self.sandbox).await
    }

    /// How a script ends as the first process, and as one that joins a container like it; both print the same.
    async fn run(&self, script: &str, change: impl Fn(&mut ContainerConfig)) -> (i32, String) {
        let id = self.create(&["sh", "-c", script], &change).await.unwrap();
        self.client.start(&id).await.unwrap();
        let code = self.client.exited(&id).await.exit_code;
        self.client.remove(&id).await.unwrap();
        let log = std::fs::read_to_string(self.node.path("logs").join(self.name()).join("main.log"));
        let first: String = log.unwrap().lines().map(|line| format!("{}\n", after_tag(line))).collect();
        std::fs::remove_file(self.node.path("logs").join(self.name()).join("main.log")).unwrap();
        let id = self.create(&["sleep", "1000"], &change).await.unwrap();
        self.client.start(&id).await.unwrap();
        let joined = self.client.exec(&id, &["sh", "-c", &format!("exec 2>&1; {script}")], 20).await.unwrap();
        self.client.remove(&id).await.unwrap();
        assert_eq!((code, &first), (joined.exit_code, &joined.stdout), "run and exec differ");
        (code, first)
    }

    fn name(&self) -> String {
        self.sandbox.metadata.as_ref().unwrap().name.clone()
    }
}

/// The text of a line of a CRI log: after time, stream and tag.
fn after_tag(line: &str) -> &str {
    line.splitn(4, ' ').nth(3).unwrap_or_default()
}

fn profile(kind: ProfileType, name: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind as i32, localhost_ref: name.to_owned() })
}

fn set(config: &mut ContainerConfig, wanted: Option<SecurityProfile>) {
    config::security(config).apparmor = wanted;
}

/// A profile of the node's for as long as it is held.
struct Loaded(String);

impl Loaded {
    fn new(rules: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("knarr-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let loaded = Self(name);
        loaded.parse("--replace", rules);
        loaded
    }

    fn parse(&self, what: &str, rules: &str) {
        parser(what, &format!("profile {} flags=(attach_disconnected) {{ {rules} }}\n", self.0));
    }

    fn localhost(&self) -> Option<SecurityProfile> {
        profile(ProfileType::Localhost, &self.0)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.parse("--remove", "");
    }
}

fn parser(what: &str, text: &str) {
    let mut parser = Command::new("apparmor_parser")
        .args([what, "--skip-cache"])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's apparmor");
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success(), "{what} of {text}");
}

fn is_loaded(name: &str) -> bool {
    let list = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap();
    list.lines().any(|line| line.starts_with(&format!("{name} (")))
}

#[tokio::test]
async fn the_default_profile_is_for_all_who_say_nothing_else() {
    needs_apparmor!();
    let _machine = MACHINE.read().await;
    let bench = Bench::new().await;
    for wanted in [None, profile(ProfileType::RuntimeDefault, "")] {
        for no_new_privileges in [false, true] {
            let (code, said) = bench
                .run(WHICH, |config| {
                    set(config, wanted.clone());
                    config::security(config).no_new_privs = no_new_privileges;
                })
                .await;
            assert_eq!((code, said.trim()), (0, DEFAULT), "{wanted:?} {no_new_privileges}");
        }
    }
    #[allow(deprecated, reason = "the old form")]
    let old = |text: &'static str| {
        move |config: &mut ContainerConfig| config::security(config).apparmor_profile = text.to_owned()
    };
    assert_eq!(bench.run(WHICH, old("runtime/default")).await.1.trim(), DEFAULT);
    assert_eq!(bench.run(WHICH, old("unconfined")).await.1.trim(), "unconfined");
    let unconfined = |config: &mut ContainerConfig| set(config, profile(ProfileType::Unconfined, ""));
    assert_eq!(bench.run(WHICH, unconfined).await.1.trim(), "unconfined");
}

/// As much as a container can be given without being privileged: what is left is the profile.
fn powerful(config: &mut ContainerConfig) {
    let security = config::security(config);
    security.capabilities = Some(Capability { add_capabilities: vec!["ALL".into()], ..Default::default() });
    security.masked_paths.clear();
    security.readonly_paths.clear();
}

#[tokio::test]
async fn the_default_profile_confines_even_an_administrator() {
    needs_apparmor!();
    let _machine = MACHINE.read().await;
    let bench = Bench::new().await;
    // Each does nothing that would stay where it is allowed.
    let attempts = [
        "mount -t tmpfs none /tmp && umount /tmp",
        "umount /dev/mqueue",
        "cat /proc/sys/vm/swappiness > /tmp/v && cat /tmp/v > /proc/sys/vm/swappiness",
        "cat /proc/sys/kernel/core_pattern > /tmp/p && cat /tmp/p > /proc/sys/kernel/core_pattern",
        "head -c 1 /proc/kcore",
        "printf h > /proc/sysrq-trigger",
        "ls /sys/kernel/security/apparmor",
    ];
    let each = attempts.iter().map(|attempt| format!("({attempt}) >/dev/null 2>&1 && echo '{attempt}'; "));
    let (_, went_well) = bench.run(&format!("{} true", each.collect::<String>()), powerful).await;
    assert_eq!(went_well, "");
    // The same without the profile, so that something is known to have been refused by it.
    let free = |config: &mut ContainerConfig| {
        powerful(config);
        set(config, profile(ProfileType::Unconfined, ""));
    };
    let works = format!("({} && {} && {}) >/dev/null", attempts[0], attempts[2], attempts[3]);
    assert_eq!(bench.run(&works, free).await, (0, String::new()));
    // What is the container's own is written, traced and signalled; the profile can't be left.
    let own = "cat /proc/sys/kernel/shmmax > /tmp/m && cat /tmp/m > /proc/sys/kernel/shmmax && \
               echo 10 > /proc/self/oom_score_adj && { sleep 1000 & } && kill -0 $! && kill $!; \
               cat /proc/1/attr/current; echo 'exec unconfined' > /proc/self/attr/exec";
    let (code, said) = bench.run(&format!("{{ {own}; }} 2>/dev/null"), powerful).await;
    assert_eq!((code, said.trim()), (1, DEFAULT));
}

#[tokio::test]
async fn profiles_of_the_node_are_honoured() {
    needs_apparmor!();
    let bench = Bench::new().await;
    let loaded = Loaded::new("file, capability, network, signal, ptrace, deny /tmp/** w,");
    let script =
        format!("{WHICH}; touch /tmp/new 2>/dev/null || echo refused; touch /home/new && echo written");
    let expected = format!("{} (enforce)\nrefused\nwritten\n", loaded.0);
    for no_new_privileges in [false, true] {
        let named = |config: &mut ContainerConfig| {
            set(config, loaded.localhost());
            config::security(config).no_new_privs = no_new_privileges;
        };
        assert_eq!(bench.run(&script, named).await, (0, expected.clone()));
    }
    let prefixed = |config: &mut ContainerConfig| {
        set(config, profile(ProfileType::Localhost, &format!("localhost/{}", loaded.0)));
    };
    assert_eq!(bench.run(&script, prefixed).await, (0, expected.clone()));
    #[allow(deprecated, reason = "the old form")]
    let old = |config: &mut ContainerConfig| {
        config::security(config).apparmor_profile = format!("localhost/{}", loaded.0);
    };
    assert_eq!(bench.run(&script, old).await, (0, expected));
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_is_confined_too() {
    needs_apparmor!();
    let _machine = MACHINE.read().await;
    let mapping = vec![IdMapping { host_id: 1_000_000, container_id: 0, length: 65_536 }];
    let users = UserNamespace { mode: NamespaceMode::Pod as i32, uids: mapping.clone(), gids: mapping };
    let bench = Bench::with(|sandbox| {
        let context = sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
        context.namespace_options.as_mut().unwrap().userns_options = Some(users);
    })
    .await;
    for no_new_privileges in [false, true] {
        let (code, said) =
            bench.run(WHICH, |config| config::security(config).no_new_privs = no_new_privileges).await;
        assert_eq!((code, said.trim()), (0, DEFAULT));
    }
}

#[tokio::test]
async fn privileged_containers_are_unconfined() {
    needs_apparmor!();
    let bench = Bench::with(|sandbox| {
        sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap().privileged = true;
    })
    .await;
    for wanted in [None, profile(ProfileType::RuntimeDefault, ""), profile(ProfileType::Localhost, "none")] {
        let privileged = |config: &mut ContainerConfig| {
            config::security(config).privileged = true;
            set(config, wanted.clone());
        };
        assert_eq!(bench.run(WHICH, privileged).await.1.trim(), "unconfined");
    }
}

#[tokio::test]
async fn a_profile_that_is_not_loaded_is_refused() {
    needs_apparmor!();
    let bench = Bench::new().await;
    let missing = profile(ProfileType::Localhost, "knarr-e2e-missing");
    let status = bench.create(&["true"], |config| set(config, missing.clone())).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(&format!("{FIELD}.localhost_ref: ")), "{status}");
    assert!(status.message().contains("\"knarr-e2e-missing\" is not loaded"), "{status}");
    assert!(bench.client.containers().await.unwrap().is_empty(), "nothing is kept");
    let mut sandbox = bench.node.pod();
    sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap().apparmor = missing;
    let status = bench.client.run_pod(sandbox).await.unwrap_err();
    assert!(status.message().contains(&format!("{FIELD}.localhost_ref: ")), "{status}");
}

#[tokio::test]
async fn a_profile_that_is_gone_fails_the_start() {
    needs_apparmor!();
    let bench = Bench::new().await;
    let loaded = Loaded::new("file, capability, network,");
    let id = bench.create(&["true"], |config| set(config, loaded.localhost())).await.unwrap();
    let name = loaded.0.clone();
    drop(loaded);
    let status = bench.client.start(&id).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(status.message().contains(&name) && status.message().contains("not loaded any more"), "{status}");
    let exited = bench.client.exited(&id).await;
    assert_eq!((exited.exit_code, exited.reason.as_str()), (128, "StartError"));
}

#[tokio::test]
async fn the_default_profile_is_loaded_again_when_it_is_gone() {
    needs_apparmor!();
    let _machine = MACHINE.write().await;
    let bench = Bench::new().await;
    let remove = || parser("--remove", "profile knarr-default { }\n");
    let id = bench.create(&["sh", "-c", "exec sleep 1000"], |_| {}).await.unwrap();
    assert!(is_loaded("knarr-default"));
    remove();
    bench.client.start(&id).await.unwrap();
    assert_eq!(bench.client.exec(&id, &["sh", "-c", WHICH], 20).await.unwrap().stdout.trim(), DEFAULT);
    bench.client.remove(&id).await.unwrap();
    remove();
    assert_eq!(bench.run(WHICH, |_| {}).await.1.trim(), DEFAULT);
}

#[tokio::test]
async fn the_configuration_chooses_the_default() {
    needs_apparmor!();
    let mut bench = Bench::new().await;
    let loaded = Loaded::new("file, capability, network, signal, ptrace,");
    let restart = |bench: &mut Bench, lines: &str| {
        bench.node.stop_daemon();
        let path = bench.node.path("knarr.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("[security]").next().unwrap().to_owned();
        std::fs::write(&path, format!("{text}\n[security]\n{lines}\n")).unwrap();
        bench.node.start_daemon();
        bench.client = bench.node.client();
    };
    restart(&mut bench, &format!("apparmor_default_profile = \"{}\"", loaded.0));
    assert_eq!(bench.run(WHICH, |_| {}).await.1.trim(), format!("{} (enforce)", loaded.0));
    restart(&mut bench, "apparmor_default_profile = \"knarr-e2e-missing\"");
    let wanted = profile(ProfileType::RuntimeDefault, "");
    let status = bench.create(&["true"], |config| set(config, wanted)).await.unwrap_err();
    assert!(status.message().contains(&format!("{FIELD}.profile_type: RuntimeDefault: ")), "{status}");
    restart(&mut bench, "apparmor = false");
    assert_eq!(bench.run(WHICH, |_| {}).await.1.trim(), "unconfined");
    let status = bench.create(&["true"], |config| set(config, loaded.localhost())).await.unwrap_err();
    assert!(status.message().contains("switched off"), "{status}");
    restart(&mut bench, "");
}

/// CVE-2019-16884, CVE-2025-52881: the label is written through a procfs that neither image nor volumes can lie in the way of.
#[tokio::test]
async fn nothing_over_proc_keeps_the_label_from_being_written() {
    needs_apparmor!();
    let _machine = MACHINE.read().await;
    let bench = Bench::new().await;
    let fake = bench.node.path("fake");
    for directory in ["self/attr/apparmor", "thread-self/attr/apparmor"] {
        std::fs::create_dir_all(fake.join(directory)).unwrap();
        std::fs::write(fake.join(directory).join("exec"), "").unwrap();
        std::fs::write(fake.join(directory).join("../exec"), "").unwrap();
    }
    // An image that declares /proc a volume, with a procfs of its own making in it.
    let content = Layer::new().directory("proc/self", 0o755).directory("proc/self/attr", 0o755).file(
        "proc/self/attr/exec",
        0o666,
        b"",
    );
    let image: Image = image::busybox().layer(content).configured(
        json!({ "Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"], "Volumes": { "/proc": {}, "/proc/self": {} } }),
    );
    image.push(bench.node.registry.address(), "proc-volume:1").await;
    let reference = bench.node.registry.image("proc-volume:1");
    bench.client.pull(&reference).await.unwrap();
    let volume = |config: &mut ContainerConfig| config.image = Some(e2e::client::image_spec(&reference));
    let over = |container_path: &'static str| {
        let host_path = fake.join("self").display().to_string();
        move |config: &mut ContainerConfig| {
            let mount = Mount {
                container_path: container_path.into(),
                host_path: host_path.clone(),
                ..Default::default()
            };
            config.mounts = vec![mount];
        }
    };
    type Attack<'a> = &'a dyn Fn(&mut ContainerConfig);
    let attacks: [(&str, Attack<'_>); 4] = [
        ("an image's volume", &volume),
        ("/proc", &over("/proc")),
        ("/proc/self", &over("/proc/self")),
        ("/proc/1/attr", &over("/proc/1/attr")),
    ];
    for (what, attack) in attacks {
        let outcome = match bench.create(&["sleep", "1000"], attack).await {
            Ok(id) => bench.client.start(&id).await.map(|()| id),
            Err(status) => Err(status),
        };
        match outcome {
            Err(status) => assert!(status.message().contains("/proc"), "{what}: {status}"),
            Ok(id) => {
                let label = bench.client.exec(&id, &["cat", "/proc/1/attr/current"], 20).await.unwrap();
                assert_eq!(label.stdout.trim(), DEFAULT, "{what}: {label:?}");
            }
        }
        for container in bench.client.containers().await.unwrap() {
            bench.client.remove(&container.id).await.unwrap();
        }
    }
    for path in ["self/attr/exec", "self/attr/apparmor/exec"] {
        assert_eq!(std::fs::read_to_string(fake.join(path)).unwrap(), "", "{path} was written");
    }
}

#[tokio::test]
async fn without_apparmor_only_names_are_refused() {
    if needs::apparmor().is_ok() {
        println!("skipped: {} is about hosts without AppArmor", module_path!());
        return;
    }
    let bench = Bench::new().await;
    for wanted in [None, profile(ProfileType::RuntimeDefault, ""), profile(ProfileType::Unconfined, "")] {
        let (code, _) = bench.run("true", |config| set(config, wanted.clone())).await;
        assert_eq!(code, 0, "{wanted:?}");
    }
    let named = |config: &mut ContainerConfig| set(config, profile(ProfileType::Localhost, "mine"));
    let status = bench.create(&["true"], named).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(&format!("{FIELD}.localhost_ref: the profile \"mine\"")), "{status}");
    assert!(bench.client.containers().await.unwrap().is_empty(), "nothing is kept");
}
