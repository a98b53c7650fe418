//! Containers that may write only so much: project quotas of xfs below the daemon's root.

use std::process::Command;
use std::time::Duration;

use e2e::image::{Image, Layer};
use e2e::{Disk, Network, Node, Pod, until};
use proto::runtime::v1 as cri;
use serde_json::json;

const MIB: u64 = 1 << 20;
const MOST: u64 = 16 * MIB;
const LIMITS: &str = "[containers]\nwritable_bytes = 16777216\nwritable_inodes = 200\n";

/// A node whose containers are limited, on xfs that it lies on; nothing where the kernel's xfs has no quotas.
struct Limited {
    pod: Option<Pod>,
    disk: Option<Disk>,
    before: String,
}

impl Limited {
    async fn new() -> Option<Self> {
        let mut node = Node::start(Network::None).await;
        node.stop_daemon();
        let disk = Disk::with_quotas(node.path("root"), 512);
        let disk = disk.inspect_err(|why| println!("skipped: {why}")).ok();
        let before = std::fs::read_to_string(node.path("knarr.toml")).unwrap();
        if disk.is_some() {
            std::fs::write(node.path("knarr.toml"), format!("{before}{LIMITS}")).unwrap();
        }
        node.start_daemon();
        let disk = Some(disk?);
        Some(Self { pod: Some(Pod::on(node, |_| ()).await), disk, before })
    }

    fn pod(&self) -> &Pod {
        self.pod.as_ref().unwrap()
    }

    /// The project of a container, by its directory.
    fn project(&self, container: &str) -> String {
        let dir = self.pod().node.path("root/containers").join(container);
        let listed = Command::new("lsattr").arg("-pd").arg(&dir).output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        String::from_utf8(listed.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    async fn written(&self, container: &str) -> u64 {
        let request = cri::ContainerStatsRequest { container_id: container.into() };
        let answer = self.pod().runtime.clone().container_stats(request).await.unwrap().into_inner();
        answer.stats.unwrap().writable_layer.unwrap().used_bytes.unwrap().value
    }

    /// Gives the node its ordinary root back, for its own check that nothing is left.
    async fn end(mut self) {
        let mut pod = self.pod.take().unwrap();
        pod.client.stop_pod(&pod.id).await.unwrap();
        pod.client.remove_pod(&pod.id).await.unwrap();
        pod.node.stop_daemon();
        drop(self.disk.take());
        std::fs::write(pod.node.path("knarr.toml"), &self.before).unwrap();
        pod.node.start_daemon();
    }
}

/// Fills a container's root to the brim and says how much that was.
const FILL: &str = "dd if=/dev/zero of=/fill bs=64k count=4096 2>/tmp/said; cat /tmp/said >&2; \
    grep -q 'No space left' /tmp/said && stat -c %s /fill";

#[tokio::test]
async fn a_container_writes_as_much_as_it_may_and_no_more() {
    let Some(mut limited) = Limited::new().await else { return };
    let one = limited.pod().waiting("one", |_| ()).await;
    let two = limited.pod().waiting("two", |_| ()).await;
    assert_ne!(limited.project(&one), limited.project(&two));
    let size: u64 = limited.pod().exec(&one, FILL).await.parse().unwrap();
    assert!((MOST * 3 / 4..=MOST).contains(&size), "{size}");
    // What it is told of its disk is what it may write.
    let blocks = limited.pod().exec(&one, "df -k / | tail -1 | awk '{print $2, $4}'").await;
    let (all, free) = blocks.split_once(' ').unwrap();
    assert_eq!(all.parse::<u64>().unwrap(), MOST / 1024);
    // Of less than what was written at a time.
    assert!(free.parse::<u64>().unwrap() < 64, "{free}");
    // The other one has its own limit, also of files.
    let made = "i=0; while true >/many$i; do i=$((i+1)); [ $i -lt 1000 ] || break; done 2>/dev/null; echo $i";
    let made: u64 = limited.pod().exec(&two, made).await.parse().unwrap();
    assert!((150..200).contains(&made), "{made} files");

    // It stays so.
    limited.pod.as_mut().unwrap().restart();
    let written = limited.written(&one).await;
    assert!((size..=MOST).contains(&written), "{written} for {size}");
    let more = ["dd", "if=/dev/zero", "of=/more", "bs=64k", "count=1"];
    let more = limited.pod().client.exec(&one, &more, 20).await.unwrap();
    assert!(more.exit_code != 0 && more.stderr.contains("No space left"), "{more:?}");
    limited.pod().exec(&one, "rm /fill && dd if=/dev/zero of=/new bs=64k count=64 2>/dev/null").await;

    // A project is free for the next when nothing belongs to it.
    let before = limited.project(&one);
    for container in [&one, &two] {
        limited.pod().client.stop(container, 0).await.unwrap();
        limited.pod().client.remove(container).await.unwrap();
    }
    until(Duration::from_secs(20), "the first project to be free", async || {
        let next = limited.pod().create(limited.pod().script("next", "true")).await.unwrap();
        let project = limited.project(&next);
        limited.pod().client.remove(&next).await.unwrap();
        if project == before { Ok(()) } else { Err(project) }
    })
    .await;
    limited.end().await;
}

#[tokio::test]
async fn volumes_of_the_image_count_too() {
    let Some(limited) = Limited::new().await else { return };
    let pod = limited.pod();
    let [small, large] = [("quotas/small:v1", 3), ("quotas/large:v1", 17)];
    for (name, mib) in [small, large] {
        let layer = Layer::new().file("data/from-image", 0o644, &vec![7; mib << 20]);
        let image = Image::new(json!({ "Volumes": { "/data": {} } })).layer(layer);
        image.push(pod.node.registry.address(), name).await;
        pod.client.pull(&pod.node.registry.image(name)).await.unwrap();
    }
    // Its program is on a volume of the other image.
    let own = |image: String| Some(cri::ImageSpec { image, ..Default::default() });
    let mut wanted = pod.script("volumes", "exec sleep 1000");
    wanted.image = own(pod.node.registry.image(small.0));
    wanted.mounts.push(cri::Mount {
        container_path: "/bin".into(),
        image: own(pod.node.registry.image("busybox:latest")),
        image_sub_path: "bin".into(),
        readonly: true,
        ..Default::default()
    });
    let container = pod.create(wanted.clone()).await.unwrap();
    pod.client.start(&container).await.unwrap();
    let fill = "dd if=/dev/zero of=/data/fill bs=64k count=4096 2>/dev/null; stat -c %s /data/fill";
    let size: u64 = pod.exec(&container, fill).await.parse().unwrap();
    assert!((MOST / 2..=MOST - 3 * MIB).contains(&size), "{size}");
    // A volume that is more by itself: the disk isn't full, and the error says whose limit it is.
    let containers = || std::fs::read_dir(pod.node.path("root/containers")).unwrap().count();
    let before = containers();
    wanted.image = own(pod.node.registry.image(large.0));
    wanted.metadata.as_mut().unwrap().name = "large".into();
    let refused = pod.create(wanted).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert!(
        refused.message().contains("of the 16777216 bytes and 200 inodes that a container may write"),
        "{refused}"
    );
    assert_eq!(containers(), before);
    limited.end().await;
}

#[tokio::test]
async fn users_whose_ids_are_mapped_are_limited_too_and_a_limit_stays_with_its_container() {
    let Some(mut limited) = Limited::new().await else { return };
    let pod = limited.pod();
    if !has_user_namespaces(pod).await {
        println!("skipped: no user namespaces here");
        return limited.end().await;
    }
    let ids = vec![cri::IdMapping { host_id: 1_000_000, container_id: 0, length: 65_536 }];
    let users = cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, uids: ids.clone(), gids: ids };
    let mut other: cri::PodSandboxConfig = pod.sandbox.clone();
    other.metadata.as_mut().unwrap().uid = "mapped".into();
    e2e::pod::context(&mut other).namespace_options.as_mut().unwrap().userns_options = Some(users);
    let request = cri::RunPodSandboxRequest { config: Some(other.clone()), runtime_handler: String::new() };
    let id = pod.runtime.clone().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let mut wanted = pod.script("mapped", "exec sleep 1000");
    wanted.linux.as_mut().unwrap().security_context = Some(cri::LinuxContainerSecurityContext {
        namespace_options: e2e::pod::context(&mut other).namespace_options.clone(),
        ..Default::default()
    });
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(wanted),
        sandbox_config: Some(other),
    };
    let created = pod.runtime.clone().create_container(request).await.unwrap().into_inner();
    pod.client.start(&created.container_id).await.unwrap();
    let size: u64 = pod.exec(&created.container_id, FILL).await.parse().unwrap();
    assert!((MOST * 3 / 4..=MOST).contains(&size), "{size}");
    // Without the keys, who comes next has no limit; who has one keeps it.
    let node = &mut limited.pod.as_mut().unwrap().node;
    std::fs::write(node.path("knarr.toml"), &limited.before).unwrap();
    limited.pod.as_mut().unwrap().restart();
    let pod = limited.pod();
    let free = pod.waiting("free", |_| ()).await;
    pod.exec(&free, "dd if=/dev/zero of=/more bs=64k count=512 2>/dev/null").await;
    let more = pod
        .client
        .exec(&created.container_id, &["dd", "if=/dev/zero", "of=/m", "bs=64k", "count=1"], 20)
        .await
        .unwrap();
    assert!(more.exit_code != 0 && more.stderr.contains("No space left"), "{more:?}");
    pod.client.stop_pod(&id).await.unwrap();
    pod.client.remove_pod(&id).await.unwrap();
    limited.end().await;
}

async fn has_user_namespaces(pod: &Pod) -> bool {
    let status =
        pod.runtime.clone().status(cri::StatusRequest { verbose: false }).await.unwrap().into_inner();
    let features = status.runtime_handlers.iter().filter_map(|handler| handler.features.as_ref());
    features.clone().count() > 0 && features.clone().all(|features| features.user_namespaces)
}

/// The daemon doesn't start with limits that it could not hold containers to, and says why.
#[tokio::test]
async fn limits_that_cannot_be_held_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let config = dir.path().join("knarr.toml");
    let text = format!(
        "listen = \"unix://{0}/state/knarr.sock\"\nroot = \"{1}\"\nstate = \"{0}/state\"\n{LIMITS}",
        dir.path().display(),
        root.display()
    );
    std::fs::write(&config, text).unwrap();
    let refused = |command: &str| {
        let knarr =
            Command::new(e2e::node::binary("knarr")).arg(command).arg("--config").arg(&config).output();
        let knarr = knarr.unwrap();
        assert!(!knarr.status.success(), "{knarr:?}");
        String::from_utf8([knarr.stdout, knarr.stderr].concat()).unwrap()
    };
    let why = format!("cannot limit what containers write in \"{}/containers\": ", root.display());
    {
        let Ok(disk) = Disk::new("ext4", root.clone(), 40).inspect_err(|why| println!("skipped: {why}"))
        else {
            return;
        };
        for command in ["serve", "doctor"] {
            let said = refused(command);
            assert!(said.contains(&format!("{why}it is not on xfs")), "{said}");
        }
        drop(disk);
    }
    let Ok(_disk) = Disk::new("xfs", root.clone(), 320).inspect_err(|why| println!("skipped: {why}")) else {
        return;
    };
    for command in ["serve", "doctor"] {
        let said = refused(command);
        assert!(said.contains(&format!("{why}its file system is not mounted with prjquota")), "{said}");
    }
}
