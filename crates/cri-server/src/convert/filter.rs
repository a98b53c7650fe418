//! Filters of lists, read.

use proto::runtime::v1 as cri;
use sandbox::{ContainerFilter, Error, PhaseName, PodFilter, PodPhase};

use super::{known, sorted};

/// Which pods are to be listed.
///
/// # Errors
/// [`Error::Refused`] for a state that the contract doesn't have.
pub(crate) fn pods(filter: Option<cri::PodSandboxFilter>) -> Result<PodFilter, Error> {
    let filter = filter.unwrap_or_default();
    let phase = |value: cri::PodSandboxStateValue| {
        Ok(match known(value.state, "filter.state")? {
            cri::PodSandboxState::SandboxReady => PodPhase::Ready,
            cri::PodSandboxState::SandboxNotready => PodPhase::NotReady,
        })
    };
    Ok(PodFilter {
        id: filter.id,
        phase: filter.state.map(phase).transpose()?,
        labels: sorted(filter.label_selector),
    })
}

/// Which containers are to be listed.
///
/// # Errors
/// [`Error::Refused`] for a state that the contract doesn't have.
pub(crate) fn containers(filter: Option<cri::ContainerFilter>) -> Result<ContainerFilter, Error> {
    let filter = filter.unwrap_or_default();
    let phase = |value: cri::ContainerStateValue| {
        Ok(match known(value.state, "filter.state")? {
            cri::ContainerState::ContainerCreated => PhaseName::Created,
            cri::ContainerState::ContainerRunning => PhaseName::Running,
            cri::ContainerState::ContainerExited => PhaseName::Exited,
            cri::ContainerState::ContainerUnknown => PhaseName::Unknown,
        })
    };
    Ok(ContainerFilter {
        id: filter.id,
        pod: filter.pod_sandbox_id,
        phase: filter.state.map(phase).transpose()?,
        labels: sorted(filter.label_selector),
    })
}

/// Which pods' stats are to be listed: those of ready ones.
pub(crate) fn pod_stats(filter: Option<cri::PodSandboxStatsFilter>) -> PodFilter {
    let filter = filter.unwrap_or_default();
    PodFilter { id: filter.id, phase: Some(PodPhase::Ready), labels: sorted(filter.label_selector) }
}

/// Which containers' stats are to be listed: CRI gives those of running ones.
pub(crate) fn container_stats(filter: Option<cri::ContainerStatsFilter>) -> ContainerFilter {
    let filter = filter.unwrap_or_default();
    ContainerFilter {
        id: filter.id,
        pod: filter.pod_sandbox_id,
        phase: Some(PhaseName::Running),
        labels: sorted(filter.label_selector),
    }
}
