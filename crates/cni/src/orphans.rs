//! Plugins that another daemon started and left running when it was killed.
//!
//! Such a plugin goes on: its ADD would make what the DEL of the cut-short attachment has just looked for in vain, its GC
//! take away the addresses of pods that it has never heard of. So their end is waited for by whatever they would be in the way
//! of, and who doesn't end by itself is killed, as at its deadline; all else goes on meanwhile. They are known by their environment, which their own
//! children inherit: our [`VARIABLE`], of another run than this one, and
//!
//! | verb | ended if | until then waits |
//! |---|---|---|
//! | ADD | its attachment is recorded without a result: after one, what still runs serves the pod (a DHCP client, a name server); and it hasn't ended by itself within [`LEAVE`] | its attachment |
//! | DEL | its attachment is recorded, and it hasn't ended by itself within [`LEAVE`] | its attachment |
//! | GC | always | every attachment |
//! | CHECK, STATUS | never: they change nothing | |
//!
//! Until they have been looked for everything waits, and a collection for the end of all.
//!
//! What an ADD does to its end a DEL undoes, and a DEL does what is wanted. One that is cut short can't always be made up for: the
//! reference host-local makes a lease's file before it writes whose it is, and the reference bridge finds its rules by the addresses
//! of a link that it has taken away before them.
//!
//! One that the daemon hadn't told its configuration yet finds its input at its end, and does nothing. How environments are
//! read is `environments`' affair.

mod environments;

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;
use tracing::Span;

use self::environments::Environments;
use crate::attachment::AttachmentId;
use crate::cache::Journal;
use crate::error::Error;

/// The variable that says to executed plugins and all that they start whose they are: [`Owner`]. Not the specification's `CNI_PATH`,
/// which is the same for all runtimes of a host; our own executables hand it on.
pub(crate) const VARIABLE: &str = "KNARR_STATE";

/// How long an ADD or a DEL may go on by itself. The reference plugins take some 100 ms, and kubelet waits for the pod's own meanwhile.
const LEAVE: Duration = Duration::from_secs(5);

/// How long all of them have to be found and gone. What the kernel holds longer is stuck in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whose a plugin is: of which daemon, and of which of its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Device and inode of the directory that the journal is in. Its path may be that of another daemon's, too, in a container.
    directory: String,
    /// Different in every run. Plugins of releases that had none are another run's.
    run: String,
}

impl Owner {
    /// This run's, on that directory.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub(crate) fn of(state_dir: &Path) -> Result<Owner, Error> {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let found = std::fs::metadata(state_dir);
        let directory = found.map_err(|source| Error::Record {
            action: "look at",
            path: state_dir.to_owned(),
            source,
        })?;
        // A number of a process comes again, the moment with it doesn't.
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let run = format!("{}.{began}.{}", std::process::id(), OPENED.fetch_add(1, Ordering::Relaxed));
        Ok(Owner { directory: format!("{}:{}", directory.dev(), directory.ino()), run })
    }

    /// The value of [`VARIABLE`].
    pub(crate) fn value(&self) -> String {
        format!("{}/{}", self.directory, self.run)
    }

    /// Whether that value is another run's of the same daemon.
    fn is_former(&self, value: &[u8]) -> bool {
        let at = value.iter().position(|byte| *byte == b'/').unwrap_or(value.len());
        let run = value.get(at + 1..).unwrap_or_default();
        value[..at] == *self.directory.as_bytes() && *run != *self.run.as_bytes()
    }
}

/// Begins to end them. Has to be called inside a tokio runtime; the work ends within [`PATIENCE`].
///
/// # Errors
/// [`Error::Record`] when the journal can't be listed.
pub(crate) fn end(owner: Owner, journal: &Journal) -> Result<Way, Error> {
    let mark = Mark::new(owner, journal)?;
    let (tell, way) = watch::channel(InTheWay::Unknown);
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(|| end_all(&mark, &tell)));
    Ok(Way(way))
}

fn end_all(mark: &Mark, tell: &watch::Sender<InTheWay>) {
    let patience = Patience::from_now();
    let mut environments = Environments::until(patience.end);
    loop {
        // Again and again, as one may have started another before it ended.
        let mut found = Vec::new();
        for pid in environments.processes() {
            found.extend(mark.find(pid, &mut environments));
        }
        tell.send_replace(InTheWay::of(&found));
        if found.is_empty() {
            break;
        }
        // Those that aren't waited for must not go on while others are.
        found.sort_by_key(|orphan| orphan.work != Work::Collects);
        found.iter().for_each(|orphan| orphan.end(patience));
        if Instant::now() >= patience.end {
            tracing::error!("CNI plugins of a killed daemon can't be ended");
            break;
        }
    }
    tell.send_replace(InTheWay::of(&[]));
    let unread = environments.unread();
    if unread > 0 {
        tracing::warn!(
            processes = unread,
            "can't be looked at: a killed daemon's CNI plugins may be among them"
        );
    }
}

/// What waits for plugins of a killed daemon.
#[derive(Debug, Clone)]
pub(crate) struct Way(watch::Receiver<InTheWay>);

#[derive(Debug, PartialEq, Eq)]
enum InTheWay {
    /// They haven't been looked for: of everybody.
    Unknown,
    /// Of everybody.
    All,
    /// Of these.
    Of(HashSet<AttachmentId>),
}

impl InTheWay {
    fn of(found: &[Orphan]) -> InTheWay {
        let ids = found.iter().map(|orphan| orphan.work.attachment().cloned());
        // One that is about no attachment is about all.
        ids.collect::<Option<_>>().map_or(InTheWay::All, InTheWay::Of)
    }
}

impl Way {
    /// Waits until none is at work on the attachment, or on all. Cancel safe.
    pub(crate) async fn is_free(&self, id: &AttachmentId) {
        self.wait(|ids| !ids.contains(id)).await;
    }

    /// Waits until none is at work. Cancel safe.
    pub(crate) async fn is_clear(&self) {
        self.wait(HashSet::is_empty).await;
    }

    async fn wait(&self, is_fine: impl Fn(&HashSet<AttachmentId>) -> bool) {
        let fine = |state: &InTheWay| matches!(state, InTheWay::Of(ids) if is_fine(ids));
        // Without a sender the work is over.
        let mut way = self.0.clone();
        drop(way.wait_for(fine).await);
    }
}

/// Until when is waited.
#[derive(Debug, Clone, Copy)]
struct Patience {
    leave: Instant,
    end: Instant,
}

impl Patience {
    fn from_now() -> Patience {
        let now = Instant::now();
        Patience { leave: now + LEAVE, end: now + PATIENCE }
    }
}

/// What one is at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Work {
    /// ADD.
    Adds(AttachmentId),
    /// GC, which mustn't go on.
    Collects,
    /// DEL.
    Undoes(AttachmentId),
}

impl Work {
    fn attachment(&self) -> Option<&AttachmentId> {
        match self {
            Work::Adds(id) | Work::Undoes(id) => Some(id),
            Work::Collects => None,
        }
    }
}

/// One of them, open.
struct Orphan {
    pid: Pid,
    process: OwnedFd,
    work: Work,
}

impl Orphan {
    /// Ends it; one about an attachment when its time is up.
    fn end(&self, patience: Patience) {
        let pid = self.pid.as_raw_nonzero();
        if self.work != Work::Collects {
            tracing::info!(pid, "waits for a CNI plugin that a killed daemon left at work");
            if wait(&self.process, patience.leave) {
                return;
            }
        }
        tracing::warn!(pid, "ends a CNI plugin that a killed daemon left running");
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        // Whether it has gone is looked at again.
        wait(&self.process, patience.end);
    }
}

/// What they are known by.
struct Mark {
    owner: Owner,
    recorded: HashSet<AttachmentId>,
    /// Those of them that have no result.
    intended: HashSet<AttachmentId>,
}

impl Mark {
    /// By what is recorded now: what this run makes later is none of theirs.
    fn new(owner: Owner, journal: &Journal) -> Result<Mark, Error> {
        let recorded: HashSet<AttachmentId> = journal.ids()?.into_iter().collect();
        // One that can't be read is no reason to end anybody.
        let is_intended =
            |id: &&AttachmentId| matches!(journal.load(id), Ok(Some(record)) if record.result.is_none());
        let intended = recorded.iter().filter(is_intended).cloned().collect();
        Ok(Mark { owner, recorded, intended })
    }

    /// The process, if it is one of them. It is looked at again once it is open: its number may have become another's.
    fn find(&self, pid: Pid, environments: &mut Environments) -> Option<Orphan> {
        self.work(&environments.of(pid))?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let work = self.work(&environments.of(pid))?;
        Some(Orphan { pid, process, work })
    }

    /// What a process with that environment does for us, if it is one of them.
    fn work(&self, environment: &[u8]) -> Option<Work> {
        let value = |name: &str| {
            environment
                .split(|byte| *byte == 0)
                .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        };
        if !value(VARIABLE).is_some_and(|value| self.owner.is_former(value)) {
            return None;
        }
        let text = |name: &str| String::from_utf8_lossy(value(name).unwrap_or_default()).into_owned();
        let id = AttachmentId { container_id: text("CNI_CONTAINERID"), ifname: text("CNI_IFNAME") };
        match value("CNI_COMMAND") {
            Some(b"ADD") => self.intended.contains(&id).then_some(Work::Adds(id)),
            Some(b"DEL") => self.recorded.contains(&id).then_some(Work::Undoes(id)),
            Some(b"GC") => Some(Work::Collects),
            _ => None,
        }
    }
}

/// Waits until the process has ended, or the time is up. Returns whether it has.
fn wait(process: &OwnedFd, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn is_pending(work: impl Future<Output = ()>) -> bool {
        pin!(work).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    fn id(name: &str) -> AttachmentId {
        AttachmentId { container_id: name.into(), ifname: "eth0".into() }
    }

    fn work(environment: &str) -> Option<Work> {
        let mark = Mark {
            owner: Owner { directory: "1:22".into(), run: "9".into() },
            recorded: HashSet::from([id("half"), id("whole")]),
            intended: HashSet::from([id("half")]),
        };
        mark.work(environment.replace(' ', "\0").as_bytes())
    }

    #[test]
    fn only_what_is_at_work_for_us_is_ended() {
        for (ours, expected) in [
            (
                "A=B CNI_COMMAND=ADD CNI_CONTAINERID=half CNI_IFNAME=eth0 KNARR_STATE=1:22",
                Work::Adds(id("half")),
            ),
            (
                "KNARR_STATE=1:22/8 CNI_COMMAND=DEL CNI_CONTAINERID=half CNI_IFNAME=eth0",
                Work::Undoes(id("half")),
            ),
            (
                "KNARR_STATE=1:22/99 CNI_COMMAND=DEL CNI_CONTAINERID=whole CNI_IFNAME=eth0",
                Work::Undoes(id("whole")),
            ),
            ("KNARR_STATE=1:22 CNI_COMMAND=GC", Work::Collects),
        ] {
            assert_eq!(work(ours), Some(expected), "{ours}");
        }
        for others in [
            "KNARR_STATE=1:22 CNI_COMMAND=ADD CNI_CONTAINERID=whole CNI_IFNAME=eth0",
            "KNARR_STATE=1:22 CNI_COMMAND=ADD CNI_CONTAINERID=half CNI_IFNAME=eth1",
            "KNARR_STATE=1:22 CNI_COMMAND=DEL CNI_CONTAINERID=unknown CNI_IFNAME=eth0",
            "KNARR_STATE=1:22 CNI_COMMAND=CHECK CNI_CONTAINERID=half CNI_IFNAME=eth0",
            "KNARR_STATE=1:22 CNI_COMMAND=STATUS",
            "KNARR_STATE=1:22 CNI_CONTAINERID=half CNI_IFNAME=eth0",
            "KNARR_STATE=1:2 CNI_COMMAND=GC",
            "KNARR_STATE=1:222 CNI_COMMAND=GC",
            "KNARR_STATE=1:222/8 CNI_COMMAND=GC",
            "KNARR_STATE=1:22/9 CNI_COMMAND=GC",
            "CNI_COMMAND=ADD CNI_CONTAINERID=half CNI_IFNAME=eth0 CNI_PATH=/a:/b",
            "CNI_COMMAND=GC CNI_PATH=/a:/b",
            "",
        ] {
            assert_eq!(work(others), None, "{others}");
        }
    }

    #[test]
    fn a_directory_is_another_by_whatever_name_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&one, dir.path().join("link")).unwrap();
        let (first, again) = (Owner::of(&one).unwrap(), Owner::of(&dir.path().join("link")).unwrap());
        assert!(again.is_former(first.value().as_bytes()) && !first.is_former(first.value().as_bytes()));
        assert!(!Owner::of(&other).unwrap().is_former(first.value().as_bytes()));
    }

    #[tokio::test]
    async fn only_what_one_is_in_the_way_of_waits() {
        let (tell, way) = watch::channel(InTheWay::Unknown);
        let way = Way(way);
        let waits = |name| is_pending(way.is_free(&id(name)));
        assert!(waits("a") && is_pending(way.is_clear()), "nobody has looked");
        tell.send_replace(InTheWay::Of([id("a")].into()));
        assert!(waits("a") && !waits("b") && is_pending(way.is_clear()));
        tell.send_replace(InTheWay::All);
        assert!(waits("b"));
        tell.send_replace(InTheWay::of(&[]));
        assert!(!waits("a") && !is_pending(way.is_clear()));
    }
}
