//! What calls do to containers.

use tonic::Code;

use super::{Answer, At, Container, Id, NOT_STARTED, Seen, State, Steps, Task, World, refuses};
use crate::script::{ContainerName, Kind};

/// The shares of a container that nobody has changed, in the script's unit (see `driver`).
const USUAL_SHARES: u8 = 0;

impl World {
    /// CreateContainer: at once, or with its name held before.
    pub(super) fn create(&self, (name, kind): (ContainerName, Kind), task: &Task, answer: Answer) -> Steps {
        if task.at == At::Waiting {
            let mut free = self.clone();
            free.held.remove(&name);
            return free.created((name, kind), task, answer);
        }
        let mut steps = self.created((name, kind), task, answer);
        if !self.containers.contains_key(&name) && !self.held.contains(&name) {
            let mut holding = self.clone();
            holding.held.insert(name);
            steps.push((holding, At::Waiting));
        }
        steps
    }

    /// What comes of a CreateContainer. When more than one thing stands against it, any of them may be said.
    fn created(&self, (name, kind): (ContainerName, Kind), task: &Task, answer: Answer) -> Steps {
        if self.pod(name.pod, task.target).is_none() {
            return self.refusal(answer, &[Code::NotFound]);
        }
        let there = self.containers.get(&name);
        if there.is_some_and(|one| one.state == State::Created && one.kind == kind && !one.removing) {
            let mut steps = self.clone().named(name, answer);
            if !self.is_ready(name.pod) {
                steps.extend(self.refusal(answer, &[Code::FailedPrecondition]));
            }
            return steps;
        }
        let against = [
            (there.is_some() || self.held.contains(&name), Code::AlreadyExists),
            (!self.is_ready(name.pod), Code::FailedPrecondition),
            (!self.image, Code::NotFound),
        ];
        let codes: Vec<Code> =
            against.into_iter().filter(|(stands, _)| *stands).map(|(_, code)| code).collect();
        if !codes.is_empty() {
            return self.refusal(answer, &codes);
        }
        let mut next = self.clone();
        let state = State::Created;
        next.containers
            .insert(name, Container { id: None, kind, state, shares: USUAL_SHARES, removing: false });
        next.named(name, answer)
    }

    fn refusal(&self, answer: Answer, codes: &[Code]) -> Steps {
        if refuses(answer, codes) { vec![(self.clone(), At::Done)] } else { vec![] }
    }

    /// Done with the id that the answer gives to the container.
    fn named(self, name: ContainerName, answer: Answer) -> Steps {
        let world = match answer {
            None => Some(self),
            Some(Seen::Made(id)) => self.with_container_id(name, *id),
            Some(_) => None,
        };
        world.into_iter().map(|world| (world, At::Done)).collect()
    }

    /// This world, in which a container has this id: `None` when it has another one, or another one has this.
    pub(super) fn with_container_id(mut self, name: ContainerName, id: Id) -> Option<World> {
        let container = self.containers.get_mut(&name)?;
        match container.id {
            None if self.used.insert(id) => container.id = Some(id),
            None => return None,
            Some(known) if known == id => {}
            Some(_) => return None,
        }
        Some(self)
    }

    /// StartContainer: a second one joins the first. One that is stopped or removed meanwhile fails, unless it was quicker.
    pub(super) fn start(&self, name: ContainerName, task: &Task, answer: Answer) -> Steps {
        let found = self.container(name, task.target);
        if task.at == At::Waiting {
            return match found.map(|container| (container.state, container.kind)) {
                Some((State::Starting, Kind::Missing)) => self.not_started(name, answer),
                Some((State::Starting, _)) => {
                    self.with_state(name, State::Running { asked: false }).done(answer)
                }
                // Somebody else has seen to it.
                _ => vec![(self.clone(), At::Done)],
            };
        }
        let Some(container) = found else { return self.refusal(answer, &[Code::NotFound]) };
        match container.state {
            State::Created | State::Starting if self.is_ready(name.pod) && !container.removing => {
                vec![(self.with_state(name, State::Starting), At::Waiting)]
            }
            _ => self.refusal(answer, &[Code::FailedPrecondition]),
        }
    }

    /// There is no such program.
    fn not_started(&self, name: ContainerName, answer: Answer) -> Steps {
        let is_error = answer.is_none_or(|seen| matches!(seen, Seen::Refused(Code::Internal, _)));
        let exited = self.with_state(name, State::Exited(NOT_STARTED));
        if is_error { vec![(exited, At::Done)] } else { vec![] }
    }

    /// StopContainer: what is asked may end by itself, and is killed otherwise. What is gone or doesn't run is stopped.
    pub(super) fn stop(&self, (name, grace): (ContainerName, u8), task: &Task, answer: Answer) -> Steps {
        let Some(container) = self.container(name, task.target) else { return self.clone().done(answer) };
        match (container.state, task.at) {
            (State::Created | State::Exited(_), _) => self.clone().done(answer),
            (State::Running { .. }, At::Beginning) if grace > 0 => {
                vec![(self.with_state(name, State::Running { asked: true }), At::Waiting)]
            }
            (_, At::Beginning) => vec![(self.clone(), At::Waiting)],
            (State::Starting | State::Running { .. }, _) => {
                let killed = self.killed(name).into_iter().flat_map(|world| world.done(answer));
                let is_unasked = container.state == (State::Running { asked: false }) && grace > 0;
                // It began to run while it was being stopped.
                let asked =
                    is_unasked.then(|| (self.with_state(name, State::Running { asked: true }), At::Waiting));
                killed.chain(asked).collect()
            }
        }
    }

    /// RemoveContainer: it is killed if it runs, and goes. What is gone is removed.
    pub(super) fn remove(&self, name: ContainerName, task: &Task, answer: Answer) -> Steps {
        let Some(container) = self.container(name, task.target) else { return self.clone().done(answer) };
        let mut next = self.clone();
        match (container.state, task.at) {
            (State::Running { .. } | State::Starting, At::Beginning) => vec![(next, At::Waiting)],
            (State::Running { .. } | State::Starting, _) => {
                self.killed(name).into_iter().map(|world| (world, At::Waiting)).collect()
            }
            (State::Created | State::Exited(_), At::Clearing) => {
                next.containers.remove(&name);
                next.done(answer)
            }
            (State::Created | State::Exited(_), _) => {
                if let Some(container) = next.containers.get_mut(&name) {
                    container.removing = true;
                }
                vec![(next, At::Clearing)]
            }
        }
    }

    /// UpdateContainerResources: of what is there and hasn't ended. What ends meanwhile may keep the old ones, and may have it said.
    pub(super) fn update(&self, (name, shares): (ContainerName, u8), task: &Task, answer: Answer) -> Steps {
        let Some(container) = self.container(name, task.target) else {
            return match task.at {
                At::Beginning => self.refusal(answer, &[Code::NotFound]),
                _ => vec![(self.clone(), At::Done)],
            };
        };
        let mut changed = self.clone();
        if let Some(container) = changed.containers.get_mut(&name) {
            container.shares = shares;
        }
        match (container.state, task.at) {
            (State::Created, At::Beginning) if !container.removing => changed.done(answer),
            (State::Running { .. }, At::Beginning) => vec![(self.clone(), At::Waiting)],
            (_, At::Beginning) => self.refusal(answer, &[Code::FailedPrecondition]),
            (State::Running { .. }, _) => changed.done(answer),
            (_, _) => vec![(changed, At::Done), (self.clone(), At::Done)],
        }
    }

    /// ExecSync: of what runs. What ends meanwhile may have anything said; what is about to end may be said to have done so.
    pub(super) fn exec(&self, name: ContainerName, task: &Task, answer: Answer) -> Steps {
        let found = self.container(name, task.target).map(|container| container.state);
        match (found, task.at) {
            (None, At::Beginning) => self.refusal(answer, &[Code::NotFound]),
            (Some(State::Running { .. }), At::Beginning) => vec![(self.clone(), At::Waiting)],
            (Some(_), At::Beginning) => self.refusal(answer, &[Code::FailedPrecondition]),
            (Some(State::Running { .. }), _) => {
                let expected = Seen::Output(4, "hi\n".to_owned());
                let is_ending = self.ends_soon(name) && refuses(answer, &[Code::FailedPrecondition]);
                let agrees = is_ending || answer.is_none_or(|seen| *seen == expected);
                if agrees { vec![(self.clone(), At::Done)] } else { vec![] }
            }
            (_, _) => vec![(self.clone(), At::Done)],
        }
    }

    /// Whether it has ended, or does so by itself.
    pub fn ends(&self, name: ContainerName) -> bool {
        let has_ended = |container: &Container| matches!(container.state, State::Exited(_));
        self.ends_soon(name) || self.containers.get(&name).is_some_and(has_ended)
    }

    /// Whether it runs, and ends by itself.
    pub fn ends_soon(&self, name: ContainerName) -> bool {
        self.containers.get(&name).is_some_and(|container| !self.own_ends(&name, container).is_empty())
    }

    /// The id of the container of this name.
    pub fn container_id(&self, name: ContainerName) -> Option<Id> {
        self.containers.get(&name)?.id
    }
}
