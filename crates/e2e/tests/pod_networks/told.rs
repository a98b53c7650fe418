//! What plugins are told of a pod, and what they find about themselves.

use e2e::pod::Pod;
use e2e::{Network, Setup};
use proto::runtime::v1 as cri;
use serde_json::{Value, json};
use tonic::Code;

use crate::{native, on_own_host};

/// Writes down what it is told and how it is run, by the verb, beside the directory of plugins.
const RECORDER: &str = r#"#!/bin/sh -e
told=${0%/*}/../told
mkdir -p "$told"
cat > "$told/$CNI_COMMAND.json"
env > "$told/$CNI_COMMAND.env"
{ echo descriptors $(ls /proc/self/fd); grep -E '^Sig(Blk|Ign)' /proc/self/status; echo umask $(umask); echo cwd $(pwd); } \
    > "$told/$CNI_COMMAND.self"
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.77.0.2/24"}]}'
"#;

/// All that a plugin can declare.
fn everything() -> Value {
    let names = [
        "portMappings",
        "bandwidth",
        "dns",
        "ipRanges",
        "ips",
        "mac",
        "infinibandGUID",
        "cgroupPath",
        "io.kubernetes.cri.pod-annotations",
    ];
    names.into_iter().map(|name| (name.to_owned(), json!(true))).collect::<serde_json::Map<_, _>>().into()
}

fn told(pod: &Pod, file: &str) -> String {
    let path = pod.node.path("told").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn annotations(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn port(protocol: cri::Protocol, host_ip: &str, host_port: i32) -> cri::PortMapping {
    cri::PortMapping { protocol: protocol.into(), container_port: 80, host_port, host_ip: host_ip.to_owned() }
}

fn asked_for(sandbox: &mut cri::PodSandboxConfig) {
    sandbox.port_mappings = vec![
        port(cri::Protocol::Tcp, "127.0.0.1", 8080),
        port(cri::Protocol::Udp, "", 53),
        port(cri::Protocol::Sctp, "fd00::1", 9),
        port(cri::Protocol::Tcp, "", 0),
    ];
    sandbox.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.0.0.10".into()],
        searches: vec!["svc.local".into()],
        options: vec!["ndots:5".into()],
    });
    sandbox.annotations = annotations(&[
        ("kubernetes.io/ingress-bandwidth", "1M"),
        ("kubernetes.io/egress-bandwidth", "2M"),
        ("e2e/ips", "10.77.0.9/24, fd00::9"),
        ("e2e/mac", "02:00:00:00:00:09"),
        ("e2e/guid", "02:00:00:00:00:00:00:09"),
    ]);
}

fn recorded(conflist: Value) -> Setup {
    Setup::new(Network::Plugins).plugin("recorder", RECORDER).conflist("recorded", json!([conflist]))
}

#[tokio::test]
async fn plugins_are_told_what_they_declare_and_nothing_else() {
    let keys = r#"annotations = { ips = "e2e/ips", mac = "e2e/mac", infiniband_guid = "e2e/guid" }"#;
    let conflist = json!({ "type": "recorder", "capabilities": everything(), "kept": [1] });
    let (_host, setup) = on_own_host(recorded(conflist).key(keys));
    let pod = Pod::on(setup.start().await, asked_for).await;
    let config: Value = serde_json::from_str(&told(&pod, "ADD.json")).unwrap();
    let runtime = &config["runtimeConfig"];
    let ports = json!([
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1" },
        { "hostPort": 53, "containerPort": 80, "protocol": "udp" },
        { "hostPort": 9, "containerPort": 80, "protocol": "sctp", "hostIP": "fd00::1" },
    ]);
    assert_eq!(runtime["portMappings"], ports);
    let burst = u32::MAX;
    let limits = json!({ "ingressRate": 1_000_000, "ingressBurst": burst, "egressRate": 2_000_000, "egressBurst": burst });
    assert_eq!(runtime["bandwidth"], limits);
    let dns = json!({ "servers": ["10.0.0.10"], "searches": ["svc.local"], "options": ["ndots:5"] });
    assert_eq!(runtime["dns"], dns);
    assert_eq!(runtime["ips"], json!(["10.77.0.9/24", "fd00::9"]));
    assert_eq!(runtime["mac"], "02:00:00:00:00:09");
    assert_eq!(runtime["infinibandGUID"], "02:00:00:00:00:00:00:09");
    let cgroup = format!("{}/{}", pod.node.cgroup_parent(), pod.id);
    let path = runtime["cgroupPath"].as_str().unwrap();
    assert!(path == cgroup || path.ends_with(&format!("/knarr-{}.scope", pod.id)), "{path}");
    assert_eq!(runtime["io.kubernetes.cri.pod-annotations"]["e2e/mac"], "02:00:00:00:00:09");
    assert_eq!(runtime.get("ipRanges"), None, "nothing is said of them");
    assert_eq!((&config["kept"], &config["name"]), (&json!([1]), &json!("recorded")));

    let env = told(&pod, "ADD.env");
    let metadata = pod.sandbox.metadata.clone().unwrap();
    let args = format!(
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        metadata.namespace, metadata.name, pod.id, metadata.uid
    );
    for line in [args, format!("CNI_CONTAINERID={}", pod.id), "CNI_IFNAME=eth0".into()] {
        assert!(env.lines().any(|found| found == line), "no {line} in {env}");
    }
    pod.client.stop_pod(&pod.id).await.unwrap();
    let config: Value = serde_json::from_str(&told(&pod, "DEL.json")).unwrap();
    assert_eq!(config["runtimeConfig"]["portMappings"], ports, "a DEL is told the same");
    assert_eq!(config["prevResult"]["ips"][0]["address"], "10.77.0.2/24");
}

/// An operator who has named no annotation for it gives nobody an address by one.
#[tokio::test]
async fn annotations_ask_for_addresses_only_where_the_operator_says_so() {
    let conflist = json!({ "type": "recorder", "capabilities": everything() });
    let (_host, setup) = on_own_host(recorded(conflist));
    let pod = Pod::on(setup.start().await, asked_for).await;
    let config: Value = serde_json::from_str(&told(&pod, "ADD.json")).unwrap();
    for capability in ["ips", "mac", "infinibandGUID", "ipRanges"] {
        assert_eq!(config["runtimeConfig"].get(capability), None, "{capability}");
    }
}

#[tokio::test]
async fn annotations_that_ask_for_no_address_are_refused() {
    let conflist = json!({ "type": "recorder", "capabilities": everything() });
    let (_host, setup) = on_own_host(recorded(conflist).key(r#"annotations = { mac = "e2e/mac" }"#));
    let pod = Pod::on(setup.start().await, |_| {}).await;
    let refused = pod
        .another(|sandbox| sandbox.annotations = annotations(&[("e2e/mac", "02:00")]))
        .await
        .expect_err("no hardware address");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().starts_with("annotations[\"e2e/mac\"]: "), "{refused}");
    assert_eq!(pod.client.pods().await.unwrap().len(), 1);
}

#[tokio::test]
async fn plugins_inherit_nothing_of_whoever_started_the_daemon() {
    let conflist = json!({ "type": "recorder" });
    let prelude = "trap '' HUP INT QUIT USR1 PIPE; umask 077; exec 7</dev/zero; cd /tmp; export SECRET=1";
    let (_host, setup) = on_own_host(recorded(conflist).launched_after(prelude));
    let pod = Pod::on(setup.start().await, |_| {}).await;
    let own = told(&pod, "ADD.self");
    let signals = |name: &str| {
        let mask = own.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        // 32 and 33 are the C library's, and nobody can change them.
        u64::from_str_radix(mask.trim(), 16).unwrap() & !(0b11 << 31)
    };
    assert_eq!((signals("SigBlk:"), signals("SigIgn:")), (0, 0), "{own}");
    let others: Vec<&str> = own.lines().filter(|line| !line.starts_with("Sig")).collect();
    // The fourth descriptor is what `ls` looks through.
    assert_eq!(others, ["descriptors 0 1 2 3", "umask 0022", "cwd /"]);
    let env = told(&pod, "ADD.env");
    let others: Vec<&str> = env
        .lines()
        .filter_map(|line| line.split('=').next())
        // By KNARR_STATE the next daemon finds what this one left running; PWD is the shell's own.
        .filter(|name| !name.starts_with("CNI_") && !["KNARR_STATE", "PATH", "PWD"].contains(name))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

async fn told_by_kubelet(
    pod_cidr: &str,
    runtime: &cri::runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>,
) -> Result<(), tonic::Status> {
    let network_config = Some(cri::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
    let request =
        cri::UpdateRuntimeConfigRequest { runtime_config: Some(cri::RuntimeConfig { network_config }) };
    runtime.clone().update_runtime_config(request).await.map(drop)
}

/// The condition NetworkReady: whether, and why not.
async fn network_ready(
    runtime: &cri::runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>,
) -> (bool, String) {
    let status =
        runtime.clone().status(cri::StatusRequest::default()).await.unwrap().into_inner().status.unwrap();
    let condition =
        status.conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap();
    (condition.status, condition.message)
}

/// A node whose addresses come from what the cluster gives it: one file of configuration for all nodes.
#[tokio::test]
async fn the_nodes_pod_cidr_is_handed_to_plugins_that_take_ranges() {
    let conflist = json!({ "type": "recorder", "capabilities": { "ipRanges": true } });
    let (_host, setup) = on_own_host(recorded(conflist).key("pod_cidr = true"));
    let mut node = setup.start().await;
    let runtime = cri::runtime_service_client::RuntimeServiceClient::new(node.client().channel());
    let (ready, why) = network_ready(&runtime).await;
    assert!(!ready && why.contains("pod CIDR"), "{why}");
    let refused = node.client().run_pod(node.pod()).await.expect_err("no pod CIDR yet");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let refused = told_by_kubelet("10.77.0.0", &runtime).await.expect_err("no CIDR");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    told_by_kubelet("10.77.0.0/24,fd00:77::/64", &runtime).await.unwrap();
    assert_eq!(network_ready(&runtime).await, (true, String::new()));
    // kubelet says it once in its life.
    node.kill_daemon();
    node.start_daemon();
    let pod = Pod::on(node, |_| {}).await;
    let config: Value = serde_json::from_str(&told(&pod, "ADD.json")).unwrap();
    let ranges = json!([[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd00:77::/64" }]]);
    assert_eq!(config["runtimeConfig"]["ipRanges"], ranges);
}

async fn pods_have_addresses_of_the_nodes_pod_cidr(plugins: Setup) {
    let bridge = json!({
        "type": "bridge", "bridge": "cidr0", "isGateway": true, "capabilities": { "ipRanges": true },
        "ipam": { "type": "host-local" },
    });
    let setup = plugins.conflist("pods", json!([bridge])).key("pod_cidr = true");
    let (_host, setup) = on_own_host(setup);
    let node = setup.start().await;
    let runtime = cri::runtime_service_client::RuntimeServiceClient::new(node.client().channel());
    told_by_kubelet("10.78.0.0/24,fd00:78::/64", &runtime).await.unwrap();
    let pod = Pod::on(node, |_| {}).await;
    let network = pod.client.pod(&pod.id).await.unwrap().network.unwrap();
    assert!(network.ip.starts_with("10.78.0."), "{network:?}");
    assert!(network.additional_ips[0].ip.starts_with("fd00:78::"), "{network:?}");
}

#[tokio::test]
async fn pods_have_addresses_of_the_nodes_pod_cidr_by_plugins() {
    pods_have_addresses_of_the_nodes_pod_cidr(Setup::new(Network::Plugins)).await;
}

#[tokio::test]
async fn pods_have_addresses_of_the_nodes_pod_cidr_natively() {
    pods_have_addresses_of_the_nodes_pod_cidr(native()).await;
}
