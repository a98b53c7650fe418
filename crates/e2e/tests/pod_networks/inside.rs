//! What holds in a pod's network namespace unless it says otherwise, and its name service.

use e2e::pod::{Pod, context, linux, security};
use e2e::{Netns, Network, Setup};
use proto::runtime::v1 as cri;
use rustix::net::{AddressFamily, SocketType};
use serde_json::json;

use crate::on_own_host;

const FILES: &str = "cd /proc/sys/net/ipv4; echo $(cat ip_unprivileged_port_start) $(cat ping_group_range)";

/// What the files say in a pod of this node.
async fn said(pod: &Pod, script: &str) -> String {
    let container = pod.waiting("main", |_| {}).await;
    pod.exec(&container, script).await
}

/// Whether the kernel lets the calling group send echo requests (icmp(7)): capabilities have no say in that.
fn may_ping(netns: &Netns) -> bool {
    let icmp = Some(rustix::net::ipproto::ICMP);
    netns.run(|| rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, icmp)).is_ok()
}

#[tokio::test]
async fn everybody_listens_on_low_ports_and_pings_without_a_capability() {
    let (_host, setup) = on_own_host(Setup::new(Network::BuiltIn));
    let pod = Pod::on(setup.start().await, |_| {}).await;
    assert_eq!(said(&pod, FILES).await, "0 0 2147483647");
    // nc ends when it has nothing more to hear, whatever it could still say: the word is that of a program of its own.
    let script =
        "nc -l -p 80 -e echo listened & until nc 127.0.0.1 80 </dev/null 2>/dev/null; do sleep 0.1; done";
    let listening = pod.prints(script, |wanted| {
        let context = security(wanted);
        context.run_as_user = Some(cri::Int64Value { value: 1234 });
        context.capabilities =
            Some(cri::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
    });
    assert_eq!(listening.await, "listened");
    let container = pod.waiting("other", |_| {}).await;
    assert!(may_ping(&Netns::of(pod.node.processes_of(&container)[0])));
}

/// The pod's word, then the handler's, then the node's.
#[tokio::test]
async fn whoever_asks_otherwise_has_it() {
    let keys = "unprivileged_icmp = false\n[handlers.strict]\n\
                default_sysctls = { \"net.ipv4.ip_unprivileged_port_start\" = \"1024\" }\n[handlers.wrong]\n\
                default_sysctls = { \"net.ipv4.tcp_knarr\" = \"1\" }";
    let (_host, setup) = on_own_host(Setup::new(Network::BuiltIn).key(keys));
    let pod = Pod::on(setup.start().await, |sandbox| {
        // By its other name, which is the same parameter.
        linux(sandbox).sysctls = [("net/ipv4/ip_unprivileged_port_start".to_owned(), "81".to_owned())].into();
    })
    .await;
    assert_eq!(said(&pod, FILES).await, "81 1 0");
    let id = pod.another_by("strict").await.unwrap();
    let strict = Pod { id, ..pod };
    assert_eq!(said(&strict, FILES).await, "1024 1 0");
    // What the node wants wrongly is nothing that the pod has asked for.
    let wrong = strict.another_by("wrong").await.unwrap_err();
    assert_eq!(wrong.code(), tonic::Code::Internal, "{wrong}");
}

/// In a user namespace of the pod's own.
fn mapped(sandbox: &mut cri::PodSandboxConfig) {
    let ids = vec![cri::IdMapping { container_id: 0, host_id: 200_000, length: 65_536 }];
    let options = context(sandbox).namespace_options.get_or_insert_default();
    options.userns_options =
        Some(cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids });
}

#[tokio::test]
async fn in_a_user_namespace_the_groups_are_those_that_are_somebody() {
    let (_host, setup) = on_own_host(Setup::new(Network::BuiltIn));
    let pod = Pod::on(setup.start().await, mapped).await;
    assert_eq!(said(&pod, FILES).await, "0 0 65535");
}

#[tokio::test]
async fn the_hosts_parameters_stay_the_hosts() {
    let (host, setup) = on_own_host(Setup::new(Network::None));
    let before = host.sh(FILES);
    let pod = Pod::on(setup.start().await, |_| {}).await;
    assert_eq!(said(&pod, FILES).await, before.trim());
    assert_eq!(host.sh(FILES), before);
}

#[tokio::test]
async fn a_pod_that_wants_router_advertisements_has_them() {
    let (_host, setup) =
        on_own_host(Setup::new(Network::Plugins).conflist("none", json!([{ "type": "loopback" }])));
    let accept =
        "cat /proc/sys/net/ipv6/conf/default/accept_ra /proc/sys/net/ipv6/conf/all/accept_ra | xargs";
    let pod = Pod::on(setup.start().await, |sandbox| {
        linux(sandbox).sysctls = [("net.ipv6.conf.default.accept_ra".to_owned(), "2".to_owned())].into();
    })
    .await;
    assert_eq!(said(&pod, accept).await, "2 0");
    let id = pod.another(|_| {}).await.unwrap();
    let other = Pod { id, ..pod };
    assert_eq!(said(&other, accept).await, "0 0");
}

/// What is about a link can't be set before there is one, and what is about all of them mustn't be taken back by the network.
#[tokio::test]
async fn what_a_pod_asks_of_its_links_holds_for_those_that_its_network_makes() {
    let chain = json!([{ "type": "bridge", "bridge": "knelinks0", "isGateway": true, "ipam": { "type": "host-local",
        "ranges": [[{ "subnet": "10.69.0.0/24" }], [{ "subnet": "fd00:69::/64" }]] } }]);
    for native in ["native = true", "native = false"] {
        let setup = Setup::new(Network::Plugins).conflist("links", chain.clone()).key(native);
        let (_host, setup) = on_own_host(setup);
        let pod = Pod::on(setup.start().await, |sandbox| {
            linux(sandbox).sysctls = [
                ("net.ipv4.conf.eth0.tag".to_owned(), "7".to_owned()),
                ("net/ipv4/neigh/eth0/gc_stale_time".to_owned(), "77".to_owned()),
                ("net.ipv6.conf.all.disable_ipv6".to_owned(), "1".to_owned()),
            ]
            .into();
        })
        .await;
        let files = "cd /proc/sys/net; cat ipv4/conf/eth0/tag \
                     ipv4/neigh/eth0/gc_stale_time ipv6/conf/eth0/disable_ipv6 | xargs; ip -6 -o addr show dev eth0";
        assert_eq!(said(&pod, files).await, "7 77 1", "{native}");
        let id = pod.another(|_| {}).await.unwrap();
        let other = Pod { id, ..pod };
        assert!(said(&other, files).await.starts_with("0 60 0"), "{native}");
        let tagged = other.another(|sandbox| {
            mapped(sandbox);
            linux(sandbox).sysctls = [("net.ipv4.conf.eth0.tag".to_owned(), "8".to_owned())].into();
        });
        let tagged = Pod { id: tagged.await.unwrap(), ..other };
        assert!(said(&tagged, files).await.starts_with("8 60 0"), "{native}");
    }
}

/// Name service is Kubernetes' to say: what a network knows of it is for plugins and for those that ask the network.
#[tokio::test]
async fn a_networks_name_servers_are_not_the_pods() {
    let dns = r#"#!/bin/sh
cat > /dev/null
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.77.0.2/24"}],"dns":{"nameservers":["192.0.2.53"]}}'
"#;
    let setup = Setup::new(Network::Plugins).plugin("dns", dns).conflist("named", json!([{ "type": "dns" }]));
    let (_host, setup) = on_own_host(setup);
    let pod = Pod::on(setup.start().await, |sandbox| sandbox.dns_config = None).await;
    let inside = pod.prints("cat /etc/resolv.conf; echo end", |_| {}).await;
    let expected = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default() + "end";
    assert_eq!(
        inside.split_whitespace().collect::<Vec<_>>(),
        expected.split_whitespace().collect::<Vec<_>>()
    );
}
