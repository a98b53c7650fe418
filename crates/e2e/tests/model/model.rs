//! What CRI promises, as a small machine: what there is, and what each call may do to it, step by step, with the answers that go with it.
//!
//! A call that takes effect in more than one step (a stop waits for processes, a removal for a stop) is a task with a position. Between two
//! steps anything else may happen, and a daemon that is killed leaves a task wherever it is. So one description serves calls that come one by
//! one, calls side by side (see `check`), clients that go away and crashes.
//!
//! Here is what there is and what changes by itself; `model::pods`, `model::containers` and `model::lists` have the calls.

mod containers;
mod lists;
mod pods;

use std::collections::{BTreeMap, BTreeSet};

use tonic::Code;

use crate::script::{Call, ContainerName, Kind, PodName, Variant};

/// An id that the daemon gave, numbered by the driver.
pub type Id = u32;

/// A pod. Its id is unknown until an answer or a list names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pod {
    pub id: Option<Id>,
    pub variant: Variant,
    pub phase: PodPhase,
    /// A removal is under way: whoever asks for its name waits for the end of that.
    pub removing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodPhase {
    Ready,
    /// Its containers are being ended.
    Draining,
    NotReady,
    /// It was being made when the daemon ended, nobody has been told of it, and it is being taken away.
    Unmade,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Container {
    pub id: Option<Id>,
    pub kind: Kind,
    pub state: State,
    pub shares: u8,
    /// Its files are being removed: shown as it was, but nothing can be done with it any more.
    pub removing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Created,
    Starting,
    Running {
        /// It was asked to end by its stop signal.
        asked: bool,
    },
    Exited(i32),
}

/// Everything there is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct World {
    pub image: bool,
    pub pods: BTreeMap<PodName, Pod>,
    pub containers: BTreeMap<ContainerName, Container>,
    /// Names of what is being made: held, though nothing is shown and nothing may come of it.
    pub held_pods: BTreeMap<PodName, Variant>,
    pub held: BTreeSet<ContainerName>,
    /// Containers that have been told to end by themselves, by name: also those that get that name later.
    pub told: BTreeSet<ContainerName>,
    /// All ids there ever were: none comes twice.
    pub used: BTreeSet<Id>,
    /// Calls whose clients have gone away, which may be fulfilled at any time.
    pub background: Vec<Task>,
}

/// A call that is being fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Task {
    pub call: Call,
    /// The id that the request has: the last one that was known under the name in the script.
    pub target: Option<Id>,
    pub at: At,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Beginning,
    /// It has begun, and waits for what it began.
    Waiting,
    /// What runs has ended; what is left is to be taken away.
    Clearing,
    Done,
}

/// A pod as it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    pub id: Id,
    pub name: PodName,
    pub variant: Variant,
    pub is_ready: bool,
}

/// A container as it was shown; lists don't show the last two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSeen {
    pub id: Id,
    /// Lists say it, statuses don't.
    pub pod: Option<Id>,
    pub name: ContainerName,
    pub phase: Phase,
    pub exit_code: Option<i32>,
    pub shares: Option<u8>,
}

/// CRI's states of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Created,
    Running,
    Exited,
    Unknown,
}

/// What the daemon answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Done,
    Made(Id),
    Refused(Code, String),
    /// The exit code and standard output of a command.
    Output(i32, String),
    Pod(PodSeen),
    Container(ContainerSeen),
    Pods(Vec<PodSeen>),
    Containers(Vec<ContainerSeen>),
    Image(bool),
}

/// An answer, unless nobody waited for one: then anything agrees with it.
pub type Answer<'a> = Option<&'a Seen>;

/// Worlds that a step may lead to, each with the task's new position.
pub type Steps = Vec<(World, At)>;

/// The exit code of what was killed: 128 and SIGKILL.
pub const KILLED: i32 = 137;

/// The exit code of what could not be started.
pub const NOT_STARTED: i32 = 128;

/// Whether the answer is this refusal, or none.
pub fn refuses(answer: Answer, codes: &[Code]) -> bool {
    answer.is_none_or(|seen| matches!(seen, Seen::Refused(code, _) if codes.contains(code)))
}

/// Whether the answer is that it is done, or none.
pub fn is_done(answer: Answer) -> bool {
    answer.is_none_or(|seen| *seen == Seen::Done)
}

impl World {
    /// What one more step of a task may lead to, in agreement with its answer.
    pub fn step(&self, task: &Task, answer: Answer) -> Steps {
        match task.call {
            Call::Pull | Call::Unpull | Call::Image => self.step_image(task.call, answer),
            Call::Run(name, variant) => self.run((name, variant), task, answer),
            Call::StopPod(name) => self.stop_pod(name, task, answer),
            Call::RemovePod(name) => self.remove_pod(name, task, answer),
            Call::Create(name, kind) => self.create((name, kind), task, answer),
            Call::Start(name) => self.start(name, task, answer),
            Call::Stop(name, grace) => self.stop((name, grace), task, answer),
            Call::Remove(name) => self.remove(name, task, answer),
            Call::Update(name, shares) => self.update((name, shares), task, answer),
            Call::Exec(name) => self.exec(name, task, answer),
            Call::End(name) => {
                let mut next = self.clone();
                next.told.insert(name);
                vec![(next, At::Done)]
            }
            Call::PodStatus(_) | Call::Status(_) | Call::Pods(_) | Call::Containers(_) => {
                self.look(task, answer)
            }
        }
    }

    fn step_image(&self, call: Call, answer: Answer) -> Steps {
        let (image, agrees) = match call {
            Call::Pull => (true, answer.is_none_or(|seen| matches!(seen, Seen::Done))),
            Call::Unpull => (false, is_done(answer)),
            _ => (self.image, answer.is_none_or(|seen| *seen == Seen::Image(self.image))),
        };
        if agrees { vec![(Self { image, ..self.clone() }, At::Done)] } else { vec![] }
    }

    /// What may happen though nobody asks for it now: processes end.
    pub fn by_itself(&self) -> Vec<World> {
        let ends = self.containers.iter().flat_map(|(name, container)| {
            self.own_ends(name, container)
                .into_iter()
                .map(move |code| self.with_state(*name, State::Exited(code)))
        });
        let unmade = self.pods.iter().filter(|(_, pod)| pod.phase == PodPhase::Unmade).map(|(name, _)| {
            let mut next = self.clone();
            next.pods.remove(name);
            next
        });
        ends.chain(unmade).collect()
    }

    /// The codes with which a container may end now though nobody kills it.
    pub fn own_ends(&self, name: &ContainerName, container: &Container) -> Vec<i32> {
        let State::Running { asked } = container.state else { return vec![] };
        match container.kind {
            Kind::Brief => vec![7],
            Kind::Polite | Kind::Deaf => {
                let told = self.told.contains(name).then_some(5);
                told.into_iter().chain((asked && container.kind == Kind::Polite).then_some(3)).collect()
            }
            Kind::Missing => vec![],
        }
    }

    /// The daemon has gone, and another one has found what it left: what a removal or a stop had come to may be gone on with, the rest is given up.
    pub fn recovered(&self) -> Vec<World> {
        let mut next = self.clone();
        let runs = next.background.iter().filter_map(|task| match task.call {
            Call::Run(name, variant) if !self.pods.contains_key(&name) => Some((name, variant)),
            _ => None,
        });
        let runs: Vec<_> = runs.collect();
        next.background.retain(|task| {
            matches!(
                task.call,
                Call::StopPod(_) | Call::RemovePod(_) | Call::Stop(..) | Call::Remove(_) | Call::Unpull
            )
        });
        next.pods.values_mut().for_each(|pod| pod.removing = pod.phase == PodPhase::Unmade);
        next.containers.values_mut().for_each(|container| container.removing = false);
        next.held.clear();
        next.held_pods.clear();
        let mut worlds = vec![next];
        for name in self.containers.keys() {
            worlds = worlds.iter().flat_map(|world| world.start_found(*name)).collect();
        }
        for name in self.pods.keys() {
            worlds = worlds.iter().flat_map(|world| world.stop_found(*name)).collect();
        }
        for run in runs {
            let unmade: Vec<_> = worlds.iter().map(|world| world.with_unmade(run)).collect();
            worlds.extend(unmade);
        }
        worlds
    }

    /// What a new daemon may find of a start that was under way: it never was, it goes on, it failed or was killed.
    fn start_found(&self, name: ContainerName) -> Vec<World> {
        match self.containers[&name].state {
            State::Starting => [
                State::Created,
                State::Running { asked: false },
                State::Exited(KILLED),
                State::Exited(NOT_STARTED),
            ]
            .map(|state| self.with_state(name, state))
            .into(),
            State::Created | State::Running { .. } | State::Exited(_) => vec![self.clone()],
        }
    }

    /// What a new daemon may find of a pod that was being made.
    fn with_unmade(&self, (name, variant): (PodName, Variant)) -> World {
        let mut next = self.clone();
        let unmade = Pod { id: None, variant, phase: PodPhase::Unmade, removing: true };
        next.pods.entry(name).or_insert(unmade);
        next
    }

    /// What a new daemon may find of a stop of a pod that was under way.
    fn stop_found(&self, name: PodName) -> Vec<World> {
        match self.pods[&name].phase {
            PodPhase::Draining => {
                [PodPhase::Ready, PodPhase::NotReady].map(|phase| self.with_phase(name, phase)).into()
            }
            PodPhase::Ready | PodPhase::NotReady | PodPhase::Unmade => vec![self.clone()],
        }
    }

    pub fn with_phase(&self, name: PodName, phase: PodPhase) -> World {
        let mut next = self.clone();
        if let Some(pod) = next.pods.get_mut(&name) {
            pod.phase = phase;
        }
        next
    }

    pub fn with_state(&self, name: ContainerName, state: State) -> World {
        let mut next = self.clone();
        if let Some(container) = next.containers.get_mut(&name) {
            container.state = state;
        }
        next
    }

    /// The pod of this name, if it is the one that the request means.
    pub fn pod(&self, name: PodName, target: Option<Id>) -> Option<&Pod> {
        self.pods.get(&name).filter(|pod| pod.id.is_some() && pod.id == target)
    }

    /// The container of this name, if it is the one that the request means.
    pub fn container(&self, name: ContainerName, target: Option<Id>) -> Option<&Container> {
        self.containers.get(&name).filter(|container| container.id.is_some() && container.id == target)
    }

    /// Whether containers can be made and started in a pod.
    pub fn is_ready(&self, name: PodName) -> bool {
        self.pods.get(&name).is_some_and(|pod| pod.phase == PodPhase::Ready)
    }
}
