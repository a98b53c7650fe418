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
        let disk = Disk::new("xfs", node.path("root"), 512, &["prjquota"]);
        let disk = disk.inspect_err(|why| println!("skipped: no xfs with quotas: {why}")).ok();
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

    // It is counted, not measured, and stays so.
    limited.pod.as_mut().unwrap().restart();
    let counted = limited.written(&one).await;
    assert!((size..=MOST).contains(&counted), "{counted} for {size}");
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
async fn volumes_of_the_image_and_ids_that_are_mapped_count_too() {
    let Some(limited) = Limited::new().await else { return };
    let pod = limited.pod();
    let name = "quotas/volume:v1";
    let layer = Layer::new().file("data/from-image", 0o644, &vec![7; 3 << 20]);
    let busybox = pod.node.registry.image("busybox:latest");
    Image::new(json!({ "Volumes": { "/data": {} } }))
        .layer(layer)
        .push(pod.node.registry.address(), name)
        .await;
    pod.client.pull(&pod.node.registry.image(name)).await.unwrap();
    // Its program is on a volume of the other image.
    let mut wanted = pod.script("volumes", "exec sleep 1000");
    let own = |image: String| Some(cri::ImageSpec { image, ..Default::default() });
    wanted.image = own(pod.node.registry.image(name));
    wanted.mounts.push(cri::Mount {
        container_path: "/bin".into(),
        image: own(busybox),
        image_sub_path: "bin".into(),
        readonly: true,
        ..Default::default()
    });
    let container = pod.create(wanted).await.unwrap();
    pod.client.start(&container).await.unwrap();
    let fill = "dd if=/dev/zero of=/data/fill bs=64k count=4096 2>/dev/null; stat -c %s /data/fill";
    let size: u64 = pod.exec(&container, fill).await.parse().unwrap();
    assert!((MOST / 2..=MOST - 3 * MIB).contains(&size), "{size}");
    limited.end().await;
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
        let Ok(disk) = Disk::new("ext4", root.clone(), 40, &[]).inspect_err(|why| println!("skipped: {why}"))
        else {
            return;
        };
        for command in ["serve", "doctor"] {
            let said = refused(command);
            assert!(said.contains(&format!("{why}it is not on xfs")), "{said}");
        }
        drop(disk);
    }
    let Ok(_disk) = Disk::new("xfs", root.clone(), 320, &[]).inspect_err(|why| println!("skipped: {why}"))
    else {
        return;
    };
    for command in ["serve", "doctor"] {
        let said = refused(command);
        assert!(said.contains(&format!("{why}its file system is not mounted with prjquota")), "{said}");
    }
}
