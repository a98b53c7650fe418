//! Images of layers on a file system that checks what is read of them: a byte that the disk has changed reaches nobody.

use std::process::Command;

use e2e::image::{Image, Layer};
use e2e::{Disk, Network, Pod};
use proto::runtime::v1 as cri;
use serde_json::json;

/// Bytes that don't compress, and that nothing else on a disk has.
fn noise() -> Vec<u8> {
    (0..40_000_u32).map(|n| (n.wrapping_mul(2_654_435_761).rotate_left(n % 31) >> 11) as u8).collect()
}

fn knarr(pod: &Pod, arguments: &[&str]) -> String {
    let endpoint = format!("unix://{}", pod.node.socket().display());
    let mut knarr = Command::new(e2e::node::binary("knarr"));
    let output = knarr.arg("image").args(arguments).args(["--endpoint", &endpoint]).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The images of layers, and whether the kernel checks each.
fn sealed(pod: &Pod) -> Vec<bool> {
    let layers = std::fs::read_dir(pod.node.path("root/images/layers/sha256")).unwrap();
    let images = layers.map(|layer| layer.unwrap().path().join("layer.erofs"));
    let is_sealed = |image: std::path::PathBuf| {
        let listed = Command::new("lsattr").arg(image).output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        String::from_utf8(listed.stdout).unwrap().split_whitespace().next().unwrap().contains('V')
    };
    images.map(is_sealed).collect()
}

#[tokio::test]
async fn a_byte_that_the_disk_changed_is_an_error_and_is_repaired() {
    let mut node = e2e::Node::start(Network::None).await;
    node.stop_daemon();
    let disk = Disk::with_verity(node.path("root"), 64).inspect_err(|why| println!("skipped: {why}")).ok();
    node.start_daemon();
    let Some(disk) = disk else { return };
    let mut pod = Pod::on(node, |_| ()).await;
    let layer = Layer::new().file("noise", 0o644, &noise());
    let image = "verity/noise:v1";
    Image::new(json!({})).layer(layer).push(pod.node.registry.address(), image).await;
    let image = pod.node.registry.image(image);
    pod.client.pull(&image).await.unwrap();
    assert_eq!(sealed(&pod), [true, true], "the image's layer, and busybox's");

    pod.client.stop_pod(&pod.id).await.unwrap();
    pod.client.remove_pod(&pod.id).await.unwrap();
    pod.node.stop_daemon();
    assert!(disk.damage(&noise()[20_000..20_100]) > 0, "its bytes are on the disk");
    pod.node.start_daemon();
    pod.reconnect();
    let request =
        cri::RunPodSandboxRequest { config: Some(pod.sandbox.clone()), runtime_handler: String::new() };
    pod.id = pod.runtime.clone().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let volume = cri::Mount {
        container_path: "/image".into(),
        image: Some(cri::ImageSpec { image: image.clone(), ..Default::default() }),
        readonly: true,
        ..Default::default()
    };
    let reader = pod.waiting("reader", |wanted| wanted.mounts.push(volume.clone())).await;
    let read = pod.client.exec(&reader, &["sh", "-c", "cat /image/noise >/dev/null"], 20).await.unwrap();
    assert!(read.exit_code != 0 && read.stderr.contains("Input/output error"), "{read:?}");
    // It is found, fetched again, and good.
    let found = knarr(&pod, &["check", &image]);
    assert!(found.contains("damaged"), "{found}");
    pod.client.pull(&image).await.unwrap();
    assert_eq!(sealed(&pod), [true, true]);
    let next = pod.waiting("next", |wanted| wanted.mounts.push(volume)).await;
    assert_eq!(pod.exec(&next, "wc -c </image/noise").await, noise().len().to_string());

    pod.client.stop_pod(&pod.id).await.unwrap();
    pod.client.remove_pod(&pod.id).await.unwrap();
    pod.node.stop_daemon();
    drop(disk);
    pod.node.start_daemon();
}
