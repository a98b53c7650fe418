//! The containers of a pod, as its actor holds them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use runtime::plan::ProcessPlan;

use crate::container::config::{ContainerConfig, ContainerMetadata};
use crate::container::make::Made;
use crate::container::state::{ContainerState, Wanted};
use crate::container::status::{ContainerPhase, ContainerStatus};
use crate::plugins::Memory;
use crate::pod::wish::Reply;
use crate::resources::Resources;

/// A container of a pod.
#[derive(Debug)]
pub(crate) struct Member {
    /// What was asked for.
    pub(crate) config: Arc<ContainerConfig>,
    pub(crate) state: ContainerState,
    /// What there is of it, once it was made.
    pub(crate) made: Option<Made>,
    /// Its limits now.
    pub(crate) resources: Resources,
    /// Whether a request to start it is under way.
    pub(crate) is_launching: bool,
    /// Said to the request, when it is no longer wanted and has not reached the supervisor yet.
    pub(crate) called_off: Arc<AtomicBool>,
    /// While they are being changed: the changes that wait for that, in the order in which they came.
    pub(crate) updates: Option<VecDeque<(Resources, Reply)>>,
    /// What plugins know of it.
    pub(crate) known: Known,
    /// Its specification, for plugins, when its files are gone.
    pub(crate) memory: Memory,
}

/// What plugins were told of a pod or container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing.
    #[default]
    Nothing,
    /// That it is there.
    There,
    /// That it has ended.
    Ended,
}

impl Member {
    /// A container that is about to be made.
    pub(crate) fn new(config: Arc<ContainerConfig>) -> Self {
        let resources = config.resources.clone();
        let state = ContainerState::Making;
        let called_off = Arc::default();
        let (known, memory) = Default::default();
        Self {
            config,
            state,
            made: None,
            resources,
            is_launching: false,
            called_off,
            updates: None,
            known,
            memory,
        }
    }

    /// Has what is executed from now on have the OOM score that updates have given the container.
    pub(crate) fn process_as_updated(&mut self) {
        let score = Some(self.resources.oom_score());
        if let Some(process) = self.made.as_mut().and_then(|made| made.process.as_mut())
            && process.oom_score_adj != score
        {
            *process = Arc::new(ProcessPlan { oom_score_adj: score, ..(**process).clone() });
        }
    }

    /// Whether it is being started although nobody wants that any more.
    pub(crate) fn is_called_off(&self) -> bool {
        matches!(self.state, ContainerState::Starting { wanted: Wanted::No(_), .. })
    }

    pub(crate) fn name(&self) -> &ContainerMetadata {
        &self.config.metadata
    }

    /// What lists and statuses show; `None` while there is nothing to show.
    pub(crate) fn status(&self) -> Option<ContainerStatus> {
        Some(self.made.as_ref()?.facts.status(&self.resources, phase(&self.state)?))
    }
}

/// What CRI tells of a state.
fn phase(state: &ContainerState) -> Option<ContainerPhase> {
    match state {
        ContainerState::Making | ContainerState::Gone => None,
        ContainerState::Created
        | ContainerState::Starting { .. }
        | ContainerState::Removing { before: None } => Some(ContainerPhase::Created),
        ContainerState::Running(process) | ContainerState::Stopping { process, .. } => {
            let pid = u32::try_from(process.id.pid).unwrap_or(0);
            Some(ContainerPhase::Running { pid, started_at: process.started_at })
        }
        ContainerState::Exited(exited) | ContainerState::Removing { before: Some(exited) } => {
            Some(ContainerPhase::Exited(exited.clone()))
        }
    }
}
