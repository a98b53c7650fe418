//! kubectl top: what pods use, by metrics-server, from kubelet, from the runtime.

use std::time::Duration;

use e2e::kube::{Ground, Process, Space};
use e2e::until;
use serde_json::json;

use crate::objects::{pod_of, shell, with};

/// Where metrics-server listens in the node's network.
const PORT: u16 = 4443;

/// The API that it serves.
const API: &str = "v1beta1.metrics.k8s.io";

pub(crate) async fn of_pods_and_nodes(space: Space) {
    let script = "head -c 20000000 /dev/zero >/kept/file; while :; do :; done";
    let container = with(
        shell(&space.cluster.registry, script),
        json!({
            "resources": { "limits": { "cpu": "200m", "memory": "64Mi" } },
            "volumeMounts": [{ "name": "kept", "mountPath": "/kept" }],
        }),
    );
    let mut busy = pod_of("busy", container);
    busy["spec"]["volumes"] = json!([{ "name": "kept", "emptyDir": { "medium": "Memory" } }]);
    space.create(&busy).await;
    space.ready("busy").await;
    let mut server = Process::start(&space.cluster.ground, server_command(&space.cluster.ground));
    publish(&space).await;
    // It gives what it has seen twice, ten seconds apart.
    let used = until(Duration::from_secs(120), "the pod's usage", || {
        let running = server.running();
        let space = &space;
        async move {
            running?;
            let ran = space.kubectl(&["top", "pod", "busy", "--no-headers"]).await;
            let registered = space.cluster.api.json(&format!("{API_SERVICES}/{API}")).await?;
            if ran.code == 0 {
                Ok(ran.stdout)
            } else {
                Err(format!("{} {}", ran.stderr, registered["status"]))
            }
        }
    })
    .await;
    let (cpu, memory) = figures(&used);
    assert!((50..=300).contains(&cpu), "a fifth of a processor: {used}");
    assert!((19..=64).contains(&memory), "20 MB in memory: {used}");
    let nodes = space.kubectl(&["top", "node", Ground::NAME, "--no-headers"]).await.well();
    assert!(nodes.starts_with(Ground::NAME), "{nodes}");
    let each = space.kubectl(&["top", "pod", "busy", "--containers", "--no-headers"]).await.well();
    assert!(each.contains("main"), "{each}");
    space.cluster.api.send(&format!("DELETE {API_SERVICES}/{API}"), &json!(null)).await.expect("removed");
}

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// metrics-server in the node's network, with an administrator's access.
fn server_command(ground: &Ground) -> std::process::Command {
    let access = ground.path("admin.kubeconfig").display().to_string();
    let mut command = ground.program("metrics-server");
    for option in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{option}={access}"));
    }
    command
        .arg(format!("--secure-port={PORT}"))
        .arg(format!("--cert-dir={}", ground.path("metrics-server").display()))
        // The shortest that it takes.
        .args([
            "--metric-resolution=10s",
            "--kubelet-request-timeout=5s",
            "--kubelet-insecure-tls",
            "--authentication-skip-lookup",
        ])
        .arg("--kubelet-preferred-address-types=InternalIP");
    command
}

/// Makes it an API of the cluster: a service without pods leads to it, and everybody may ask it, as nobody says there who he is.
async fn publish(space: &Space) {
    let api = &space.cluster.api;
    let name = "metrics";
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "ports": [{ "name": "https", "port": 443, "targetPort": PORT }] },
    });
    space.create(&service).await;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4", "endpoints": [{ "addresses": [Ground::NODE] }], "ports": [{ "name": "https", "port": PORT }],
    });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": name },
        "rules": [
            { "apiGroups": ["metrics.k8s.io"], "resources": ["*"], "verbs": ["*"] },
            { "nonResourceURLs": ["*"], "verbs": ["get"] },
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated" }],
    });
    let registration = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": API },
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": true,
            "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": { "name": name, "namespace": space.name, "port": 443 },
        },
    });
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", space.name);
    let rights = "/apis/rbac.authorization.k8s.io/v1";
    for (path, object) in [
        (slices, slice),
        (format!("{rights}/clusterroles"), role),
        (format!("{rights}/clusterrolebindings"), binding),
        (API_SERVICES.to_owned(), registration),
    ] {
        api.send(&format!("POST {path}"), &object).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// Millicores and MiB of a line of `kubectl top`.
fn figures(line: &str) -> (u64, u64) {
    let mut words = line.split_whitespace().skip(1);
    let mut figure = |unit: &str| words.next().and_then(|word| word.strip_suffix(unit)?.parse().ok());
    (figure("m").expect("millicores"), figure("Mi").expect("MiB"))
}
