//! What is done about what happened: records, statuses, events, answers, and work that is begun.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, Span};

use super::{Actor, Goal};
use crate::container::state::{ContainerEffect, ContainerEvent, ContainerState, Stage, Wanted};
use crate::error::{Error, chain};
use crate::events::{EventKind, Note};
use crate::id::ContainerId;
use crate::pod::members::Member;
use crate::pod::state::{PodEffect, PodState};
use crate::pod::status::PodStatus;
use crate::pod::work::{Task, Work, World};
use crate::record::{ContainerRecord, PodRecord};
use crate::shared::Shared;

/// How far a drain goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    /// Also those that were killed and did not end: the retry of a stop.
    Everything,
    /// Those that have not been killed yet.
    WhatStillRuns,
}

impl Actor {
    pub(super) fn enter(&mut self, (state, effects): (PodState, Vec<PodEffect>)) {
        if let PodState::Ready(live) = std::mem::replace(&mut self.state, state) {
            self.was = Some(live);
        }
        effects.into_iter().for_each(|effect| self.perform(effect));
    }

    pub(super) fn perform(&mut self, effect: PodEffect) {
        match effect {
            PodEffect::Drain => self.drain(Drain::Everything),
            PodEffect::Bury => self.begin(Work::Bury),
            PodEffect::Dismantle(parts) => {
                let farewell = self.farewell();
                self.begin(Work::Dismantle(parts, farewell));
            }
            PodEffect::Erase(parts) => self.erasing = Some(parts),
            PodEffect::Save => self.save(),
            PodEffect::Publish => self.publish(),
            PodEffect::Announce(kind) => self.announce(kind),
            PodEffect::Forget => self.forget(),
            PodEffect::Answer(goal, outcome) => self.answer(&Goal::Pod(goal), &outcome),
        }
    }

    pub(super) fn forget(&mut self) {
        while let Some((id, member)) = self.members.pop_first() {
            self.forget_container(&id, &member);
            self.tell(Some(&id), EventKind::Deleted);
        }
        self.shared.selinux.free(&self.facts.id);
        self.shared.registry.forget_pod(&self.facts.id, &self.facts.config.metadata);
        self.tell_of_removal();
    }

    pub(super) fn drain(&mut self, what: Drain) {
        let is_due = |state: &ContainerState| match (state, what) {
            (ContainerState::Running(_), _) => true,
            (ContainerState::Stopping { stage, .. }, Drain::WhatStillRuns) => *stage == Stage::Asked,
            (ContainerState::Starting { wanted, .. }, Drain::WhatStillRuns) => {
                matches!(wanted, Wanted::Yes | Wanted::ForNow)
            }
            (ContainerState::Stopping { .. } | ContainerState::Starting { .. }, Drain::Everything) => true,
            (ContainerState::Making | ContainerState::Created, _)
            | (ContainerState::Exited(_) | ContainerState::Removing { .. } | ContainerState::Gone, _) => {
                false
            }
        };
        let due: Vec<_> =
            self.members.iter().filter(|(_, m)| is_due(&m.state)).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.container_event(&id, ContainerEvent::Stop { grace: Duration::ZERO });
        }
    }

    pub(super) fn enter_container(
        &mut self,
        id: &ContainerId,
        (state, effects): (ContainerState, Vec<ContainerEffect>),
    ) {
        if let Some(member) = self.members.get_mut(id) {
            member.state = state;
        }
        effects.into_iter().for_each(|effect| self.perform_container(id, effect));
    }

    pub(super) fn perform_container(&mut self, id: &ContainerId, effect: ContainerEffect) {
        match effect {
            ContainerEffect::Launch => {
                self.save_container(id);
                self.launch(id);
            }
            ContainerEffect::Ask => self.begin(Work::Ask(id.clone())),
            ContainerEffect::Wait(grace) => self.begin(Work::Wait(id.clone(), grace)),
            ContainerEffect::Kill => self.begin(Work::Kill(id.clone())),
            ContainerEffect::CallOff => self.call_off(id),
            ContainerEffect::Tidy => self.begin(Work::Tidy(id.clone())),
            ContainerEffect::Erase => self.begin(Work::EraseContainer(id.clone())),
            ContainerEffect::Save => self.save_container(id),
            ContainerEffect::Announce(kind) => self.announce_container(id, kind),
            ContainerEffect::Forget => {
                if let Some(member) = self.members.remove(id) {
                    self.forget_container(id, &member);
                }
            }
            ContainerEffect::Answer(goal, outcome) => {
                self.answer(&Goal::Container(id.clone(), goal), &outcome)
            }
        }
    }

    pub(super) fn begin(&mut self, work: Work) {
        // What ends by itself, or not at all, holds up no daemon that goes.
        let is_timer = matches!(work, Work::Wait(..) | Work::Kill(_) | Work::CallOff(_) | Work::Seek(_));
        let span = self.request_of(&work);
        let Some(task) = self.task(work) else { return };
        let task = task.instrument(span);
        if is_timer {
            self.timers.spawn(task);
        } else {
            self.work.spawn(task);
        }
    }

    /// The span of the request that work is done for: of whoever waits for what it leads to, the first. What nobody waits for is
    /// the pod's own.
    fn request_of(&self, work: &Work) -> Span {
        if let Work::Update { reply, .. } | Work::Weigh { reply, .. } = work {
            return reply.request().clone();
        }
        let is_of = |goal: &Goal| match (goal, work.container()) {
            (Goal::Container(id, _), Some(container)) => id == container,
            (Goal::Pod(_), _) => true,
            (Goal::Container(..), None) => false,
        };
        let waits = self.waiting.iter().find(|(goal, _)| is_of(goal));
        let request = waits.map_or(&self.origin, |(_, reply)| reply.request());
        if request.is_none() { Span::current() } else { request.clone() }
    }

    pub(super) fn task(&mut self, work: Work) -> Option<Task> {
        let world = World {
            shared: &self.shared,
            facts: &self.facts,
            netns: self.netns.clone(),
            minder: &mut self.minder,
            members: &mut self.members,
        };
        work.task(world)
    }

    pub(super) fn answer(&mut self, goal: &Goal, outcome: &Result<(), Error>) {
        for (_, reply) in self.waiting.extract_if(.., |(waits_for, _)| waits_for == goal) {
            reply.send(outcome.clone());
        }
    }

    pub(super) fn save(&self) {
        let Some(record) = PodRecord::of(&self.facts, &self.state) else { return };
        let record = record.with_limits(self.limits.changed()).with_told(self.told);
        if let Err(error) = self.shared.store.save_pod(&record) {
            tracing::error!(pod = %self.facts.id, error = chain(&error), "the pod's record is out of date");
        }
    }

    pub(super) fn save_container(&self, id: &ContainerId) {
        if let Some(member) = self.members.get(id) {
            save_member(&self.shared, member);
        }
    }

    pub(super) fn status(&self) -> Arc<PodStatus> {
        let live = match &self.state {
            PodState::Ready(live) => Some(live),
            PodState::Making
            | PodState::Draining { .. }
            | PodState::Stopping { .. }
            | PodState::Unmade { .. }
            | PodState::NotReady { .. }
            | PodState::Removing { .. }
            | PodState::Gone => None,
        };
        let status = PodStatus::of(&self.facts, live, self.limits.now(&self.facts.config));
        Arc::new(PodStatus { message: self.message.clone(), ..status })
    }

    pub(super) fn publish(&self) {
        let client = self.minder.as_ref().map(|minder| minder.client.clone());
        self.shared.registry.publish_pod(self.status(), client);
    }

    pub(super) fn announce(&mut self, kind: EventKind) {
        self.publish();
        if self.told.goes_on_to(kind) {
            self.tell(None, kind);
        }
    }

    pub(super) fn announce_container(&mut self, id: &ContainerId, kind: EventKind) {
        if let Some(member) = self.members.get(id) {
            publish_member(&self.shared, member);
        }
        self.tell_plugins(id, kind);
        self.tell(Some(id), kind);
    }

    /// Tells of a container, or of the pod itself.
    pub(super) fn tell(&self, container: Option<&ContainerId>, kind: EventKind) {
        let note = Note { pod: self.facts.id.clone(), container: container.cloned(), kind };
        let shown = || self.members.values().filter_map(|member| member.status().map(Arc::new));
        self.shared.events.publish(note, || (self.status(), shown().collect()));
    }
}

pub(super) fn save_member(shared: &Shared, member: &Member) {
    let Some(made) = &member.made else { return };
    let Some(record) = ContainerRecord::of(&made.facts, &member.resources, &member.state) else { return };
    if let Err(error) = shared.store.save_container(&record) {
        tracing::error!(container = %made.facts.id, error = chain(&error), "the container's record is out of date");
    }
}

pub(super) fn publish_member(shared: &Shared, member: &Member) {
    if let (Some(made), Some(status)) = (&member.made, member.status()) {
        shared.registry.publish_container(Arc::new(status), &made.process);
    }
}
