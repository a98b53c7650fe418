//! What is asked of a pod, put to the states. A wish whose time has not come yet is kept and put again at the next change.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::effects::{publish_member, save_member};
use super::{Actor, Asked, Goal, LAST_WORK};
use crate::container::config::ContainerConfig;
use crate::container::state::{
    ContainerDenied, ContainerEffect, ContainerEvent, ContainerGoal, ContainerState,
};
use crate::error::{Error, Kind};
use crate::id::ContainerId;
use crate::pod::config::{PodConfig, full_name};
use crate::pod::limits::PodResources;
use crate::pod::members::Member;
use crate::pod::state::{PodDenied, PodEvent, PodGoal, PodState, Then};
use crate::pod::wish::{Asker, ContainerWish, Reply, Wish};
use crate::pod::work::{Rewrite, Work};
use crate::resources::Resources;

/// Why a wish of a container is not granted.
pub(super) enum Refusal {
    Later,
    Gone,
    Error(Error),
}

impl Actor {
    pub(super) fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Join { config, reply } => self.join(&config, reply),
            Wish::Stop(reply) => self.ask((Asked::Pod(PodEvent::Stop), Goal::Pod(PodGoal::Stopped), reply)),
            Wish::Remove(reply) => {
                self.ask((Asked::Pod(PodEvent::Remove), Goal::Pod(PodGoal::Removed), reply))
            }
            Wish::Create { config, asker } => self.create(Arc::new(*config), asker),
            Wish::Container { id, wish, reply } => self.container_wish(id, wish, reply),
            Wish::Update { id, resources, reply } => self.update(&id, &resources, reply),
            Wish::UpdatePod { limits, reply } => self.update_pod(*limits, reply),
            Wish::Quit => self.quitting = Some(Instant::now() + LAST_WORK),
        }
    }

    /// A request for this pod's name: the first one, a retry, or somebody else's. Who waits for the name of a pod that goes is told
    /// that it is gone, and asks for it anew.
    pub(super) fn join(&mut self, config: &PodConfig, reply: Reply) {
        let is_same = *config == *self.facts.config;
        match &self.state {
            PodState::Unmade { .. } => {
                self.ask((Asked::Pod(PodEvent::Remove), Goal::Pod(PodGoal::Made), reply));
            }
            PodState::Draining { then: Then::Remove, .. }
            | PodState::Stopping { then: Then::Remove, .. }
            | PodState::Removing { .. } => self.waiting.push((Goal::Pod(PodGoal::Made), reply)),
            PodState::Making if is_same => self.waiting.push((Goal::Pod(PodGoal::Made), reply)),
            PodState::Ready(_) if is_same => reply.send(Ok(())),
            PodState::Gone => {
                reply.send(Err(Error::NotFound { kind: Kind::Pod, id: self.facts.id.to_string() }))
            }
            PodState::Making
            | PodState::Ready(_)
            | PodState::Draining { then: Then::Rest, .. }
            | PodState::Stopping { then: Then::Rest, .. }
            | PodState::NotReady { .. } => reply.send(Err(Error::NameTaken {
                kind: Kind::Pod,
                name: full_name(&config.metadata),
                holder: self.facts.id.to_string(),
            })),
        }
    }

    pub(super) fn create(&mut self, config: Arc<ContainerConfig>, asker: Asker) {
        let holder = self.members.iter().find(|(_, member)| *member.name() == config.metadata);
        if let Some((id, member)) = holder {
            let id = id.clone();
            let is_same = *member.config == *config;
            let reply = Reply::with_id(asker, id.clone());
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
        let reply = Reply::with_id(asker, id.clone());
        if !matches!(self.state, PodState::Ready(_)) {
            return reply.send(Err(self.wrong_pod_state("have containers made in it")));
        }
        self.members.insert(id.clone(), Member::new(config.clone()));
        self.waiting.push((Goal::Container(id.clone(), ContainerGoal::Made), reply));
        self.begin(Work::MakeContainer(id, config));
    }

    pub(super) fn container_wish(&mut self, id: ContainerId, wish: ContainerWish, reply: Reply) {
        let (event, goal) = match wish {
            ContainerWish::Start => (ContainerEvent::Start, ContainerGoal::Started),
            ContainerWish::Stop { grace } => (ContainerEvent::Stop { grace }, ContainerGoal::Stopped),
            ContainerWish::Remove => (ContainerEvent::Remove, ContainerGoal::Removed),
        };
        self.ask((Asked::Container(id.clone(), event), Goal::Container(id, goal), reply));
    }

    /// Puts a wish to the states. It waits when its time has not come yet.
    pub(super) fn ask(&mut self, (asked, goal, reply): (Asked, Goal, Reply)) {
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

    pub(super) fn step_container(
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
        if is_start && self.seeks.is_some() {
            return Err(Refusal::Error(Error::OutOfTouch { pod: self.facts.id.to_string() }));
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

    pub(super) fn wrong_pod_state(&self, wish: &'static str) -> Error {
        Error::WrongState { kind: Kind::Pod, id: self.facts.id.to_string(), state: self.state.name(), wish }
    }

    pub(super) fn update(&mut self, id: &ContainerId, resources: &Resources, reply: Reply) {
        let Some(member) = self.members.get_mut(id) else {
            return reply.send(Err(Error::NotFound { kind: Kind::Container, id: id.to_string() }));
        };
        // One at a time, so that what is written last is what came last, and what is recorded.
        if let Some(waiting) = &mut member.updates {
            return waiting.push_back((resources.clone(), reply));
        }
        let after = member.resources.updated(resources);
        let written = resources.completed(&after);
        match &member.state {
            ContainerState::Created => {
                // Here and not in work of its own: a start that came meanwhile would not know of it.
                let outcome = crate::spec::resources::check(&self.shared.host, &written);
                self.updated(id, resources, (outcome, reply));
            }
            ContainerState::Running(_) | ContainerState::Stopping { .. } => {
                member.updates = Some(VecDeque::new());
                let back = written.taken_back(&member.resources);
                let scores = (member.resources.oom_score(), after.oom_score());
                let rewrite = Box::new(Rewrite { written, back, scores });
                self.begin(Work::Update {
                    id: id.clone(),
                    change: Box::new(resources.clone()),
                    rewrite,
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

    pub(super) fn update_pod(&mut self, limits: PodResources, reply: Reply) {
        if !matches!(self.state, PodState::Ready(_)) {
            return reply.send(Err(self.wrong_pod_state("have its resources changed")));
        }
        if let Some((after, reply)) = self.limits.begin(&self.facts.config, (limits, reply)) {
            let before = Box::new(self.limits.now(&self.facts.config));
            self.begin(Work::Weigh { before, after: Box::new(after), reply });
        }
    }

    /// Takes in what came of a change of the pod's own limits, and goes on to the next one.
    pub(super) fn weighed(&mut self, after: PodResources, (outcome, reply): (Result<(), Error>, Reply)) {
        let waiting = self.limits.end(outcome.is_ok().then_some(after));
        if outcome.is_ok() {
            self.save();
            self.publish();
        }
        reply.send(outcome);
        for (limits, reply) in waiting {
            self.update_pod(limits, reply);
        }
    }

    /// Takes in what came of a change of limits, and goes on to the next one.
    pub(super) fn updated(
        &mut self,
        id: &ContainerId,
        change: &Resources,
        (outcome, reply): (Result<(), Error>, Reply),
    ) {
        let Some(member) = self.members.get_mut(id) else { return reply.send(outcome) };
        if outcome.is_ok() {
            member.resources = member.resources.updated(change);
            member.process_as_updated();
            save_member(&self.shared, member);
            publish_member(&self.shared, member);
        }
        let waiting = member.updates.take();
        reply.send(outcome);
        for (change, reply) in waiting.into_iter().flatten() {
            self.update(id, &change, reply);
        }
    }
}
