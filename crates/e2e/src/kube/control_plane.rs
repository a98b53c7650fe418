//! etcd, the API server, the controllers and the scheduler of a cluster, and the proxy by which tests look at it.
//!
//! Everybody has a token of his own and the rights that Kubernetes gives his name; certificates are what the API server
//! makes for itself. Who may what isn't what is tested here.

use std::path::Path;
use std::time::Duration;

use rcgen::KeyPair;
use serde_json::json;

use super::{Ground, Http, Process};
use crate::until;

/// The processes, in the order in which they were started.
pub(super) struct ControlPlane {
    processes: Vec<Process>,
    /// The API, with all rights.
    pub(super) api: Http,
}

/// Whom the API server knows: the name of the file with his access, his name, his groups.
const USERS: [(&str, &str, &str); 5] = [
    ("admin", "admin", "system:masters"),
    ("controllers", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
    ("kubelet", "system:node:knarr-node", "system:nodes"),
];

const ETCD: &str = "http://127.0.0.1:2379";
const PROXY_PORT: u16 = 8001;

/// The addresses of services.
const SERVICES: &str = "10.96.0.0/24";

impl ControlPlane {
    /// Starts everything and waits until the API answers.
    pub(super) async fn start(ground: &Ground) -> Self {
        write_users(ground);
        write_key(ground);
        let mut plane = Self { processes: Vec::new(), api: Http::new(&ground.host, PROXY_PORT) };
        plane.run(ground, "etcd", &etcd(ground));
        plane.run(ground, "kube-apiserver", &api_server(ground));
        plane.run(ground, "kubectl", &proxy(ground));
        until(Duration::from_secs(90), "the API", || async { plane.api.get("/readyz").await }).await;
        plane.run(ground, "kube-controller-manager", &controllers(ground));
        plane.run(ground, "kube-scheduler", &scheduler(ground));
        plane
    }

    /// Starts kube-proxy, which makes services be reached.
    pub(super) fn start_service_proxy(&mut self, ground: &Ground) {
        self.run(ground, "kube-proxy", &service_proxy(ground));
    }

    /// Ends all, the last first.
    pub(super) fn stop(mut self) {
        while let Some(process) = self.processes.pop() {
            process.stop();
        }
    }

    fn run(&mut self, ground: &Ground, program: &str, arguments: &[String]) {
        let mut command = ground.program(program);
        command.args(arguments);
        self.processes.push(Process::start(ground, command));
    }
}

fn etcd(ground: &Ground) -> Vec<String> {
    vec![
        format!("--data-dir={}", at(ground, "etcd")),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        "--log-level=warn".into(),
        // A cluster that lives for minutes needn't outlive the machine.
        "--unsafe-no-fsync".into(),
    ]
}

fn api_server(ground: &Ground) -> Vec<String> {
    vec![
        format!("--etcd-servers={ETCD}"),
        format!("--cert-dir={}", at(ground, "api-server")),
        format!("--advertise-address={}", Ground::NODE),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--token-auth-file={}", at(ground, "tokens.csv")),
        format!("--service-account-key-file={}", at(ground, "accounts.pub")),
        format!("--service-account-signing-key-file={}", at(ground, "accounts.key")),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        "--kubelet-preferred-address-types=InternalIP".into(),
    ]
}

fn controllers(ground: &Ground) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", at(ground, "controllers.kubeconfig")),
        format!("--service-account-private-key-file={}", at(ground, "accounts.key")),
        format!("--root-ca-file={}", at(ground, "api-server/apiserver.crt")),
        "--use-service-account-credentials=true".into(),
        "--leader-elect=false".into(),
        format!("--cert-dir={}", at(ground, "controllers")),
    ]
}

fn scheduler(ground: &Ground) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", at(ground, "scheduler.kubeconfig")),
        "--leader-elect=false".into(),
        format!("--cert-dir={}", at(ground, "scheduler")),
    ]
}

fn proxy(ground: &Ground) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", at(ground, "admin.kubeconfig")),
        "proxy".into(),
        format!("--port={PROXY_PORT}"),
        // It would keep paths away from tests otherwise by which commands are run.
        "--disable-filter=true".into(),
    ]
}

fn service_proxy(ground: &Ground) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", at(ground, "proxy.kubeconfig")),
        format!("--hostname-override={}", Ground::NAME),
        "--proxy-mode=nftables".into(),
        format!("--cluster-cidr={}", super::runtime::PODS),
        // Settings of connection tracking that are the whole machine's.
        "--conntrack-max-per-core=0".into(),
        "--conntrack-tcp-timeout-established=0".into(),
        "--conntrack-tcp-timeout-close-wait=0".into(),
    ]
}

/// A token for everybody (its own name: nobody else is in this network), and the file by which he finds the API server.
fn write_users(ground: &Ground) {
    let line = |(file, name, groups): &(&str, &str, &str)| format!("{file},{name},{name},\"{groups}\"\n");
    write(&ground.path("tokens.csv"), &USERS.iter().map(line).collect::<String>());
    for (file, _, _) in USERS {
        let server = format!("https://{}:6443", Ground::NODE);
        let access = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{ "name": "here", "cluster": { "server": server, "insecure-skip-tls-verify": true } }],
            "users": [{ "name": "me", "user": { "token": file } }],
            "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "me" } }],
        });
        write(&ground.path(&format!("{file}.kubeconfig")), &access.to_string());
    }
}

/// The key that the tokens of service accounts are signed with.
fn write_key(ground: &Ground) {
    let key = KeyPair::generate().expect("a key");
    write(&ground.path("accounts.key"), &key.serialize_pem());
    write(&ground.path("accounts.pub"), &key.public_key_pem());
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
}

fn at(ground: &Ground, below: &str) -> String {
    ground.path(below).display().to_string()
}
