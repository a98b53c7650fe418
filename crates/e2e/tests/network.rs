//! Pods on a network: addresses, ways in and out, host ports; built in and by Debian's plugins alike.

use e2e::cri::{self, PortMapping};
use e2e::{Client, Network, Node, registry};

async fn server(node: &Node, client: &Client, ports: Vec<PortMapping>) -> (String, String) {
    let mut config = node.pod();
    config.port_mappings = ports;
    let pod = client.run_pod(config.clone()).await.unwrap();
    let script = "while :; do echo hello from $HOSTNAME | nc -l -p 8080; done";
    let container =
        client.create(&pod, node.busybox("server", &["sh", "-c", script]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    let ip = client.pod(&pod).await.unwrap().network.unwrap().ip;
    (ip, config.hostname)
}

/// What a server answers, asked again until it listens.
async fn answer(address: String) -> String {
    e2e::until(e2e::node::PATIENCE, "an answer", || {
        let address = address.clone();
        async move {
            use tokio::io::AsyncReadExt;
            let mut text = String::new();
            let mut stream = tokio::net::TcpStream::connect(&address).await.map_err(|e| e.to_string())?;
            stream.read_to_string(&mut text).await.map_err(|e| e.to_string())?;
            if text.is_empty() { Err("nothing".to_owned()) } else { Ok(text.trim().to_owned()) }
        }
    })
    .await
}

async fn pods_reach_each_other_and_the_host_reaches_them(network: Network) {
    let node = Node::start(network).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let host_port = registry::free_port();
    let mapping = PortMapping { container_port: 8080, host_port: host_port.into(), ..Default::default() };
    let (ip, hostname) = server(&node, &client, vec![mapping]).await;
    assert!(ip.starts_with(&format!("{}.", node.subnet())), "{ip}");
    let expected = format!("hello from {hostname}");
    assert_eq!(answer(format!("{ip}:8080")).await, expected);
    assert_eq!(answer(format!("127.0.0.1:{host_port}")).await, expected, "by the host port");

    let config = node.pod();
    let other = client.run_pod(config.clone()).await.unwrap();
    assert_ne!(client.pod(&other).await.unwrap().network.unwrap().ip, ip);
    let container = client.create(&other, node.busybox("client", &["sleep", "1000"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    e2e::until(e2e::node::PATIENCE, "an answer from pod to pod", || async {
        let output = client.exec(&container, &["nc", "-w", "2", &ip, "8080"], 10).await.unwrap();
        if output.stdout.trim() == expected { Ok(()) } else { Err(output) }
    })
    .await;
    let routes = client.exec(&container, &["ip", "route"], 10).await.unwrap().stdout;
    assert!(routes.contains("default via"), "{routes}");
    let links = client.exec(&container, &["ip", "addr", "show", "lo"], 10).await.unwrap().stdout;
    assert!(links.contains("LOOPBACK,UP"), "{links}");
}

#[tokio::test]
async fn built_in() {
    pods_reach_each_other_and_the_host_reaches_them(Network::BuiltIn).await;
}

#[tokio::test]
async fn by_plugins() {
    pods_reach_each_other_and_the_host_reaches_them(Network::Plugins).await;
}

#[tokio::test]
async fn names_are_resolved_as_the_request_says() {
    let node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut config = node.pod();
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.0.0.10".into()],
        searches: vec!["e2e.svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
    });
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, node.busybox("main", &["sleep", "1000"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    let text = client.exec(&container, &["cat", "/etc/resolv.conf"], 10).await.unwrap().stdout;
    for line in ["nameserver 10.0.0.10", "search e2e.svc.cluster.local", "options ndots:5"] {
        assert!(text.lines().any(|found| found == line), "no \"{line}\" in {text}");
    }
}

#[tokio::test]
async fn a_pod_on_the_hosts_network_has_its_interfaces_and_no_address_of_its_own() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let config = node.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    assert_eq!(client.pod(&pod).await.unwrap().network.unwrap_or_default().ip, "");
    let mut wanted = node.busybox("main", &["sleep", "1000"]);
    let options = e2e::config::namespaces(cri::NamespaceMode::Node, cri::NamespaceMode::Container);
    e2e::config::security(&mut wanted).namespace_options = Some(options);
    let container = client.create(&pod, wanted, &config).await.unwrap();
    client.start(&container).await.unwrap();
    let inside = client.exec(&container, &["readlink", "/proc/self/ns/net"], 10).await.unwrap().stdout;
    assert_eq!(inside.trim(), std::fs::read_link("/proc/self/ns/net").unwrap().to_string_lossy());
}
