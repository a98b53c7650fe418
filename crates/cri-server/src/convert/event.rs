//! Events as GetContainerEvents streams them.

use proto::runtime::v1 as cri;
use sandbox::{Event, EventKind};

use super::status;

/// One message of the stream.
pub(crate) fn shown(event: &Event) -> cri::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => cri::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => cri::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    cri::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind as i32,
        created_at: event.at,
        pod_sandbox_status: Some(status::pod(&event.pod)),
        containers_statuses: event.containers.iter().map(|container| status::container(container)).collect(),
    }
}
