//! Which networks a pod joins, what CRI tells of them, and how it leaves them whatever is configured by then.

use e2e::pod::Pod;
use e2e::{Network, Node, Setup};
use proto::runtime::v1 as cri;
use serde_json::{Value, json};
use tonic::Code;

use crate::{native, on_own_host};

/// A bridge of this name with addresses of both families.
fn bridge(name: &str, third: u8) -> Value {
    json!([{
        "type": "bridge", "bridge": name, "isGateway": true,
        "ipam": { "type": "host-local",
                  "ranges": [[{ "subnet": format!("10.79.{third}.0/24") }], [{ "subnet": format!("fd00:79:{third}::/64") }]] },
    }])
}

fn setup(plugins: Setup) -> Setup {
    plugins.conflist("first", bridge("one0", 1)).conflist("second", bridge("two0", 2))
}

async fn addresses(pod: &Pod) -> Vec<String> {
    let network = pod.client.pod(&pod.id).await.unwrap().network.unwrap();
    std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect()
}

/// Changes a line of the daemon's configuration, with the daemon away.
fn reconfigure(node: &mut Node, from: &str, to: &str) {
    node.stop_daemon();
    let path = node.path("knarr.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "no {from} in {text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
    node.start_daemon();
}

/// The addresses that are taken, of all networks.
fn leases(node: &Node) -> usize {
    let directories = std::fs::read_dir(node.path("ipam")).into_iter().flatten().flatten();
    let files = directories.flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten());
    files.filter(|file| file.file_name().to_string_lossy().parse::<std::net::IpAddr>().is_ok()).count()
}

async fn statuses(plugins: Setup) {
    let (_host, setup) = on_own_host(setup(plugins).key("networks = 2").key("ip_preference = \"ipv6\""));
    let mut pod = Pod::on(setup.start().await, |_| {}).await;
    assert_eq!(addresses(&pod).await, ["fd00:79:1::2", "10.79.1.2"]);
    let networks = pod.info(&pod.id).await["networks"].clone();
    let shown: Vec<Value> = networks
        .as_array()
        .unwrap()
        .iter()
        .map(|one| json!([one["interface"], one["network"], one["ips"]]))
        .collect();
    let expected = json!([
        ["eth0", "first", ["10.79.1.2", "fd00:79:1::2"]],
        ["eth1", "second", ["10.79.2.2", "fd00:79:2::2"]],
    ]);
    assert_eq!(json!(shown), expected);
    let mac = networks[1]["mac"].as_str().unwrap().to_owned();
    assert_eq!(pod.prints("cat /sys/class/net/eth1/address", |_| {}).await, mac);
    pod.restart();
    assert_eq!(addresses(&pod).await, ["fd00:79:1::2", "10.79.1.2"]);
    assert_eq!(pod.info(&pod.id).await["networks"], networks);
    pod.client.stop_pod(&pod.id).await.unwrap();
    assert_eq!(pod.info(&pod.id).await["networks"], json!([]));
}

#[tokio::test]
async fn the_status_tells_the_first_networks_addresses_and_the_verbose_one_all() {
    statuses(Setup::new(Network::Plugins)).await;
}

#[tokio::test]
async fn the_status_of_a_native_network_tells_the_same() {
    statuses(native()).await;
}

async fn leaving(plugins: Setup) {
    let setup = setup(plugins).key("networks = 2").handler("own", &[("third", bridge("three0", 3))]);
    let (_host, setup) = on_own_host(setup);
    let mut pod = Pod::on(setup.start().await, |_| {}).await;
    let own = pod.another_by("own").await.unwrap();
    assert_eq!(pod.info(&own).await["networks"][0]["network"], "third");
    assert_eq!(leases(&pod.node), 6);
    let handler = format!("[handlers.own]\ncni_conf_dir = \"{}\"", pod.node.path("cni-own").display());
    let directory = pod.node.path("cni");
    std::fs::remove_dir_all(pod.node.path("cni-own")).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    reconfigure(&mut pod.node, &handler, "");
    reconfigure(&mut pod.node, "networks = 2", "networks = 1");
    pod.client = pod.node.client();
    assert_eq!(leases(&pod.node), 6);
    for id in [&own, &pod.id] {
        pod.client.stop_pod(id).await.unwrap();
        pod.client.remove_pod(id).await.unwrap();
    }
    // In-process the address comes back behind the answer, when the interface has gone.
    e2e::until(e2e::node::PATIENCE, "the addresses", || async {
        let left = leases(&pod.node);
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn pods_leave_every_network_whatever_is_configured_by_then() {
    leaving(Setup::new(Network::Plugins)).await;
}

#[tokio::test]
async fn pods_leave_every_native_network_whatever_is_configured_by_then() {
    leaving(native()).await;
}

#[tokio::test]
async fn a_handler_whose_directory_is_not_ready_has_no_pods_and_the_node_is_ready() {
    let mut broken = bridge("three0", 3);
    broken.as_array_mut().unwrap().push(json!({ "type": "absent" }));
    let setup = setup(Setup::new(Network::Plugins)).handler("own", &[("third", broken)]);
    let (_host, setup) = on_own_host(setup);
    let pod = Pod::on(setup.start().await, |_| {}).await;
    let request = cri::StatusRequest { verbose: true };
    let status = pod.runtime.clone().status(request).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    assert!(conditions.iter().all(|condition| condition.status), "{conditions:?}");
    let info: Value = serde_json::from_str(&status.info["network"]).unwrap();
    assert_eq!((&info["ready"], &info["name"]), (&json!(true), &json!("first")));
    let why = info["handlers"]["own"]["reason"].as_str().unwrap();
    assert!(why.contains("third") && why.contains("absent"), "{why}");
    let refused = pod.another_by("own").await.expect_err("a plugin is missing");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("absent"), "{refused}");
    std::fs::remove_file(pod.node.path("cni-own/10-third.conflist")).unwrap();
    e2e::until(e2e::node::PATIENCE, "a refusal for want of a configuration", || async {
        let refused = pod.another_by("own").await.expect_err("not ready");
        let is_so = refused.code() == Code::Unavailable && refused.message().contains("cni-own");
        if is_so { Ok(()) } else { Err(refused.to_string()) }
    })
    .await;
    let mut plugins = bridge("three0", 3);
    plugins[0]["ipam"]["dataDir"] = json!(pod.node.path("ipam"));
    let conflist = json!({ "cniVersion": "1.0.0", "name": "third", "plugins": plugins });
    std::fs::write(pod.node.path("cni-own/10-third.conflist"), conflist.to_string()).unwrap();
    let id = e2e::until(e2e::node::PATIENCE, "a pod of the handler", || async {
        pod.another_by("own").await.map_err(|refused| refused.to_string())
    })
    .await;
    assert_eq!(pod.info(&id).await["networks"][0]["network"], "third");
}
