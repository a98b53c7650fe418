//! GetContainerEvents: what kubelet's evented PLEG lives on.

use std::collections::BTreeMap;

use ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};
use e2e::cri::runtime_service_client::RuntimeServiceClient;
use e2e::cri::{self, ContainerEventResponse, ContainerEventType, ContainerState};
use e2e::node::PATIENCE;
use e2e::{Client, Network, Node, patience};
use futures::future::join_all;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Barrier;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

/// Everything that can happen, in its order.
const LIFE: [ContainerEventType; 4] =
    [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent];

async fn listen(client: &Client) -> Streaming<ContainerEventResponse> {
    client.runtime.clone().get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner()
}

/// The next message, or how the stream broke.
async fn next(events: &mut Streaming<ContainerEventResponse>) -> Result<ContainerEventResponse, Status> {
    let event = tokio::time::timeout(patience(PATIENCE), events.next()).await;
    event.expect("an event in time").expect("the stream goes on")
}

#[tokio::test]
async fn events_tell_of_every_change_with_the_statuses_of_that_moment() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut events = listen(&client).await;
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["true"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    client.exited(&container).await;
    client.remove(&container).await.unwrap();
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();

    let (mut of_pod, mut of_container) = (Vec::new(), Vec::new());
    while of_pod.len() < LIFE.len() || of_container.len() < LIFE.len() {
        let event = next(&mut events).await.unwrap();
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
    assert_eq!((of_pod, of_container), (LIFE.to_vec(), LIFE.to_vec()));
}

#[tokio::test]
async fn a_container_that_goes_with_its_pod_is_told_of_before_it() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["true"]), &config).await.unwrap();
    let mut events = listen(&client).await;
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    let mut deleted = Vec::new();
    while deleted.len() < 2 {
        let event = next(&mut events).await.unwrap();
        if event.container_event_type() == ContainerDeletedEvent {
            assert!(event.containers_statuses.is_empty(), "{event:?}");
            deleted.push(event.container_id);
        }
    }
    assert_eq!(deleted, [container, pod]);
}

/// The state that a container's last event leaves it in.
fn state_after(event: ContainerEventType) -> Option<ContainerState> {
    match event {
        ContainerCreatedEvent => Some(ContainerState::ContainerCreated),
        ContainerStartedEvent => Some(ContainerState::ContainerRunning),
        ContainerStoppedEvent => Some(ContainerState::ContainerExited),
        ContainerDeletedEvent => None,
    }
}

/// Containers that live as long as `number` says: created, started, ended, removed.
async fn live(node: &Node, client: &Client, number: usize) -> (String, String) {
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let command: &[&str] = if number == 1 { &["sleep", "1000"] } else { &["true"] };
    let container = client.create(&pod, node.busybox("main", command), &config).await.unwrap();
    if number >= 1 {
        client.start(&container).await.unwrap();
    }
    if number >= 2 {
        client.exited(&container).await;
    }
    if number >= 3 {
        client.remove(&container).await.unwrap();
    }
    (pod, container)
}

#[tokio::test]
async fn side_by_side_every_container_has_its_events_in_order_and_the_last_is_what_lists_say() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut events = listen(&client).await;
    let lives: Vec<usize> = (0..LIFE.len()).cycle().take(16).collect();
    let made = join_all(lives.iter().map(|number| live(&node, &client, *number))).await;
    let mut told: BTreeMap<String, Vec<ContainerEventType>> = BTreeMap::new();
    let expected: usize = lives.iter().map(|number| number + 1).sum();
    let (mut count, mut last) = (0, 0);
    while count < expected {
        let event = next(&mut events).await.unwrap();
        assert!(event.created_at > last, "times go on: {event:?}");
        last = event.created_at;
        let kind = event.container_event_type();
        let pod = event.pod_sandbox_status.as_ref().expect("a pod");
        if event.container_id == pod.id {
            continue;
        }
        count += 1;
        let status = event.containers_statuses.iter().find(|status| status.id == event.container_id);
        match (state_after(kind), status) {
            (None, status) => assert!(status.is_none(), "{event:?}"),
            // A command may have ended by the time that its start is told.
            (Some(state), Some(status)) if kind != ContainerStartedEvent => {
                assert_eq!(status.state(), state, "{event:?}");
            }
            (Some(_), status) => assert!(status.is_some(), "{event:?}"),
        }
        told.entry(event.container_id).or_default().push(kind);
    }
    let listed = client.containers().await.unwrap();
    for ((_, container), number) in made.iter().zip(&lives) {
        let told = &told[container];
        assert_eq!(told[..], LIFE[..=*number]);
        let listed = listed.iter().find(|listed| listed.id == *container).map(cri::Container::state);
        assert_eq!(listed, told.last().and_then(|last| state_after(*last)));
    }
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("a process to be killed");
}

/// A pod's supervisor.
fn supervisor(node: &Node, pod: &str) -> u32 {
    let processes = node.traces().processes();
    let is_it = |command: &str| command.contains("knarr-supervisor") && command.contains(pod);
    let found = processes.iter().find(|(_, command)| is_it(command));
    found.expect("a supervisor").0.cast_unsigned()
}

#[tokio::test]
async fn who_listens_to_a_new_daemon_hears_what_ended_while_there_was_none() {
    let mut node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let ended = live(&node, &client, 1).await;
    let lost = live(&node, &client, 1).await;
    let stays = live(&node, &client, 1).await;
    drop(client);
    node.kill_daemon();
    kill(node.processes_of(&ended.1)[0]);
    kill(supervisor(&node, &lost.0));
    node.start_daemon();
    let client = node.client();
    let mut events = listen(&client).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        let event = next(&mut events).await.unwrap();
        assert_eq!(event.container_event_type(), ContainerStoppedEvent, "{event:?}");
        let status = event.containers_statuses.iter().find(|status| status.id == event.container_id);
        assert!(status.is_none_or(|status| status.state() == ContainerState::ContainerExited), "{event:?}");
        told.push(event.container_id);
    }
    let at = |id: &str| told.iter().position(|told| told == id).expect("told of");
    assert!(at(&lost.1) < at(&lost.0), "a container before its pod: {told:?}");
    assert!(told.contains(&ended.1) && !told.contains(&stays.1), "{told:?}");
    // Who comes second hears only what happens from then on.
    let mut second = listen(&client).await;
    client.stop(&stays.1, 0).await.unwrap();
    assert_eq!(next(&mut second).await.unwrap().container_id, stays.1);
}

#[tokio::test]
async fn a_pod_that_loses_its_supervisor_is_told_of_once_and_after_its_containers() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut events = listen(&client).await;
    let (pod, container) = live(&node, &client, 1).await;
    for kind in [ContainerCreatedEvent, ContainerStartedEvent].repeat(2) {
        assert_eq!(next(&mut events).await.unwrap().container_event_type(), kind);
    }
    kill(supervisor(&node, &pod));
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = next(&mut events).await.unwrap();
        let state = event.containers_statuses.first().map(cri::ContainerStatus::state);
        assert_eq!(state, Some(ContainerState::ContainerExited), "nothing runs in it any more: {event:?}");
        told.push((event.container_event_type(), event.container_id));
    }
    // kubelet stops what is not ready, more than once, and collects it later.
    client.stop_pod(&pod).await.unwrap();
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    while told.len() < 4 {
        let event = next(&mut events).await.unwrap();
        told.push((event.container_event_type(), event.container_id));
    }
    let ends = [ContainerStoppedEvent, ContainerDeletedEvent];
    let expected = ends.map(|kind| [(kind, container.clone()), (kind, pod.clone())]).concat();
    assert_eq!(told, expected);
}

/// kubelet drops an event that is older than the status that it has: the end of a container would be lost.
#[tokio::test]
async fn no_status_looks_newer_than_what_it_misses() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut events = listen(&client).await;
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    // What makes a status take its time, so that ends fall into it.
    let rest = (0..60).map(|number| node.busybox(&format!("rest-{number}"), &["true"]));
    for container in rest.collect::<Vec<_>>() {
        client.create(&pod, container, &config).await.unwrap();
    }
    for attempt in 0..20 {
        let mut container = node.busybox("main", &["sleep", "1000"]);
        container.metadata.as_mut().unwrap().attempt = attempt;
        let container = client.create(&pod, container, &config).await.unwrap();
        client.start(&container).await.unwrap();
        let looking = Barrier::new(LOOKERS + 1);
        let looks =
            join_all((0..LOOKERS).map(|_| last_look_before_the_end(&client, (&pod, &container), &looking)));
        let end = async {
            looking.wait().await;
            kill(node.processes_of(&container)[0]);
        };
        let (looks, ()) = tokio::join!(looks, end);
        let stopped = loop {
            let event = next(&mut events).await.unwrap();
            if event.container_id == container && event.container_event_type() == ContainerStoppedEvent {
                break event.created_at;
            }
        };
        assert!(looks.iter().all(|look| *look <= stopped), "{stopped} is older than one of {looks:?}");
    }
}

/// How many look at a pod's status at a time.
const LOOKERS: usize = 4;

/// Looks at a pod's status until a container in it has ended, and gives the time of the last one that had it running. Whoever has had
/// a first one comes to the barrier.
async fn last_look_before_the_end(client: &Client, (pod, container): (&str, &str), looking: &Barrier) -> i64 {
    let mut last = None;
    loop {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
        let answer = client.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner();
        let status = answer.containers_statuses.iter().find(|status| status.id == container).unwrap();
        if status.state() == ContainerState::ContainerExited {
            break last.expect("a look before the end");
        }
        if last.replace(answer.timestamp).is_none() {
            looking.wait().await;
        }
    }
}

/// kubelet that lists with EventedPLEG takes the first container of a name for the one that counts, and would make it again if that was an old one.
#[tokio::test]
async fn a_pods_status_has_its_newest_container_first() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    for attempt in 0..6 {
        let mut container = node.busybox("main", &["true"]);
        container.metadata.as_mut().unwrap().attempt = attempt;
        client.create(&pod, container, &config).await.unwrap();
    }
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod, verbose: false };
    let answer = client.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner();
    let attempts = answer.containers_statuses.iter().map(|status| status.metadata.as_ref().unwrap().attempt);
    assert_eq!(attempts.collect::<Vec<_>>(), [5, 4, 3, 2, 1, 0]);
}

/// A client that takes as little unread as HTTP/2 begins with; that of the other tests takes megabytes.
fn of_little_room(node: &Node) -> RuntimeServiceClient<Channel> {
    let path = node.socket();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let endpoint = Endpoint::from_static("http://knarr.invalid");
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    RuntimeServiceClient::new(endpoint.connect_with_connector_lazy(connector))
}

#[tokio::test]
async fn who_does_not_read_is_told_so_and_holds_nobody_up() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let mut slow =
        of_little_room(&node).get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    // Four events a pod: more than the backlog and all buffers on the way take.
    for _ in 0..50 {
        let lives = (0..8).map(|_| async {
            let pod = client.run_pod(node.pod()).await.unwrap();
            client.remove_pod(&pod).await.unwrap();
        });
        join_all(lives).await;
    }
    let broken = loop {
        if let Err(status) = next(&mut slow).await {
            break status;
        }
    };
    assert_eq!(broken.code(), Code::DataLoss, "{broken}");
}
