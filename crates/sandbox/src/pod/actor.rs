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

mod effects;
mod supervision;
mod telling;
mod wishes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Span;

use crate::container::state::{ContainerEvent, ContainerGoal, ContainerState};
use crate::error::{Error, Kind, chain};
use crate::events::EventKind;
use crate::id::ContainerId;
use crate::identity;
use crate::pod::contact::Seek;
use crate::pod::limits::{Limits, PodResources};
use crate::pod::members::{Known, Member};
use crate::pod::namespace::NetworkNamespace;
use crate::pod::state::{Live, Part, Parts, PodEvent, PodGoal, PodState};
use crate::pod::told::Told;
use crate::pod::wish::{Reply, Wish};
use crate::pod::work::{Done, Work, called_off};
use crate::record::PodFacts;
use crate::shared::Shared;
use crate::supervisor::{Minder, News};
use effects::{Drain, publish_member, save_member};

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
    /// The pod's own network namespace, until the network has let go of it.
    netns: Option<Arc<NetworkNamespace>>,
    limits: Limits<Reply>,
    /// The supervisor that is out of touch and looked for.
    seeks: Option<Seek>,
    missed: Vec<(Option<ContainerId>, EventKind)>,
    /// How far listeners have heard of it.
    told: Told,
    mailbox: mpsc::Receiver<Wish>,
    work: JoinSet<Done>,
    timers: JoinSet<Done>,
    waiting: Vec<(Goal, Reply)>,
    later: Vec<(Asked, Goal, Reply)>,
    /// To be erased as soon as no container is busy.
    erasing: Option<Parts>,
    quitting: Option<Instant>,
    /// Its supervisor was lost, and what it left is ending.
    is_burying: bool,
    /// What plugins know of the pod.
    known: Known,
    /// What there was of it when it was ready.
    was: Option<Live>,
    /// The request that it began with, until what is done for that has begun.
    origin: Span,
}

/// What an actor begins with.
pub(crate) struct Beginning {
    pub(crate) shared: Arc<Shared>,
    pub(crate) facts: Arc<PodFacts>,
    pub(crate) state: PodState,
    pub(crate) members: BTreeMap<ContainerId, Member>,
    pub(crate) minder: Option<Minder>,
    /// The pod's limits, when they are not those of the request any more.
    pub(crate) limits: Option<PodResources>,
    /// The supervisor, when it is there but doesn't answer.
    pub(crate) seeks: Option<Seek>,
    /// What happened to its containers and itself while no daemon was there.
    pub(crate) missed: Vec<(Option<ContainerId>, EventKind)>,
    /// What was told of it before.
    pub(crate) told: Told,
}

impl Actor {
    /// An actor for a pod in any state: a new one, or one found in the records.
    pub(crate) fn new(beginning: Beginning, mailbox: mpsc::Receiver<Wish>) -> Self {
        let Beginning { shared, facts, state, members, minder, limits, seeks, missed, told } = beginning;
        let known = telling::known(&state);
        let netns = supervision::own_network(&facts, minder.as_ref());
        Self {
            shared,
            facts,
            state,
            message: String::new(),
            members,
            minder,
            netns,
            limits: Limits::new(limits),
            seeks,
            missed,
            told,
            mailbox,
            work: JoinSet::new(),
            timers: JoinSet::new(),
            waiting: Vec::new(),
            later: Vec::new(),
            erasing: None,
            quitting: None,
            is_burying: false,
            known,
            was: None,
            origin: Span::current(),
        }
    }

    /// Lives until the pod is gone, or the daemon goes. In a box: a task keeps what it is given twice.
    pub(crate) async fn run(mut self: Box<Self>) {
        match self.state {
            PodState::Making => self.begin(Work::MakePod),
            _ => self.take_up(),
        }
        self.origin = Span::none();
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
        let later = std::mem::take(&mut self.later).into_iter().map(|(_, goal, reply)| (goal, reply));
        for (_, reply) in std::mem::take(&mut self.waiting).into_iter().chain(later) {
            reply.send(Err(self.last_word()));
        }
        // What came while the last step was taken.
        self.mailbox.close();
        while let Ok(wish) = self.mailbox.try_recv() {
            wish.refuse(self.last_word());
        }
    }

    /// What those are told who still wanted something.
    fn last_word(&self) -> Error {
        match self.state == PodState::Gone {
            true => Error::NotFound { kind: Kind::Pod, id: self.facts.id.to_string() },
            false => Error::ShuttingDown,
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
        for (container, kind) in std::mem::take(&mut self.missed) {
            match container {
                Some(id) => self.tell(Some(&id), kind),
                None => self.announce(kind),
            }
        }
        // Written down when it has been told.
        self.save();
        self.members.values().for_each(|member| save_member(&self.shared, member));
        if let Some(seek) = self.seeks {
            self.begin(Work::Seek(seek));
        } else if self.minder.is_none()
            && matches!(&self.state, PodState::NotReady { parts } if parts.contains(&Part::Cgroup))
        {
            self.begin(Work::Bury);
        }
        let states: Vec<_> =
            self.members.iter().map(|(id, member)| (id.clone(), member.state.clone())).collect();
        for (id, state) in states {
            match state {
                ContainerState::Starting { .. } => self.launch(&id),
                ContainerState::Exited(_) => self.begin(Work::Tidy(id)),
                ContainerState::Making
                | ContainerState::Created
                | ContainerState::Running(_)
                | ContainerState::Stopping { .. }
                | ContainerState::Removing { .. }
                | ContainerState::Gone => {}
            }
        }
    }

    fn is_done(&self) -> bool {
        let is_gone = self.state == PodState::Gone;
        is_gone || (self.quitting.is_some() && self.work.is_empty())
    }

    fn happened(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::PodMade(made)) => {
                self.minder = Some(made.minder);
                self.hold_network();
                self.known = Known::There;
                self.pod_event(PodEvent::Made { live: made.live });
                drop(made.window);
            }
            Ok(Done::PodFailed(failed)) => {
                (self.minder, self.netns) = (failed.minder, failed.netns);
                self.message = chain(&failed.error);
                self.pod_event(PodEvent::Failed { left: failed.left, error: failed.error });
            }
            Ok(Done::Pod(PodEvent::SupervisorLost)) => self.lost(),
            Ok(Done::Pod(event)) => {
                self.let_go_of_network(&event);
                self.pod_event(event);
            }
            Ok(Done::ContainerMade(id, made)) => {
                let mut made = *made;
                let window = made.window.take();
                if let Some(member) = self.members.get_mut(&id) {
                    member.resources = made.resources.take().unwrap_or_else(|| member.resources.clone());
                    member.made = Some(made);
                }
                self.container_event(&id, ContainerEvent::Made);
                drop(window);
            }
            Ok(Done::Container(id, event)) => {
                let overdue = match &event {
                    ContainerEvent::KillOverdue(error) => Some(error.clone()),
                    _ => None,
                };
                self.container_event(&id, event);
                self.overdue(&id, overdue);
            }
            Ok(Done::Launched(id, events)) => self.launched(&id, events),
            Ok(Done::Reached(minder, snapshot)) => self.reached(*minder, &snapshot),
            Ok(Done::Buried { ends, alive }) => {
                self.buried(ends, alive);
                self.is_burying = true;
            }
            Ok(Done::Updated { id, change, outcome, reply }) => {
                self.updated(&id, &change, (outcome, reply));
            }
            Ok(Done::Weighed { after, outcome, reply }) => self.weighed(*after, (outcome, reply)),
            Ok(Done::Nothing) => {}
            Err(error) => tracing::error!(pod = %self.facts.id, %error, "a task of the pod's failed"),
        }
    }

    /// A pod that is being stopped gives up when one of its containers cannot be killed. A start that nobody answers for is no
    /// reason: whoever would carry it out goes with the pod.
    fn overdue(&mut self, id: &ContainerId, error: Option<Error>) {
        if error.is_some()
            && matches!(self.state, PodState::Draining { .. })
            && self.members.get(id).is_some_and(Member::is_called_off)
        {
            return self.container_event(id, called_off(id));
        }
        if error.is_some() && self.is_burying {
            self.all_buried();
        }
        let is_alive = self.members.get(id).is_some_and(|member| member.state.process().is_some());
        if let (Some(error), true, PodState::Draining { .. }) = (error, is_alive, &self.state) {
            self.message = chain(&error);
            self.pod_event(PodEvent::DrainFailed(error));
        }
    }

    /// Nothing ends any more of what a lost supervisor has left, or it can't be ended.
    fn all_buried(&mut self) {
        self.is_burying = false;
        self.pod_event(PodEvent::Buried);
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
        let _about = identity::of_container(id, member.name()).entered();
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
        if self.is_burying && is_idle {
            self.all_buried();
        }
        if let (Some(parts), true) = (self.erasing.clone(), is_idle) {
            self.erasing = None;
            self.begin(Work::Erase(parts));
        }
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
