//! What statuses and lists show. They teach the model ids that it hasn't heard of: those of what clients that went away had asked for.

use tonic::Code;

use super::{
    Answer, At, Container, ContainerSeen, Phase, Pod, PodPhase, PodSeen, Seen, State, Steps, Task, World,
    refuses,
};
use crate::script::{Call, ContainerName, Containers, Pods};

impl State {
    fn phase(self) -> Phase {
        match self {
            // It may have begun by now, which nobody has been told.
            Self::Created | Self::Starting => Phase::Created,
            Self::Running { .. } => Phase::Running,
            Self::Exited(_) => Phase::Exited,
        }
    }

    /// Whether its state shows so, and with this exit code if any is shown.
    fn agrees(self, seen: &ContainerSeen) -> bool {
        let code = match self {
            Self::Exited(code) => code,
            Self::Created | Self::Starting | Self::Running { .. } => 0,
        };
        self.phase() == seen.phase && seen.exit_code.is_none_or(|shown| shown == code)
    }
}

impl World {
    /// Lists and statuses change nothing but what is known.
    pub(super) fn look(&self, task: &Task, answer: Answer) -> Steps {
        let gone = |is_there: bool, seen| {
            (!is_there && refuses(Some(seen), &[Code::NotFound])).then(|| self.clone())
        };
        let world = match (task.call, answer) {
            (_, None) => Some(self.clone()),
            (Call::Pods(filter), Some(Seen::Pods(pods))) => self.listed_pods(filter, pods),
            (Call::Containers(filter), Some(Seen::Containers(containers))) => {
                self.listed_containers((filter, task), containers)
            }
            (Call::PodStatus(name), Some(Seen::Pod(pod))) => {
                self.pod(name, task.target).and_then(|_| self.clone().with_pod(pod))
            }
            (Call::Status(name), Some(Seen::Container(container))) => {
                self.container(name, task.target).and_then(|_| self.clone().with_container(container))
            }
            (Call::PodStatus(name), Some(seen)) => gone(self.pod(name, task.target).is_some(), seen),
            (Call::Status(name), Some(seen)) => gone(self.container(name, task.target).is_some(), seen),
            _ => None,
        };
        world.into_iter().map(|world| (world, At::Done)).collect()
    }

    fn listed_pods(&self, filter: Pods, seen: &[PodSeen]) -> Option<World> {
        let is_listed = |pod: &Pod| match filter {
            Pods::All => true,
            Pods::Ready => pod.phase == PodPhase::Ready,
            Pods::NotReady => pod.phase != PodPhase::Ready,
            Pods::Labelled(variant) => pod.variant == variant,
        };
        let of_those = |seen: &PodSeen| self.pods.get(&seen.name).is_some_and(is_listed);
        let is_whole = self.pods.values().filter(|pod| is_listed(pod)).count() == seen.len();
        if !is_whole || !seen.iter().all(of_those) {
            return None;
        }
        seen.iter().try_fold(self.clone(), World::with_pod)
    }

    fn listed_containers(
        &self,
        (filter, task): (Containers, &Task),
        seen: &[ContainerSeen],
    ) -> Option<World> {
        let is_listed = |name: &ContainerName, container: &Container| match filter {
            Containers::All => true,
            Containers::Created => container.state.phase() == Phase::Created,
            Containers::Running => container.state.phase() == Phase::Running,
            Containers::Exited => container.state.phase() == Phase::Exited,
            Containers::Of(pod) => name.pod == pod && self.pod(pod, task.target).is_some(),
        };
        let of_those = |seen: &ContainerSeen| {
            self.containers.get(&seen.name).is_some_and(|container| is_listed(&seen.name, container))
        };
        let is_whole =
            self.containers.iter().filter(|(name, one)| is_listed(name, one)).count() == seen.len();
        if !is_whole || !seen.iter().all(of_those) {
            return None;
        }
        seen.iter().try_fold(self.clone(), World::with_container)
    }

    /// This world, if a pod may be shown so in it.
    fn with_pod(self, seen: &PodSeen) -> Option<World> {
        let pod = self.pods.get(&seen.name)?;
        let agrees = pod.variant == seen.variant && (pod.phase == PodPhase::Ready) == seen.is_ready;
        if agrees { self.with_pod_id(seen.name, seen.id) } else { None }
    }

    /// This world, if a container may be shown so in it.
    fn with_container(self, seen: &ContainerSeen) -> Option<World> {
        let container = self.containers.get(&seen.name)?;
        let agrees =
            container.state.agrees(seen) && seen.shares.is_none_or(|shares| shares == container.shares);
        let world = agrees.then_some(self)?.with_container_id(seen.name, seen.id)?;
        match seen.pod {
            Some(pod) => world.with_pod_id(seen.name.pod, pod),
            None => Some(world),
        }
    }
}
