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
//! - Changes of other containers and evictions are begun here, in the order of the answers, and carried out elsewhere (`changes`): they may
//!   need the hub themselves.
//! - Plugins that are slow, each answer just in time, are found by how long messages wait here: whoever has cost most of it is cut off.
//!
//! Without plugins nothing comes here.

mod changes;
mod handle;
mod joining;
mod questions;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::api;
use crate::connection::CallError;
use crate::error::Error;
use crate::gate::{Gate, Window};
use crate::plugin::Plugin;
use crate::validate::Validator;
use changes::{Outcome, Wanted};
pub use handle::Nri;
use joining::Joining;

/// How long plugins have to take in that the runtime goes down.
const LAST_WORD: Duration = Duration::from_millis(500);

/// How long a message may wait here for plugins that are slow, in times that a request may take. One that hangs costs one of them, so that
/// only several slow answers in a row come so far.
const PATIENCE: u32 = 5;

/// Which part of the time that a request may take an answer takes in the mean that is slow. Who is quicker has much to hear at the moment,
/// and is waited for.
const SLOW: u32 = 4;

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
    /// Changes containers as plugins want, without asking them again, and returns what failed. All of it is begun, in this order, before the
    /// future waits for the first time: what is wanted later must not overtake it.
    async fn update(&self, updates: Vec<api::ContainerUpdate>) -> Vec<api::ContainerUpdate>;
    /// Stops containers that plugins want gone. May be dropped when all of it is begun.
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

/// A plugin that is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginStatus {
    /// Its index and name.
    pub name: String,
    /// The events that it hears of, by the names of their methods.
    pub events: Vec<&'static str>,
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

/// Answers to [`Question`]s. What they want of others is under way.
pub(crate) struct Answer {
    pub(crate) adjust: api::ContainerAdjustment,
    /// Of an update: the limits that are to be.
    pub(crate) limits: api::LinuxResources,
    pub(crate) others: Option<Outcome>,
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
    queue: mpsc::UnboundedSender<(Instant, Message)>,
    changes: mpsc::UnboundedSender<Wanted>,
    /// Who is in, for those who look from outside.
    plugins: Mutex<Vec<PluginStatus>>,
}

impl Core {
    pub(crate) fn send(&self, message: Message) {
        // A hub that has ended drops it, and with it whoever waits.
        let _ended = self.queue.send((Instant::now(), message));
    }

    fn plugins(&self) -> MutexGuard<'_, Vec<PluginStatus>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hub's own.
struct Hub {
    core: Arc<Core>,
    /// With when they came.
    messages: mpsc::UnboundedReceiver<(Instant, Message)>,
    /// In the order in which they are asked.
    plugins: Vec<Plugin>,
    joining: VecDeque<Joining>,
    /// Questions that would open a window, while a plugin waits for those that are open to close.
    later: VecDeque<(Box<Question>, Reply)>,
    /// Who waits for the end, when it has come.
    ending: Option<oneshot::Sender<()>>,
    /// Since when it is counted how long plugins take.
    counted_since: Instant,
}

impl Hub {
    fn new(core: Arc<Core>, messages: mpsc::UnboundedReceiver<(Instant, Message)>) -> Self {
        let (plugins, joining, later) = Default::default();
        Self { core, messages, plugins, joining, later, ending: None, counted_since: Instant::now() }
    }

    async fn run(mut self) {
        loop {
            self.let_all_in().await;
            if let Some(told) = self.ending.take() {
                return self.end(told).await;
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
                    Some((came, message)) => {
                        self.cut_off_who_is_slow(came);
                        self.take(message).await;
                    }
                    None => return,
                },
                () = gate.changed(), if deadline.is_some() => {}
                () = until(deadline) => self.send_away(),
            }
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Join(plugin, told) => {
                let deadline = Instant::now() + self.core.config.registration_timeout;
                self.joining.push_back(Joining { plugin: *plugin, told, deadline });
            }
            Message::Left(number) => {
                self.plugins.retain(|plugin| plugin.number != number);
                self.show();
            }
            Message::Ask(question, reply) if question.opens_window() && !self.joining.is_empty() => {
                self.later.push_back((question, reply));
            }
            Message::Ask(question, reply) => self.answer(*question, reply).await,
            Message::Tell(news) => self.tell(news).await,
            Message::End(told) => self.ending = Some(told),
        }
    }

    /// Shows who is in.
    fn show(&self) {
        *self.core.plugins() = self.plugins.iter().map(Plugin::status).collect();
    }

    /// Of plugins that answer in time, but so slowly that everybody waits for them. To be called with when the message at hand came.
    fn cut_off_who_is_slow(&mut self, came: Instant) {
        let (waited, patience) = (came.elapsed(), self.core.config.request_timeout);
        let spent = |plugin: &&Plugin| plugin.spent.all();
        let is_slow = |plugin: &&Plugin| plugin.spent.mean() >= patience / SLOW;
        if waited >= patience * PATIENCE
            && let Some(slowest) = self.plugins.iter().filter(is_slow).max_by_key(spent)
            // Not what it took to let another one in, or to read what there is.
            && spent(&slowest) >= waited / 2
        {
            slowest.cut_off("events in a row", &CallError::Slow(waited));
            self.count_anew();
        } else if came >= self.counted_since {
            // What was there before has been worked off.
            self.count_anew();
        }
    }

    fn count_anew(&mut self) {
        self.plugins.iter().for_each(|plugin| plugin.spent.reset());
        self.counted_since = Instant::now();
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
