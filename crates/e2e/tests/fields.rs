//! Fields that no other file is about: names, defaults of what is not said, what is only recorded, what means a sandbox's own process.

use e2e::image::{Image, Layer};
use e2e::pod::{context, linux, security};
use e2e::{Network, Pod};
use proto::runtime::v1 as cri;
use serde_json::json;
use tonic::{Code, Status};

#[tokio::test]
async fn pods_are_told_apart_by_all_four_parts_of_their_names() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let mut runtime = pod.runtime.clone();
    let mut run = async |change: fn(&mut cri::PodSandboxMetadata)| {
        let mut sandbox = pod.sandbox.clone();
        change(sandbox.metadata.as_mut().unwrap());
        let request = cri::RunPodSandboxRequest { config: Some(sandbox), ..Default::default() };
        runtime.run_pod_sandbox(request).await.map(|answer| answer.into_inner().pod_sandbox_id)
    };
    assert_eq!(run(|_| {}).await.unwrap(), pod.id, "the same request");
    let changes: [fn(&mut cri::PodSandboxMetadata); 4] = [
        |metadata| metadata.name += "-other",
        |metadata| metadata.uid += "-other",
        |metadata| metadata.namespace += "-other",
        |metadata| metadata.attempt += 1,
    ];
    let mut all = std::collections::BTreeSet::from([pod.id.clone()]);
    for change in changes {
        assert!(all.insert(run(change).await.unwrap()), "a pod of its own");
    }
    assert_eq!(pod.client.pods().await.unwrap().len(), all.len());
    for (change, path) in [
        ((|metadata| metadata.name.clear()) as fn(&mut cri::PodSandboxMetadata), "metadata.name"),
        (|metadata| metadata.namespace.clear(), "metadata.namespace"),
    ] {
        assert_refused(&run(change).await.unwrap_err(), path);
    }
}

fn assert_refused(status: &Status, path: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().starts_with(&format!("{path}: ")), "{path}: {status}");
}

#[tokio::test]
async fn what_is_not_said_has_its_default() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let host = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    type Less = (fn(&mut cri::PodSandboxConfig), fn(&mut cri::ContainerConfig));
    let less: [Less; 3] = [
        (|pod| context(pod).namespace_options = None, |c| security(c).namespace_options = None),
        (|pod| linux(pod).security_context = None, |c| c.linux.as_mut().unwrap().security_context = None),
        // The parent of the cgroup goes, too: the pod is below the daemon's own.
        (|pod| pod.linux = None, |c| c.linux = None),
    ];
    for (of_pod, of_container) in less {
        let mut sandbox = pod.sandbox.clone();
        sandbox.metadata.as_mut().unwrap().attempt += 1;
        of_pod(&mut sandbox);
        let request = cri::RunPodSandboxRequest { config: Some(sandbox), ..Default::default() };
        let id = pod.runtime.clone().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
        let mut ids = Vec::new();
        for name in ["one", "two"] {
            let mut wanted = pod.script(name, "exec sleep 1000");
            of_container(&mut wanted);
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: id.clone(),
                config: Some(wanted),
                sandbox_config: Some(pod.sandbox.clone()),
            };
            let container =
                pod.runtime.clone().create_container(request).await.unwrap().into_inner().container_id;
            pod.client.start(&container).await.unwrap();
            ids.push(container);
        }
        for kind in ["net", "pid", "ipc", "uts"] {
            let link = format!("readlink /proc/self/ns/{kind}");
            let (one, two) = (pod.exec(&ids[0], &link).await, pod.exec(&ids[1], &link).await);
            assert_eq!(one, two, "{kind} is the pod's");
            assert_ne!(one, host(kind).to_string_lossy(), "{kind} is not the host's");
        }
        let users = pod.exec(&ids[0], "readlink /proc/self/ns/user").await;
        assert_eq!(users, host("user").to_string_lossy(), "users are the host's");
        let status =
            pod.exec(&ids[0], "grep -E '^(Uid|Seccomp|NoNewPrivs):' /proc/self/status | tr '\\t' ' '").await;
        assert_eq!(status, "Uid: 0 0 0 0\nNoNewPrivs: 0\nSeccomp: 0");
        pod.client.stop_pod(&id).await.unwrap();
        pod.client.remove_pod(&id).await.unwrap();
    }
}

#[tokio::test]
async fn what_means_a_sandboxs_own_process_changes_nothing_for_containers() {
    let unconfined = || cri::SecurityProfile { profile_type: 1, localhost_ref: String::new() };
    let pod = Pod::new(Network::None, |sandbox| {
        let context = context(sandbox);
        context.run_as_user = Some(cri::Int64Value { value: 1000 });
        context.run_as_group = Some(cri::Int64Value { value: 2000 });
        context.supplemental_groups = vec![3000];
        context.readonly_rootfs = true;
        context.seccomp = Some(cri::SecurityProfile { profile_type: 0, localhost_ref: String::new() });
        context.apparmor = Some(unconfined());
    })
    .await;
    let found =
        pod.prints("id -u; id -g; id -G; touch /written; grep ^Seccomp: /proc/self/status", |_| {}).await;
    assert_eq!(found, "0\n0\n0\nSeccomp:\t0");
    // Yet it is known what was asked for.
    let asked = pod.info(&pod.id).await["config"]["security"].clone();
    assert_eq!((&asked["readonly_rootfs"], &asked["run_as_user"]), (&json!(true), &json!(1000)));
    let refused =
        pod.another(|sandbox| context(sandbox).supplemental_groups = vec![5, -1]).await.unwrap_err();
    assert_refused(&refused, "linux.security_context.supplemental_groups[1]");
}

#[tokio::test]
async fn what_is_kept_of_images_is_answered() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let layer = Layer::new().file("data", 0o644, b"data");
    Image::new(json!({})).layer(layer).push(pod.node.registry.address(), "kept:1").await;
    let volume = pod.node.registry.image("kept:1");
    let pulled = pod.client.pull(&volume).await.unwrap();
    let mut wanted = pod.script("main", "exec sleep 1000");
    let image = wanted.image.as_mut().unwrap();
    image.user_specified_image = "what:the-user-wrote".into();
    image.annotations = [("team".to_owned(), "blue".to_owned())].into();
    // Not what decides: the name of the image is.
    image.image_ref = "sha256:nothing".into();
    let spec = cri::ImageSpec {
        image: volume.clone(),
        user_specified_image: "kept".into(),
        annotations: [("team".to_owned(), "red".to_owned())].into(),
        image_ref: "sha256:nothing".into(),
        ..Default::default()
    };
    let mount = cri::Mount {
        image: Some(spec),
        container_path: "/kept".into(),
        readonly: true,
        ..Default::default()
    };
    wanted.mounts = vec![mount.clone()];
    let id = pod.create(wanted.clone()).await.unwrap();
    let (status, info) = pod.container(&id).await;
    let image = status.image.unwrap();
    assert_eq!(
        (image.user_specified_image.as_str(), &image.annotations["team"]),
        ("what:the-user-wrote", &"blue".to_owned())
    );
    assert_eq!(info["runtimeSpec"]["annotations"]["io.kubernetes.cri.image-name"], "what:the-user-wrote");
    let of_volume = status.mounts[0].image.clone().unwrap();
    assert_eq!(
        (of_volume.image.as_str(), of_volume.user_specified_image.as_str()),
        (volume.as_str(), "kept")
    );
    assert_eq!((of_volume.image_ref, &of_volume.annotations["team"]), (pulled, &"red".to_owned()));
    let handled = |handler: &str| {
        let mut mount = mount.clone();
        mount.image.as_mut().unwrap().runtime_handler = handler.to_owned();
        vec![mount]
    };
    wanted.metadata.as_mut().unwrap().attempt += 1;
    wanted.mounts = handled("vm");
    assert_refused(&pod.create(wanted.clone()).await.unwrap_err(), "mounts[0].image.runtime_handler");
    wanted.mounts = handled("knarr");
    wanted.image.as_mut().unwrap().runtime_handler = "vm".into();
    assert_refused(&pod.create(wanted.clone()).await.unwrap_err(), "image.runtime_handler");
    wanted.image.as_mut().unwrap().runtime_handler = "knarr".into();
    let id = pod.create(wanted).await.expect("the handler is there");
    let shown = pod.container(&id).await.0.image.unwrap().runtime_handler;
    assert_eq!(shown, "", "as the image that it is of: kubelet compares the two before it removes one");
}
