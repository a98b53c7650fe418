//! Devices of the host in containers: by path, by CDI name, all of them; what may be done with each.
//!
//! The nodes are made by the tests and have numbers that no driver has: where a container may open one, the kernel finds nothing behind
//! it (ENXIO), and where it may not, it says so first (EPERM).

use std::path::{Path, PathBuf};

use e2e::cri::{self, ContainerConfig, Device, PodSandboxConfig};
use e2e::{Client, Network, Node, config};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;
use tonic::{Code, Status};

/// For local use, and not given out to drivers (admin-guide/devices.txt: 120 to 127).
const MAJOR: u64 = 120;

const OPENED: &str = "No such device or address";
const DENIED: &str = "Operation not permitted";

struct Rig {
    node: Node,
    client: Client,
    pod: String,
    sandbox: PodSandboxConfig,
}

impl Rig {
    async fn new() -> Self {
        let node = Node::start(Network::None).await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.unwrap();
        let mut sandbox = node.pod();
        if let Some(context) = sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            context.privileged = true;
        }
        let pod = client.run_pod(sandbox.clone()).await.unwrap();
        Self { node, client, pod, sandbox }
    }

    async fn create(&self, name: &str, change: impl FnOnce(&mut ContainerConfig)) -> Result<String, Status> {
        let mut wanted = self.node.busybox(name, &["sleep", "1000"]);
        change(&mut wanted);
        self.client.create(&self.pod, wanted, &self.sandbox).await
    }

    async fn start(&self, name: &str, change: impl FnOnce(&mut ContainerConfig)) -> String {
        let id = self.create(name, change).await.unwrap();
        self.client.start(&id).await.unwrap();
        id
    }

    async fn says(&self, id: &str, script: &str) -> String {
        let output = self.client.exec(id, &["sh", "-c", script], 10).await.unwrap();
        output.stdout + &output.stderr
    }

    /// Makes a character device on the host.
    fn device(&self, name: &str, minor: u64) -> PathBuf {
        let path = self.node.path("devices").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o640), makedev(MAJOR, minor)).unwrap();
        path
    }

    /// Writes a CDI file into the directory of what is made at run time.
    fn cdi(&self, name: &str, text: &str) {
        let directory = self.node.path("cdi-run");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), text).unwrap();
    }
}

fn device(host: &Path, inside: &str, permissions: &str) -> Device {
    Device {
        host_path: host.display().to_string(),
        container_path: inside.into(),
        permissions: permissions.into(),
    }
}

const READ: &str = "cat /dev/x";
const WRITE: &str = "echo >/dev/x";

#[tokio::test]
async fn a_device_can_be_used_as_far_as_its_permissions_go() {
    let rig = Rig::new().await;
    let host = rig.device("one", 1);
    for (permissions, read, write) in
        [("r", OPENED, DENIED), ("w", DENIED, OPENED), ("rwm", OPENED, OPENED), ("m", DENIED, DENIED)]
    {
        let id = rig.start(permissions, |c| c.devices = vec![device(&host, "/dev/x", permissions)]).await;
        let (said_read, said_write) = (rig.says(&id, READ).await, rig.says(&id, WRITE).await);
        assert!(said_read.contains(read), "reading with {permissions:?}: {said_read}");
        assert!(said_write.contains(write), "writing with {permissions:?}: {said_write}");
        assert_eq!(rig.says(&id, "stat -c '%F %t:%T %a' /dev/x").await, "character special file 78:1 640\n");
    }
    let none = rig.start("none", |_| {}).await;
    let made = rig.says(&none, "mknod /dev/x c 120 1; cat /dev/x").await;
    assert!(made.contains(DENIED), "a node that the container makes itself opens nothing: {made}");
}

#[tokio::test]
async fn a_directory_stands_for_its_devices() {
    let rig = Rig::new().await;
    rig.device("all/one", 1);
    rig.device("all/below/two", 2);
    let all = rig.node.path("devices/all");
    std::fs::write(all.join("plain"), "").unwrap();
    std::os::unix::fs::symlink("/dev/kmsg", all.join("link")).unwrap();
    let id = rig.start("main", |c| c.devices = vec![device(&all, "/dev/all", "rw")]).await;
    assert_eq!(
        rig.says(&id, "cd /dev/all; find . -type c | sort; ls").await,
        "./below/two\n./one\nbelow\none\n"
    );
    let opened = rig.says(&id, "cat /dev/all/one; cat /dev/all/below/two").await;
    assert_eq!(opened.matches(OPENED).count(), 2, "{opened}");
    let empty = rig.node.path("devices/empty");
    std::fs::create_dir(&empty).unwrap();
    let error = rig.create("empty", |c| c.devices = vec![device(&empty, "/dev/e", "rw")]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("devices[0].host_path: "), "{error}");
}

#[tokio::test]
async fn a_privileged_container_has_all_devices() {
    let rig = Rig::new().await;
    let privileged = |c: &mut ContainerConfig| config::security(c).privileged = true;
    let id = rig.start("main", privileged).await;
    let listed = rig.says(&id, "cd /dev; find . -type b -o -type c | sort").await;
    for entry in std::fs::read_dir("/dev").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let kind = entry.file_type().unwrap();
        use std::os::unix::fs::FileTypeExt;
        if (kind.is_block_device() || kind.is_char_device()) && name != "console" && name != "ptmx" {
            assert!(listed.lines().any(|line| line == format!("./{name}")), "{name} in {listed}");
        }
    }
    let made = rig.says(&id, "mknod /dev/x c 120 1; cat /dev/x").await;
    assert!(made.contains(OPENED), "{made}");
}

fn asks(name: &str) -> impl FnOnce(&mut ContainerConfig) + use<> {
    let name = name.to_owned();
    move |config| config.cdi_devices = vec![cri::CdiDevice { name }]
}

#[tokio::test]
async fn a_cdi_device_brings_what_its_file_says() {
    let rig = Rig::new().await;
    let (one, two) = (rig.device("one", 1), rig.device("two", 2));
    let library = rig.node.path("library");
    std::fs::write(&library, "of the driver").unwrap();
    let file = json!({
        "cdiVersion": "0.7.0", "kind": "vendor.com/thing",
        "containerEdits": {
            "env": ["THING=all", "FROM_IMAGE=no"],
            "mounts": [{ "hostPath": library, "containerPath": "/lib/library", "options": ["ro", "nosuid"] }],
            "additionalGids": [4242],
        },
        "devices": [
            { "name": "one", "containerEdits": {
                "env": ["ONE=1"],
                "deviceNodes": [{ "path": "/dev/x", "hostPath": one, "permissions": "r", "fileMode": 0o604, "uid": 5, "gid": 6 }] } },
            { "name": "fixed", "containerEdits": {
                "deviceNodes": [{ "path": "/dev/fixed", "type": "c", "major": MAJOR, "minor": 9 }] } },
        ],
    });
    rig.cdi("thing.json", &file.to_string());
    rig.cdi(
        "other.yaml",
        &format!(
            "cdiVersion: 1.0.0\nkind: other.org/thing\ndevices:\n- name: two\n  containerEdits:\n    deviceNodes:\n    - path: /dev/two\n      hostPath: {}\n",
            two.display()
        ),
    );
    let id = rig
        .start("main", |config| {
            config.cdi_devices = vec![cri::CdiDevice { name: "vendor.com/thing=one".into() }];
            config.annotations =
                [("cdi.k8s.io/more".to_owned(), "other.org/thing=two,vendor.com/thing=fixed".to_owned())]
                    .into();
            config::security(config).run_as_user = Some(cri::Int64Value { value: 0 });
        })
        .await;
    assert_eq!(
        rig.says(&id, "stat -c '%t:%T %a %u:%g' /dev/x /dev/two /dev/fixed").await,
        "78:1 604 5:6\n78:2 666 0:0\n78:9 666 0:0\n"
    );
    assert!(rig.says(&id, READ).await.contains(OPENED));
    assert!(rig.says(&id, WRITE).await.contains(DENIED));
    assert!(rig.says(&id, "cat /dev/two; echo >/dev/fixed").await.matches(OPENED).count() == 2);
    assert_eq!(
        rig.says(&id, "echo $THING $ONE $FROM_IMAGE; id -G; cat /lib/library").await,
        "all 1 no\n0 4242\nof the driver"
    );
    assert!(rig.says(&id, "echo x > /lib/library").await.contains("Read-only"));
    let status = rig.client.container(&id).await.unwrap();
    let groups = status.user.and_then(|user| user.linux).unwrap().supplemental_groups;
    assert!(groups.contains(&4242), "{groups:?}");
}

#[tokio::test]
async fn a_cdi_device_that_cannot_be_is_refused_by_path() {
    let rig = Rig::new().await;
    let device = |name: &str, edits: serde_json::Value| json!({ "name": name, "containerEdits": edits });
    let devices = [
        device("hook", json!({ "hooks": [{ "hookName": "createContainer", "path": "hook" }] })),
        device("rdt", json!({ "intelRdt": { "closID": "x" } })),
        device("missing", json!({ "deviceNodes": [{ "path": "/dev/not-there" }] })),
        device("type", json!({ "deviceNodes": [{ "path": "/dev/null", "type": "b" }] })),
        device("access", json!({ "deviceNodes": [{ "path": "/dev/null", "permissions": "x" }] })),
        device("mount", json!({ "mounts": [{ "hostPath": "/not-there", "containerPath": "/x" }] })),
        device("fstype", json!({ "mounts": [{ "hostPath": "x", "containerPath": "/x", "type": "nfs" }] })),
        device("env", json!({ "env": ["A"] })),
        device("moment", json!({ "hooks": [{ "hookName": "createPod", "path": "/bin/hook" }] })),
        device(
            "timeout",
            json!({ "hooks": [{ "hookName": "poststop", "path": "/bin/hook", "timeout": 0 }] }),
        ),
    ];
    let file = |devices: &[serde_json::Value]| json!({ "cdiVersion": "1.0.0", "kind": "v.com/c", "devices": devices });
    rig.cdi("a.json", &file(&devices).to_string());
    rig.cdi("b.json", &file(&[device("twice", json!({})), device("fine", json!({}))]).to_string());
    rig.cdi("c.json", &file(&[device("twice", json!({}))]).to_string());
    rig.cdi("new.json", &json!({ "cdiVersion": "7.0.0", "kind": "v.com/new", "devices": [] }).to_string());
    for (name, says) in [
        ("hook", "devices[0].containerEdits.hooks[0].path: \"hook\" is not an absolute path"),
        ("moment", "devices[8].containerEdits.hooks[0].hookName: \"createPod\""),
        ("timeout", "devices[9].containerEdits.hooks[0].timeout: 0"),
        ("rdt", "devices[1].containerEdits.intelRdt: is not supported"),
        ("missing", "devices[2].containerEdits.deviceNodes[0].path: \"/dev/not-there\""),
        ("type", "devices[3].containerEdits.deviceNodes[0].type: "),
        ("access", "devices[4].containerEdits.deviceNodes[0].permissions: \"x\""),
        ("mount", "devices[5].containerEdits.mounts[0].hostPath: \"/not-there\""),
        ("fstype", "devices[6].containerEdits.mounts[0].type: \"nfs\""),
        ("env", "devices[7].containerEdits.env[0]: \"A\""),
        ("twice", "is in both \""),
        ("unknown", "\"v.com/c=unknown\" is in no file of \""),
        ("unknown", "new.json\": cdiVersion \"7.0.0\""),
        ("fine=", "is not of the form vendor/class=name"),
    ] {
        let error = rig.create("c", asks(&format!("v.com/c={name}"))).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().starts_with("CDI_devices[0].name: "), "{error}");
        assert!(error.message().contains(says), "{says:?}: {error}");
    }
    rig.create("c", asks("v.com/c=fine")).await.unwrap();
}

/// A hook of the host's shell.
fn hook(moment: &str, script: &str) -> serde_json::Value {
    json!({ "hookName": moment, "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
}

#[tokio::test]
async fn the_hooks_of_a_cdi_device_run_at_their_moments() {
    let rig = Rig::new().await;
    let proofs = rig.node.path("proofs");
    std::fs::create_dir_all(&proofs).unwrap();
    let told = |moment: &str| {
        let script = format!("cat >{0}/{moment}.new && mv {0}/{moment}.new {0}/{moment}", proofs.display());
        hook(moment, &script)
    };
    // As vendors' hooks do: from the state to the bundle, from there to the root, and change it.
    let change = "bundle=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/'); root=$bundle/rootfs; \
                  grep -q '\"path\":\"rootfs\"' $bundle/config.json && \
                  test \"$(stat -f -c %T $root/proc)\" = proc && cat $root/lib/library >$root/made && ln -s made $root/link";
    let library = rig.node.path("library");
    std::fs::write(&library, "of the driver").unwrap();
    let slow =
        json!({ "hookName": "createRuntime", "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 });
    let file = json!({
        "cdiVersion": "1.0.0", "kind": "v.com/hooked",
        "containerEdits": {
            "mounts": [{ "hostPath": library, "containerPath": "/lib/library", "options": ["ro"] }],
            "hooks": [told("prestart"), told("createRuntime"), hook("createContainer", change), told("poststart"), told("poststop"),
                { "hookName": "startContainer", "path": "/bin/sh", "args": ["sh", "-c", "id -u >/started"] }],
        },
        "devices": [
            { "name": "good", "containerEdits": {} },
            { "name": "bad", "containerEdits": { "hooks": [hook("createContainer", "echo no such GPU >&2; exit 7")] } },
            { "name": "slow", "containerEdits": { "hooks": [slow] } },
        ],
    });
    rig.cdi("hooked.json", &file.to_string());
    let id = rig.start("good", asks("v.com/hooked=good")).await;
    assert_eq!(rig.says(&id, "cat /link /started").await, "of the driver0\n");
    let state = |moment: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(proofs.join(moment)).unwrap()).unwrap()
    };
    for (moment, status) in
        [("prestart", "creating"), ("createRuntime", "creating"), ("poststart", "running")]
    {
        let told = state(moment);
        assert_eq!((&told["status"], &told["id"]), (&json!(status), &json!(id)), "{told}");
        assert!(told["pid"].as_i64().is_some_and(|pid| pid > 1), "{told}");
        assert_eq!(told["annotations"]["io.kubernetes.cri.container-name"], "good", "{told}");
    }
    assert!(!proofs.join("poststop").exists());
    rig.client.stop(&id, 0).await.unwrap();
    let stopped = async || std::fs::metadata(proofs.join("poststop"));
    e2e::until(std::time::Duration::from_secs(10), "the poststop hook", stopped).await;
    assert_eq!(state("poststop")["status"], "stopped");
    rig.client.remove(&id).await.unwrap();
    for (name, says) in [
        ("bad", "hook createContainer[1] \"/bin/sh\" ended with exit code 7: \"no such GPU\""),
        ("slow", "hook createRuntime[1] \"/bin/sleep\" was killed after 1 s"),
    ] {
        let id = rig.create(name, asks(&format!("v.com/hooked={name}"))).await.unwrap();
        let error = rig.client.start(&id).await.unwrap_err();
        assert!(error.message().contains(says), "{error}");
        let status = rig.client.container(&id).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(status.message.contains(says), "{status:?}");
        rig.client.remove(&id).await.unwrap();
    }
}
