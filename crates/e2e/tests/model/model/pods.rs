//! What calls do to pods.

use tonic::Code;

use super::{
    Answer, At, Container, Id, KILLED, NOT_STARTED, Pod, PodPhase, Seen, State, Steps, Task, World, is_done,
    refuses,
};
use crate::script::{ContainerName, PodName, Variant};

impl World {
    /// RunPodSandbox: a retry gets the pod that is there; another request for its name doesn't, nor anyone for that of a pod that was stopped.
    pub(super) fn run(&self, (name, variant): (PodName, Variant), task: &Task, answer: Answer) -> Steps {
        if task.at == At::Waiting {
            return self.with_pod_made(name, variant).named_pod(name, answer);
        }
        let holder =
            self.pods.get(&name).map(|pod| (pod.variant, pod.phase == PodPhase::Ready, pod.removing));
        let making = self.held_pods.get(&name).map(|variant| (*variant, true, false));
        match holder.or(making) {
            // It waits.
            Some((_, _, true)) => vec![],
            Some((of, true, _)) if of == variant && making.is_some() => vec![],
            Some((of, true, _)) if of == variant => self.clone().named_pod(name, answer),
            Some(_) if refuses(answer, &[Code::AlreadyExists]) => vec![(self.clone(), At::Done)],
            Some(_) => vec![],
            None => {
                let mut holding = self.clone();
                holding.held_pods.insert(name, variant);
                vec![(holding, At::Waiting)]
            }
        }
    }

    fn with_pod_made(&self, name: PodName, variant: Variant) -> World {
        let mut next = self.clone();
        next.held_pods.remove(&name);
        next.pods.insert(name, Pod { id: None, variant, phase: PodPhase::Ready, removing: false });
        next
    }

    /// Done with the id that the answer gives to the pod.
    fn named_pod(self, name: PodName, answer: Answer) -> Steps {
        let world = match answer {
            None => Some(self),
            Some(Seen::Made(id)) => self.with_pod_id(name, *id),
            Some(_) => None,
        };
        world.into_iter().map(|world| (world, At::Done)).collect()
    }

    /// This world, in which a pod has this id: `None` when it has another one, or another one has this.
    pub(super) fn with_pod_id(mut self, name: PodName, id: Id) -> Option<World> {
        let pod = self.pods.get_mut(&name)?;
        match pod.id {
            None if self.used.insert(id) => pod.id = Some(id),
            None => return None,
            Some(known) if known == id => {}
            Some(_) => return None,
        }
        Some(self)
    }

    /// StopPodSandbox: containers end, each for itself, then the pod isn't ready any more. What is gone is stopped.
    pub(super) fn stop_pod(&self, name: PodName, task: &Task, answer: Answer) -> Steps {
        let Some(pod) = self.pod(name, task.target) else { return self.clone().done(answer) };
        if task.at == At::Beginning {
            return vec![(self.draining(name, pod.removing), At::Waiting)];
        }
        match self.drained(name) {
            Ok(world) => world.done(answer),
            Err(steps) => steps.into_iter().map(|world| (world, At::Waiting)).collect(),
        }
    }

    /// RemovePodSandbox: it is stopped, then its containers go, then it goes. What is gone is removed.
    pub(super) fn remove_pod(&self, name: PodName, task: &Task, answer: Answer) -> Steps {
        if self.pod(name, task.target).is_none() {
            return self.clone().done(answer);
        }
        match task.at {
            At::Beginning => vec![(self.draining(name, true), At::Waiting)],
            At::Waiting => match self.drained(name) {
                Ok(world) => vec![(world, At::Clearing)],
                Err(steps) => steps.into_iter().map(|world| (world, At::Waiting)).collect(),
            },
            At::Clearing | At::Done => self.cleared(name, answer),
        }
    }

    /// The end of a call that succeeds.
    pub(super) fn done(self, answer: Answer) -> Steps {
        if is_done(answer) { vec![(self, At::Done)] } else { vec![] }
    }

    fn draining(&self, name: PodName, removing: bool) -> World {
        let mut next = self.clone();
        if let Some(pod) = next.pods.get_mut(&name) {
            pod.removing = removing;
            if pod.phase == PodPhase::Ready {
                pod.phase = PodPhase::Draining;
            }
        }
        next
    }

    /// The pod that isn't ready when nothing runs in it; otherwise the ways in which one of its containers ends.
    fn drained(&self, name: PodName) -> Result<World, Vec<World>> {
        let is_busy = |(of, container): &(&ContainerName, &Container)| {
            of.pod == name && matches!(container.state, State::Running { .. } | State::Starting)
        };
        let mut busy = self.containers.iter().filter(is_busy).peekable();
        if busy.peek().is_none() {
            let is_unmade = self.pods[&name].phase == PodPhase::Unmade;
            return Ok(if is_unmade { self.clone() } else { self.with_phase(name, PodPhase::NotReady) });
        }
        Err(busy.flat_map(|(container, _)| self.killed(*container)).collect())
    }

    /// The ways in which a container ends that is killed.
    pub(super) fn killed(&self, name: ContainerName) -> Vec<World> {
        let codes: &[i32] = match self.containers[&name].state {
            State::Running { .. } => &[KILLED],
            State::Starting => &[KILLED, NOT_STARTED],
            State::Created | State::Exited(_) => &[],
        };
        codes.iter().map(|code| self.with_state(name, State::Exited(*code))).collect()
    }

    /// One container less, in any order, or the pod itself.
    fn cleared(&self, name: PodName, answer: Answer) -> Steps {
        let mut next = self.clone();
        let of_pod: Vec<_> = self.containers.keys().filter(|of| of.pod == name).collect();
        if of_pod.is_empty() {
            next.pods.remove(&name);
            return next.done(answer);
        }
        let without = |container: &ContainerName| {
            let mut next = self.clone();
            next.containers.remove(container);
            (next, At::Clearing)
        };
        of_pod.into_iter().map(without).collect()
    }
}
