//! Who may miss entries in the tables, and what has been said of that: the first failure of a row, and that it is over. The
//! others, of which there may be one every two seconds, are for who debugs.

use std::collections::HashSet;

use crate::attachment::AttachmentId;
use crate::error::{Error, chain};

/// Who may miss something: the next to mend sees to them, and somebody does at the next look.
#[derive(Debug, Default)]
pub(in crate::attachments) struct Missed {
    /// Those that something was being done to, and those that couldn't be mended.
    pub(super) ids: HashSet<AttachmentId>,
    /// Whether it may be anybody: who was to look at all of them didn't get to the end.
    pub(super) anybody: bool,
    /// Those of whom it has been said that they can't be mended.
    failing: HashSet<AttachmentId>,
    /// What kept those who mended from anybody.
    broken_off: Row,
}

impl Missed {
    pub(super) fn is_any(&self) -> bool {
        self.anybody || !self.ids.is_empty()
    }

    /// There is nobody else.
    pub(super) fn keep(&mut self, ids: &HashSet<AttachmentId>) {
        self.ids.retain(|id| ids.contains(id));
        self.failing.retain(|id| ids.contains(id));
    }

    /// One has all that it is to have.
    pub(super) fn is_whole(&mut self, id: &AttachmentId) {
        self.ids.remove(id);
        if self.failing.remove(id) {
            let AttachmentId { container_id: container, ifname } = id;
            tracing::info!(container, ifname, "an attachment's entries in the tables can be made anew again");
        }
    }

    /// One can't be given what it is to have.
    pub(super) fn fails(&mut self, id: AttachmentId, failures: &[Error]) {
        let is_first = self.failing.insert(id.clone());
        let AttachmentId { container_id: container, ifname } = &id;
        for error in failures {
            let error = chain(error);
            let what = "an attachment's entries in the tables can't be made anew";
            match is_first {
                true => tracing::warn!(container, ifname, error, "{what}"),
                false => tracing::debug!(container, ifname, error, "{what}"),
            }
        }
        if failures.iter().any(may_pass) {
            self.ids.insert(id);
        } else {
            self.ids.remove(&id);
        }
    }

    /// Somebody has looked at those who may miss something, or at all.
    pub(super) fn looked_at(&mut self, end: Result<(), Error>) {
        match end {
            Ok(()) => self.broken_off.ends("entries in the tables can be made anew again"),
            Err(error) => {
                self.anybody = true;
                self.broken_off
                    .goes_on(&error, "whose entries in the tables are missing can't be looked for");
            }
        }
    }
}

/// Whether the next look may find it otherwise though nobody does anything: who has another's host port, for one, keeps it.
fn may_pass(failure: &Error) -> bool {
    !matches!(
        failure,
        Error::HostPortTaken { .. }
            | Error::ParseConf { .. }
            | Error::InvalidConf { .. }
            | Error::PluginConf { .. }
            | Error::PluginVersion { .. }
            | Error::Unsupported { .. }
    )
}

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Row {
    has_failed: bool,
}

impl Row {
    pub(super) fn goes_on(&mut self, error: &Error, what: &str) {
        let error = chain(error);
        match std::mem::replace(&mut self.has_failed, true) {
            false => tracing::warn!(error, "{what}"),
            true => tracing::debug!(error, "{what}"),
        }
    }

    pub(super) fn ends(&mut self, what: &str) {
        if std::mem::take(&mut self.has_failed) {
            tracing::info!("{what}");
        }
    }
}
