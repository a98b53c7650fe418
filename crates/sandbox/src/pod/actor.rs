//! The one task that owns a pod and all in it.
//!
//! It holds the states, feeds them with wishes and with news, and performs the effects. It never waits for the world: work runs in tasks
//! of its own whose outcome comes back as news; a grace period is a timer. So a stop is heard while a start hangs.
//!
//! ```text
//! wishes (bounded) ─┐
//! news of its work ─┼─► step(state, event) ─► state', effects ─► records · statuses · events · answers · work
//! the supervisor   ─┘
//! ```
//! Not here: what follows from what (`pod::state`, `container::state`), the work itself (`pod::work`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock;
use crate::container::end;
use crate::container::state::{
    ContainerDenied, ContainerEffect, ContainerEvent, ContainerGoal, ContainerState,
};
use crate::error::{Error, Kind, chain};
use crate::events::{Event, EventKind};
use crate::id::ContainerId;
use crate::pod::members::Member;
use crate::pod::state::{Live, Part, Parts, PodDenied, PodEffect, PodEvent, PodGoal, PodState, ProcessId};
use crate::pod::status::{PodPhase, PodStatus};
use crate::pod::wish::{ContainerWish, Reply, Wish};
use crate::pod::work::{Done, Work};
use crate::record::{ContainerRecord, PodFacts, PodRecord};
use crate::shared::Shared;
use crate::supervisor::{Minder, News};

/// How long a daemon that goes down waits for work that is under way. What is cut off is found by the next one.
pub(crate) const LAST_WORK: Duration = Duration::from_secs(5);

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    Pod(PodGoal),
    Container(ContainerId, ContainerGoal),
}

/// A wish in the terms of the states.
#[derive(Debug, Clone)]
enum Asked {
    Pod(PodEvent),
    Container(ContainerId, ContainerEvent),
}

/// The actor.
pub(crate) struct Actor {
    shared: Arc<Shared>,
    facts: Arc<PodFacts>,
    state: PodState,
    message: String,
    members: BTreeMap<ContainerId, Member>,
    minder: Option<Minder>,
    mailbox: mpsc::Receiver<Wish>,
    work: JoinSet<Done>,
    timers: JoinSet<Done>,
    waiting: Vec<(Goal, Reply)>,
    later: Vec<(Asked, Goal, Reply)>,
    /// To be erased as soon as no container is busy.
    erasing: Option<Parts>,
    quitting: Option<Instant>,
}

/// What an actor begins with.
pub(crate) struct Beginning {
    pub(crate) shared: Arc<Shared>,
    pub(crate) facts: Arc<PodFacts>,
    pub(crate) state: PodState,
    pub(crate) members: BTreeMap<ContainerId, Member>,
    pub(crate) minder: Option<Minder>,
}

impl Actor {
    /// An actor for a pod in any state: a new one, or one found in the records.
    pub(crate) fn new(beginning: Beginning, mailbox: mpsc::Receiver<Wish>) -> Self {
        let Beginning { shared, facts, state, members, minder } = beginning;
        Self {
            shared,
            facts,
            state,
            message: String::new(),
            members,
            minder,
            mailbox,
            work: JoinSet::new(),
            timers: JoinSet::new(),
            waiting: Vec::new(),
            later: Vec::new(),
            erasing: None,
            quitting: None,
        }
    }

    /// Lives until the pod is gone, or the daemon goes.
    pub(crate) async fn run(mut self) {
        match self.state {
            PodState::Making => self.begin(Work::MakePod),
            _ => self.take_up(),
        }
        while !self.is_done() {
            let deadline = self.quitting;
            tokio::select! {
                biased;
                news = next_news(&mut self.minder) => self.supervisor_said(news),
                Some(done) = self.work.join_next() => self.happened(done),
                Some(done) = self.timers.join_next() => self.happened(done),
                () = until(deadline) => break,
                wish = self.mailbox.recv() => match wish {
                    Some(wish) => self.wish(wish),
                    None => break,
                },
            }
            self.settle();
        }
        for (_, reply) in
            self.waiting.drain(..).chain(self.later.drain(..).map(|(_, goal, reply)| (goal, reply)))
        {
            reply.send(Err(Error::ShuttingDown));
        }
    }

    /// Shows a pod that was found, before anybody can ask for it.
    pub(crate) fn show(&self) {
        if self.state != PodState::Making {
            self.publish();
            self.members.values().for_each(|member| publish_member(&self.shared, member));
        }
    }

    /// Goes on with a pod that was found: writes down what was found out, and ends what nobody minds any more.
    fn take_up(&mut self) {
        self.save();
        self.members.values().for_each(|member| save_member(&self.shared, member));
        if self.minder.is_none()
            && matches!(&self.state, PodState::NotReady { parts } if parts.contains(&Part::Cgroup))
        {
            self.begin(Work::Bury);
        }
        let states: Vec<_> =
            self.members.iter().map(|(id, member)| (id.clone(), member.state.clone())).collect();
        for (id, state) in states {
            match state {
                ContainerState::Starting { .. } => self.begin(Work::Launch(id)),
                ContainerState::Exited(_) => self.begin(Work::Tidy(id)),
                _ => {}
            }
        }
    }

    fn is_done(&self) -> bool {
        let is_gone = self.state == PodState::Gone;
        is_gone || (self.quitting.is_some() && self.work.is_empty())
    }

    // ---- what is asked -------------------------------------------------------------------------------------------------

    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Join { config, reply } => self.join(&config, reply),
            Wish::Stop(reply) => self.ask((Asked::Pod(PodEvent::Stop), Goal::Pod(PodGoal::Stopped), reply)),
            Wish::Remove(reply) => {
                self.ask((Asked::Pod(PodEvent::Remove), Goal::Pod(PodGoal::Removed), reply))
            }
            Wish::Create { config, reply } => self.create(Arc::new(*config), reply),
            Wish::Container { id, wish, reply } => self.container_wish(id, wish, reply),
            Wish::Update { id, resources, reply } => self.update(&id, &resources, reply),
            Wish::Quit => self.quitting = Some(Instant::now() + LAST_WORK),
        }
    }

    /// A request for this pod's name: the first one, a retry, or somebody else's.
    fn join(&mut self, config: &crate::pod::config::PodConfig, reply: Reply) {
        let is_same = *config == *self.facts.config;
        match &self.state {
            PodState::Making if is_same => self.waiting.push((Goal::Pod(PodGoal::Made), reply)),
            PodState::Ready(_) if is_same => reply.send(Ok(())),
            _ => reply.send(Err(Error::NameTaken {
                kind: Kind::Pod,
                name: crate::pod::config::full_name(&config.metadata),
                holder: self.facts.id.to_string(),
            })),
        }
    }

    fn create(
        &mut self,
        config: Arc<crate::container::config::ContainerConfig>,
        reply: tokio::sync::oneshot::Sender<Result<ContainerId, Error>>,
    ) {
        let holder = self.members.iter().find(|(_, member)| *member.name() == config.metadata);
        if let Some((id, member)) = holder {
            let id = id.clone();
            let is_same = *member.config == *config;
            let reply = Reply::with_id(reply, id.clone());
            return match &member.state {
                ContainerState::Making if is_same => {
                    self.waiting.push((Goal::Container(id, ContainerGoal::Made), reply));
                }
                ContainerState::Created if is_same => reply.send(Ok(())),
                _ => reply.send(Err(Error::NameTaken {
                    kind: Kind::Container,
                    name: format!("{}#{}", config.metadata.name, config.metadata.attempt),
                    holder: id.to_string(),
                })),
            };
        }
        let id = ContainerId::random();
        let reply = Reply::with_id(reply, id.clone());
        if !matches!(self.state, PodState::Ready(_)) {
            return reply.send(Err(self.wrong_pod_state("have containers made in it")));
        }
        self.members.insert(id.clone(), Member::new(config.clone()));
        self.waiting.push((Goal::Container(id.clone(), ContainerGoal::Made), reply));
        self.begin(Work::MakeContainer(id, config));
    }

    fn container_wish(&mut self, id: ContainerId, wish: ContainerWish, reply: Reply) {
        let (event, goal) = match wish {
            ContainerWish::Start => (ContainerEvent::Start, ContainerGoal::Started),
            ContainerWish::Stop { grace } => (ContainerEvent::Stop { grace }, ContainerGoal::Stopped),
            ContainerWish::Remove => (ContainerEvent::Remove, ContainerGoal::Removed),
        };
        self.ask((Asked::Container(id.clone(), event), Goal::Container(id, goal), reply));
    }

    /// Puts a wish to the states. It waits when its time has not come yet.
    fn ask(&mut self, (asked, goal, reply): (Asked, Goal, Reply)) {
        let denied = match &asked {
            Asked::Pod(event) => match self.state.clone().step(event.clone()) {
                Ok(next) => {
                    self.waiting.push((goal, reply));
                    return self.enter(next);
                }
                Err(PodDenied::Later) => None,
                Err(PodDenied::Impossible) => Some(self.wrong_pod_state("do that")),
            },
            Asked::Container(id, event) => match self.step_container(id, event.clone()) {
                Ok(next) => {
                    self.waiting.push((goal, reply));
                    return self.enter_container(&id.clone(), next);
                }
                Err(Refusal::Later) => None,
                Err(Refusal::Error(error)) => Some(error),
                Err(Refusal::Gone) => return reply.send(Ok(())),
            },
        };
        match denied {
            Some(error) => reply.send(Err(error)),
            None => self.later.push((asked, goal, reply)),
        }
    }

    fn step_container(
        &self,
        id: &ContainerId,
        event: ContainerEvent,
    ) -> Result<(ContainerState, Vec<ContainerEffect>), Refusal> {
        let is_start = matches!(event, ContainerEvent::Start);
        let Some(member) = self.members.get(id) else {
            let unknown = Error::NotFound { kind: Kind::Container, id: id.to_string() };
            return Err(if is_start { Refusal::Error(unknown) } else { Refusal::Gone });
        };
        if is_start && !matches!(self.state, PodState::Ready(_)) {
            return Err(Refusal::Error(self.wrong_pod_state("have containers started in it")));
        }
        member.state.clone().step(event).map_err(|denied| match denied {
            ContainerDenied::Later => Refusal::Later,
            ContainerDenied::WrongState | ContainerDenied::Impossible => Refusal::Error(Error::WrongState {
                kind: Kind::Container,
                id: id.to_string(),
                state: member.state.name(),
                wish: if is_start { "be started" } else { "do that" },
            }),
        })
    }

    fn wrong_pod_state(&self, wish: &'static str) -> Error {
        Error::WrongState { kind: Kind::Pod, id: self.facts.id.to_string(), state: self.state.name(), wish }
    }

    fn update(&mut self, id: &ContainerId, resources: &crate::resources::Resources, reply: Reply) {
        let Some(member) = self.members.get(id) else {
            return reply.send(Err(Error::NotFound { kind: Kind::Container, id: id.to_string() }));
        };
        let updated = member.resources.updated(resources);
        match &member.state {
            ContainerState::Created => {
                let outcome = crate::spec::resources::without_devices(&updated).map(drop);
                if outcome.is_ok() {
                    self.set_resources(id, updated);
                }
                reply.send(outcome);
            }
            ContainerState::Running(_) | ContainerState::Stopping { .. } => {
                self.begin(Work::Update {
                    id: id.clone(),
                    change: Box::new(resources.clone()),
                    updated: Box::new(updated),
                    reply,
                });
            }
            other => reply.send(Err(Error::WrongState {
                kind: Kind::Container,
                id: id.to_string(),
                state: other.name(),
                wish: "have its resources changed",
            })),
        }
    }

    fn set_resources(&mut self, id: &ContainerId, resources: crate::resources::Resources) {
        if let Some(member) = self.members.get_mut(id) {
            member.resources = resources;
            save_member(&self.shared, member);
            publish_member(&self.shared, member);
        }
    }

    // ---- what happens --------------------------------------------------------------------------------------------------

    fn happened(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::PodMade(made)) => {
                self.minder = Some(made.minder);
                self.pod_event(PodEvent::Made { live: made.live });
            }
            Ok(Done::PodFailed(failed)) => {
                self.minder = failed.minder;
                self.message = chain(&failed.error);
                self.pod_event(PodEvent::Failed { left: failed.left, error: failed.error });
            }
            Ok(Done::Pod(event)) => self.pod_event(event),
            Ok(Done::ContainerMade(id, made)) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.made = Some(*made);
                }
                self.container_event(&id, ContainerEvent::Made);
            }
            Ok(Done::Container(id, event)) => {
                let overdue = match &event {
                    ContainerEvent::KillOverdue(error) => Some(error.clone()),
                    _ => None,
                };
                self.container_event(&id, event);
                self.overdue(&id, overdue);
            }
            Ok(Done::Launched(id, events)) => {
                events.into_iter().for_each(|event| self.container_event(&id, event));
            }
            Ok(Done::Buried(ends)) => {
                ends.into_iter()
                    .for_each(|(id, exited)| self.container_event(&id, ContainerEvent::Ended(exited)));
            }
            Ok(Done::Updated { id, updated, outcome, reply }) => {
                if outcome.is_ok() {
                    self.set_resources(&id, *updated);
                }
                reply.send(outcome);
            }
            Ok(Done::Nothing) => {}
            Err(error) => tracing::error!(pod = %self.facts.id, %error, "a task of the pod's failed"),
        }
    }

    /// A pod that is being stopped gives up when one of its containers cannot be killed.
    fn overdue(&mut self, id: &ContainerId, error: Option<Error>) {
        let is_alive = self.members.get(id).is_some_and(|member| member.state.process().is_some());
        if let (Some(error), true, PodState::Draining { .. }) = (error, is_alive, &self.state) {
            self.message = chain(&error);
            self.pod_event(PodEvent::DrainFailed(error));
        }
    }

    fn supervisor_said(&mut self, news: News) {
        match news {
            News::Exited(id, report) => {
                self.container_event(&id, ContainerEvent::Ended(end::exited(&report)));
            }
            News::LogFailed(id, what) => {
                tracing::warn!(pod = %self.facts.id, container = %id, "log lines were lost: {what}");
            }
            News::Lost => {
                self.minder = None;
                if !matches!(
                    self.state,
                    PodState::Stopping { .. } | PodState::Removing { .. } | PodState::Gone
                ) {
                    tracing::warn!(pod = %self.facts.id, "the pod's supervisor is gone");
                    "the pod's supervisor is gone".clone_into(&mut self.message);
                }
                self.pod_event(PodEvent::SupervisorLost);
            }
        }
    }

    fn pod_event(&mut self, event: PodEvent) {
        let name = self.state.name();
        match self.state.clone().step(event) {
            Ok(next) => self.enter(next),
            Err(denied) => {
                tracing::error!(pod = %self.facts.id, state = name, ?denied, "news that cannot be")
            }
        }
    }

    fn container_event(&mut self, id: &ContainerId, event: ContainerEvent) {
        let Some(member) = self.members.get(id) else { return };
        match member.state.clone().step(event) {
            Ok(next) => self.enter_container(id, next),
            Err(denied) => {
                tracing::warn!(container = %id, state = member.state.name(), ?denied, "news that came too late");
            }
        }
    }

    /// What is due once everything that happened has been taken in.
    fn settle(&mut self) {
        for asked in std::mem::take(&mut self.later) {
            self.ask(asked);
        }
        if matches!(self.state, PodState::Draining { .. }) {
            self.drain(Drain::WhatStillRuns);
            if !self.members.values().any(|member| member.state.is_busy()) {
                self.pod_event(PodEvent::Drained);
            }
        }
        let is_idle = !self.members.values().any(|member| member.state.is_busy());
        if let (Some(parts), true) = (self.erasing.clone(), is_idle) {
            self.erasing = None;
            self.begin(Work::Erase(parts));
        }
    }

    // ---- what is done about it -----------------------------------------------------------------------------------------

    fn enter(&mut self, (state, effects): (PodState, Vec<PodEffect>)) {
        self.state = state;
        effects.into_iter().for_each(|effect| self.perform(effect));
    }

    fn perform(&mut self, effect: PodEffect) {
        match effect {
            PodEffect::Drain => self.drain(Drain::Everything),
            PodEffect::Bury => self.begin(Work::Bury),
            PodEffect::Dismantle(parts) => self.begin(Work::Dismantle(parts)),
            PodEffect::Erase(parts) => self.erasing = Some(parts),
            PodEffect::Save => self.save(),
            PodEffect::Announce(kind) => self.announce(kind),
            PodEffect::Forget => self.forget(),
            PodEffect::Answer(goal, outcome) => self.answer(&Goal::Pod(goal), &outcome),
        }
    }

    fn forget(&mut self) {
        for id in self.members.keys() {
            self.shared.registry.forget_container(id);
        }
        self.members.clear();
        self.shared.registry.forget_pod(&self.facts.id, &self.facts.config.metadata);
    }

    fn drain(&mut self, what: Drain) {
        let is_due = |state: &ContainerState| match (state, what) {
            (ContainerState::Running(_), _) => true,
            (ContainerState::Stopping { stage, .. }, Drain::WhatStillRuns) => {
                *stage == crate::container::state::Stage::Asked
            }
            (ContainerState::Stopping { .. }, Drain::Everything) => true,
            _ => false,
        };
        let due: Vec<_> =
            self.members.iter().filter(|(_, m)| is_due(&m.state)).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.container_event(&id, ContainerEvent::Stop { grace: Duration::ZERO });
        }
    }

    fn enter_container(
        &mut self,
        id: &ContainerId,
        (state, effects): (ContainerState, Vec<ContainerEffect>),
    ) {
        if let Some(member) = self.members.get_mut(id) {
            member.state = state;
        }
        effects.into_iter().for_each(|effect| self.perform_container(id, effect));
    }

    fn perform_container(&mut self, id: &ContainerId, effect: ContainerEffect) {
        match effect {
            ContainerEffect::Launch => {
                self.save_container(id);
                self.begin(Work::Launch(id.clone()));
            }
            ContainerEffect::Ask => self.begin(Work::Ask(id.clone())),
            ContainerEffect::Wait(grace) => self.begin(Work::Wait(id.clone(), grace)),
            ContainerEffect::Kill => self.begin(Work::Kill(id.clone())),
            ContainerEffect::Tidy => self.begin(Work::Tidy(id.clone())),
            ContainerEffect::Erase => self.begin(Work::EraseContainer(id.clone())),
            ContainerEffect::Save => self.save_container(id),
            ContainerEffect::Announce(kind) => self.announce_container(id, kind),
            ContainerEffect::Forget => {
                self.shared.registry.forget_container(id);
                self.members.remove(id);
            }
            ContainerEffect::Answer(goal, outcome) => {
                self.answer(&Goal::Container(id.clone(), goal), &outcome)
            }
        }
    }

    fn begin(&mut self, work: Work) {
        let is_timer = matches!(work, Work::Wait(..) | Work::Kill(_));
        let Some(task) = self.task(work) else { return };
        if is_timer {
            self.timers.spawn(task);
        } else {
            self.work.spawn(task);
        }
    }

    fn task(&mut self, work: Work) -> Option<crate::pod::work::Task> {
        let world = crate::pod::work::World {
            shared: &self.shared,
            facts: &self.facts,
            netns: self.netns(),
            minder: &mut self.minder,
            members: &mut self.members,
        };
        work.task(world)
    }

    fn netns(&self) -> Option<std::path::PathBuf> {
        // Held by the supervisor: its path opens as long as that lives.
        self.minder.as_ref().and_then(|minder| minder.netns.clone())
    }

    fn answer(&mut self, goal: &Goal, outcome: &Result<(), Error>) {
        for (_, reply) in self.waiting.extract_if(.., |(waits_for, _)| waits_for == goal) {
            reply.send(outcome.clone());
        }
    }

    fn save(&self) {
        let Some(record) = PodRecord::of(&self.facts, &self.state) else { return };
        if let Err(error) = self.shared.store.save_pod(&record) {
            tracing::error!(pod = %self.facts.id, error = chain(&error), "the pod's record is out of date");
        }
    }

    fn save_container(&self, id: &ContainerId) {
        if let Some(member) = self.members.get(id) {
            save_member(&self.shared, member);
        }
    }

    fn status(&self) -> Arc<PodStatus> {
        let live = match &self.state {
            PodState::Ready(live) => Some(live),
            PodState::Making
            | PodState::Draining { .. }
            | PodState::Stopping { .. }
            | PodState::NotReady { .. }
            | PodState::Removing { .. }
            | PodState::Gone => None,
        };
        let pid = |process: &ProcessId| u32::try_from(process.pid).ok();
        Arc::new(PodStatus {
            id: self.facts.id.clone(),
            config: self.facts.config.clone(),
            phase: if live.is_some() { PodPhase::Ready } else { PodPhase::NotReady },
            created_at: self.facts.created_at,
            ips: live.map(|live: &Live| live.ips.clone()).unwrap_or_default(),
            supervisor: live.and_then(|live| pid(&live.supervisor)),
            netns: live.and_then(|live| live.netns.clone()),
            cgroup: self.facts.cgroup.clone(),
            message: self.message.clone(),
        })
    }

    fn publish(&self) -> Arc<PodStatus> {
        let status = self.status();
        let client = self.minder.as_ref().map(|minder| minder.client.clone());
        self.shared.registry.publish_pod(status.clone(), client);
        status
    }

    fn announce(&self, kind: EventKind) {
        let pod = self.publish();
        self.tell(self.facts.id.to_string(), kind, pod);
    }

    fn announce_container(&self, id: &ContainerId, kind: EventKind) {
        if let Some(member) = self.members.get(id).filter(|member| member.state != ContainerState::Gone) {
            publish_member(&self.shared, member);
        }
        self.tell(id.to_string(), kind, self.status());
    }

    fn tell(&self, id: String, kind: EventKind, pod: Arc<PodStatus>) {
        let containers = self.members.values().filter_map(|member| member.status().map(Arc::new)).collect();
        self.shared.events.publish(Event { id, kind, at: clock::now(), pod, containers });
    }
}

/// How far a drain goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// Also those that were killed and did not end: the retry of a stop.
    Everything,
    /// Those that have not been killed yet.
    WhatStillRuns,
}

/// Why a wish of a container is not granted.
enum Refusal {
    Later,
    Gone,
    Error(Error),
}

fn save_member(shared: &Shared, member: &Member) {
    let Some(made) = &member.made else { return };
    let Some(record) = ContainerRecord::of(&made.facts, &member.resources, &member.state) else { return };
    if let Err(error) = shared.store.save_container(&record) {
        tracing::error!(container = %made.facts.id, error = chain(&error), "the container's record is out of date");
    }
}

fn publish_member(shared: &Shared, member: &Member) {
    if let (Some(made), Some(status)) = (&member.made, member.status()) {
        shared.registry.publish_container(Arc::new(status), &made.process);
    }
}

async fn next_news(minder: &mut Option<Minder>) -> News {
    match minder {
        Some(minder) => minder.news().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
