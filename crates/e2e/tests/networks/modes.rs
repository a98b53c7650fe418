//! How a pod can be connected: to a bridge, to the host's network, to nothing, and its containers among each other.

use std::sync::Arc;

use e2e::{Netns, Network, Setup, config, cri};
use serde_json::json;

use crate::rig::{Site, asking, execute};
use crate::traffic::{at, reach_tcp, serve_tcp};

by_every_kind_of_plugins!(on_a_bridge, on_no_network, shared_by_the_containers_of_a_pod);

async fn on_a_bridge(network: Network) {
    let (host, outside) = (Arc::new(Netns::new()), Netns::new());
    host.connect("up0", &outside, "eth0");
    host.sh("ip addr add 198.51.100.1/24 dev up0");
    outside.sh("ip addr add 198.51.100.2/24 dev eth0");
    let site = Site::on(host, Setup::new(network)).await;
    let (one, other) = (site.member().await, site.member().await);
    assert!(one.v4().to_string().starts_with(&format!("{}.", site.node.subnet())), "{:?}", one.addresses);
    assert_ne!(one.v4(), other.v4());
    one.reaches(&other, other.v4()).await;
    other.reaches(&one, one.v4()).await;
    let routes = one.sh("ip route").await;
    assert!(routes.contains("default via"), "{routes}");
    let loopback = one.sh("ip addr show lo").await;
    assert!(loopback.contains("LOOPBACK,UP") && loopback.contains("127.0.0.1/8"), "{loopback}");

    let _servers = [serve_tcp(&one.inside, 8080), serve_tcp(&outside, 8080)];
    let gateway = format!("{}.1", site.node.subnet());
    let seen = reach_tcp(&site.host, at(&one.v4().to_string(), 8080)).await;
    assert_eq!(seen.to_string(), gateway, "the host reaches a pod as the gateway");
    let seen = reach_tcp(&one.inside, at("198.51.100.2", 8080)).await;
    assert_eq!(seen.to_string(), "198.51.100.1", "outside a pod is its host");
}

#[tokio::test]
async fn on_the_built_in_bridge() {
    needs_own_node!();
    on_a_bridge(Network::BuiltIn).await;
}

#[tokio::test]
async fn on_the_network_of_the_host() {
    needs_own_node!();
    let site = Site::new(Setup::new(Network::None)).await;
    let pod = site.member().await;
    assert_eq!(pod.addresses, [] as [std::net::IpAddr; 0]);
    assert_eq!(pod.inside.inode(), site.host.inode());
    assert_eq!(pod.sh("readlink /proc/self/ns/net").await, format!("net:[{}]", site.host.inode()));
    let mut links: Vec<_> = pod.sh("ls /sys/class/net").await.lines().map(str::to_owned).collect();
    let mut of_host = site.host.links("");
    links.sort();
    of_host.sort();
    assert_eq!(links, of_host, "the file system of devices is the host's too");
    pod.reaches(&pod, "127.0.0.1".parse().expect("an address")).await;
    let _server = serve_tcp(&site.host, 8080);
    reach_tcp(&pod.inside, at("127.0.0.1", 8080)).await;
}

#[tokio::test]
async fn names_are_resolved_as_the_request_says() {
    needs_own_node!();
    let site = Site::new(Setup::new(Network::BuiltIn)).await;
    let dns = cri::DnsConfig {
        servers: vec!["10.0.0.10".into()],
        searches: vec!["e2e.svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
    };
    let pod = site.member_of("", |config| config.dns_config = Some(dns)).await.expect("a pod");
    let text = pod.sh("cat /etc/resolv.conf").await;
    for line in ["nameserver 10.0.0.10", "search e2e.svc.cluster.local", "options ndots:5"] {
        assert!(text.lines().any(|found| found == line), "no \"{line}\" in {text}");
    }
}

async fn on_no_network(plugins: Network) {
    let setup = Setup::new(plugins).conflist("none", json!([{ "type": "loopback" }]));
    let site = Site::new(setup).await;
    let pod = site.member().await;
    assert_eq!(pod.addresses, [] as [std::net::IpAddr; 0]);
    assert_ne!(pod.inside.inode(), site.host.inode());
    let up: Vec<String> = pod.inside.links("up");
    assert_eq!(up, ["lo"], "all that is up");
    assert_eq!(pod.sh("ip route").await, "");
    pod.reaches(&pod, "127.0.0.1".parse().expect("an address")).await;
    pod.reaches(&pod, "::1".parse().expect("an address")).await;
}

async fn shared_by_the_containers_of_a_pod(plugins: Network) {
    let site = Site::new(Setup::new(plugins)).await;
    let pod = site.member().await;
    let local = "127.0.0.1".parse().expect("an address");
    let client = {
        let mut wanted = site.node.busybox("client", &["sleep", "1000"]);
        let context = pod.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        config::security(&mut wanted).namespace_options = context.and_then(|c| c.namespace_options.clone());
        let id = site.client.create(&pod.id, wanted, &pod.config).await.expect("created");
        site.client.start(&id).await.expect("started");
        id
    };
    pod.reaches(&pod, local).await;
    assert_eq!(site.inside(&client).inode(), pod.inside.inode());
    let ask = &asking(local);
    assert_eq!(execute(&site.client, &client, ask).await.as_ref(), Ok(&pod.config.hostname));

    // The server dies and another takes its place, as kubelet would have it.
    site.client.stop(&pod.container, 0).await.expect("stopped");
    site.client.remove(&pod.container).await.expect("removed");
    assert_eq!(execute(&site.client, &client, ask).await.as_deref(), Ok(""), "nobody is there");
    let again = site.container(&pod.id, &pod.config, "server-again").await.expect("a container");
    assert_eq!(site.inside(&again).inode(), pod.inside.inode());
    e2e::until(e2e::node::PATIENCE, "the new server", || async {
        let answer = execute(&site.client, &client, ask).await?;
        if answer == pod.config.hostname { Ok(()) } else { Err(answer) }
    })
    .await;
    let status = site.client.pod(&pod.id).await.expect("a status").network.unwrap_or_default();
    assert_eq!(status.ip, pod.v4().to_string());
    let address = execute(&site.client, &again, "ip -4 addr show eth0").await.expect("an address");
    assert!(address.contains(&status.ip), "{address}");
}
