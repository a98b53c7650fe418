//! Lists with filters, their streams, events, prefixes of ids, and the methods that are not built yet.

use std::collections::BTreeSet;

use e2e::cri::{self, ContainerEventType};
use e2e::{Client, Network, Node};
use proto::runtime::v1 as newest;
use proto::runtime::v1::image_service_client::ImageServiceClient;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tokio_stream::StreamExt;
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

#[tokio::test]
async fn events_tell_of_every_change_with_the_statuses_of_that_moment() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut events =
        client.runtime.clone().get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["true"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    client.exited(&container).await;
    client.remove(&container).await.unwrap();
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();

    use ContainerEventType::{
        ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
    };
    let life = [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent];
    let (mut of_pod, mut of_container) = (Vec::new(), Vec::new());
    while of_pod.len() < life.len() || of_container.len() < life.len() {
        let event = tokio::time::timeout(e2e::patience(e2e::node::PATIENCE), events.next())
            .await
            .expect("an event in time");
        let event = event.expect("the stream goes on").unwrap();
        let kind = event.container_event_type();
        if event.container_id == pod {
            of_pod.push(kind);
        } else {
            assert_eq!(event.container_id, container);
            assert_eq!(event.pod_sandbox_status.unwrap().id, pod);
            let listed = event.containers_statuses.iter().find(|status| status.id == container);
            assert_eq!(listed.is_some(), kind != ContainerDeletedEvent, "{kind:?}");
            of_container.push(kind);
        }
    }
    assert_eq!((of_pod, of_container), (life.to_vec(), life.to_vec()));
}

#[tokio::test]
async fn a_container_that_goes_with_its_pod_is_told_of_before_it() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["true"]), &config).await.unwrap();
    let mut events =
        client.runtime.clone().get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    let mut deleted = Vec::new();
    while deleted.len() < 2 {
        let event = tokio::time::timeout(e2e::patience(e2e::node::PATIENCE), events.next())
            .await
            .expect("an event in time");
        let event = event.expect("the stream goes on").unwrap();
        if event.container_event_type() == ContainerEventType::ContainerDeletedEvent {
            assert!(event.containers_statuses.is_empty(), "{event:?}");
            deleted.push(event.container_id);
        }
    }
    assert_eq!(deleted, [container, pod]);
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
    let socket = std::fs::metadata(node.socket()).unwrap();
    let state = std::fs::metadata(node.path("state")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!((socket.permissions().mode() & 0o777, state.permissions().mode() & 0o777), (0o660, 0o700));
}

#[tokio::test]
async fn what_is_not_built_yet_says_so_by_name() {
    let node = Node::start(Network::None).await;
    let mut runtime = RuntimeServiceClient::new(node.client().channel());
    let error = runtime.checkpoint_pod(newest::CheckpointPodRequest::default()).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unimplemented, "CheckpointPod is not implemented"));
}
