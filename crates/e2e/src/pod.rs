//! A pod on a node of its own, in whose containers scripts are run, in the contract of today.

use std::path::{Path, PathBuf};

use proto::runtime::v1 as cri;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::newest::translated;
use crate::{Client, Network, Node};

/// A pod that is ready, with its node.
pub struct Pod {
    /// The node.
    pub node: Node,
    /// A client of it.
    pub client: Client,
    /// RuntimeService as of today.
    pub runtime: RuntimeServiceClient<Channel>,
    /// What was asked for.
    pub sandbox: cri::PodSandboxConfig,
    /// The pod.
    pub id: String,
}

impl Pod {
    /// A pod whose configuration `change` has changed, on a new node that has the busybox image.
    ///
    /// # Panics
    /// When it can't be made.
    pub async fn new(network: Network, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Self {
        Self::on(Node::start(network).await, change).await
    }

    /// The same on a node that is there.
    ///
    /// # Panics
    /// When it can't be made.
    pub async fn on(node: Node, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Self {
        let client = node.client();
        client.pull(&node.registry.image("busybox:latest")).await.expect("the busybox image");
        let mut sandbox: cri::PodSandboxConfig = translated(&node.pod());
        change(&mut sandbox);
        let runtime = RuntimeServiceClient::new(client.channel());
        let id = run(&runtime, sandbox.clone(), "").await.expect("a pod");
        Self { node, client, runtime, sandbox, id }
    }

    /// RunPodSandbox with the configuration of another pod of this node; gives the id.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn another(&self, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Result<String, Status> {
        let mut sandbox: cri::PodSandboxConfig = translated(&self.node.pod());
        change(&mut sandbox);
        run(&self.runtime, sandbox, "").await
    }

    /// The same by a handler, with nothing changed.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn another_by(&self, handler: &str) -> Result<String, Status> {
        run(&self.runtime, translated(&self.node.pod()), handler).await
    }

    /// The configuration of a container that runs a script; its namespaces are those of the pod.
    ///
    /// # Panics
    /// When the pod has no security context.
    pub fn script(&self, name: &str, script: &str) -> cri::ContainerConfig {
        let mut wanted: cri::ContainerConfig = translated(&self.node.busybox(name, &["sh", "-c", script]));
        let of_pod = self.sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = of_pod.expect("a security context").namespace_options.clone();
        security(&mut wanted).namespace_options = options;
        wanted
    }

    /// CreateContainer; gives the id.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn create(&self, config: cri::ContainerConfig) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.sandbox.clone()),
        };
        Ok(self.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    /// A running container that waits.
    ///
    /// # Panics
    /// When it can't be made or started.
    pub async fn waiting(&self, name: &str, change: impl FnOnce(&mut cri::ContainerConfig)) -> String {
        let mut wanted = self.script(name, "exec sleep 1000");
        change(&mut wanted);
        let id = self.create(wanted).await.expect("created");
        self.client.start(&id).await.expect("started");
        id
    }

    /// The lines that a script prints in a container of its own, which has ended well and is removed.
    ///
    /// # Panics
    /// When it can't be run or ends otherwise.
    pub async fn prints(&self, script: &str, change: impl FnOnce(&mut cri::ContainerConfig)) -> String {
        let mut wanted = self.script("script", script);
        change(&mut wanted);
        let id = self.create(wanted).await.expect("created");
        self.client.start(&id).await.expect("started");
        let status = self.client.exited(&id).await;
        self.client.remove(&id).await.expect("removed");
        let text = self.take_log("script");
        assert_eq!(status.exit_code, 0, "{script}: {text}");
        text
    }

    /// What a script prints that is executed in a running container.
    ///
    /// # Panics
    /// When it doesn't end well.
    pub async fn exec(&self, container: &str, script: &str) -> String {
        let output = self.client.exec(container, &["sh", "-c", script], 20).await.expect("executed");
        assert_eq!(output.exit_code, 0, "{script}: {output:?}");
        output.stdout.trim().to_owned()
    }

    /// ContainerStatus with all that today's contract has, and the verbose information.
    ///
    /// # Panics
    /// When there is none.
    pub async fn container(&self, id: &str) -> (cri::ContainerStatus, serde_json::Value) {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
        let answer = self.runtime.clone().container_status(request).await.expect("a status").into_inner();
        (answer.status.expect("a status"), info(&answer.info))
    }

    /// The verbose information of PodSandboxStatus.
    ///
    /// # Panics
    /// When there is none.
    pub async fn info(&self, pod: &str) -> serde_json::Value {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: true };
        info(&self.runtime.clone().pod_sandbox_status(request).await.expect("a status").into_inner().info)
    }

    /// Kills the daemon and starts it again.
    pub fn restart(&mut self) {
        self.node.kill_daemon();
        self.node.start_daemon();
        self.reconnect();
    }

    /// Speaks to the daemon that runs now.
    pub fn reconnect(&mut self) {
        self.client = self.node.client();
        self.runtime = RuntimeServiceClient::new(self.client.channel());
    }

    /// What a file of the node's cgroups has whose directory ends with `cgroup`, such as a pod's or a container's id: the first of `files`
    /// that is there in any hierarchy.
    pub fn cgroup_file(&self, cgroup: &str, files: &[&str]) -> Option<String> {
        let text = std::fs::read_to_string(self.cgroup_path(cgroup, files)?).ok()?;
        Some(text.trim().to_owned())
    }

    /// Where that file is.
    pub fn cgroup_path(&self, cgroup: &str, files: &[&str]) -> Option<PathBuf> {
        self.node.traces().cgroup_path(cgroup, files)
    }

    /// The text of a container's log, which is removed.
    fn take_log(&self, name: &str) -> String {
        let log = Path::new(&self.sandbox.log_directory).join(name).with_extension("log");
        let text = std::fs::read_to_string(&log).expect("a log");
        std::fs::remove_file(&log).expect("a log");
        let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
        lines.join("\n")
    }
}

async fn run(
    runtime: &RuntimeServiceClient<Channel>,
    sandbox: cri::PodSandboxConfig,
    handler: &str,
) -> Result<String, Status> {
    let request = cri::RunPodSandboxRequest { config: Some(sandbox), runtime_handler: handler.to_owned() };
    Ok(runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

fn info(info: &std::collections::HashMap<String, String>) -> serde_json::Value {
    serde_json::from_str(&info["info"]).expect("verbose information as JSON")
}

/// A pod's part for Linux, to change in place.
pub fn linux(sandbox: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    sandbox.linux.get_or_insert_default()
}

/// A pod's security context, to change in place.
pub fn context(sandbox: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    linux(sandbox).security_context.get_or_insert_default()
}

/// A container's security context, to change in place.
pub fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A container's limits, to change in place.
pub fn resources(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}
