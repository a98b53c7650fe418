//! Sites: a node on a host of its own, and pods that serve their name over HTTP.

use std::net::IpAddr;
use std::sync::Arc;

use e2e::cri::{PodSandboxConfig, RunPodSandboxRequest};
use e2e::node::PATIENCE;
use e2e::{Client, Netns, Node, Setup, until};
use tonic::Status;

/// A node that has the busybox image, and its host.
pub(crate) struct Site {
    pub(crate) node: Node,
    pub(crate) client: Client,
    pub(crate) host: Arc<Netns>,
}

/// A pod with a container that serves the pod's name at port 80, and whatever else is put into `/srv`.
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) container: String,
    /// As CRI's status has them.
    pub(crate) addresses: Vec<IpAddr>,
    /// The pod's network, seen from within.
    pub(crate) inside: Netns,
    client: Client,
}

const SERVER: &str = "mkdir -p /srv; echo $HOSTNAME >/srv/name; exec httpd -f -p 80 -h /srv";

impl Site {
    pub(crate) async fn new(setup: Setup) -> Self {
        Self::on(Arc::new(Netns::new()), setup).await
    }

    /// The same on a host that has links already.
    pub(crate) async fn on(host: Arc<Netns>, setup: Setup) -> Self {
        let node = setup.inside(&host).start().await;
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.expect("the busybox image");
        Self { node, client, host }
    }

    pub(crate) async fn member(&self) -> Member {
        self.member_of("", |_| {}).await.expect("a pod")
    }

    /// A pod of a handler, whose configuration `change` has changed.
    pub(crate) async fn member_of(
        &self,
        handler: &str,
        change: impl FnOnce(&mut PodSandboxConfig),
    ) -> Result<Member, Status> {
        let mut config = self.node.pod();
        change(&mut config);
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let id = self.client.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let container = self.container(&id, &config, "server").await?;
        let network = self.client.pod(&id).await?.network.unwrap_or_default();
        let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        let addresses = ips.filter(|ip| !ip.is_empty()).map(|ip| ip.parse().expect("an address")).collect();
        let inside = self.inside(&container);
        Ok(Member { id, config, container, addresses, inside, client: self.client.clone() })
    }

    /// A further container of a pod, with the pod's namespaces, running the server.
    pub(crate) async fn container(
        &self,
        pod: &str,
        config: &PodSandboxConfig,
        name: &str,
    ) -> Result<String, Status> {
        let mut wanted = self.node.busybox(name, &["sh", "-c", SERVER]);
        let of_pod = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = of_pod.and_then(|context| context.namespace_options.clone());
        e2e::config::security(&mut wanted).namespace_options = options;
        let container = self.client.create(pod, wanted, config).await?;
        self.client.start(&container).await?;
        Ok(container)
    }

    /// The network that a container's processes see.
    pub(crate) fn inside(&self, container: &str) -> Netns {
        Netns::of(*self.node.processes_of(container).first().expect("a process"))
    }

    /// Starts the daemon that has ended, and connects to it.
    pub(crate) fn restart(&mut self) {
        self.node.start_daemon();
        self.client = self.node.client();
    }

    pub(crate) async fn remove(&self, member: &Member) {
        self.client.stop_pod(&member.id).await.expect("stopped");
        self.client.remove_pod(&member.id).await.expect("removed");
    }
}

impl Member {
    /// What a script prints that is executed in the pod's container.
    pub(crate) async fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script).await;
        output.unwrap_or_else(|failed| panic!("{script}: {failed}"))
    }

    /// The same where the script may fail.
    pub(crate) async fn try_sh(&self, script: &str) -> Result<String, String> {
        execute(&self.client, &self.container, script).await
    }

    /// Waits until the other answers to the pod's requests at `address`, with its own name.
    pub(crate) async fn reaches(&self, other: &Member, address: IpAddr) {
        until(PATIENCE, &format!("an answer from {address}"), || async {
            let name = self.asks(address).await?;
            if name == other.config.hostname { Ok(()) } else { Err(format!("\"{name}\" answers")) }
        })
        .await;
    }

    /// The name that is served at `address`, or why not after two seconds.
    pub(crate) async fn asks(&self, address: IpAddr) -> Result<String, String> {
        let answer = self.try_sh(&asking(address)).await?;
        if answer.is_empty() { Err("silence".to_owned()) } else { Ok(answer) }
    }

    /// The pod's address of a family.
    pub(crate) fn v4(&self) -> IpAddr {
        self.addresses.iter().copied().find(IpAddr::is_ipv4).expect("an IPv4 address")
    }

    pub(crate) fn v6(&self) -> IpAddr {
        self.addresses.iter().copied().find(IpAddr::is_ipv6).expect("an IPv6 address")
    }
}

/// A script that prints what is served at `address`; nothing when nobody answers. Not by wget: in Debian's static busybox
/// that looks up a service's name, with a library that can't.
pub(crate) fn asking(address: IpAddr) -> String {
    format!("printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 80 | tail -n 1")
}

/// What a script prints that is executed in a container.
pub(crate) async fn execute(client: &Client, container: &str, script: &str) -> Result<String, String> {
    let output = client.exec(container, &["sh", "-c", script], 60).await.map_err(|e| e.to_string())?;
    match output.exit_code {
        0 => Ok(output.stdout.trim().to_owned()),
        code => Err(format!("{code}: {}{}", output.stdout, output.stderr)),
    }
}
