//! Traces: what a collector is told of a pod's start and end. (With a real kubelet: `kube/tracing.rs`.)

use std::collections::BTreeSet;
use std::net::SocketAddr;

use e2e::collector::otel::{span::SpanKind, status::StatusCode};
use e2e::collector::{Collector, texts};
use e2e::cri;
use e2e::{Client, Network, Node, Setup};
use tokio::net::TcpSocket;
use tonic::Request;

/// kubelet's place in its trace.
const TRACE: [u8; 16] = *b"a trace of ours.";
const KUBELET: [u8; 8] = *b"kubelet.";

/// A request of a kubelet that records its trace, or doesn't.
fn traced<T>(message: T, flags: &str) -> Request<T> {
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let parent = format!("00-{}-{}-{flags}", hexadecimal(&TRACE), hexadecimal(&KUBELET));
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

async fn node(address: SocketAddr) -> Node {
    let section = format!("[tracing]\nendpoint = \"{address}\"\ninsecure = true");
    Setup::new(Network::BuiltIn).section(&section).start().await
}

/// A pod's life as kubelet would have it, every call within its trace.
async fn life(node: &Node, client: &Client) -> String {
    let (mut runtime, mut images) = (client.runtime.clone(), client.images.clone());
    let image = Some(cri::ImageSpec { image: node.registry.image("busybox:latest"), ..Default::default() });
    images.pull_image(traced(cri::PullImageRequest { image, ..Default::default() }, "01")).await.unwrap();
    let sandbox = node.pod();
    let request = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let pod = runtime.run_pod_sandbox(traced(request, "01")).await.unwrap().into_inner().pod_sandbox_id;
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(node.busybox("main", &["sleep", "1000"])),
        sandbox_config: Some(sandbox),
    };
    let container_id =
        runtime.create_container(traced(request, "01")).await.unwrap().into_inner().container_id;
    runtime.start_container(traced(cri::StartContainerRequest { container_id }, "01")).await.unwrap();
    let pod_sandbox_id = pod.clone();
    runtime.stop_pod_sandbox(traced(cri::StopPodSandboxRequest { pod_sandbox_id }, "01")).await.unwrap();
    pod
}

#[tokio::test]
async fn a_pods_life_is_in_kubelets_trace_with_each_stage_as_a_child() {
    let collector = Collector::default();
    let node = node(collector.serve("127.0.0.1:0").await).await;
    let client = node.client();
    let pod = life(&node, &client).await;
    let expected: [(&str, &[&str]); 5] = [
        ("ImageService/PullImage", &["pull_resolve", "pull_layers", "pull_record"]),
        (
            "RuntimeService/RunPodSandbox",
            &["record", "cgroup", "supervisor", "namespaces", "network", "cni_plugin"],
        ),
        ("RuntimeService/CreateContainer", &["rootfs", "volumes", "look", "spec", "record"]),
        ("RuntimeService/StartContainer", &["volumes", "prepare", "start"]),
        (
            "RuntimeService/StopPodSandbox",
            &["detach_network", "end_supervisor", "remove_cgroup", "detach_rest", "cni_plugin"],
        ),
    ];
    for (method, stages) in expected {
        let (call, below) = collector.tree(method, stages).await;
        assert_eq!((&call.trace_id[..], &call.parent_span_id[..]), (&TRACE[..], &KUBELET[..]), "{method}");
        assert_eq!((call.kind(), call.status.clone()), (SpanKind::Server, None), "{method}");
        for span in &below {
            assert_eq!((&span.trace_id[..], span.kind()), (&TRACE[..], SpanKind::Internal), "{span:?}");
            assert!(span.start_time_unix_nano >= call.start_time_unix_nano, "{span:?}");
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
            let of_pod = texts(&span.attributes).contains_key("k8s.pod.uid");
            assert_eq!(of_pod, !method.starts_with("Image"), "{method}: {span:?}");
        }
    }
    let (start, _) = collector.tree("RuntimeService/StartContainer", &[]).await;
    let said = texts(&start.attributes);
    assert_eq!((said["knarr.pod.id"].as_str(), said["k8s.container.name"].as_str()), (pod.as_str(), "main"));
    assert_eq!((said["rpc.method"].as_str(), said["rpc.grpc.status_code"].as_str()), ("StartContainer", "0"));
    // What goes on behind the answer is no part of what was waited for.
    let (_, below) = collector.tree("RuntimeService/StopPodSandbox", &["detach_rest"]).await;
    let one = |name: &str| below.iter().find(|span| span.name == name).unwrap();
    assert_eq!(one("detach_rest").parent_span_id, one("detach_network").parent_span_id, "{below:?}");
    assert!(
        one("detach_network").end_time_unix_nano <= one("end_supervisor").start_time_unix_nano,
        "{below:?}"
    );
    // No orphan: whatever has no parent here is a call of kubelet's.
    let told = collector.told();
    assert!(told.iter().all(|told| told.service == "knarr"));
    let ids: BTreeSet<&[u8]> = told.iter().map(|told| &told.span.span_id[..]).collect();
    let orphans = told.iter().map(|told| &told.span).filter(|span| !ids.contains(&span.parent_span_id[..]));
    let is_call =
        |span: &e2e::collector::otel::Span| span.parent_span_id == KUBELET && span.kind() == SpanKind::Server;
    assert!(orphans.into_iter().all(is_call), "{told:?}");
    assert_eq!(ids.len(), told.len(), "numbers are given once");
}

#[tokio::test]
async fn a_failed_stage_is_marked_in_a_failed_call_and_what_nobody_traces_is_not_there() {
    let collector = Collector::default();
    let address = collector.serve("127.0.0.1:0").await;
    let section = format!("[tracing]\nendpoint = \"{address}\"\ninsecure = true");
    let setup = Setup::new(Network::Plugins).section(&section);
    let setup = setup.plugin("fails", "#!/bin/sh\n[ $CNI_COMMAND = DEL ] || exit 3\n");
    let node = setup.conflist("fails", serde_json::json!([{ "type": "fails" }])).start().await;
    let client = node.client();
    let run = |flags| {
        let config = Some(node.pod());
        let request = cri::RunPodSandboxRequest { config, runtime_handler: String::new() };
        let mut runtime = client.runtime.clone();
        async move { runtime.run_pod_sandbox(traced(request, flags)).await.map(drop) }
    };
    run("00").await.expect_err("its network fails");
    client.run_pod(node.pod()).await.expect_err("its network fails");
    run("01").await.expect_err("its network fails");
    let stages = ["cni_plugin", "network", "detach_network"];
    let (call, below) = collector.tree("RuntimeService/RunPodSandbox", &stages).await;
    let status = call.status.clone().expect("a status");
    assert_eq!(status.code(), StatusCode::Error);
    assert!(status.message.contains("fails"), "{status:?}");
    let failed: BTreeSet<&str> =
        below.iter().filter(|span| span.status.is_some()).map(|span| span.name.as_str()).collect();
    assert_eq!(failed, ["cni_plugin", "network"].into());
    let calls = collector.told().iter().filter(|told| told.span.kind() == SpanKind::Server).count();
    assert_eq!(calls, 1, "the others are traced by nobody");
}

#[tokio::test]
async fn an_absent_collector_holds_nobody_up_and_one_that_comes_hears_the_rest() {
    // A port where nobody listens and that nobody else can have.
    let port = TcpSocket::new_v4().unwrap();
    port.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let node = node(port.local_addr().unwrap()).await;
    let client = node.client();
    life(&node, &client).await;
    let collector = Collector::default();
    collector.serve_at(port.listen(64).unwrap());
    collector.tree("RuntimeService/StopPodSandbox", &["detach_network"]).await;
}
