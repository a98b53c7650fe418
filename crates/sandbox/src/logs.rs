//! What the node wants of containers' logs: limits, and a copy for journald.
//!
//! A container has what was wanted when it was started, whatever later daemons want: its supervisor keeps it. Not here: writing logs
//! (the runtime crate's `supervisor::log`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use runtime::wire::{JournalCopy, LogLimits};

use crate::container::config::ContainerMetadata;
use crate::id::ContainerId;
use crate::pod::config::PodMetadata;

/// Letters of an id that are enough for people, as other runtimes shorten it in the journal.
const SHORT: usize = 12;

/// What is wanted of every container's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Bytes of a log a second; as many may come at once, the rest is dropped and counted in the log.
    pub rate_limit: Option<u64>,
    /// Bytes of a log's file; beyond that lines are dropped and counted until ReopenContainerLog.
    pub size_limit: Option<u64>,
    /// The socket of the journald that gets a copy of all output.
    pub journald: Option<PathBuf>,
}

impl LogConfig {
    /// As the supervisor is told.
    pub(crate) fn limits(&self) -> Option<LogLimits> {
        let limits = LogLimits { rate: self.rate_limit, size: self.size_limit };
        (limits != LogLimits::default()).then_some(limits)
    }

    /// The copy of one container's output.
    pub(crate) fn copy(
        &self,
        pod: &PodMetadata,
        container: (&ContainerId, &ContainerMetadata),
    ) -> Option<JournalCopy> {
        let socket = self.journald.clone()?;
        let (id, name) = (container.0.as_str(), &container.1.name);
        // CONTAINER_* as Docker and Podman have them; SYSLOG_IDENTIFIER is what journalctl shows before a message.
        let fields = [
            ("SYSLOG_IDENTIFIER", name.as_str()),
            ("CONTAINER_ID", id.get(..SHORT).unwrap_or(id)),
            ("CONTAINER_ID_FULL", id),
            ("CONTAINER_NAME", name),
            ("POD_NAME", &pod.name),
            ("POD_NAMESPACE", &pod.namespace),
            ("POD_UID", &pod.uid),
        ];
        let fields: BTreeMap<String, String> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(JournalCopy { socket, fields })
    }
}
