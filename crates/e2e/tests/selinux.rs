//! SELinux: contexts of processes and files, levels of pods, relabelled volumes. Where the host has it; what must hold without it, elsewhere.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use e2e::cri::{self, ContainerConfig, Mount, SeLinuxOption};
use e2e::image;
use e2e::{Client, Network, Node, config, needs};
use serde_json::json;
use tonic::{Code, Status};

const FIELD: &str = "linux.security_context.selinux_options";

/// What the reference policy, and those made from it, call containers and their files.
const PROCESS: &str = "system_u:system_r:container_t:";
const FILE: &str = "system_u:object_r:container_file_t:";

macro_rules! needs_selinux {
    () => {
        if let Err(why) = needs::selinux() {
            println!("skipped: {} needs SELinux: {why}", module_path!());
            return;
        }
    };
}

/// A node on which pods are tried.
struct Bench {
    node: Node,
    client: Client,
}

/// A pod of it.
struct Pod {
    sandbox: cri::PodSandboxConfig,
    id: String,
}

impl Bench {
    async fn new() -> Self {
        let node = Node::start(Network::None).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        Self { node, client }
    }

    async fn pod(&self, change: impl FnOnce(&mut cri::LinuxSandboxSecurityContext)) -> Result<Pod, Status> {
        let mut sandbox = self.node.pod();
        change(sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap());
        let id = self.client.run_pod(sandbox.clone()).await?;
        Ok(Pod { sandbox, id })
    }

    async fn create(
        &self,
        pod: &Pod,
        name: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<String, Status> {
        let mut wanted = self.node.busybox(name, &["sleep", "1000"]);
        change(&mut wanted);
        self.client.create(&pod.id, wanted, &pod.sandbox).await
    }

    async fn start(&self, pod: &Pod, name: &str, change: impl FnOnce(&mut ContainerConfig)) -> String {
        let id = self.create(pod, name, change).await.unwrap();
        self.client.start(&id).await.unwrap();
        id
    }

    async fn sh(&self, container: &str, script: &str) -> String {
        let output = self.client.exec(container, &["sh", "-c", script], 20).await.unwrap();
        assert_eq!(output.exit_code, 0, "{script}: {output:?}");
        output.stdout.trim_end_matches(['\n', '\0']).to_owned()
    }

    /// The context of a file as the only container of this node has it.
    fn seen(&self, path: &str) -> String {
        let processes = self.node.traces().processes();
        let (pid, _) = processes.iter().find(|(_, command)| command.starts_with("sleep 1000")).unwrap();
        label(Path::new(&format!("/proc/{pid}/root{path}")))
    }

    /// The context of the first process and of one that joins it, which must be one.
    async fn process(&self, container: &str) -> String {
        let first = self.sh(container, "cat /proc/1/attr/current").await;
        assert_eq!(self.sh(container, "cat /proc/self/attr/current").await, first, "run and exec differ");
        first
    }
}

fn level<'a>(context: &'a str, kind: &str) -> &'a str {
    context.strip_prefix(kind).unwrap_or_else(|| panic!("\"{context}\" is not {kind}"))
}

fn options(kind: &str, level: &str) -> Option<SeLinuxOption> {
    Some(SeLinuxOption { r#type: kind.into(), level: level.into(), ..Default::default() })
}

/// The context of a file, not of what a link leads to.
fn label(path: &Path) -> String {
    let mut bytes = [0; 512];
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let length = rustix::fs::lgetxattr(&*name, "security.selinux", &mut bytes).unwrap();
    OsStr::from_bytes(&bytes[..length]).to_string_lossy().trim_end_matches('\0').to_owned()
}

fn volume(host: &Path, container_path: &str) -> Mount {
    Mount {
        container_path: container_path.into(),
        host_path: host.display().to_string(),
        selinux_relabel: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn containers_of_a_pod_share_a_level_that_no_other_pod_has() {
    needs_selinux!();
    let bench = Bench::new().await;
    let (one, other) = (bench.pod(|_| {}).await.unwrap(), bench.pod(|_| {}).await.unwrap());
    let first = bench.start(&one, "first", |_| {}).await;
    let second = bench.start(&one, "second", |config| config::security(config).no_new_privs = true).await;
    let third = bench.start(&other, "third", |_| {}).await;
    let of_one = bench.process(&first).await;
    assert_eq!(bench.process(&second).await, of_one);
    let of_other = bench.process(&third).await;
    let levels = [level(&of_one, PROCESS), level(&of_other, PROCESS)];
    assert_ne!(levels[0], levels[1]);
    for level in levels {
        let categories = level.strip_prefix("s0:c").and_then(|pair| pair.split_once(",c"));
        assert!(categories.is_some_and(|(a, b)| a != b), "{level}");
    }
}

#[tokio::test]
async fn files_of_a_container_have_its_level() {
    needs_selinux!();
    let mut bench = Bench::new().await;
    image::busybox()
        .configured(json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": { "/declared": {} } }))
        .push(bench.node.registry.address(), "declaring:1")
        .await;
    let reference = bench.node.registry.image("declaring:1");
    bench.client.pull(&reference).await.unwrap();
    let pod = bench.pod(|_| {}).await.unwrap();
    let id = bench
        .create(&pod, "main", |config| {
            config.image = Some(e2e::client::image_spec(&reference));
            let image = cri::ImageSpec { image: reference.clone(), ..Default::default() };
            let mount = Mount {
                container_path: "/image".into(),
                image: Some(image),
                readonly: true,
                ..Default::default()
            };
            config.mounts = vec![mount];
        })
        .await
        .unwrap();
    // A daemon that was not there when it was made mounts it as it was.
    bench.node.stop_daemon();
    bench.node.start_daemon();
    bench.client = bench.node.client();
    bench.client.start(&id).await.unwrap();
    let process = bench.process(&id).await;
    let expected = format!("{FILE}{}", level(&process, PROCESS));
    bench.sh(&id, "touch /new /declared/new /dev/shm/new").await;
    let paths = "/ /bin/busybox /new /dev /dev/null /dev/shm /dev/shm/new /dev/mqueue /dev/pts /etc/hosts /etc/resolv.conf \
                 /declared /declared/new /image /image/bin";
    for path in paths.split_whitespace() {
        assert_eq!(bench.seen(path), expected, "{path}");
    }
    let mounts = bench.sh(&id, "cat /proc/1/mountinfo").await;
    assert!(mounts.contains(&format!("context=\"{expected}\"")), "{mounts}");
}

#[tokio::test]
async fn options_choose_the_context() {
    needs_selinux!();
    let bench = Bench::new().await;
    let pod = bench.pod(|context| context.selinux_options = options("", "s0:c4,c5")).await.unwrap();
    let of_pod = bench.start(&pod, "of-pod", |_| {}).await;
    assert_eq!(bench.process(&of_pod).await, format!("{PROCESS}s0:c4,c5"));
    assert_eq!(bench.seen("/"), format!("{FILE}s0:c4,c5"));
    bench.client.remove(&of_pod).await.unwrap();
    let of_own = bench
        .start(&pod, "of-own", |config| {
            config::security(config).selinux_options = options("spc_t", "s0:c6,c7");
        })
        .await;
    assert_eq!(bench.process(&of_own).await, "system_u:system_r:spc_t:s0:c6,c7");
    assert_eq!(bench.seen("/"), format!("{FILE}s0:c6,c7"));
}

#[tokio::test]
async fn what_the_policy_does_not_know_is_refused() {
    needs_selinux!();
    let bench = Bench::new().await;
    let pod = bench.pod(|_| {}).await.unwrap();
    for (wanted, words) in [
        (options("no_such_type_t", ""), "is no context of the policy"),
        (options("container_t", "s0,c4,c5"), "is no context of the policy"),
        (options("container_t:s0", ""), ".type: "),
        (options("", "s0\"\n"), ".level: "),
    ] {
        let change = |config: &mut ContainerConfig| config::security(config).selinux_options = wanted.clone();
        let status = bench.create(&pod, "main", change).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(FIELD) && status.message().contains(words), "{status}");
        let refused = bench.pod(|context| context.selinux_options = wanted.clone()).await.err();
        let status = refused.expect("a refusal");
        assert!(status.message().contains(FIELD) && status.message().contains(words), "{status}");
    }
    assert!(bench.client.containers().await.unwrap().is_empty(), "nothing is kept");
}

#[tokio::test]
async fn privileged_containers_are_not_confined() {
    needs_selinux!();
    let bench = Bench::new().await;
    let pod = bench.pod(|context| context.privileged = true).await.unwrap();
    let id = bench.start(&pod, "main", |config| config::security(config).privileged = true).await;
    assert_eq!(bench.process(&id).await, "system_u:system_r:spc_t:s0");
    assert!(bench.seen("/").starts_with(FILE), "its files are a container's all the same");
}

#[tokio::test]
async fn volumes_are_relabelled_when_they_ask_for_it() {
    needs_selinux!();
    let bench = Bench::new().await;
    let (wanted, unasked, outside) =
        (bench.node.path("wanted"), bench.node.path("unasked"), bench.node.path("outside"));
    for directory in [&wanted, &unasked, &outside] {
        std::fs::create_dir(directory).unwrap();
        std::fs::write(directory.join("file"), "").unwrap();
    }
    symlink(&outside, wanted.join("link")).unwrap();
    let before = label(&outside);
    let pod = bench.pod(|_| {}).await.unwrap();
    let id = bench
        .start(&pod, "main", |config| {
            let plain = Mount { selinux_relabel: false, ..volume(&unasked, "/unasked") };
            config.mounts = vec![volume(&wanted, "/wanted"), plain];
        })
        .await;
    let expected = format!("{FILE}{}", level(&bench.process(&id).await, PROCESS));
    for path in [wanted.clone(), wanted.join("file"), wanted.join("link")] {
        assert_eq!(label(&path), expected, "{}", path.display());
    }
    for path in [&unasked, &unasked.join("file"), &outside, &outside.join("file")] {
        assert_eq!(label(path), before, "{}", path.display());
    }
    bench.sh(&id, "echo mine > /wanted/file").await;
    // The pod next door has another level, and where the policy is enforced that is a wall.
    let other = bench.pod(|_| {}).await.unwrap();
    let neighbour = bench
        .start(&other, "main", |config| {
            config.mounts = vec![Mount { selinux_relabel: false, ..volume(&wanted, "/wanted") }];
        })
        .await;
    let output = bench.client.exec(&neighbour, &["cat", "/wanted/file"], 20).await.unwrap();
    let enforced = std::fs::read_to_string("/sys/fs/selinux/enforce").unwrap().trim() == "1";
    assert_eq!(output.exit_code != 0, enforced, "{output:?}");
}

/// CVE-2021-43816, and the same by way of a link.
#[tokio::test]
async fn what_is_the_systems_is_never_relabelled() {
    needs_selinux!();
    let bench = Bench::new().await;
    let pod = bench.pod(|_| {}).await.unwrap();
    let link = bench.node.path("innocent");
    symlink("/etc", &link).unwrap();
    let before = label(Path::new("/etc/hosts"));
    for path in [Path::new("/etc/hosts"), Path::new("/"), &link, &link.join("hosts")] {
        let change = |config: &mut ContainerConfig| config.mounts = vec![volume(path, "/data")];
        let status = bench.create(&pod, "main", change).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("mounts[0].selinux_relabel: "), "{status}");
    }
    assert_eq!(label(Path::new("/etc/hosts")), before);
}

#[tokio::test]
async fn a_level_is_kept_over_a_restart() {
    needs_selinux!();
    let mut bench = Bench::new().await;
    let pod = bench.pod(|_| {}).await.unwrap();
    let before = bench.start(&pod, "before", |_| {}).await;
    let label = bench.process(&before).await;
    bench.node.kill_daemon();
    bench.node.start_daemon();
    bench.client = bench.node.client();
    let after = bench.start(&pod, "after", |_| {}).await;
    assert_eq!(bench.process(&after).await, label);
}

#[tokio::test]
async fn switched_off_it_is_as_on_a_host_without() {
    needs_selinux!();
    let mut bench = Bench::new().await;
    bench.node.stop_daemon();
    let path = bench.node.path("knarr.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n[security]\nselinux = false\n")).unwrap();
    bench.node.start_daemon();
    bench.client = bench.node.client();
    refuses_options(&bench, "switched off").await;
}

#[tokio::test]
async fn without_selinux_only_options_with_content_are_refused() {
    if needs::selinux().is_ok() {
        println!("skipped: {} is about hosts without SELinux", module_path!());
        return;
    }
    refuses_options(&Bench::new().await, "this node has no SELinux").await;
}

/// Options are refused by name; a request to relabel, which kubelet makes of every volume that could be, does nothing.
async fn refuses_options(bench: &Bench, words: &str) {
    let refused = bench.pod(|context| context.selinux_options = options("container_t", "")).await.err();
    let status = refused.expect("a refusal");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(FIELD) && status.message().contains(words), "{status}");
    let pod = bench.pod(|context| context.selinux_options = options("", "")).await.unwrap();
    let change = |config: &mut ContainerConfig| {
        config::security(config).selinux_options = options("", "s0:c1,c2");
    };
    let status = bench.create(&pod, "main", change).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(FIELD) && status.message().contains(words), "{status}");
    let host = bench.node.path("volume");
    std::fs::create_dir(&host).unwrap();
    let before = rustix::fs::lgetxattr(&host, "security.selinux", &mut [0; 512]).is_ok();
    let id = bench.start(&pod, "main", |config| config.mounts = vec![volume(&host, "/data")]).await;
    assert_eq!(bench.sh(&id, "ls /data").await, "");
    assert_eq!(rustix::fs::lgetxattr(&host, "security.selinux", &mut [0; 512]).is_ok(), before);
}
