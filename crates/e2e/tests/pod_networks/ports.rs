//! The one host port that no pod may have: where the node serves exec, attach and port-forward.

use std::ops::RangeInclusive;

use e2e::pod::{Pod, context};
use e2e::{Network, Setup};
use proto::runtime::v1 as cri;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Code;

use crate::on_own_host;

/// Where the node has commands served.
async fn streams_port(pod: &Pod, container: &str) -> i32 {
    let request = cri::ExecRequest {
        container_id: container.to_owned(),
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..Default::default()
    };
    let url = pod.runtime.clone().exec(request).await.unwrap().into_inner().url;
    let authority = url.split('/').nth(2).unwrap();
    authority.rsplit_once(':').unwrap().1.parse().unwrap()
}

fn mappings(protocol: cri::Protocol, ports: RangeInclusive<i32>, host_ip: &str) -> Vec<cri::PortMapping> {
    let mapping = |host_port| cri::PortMapping {
        protocol: protocol.into(),
        container_port: 80,
        host_port,
        host_ip: host_ip.to_owned(),
    };
    ports.map(mapping).collect()
}

#[tokio::test]
async fn a_pod_is_not_handed_the_connections_to_others_terminals() {
    let (_host, setup) = on_own_host(Setup::new(Network::BuiltIn));
    let pod = Pod::on(setup.start().await, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let port = streams_port(&pod, &container).await;
    for host_ip in ["", "0.0.0.0", "127.0.0.1"] {
        let taking = mappings(cri::Protocol::Tcp, port..=port, host_ip);
        let refused = pod.another(|sandbox| sandbox.port_mappings = taking).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{host_ip}: {refused}");
        assert!(refused.message().contains("port_mappings[0].host_port"), "{host_ip}: {refused}");
    }
    for mapping in [
        mappings(cri::Protocol::Udp, port..=port, ""),
        mappings(cri::Protocol::Tcp, port..=port, "127.0.0.9"),
    ] {
        pod.another(|sandbox| sandbox.port_mappings = mapping).await.unwrap();
    }
    // For a pod on the host's network nothing is mapped, though kubelet says its ports all the same.
    let said = mappings(cri::Protocol::Tcp, port..=port, "");
    let on_host = pod.another(|sandbox| {
        sandbox.port_mappings = said;
        let options = context(sandbox).namespace_options.get_or_insert_default();
        options.network = cri::NamespaceMode::Node.into();
    });
    on_host.await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_comes_back_listens_where_no_pod_has_a_host_port() {
    let (host, setup) = on_own_host(Setup::new(Network::BuiltIn));
    let mut pod = Pod::on(setup.start().await, |sandbox| {
        sandbox.port_mappings = mappings(cri::Protocol::Tcp, 40_000..=40_006, "");
    })
    .await;
    let container = pod.waiting("main", |_| {}).await;
    // To choose from, the kernel has these and one more.
    host.sh("echo 40000 40007 > /proc/sys/net/ipv4/ip_local_port_range");
    pod.node.stop_daemon();
    pod.node.start_daemon();
    pod.runtime = RuntimeServiceClient::new(pod.node.client().channel());
    assert_eq!(streams_port(&pod, &container).await, 40_007);
}
