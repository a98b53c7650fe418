//! The handle through which everything is asked for: it finds whose wish it is, puts it into the mailbox and waits for the answer.
//!
//! Not here: doing any of it (see `pod::actor`), what only reads (see `exec`, `stats`, `registry`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime::cgroup::Cgroup;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::adopt::adopt;
use crate::clock;
use crate::config::{CgroupDriver, Config, Features};
use crate::container::config::ContainerConfig;
use crate::container::status::{ContainerFilter, ContainerStatus};
use crate::error::{Error, Kind, chain};
use crate::events::{Event, Events};
use crate::exec::{self, ExecOutput, ExecRequest};
use crate::external;
use crate::handler::{Handler, HandlerStatus, Handlers};
use crate::id::{ContainerId, PodId};
use crate::network::Network;
use crate::pod::actor::{Actor, Beginning};
use crate::pod::check;
use crate::pod::config::{PodConfig, full_name};
use crate::pod::state::PodState;
use crate::pod::status::{PodFilter, PodStatus};
use crate::pod::wish::{ContainerWish, MAILBOX, Reply, Wish};
use crate::record::{self, PodFacts, Store};
use crate::registry::{PodEntry, Registry};
use crate::resources::Resources;
use crate::rootfs::RootFilesystems;
use crate::shared::{Leftovers, Shared, blocking};
use crate::sources::Sources;
use crate::stats::{self, ContainerUsage, Usage, Walks};
use crate::supervisor::spawn::Binary;
use crate::supervisor::trial::try_users;

/// How often a name is asked for whose holder is going.
const RUN_ROUNDS: usize = 8;

/// All pods of this daemon. Cloning gives another handle to the same pods.
///
/// Ids may be given by an unambiguous beginning. Every async method is safe to cancel: the work goes on in the pod's actor, and a
/// retry joins it or finds it done. To be used within a tokio runtime.
#[derive(Clone)]
pub struct Pods {
    shared: Arc<Shared>,
    /// The tasks of the actors: awaited by [`Pods::shutdown`].
    actors: Arc<Mutex<JoinSet<()>>>,
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pods").finish_non_exhaustive()
    }
}

impl Pods {
    /// Finds the pods of an earlier daemon on the same directories and goes on with them; undoes what was half made.
    ///
    /// Not safe to cancel.
    ///
    /// # Errors
    /// [`Error::Refused`] for a setting that is not supported, [`Error::Step`] when the state directory, the supervisor binary or
    /// the host's cgroups can't be used. A pod that can't be recovered is logged and doesn't fail the others.
    pub async fn open(
        config: Config,
        network: Arc<dyn Network>,
        rootfs: Arc<dyn RootFilesystems>,
    ) -> Result<Self, Error> {
        if config.cgroup_driver == CgroupDriver::Systemd {
            return Err(Error::refused("cgroup_driver", "the systemd driver is not supported yet"));
        }
        let host = runtime::cgroup::Host::detect()
            .map_err(|cause| Error::step("finding the cgroup hierarchies", "/proc/self/mountinfo", cause))?;
        let (store, supervisor) = (Store::open(&config.state_dir)?, Binary::open(&config.supervisor)?);
        let users = try_users(&supervisor, &[&config.state_dir], Some(&*rootfs)).await;
        if let Err(why) = &users {
            tracing::info!(why, "no user namespaces");
        }
        let shared = Arc::new(Shared {
            store,
            supervisor,
            features: Features::detect(users.is_ok()),
            runtimes: ask(&config.handlers).await,
            users,
            host,
            registry: Registry::new(),
            events: Events::new(),
            network,
            rootfs,
            sources: Sources::default(),
            walks: Walks::default(),
            leftovers: Leftovers::default(),
            closing: AtomicBool::new(false),
            config,
        });
        let pods = Self { shared, actors: Arc::default() };
        pods.adopt_all().await;
        Ok(pods)
    }

    /// Whether pods can have user namespaces here, as it was found at the start.
    ///
    /// # Errors
    /// What can't be done.
    pub fn user_namespaces(&self) -> Result<(), &str> {
        self.shared.users.as_ref().map_err(String::as_str).copied()
    }

    /// The runtime handlers: the default one under the empty name, then all by their names.
    pub fn handlers(&self) -> Vec<HandlerStatus> {
        let status =
            |name: &str| HandlerStatus { name: name.to_owned(), features: self.shared.features(name) };
        self.shared.config.handlers.names().map(status).collect()
    }

    async fn adopt_all(&self) {
        let adopted = adopt(&self.shared).await;
        for pod in adopted {
            let id = pod.beginning.facts.id.clone();
            if pod.is_half_made {
                tracing::warn!(pod = %id, "a pod that was never finished is taken down");
            }
            match self.begin(pod.beginning) {
                Err(holder) => {
                    tracing::error!(pod = %id, %holder, "two pods have one name; this one is left alone")
                }
                Ok(mailbox) if pod.is_half_made => {
                    let (reply, _nobody_waits) = Reply::channel(());
                    // A fresh mailbox has room.
                    let _sent = mailbox.try_send(Wish::Remove(reply));
                }
                Ok(_) => {}
            }
        }
        // With those of pods whose records cannot be read.
        let store = &self.shared.store;
        let known: Vec<_> = store.pod_ids().iter().flat_map(|pod| store.container_ids(pod)).collect();
        self.shared.rootfs.retain(&known).await;
        self.collect().await;
    }

    /// Has the network free what belongs to no pod. To be called from time to time. Safe to cancel.
    pub async fn collect(&self) {
        let shared = self.shared.clone();
        let census = move || {
            let mut pods = shared.registry.pod_ids();
            // A pod whose record cannot be read still has its network.
            pods.extend(shared.store.pod_ids());
            pods
        };
        if let Err(error) = self.shared.network.collect(Arc::new(census)).await {
            tracing::warn!(error = chain(&error), "the network did not free what belongs to no pod");
        }
    }

    /// Enters a pod into the registry and starts its actor.
    fn begin(&self, beginning: Beginning) -> Result<mpsc::Sender<Wish>, PodId> {
        let (mailbox, wishes) = mpsc::channel(MAILBOX);
        let facts = &beginning.facts;
        self.shared.registry.enter_pod(&facts.id, facts.config.metadata.clone(), mailbox.clone())?;
        let actor = Actor::new(beginning, wishes);
        actor.show();
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are let go of here, so that the set doesn't grow with every pod there ever was.
        while actors.try_join_next().is_some() {}
        actors.spawn(actor.run());
        Ok(mailbox)
    }

    // ---- pods ----------------------------------------------------------------------------------------------------------

    /// Makes a pod sandbox. A request with the name of a pod that is being made, or was made, from the same request gets that one.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NameTaken`], [`Error::NetworkNotReady`], [`Error::Deadline`], and those of the steps. Nothing is left then, or
    /// what is left is listed as a pod that is not ready.
    pub async fn run(&self, config: PodConfig) -> Result<PodId, Error> {
        self.open_for_business()?;
        let handler = check::handler(&self.shared.config, &config)?;
        if let Err(why) = self.shared.features(&config.runtime_handler) {
            let why = format!(
                "\"{}\" can't be used: {why}",
                self.shared.config.handlers.resolve(&config.runtime_handler)
            );
            return Err(Error::refused("runtime_handler", why));
        }
        check::check(handler, &config)?;
        if let (Some(_), Err(why)) = (&config.namespaces.user, self.user_namespaces()) {
            let field = "linux.security_context.namespace_options.userns_options";
            return Err(Error::refused(field, format!("this node has no user namespaces: {why}")));
        }
        check::profile_exists(&self.shared, &config).await?;
        let (config, handler) = (Arc::new(config), handler.clone());
        for _ in 0..RUN_ROUNDS {
            match self.run_or_join(&config, &handler).await {
                // Whoever had the name was just going.
                Err(Error::NotFound { .. }) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Exhausted {
            what: "the patience for the name",
            subject: full_name(&config.metadata),
            cause: None,
        })
    }

    async fn run_or_join(&self, config: &Arc<PodConfig>, handler: &Handler) -> Result<PodId, Error> {
        let facts = Arc::new(self.facts(config, handler));
        let beginning = Beginning {
            shared: self.shared.clone(),
            facts: facts.clone(),
            state: PodState::Making,
            members: BTreeMap::new(),
            minder: None,
            seeks: None,
        };
        let (id, mailbox) = match self.begin(beginning) {
            Ok(mailbox) => (facts.id.clone(), mailbox),
            Err(holder) => {
                let mailbox = self.shared.registry.pod(holder.as_str())?.mailbox;
                (holder, mailbox)
            }
        };
        let (reply, answer) = Reply::channel(id.clone());
        post(&mailbox, id.as_str(), Wish::Join { config: config.clone(), reply })?;
        outcome(answer).await
    }

    fn facts(&self, config: &Arc<PodConfig>, handler: &Handler) -> PodFacts {
        let id = PodId::random();
        let parent = match config.cgroup_parent.trim_matches('/') {
            "" => self.shared.config.default_cgroup_parent.trim_matches('/'),
            given => given,
        };
        let cgroup = if parent.is_empty() { format!("/{id}") } else { format!("/{parent}/{id}") };
        PodFacts { id, created_at: clock::now(), config: config.clone(), handler: handler.clone(), cgroup }
    }

    /// Stops a pod: ends its containers, gives its network back, ends its supervisor. Idempotent; an unknown pod is stopped.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Deadline`] and those of the steps; to be asked again.
    pub async fn stop(&self, id: &str) -> Result<(), Error> {
        self.of_pod(id, Wish::Stop).await
    }

    /// Stops a pod if it must be, and removes it with its containers. Idempotent; an unknown pod is removed.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// As for [`Pods::stop`].
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        self.of_pod(id, Wish::Remove).await
    }

    async fn of_pod(&self, id: &str, wish: impl FnOnce(Reply) -> Wish) -> Result<(), Error> {
        let entry = match self.shared.registry.pod(id) {
            Err(Error::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        self.open_for_business()?;
        let (reply, answer) = Reply::channel(());
        match post(&entry.mailbox, id, wish(reply)) {
            // It went in this moment.
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => match outcome(answer).await {
                // It went while the wish was in its mailbox.
                Err(Error::NotFound { kind: Kind::Pod, .. }) => Ok(()),
                done => done,
            },
        }
    }

    /// What was published of a pod.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn pod(&self, id: &str) -> Result<Arc<PodStatus>, Error> {
        let entry = self.shared.registry.pod(id)?;
        entry.status.ok_or_else(|| Error::NotFound { kind: Kind::Pod, id: id.to_owned() })
    }

    /// All pods that a filter matches.
    pub fn pods(&self, filter: &PodFilter) -> Vec<Arc<PodStatus>> {
        self.shared.registry.pods(filter)
    }

    // ---- containers ----------------------------------------------------------------------------------------------------

    /// Makes a container in a pod. A retry joins as in [`Pods::run`].
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the pod, [`Error::WrongState`] when it is not ready, [`Error::Refused`], [`Error::NoImage`], [`Error::NameTaken`], and those
    /// of the steps. Nothing is left then.
    pub async fn create_container(&self, pod: &str, config: ContainerConfig) -> Result<ContainerId, Error> {
        self.open_for_business()?;
        let entry = self.shared.registry.pod(pod)?;
        let (reply, answer) = oneshot::channel();
        post(&entry.mailbox, pod, Wish::Create { config: Box::new(config), reply })?;
        outcome(answer).await
    }

    /// Starts a container. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`], [`Error::Start`] with the step that failed; the container is exited then.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let (container, pod) = self.shared.registry.container_and_pod(id)?;
        self.of_container((&container.status.id, &pod), ContainerWish::Start).await
    }

    /// Stops a container: its stop signal, then SIGKILL after the grace period. Idempotent; an unknown container is stopped.
    ///
    /// Safe to cancel; the stop goes on.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it doesn't even end after SIGKILL; to be asked again.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        self.end_container(id, ContainerWish::Stop { grace }).await
    }

    /// Kills a container if it must be, and removes it. Its log stays. Idempotent; an unknown container is removed.
    ///
    /// Safe to cancel; the removal goes on.
    ///
    /// # Errors
    /// [`Error::Deadline`] and those of the steps; to be asked again.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.end_container(id, ContainerWish::Remove).await
    }

    async fn end_container(&self, id: &str, wish: ContainerWish) -> Result<(), Error> {
        match self.shared.registry.container_and_pod(id) {
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok((container, pod)) => match self.of_container((&container.status.id, &pod), wish).await {
                // It went in this moment.
                Err(Error::NotFound { .. }) => Ok(()),
                outcome => outcome,
            },
        }
    }

    async fn of_container(
        &self,
        (id, pod): (&ContainerId, &PodEntry),
        wish: ContainerWish,
    ) -> Result<(), Error> {
        self.open_for_business()?;
        let (reply, answer) = Reply::channel(());
        post(&pod.mailbox, id.as_str(), Wish::Container { id: id.clone(), wish, reply })?;
        outcome(answer).await
    }

    /// What was published of a container.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn container(&self, id: &str) -> Result<Arc<ContainerStatus>, Error> {
        Ok(self.shared.registry.container(id)?.status)
    }

    /// All containers that a filter matches.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerStatus>> {
        self.shared.registry.containers(filter)
    }

    /// Changes a container's limits. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`], [`Error::Refused`], and what the kernel refuses.
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), Error> {
        self.open_for_business()?;
        let (container, pod) = self.shared.registry.container_and_pod(id)?;
        let (reply, answer) = Reply::channel(());
        let (id, resources) = (container.status.id.clone(), Box::new(resources));
        post(&pod.mailbox, container.status.id.as_str(), Wish::Update { id, resources, reply })?;
        outcome(answer).await
    }

    /// Has a running container's log opened anew, after kubelet has moved the old one away. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] when it doesn't run, [`Error::Step`] when the file can't be opened.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let (container, pod) = self.shared.registry.container_and_pod(id)?;
        let client = exec::running(&container, &pod, "have its log opened anew")?;
        client.reopen_log(&container.status.id, self.shared.config.deadlines.start).await
    }

    /// Runs a command in a running container and collects what it prints. Safe to cancel; the command is killed then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] when it doesn't run, [`Error::Deadline`] when the command takes too long (it is killed),
    /// [`Error::Exec`] when it can't be executed.
    pub async fn exec_sync(&self, id: &str, request: ExecRequest) -> Result<ExecOutput, Error> {
        let (container, pod) = self.shared.registry.container_and_pod(id)?;
        exec::sync(&self.shared, (&container, &pod), request).await
    }

    // ---- the rest ------------------------------------------------------------------------------------------------------

    /// What happens from now on. A listener that falls behind by [`crate::events::EVENT_BACKLOG`] is told that it lost some.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// What a container uses. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Step`] when its counters can't be read.
    pub async fn container_stats(&self, id: &str) -> Result<ContainerUsage, Error> {
        let container = self.shared.registry.container(id)?;
        let pod = self.shared.registry.pod(container.pod.as_str())?;
        stats::container(&self.shared, &container.status, &pod).await
    }

    /// What all containers use that a filter matches. One that ends meanwhile is left out. Safe to cancel.
    pub async fn containers_stats(
        &self,
        filter: &ContainerFilter,
    ) -> Vec<(Arc<ContainerStatus>, ContainerUsage)> {
        stats::containers(&self.shared, self.containers(filter)).await
    }

    /// What a pod uses with all its containers. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Step`] when its counters can't be read.
    pub async fn pod_stats(&self, id: &str) -> Result<Usage, Error> {
        stats::pod(&self.shared, &*self.pod(id)?).await
    }

    /// The OCI specification of a container, as JSON, for verbose statuses. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Step`] when it can't be read.
    pub async fn container_spec(&self, id: &str) -> Result<serde_json::Value, Error> {
        let status = self.container(id)?;
        let path = self.shared.store.container_dir(&status.pod, &status.id).join("spec.json");
        // The state directory may be on a disk.
        let attempt = ("reading the specification", status.id.as_str(), self.shared.config.deadlines.cgroup);
        blocking(attempt, move || record::read_json(&path)).await
    }

    /// Ends the daemon's part. The pods go on; work that is under way gets a few seconds to finish. Safe to cancel.
    pub async fn shutdown(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        for mailbox in self.shared.registry.mailboxes() {
            // An actor whose mailbox is full is cut off with its task below.
            let _full = mailbox.try_send(Wish::Quit);
        }
        let mut actors = std::mem::take(&mut *self.actors.lock().unwrap_or_else(PoisonError::into_inner));
        let last = crate::pod::actor::LAST_WORK + Duration::from_secs(1);
        if tokio::time::timeout(last, async { while actors.join_next().await.is_some() {} }).await.is_err() {
            actors.shutdown().await;
        }
        // Made with the first pod in it; several daemons may share it.
        let parent = format!("/{}", self.shared.config.default_cgroup_parent.trim_matches('/'));
        if parent != "/" {
            let unused = Cgroup::at(&self.shared.host, &parent);
            unused.iter().for_each(Cgroup::remove_if_unused);
        }
    }

    fn open_for_business(&self) -> Result<(), Error> {
        if self.shared.closing.load(Ordering::Relaxed) { Err(Error::ShuttingDown) } else { Ok(()) }
    }
}

/// Asks all external runtimes side by side what they can do.
async fn ask(handlers: &Handlers) -> BTreeMap<String, Result<Features, String>> {
    let mut asked = JoinSet::new();
    for (name, runtime) in handlers.external() {
        let (name, runtime) = (name.clone(), runtime.clone());
        asked.spawn(async move {
            let features = external::ask(&runtime).await;
            if let Err(why) = &features {
                tracing::error!(handler = name, why, "pods of a runtime handler are refused");
            }
            (name, features)
        });
    }
    asked.join_all().await.into_iter().collect()
}

/// Puts a wish into a mailbox; one that is full answers at once instead of making everybody wait.
fn post(mailbox: &mpsc::Sender<Wish>, subject: &str, wish: Wish) -> Result<(), Error> {
    mailbox.try_send(wish).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            Error::Exhausted { what: "the queue of requests", subject: subject.to_owned(), cause: None }
        }
        mpsc::error::TrySendError::Closed(_) => Error::NotFound { kind: Kind::Pod, id: subject.to_owned() },
    })
}

async fn outcome<T>(answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
    answer.await.unwrap_or(Err(Error::ShuttingDown))
}
