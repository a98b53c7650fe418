//! Checkpoints: CVE-2026-50195, CVE-2026-53489, CVE-2026-53492, CVE-2024-8676. There are none here, so nothing of an archive is ever
//! believed: neither an image's name, a link, a device nor a mount. Whoever builds them has to mount those attacks first.

use e2e::archive::Raw;
use proto::runtime::v1 as cri;
use proto::runtime::v1::image_service_client::ImageServiceClient;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Code;

use crate::rig::Rig;

#[tokio::test]
async fn nothing_is_written_to_a_checkpoint_or_made_from_one() {
    let rig = Rig::new().await;
    let id = rig.running(rig.script("sleep 1000")).await;
    let archive = rig.node.path("checkpoint.tar");
    std::fs::write(&archive, Raw::new().file("spec.dump", b"{}").done()).unwrap();
    let before = std::fs::read(&archive).unwrap();
    let mut runtime = RuntimeServiceClient::new(rig.client.channel());
    let location = archive.display().to_string();
    let container = cri::CheckpointContainerRequest {
        container_id: id.clone(),
        location: location.clone(),
        ..Default::default()
    };
    let pod = cri::CheckpointPodRequest {
        pod_sandbox_id: rig.pod.clone(),
        output_path: location.clone(),
        ..Default::default()
    };
    let restore = cri::RestorePodRequest { checkpoint_path: location, ..Default::default() };
    let refused = [
        runtime.checkpoint_container(container).await.map(drop).unwrap_err(),
        runtime.checkpoint_pod(pod).await.map(drop).unwrap_err(),
        runtime.restore_pod(restore).await.map(drop).unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::Unimplemented, "the attack succeeded: {status}");
    }
    assert_eq!(std::fs::read(&archive).unwrap(), before, "the attack succeeded: it was written");
    assert_eq!(rig.client.pods().await.unwrap().len(), 1, "the attack succeeded: a pod was made");
}

/// An archive that is taken for an image is one, with nothing in it that means anything.
#[tokio::test]
async fn an_annotation_of_a_checkpoint_makes_an_image_nothing_else() {
    let rig = Rig::new().await;
    let content = e2e::scripted::Content::default();
    let layer = e2e::archive::Packed::gzip(&Raw::new().file("spec.dump", b"{}").done());
    let (config, mut manifest) = e2e::archive::documents(std::slice::from_ref(&layer));
    manifest["annotations"] = serde_json::json!({
        "org.criu.checkpoint.container.name": "lure",
        "io.kubernetes.cri-o.annotations.checkpoint.name": "lure",
        "org.criu.checkpoint.rootfsImageName": rig.node.registry.image("busybox:latest"),
    });
    content.blob("lure", config.to_string().as_bytes());
    content.blob("lure", &layer.blob);
    content.manifest("lure", "latest", manifest.to_string().as_bytes());
    let registry = e2e::Scripted::start(content, e2e::scripted::Manner::default()).await;
    let reference = registry.image("lure:latest");
    let before = names(&rig).await;
    rig.client.pull(&reference).await.unwrap();
    let refused = rig.run(rig.of(&reference, &["/spec.dump"])).await;
    refused.prevented("a checkpoint was restored");
    let mut wanted = before;
    wanted.push(reference);
    wanted.sort();
    assert_eq!(names(&rig).await, wanted, "the attack succeeded: a name means something else");
}

/// The names of all images.
async fn names(rig: &Rig) -> Vec<String> {
    let mut client = ImageServiceClient::new(rig.client.channel());
    let images = client.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner().images;
    let mut names: Vec<String> = images.into_iter().flat_map(|image| image.repo_tags).collect();
    names.sort();
    names
}
