//! Numbers about this daemon's pods, for those who watch over it.
//!
//! Not here: what pods use (see `stats`), how long anything takes (see `stage`).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::container::status::PhaseName;
use crate::pod::status::PodPhase;

/// How much there is of everything, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Pods that are being made, and not shown yet.
    pub pods_making: usize,
    /// Pods that are ready.
    pub pods_ready: usize,
    /// Pods that are not ready.
    pub pods_not_ready: usize,
    /// Containers without a process yet.
    pub containers_created: usize,
    /// Containers that run.
    pub containers_running: usize,
    /// Containers that have ended.
    pub containers_exited: usize,
    /// Wishes that wait in all mailboxes.
    pub wishes: usize,
    /// Wishes in the fullest mailbox.
    pub fullest_mailbox: usize,
    /// Places in a mailbox.
    pub mailbox: usize,
    /// The supervisors of pods that are ready.
    pub supervisors: Vec<u32>,
    /// Pods that are ready and whose supervisor is being looked for.
    pub out_of_touch: usize,
    /// How often supervisors got out of touch, answered again, and were lost since this daemon began.
    pub contacts: Contacts,
    /// Who listens to events.
    pub listeners: usize,
}

/// What has happened to the connections to supervisors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contacts {
    /// Connections that broke off.
    pub broken: u64,
    /// Supervisors that answered again.
    pub regained: u64,
    /// Supervisors that ended although their pods were wanted.
    pub lost: u64,
}

/// The same, while it is counted.
#[derive(Debug, Default)]
pub(crate) struct ContactCounts {
    pub(crate) broken: AtomicU64,
    pub(crate) regained: AtomicU64,
    pub(crate) lost: AtomicU64,
}

/// What of a pod counts.
#[derive(Debug)]
pub(crate) struct Glance {
    /// What was published of it.
    pub(crate) phase: Option<PodPhase>,
    /// Places in its mailbox that are free.
    pub(crate) free: usize,
    /// All of them.
    pub(crate) places: usize,
    /// Whether its supervisor answers.
    pub(crate) is_in_touch: bool,
}

impl ContactCounts {
    pub(crate) fn now(&self) -> Contacts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Contacts { broken: read(&self.broken), regained: read(&self.regained), lost: read(&self.lost) }
    }
}

impl Figures {
    pub(crate) fn add_pod(&mut self, pod: &Glance) {
        match pod.phase {
            None => self.pods_making += 1,
            Some(PodPhase::Ready) => {
                self.pods_ready += 1;
                self.out_of_touch += usize::from(!pod.is_in_touch);
            }
            Some(PodPhase::NotReady) => self.pods_not_ready += 1,
        }
        let wishes = pod.places.saturating_sub(pod.free);
        self.wishes += wishes;
        self.fullest_mailbox = self.fullest_mailbox.max(wishes);
        self.mailbox = pod.places;
    }

    pub(crate) fn add_container(&mut self, phase: PhaseName) {
        match phase {
            PhaseName::Created => self.containers_created += 1,
            PhaseName::Running => self.containers_running += 1,
            PhaseName::Exited => self.containers_exited += 1,
            PhaseName::Unknown => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_counts_once_and_the_fullest_mailbox_is_told() {
        let mut figures = Figures::default();
        let pod = |phase, free, is_in_touch| Glance { phase, free, places: 256, is_in_touch };
        figures.add_pod(&pod(None, 256, false));
        figures.add_pod(&pod(Some(PodPhase::Ready), 250, true));
        figures.add_pod(&pod(Some(PodPhase::Ready), 253, false));
        figures.add_pod(&pod(Some(PodPhase::NotReady), 256, false));
        let pods = (figures.pods_making, figures.pods_ready, figures.pods_not_ready);
        assert_eq!((pods, figures.out_of_touch), ((1, 2, 1), 1));
        assert_eq!((figures.wishes, figures.fullest_mailbox, figures.mailbox), (9, 6, 256));
    }
}
