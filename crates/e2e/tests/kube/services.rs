//! Services, reached through kube-proxy.

use std::time::Duration;

use e2e::kube::{Ground, Space};
use e2e::until;
use serde_json::json;

use crate::objects::{STAYS, pod_of, shell};

pub(crate) async fn reached_from_everywhere(space: Space) {
    for name in ["web-a", "web-b"] {
        let mut web = pod_of(
            name,
            json!({
                "name": "main", "image": space.image("kube/web:1"), "readinessProbe": { "httpGet": { "port": 80 }, "periodSeconds": 1 },
            }),
        );
        web["metadata"]["labels"] = json!({ "app": "web" });
        space.create(&web).await;
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "type": "NodePort", "selector": { "app": "web" }, "ports": [{ "port": 8000, "targetPort": 80 }] },
    });
    space.create(&service).await;
    space.create(&pod_of("client", shell(&space.cluster.registry, STAYS))).await;
    for name in ["web-a", "web-b", "client"] {
        space.ready(name).await;
    }
    let service = space.get("Service", "web").await.expect("a service");
    let address = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
    let ground = &space.cluster.ground;
    // kube-proxy learns of it when it does.
    until(Duration::from_secs(60), "the service's address", || async {
        let page = ground.host.sh(&format!("curl -s -m 2 http://{address}:8000/ || true"));
        if page == "one\n" { Ok(()) } else { Err(page) }
    })
    .await;
    let outside = ground.world.sh(&format!("curl -s -m 10 http://{}:{port}/", Ground::NODE));
    assert_eq!(outside, "one\n", "from outside of the node");
    let fetch =
        format!("for i in 1 2 3 4 5 6 7 8; do wget -qO- http://{address}:8000/ 2>&1 || echo failed; done");
    for from in ["client", "web-a"] {
        // From a pod that is itself behind the service it must come back to itself, too.
        assert_eq!(space.sh(from, &fetch).await, "one\n".repeat(8), "from {from}");
    }
}

pub(crate) async fn host_port(space: Space) {
    let ports = json!([{ "containerPort": 80, "hostPort": 18080 }]);
    space
        .create(&pod_of("web", json!({ "name": "main", "image": space.image("kube/web:2"), "ports": ports })))
        .await;
    space.ready("web").await;
    let page = space.cluster.ground.world.sh(&format!("curl -s -m 10 http://{}:18080/", Ground::NODE));
    assert_eq!(page, "two\n");
}

/// What a pod finds in its files of names: its own, those of the pod's specification, the node's resolvers or its own.
pub(crate) async fn names(space: Space) {
    let mut pod = pod_of(
        "named",
        shell(&space.cluster.registry, "hostname -f; cat /etc/hosts /etc/resolv.conf; echo end; sleep 3600"),
    );
    pod["spec"]["hostname"] = json!("mine");
    pod["spec"]["subdomain"] = json!("sub");
    pod["spec"]["hostAliases"] = json!([{ "ip": "192.0.2.99", "hostnames": ["alias"] }]);
    pod["spec"]["dnsPolicy"] = json!("None");
    pod["spec"]["dnsConfig"] = json!({ "nameservers": ["192.0.2.53"], "searches": ["here.test"], "options": [{ "name": "ndots", "value": "2" }] });
    space.create(&pod).await;
    let log = space.logged("named", "end\n").await;
    let full = format!("mine.sub.{}.svc.cluster.local", space.name);
    assert!(log.starts_with(&format!("{full}\n")), "{log}");
    for part in [
        &format!("{full}\tmine"),
        "192.0.2.99\talias",
        "nameserver 192.0.2.53",
        "search here.test",
        "options ndots:2",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
}
