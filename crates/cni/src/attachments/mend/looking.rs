//! Looks whether anything may be missing in the tables, for as long as there are any.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::missed::Row;
use crate::attachments::Attachments;
use crate::builtin::{Changes, Mark};
use crate::ground::Laid;

/// How long a flush may go unseen. A look took 17 µs of processor time, where others had changed anything 0.2 ms and 4 µs an entry
/// (unoptimised).
const LOOK: Duration = Duration::from_secs(2);

/// Looks at the tables as long as there are any; ends with the attachments.
///
/// Cancel safe but for what the kernel is at, which goes on.
pub(crate) async fn watch_tables(attachments: Weak<Attachments>, mut laid: watch::Receiver<Laid>) {
    while laid.wait_for(Laid::is_any).await.is_ok() {
        let mut seen = Seen::default();
        loop {
            match timeout(LOOK, laid.wait_for(|laid| !laid.is_any())).await {
                Ok(Ok(_)) => break,
                Ok(Err(_)) => return,
                Err(_) => {}
            }
            look(&attachments, &mut seen).await;
        }
    }
}

/// Mends what was taken away since the last look. Returns whether that had to be looked for.
///
/// Nobody is held but for the mending itself: who drops the last handle gives up what goes with it, a bridge for one.
///
/// Not cancel safe: what the kernel is at goes on.
pub(super) async fn look(attachments: &Weak<Attachments>, seen: &mut Seen) -> bool {
    let Some(due) = attachments.upgrade().and_then(|attachments| attachments.due(seen)) else {
        return false;
    };
    let meddled = match due.laid {
        Some(laid) => seen.look_at(laid).await,
        None => Meddled::No,
    };
    if let Some(attachments) = attachments.upgrade() {
        match meddled {
            Meddled::Yes => attachments.mend_what_is_missing().await,
            // The tables themselves can be asked for all the same.
            Meddled::Unknown => attachments.mend_if_flushed().await,
            Meddled::No if due.is_missed => attachments.mend_if_flushed().await,
            Meddled::No => {}
        }
    }
    true
}

/// What was seen of the tables at the last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    changes: Changes,
    mark: Option<Mark>,
    failures: Row,
}

/// Whether others have changed anything of ours.
enum Meddled {
    Yes,
    No,
    /// The next look asks again.
    Unknown,
}

impl Seen {
    async fn look_at(&mut self, laid: Laid) -> Meddled {
        match laid.have_others_meddled(self.mark).await {
            Ok(Some((mark, have_meddled))) => {
                self.mark = Some(mark);
                self.failures.ends(KNOWN);
                return if have_meddled { Meddled::Yes } else { Meddled::No };
            }
            Ok(None) => {}
            Err(error) => self.failures.goes_on(&error, UNKNOWN),
        }
        self.changes.forget();
        Meddled::Unknown
    }
}

const UNKNOWN: &str = "whether the tables are still there isn't known";
const KNOWN: &str = "whether the tables are still there is known again";

/// What there is to be looked at.
struct Due {
    /// Whether there are some who may miss something though nothing has changed.
    is_missed: bool,
    /// For whom there are tables, if those may have changed.
    laid: Option<Laid>,
}

impl Attachments {
    /// What there is; nothing as far as somebody is mending at this moment.
    fn due(&self, seen: &mut Seen) -> Option<Due> {
        let is_missed = self.mending.try_lock().ok()?.is_any();
        let laid = match seen.changes.are_there() {
            Ok(true) => Some(self.ground.laid().borrow().clone()),
            Ok(false) => {
                seen.failures.ends(KNOWN);
                None
            }
            Err(error) => {
                // Out of descriptors, for one. The next look finds what this one would have.
                seen.failures.goes_on(&error, UNKNOWN);
                None
            }
        };
        (is_missed || laid.is_some()).then_some(Due { is_missed, laid })
    }
}
