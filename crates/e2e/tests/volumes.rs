//! Mounts that are more than a path of the host's: images as volumes, volumes that images declare, mount options.

use std::path::{Path, PathBuf};

use e2e::cri::{PodSandboxConfig, RemoveImageRequest};
use e2e::image::{Image, Layer, busybox};
use e2e::newest::{self, Newest};
use e2e::{Client, Network, Node, client};
use proto::runtime::v1 as cri;
use serde_json::json;
use tonic::{Code, Status};

/// A node with a pod, ready for containers.
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
        let sandbox = node.pod();
        let pod = client.run_pod(sandbox.clone()).await.unwrap();
        Self { node, client, pod, sandbox }
    }

    /// Pushes and pulls an image; gives its reference.
    async fn image(&self, image: Image, name: &str) -> String {
        image.push(self.node.registry.address(), name).await;
        let reference = self.node.registry.image(name);
        self.client.pull(&reference).await.unwrap();
        reference
    }

    async fn create(&self, name: &str, mounts: Vec<cri::Mount>) -> Result<String, Status> {
        let config = self.node.busybox(name, &["sleep", "1000"]);
        self.create_as(cri::ContainerConfig { mounts, ..newest::container(&config) }).await
    }

    async fn create_as(&self, config: cri::ContainerConfig) -> Result<String, Status> {
        Newest::of(&self.client).create(&self.pod, config, &self.sandbox).await
    }

    async fn start(&self, name: &str, mounts: Vec<cri::Mount>) -> String {
        let id = self.create(name, mounts).await.unwrap();
        self.client.start(&id).await.unwrap();
        id
    }

    /// What a script in a container says, errors included.
    async fn says(&self, id: &str, script: &str) -> String {
        let output = self.client.exec(id, &["sh", "-c", script], 10).await.unwrap();
        output.stdout + &output.stderr
    }
}

fn host_mount(host_path: &Path, container_path: &str) -> cri::Mount {
    cri::Mount {
        host_path: host_path.display().to_string(),
        container_path: container_path.into(),
        ..Default::default()
    }
}

fn image_mount(image: &str, container_path: &str, sub_path: &str) -> cri::Mount {
    cri::Mount {
        image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        container_path: container_path.into(),
        readonly: true,
        ..Default::default()
    }
}

fn data() -> Image {
    let lower = Layer::new()
        .directory("models", 0o755)
        .file("models/old", 0o644, b"old")
        .file("models/weights", 0o644, b"weights")
        .file("run.sh", 0o755, b"#!/bin/sh\necho ran\n")
        .symlink("outside", "/../../../../etc");
    let upper = Layer::new().file("models/.wh.old", 0o644, b"").file("models/new", 0o644, b"new");
    Image::new(json!({})).layer(lower).layer(upper)
}

#[tokio::test]
async fn an_image_is_a_volume() {
    let rig = Rig::new().await;
    let image = rig.image(data(), "data:1").await;
    let mounts = vec![
        image_mount(&image, "/whole", ""),
        image_mount(&image, "/models", "models"),
        image_mount(&image, "/etc/weights", "models/weights"),
        cri::Mount { mount_options: vec!["noexec".into()], ..image_mount(&image, "/noexec", "") },
    ];
    let id = rig.start("main", mounts).await;
    assert_eq!(
        rig.says(&id, "ls /whole /models; cat /etc/weights").await,
        "/models:\nnew\nweights\n\n/whole:\nmodels\noutside\nrun.sh\nweights"
    );
    assert_eq!(rig.says(&id, "/whole/run.sh").await, "ran\n");
    for script in ["touch /whole/x", "echo x > /models/new", "rm /models/new", "echo x > /etc/weights"] {
        let said = rig.says(&id, script).await;
        assert!(said.contains("Read-only file system"), "{script}: {said}");
    }
    assert!(rig.says(&id, "/noexec/run.sh").await.contains("Permission denied"));
    let status = Newest::of(&rig.client).container(&id).await.unwrap();
    let shown = &status.mounts[1];
    let of = shown.image.as_ref().unwrap();
    let pulled = rig.client.pull(&image).await.unwrap();
    assert_eq!((of.image.as_str(), of.image_ref.as_str()), (image.as_str(), pulled.as_str()));
    assert_eq!((shown.image_sub_path.as_str(), shown.host_path.as_str()), ("models", ""));
    assert!(shown.readonly);
}

#[tokio::test]
async fn an_image_volume_stays_when_image_and_daemon_go() {
    let mut rig = Rig::new().await;
    let image = rig.image(data(), "data:2").await;
    let id = rig.create("main", vec![image_mount(&image, "/models", "models")]).await.unwrap();
    let request = RemoveImageRequest { image: Some(client::image_spec(&image)) };
    rig.client.images.clone().remove_image(request).await.unwrap();
    let error = rig.create("late", vec![image_mount(&image, "/m", "")]).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    rig.node.kill_daemon();
    rig.node.start_daemon();
    rig.client = rig.node.client();
    rig.client.start(&id).await.unwrap();
    assert_eq!(rig.says(&id, "cat /models/weights").await, "weights");
    let store = rig.node.path("root/images/layers/sha256");
    let layers = || std::fs::read_dir(&store).unwrap().count();
    assert_eq!(layers(), 3, "those of busybox and of the image");
    rig.client.stop(&id, 0).await.unwrap();
    rig.client.remove(&id).await.unwrap();
    // What frees them is the next thing that collects: a removal of an image, or ten minutes.
    let other = rig.image(data(), "data:3").await;
    let request = RemoveImageRequest { image: Some(client::image_spec(&other)) };
    rig.client.images.clone().remove_image(request).await.unwrap();
    assert_eq!(layers(), 1);
}

#[tokio::test]
async fn an_image_volume_that_cannot_be_is_refused_in_kubelets_words() {
    let rig = Rig::new().await;
    let image = rig.image(data(), "data:3").await;
    let good = || image_mount(&image, "/v", "");
    let missing = rig.node.registry.image("missing:1");
    let cases = [
        ("ImageVolumeMountFailed: image \"", Code::NotFound, image_mount(&missing, "/v", "")),
        (
            "ImageVolumeMountFailed: mounts[1].image_sub_path: no \"models/old\" in image",
            Code::InvalidArgument,
            image_mount(&image, "/v", "models/old"),
        ),
        (
            "ImageVolumeMountFailed: mounts[1].image_sub_path: no \"outside/passwd\"",
            Code::InvalidArgument,
            image_mount(&image, "/v", "outside/passwd"),
        ),
        ("mounts[1].readonly: ", Code::InvalidArgument, cri::Mount { readonly: false, ..good() }),
        ("mounts[1].host_path: ", Code::InvalidArgument, cri::Mount { host_path: "/srv".into(), ..good() }),
        (
            "mounts[1].propagation: ",
            Code::InvalidArgument,
            cri::Mount { propagation: cri::MountPropagation::PropagationBidirectional as i32, ..good() },
        ),
        (
            "mounts[1].mount_options[0]: \"exec\"",
            Code::InvalidArgument,
            cri::Mount { mount_options: vec!["exec".into()], ..good() },
        ),
    ];
    for (at, (begins, code, mount)) in cases.into_iter().enumerate() {
        let error = rig.create(&format!("c{at}"), vec![good(), mount]).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().starts_with(begins), "{begins:?}: {error}");
    }
    let roots = std::fs::read_dir(rig.node.path("root/containers")).unwrap().flatten();
    let left: Vec<PathBuf> = roots
        .map(|entry| entry.path())
        .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn declaring(volumes: &serde_json::Value) -> Image {
    let layer = Layer::new()
        .directory("data", 0o1777)
        .file("data/seed", 0o640, b"seed")
        .symlink("data/out", "/etc/passwd")
        .symlink("linked", "/data")
        .file("plain", 0o644, b"");
    busybox()
        .configured(json!({ "Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"], "Volumes": volumes }))
        .layer(layer)
}

fn of_image(config: cri::ContainerConfig, image: &str) -> cri::ContainerConfig {
    let image = Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    cri::ContainerConfig { image, command: vec![], ..config }
}

#[tokio::test]
async fn volumes_of_an_image_are_the_containers_own() {
    let rig = Rig::new().await;
    let volumes =
        json!({ "/data": {}, "/linked/../fresh": {}, "/covered": {}, "/proc": {}, "/sys/fs/cgroup": {} });
    let image = rig.image(declaring(&volumes), "declaring:1").await;
    let host = rig.node.path("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("of-host"), "").unwrap();
    let mut config = of_image(newest::container(&rig.node.busybox("main", &[])), &image);
    config.mounts = vec![host_mount(&host, "/covered/")];
    let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
    security.readonly_rootfs = true;
    let second = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "second".into(), attempt: 0 }),
        ..config.clone()
    };
    let id = rig.create_as(config).await.unwrap();
    rig.client.start(&id).await.unwrap();
    let other = rig.create_as(second).await.unwrap();
    rig.client.start(&other).await.unwrap();
    assert_eq!(
        rig.says(&id, "stat -c '%a %n' /data /data/seed; ls /covered; cat /data/seed").await,
        "1777 /data\n640 /data/seed\nof-host\nseed"
    );
    assert!(rig.says(&id, "touch /x").await.contains("Read-only"), "only the root is read-only");
    assert_eq!(rig.says(&id, "echo mine > /data/seed; touch /fresh/x; cat /data/seed").await, "mine\n");
    assert_eq!(rig.says(&other, "cat /data/seed; ls /fresh").await, "seed", "nothing is shared");
    assert_eq!(rig.says(&id, "stat -f -c %T /proc; readlink /data/out").await, "proc\n/etc/passwd\n");
    rig.client.remove(&id).await.unwrap();
    let directory = rig.node.path("root/containers").join(&id);
    assert!(!directory.exists(), "the volumes are gone with their container");
}

#[tokio::test]
async fn a_volume_at_an_impossible_place_is_refused() {
    let rig = Rig::new().await;
    for (at, path) in ["/", "/proc/sys", "/sys/kernel"].into_iter().enumerate() {
        let image = rig.image(declaring(&json!({ path: {} })), &format!("bad:{at}")).await;
        let config = newest::container(&rig.node.busybox(&format!("c{at}"), &[]));
        let error = rig.create_as(of_image(config, &image)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().starts_with(&format!("image.config.Volumes[\"{path}\"]: ")), "{error}");
    }
    let image = rig.image(declaring(&json!({ "/plain": {} })), "bad:plain").await;
    let config = newest::container(&rig.node.busybox("plain", &[]));
    let error = rig.create_as(of_image(config, &image)).await.unwrap_err();
    assert!(error.message().contains("\"/plain\"") && error.message().contains("Not a directory"), "{error}");
}

#[tokio::test]
async fn mount_options_are_applied() {
    let rig = Rig::new().await;
    let host = rig.node.path("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::copy("/bin/busybox", host.join("busybox")).unwrap();
    let with = |options: &[&str], at: &str| cri::Mount {
        mount_options: options.iter().map(ToString::to_string).collect(),
        ..host_mount(&host, at)
    };
    let mounts = vec![
        with(&[], "/plain"),
        with(&["noexec", "nosuid", "nodev", "noatime"], "/hardened"),
        with(&["ro"], "/ro"),
        with(&["nosymfollow"], "/nosymfollow"),
    ];
    let id = rig.start("main", mounts).await;
    assert_eq!(rig.says(&id, "/plain/busybox echo ran").await, "ran\n");
    assert!(rig.says(&id, "/hardened/busybox echo ran").await.contains("Permission denied"));
    assert!(rig.says(&id, "touch /ro/x").await.contains("Read-only file system"));
    let options = rig.says(&id, "grep ' /hardened ' /proc/self/mounts").await;
    for option in ["nosuid", "nodev", "noexec", "noatime", "rw"] {
        assert!(options.split([' ', ',']).any(|has| has == option), "{option}: {options}");
    }
    let linked =
        rig.says(&id, "ln -s busybox /plain/link; cat /plain/link >/dev/null && cat /nosymfollow/link").await;
    assert!(linked.contains("Too many levels"), "{linked}");
    let status = Newest::of(&rig.client).container(&id).await.unwrap();
    assert_eq!(status.mounts[1].mount_options, ["noexec", "nosuid", "nodev", "noatime"]);

    for (at, option) in ["size=1m", "rw", "suid", "rshared", ""].into_iter().enumerate() {
        let error = rig.create(&format!("c{at}"), vec![with(&["nodev", option], "/v")]).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().starts_with("mounts[0].mount_options[1]: "), "{error}");
    }
    let features = Newest::of(&rig.client).status().await.unwrap();
    assert!(features.features.unwrap().mount_options);
    let handler = features.runtime_handlers[0].features.unwrap();
    assert!(handler.recursive_read_only_mounts);
}
