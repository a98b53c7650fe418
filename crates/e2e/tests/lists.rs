//! Lists with filters, their streams, prefixes of ids, and the methods that are not built yet.

use std::collections::BTreeSet;

use e2e::cri;
use e2e::{Client, Network, Node};
use futures::StreamExt;
use prost::Message as _;
use proto::runtime::v1 as newest;
use proto::runtime::v1::image_service_client::ImageServiceClient;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Code;

/// Pods labelled `number=0..`, with a container each, of which the odd ones run.
async fn populated(node: &Node, client: &Client, count: usize) -> Vec<(String, String)> {
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut made = Vec::new();
    for number in 0..count {
        let mut config = node.pod();
        config.labels =
            [("number".to_owned(), number.to_string()), ("all".to_owned(), "yes".to_owned())].into();
        config.annotations = [("note".to_owned(), "kept".to_owned())].into();
        let pod = client.run_pod(config.clone()).await.unwrap();
        let mut wanted = node.busybox("main", &["sleep", "1000"]);
        wanted.labels.clone_from(&config.labels);
        let container = client.create(&pod, wanted, &config).await.unwrap();
        if number % 2 == 1 {
            client.start(&container).await.unwrap();
        }
        made.push((pod, container));
    }
    made
}

#[tokio::test]
async fn lists_are_filtered_by_id_state_pod_and_label() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let made = populated(&node, &client, 4).await;
    client.stop_pod(&made[0].0).await.unwrap();

    let pods = |filter: cri::PodSandboxFilter| {
        let mut runtime = client.runtime.clone();
        async move {
            let request = cri::ListPodSandboxRequest { filter: Some(filter) };
            let items = runtime.list_pod_sandbox(request).await.unwrap().into_inner().items;
            items.into_iter().map(|pod| pod.id).collect::<BTreeSet<_>>()
        }
    };
    let ids = |indices: &[usize]| indices.iter().map(|index| made[*index].0.clone()).collect::<BTreeSet<_>>();
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    assert_eq!(pods(cri::PodSandboxFilter::default()).await, ids(&[0, 1, 2, 3]));
    let one = cri::PodSandboxFilter { id: made[2].0[..20].into(), ..Default::default() };
    assert_eq!(pods(one).await, ids(&[2]));
    let state = Some(cri::PodSandboxStateValue { state: cri::PodSandboxState::SandboxNotready as i32 });
    assert_eq!(pods(cri::PodSandboxFilter { state, ..Default::default() }).await, ids(&[0]));
    let labelled = cri::PodSandboxFilter { label_selector: label("number", "3"), ..Default::default() };
    assert_eq!(pods(labelled).await, ids(&[3]));

    let containers = |filter: cri::ContainerFilter| {
        let mut runtime = client.runtime.clone();
        async move {
            let request = cri::ListContainersRequest { filter: Some(filter) };
            let items = runtime.list_containers(request).await.unwrap().into_inner().containers;
            items.into_iter().map(|container| container.id).collect::<BTreeSet<_>>()
        }
    };
    let ids = |indices: &[usize]| indices.iter().map(|index| made[*index].1.clone()).collect::<BTreeSet<_>>();
    let state = Some(cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning as i32 });
    assert_eq!(containers(cri::ContainerFilter { state, ..Default::default() }).await, ids(&[1, 3]));
    let inside = cri::ContainerFilter { pod_sandbox_id: made[1].0.clone(), ..Default::default() };
    assert_eq!(containers(inside).await, ids(&[1]));
    let labelled = cri::ContainerFilter { label_selector: label("all", "yes"), ..Default::default() };
    assert_eq!(containers(labelled).await, ids(&[0, 1, 2, 3]));

    let status = client.container(&made[1].1[..12]).await.expect("an unambiguous beginning is enough");
    assert_eq!(status.id, made[1].1);
    assert_eq!(client.pod(&made[1].0).await.unwrap().annotations["note"], "kept");
}

#[tokio::test]
async fn streams_have_what_lists_have() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let made = populated(&node, &client, 3).await;
    let mut runtime = RuntimeServiceClient::new(client.channel());
    let mut images = ImageServiceClient::new(client.channel());

    let mut stream = runtime
        .stream_pod_sandboxes(newest::StreamPodSandboxesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut pods = BTreeSet::new();
    while let Some(message) = stream.next().await {
        pods.extend(message.unwrap().pod_sandboxes.into_iter().map(|pod| pod.id));
    }
    assert_eq!(pods, made.iter().map(|(pod, _)| pod.clone()).collect());

    let mut stream =
        runtime.stream_containers(newest::StreamContainersRequest::default()).await.unwrap().into_inner();
    let mut containers = BTreeSet::new();
    while let Some(message) = stream.next().await {
        containers.extend(message.unwrap().containers.into_iter().map(|container| container.id));
    }
    assert_eq!(containers, made.iter().map(|(_, container)| container.clone()).collect());

    let mut stream = images.stream_images(newest::StreamImagesRequest::default()).await.unwrap().into_inner();
    let message = stream.next().await.expect("a message").unwrap();
    assert_eq!(message.images[0].repo_tags, [node.registry.image("busybox:latest")]);
}

/// kubelet takes messages of so many bytes (k8s.io/cri-client, `maxMsgSize`), other gRPC clients of 4 MiB unless told otherwise.
const KUBELET_TAKES: usize = 16 << 20;
const OTHERS_TAKE: usize = 4 << 20;

/// Some hundred containers, or as many as `KNARR_E2E_CROWD` says, as kubelet labels and annotates them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_a_full_node_are_not_too_large() {
    let count = std::env::var("KNARR_E2E_CROWD").map_or(300, |count| count.parse().expect("a number"));
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    for _ in 0..usize::div_ceil(count, 100) {
        let config = node.pod();
        let pod = client.run_pod(config.clone()).await.unwrap();
        let made =
            (0..100.min(count)).map(|number| client.create(&pod, as_by_kubelet(&node, number), &config));
        let made: Vec<_> = futures::stream::iter(made).buffer_unordered(4).collect().await;
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }
    let runtime = RuntimeServiceClient::new(client.channel());
    let request = newest::ListContainersRequest::default();
    let whole = runtime.clone().max_decoding_message_size(usize::MAX).list_containers(request).await;
    let whole = whole.unwrap().into_inner();
    let of_each = whole.encoded_len() / whole.containers.len();
    println!("{} containers, {of_each} bytes each", whole.containers.len());
    assert!(
        of_each * 10_000 < KUBELET_TAKES,
        "kubelet can't list ten thousand containers of {of_each} bytes"
    );

    let request = newest::StreamContainersRequest::default();
    let mut stream = runtime.clone().stream_containers(request).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(message) = stream.next().await {
        let message = message.expect("a message that any client takes");
        assert!(message.encoded_len() < OTHERS_TAKE / 2, "{} bytes", message.encoded_len());
        streamed.extend(message.containers);
    }
    assert_eq!(streamed, whole.containers);
}

/// A container with what kubelet writes into labels and annotations (`pkg/kubelet/kuberuntime/labels.go`).
fn as_by_kubelet(node: &Node, number: usize) -> cri::ContainerConfig {
    let mut wanted = node.busybox(&format!("container-{number}"), &["sleep", "1000"]);
    let labels = [
        ("io.kubernetes.container.name", "container"),
        ("io.kubernetes.pod.name", "some-deployment-5d59d67564-x8k2v"),
        ("io.kubernetes.pod.namespace", "some-namespace"),
        ("io.kubernetes.pod.uid", "6cfa6d4e-9a05-4d0a-a6a0-3fb4bb2a3f7c"),
    ];
    let annotations = [
        ("io.kubernetes.container.hash", "cb8a4c4f"),
        ("io.kubernetes.container.restartCount", "0"),
        ("io.kubernetes.container.terminationMessagePath", "/dev/termination-log"),
        ("io.kubernetes.container.terminationMessagePolicy", "File"),
        ("io.kubernetes.pod.terminationGracePeriod", "30"),
        ("io.kubernetes.container.ports", r#"[{"name":"http","containerPort":8080,"protocol":"TCP"}]"#),
    ];
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    wanted.labels = labels.map(owned).into();
    wanted.annotations = annotations.map(owned).into();
    wanted
}

#[tokio::test]
async fn the_node_says_what_it_is() {
    let node = Node::start(Network::BuiltIn).await;
    let mut runtime = RuntimeServiceClient::new(node.client().channel());
    let version = runtime.version(newest::VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("knarr", "v1"));
    let config = runtime.runtime_config(newest::RuntimeConfigRequest {}).await.unwrap().into_inner();
    let driver = match node.cgroup_driver() {
        e2e::CgroupDriver::Cgroupfs => newest::CgroupDriver::Cgroupfs,
        e2e::CgroupDriver::Systemd => newest::CgroupDriver::Systemd,
    };
    assert_eq!(config.linux.unwrap().cgroup_driver(), driver);
    let status = runtime.status(newest::StatusRequest { verbose: true }).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    assert!(conditions.iter().all(|condition| condition.status), "{conditions:?}");
    let shown: serde_json::Value = serde_json::from_str(&status.info["config"]).unwrap();
    assert_eq!(shown["root"], node.path("root").display().to_string());
    assert_eq!(status.info["lastCNILoadStatus"], "\"OK\"");
    let handlers: serde_json::Value = serde_json::from_str(&status.info["runtimeHandlers"]).unwrap();
    assert_eq!((&handlers["knarr"]["usable"], &handlers[""]["usable"]), (&true.into(), &true.into()));
    let socket = std::fs::metadata(node.socket()).unwrap();
    let state = std::fs::metadata(node.path("state")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!((socket.permissions().mode() & 0o777, state.permissions().mode() & 0o777), (0o660, 0o700));
}

/// The names are those that crictl's users and their scripts know.
#[tokio::test]
async fn verbose_statuses_tell_what_operators_look_for() {
    let pod = e2e::Pod::new(Network::BuiltIn, |_| {}).await;
    let id = pod.waiting("main", |_| {}).await;
    let (status, info) = pod.container(&id).await;
    assert_eq!((&info["sandboxID"], &info["snapshotKey"]), (&pod.id.clone().into(), &id.clone().into()));
    let pid = u32::try_from(info["pid"].as_u64().unwrap()).unwrap();
    assert_eq!(pod.node.processes_of(&id), [pid]);
    assert_eq!(info["runtimeSpec"]["process"]["args"][0], "sh");
    assert_eq!(info["config"]["metadata"]["name"], status.metadata.unwrap().name);
    let writable = std::path::PathBuf::from(info["writableLayer"].as_str().unwrap());
    assert!(writable.is_dir() && writable.ends_with(&id), "{writable:?}");
    let of_process = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(of_process.contains(info["cgroup"].as_str().unwrap()), "{info}: {of_process}");

    let info = pod.info(&pod.id).await;
    let spec = &info["runtimeSpec"]["linux"];
    assert!(info["cgroup"].as_str().is_some_and(|cgroup| of_process.contains(cgroup)), "{info}");
    assert_eq!(
        (&spec["namespaces"][0]["type"], &spec["namespaces"][0]["path"]),
        (&"network".into(), &info["netns"])
    );
    let namespace =
        |path: &str| std::fs::metadata(path).map(|found| std::os::unix::fs::MetadataExt::ino(&found));
    let netns = namespace(info["netns"].as_str().unwrap()).unwrap();
    assert_eq!(netns, namespace(&format!("/proc/{pid}/ns/net")).unwrap());
    let ip = pod.client.pod(&pod.id).await.unwrap().network.unwrap().ip;
    let eth0 = &info["cniResult"]["Interfaces"]["eth0"];
    assert_eq!(eth0["IPConfigs"][0]["IP"], ip, "{info}");
    assert!(eth0["Mac"].is_string() && info["pid"].is_u64(), "{info}");
}

#[tokio::test]
async fn what_is_not_built_yet_says_so_by_name() {
    let node = Node::start(Network::None).await;
    let mut runtime = RuntimeServiceClient::new(node.client().channel());
    let error = runtime.checkpoint_pod(newest::CheckpointPodRequest::default()).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unimplemented, "CheckpointPod is not implemented"));
}
