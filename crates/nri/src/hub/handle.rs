//! What the runtime holds of all this.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Adjusted, Answer, Config, Core, Hub, Message, News, PluginStatus, Question, Runtime};
use crate::api;
use crate::error::Error;
use crate::gate::{Gate, Window};
use crate::{launch, listener};

/// How long the hub's last words may take: that of every plugin, one after the other.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The plugins of this node. To be used within a tokio runtime.
pub struct Nri {
    core: Arc<Core>,
    /// The hub, the listener and the sessions: ended by [`Nri::stop`], or with this.
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Nri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nri").finish_non_exhaustive()
    }
}

impl Nri {
    /// No plugins yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let (queue, messages) = mpsc::unbounded_channel();
        let (changes, begun_in_order) = mpsc::unbounded_channel();
        let gate = Gate::default();
        if config.validator.is_some() {
            // It has to be asked also when there is no plugin: one may be required.
            gate.enter();
        }
        let core = Arc::new(Core {
            config,
            gate,
            runtime: OnceLock::new(),
            queue,
            changes,
            plugins: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(super::changes::run(core.clone(), begun_in_order));
        tasks.spawn(Hub::new(core.clone(), messages).run());
        Self { core, tasks: Mutex::new(tasks) }
    }

    /// Lets plugins know of these pods and containers. To be called before the first one can come, and once.
    pub fn serve(&self, runtime: Arc<dyn Runtime>) {
        let _only_once = self.core.runtime.set(runtime);
    }

    /// Takes plugins in that connect to a socket. What lies in its way is removed, unless somebody listens there.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn listen(&self, socket: &Path) -> Result<(), Error> {
        let listener = listener::bind(socket)?;
        self.spawn(listener::accept(self.core.clone(), listener));
        Ok(())
    }

    /// Starts the plugins of a directory and waits until each is in, or is not going to be. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::File`] when the directory is there and can't be read. A plugin that can't be started is logged.
    pub async fn launch(&self, plugins: &Path, configurations: &Path) -> Result<(), Error> {
        let mut waiting = Vec::new();
        for plugin in launch::find(plugins, configurations)? {
            let (joined, is_in) = oneshot::channel();
            self.spawn(launch::run(self.core.clone(), plugin, joined));
            waiting.push(is_in);
        }
        for is_in in waiting {
            let _or_not = is_in.await;
        }
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// Whether there is nobody to ask or to tell.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.core.gate.is_idle()
    }

    /// The plugins that are in, in the order in which they are asked.
    #[must_use]
    pub fn plugins(&self) -> Vec<PluginStatus> {
        self.core.plugins().clone()
    }

    /// The window of a pod or container that is about to be listed, if there is nobody to ask about it.
    #[must_use]
    pub fn pass(&self) -> Option<Window> {
        self.core.gate.pass()
    }

    /// Whether a pod may be. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Closed`].
    pub async fn run_pod(&self, pod: api::PodSandbox) -> Result<Window, Error> {
        let answer = self.ask(Question::RunPod(pod)).await?;
        answer.window.ok_or(Error::Closed)
    }

    /// Asks what opens no window and changes nothing of what is asked about. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Closed`].
    pub async fn consent(&self, question: Question) -> Result<(), Error> {
        self.ask(question).await.map(|_| ())
    }

    /// Asks to let a pod go, and waits as long as all plugins may take for one answer: nobody's end waits for what plugins still have to hear
    /// of others. They hear of this one all the same. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Closed`].
    pub async fn stop_pod(&self, pod: api::PodSandbox) -> Result<(), Error> {
        let patience = self.core.config.request_timeout * self.core.gate.plugins().max(1);
        let id = pod.id.clone();
        let asked = tokio::time::timeout(patience, self.consent(Question::StopPod(pod))).await;
        asked.unwrap_or_else(|_| {
            tracing::warn!(pod = id, "a pod goes before plugins have answered: they are behind");
            Ok(())
        })
    }

    /// What a container is to be like. Changes of others are under way then. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Rejected`], [`Error::Conflict`], [`Error::NotYet`], [`Error::Closed`].
    pub async fn create(&self, request: api::CreateContainerRequest) -> Result<(Adjusted, Window), Error> {
        let answer = self.ask(Question::Create(Box::new(request))).await?;
        self.core.settled(answer.others).await;
        Ok((Adjusted { adjust: answer.adjust }, answer.window.ok_or(Error::Closed)?))
    }

    /// What a container's limits are to be: those that are asked for, and what plugins make of them. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Conflict`], [`Error::Closed`].
    pub async fn update(&self, request: api::UpdateContainerRequest) -> Result<api::LinuxResources, Error> {
        let answer = self.ask(Question::Update(Box::new(request))).await?;
        self.core.settled(answer.others).await;
        Ok(answer.limits)
    }

    async fn ask(&self, question: Question) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        self.core.send(Message::Ask(Box::new(question), reply));
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Tells what has happened, in this order, and waits for nobody.
    pub fn tell(&self, news: News) {
        if !self.is_idle() {
            self.core.send(Message::Tell(news));
        }
    }

    /// Tells plugins that the runtime goes down, and ends what was started. Not safe to cancel.
    pub async fn stop(&self) {
        let (told, ended) = oneshot::channel();
        self.core.send(Message::End(told));
        let _in_time = tokio::time::timeout(LAST_WORDS, ended).await;
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}
