//! The work of a pod's actor: each kind becomes a task that owns what it needs and comes back with news.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use runtime::cgroup::Cgroup;

use crate::container::config::ContainerConfig;
use crate::container::end::{self, Ending};
use crate::container::make::{self as make_container, Making};
use crate::container::start::{self, Starting};
use crate::container::state::{ContainerEvent, ContainerState};
use crate::container::status::{Exited, Reason};
use crate::error::{Error, Kind, chain};
use crate::external;
use crate::id::ContainerId;
use crate::plugins;
use crate::pod::contact::{self, Seek};
use crate::pod::dismantle::{Dismantling, dismantle, summary};
use crate::pod::limits::{self, PodResources, Weigh};
use crate::pod::make;
use crate::pod::members::Member;
use crate::pod::namespace::NetworkNamespace;
use crate::pod::state::{Part, Parts, PodEvent};
use crate::pod::status::PodStatus;
use crate::pod::wish::Reply;
use crate::record::{self, ContainerFacts, PodFacts};
use crate::recover::Seen;
use crate::resources::Resources;
use crate::shared::{Shared, blocking};
use crate::spec;
use crate::supervisor::Minder;
use crate::supervisor::client::{Client, LogWish};

/// Work to be done.
pub(crate) enum Work {
    MakePod,
    /// The supervisor is gone: kill what it left and find out how it ended.
    Bury,
    /// The supervisor is out of touch: look for it until it answers or is gone.
    Seek(Seek),
    KillStrays(Vec<ContainerId>),
    /// Take these parts down, when plugins were asked to let the pod go, if they are to be.
    Dismantle(Parts, Option<Arc<PodStatus>>),
    Erase(Parts),
    MakeContainer(ContainerId, Arc<ContainerConfig>),
    Launch(ContainerId),
    Ask(ContainerId),
    Wait(ContainerId, Duration),
    Kill(ContainerId),
    /// Have a start given up.
    CallOff(ContainerId),
    Tidy(ContainerId),
    EraseContainer(ContainerId),
    Update {
        id: ContainerId,
        /// What was asked for.
        change: Box<Resources>,
        rewrite: Box<Rewrite>,
        reply: Reply,
    },
    /// Give the pod's cgroup the weight that these limits say.
    Weigh {
        before: Box<PodResources>,
        after: Box<PodResources>,
        reply: Reply,
    },
}

/// What is written for an update of a container.
#[derive(Debug)]
pub(crate) struct Rewrite {
    /// The limits.
    pub(crate) written: Resources,
    /// Those to go back to when not all can be.
    pub(crate) back: Resources,
    /// The OOM score of the processes so far, and from now on.
    pub(crate) scores: (i32, i32),
}

/// What came of it.
pub(crate) enum Done {
    PodMade(Box<make::Made>),
    PodFailed(Box<make::Failed>),
    Pod(PodEvent),
    ContainerMade(ContainerId, Box<make_container::Made>),
    Container(ContainerId, ContainerEvent),
    Launched(ContainerId, Vec<ContainerEvent>),
    /// The supervisor answers again, and says what runs.
    Reached(Box<Minder>, BTreeMap<ContainerId, Seen>),
    /// What ended with the supervisor, and what goes on without.
    Buried {
        ends: Vec<(ContainerId, Exited)>,
        alive: Vec<ContainerId>,
    },
    Updated {
        id: ContainerId,
        change: Box<Resources>,
        outcome: Result<(), Error>,
        reply: Reply,
    },
    Weighed {
        after: Box<PodResources>,
        outcome: Result<(), Error>,
        reply: Reply,
    },
    Nothing,
}

/// A task.
pub(crate) type Task = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What work is made of: the actor's own, lent for making a task.
pub(crate) struct World<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) facts: &'a Arc<PodFacts>,
    pub(crate) netns: Option<Arc<NetworkNamespace>>,
    pub(crate) minder: &'a mut Option<Minder>,
    pub(crate) members: &'a mut BTreeMap<ContainerId, Member>,
}

impl Work {
    /// The container that it is about.
    pub(crate) fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::MakeContainer(id, _)
            | Self::Launch(id)
            | Self::Ask(id)
            | Self::Wait(id, _)
            | Self::Kill(id)
            | Self::CallOff(id)
            | Self::Tidy(id)
            | Self::EraseContainer(id)
            | Self::Update { id, .. } => Some(id),
            Self::MakePod
            | Self::Bury
            | Self::Seek(_)
            | Self::KillStrays(_)
            | Self::Dismantle(..)
            | Self::Erase(_)
            | Self::Weigh { .. } => None,
        }
    }

    /// The task that does it; `None` when there is nothing to do it to.
    pub(crate) fn task(self, world: World<'_>) -> Option<Task> {
        match self {
            Self::MakePod => Some(make_pod(world)),
            Self::Bury => Some(contact::bury(&world)),
            Self::Seek(seek) => Some(contact::look_for(&world, seek)),
            Self::KillStrays(strays) => contact::kill(&world, strays),
            Self::Dismantle(parts, farewell) => Some(take_down(world, parts, farewell)),
            Self::Erase(parts) => Some(erase(world, parts)),
            Self::MakeContainer(id, config) => Some(make_one(world, id, config)),
            Self::Launch(id) => launch(world, id),
            Self::Ask(id) => ending(&world, &id).map(|ending| {
                Box::pin(async move {
                    ending.ask().await;
                    Done::Nothing
                }) as Task
            }),
            Self::Wait(id, grace) => Some(Box::pin(async move {
                tokio::time::sleep(grace).await;
                Done::Container(id, ContainerEvent::GraceOver)
            })),
            Self::Kill(id) => ending(&world, &id)
                .map(|ending| Box::pin(async move { Done::Container(id, ending.kill().await) }) as Task),
            Self::CallOff(id) => calling_off(&world, &id)
                .map(|start| Box::pin(async move { Done::Container(id, start.call_off().await) }) as Task),
            Self::Tidy(id) => tidy(&world, &id),
            Self::EraseContainer(id) => erase_one(&world, id),
            Self::Update { id, change, rewrite, reply } => {
                Some(update(&world, (id, change), *rewrite, reply))
            }
            Self::Weigh { before, after, reply } => Some(weigh(&world, (before, after), reply)),
        }
    }
}

pub(super) fn client(world: &World<'_>) -> Option<Client> {
    world.minder.as_ref().map(|minder| minder.client.clone())
}

fn facts_of(world: &World<'_>, id: &ContainerId) -> Option<Arc<ContainerFacts>> {
    world.members.get(id)?.made.as_ref().map(|made| made.facts.clone())
}

fn make_pod(world: World<'_>) -> Task {
    let (shared, facts) = (world.shared.clone(), world.facts.clone());
    Box::pin(async move {
        match make::make(&shared, &facts).await {
            Ok(made) => Done::PodMade(Box::new(made)),
            Err(failed) => Done::PodFailed(Box::new(failed)),
        }
    })
}

fn take_down(world: World<'_>, parts: Parts, farewell: Option<Arc<PodStatus>>) -> Task {
    let (shared, facts, netns) = (world.shared.clone(), world.facts.clone(), world.netns);
    let minder = world.minder.take();
    Box::pin(async move {
        if let Some(pod) = farewell {
            plugins::stop_pod(&shared, pod).await;
        }
        let netns = netns.as_deref();
        let down = Dismantling { shared: &shared, facts: &facts, minder: minder.as_ref(), netns };
        let left = dismantle(&down, &parts).await;
        let error = summary(&left);
        Done::Pod(PodEvent::Dismantled { left: left.into_iter().map(|(part, _)| part).collect(), error })
    })
}

/// Containers, then parts, then files. Addresses that a network will not give back do not keep a pod: the network frees them when it
/// collects what belongs to nobody.
fn erase(world: World<'_>, parts: Parts) -> Task {
    let (shared, facts, netns) = (world.shared.clone(), world.facts.clone(), world.netns);
    let minder = world.minder.take();
    let of = |member: &Member| Some((member.made.as_ref()?.facts.clone(), member.memory.clone()));
    let containers: Vec<_> = world.members.values().filter_map(of).collect();
    Box::pin(async move {
        let mut failures = Vec::new();
        for (container, memory) in &containers {
            memory.keep(&shared, (&container.pod, &container.id)).await;
            failures.extend(end::erase(&shared, container, None).await.err());
        }
        // Those whose records could not be read.
        for unknown in shared.store.container_ids(&facts.id) {
            failures.extend(make_container::release(&shared, &unknown).await.err());
        }
        for container in shared.leftovers.take(&facts.id) {
            if let Err(error) = make_container::release(&shared, &container).await {
                shared.leftovers.add(&facts.id, &container);
                failures.push(error);
            }
        }
        let netns = netns.as_deref();
        let down = Dismantling { shared: &shared, facts: &facts, minder: minder.as_ref(), netns };
        let mut left = dismantle(&down, &parts).await;
        left.retain(|(part, error)| {
            if *part == Part::Network {
                tracing::warn!(pod = %facts.id, error = chain(error), "removed without its network's consent");
            }
            *part != Part::Network
        });
        failures.extend(summary(&left));
        let left: Parts = left.into_iter().map(|(part, _)| part).collect();
        let result = match Error::all(failures) {
            None => record::remove_dir(&shared.store.pod_dir(&facts.id)),
            Some(error) => Err(error),
        };
        Done::Pod(PodEvent::Erased { left, result })
    })
}

fn make_one(world: World<'_>, id: ContainerId, config: Arc<ContainerConfig>) -> Task {
    let target = target_is_running(&world, &config);
    let client = client(&world);
    let making =
        Making { shared: world.shared.clone(), pod: world.facts.clone(), id: id.clone(), config, client };
    Box::pin(async move {
        let made = match target {
            Ok(()) => make_container::make(&making).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(made) => Done::ContainerMade(id, Box::new(made)),
            Err(error) => Done::Container(id, ContainerEvent::Failed(error)),
        }
    })
}

/// A container whose process namespace is to be joined has to run.
fn target_is_running(world: &World<'_>, config: &ContainerConfig) -> Result<(), Error> {
    let crate::pod::config::NamespaceMode::Target(target) = &config.security.namespaces.pid else {
        return Ok(());
    };
    let member = world.members.iter().find(|(id, _)| id.as_str() == target);
    match member.map(|(_, member)| &member.state) {
        Some(ContainerState::Running(_)) => Ok(()),
        Some(other) => Err(Error::refused(
            "linux.security_context.namespace_options.target_id",
            format!("container \"{target}\" is {}", other.name()),
        )),
        None => Err(Error::refused(
            "linux.security_context.namespace_options.target_id",
            format!("container \"{target}\" is not in this pod"),
        )),
    }
}

fn launch(world: World<'_>, id: ContainerId) -> Option<Task> {
    let connected = client(&world);
    let member = world.members.get_mut(&id)?;
    let made = member.made.as_mut()?;
    let (facts, resources, ready) = (made.facts.clone(), member.resources.clone(), made.ready.take());
    let (shared, called_off) = (world.shared.clone(), member.called_off.clone());
    let (current, pod) = (shared.current(), &world.facts.config.metadata);
    let logs = &current.settings.logs;
    let log = LogWish { limits: logs.limits(), copy: logs.copy(pod, (&facts.id, &facts.config.metadata)) };
    Some(Box::pin(async move {
        let events = match connected {
            Some(client) => {
                start::start(Starting { shared, client, facts, resources, ready, log, called_off }).await
            }
            None => Vec::new(),
        };
        Done::Launched(id, events)
    }))
}

/// The end of a start whose supervisor is gone.
pub(super) fn never_started(pod: &PodFacts) -> ContainerEvent {
    start_failed(Error::SupervisorGone { pod: pod.id.to_string() })
}

/// The end of a start that was stopped.
pub(super) fn called_off(id: &ContainerId) -> ContainerEvent {
    start_failed(Error::CalledOff { container: id.to_string() })
}

fn start_failed(error: Error) -> ContainerEvent {
    let exited = Exited {
        exit_code: 128,
        reason: Reason::StartError,
        message: error.to_string(),
        started_at: 0,
        finished_at: crate::clock::now(),
    };
    ContainerEvent::StartFailed { exited, error }
}

fn ending(world: &World<'_>, id: &ContainerId) -> Option<Ending> {
    let member = world.members.get(id)?;
    let facts = member.made.as_ref()?.facts.clone();
    let process = *member.state.process()?;
    Some(Ending {
        shared: world.shared.clone(),
        client: client(world),
        facts,
        started_at: process.started_at,
    })
}

/// What a start that is under way has brought about so far.
fn calling_off(world: &World<'_>, id: &ContainerId) -> Option<Ending> {
    let facts = facts_of(world, id)?;
    Some(Ending { shared: world.shared.clone(), client: client(world), facts, started_at: 0 })
}

/// Not awaited by anybody: what fails here is done again when the container is removed.
fn tidy(world: &World<'_>, id: &ContainerId) -> Option<Task> {
    let (shared, facts) = (world.shared.clone(), facts_of(world, id)?);
    Some(Box::pin(async move {
        if let Err(error) = external::clear(&shared, &facts).await {
            tracing::warn!(container = %facts.id, error = chain(&error), "an ended container's bundle stays for now");
        }
        if let Err(error) = end::remove_cgroup(&shared, &facts).await {
            tracing::warn!(container = %facts.id, error = chain(&error), "an ended container's cgroup stays for now");
        }
        Done::Nothing
    }))
}

fn erase_one(world: &World<'_>, id: ContainerId) -> Option<Task> {
    let (shared, client) = (world.shared.clone(), client(world));
    let facts = facts_of(world, &id)?;
    let memory = world.members.get(&id)?.memory.clone();
    Some(Box::pin(async move {
        memory.keep(&shared, (&facts.pod, &facts.id)).await;
        let removed = end::erase(&shared, &facts, client.as_ref()).await;
        Done::Container(id, ContainerEvent::Removed(removed))
    }))
}

fn update(
    world: &World<'_>,
    (id, change): (ContainerId, Box<Resources>),
    rewrite: Rewrite,
    reply: Reply,
) -> Task {
    let shared = world.shared.clone();
    let facts = facts_of(world, &id);
    Box::pin(async move {
        let outcome = match facts {
            Some(facts) => apply(&shared, facts, rewrite).await,
            None => Ok(()),
        };
        Done::Updated { id, change, outcome, reply }
    })
}

fn weigh(world: &World<'_>, (before, after): (Box<PodResources>, Box<PodResources>), reply: Reply) -> Task {
    let (shared, facts) = (world.shared.clone(), world.facts.clone());
    Box::pin(async move {
        let outcome = limits::weigh(&shared, &facts, (&after, Weigh::Again)).await;
        // The kernel may have it and systemd not, or not in time.
        if outcome.is_err()
            && let Err(error) = limits::weigh(&shared, &facts, (&before, Weigh::Again)).await
        {
            tracing::warn!(pod = %facts.id, error = chain(&error), "a weight that was refused is not taken back");
        }
        Done::Weighed { after, outcome, reply }
    })
}

async fn apply(shared: &Arc<Shared>, facts: Arc<ContainerFacts>, rewrite: Rewrite) -> Result<(), Error> {
    let after = shared.config.deadlines.cgroup;
    let host = shared.host.clone();
    let subject = facts.id.to_string();
    blocking(("changing the resources", &subject, after), move || {
        let Rewrite { written, back, scores: (score, new) } = rewrite;
        spec::resources::check(&host, &written)?;
        let limits = spec::resources::without_devices(&written)?;
        let failed = |cause| Error::step("changing the resources", facts.id.to_string(), cause);
        let cgroup = Cgroup::at(&host, &facts.cgroup).map_err(failed)?;
        let rescore = |from, to| if from == to { Ok(()) } else { cgroup.change_oom_score(from, to) };
        cgroup.apply(&limits).and_then(|()| rescore(score, new)).map_err(|cause| {
            // The kernel has a part of it, and the record what held before.
            let taken_back = spec::resources::without_devices(&back)
                .and_then(|limits| cgroup.apply(&limits).and_then(|()| rescore(new, score)).map_err(failed));
            if let Err(error) = taken_back {
                tracing::warn!(container = %facts.id, error = chain(&error), "a part of a refused update stays");
            }
            if is_memory_in_use(&cause) { in_use(&facts.id) } else { failed(cause) }
        })
    })
    .await
}

fn in_use(container: &ContainerId) -> Error {
    Error::WrongState {
        kind: Kind::Container,
        id: container.to_string(),
        state: "using more memory than that",
        wish: "have it as its linux.memory_limit_in_bytes",
    }
}

/// Whether the kernel could not free enough for a new limit (cgroup-v1/memory: EBUSY from `memory.limit_in_bytes`).
fn is_memory_in_use(error: &runtime::Error) -> bool {
    let runtime::Error::Cgroup { path, source, .. } = error else { return false };
    let is_limit = path
        .file_name()
        .is_some_and(|file| file == "memory.limit_in_bytes" || file == "memory.memsw.limit_in_bytes");
    is_limit && source.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error())
}
