//! The hub: one task through which every event goes, one after the other, to every plugin that wants it, in their order.
//!
//! ```text
//! questions (somebody waits for the answer) ─┐
//! news (nobody waits)                        ├─► one queue ─► plugins, ordered by index ─► answers, merged
//! plugins that come and go                  ─┘
//! ```
//! - What a plugin hears is a sequence: nothing is asked while another question is open. So is what happens to one pod, whose news are queued
//!   in the order in which they happen.
//! - A plugin is let in between two events, when no [`Window`] is open. While one waits for that, questions that would open one
//!   wait; everything else goes on, so that windows close.
//! - Changes of other containers and evictions are carried out by whoever asked, not here: they may need the hub themselves.
//!
//! Without plugins nothing comes here.

mod handle;
mod questions;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api;
use crate::error::Error;
use crate::gate::{Gate, Window};
use crate::plugin::Plugin;
use crate::ttrpc::{Status, code};
use crate::validate::Validator;
pub use handle::Nri;

/// How long plugins have to take in that the runtime goes down.
const LAST_WORD: Duration = Duration::from_millis(500);

/// How plugins are dealt with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name that plugins are told of this runtime.
    pub runtime_name: String,
    /// Its version, likewise.
    pub runtime_version: String,
    /// How long a plugin may take to register, and to take in all that there is; longer than a request: it comes once.
    pub registration_timeout: Duration,
    /// How long it may take for any other answer.
    pub request_timeout: Duration,
    /// The default validator.
    pub validator: Option<Validator>,
}

/// What is needed of whoever has the pods and containers.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// All that there is, for a plugin that comes.
    async fn snapshot(&self) -> Snapshot;
    /// Changes containers as plugins want, without asking them again, and returns what failed.
    async fn update(&self, updates: Vec<api::ContainerUpdate>) -> Vec<api::ContainerUpdate>;
    /// Stops containers that plugins want gone. Returns before they have stopped.
    async fn evict(&self, evictions: Vec<api::ContainerEviction>);
}

/// All that there is.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Pods.
    pub pods: Vec<api::PodSandbox>,
    /// Containers that have not ended.
    pub containers: Vec<api::Container>,
}

/// What plugins change of a container that is being made. Changes of others are under way.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adjusted {
    /// Of the container itself.
    pub adjust: api::ContainerAdjustment,
}

/// What has happened, and is told.
pub struct News {
    /// What.
    pub event: api::Event,
    /// What it happened to; asked for only if a plugin wants to hear of it.
    pub about: Pin<Box<dyn Future<Output = About> + Send>>,
}

/// A pod, and the container in it if the event is about one.
pub type About = (api::PodSandbox, Option<api::Container>);

impl std::fmt::Debug for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("News").field("event", &self.event).finish_non_exhaustive()
    }
}

/// What plugins are asked.
#[derive(Debug)]
pub enum Question {
    /// Whether a pod may be: it has all that it consists of.
    RunPod(api::PodSandbox),
    /// Whether a pod's limits may be changed.
    UpdatePod(Box<api::UpdatePodSandboxRequest>),
    /// To let a pod go: its containers have ended, and it is about to be taken down.
    StopPod(api::PodSandbox),
    /// What a container is to be like.
    Create(Box<api::CreateContainerRequest>),
    /// Whether a container may start.
    Start(Box<api::StartContainerRequest>),
    /// What a container's limits are to be.
    Update(Box<api::UpdateContainerRequest>),
}

impl Question {
    /// Whether what it is about is listed only after it was answered.
    fn opens_window(&self) -> bool {
        matches!(self, Self::RunPod(_) | Self::Create(_))
    }
}

/// Answers to [`Question`]s, before what they want of others is carried out.
pub(crate) struct Answer {
    pub(crate) adjust: api::ContainerAdjustment,
    /// Of an update: the limits that are to be.
    pub(crate) limits: api::LinuxResources,
    pub(crate) updates: Vec<api::ContainerUpdate>,
    pub(crate) evictions: Vec<api::ContainerEviction>,
    pub(crate) window: Option<Window>,
}

/// Where the answer to a question goes.
pub(crate) type Reply = oneshot::Sender<Result<Answer, Error>>;

/// What comes to the hub.
pub(crate) enum Message {
    Join(Box<Plugin>, oneshot::Sender<Result<(), String>>),
    /// The plugin with this number is gone.
    Left(u64),
    Ask(Box<Question>, Reply),
    Tell(News),
    /// The runtime goes down.
    End(oneshot::Sender<()>),
}

/// What the hub, sessions and handles have in common.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) gate: Gate,
    /// Set once there is somebody to ask.
    runtime: OnceLock<Arc<dyn Runtime>>,
    queue: mpsc::UnboundedSender<Message>,
}

impl Core {
    pub(crate) fn send(&self, message: Message) {
        // A hub that has ended drops it, and with it whoever waits.
        let _ended = self.queue.send(message);
    }

    /// Carries out what a plugin wants by itself.
    pub(crate) async fn unsolicited(
        &self,
        asked: api::UpdateContainersRequest,
    ) -> Result<Vec<api::ContainerUpdate>, Status> {
        let gone = || Status { code: code::FAILED_PRECONDITION, message: "the runtime goes down".into() };
        let runtime = self.runtime.get().ok_or_else(gone)?;
        runtime.evict(asked.evict).await;
        Ok(runtime.update(asked.update).await)
    }

    /// Carries out what plugins want of other containers than the one that they were asked about. One that doesn't come to its end is
    /// not waited for: its container may be what somebody else waits for.
    pub(crate) async fn others(
        &self,
        updates: Vec<api::ContainerUpdate>,
        evictions: Vec<api::ContainerEviction>,
    ) {
        let Some(runtime) = self.runtime.get().filter(|_| !updates.is_empty() || !evictions.is_empty())
        else {
            return;
        };
        let runtime = runtime.clone();
        let work = tokio::spawn(async move {
            runtime.evict(evictions).await;
            for failed in runtime.update(updates).await {
                tracing::warn!(
                    container = failed.container_id,
                    "what a plugin wants of another container fails"
                );
            }
        });
        if tokio::time::timeout(self.config.request_timeout, work).await.is_err() {
            tracing::warn!("what a plugin wants of other containers takes long, and is not waited for");
        }
    }
}

/// A plugin that waits to be let in.
struct Joining {
    plugin: Plugin,
    told: oneshot::Sender<Result<(), String>>,
    /// When it has waited long enough: somebody holds a window open, and everybody else waits with it.
    deadline: Instant,
}

/// The hub's own.
struct Hub {
    core: Arc<Core>,
    messages: mpsc::UnboundedReceiver<Message>,
    /// In the order in which they are asked.
    plugins: Vec<Plugin>,
    joining: VecDeque<Joining>,
    /// Questions that would open a window, while a plugin waits for those that are open to close.
    later: VecDeque<(Box<Question>, Reply)>,
    /// Changes of containers that nobody waits for.
    work: JoinSet<()>,
}

impl Hub {
    fn new(core: Arc<Core>, messages: mpsc::UnboundedReceiver<Message>) -> Self {
        let (plugins, joining, later) = Default::default();
        Self { core, messages, plugins, joining, later, work: JoinSet::new() }
    }

    async fn run(mut self) {
        loop {
            while let Some(Joining { plugin, told, .. }) = self.next_in() {
                let _has_gone = told.send(self.let_in(plugin).await);
            }
            if self.joining.is_empty()
                && let Some((question, reply)) = self.later.pop_front()
            {
                self.answer(*question, reply).await;
                continue;
            }
            let (gate, deadline) =
                (self.core.gate.clone(), self.joining.front().map(|joining| joining.deadline));
            tokio::select! {
                biased;
                message = self.messages.recv() => match message {
                    Some(Message::End(told)) => return self.end(told).await,
                    Some(message) => self.take(message).await,
                    None => return,
                },
                () = gate.changed(), if deadline.is_some() => {}
                () = until(deadline) => self.send_away(),
                Some(_) = self.work.join_next() => {}
            }
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Join(plugin, told) => {
                let deadline = Instant::now() + self.core.config.registration_timeout;
                self.joining.push_back(Joining { plugin: *plugin, told, deadline });
            }
            Message::Left(number) => self.plugins.retain(|plugin| plugin.number != number),
            Message::Ask(question, reply) if question.opens_window() && !self.joining.is_empty() => {
                self.later.push_back((question, reply));
            }
            Message::Ask(question, reply) => self.answer(*question, reply).await,
            Message::Tell(news) => self.tell(news).await,
            // Taken by the loop.
            Message::End(told) => drop(told),
        }
    }

    /// The next plugin that can be let in.
    fn next_in(&mut self) -> Option<Joining> {
        if !self.core.gate.is_clear() {
            return None;
        }
        self.joining.pop_front()
    }

    /// The one that has waited longest has waited too long.
    fn send_away(&mut self) {
        if let Some(joining) = self.joining.pop_front() {
            let _has_gone =
                joining.told.send(Err("something is being made all the while that takes too long".into()));
        }
    }

    /// Tells a plugin all that there is; from then on it hears of every event.
    async fn let_in(&mut self, plugin: Plugin) -> Result<(), String> {
        if let Some(why) = plugin.connection.ended() {
            return Err(why);
        }
        let runtime = self.core.runtime.get().ok_or("the runtime is not there yet")?.clone();
        let Snapshot { pods, containers } = runtime.snapshot().await;
        let counts = (pods.len(), containers.len());
        let synchronized =
            plugin.synchronize((pods, containers), self.core.config.registration_timeout).await;
        let updates = synchronized.map_err(|error| format!("Synchronize: {error}"))?;
        tracing::info!(plugin = %plugin.name, pods = counts.0, containers = counts.1, "a plugin is in");
        let core = self.core.clone();
        self.work.spawn(async move { core.others(updates, Vec::new()).await });
        let at = self.plugins.partition_point(|known| known.name.index <= plugin.name.index);
        self.plugins.insert(at, plugin);
        Ok(())
    }

    async fn end(self, told: oneshot::Sender<()>) {
        for plugin in &self.plugins {
            let last = plugin.connection.call::<api::Empty>("Shutdown", &api::Empty {}, LAST_WORD).await;
            if let Err(error) = last {
                tracing::debug!(plugin = %plugin.name, %error, "a plugin has not heard that the runtime goes down");
            }
            plugin.connection.end("the runtime goes down");
        }
        let _has_gone = told.send(());
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
