//! What plugins of the node are told of a pod and its containers: whoever knows that something is there hears of its end, once, and then that it
//! is gone.
//!
//! Not here: what they are asked, which the work does (see `plugins`).

use std::sync::Arc;

use super::Actor;
use crate::events::EventKind;
use crate::id::ContainerId;
use crate::plugins::{About, Happened, News, view_of};
use crate::pod::members::{Known, Member};
use crate::pod::state::PodState;
use crate::pod::status::PodStatus;

/// What plugins that come know of a pod that was found.
pub(super) fn known(state: &PodState) -> Known {
    match state {
        // Nobody has been asked about it.
        PodState::Making | PodState::Unmade { .. } | PodState::Gone => Known::Nothing,
        PodState::NotReady { parts } if parts.is_empty() => Known::Ended,
        PodState::Ready(_)
        | PodState::Draining { .. }
        | PodState::Stopping { .. }
        | PodState::NotReady { .. }
        | PodState::Removing { .. } => Known::There,
    }
}

impl Actor {
    /// The pod with what there was of it while it was ready.
    fn view(&self) -> Arc<PodStatus> {
        let live = match &self.state {
            PodState::Ready(live) => Some(live),
            _ => self.was.as_ref(),
        };
        Arc::new(PodStatus::of(&self.facts, live, self.limits.now(&self.facts.config)))
    }

    /// Whom plugins are asked to let go before it is taken down; `None` when they were asked before.
    pub(super) fn farewell(&mut self) -> Option<Arc<PodStatus>> {
        if self.known != Known::There {
            return None;
        }
        self.known = Known::Ended;
        self.shared.plugins().is_some().then(|| self.view())
    }

    /// Tells what has happened to a container.
    pub(super) fn tell_plugins(&mut self, id: &ContainerId, kind: EventKind) {
        let (what, known) = match kind {
            EventKind::Created => (Happened::Made, Known::There),
            EventKind::Started => (Happened::Started, Known::There),
            EventKind::Stopped => (Happened::Ended, Known::Ended),
            EventKind::Deleted => return,
        };
        let pod = self.shared.plugins().is_some().then(|| self.view());
        let Some(member) = self.members.get_mut(id) else { return };
        member.known = known;
        let (Some(pod), Some(status)) = (pod, member.status()) else { return };
        let view = view_of(&self.shared, pod, Arc::new(status));
        self.tell_news(what, About::Container(view));
    }

    /// Lets go of a container that is gone, and tells that.
    pub(super) fn forget_container(&self, id: &ContainerId, member: &Member) {
        let shown = self.shared.registry.container(id.as_str()).ok();
        self.shared.registry.forget_container(id);
        let Some(shown) = shown.filter(|_| self.shared.plugins().is_some()) else { return };
        let view = || About::Container(member.memory.view(self.view(), shown.status.clone()));
        if member.known == Known::There {
            self.tell_news(Happened::Ended, view());
        }
        if member.known != Known::Nothing {
            self.tell_news(Happened::Removed, view());
        }
    }

    /// Tells that the pod is gone.
    pub(super) fn tell_of_removal(&mut self) {
        if self.known == Known::There {
            self.tell_news(Happened::Ended, About::Pod(self.view()));
        }
        if self.known != Known::Nothing {
            self.tell_news(Happened::Removed, About::Pod(self.view()));
        }
        self.known = Known::Nothing;
    }

    fn tell_news(&self, what: Happened, about: About) {
        if let Some(plugins) = self.shared.plugins() {
            plugins.tell(News { what, about });
        }
    }
}
