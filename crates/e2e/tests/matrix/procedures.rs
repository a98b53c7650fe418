//! The table of procedures.

use e2e::cri::{ContainerConfig, ContainerState, PodSandboxConfig, PodSandboxState};
use tonic::{Code, Status};

use super::lane::Lane;

/// What a procedure finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Before {
    Nothing,
    /// An image of its own, and no pod.
    Image,
    Pod,
    Created,
    Running,
    Exited,
}

impl Before {
    /// Whether what is there includes `other`.
    fn has(self, other: Self) -> bool {
        if other == Self::Image { self == other } else { other <= self }
    }
}

/// What is asked of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Run,
    Create,
    Start,
    Exec,
    /// With a grace period in seconds.
    Stop(i64),
    Remove,
    StopPod,
    RemovePod,
    Pull,
    RemoveImage,
    /// All images that nothing uses.
    Prune,
    /// The daemon is killed and started again.
    Adopt,
}

pub(super) struct Procedure {
    pub(super) name: &'static str,
    pub(super) before: Before,
    pub(super) act: Act,
}

const fn procedure(name: &'static str, before: Before, act: Act) -> Procedure {
    Procedure { name, before, act }
}

pub(super) const PROCEDURES: &[Procedure] = &[
    procedure("run", Before::Nothing, Act::Run),
    procedure("create", Before::Pod, Act::Create),
    procedure("start", Before::Created, Act::Start),
    procedure("exec", Before::Running, Act::Exec),
    procedure("stop", Before::Running, Act::Stop(2)),
    procedure("kill", Before::Running, Act::Stop(0)),
    procedure("remove", Before::Exited, Act::Remove),
    procedure("stop-pod", Before::Running, Act::StopPod),
    procedure("remove-pod", Before::Exited, Act::RemovePod),
    procedure("pull", Before::Nothing, Act::Pull),
    procedure("remove-image", Before::Image, Act::RemoveImage),
    procedure("gc", Before::Image, Act::Prune),
    procedure("adopt", Before::Running, Act::Adopt),
];

/// What procedures are done to.
pub(super) struct Subject {
    config: PodSandboxConfig,
    wanted: ContainerConfig,
    pod: Option<String>,
    container: Option<String>,
}

impl Subject {
    /// A pod of its own, as far as it is wanted.
    pub(super) async fn prepared(lane: &mut Lane, before: Before) -> Result<Self, String> {
        let script = "trap 'exit 0' TERM; sleep 1000 & wait";
        let (config, wanted) = (lane.node().pod(), lane.node().busybox("main", &["sh", "-c", script]));
        let mut subject = Self { config, wanted, pod: None, container: None };
        let steps = [
            (Before::Image, Act::Pull),
            (Before::Pod, Act::Run),
            (Before::Created, Act::Create),
            (Before::Running, Act::Start),
            (Before::Exited, Act::Stop(2)),
        ];
        for (reached, act) in steps.into_iter().filter(|(reached, _)| before.has(*reached)) {
            let done = subject.call(lane, act).await;
            done.map_err(|status| format!("preparing {reached:?}: {status}"))?;
        }
        Ok(subject)
    }

    pub(super) fn pod(&self) -> &str {
        self.pod.as_deref().unwrap_or_default()
    }

    pub(super) fn container(&self) -> &str {
        self.container.as_deref().unwrap_or_default()
    }

    /// Asks the daemon.
    pub(super) async fn call(&mut self, lane: &mut Lane, act: Act) -> Result<(), Status> {
        let client = lane.client.clone();
        match act {
            Act::Run => self.pod = Some(client.run_pod(self.config.clone()).await?),
            Act::Create => {
                let made = client.create(self.pod(), self.wanted.clone(), &self.config).await?;
                self.container = Some(made);
            }
            Act::Start => client.start(self.container()).await?,
            Act::Exec => {
                let output = client.exec(self.container(), &["echo", "there"], 20).await?;
                if (output.exit_code, output.stdout.as_str()) != (0, "there\n") {
                    return Err(Status::data_loss(format!("{output:?}")));
                }
            }
            Act::Stop(grace) => client.stop(self.container(), grace).await?,
            Act::Remove => client.remove(self.container()).await?,
            Act::StopPod => client.stop_pod(self.pod()).await?,
            Act::RemovePod => client.remove_pod(self.pod()).await?,
            Act::Pull => drop(client.pull(&lane.image()).await?),
            Act::RemoveImage => lane.remove_image().await?,
            Act::Prune => lane.prune().await?,
            Act::Adopt => lane.restart().map_err(Status::unavailable)?,
        }
        Ok(())
    }

    /// Asks again, as kubelet does: a pod that is there but not known to be whole is taken away before, and so is a container
    /// whose start has failed.
    pub(super) async fn call_again(&mut self, lane: &mut Lane, act: Act) -> Result<(), Status> {
        let client = lane.client.clone();
        match act {
            Act::Run => {
                let pods = client.pods().await?;
                for pod in pods.into_iter().filter(|pod| pod.metadata == self.config.metadata) {
                    client.stop_pod(&pod.id).await?;
                    client.remove_pod(&pod.id).await?;
                }
            }
            Act::Start => {
                let listed = client.containers().await?;
                let state =
                    listed.iter().find(|listed| listed.id == self.container()).map(|listed| listed.state);
                if state == Some(ContainerState::ContainerRunning as i32) {
                    return Ok(());
                }
                if state != Some(ContainerState::ContainerCreated as i32) {
                    client.remove(self.container()).await?;
                    self.call(lane, Act::Create).await?;
                }
            }
            _ => {}
        }
        match self.call(lane, act).await {
            // The start that was given up has come about since it was looked.
            Err(status) if act == Act::Start && status.code() == Code::FailedPrecondition => {
                let state = client.container(self.container()).await?.state;
                if state == ContainerState::ContainerRunning as i32 { Ok(()) } else { Err(status) }
            }
            answer => answer,
        }
    }

    /// Whether what was asked for is there.
    pub(super) async fn has(&self, lane: &Lane, act: Act) -> Result<(), String> {
        let client = &lane.client;
        let text = |status: Status| status.to_string();
        let is_right = match act {
            Act::Run => {
                client.pod(self.pod()).await.map_err(text)?.state == PodSandboxState::SandboxReady as i32
            }
            Act::Create => self.is(lane, ContainerState::ContainerCreated).await?,
            Act::Start | Act::Exec | Act::Adopt => {
                let executed = client.exec(self.container(), &["true"], 10).await.map_err(text)?;
                self.is(lane, ContainerState::ContainerRunning).await? && executed.exit_code == 0
            }
            Act::Stop(_) => self.is(lane, ContainerState::ContainerExited).await?,
            Act::Remove => {
                let left = client.containers().await.map_err(text)?;
                left.iter().all(|container| container.id != self.container())
            }
            Act::StopPod => {
                client.pod(self.pod()).await.map_err(text)?.state == PodSandboxState::SandboxNotready as i32
            }
            Act::Pull => lane.has_image().await.map_err(text)?,
            Act::RemoveImage | Act::Prune => !lane.has_image().await.map_err(text)?,
            Act::RemovePod => client.pods().await.map_err(text)?.iter().all(|pod| pod.id != self.pod()),
        };
        if is_right { Ok(()) } else { Err(format!("it was not done: {act:?}")) }
    }

    async fn is(&self, lane: &Lane, state: ContainerState) -> Result<bool, String> {
        let status = lane.client.container(self.container()).await.map_err(|status| status.to_string())?;
        Ok(status.state == state as i32)
    }
}
