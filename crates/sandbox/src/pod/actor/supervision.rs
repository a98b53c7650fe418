//! The supervisor in the actor's life: what it tells, what is done while it is out of touch, and what is left when it is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Actor;
use crate::container::end;
use crate::container::state::{ContainerEvent, ContainerState};
use crate::container::status::Exited;
use crate::id::ContainerId;
use crate::identity;
use crate::pod::config::NamespaceMode;
use crate::pod::contact::Seek;
use crate::pod::namespace::NetworkNamespace;
use crate::pod::state::{Part, PodEvent, PodState};
use crate::pod::work::{Work, called_off, never_started};
use crate::record::PodFacts;
use crate::recover::{Seen, news_of, strays};
use crate::supervisor::client::ExitReport;
use crate::supervisor::{Minder, News};

impl Actor {
    pub(super) fn supervisor_said(&mut self, news: News) {
        let named = match &news {
            News::LogFailed(id, ..) | News::LogLost(id, ..) => self.members.get_key_value(id),
            // Said where what follows from it is done.
            News::Exited(..) | News::OutOfTouch | News::Lost => None,
        };
        let _about = named.map(|(id, member)| identity::of_container(id, member.name()).entered());
        match news {
            News::Exited(id, report) => {
                self.container_event(&id, ContainerEvent::Ended(end::exited(&report)));
            }
            News::LogFailed(id, path, error) => {
                let (pod, path) = (&self.facts.id, path.display());
                tracing::warn!(%pod, container = %id, %path, %error, "a container's log cannot be written");
            }
            News::LogLost(id, path, (lines, bytes)) => {
                let (pod, path) = (&self.facts.id, path.display());
                tracing::warn!(%pod, container = %id, %path, lines, bytes, "a container's log has a gap");
            }
            News::OutOfTouch => {
                tracing::warn!(pod = %self.facts.id, "the pod's supervisor is out of touch");
                self.shared.contacts.broken.fetch_add(1, Ordering::Relaxed);
                let seek = Seek { expected: self.minder.take().map(|minder| minder.process) };
                self.seeks = Some(seek);
                self.publish_if_shown();
                self.begin(Work::Seek(seek));
            }
            News::Lost => self.lost(),
        }
    }

    /// The supervisor is gone for good.
    pub(super) fn lost(&mut self) {
        (self.minder, self.seeks) = (None, None);
        // Before it is ready its making tells, after that it was ended on purpose.
        if matches!(self.state, PodState::Ready(_) | PodState::Draining { .. }) {
            tracing::warn!(pod = %self.facts.id, "the pod's supervisor is gone");
            self.shared.contacts.lost.fetch_add(1, Ordering::Relaxed);
            "the pod's supervisor is gone".clone_into(&mut self.message);
        }
        self.pod_event(PodEvent::SupervisorLost);
        for id in self.starting() {
            self.launch(&id);
        }
    }

    /// The supervisor answers again: what was missed is made up for.
    pub(super) fn reached(&mut self, minder: Minder, snapshot: &BTreeMap<ContainerId, Seen>) {
        // Whoever takes the pod down has not waited for this.
        if self.seeks.take().is_none() || self.is_going() {
            return;
        }
        tracing::info!(pod = %self.facts.id, "the pod's supervisor answers again");
        self.shared.contacts.regained.fetch_add(1, Ordering::Relaxed);
        self.minder = Some(minder);
        self.hold_network();
        self.publish_if_shown();
        let missed = self.members.iter().filter_map(|(id, member)| {
            let written = ExitReport::read(&self.shared.store.container_dir(&self.facts.id, id));
            Some((id.clone(), news_of(&member.state, (snapshot.get(id), written.as_ref()))?))
        });
        for (id, exited) in missed.collect::<Vec<_>>() {
            self.container_event(&id, ContainerEvent::Ended(exited));
        }
        let known = self.shared.store.container_ids(&self.facts.id);
        let strays = strays(snapshot, |id| known.contains(id));
        if !strays.is_empty() {
            self.begin(Work::KillStrays(strays));
        }
        for id in self.starting() {
            self.launch(&id);
        }
    }

    /// Keeps the pod's network namespace, whatever becomes of the supervisor.
    pub(super) fn hold_network(&mut self) {
        if self.netns.is_none() {
            self.netns = own_network(&self.facts, self.minder.as_ref());
        }
    }

    /// A network that would not let go is asked again, and its plugins look inside again.
    pub(super) fn let_go_of_network(&mut self, event: &PodEvent) {
        if let PodEvent::Dismantled { left, .. } | PodEvent::Erased { left, .. } = event
            && !left.contains(&Part::Network)
        {
            self.netns = None;
        }
    }

    /// What ended with the supervisor. What lives on is ended by other means.
    pub(super) fn buried(&mut self, ends: Vec<(ContainerId, Exited)>, alive: Vec<ContainerId>) {
        for (id, exited) in ends {
            self.container_event(&id, ContainerEvent::Ended(exited));
        }
        for id in alive {
            self.container_event(&id, ContainerEvent::Stop { grace: Duration::ZERO });
        }
    }

    /// Has a container started. While the supervisor is out of touch that waits; without one it never will be.
    pub(super) fn launch(&mut self, id: &ContainerId) {
        let Some(member) = self.members.get_mut(id).filter(|member| !member.is_launching) else { return };
        let is_called_off = member.is_called_off();
        if self.minder.is_some() && is_called_off {
            // The request of before may have arrived: to be killed, and not asked for once more.
            self.begin(Work::CallOff(id.clone()));
            self.container_event(id, called_off(id));
        } else if self.minder.is_some() {
            member.is_launching = true;
            self.begin(Work::Launch(id.clone()));
        } else if self.seeks.is_none() {
            let event = if is_called_off { called_off(id) } else { never_started(&self.facts) };
            self.container_event(id, event);
        }
    }

    /// Has a start given up: by whoever prepares it, or by the supervisor.
    pub(super) fn call_off(&mut self, id: &ContainerId) {
        if let Some(member) = self.members.get(id) {
            member.called_off.store(true, Ordering::SeqCst);
        }
        self.begin(Work::CallOff(id.clone()));
    }

    /// What came of a start; nothing when the supervisor got out of touch meanwhile.
    pub(super) fn launched(&mut self, id: &ContainerId, events: Vec<ContainerEvent>) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.is_launching = false;
        if events.is_empty() {
            return self.launch(id);
        }
        let is_called_off = member.is_called_off();
        for event in events {
            let event = match event {
                // Not what the kill looked like from over there.
                ContainerEvent::StartFailed { .. } if is_called_off => called_off(id),
                other => other,
            };
            self.container_event(id, event);
        }
    }

    fn starting(&self) -> Vec<ContainerId> {
        let starting = |state: &ContainerState| matches!(state, ContainerState::Starting { .. });
        self.members.iter().filter(|(_, member)| starting(&member.state)).map(|(id, _)| id.clone()).collect()
    }

    fn is_going(&self) -> bool {
        matches!(self.state, PodState::Stopping { .. } | PodState::Removing { .. } | PodState::Gone)
    }

    fn publish_if_shown(&self) {
        if self.state != PodState::Making && self.state != PodState::Gone {
            self.publish();
        }
    }
}

/// The network namespace of a pod that has one of its own. A supervisor may hold the host's, too, for those who are to join it.
pub(super) fn own_network(facts: &PodFacts, minder: Option<&Minder>) -> Option<Arc<NetworkNamespace>> {
    let is_own = facts.config.namespaces.network != NamespaceMode::Node;
    minder.filter(|_| is_own).and_then(|minder| minder.netns.clone())
}
