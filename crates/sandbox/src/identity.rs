//! Whom log lines are about: spans of `tracing` with the identity of a pod or container.
//!
//! A line within such a span has its fields. The span of a request has the same ones (see the daemon's log of calls). Not here:
//! the spans of stages (see `stage`).

use tracing::Span;

use crate::container::config::ContainerMetadata;
use crate::id::ContainerId;
use crate::record::PodFacts;

/// What happens to a pod by itself. Of the highest level, so that it is there for whatever line is written in it.
pub(crate) fn of_pod(facts: &PodFacts) -> Span {
    let metadata = &facts.config.metadata;
    tracing::error_span!(
        parent: None,
        "pod",
        pod = %facts.id,
        pod.name = metadata.name,
        pod.namespace = metadata.namespace,
        pod.uid = metadata.uid,
    )
}

/// The same for one of its containers.
pub(crate) fn of_container(id: &ContainerId, metadata: &ContainerMetadata) -> Span {
    tracing::error_span!("container", container = %id, container.name = metadata.name)
}
