//! The handle through which everything is asked for: it finds whose wish it is, puts it into the mailbox and waits for the answer.
//!
//! Here is what is asked of the daemon and of pods; `containers` and `collect` have the rest. Not here: doing any of it (see `pod::actor`), what only reads (see `exec`, `stats`, `registry`).

pub(crate) mod collect;
mod containers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime::cgroup::Cgroup;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::adopt::adopt;
use crate::apparmor::Apparmor;
use crate::clock;
use crate::config::{CgroupDriver, Config, Settings};
use crate::container::status::ContainerFilter;
use crate::current::Current;
use crate::error::{Error, Kind, chain};
use crate::events::{Events, Listener};
use crate::figures::{ContactCounts, Figures};
use crate::handler::{Handler, HandlerStatus};
use crate::id::PodId;
use crate::identity;
use crate::network::Network;
use crate::plugins::{self, About, Happened, News};
use crate::pod::actor::{Actor, Beginning};
use crate::pod::check;
use crate::pod::config::{PodConfig, full_name};
use crate::pod::limits::PodResources;
use crate::pod::state::PodState;
use crate::pod::status::{PodFilter, PodStatus};
use crate::pod::told::Told;
use crate::pod::wish::{MAILBOX, Reply, Wish};
use crate::prepared::PreparedNetworks;
use crate::record::{PodFacts, Store};
use crate::registry::{Queue, Registry};
use crate::rootfs::RootFilesystems;
use crate::scopes;
use crate::selinux::{self, Selinux};
use crate::shared::{Leftovers, Shared};
use crate::sources::Sources;
use crate::stats::{self, Accounts, Looks, PodUsage, Wanted};
use crate::supervisor::spawn::Binary;
use crate::supervisor::trial::try_users;
use crate::user_namespaces::{self, UserNamespaces};

/// How often a name is asked for whose holder is going.
const RUN_ROUNDS: usize = 8;

/// Other settings that are ready to be used: [`Pods::change_over`].
#[derive(Debug)]
pub struct PreparedSettings(Arc<Current>);

/// All pods of this daemon. Cloning gives another handle to the same pods.
///
/// Ids may be given by an unambiguous beginning. Every async method is safe to cancel: the work goes on in the pod's actor, and a
/// retry joins it or finds it done. To be used within a tokio runtime.
#[derive(Clone)]
pub struct Pods {
    pub(crate) shared: Arc<Shared>,
    /// The tasks of the actors: awaited by [`Pods::shutdown`].
    actors: Arc<Mutex<JoinSet<()>>>,
    /// What is done behind the start; cut off by [`Pods::shutdown`].
    background: Arc<Mutex<JoinSet<()>>>,
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
    /// the host's cgroups can't be used, or the SELinux policy that is loaded can't be asked. A pod that can't be recovered is logged and doesn't fail the others.
    pub async fn open(
        config: Config,
        network: Arc<dyn Network>,
        rootfs: Arc<dyn RootFilesystems>,
    ) -> Result<Self, Error> {
        let host = runtime::cgroup::Host::detect()
            .map_err(|cause| Error::step("finding the cgroup hierarchies", "/proc/self/mountinfo", cause))?;
        let (store, supervisor) = (Store::open(&config.state_dir)?, Binary::open(&config.supervisor)?);
        let users = try_users(&supervisor, &[&config.state_dir], Some(&*rootfs)).await;
        let shared = Arc::new(Shared {
            store,
            supervisor,
            prepared_networks: PreparedNetworks::new(config.prepared_networks),
            recursive_read_only_mounts: runtime::mount::can_be_read_only_with_all_below(),
            current: watch::Sender::new(Current::of(config.settings.clone()).await),
            users: UserNamespaces::new(users),
            host,
            apparmor: Apparmor::detect(&config.apparmor),
            selinux: Selinux::detect(config.selinux)?,
            registry: Registry::new(),
            events: Events::new(),
            network,
            rootfs,
            sources: Sources::default(),
            looks: Looks::default(),
            leftovers: Leftovers::default(),
            contacts: ContactCounts::default(),
            closing: AtomicBool::new(false),
            is_collected: watch::Sender::new(false),
            exec_output: Arc::new(AtomicUsize::new(config.exec_output)),
            config,
        });
        selinux::announce(&shared.selinux);
        let pods = Self { shared, actors: Arc::default(), background: Arc::default() };
        pods.adopt_all().await;
        let found = pods.shared.registry.pods_and_containers(&PodFilter::default());
        stats::take_first_samples(&pods.shared, found).await;
        Ok(pods)
    }

    /// Whether pods can have user namespaces here, as it was found at the start; tried again when that failed for a want that may have
    /// passed. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Exhausted`] or [`Error::Deadline`] for such a want, else what can't be done.
    pub async fn user_namespaces(&self) -> Result<(), Error> {
        let shared = &*self.shared;
        let directories = [&*shared.config.state_dir];
        let attempt = try_users(&shared.supervisor, &directories, Some(&*shared.rootfs));
        shared.users.usable(attempt).await
    }

    /// How many network namespaces are ready for pods to come.
    #[must_use]
    pub fn prepared_networks(&self) -> usize {
        self.shared.prepared_networks.ready()
    }

    /// What AppArmor does here, in words.
    ///
    /// # Errors
    /// Why it does nothing.
    pub fn apparmor(&self) -> Result<String, String> {
        self.shared.apparmor.state()
    }

    /// What SELinux does here, in words.
    ///
    /// # Errors
    /// Why it does nothing.
    pub fn selinux(&self) -> Result<String, String> {
        self.shared.selinux.state()
    }

    /// The runtime handlers: the default one under the empty name, then all by their names.
    pub fn handlers(&self) -> Vec<HandlerStatus> {
        let (current, own) = (self.shared.current(), self.shared.own_features());
        let status =
            |name: &str| HandlerStatus { name: name.to_owned(), features: current.features(name, own) };
        current.settings.handlers.names().map(status).collect()
    }

    /// Readies other settings without using them yet: asks the external runtimes that they name. One that doesn't answer is logged,
    /// and asked again by pods that want it. Safe to cancel.
    pub async fn prepare(&self, settings: Settings) -> PreparedSettings {
        PreparedSettings(self.shared.current().change(settings).await)
    }

    /// Uses them for pods and containers that are made, and containers that are started, from now on.
    pub fn change_over(&self, prepared: PreparedSettings) {
        self.shared.current.send_replace(prepared.0);
    }

    /// Checks the handler that an image is asked for; `field` is the path of what asks.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is none of the name.
    pub fn check_image_handler(&self, field: &str, name: &str) -> Result<(), Error> {
        check::image_handler(&self.shared.current().settings.handlers, (field, name))
    }

    async fn adopt_all(&self) {
        let adopted = adopt(&self.shared).await;
        for pod in adopted {
            let id = pod.beginning.facts.id.clone();
            if let Some(labels) = &pod.beginning.facts.selinux {
                self.shared.selinux.adopt(&id, labels);
            }
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
        self.collect_first().await;
        self.shared.store.boot.note();
    }

    /// Enters a pod into the registry and starts its actor.
    fn begin(&self, beginning: Beginning) -> Result<mpsc::Sender<Wish>, PodId> {
        let (mailbox, wishes) = mpsc::channel(MAILBOX);
        let facts = &beginning.facts;
        self.shared.registry.enter_pod(&facts.id, facts.config.metadata.clone(), mailbox.clone())?;
        let identity = identity::of_pod(facts);
        let actor = Box::new(Actor::new(beginning, wishes));
        actor.show();
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are let go of here, so that the set doesn't grow with every pod there ever was.
        while actors.try_join_next().is_some() {}
        actors.spawn(actor.run().instrument(identity));
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
        let current = self.shared.current();
        let handler = check::handler(&current.settings.handlers, &config)?;
        let name = current.settings.handlers.resolve(&config.runtime_handler);
        if let Some(runtime) = &handler.external
            && let Err(why) = current.runtimes.usable(name, runtime).await
        {
            return Err(Error::refused("runtime_handler", format!("\"{name}\" can't be used: {why}")));
        }
        check::check((&self.shared.config.cgroup_driver, handler), &config)?;
        self.shared.apparmor.check_pod(&config.security)?;
        if config.namespaces.user.is_some() {
            self.user_namespaces().await.map_err(refusal_of_users)?;
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
        let facts = Arc::new(self.facts(config, handler)?);
        let beginning = Beginning {
            shared: self.shared.clone(),
            facts: facts.clone(),
            state: PodState::Making,
            members: BTreeMap::new(),
            minder: None,
            limits: None,
            seeks: None,
            missed: Vec::new(),
            told: Told::default(),
        };
        let (id, mailbox) = match self.begin(beginning) {
            Ok(mailbox) => (facts.id.clone(), mailbox),
            Err(holder) => {
                self.shared.selinux.free(&facts.id);
                let mailbox = self.shared.registry.pod(holder.as_str())?.mailbox;
                (holder, mailbox)
            }
        };
        let (reply, answer) = Reply::channel(id.clone());
        post(&mailbox, id.as_str(), Wish::Join { config: config.clone(), reply })?;
        outcome(answer).await
    }

    fn facts(&self, config: &Arc<PodConfig>, handler: &Handler) -> Result<PodFacts, Error> {
        let id = PodId::random();
        let settings = &self.shared.config;
        let parent = match config.cgroup_parent.trim_matches('/') {
            "" => &settings.default_cgroup_parent,
            _ => &config.cgroup_parent,
        };
        let cgroup = scopes::pod_cgroup(&settings.cgroup_driver, parent, &id);
        let selinux = self.shared.selinux.of_pod(&id, config.security.selinux.as_ref())?;
        let (config, handler) = (config.clone(), handler.clone());
        Ok(PodFacts { id, created_at: clock::now(), config, handler, cgroup, selinux })
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

    /// Changes a pod's own limits: each of the two that is said is taken whole. What is written of them, `pod::limits` says. Safe to
    /// cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] when the pod is not ready, and what the kernel refuses.
    pub async fn update_pod_resources(&self, id: &str, limits: PodResources) -> Result<(), Error> {
        self.open_for_business()?;
        let entry = self.shared.registry.pod(id)?;
        if let (Some(plugins), Some(pod)) = (self.shared.plugins(), &entry.status) {
            plugins.update_pod(pod.clone(), &limits).await.map_err(plugins::refused(id))?;
        }
        let (reply, answer) = Reply::channel(());
        post(&entry.mailbox, id, Wish::UpdatePod { limits: Box::new(limits), reply })?;
        outcome(answer).await?;
        let pod = self.shared.registry.pod(id).ok().and_then(|entry| entry.status);
        if let (Some(plugins), Some(pod)) = (self.shared.plugins(), pod) {
            plugins.tell(News { what: Happened::Updated, about: About::Pod(pod) });
        }
        Ok(())
    }

    // ---- the rest ------------------------------------------------------------------------------------------------------

    /// What waits for the actors of all pods, those that are being made among them.
    pub fn queues(&self) -> Vec<Queue> {
        self.shared.registry.queues()
    }

    /// What happens from now on; the first who asks also hears what has happened before. A listener that falls behind by
    /// [`crate::events::EVENT_BACKLOG`] is told that it lost some.
    pub fn events(&self) -> Listener {
        let statuses = |id: &PodId| {
            let inside = ContainerFilter { pod: id.to_string(), ..ContainerFilter::default() };
            Some((self.pod(id.as_str()).ok()?, self.shared.registry.containers(&inside)))
        };
        self.shared.events.subscribe(statuses)
    }

    /// The time of a look at pods that begins now, in nanoseconds since the epoch by the clock of events: whoever compares the two finds
    /// every event that the look can have missed to be later. To be asked for before the look.
    pub fn time_of_look(&self) -> i64 {
        self.shared.events.now()
    }

    /// How many there are of everything.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let shared = &self.shared;
        let (contacts, listeners) = (shared.contacts.now(), shared.events.listeners());
        Figures { contacts, listeners, ..shared.registry.figures() }
    }

    /// What a pod uses with all its containers; nothing when it is not ready. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`], and as for [`Pods::pods_stats`].
    pub async fn pod_stats(&self, id: &str) -> Result<PodUsage, Error> {
        let pod = self.pod(id)?;
        let filter = PodFilter { id: pod.id.to_string(), ..PodFilter::default() };
        let mut found = self.pods_stats(&filter, &Wanted::of_pods()).await?;
        found.pop().ok_or_else(|| Error::NotFound { kind: Kind::Pod, id: id.to_owned() })
    }

    /// What the cgroups of this host count.
    pub fn accounts(&self) -> Accounts {
        self.shared.host.accounts()
    }

    /// What all pods use that a filter matches, each with its containers that run. What can't be read is missing in the answer, or in its pod.
    /// Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Deadline`] when nobody could begin to look: everybody who may is waiting for the kernel.
    pub async fn pods_stats(&self, filter: &PodFilter, wanted: &Wanted) -> Result<Vec<PodUsage>, Error> {
        let found = self.shared.registry.pods_and_containers(filter);
        stats::pods(&self.shared, found, wanted).await
    }

    /// Ends the daemon's part. The pods go on; work that is under way gets a few seconds to finish. Safe to cancel.
    pub async fn shutdown(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        // The next daemon collects anew.
        self.background.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        for mailbox in self.shared.registry.mailboxes() {
            // An actor whose mailbox is full is cut off with its task below.
            let _full = mailbox.try_send(Wish::Quit);
        }
        let mut actors = std::mem::take(&mut *self.actors.lock().unwrap_or_else(PoisonError::into_inner));
        let last = crate::pod::actor::LAST_WORK + Duration::from_secs(1);
        if tokio::time::timeout(last, async { while actors.join_next().await.is_some() {} }).await.is_err() {
            actors.shutdown().await;
        }
        if let CgroupDriver::Systemd(_) = self.shared.config.cgroup_driver {
            return;
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

/// Of a pod that asks for a user namespace. What may pass is no refusal: the same request may be granted later.
fn refusal_of_users(why: Error) -> Error {
    if user_namespaces::may_pass(&why) {
        return why;
    }
    let field = "linux.security_context.namespace_options.userns_options";
    Error::refused(field, format!("this node has no user namespaces: {}", chain(&why)))
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
