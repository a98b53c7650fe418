//! A node whose disk is full: the daemon starts, tells what there is, and what is removed makes room.

use std::time::Duration;

use e2e::image::{Image, Layer};
use e2e::{Disk, Network, Node, Setup, cri, until};
use serde_json::json;
use tonic::Code;

fn image(seed: u32, size: u32) -> Image {
    let noise = |n: u32| (n.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 13) as u8;
    let content: Vec<u8> = (0..size).map(noise).collect();
    Image::new(json!({})).layer(Layer::new().file("content", 0o644, &content))
}

async fn images(node: &Node) -> usize {
    let request = cri::ListImagesRequest { filter: None };
    node.client().images.list_images(request).await.unwrap().into_inner().images.len()
}

/// ext4 at the daemon's root, or nothing where there can be none.
fn disk(node: &Node) -> Option<Disk> {
    let disk = Disk::new("ext4", node.path("root"), 40);
    disk.inspect_err(|why| println!("skipped: {why}")).ok()
}

#[tokio::test]
async fn a_daemon_starts_on_it_and_removing_makes_room() {
    let mut node = Node::start(Network::None).await;
    node.stop_daemon();
    let disk = disk(&node);
    node.start_daemon();
    let Some(disk) = disk else { return };
    for (seed, (name, size)) in
        [("one", 3 << 20), ("two", 3 << 20), ("next", 2 << 20)].into_iter().enumerate()
    {
        image(seed as u32, size).push(node.registry.address(), &format!("full-disk/{name}:v1")).await;
    }
    let name = |name: &str| node.registry.image(&format!("full-disk/{name}:v1"));
    let [one, two, next] = ["one", "two", "next"].map(name);
    let client = node.client();
    client.pull(&one).await.unwrap();
    client.pull(&two).await.unwrap();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("idle", &["sleep", "3600"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    node.kill_daemon();
    disk.fill();
    node.start_daemon();
    let client = node.client();
    assert_eq!(images(&node).await, 3);
    let found = client.container(&container).await.unwrap();
    assert_eq!(found.state, cri::ContainerState::ContainerRunning as i32);
    let refused = client.pull(&next).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("no space is left"), "{refused}");
    remove_image(&node, &one).await;
    assert_eq!(images(&node).await, 2);
    until(Duration::from_secs(20), "room", async || match disk.free() {
        free if free >= 3 << 20 => Ok(()),
        free => Err(free),
    })
    .await;
    client.pull(&next).await.unwrap();
    // What kubelet does to pods on a full disk.
    disk.fill();
    client.stop(&container, 0).await.unwrap();
    client.remove(&container).await.unwrap();
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    node.stop_daemon();
    drop(disk);
    node.start_daemon();
}

#[tokio::test]
async fn images_that_nothing_uses_go_when_it_is_to_be_so() {
    let images_section = "[images]\ncollect_above = 60\ncollect_min_age = 0\n";
    let mut node = Setup::new(Network::None).section(images_section).start().await;
    node.stop_daemon();
    let disk = disk(&node);
    node.start_daemon();
    let Some(disk) = disk else { return };
    let client = node.client();
    for (seed, name) in ["one", "two"].into_iter().enumerate() {
        let name = format!("collected/{name}:v1");
        image(seed as u32, 3 << 20).push(node.registry.address(), &name).await;
        client.pull(&node.registry.image(&name)).await.unwrap();
    }
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("idle", &["sleep", "3600"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    // Looked at when the daemon starts, and each minute from then on.
    node.stop_daemon();
    std::fs::write(disk.at.join("ballast"), vec![1; 20 << 20]).unwrap();
    node.start_daemon();
    let left = async || match images(&node).await {
        1 => Ok(()),
        others => Err(others),
    };
    until(Duration::from_secs(20), "the image in use alone", left).await;
    let client = node.client();
    let found = client.container(&container).await.unwrap();
    assert_eq!(found.state, cri::ContainerState::ContainerRunning as i32);
    client.stop(&container, 0).await.unwrap();
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    node.stop_daemon();
    drop(disk);
    node.start_daemon();
}

/// Whether kubelet is told that pods can have user namespaces.
async fn has_user_namespaces(node: &Node) -> bool {
    let request = cri::StatusRequest { verbose: false };
    let handlers = node.client().runtime.clone().status(request).await.unwrap().into_inner().runtime_handlers;
    assert!(!handlers.is_empty());
    handlers.iter().all(|handler| handler.features.as_ref().unwrap().user_namespaces)
}

#[tokio::test]
async fn user_namespaces_are_there_as_soon_as_there_is_room() {
    let mut node = Node::start(Network::None).await;
    if !has_user_namespaces(&node).await {
        println!("skipped: no user namespaces here");
        return;
    }
    node.stop_daemon();
    let disk = disk(&node);
    node.start_daemon();
    let Some(disk) = disk else { return };
    tidy(&node).await;
    node.stop_daemon();
    disk.fill();
    node.start_daemon();
    let mut config = node.pod();
    let ids = vec![cri::IdMapping { host_id: 1_000_000, container_id: 0, length: 65_536 }];
    let mode = cri::NamespaceMode::Pod as i32;
    let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    linux.namespace_options.as_mut().unwrap().userns_options =
        Some(cri::UserNamespace { mode, uids: ids.clone(), gids: ids });
    let client = node.client();
    let refused = client.run_pod(config.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(!has_user_namespaces(&node).await);
    for ballast in 0..3 {
        std::fs::remove_file(disk.at.join(format!("ballast{ballast}"))).unwrap();
    }
    // By the pod itself, before anybody asks for the node's status.
    let pod = client.run_pod(config).await.unwrap();
    assert!(has_user_namespaces(&node).await);
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    tidy(&node).await;
    node.stop_daemon();
    disk.fill();
    node.start_daemon();
    assert!(!has_user_namespaces(&node).await);
    for ballast in 0..3 {
        std::fs::remove_file(disk.at.join(format!("ballast{ballast}"))).unwrap();
    }
    assert!(has_user_namespaces(&node).await, "kubelet's question alone is enough");
    node.stop_daemon();
    drop(disk);
    node.start_daemon();
}

/// Waits until nothing is left to delete, which would make room later.
async fn tidy(node: &Node) {
    let left = async || {
        let in_trash = |dir: &str| std::fs::read_dir(node.path(dir)).unwrap().count();
        match ["root/containers/.trash", "root/images/trash", "root/images/ingest"].map(in_trash) {
            // What is kept of broken pulls has a directory there.
            [0, 0, 0 | 1] => Ok(()),
            left => Err(left),
        }
    };
    until(Duration::from_secs(20), "nothing to delete", left).await;
}

async fn remove_image(node: &Node, name: &str) {
    let image = Some(e2e::client::image_spec(name));
    node.client().images.remove_image(cri::RemoveImageRequest { image }).await.unwrap();
}
