//! Volumes that come from images.

use sandbox::{ContainerConfig, Error, ImageReference, Mount, MountAccess, MountSource, Propagation};

use crate::world::{World, shell};

fn image_mount(image: &str, container_path: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: container_path.into(),
        source: MountSource::Image {
            image: ImageReference {
                reference: image.to_owned(),
                user_specified: image.to_owned(),
                ..Default::default()
            },
            sub_path: sub_path.to_owned(),
        },
        access: MountAccess::ReadOnly,
        propagation: Propagation::Private,
        selinux_relabel: false,
        id_mapping: None,
        options: vec![],
    }
}

fn with_mount(name: &str, script: &str, mount: Mount) -> ContainerConfig {
    ContainerConfig { mounts: vec![mount], ..shell(name, script) }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_images_stand_also_for_the_next_daemon() {
    let mut world = World::new().await;
    world.images.config.lock().unwrap().volumes = vec!["/data/own".to_owned()];
    let pod = world.pod("web").await;
    let script = "cat /mnt/group; cat /data/own/from; echo; echo x > /data/own/from; echo x > /mnt/group || echo refused";
    let wanted = with_mount("main", script, image_mount("busybox", "/mnt", "etc"));
    let id = world.pods().create_container(pod.as_str(), wanted).await.unwrap();
    world.kill_daemon();
    world.open().await;
    let status = world.pods().container(id.as_str()).unwrap();
    assert_eq!(status.image_volumes.get(&0).map(String::as_str), Some("sha256:1"));
    world.pods().start_container(id.as_str()).await.unwrap();
    assert_eq!(world.exit(&id).await.exit_code, 0);
    let log = world.log("web", "main");
    for line in ["stdout F logs:x:50:web\n", "stdout F /data/own\n", "stdout F refused\n"] {
        assert!(log.contains(line), "{line:?} in {log}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_volume_that_cannot_be_leaves_nothing() {
    let world = World::new().await;
    let pod = world.pod("web").await;
    for (image, sub_path, says) in [
        ("missing", "", "ImageVolumeMountFailed: image \"missing\" does not exist"),
        ("busybox", "nowhere", "ImageVolumeMountFailed: mounts[0].image_sub_path: "),
    ] {
        let wanted = with_mount("main", "true", image_mount(image, "/mnt", sub_path));
        let error = world.pods().create_container(pod.as_str(), wanted).await.unwrap_err();
        assert!(matches!(&error, Error::ImageVolume { .. }), "{error}");
        assert!(sandbox::error::chain(&error).starts_with(says), "{}", sandbox::error::chain(&error));
        assert_eq!(world.images.layers(), 0);
    }
    world.end().await;
}
