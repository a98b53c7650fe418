//! Images as volumes in pods with a user namespace: their files are the pod's users', and nobody's where nothing is mapped.

use e2e::image::{Image, Layer};
use e2e::pod::context;
use e2e::{Network, Pod};
use proto::runtime::v1 as cri;
use serde_json::json;
use tonic::Code;

fn mapping(host_id: u32) -> Vec<cri::IdMapping> {
    vec![cri::IdMapping { host_id, container_id: 0, length: 65_536 }]
}

fn image_mount(image: &str, at: &str, ids: &[cri::IdMapping]) -> cri::Mount {
    cri::Mount {
        image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
        container_path: at.into(),
        readonly: true,
        uid_mappings: ids.to_vec(),
        gid_mappings: ids.to_vec(),
        ..Default::default()
    }
}

async fn data(pod: &Pod) -> String {
    let layer = Layer::new().directory("models", 0o755).file("models/weights", 0o640, b"weights");
    Image::new(json!({})).layer(layer).push(pod.node.registry.address(), "mapped:1").await;
    let image = pod.node.registry.image("mapped:1");
    pod.client.pull(&image).await.unwrap();
    image
}

#[tokio::test]
async fn an_image_volume_belongs_to_the_users_of_its_pod() {
    let mut pod = Pod::new(Network::None, |sandbox| {
        let users = cri::UserNamespace {
            mode: cri::NamespaceMode::Pod as i32,
            uids: mapping(2_000_000),
            gids: mapping(2_000_000),
        };
        context(sandbox).namespace_options.get_or_insert_default().userns_options = Some(users);
    })
    .await;
    let image = data(&pod).await;
    let ids = mapping(2_000_000);
    let mounts = vec![
        image_mount(&image, "/whole", &ids),
        cri::Mount { image_sub_path: "models".into(), ..image_mount(&image, "/part", &ids) },
        image_mount(&image, "/unmapped", &[]),
    ];
    let script = "stat -c %u:%g /whole /whole/models/weights /part/weights /unmapped/models/weights | xargs; cat /part/weights";
    let wanted = cri::ContainerConfig { mounts, ..pod.script("main", "exec sleep 1000") };
    let id = pod.create(wanted).await.unwrap();
    // What a daemon made can be started by the next one.
    pod.restart();
    pod.client.start(&id).await.unwrap();
    assert_eq!(pod.exec(&id, script).await, "0:0 0:0 0:0 65534:65534\nweights");
    let refused = pod.client.exec(&id, &["touch", "/whole/x"], 10).await.unwrap();
    assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
}

#[tokio::test]
async fn an_image_volume_is_mapped_in_no_other_way() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let image = data(&pod).await;
    let mounts = vec![image_mount(&image, "/data", &mapping(2_000_000))];
    let refused =
        pod.create(cri::ContainerConfig { mounts, ..pod.script("main", "true") }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("mounts[0].uidMappings: "), "{refused}");
}
