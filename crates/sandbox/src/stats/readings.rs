//! Looks at cgroups and at processes, many of them by a few threads.
//!
//! Each thread takes the next one when it has finished the last, so that one which doesn't come back (a file of the kernel's that
//! hangs) holds up nobody else. As long as somebody finds something the answer waits; then it goes without what is missing. What
//! hangs has one thread that waits for it: later answers go without it at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime::cgroup::{Cgroup, Host, Reader, Stats};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::{ProcessUsage, Wanted};
use crate::clock;
use crate::error::{Error, chain};
use crate::id::ContainerId;
use crate::pod::status::PodStatus;
use crate::shared::Shared;

/// How long nothing may be found before the answer goes without the rest.
const PATIENCE: Duration = Duration::from_secs(2);

/// Threads that look, for all requests together; those that hang count.
const THREADS: usize = 8;

/// Threads for one request. They wait for nothing, so that more than there are processors would only be in each other's way.
const AT_ONCE: usize = 4;

/// What one thread is worth beginning for: some ten files each.
const FEW: usize = 16;

/// Layers that are walked over at a time, for all requests together.
const WALKS: usize = 8;

/// Who may look.
#[derive(Debug)]
pub(crate) struct Looks {
    readers: Arc<Semaphore>,
    pub(super) walkers: Arc<Semaphore>,
}

impl Default for Looks {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { readers: semaphore(THREADS), walkers: semaphore(WALKS) }
    }
}

/// What is looked at.
#[derive(Debug)]
pub(super) struct Subject {
    cgroup: String,
    /// The first process of a container.
    pid: Option<u32>,
    under_way: Arc<UnderWay>,
}

/// Since when somebody has been looking at a subject: the first of those who do so now.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<Option<Instant>>);

impl UnderWay {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a look has not come back for so long that another would not either.
    fn hangs(&self) -> bool {
        self.since().is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    fn begin(&self) -> Option<Look<'_>> {
        let mut since = self.since();
        since.is_none().then(|| {
            *since = Some(Instant::now());
            Look(self)
        })
    }
}

/// A look that is under way until it is dropped.
struct Look<'a>(&'a UnderWay);

impl Drop for Look<'_> {
    fn drop(&mut self) {
        *self.0.since() = None;
    }
}

impl Subject {
    pub(super) fn pod(status: &PodStatus, under_way: &Arc<UnderWay>) -> Self {
        Self { cgroup: status.cgroup.clone(), pid: None, under_way: under_way.clone() }
    }

    pub(super) fn container(
        (id, pid): (&ContainerId, u32),
        pod: &PodStatus,
        under_way: &Arc<UnderWay>,
    ) -> Self {
        Self { cgroup: format!("{}/{id}", pod.cgroup), pid: Some(pid), under_way: under_way.clone() }
    }

    fn read(&self, reader: &mut Reader, host: &Host, wanted: &Wanted) -> Result<Reading, runtime::Error> {
        let cgroup = Cgroup::at(host, &self.cgroup)?;
        let (at, moment) = (clock::now(), Instant::now());
        let mut stats = reader.stats(&cgroup, &wanted.parts)?;
        let processes = match self.pid {
            Some(pid) => processes(reader, (&cgroup, pid), wanted)?,
            None => {
                if let Some(memory) = &mut stats.memory {
                    memory.limit = limit_of_pod(reader, host, &cgroup)?;
                }
                None
            }
        };
        Ok(Reading { at, moment, stats, processes })
    }
}

/// A pod's own cgroup has no limit; Kubernetes sets it on the one above, which is made for the pod.
fn limit_of_pod(reader: &mut Reader, host: &Host, pod: &Cgroup) -> Result<Option<u64>, runtime::Error> {
    let above = pod.path().rsplit_once('/').map_or("", |(above, _)| above);
    // That of everything has no files of limits.
    if above.is_empty() { Ok(None) } else { reader.memory_limit(&Cgroup::at(host, above)?) }
}

fn processes(
    reader: &mut Reader,
    (cgroup, first): (&Cgroup, u32),
    wanted: &Wanted,
) -> Result<Option<ProcessUsage>, runtime::Error> {
    if !(wanted.processes || wanted.descriptors || wanted.states) {
        return Ok(None);
    }
    let pids = reader.processes(cgroup)?;
    let mut found = ProcessUsage { count: pids.len() as u64, ..ProcessUsage::default() };
    if wanted.descriptors {
        found.descriptors = Some(reader.descriptors(&pids));
        found.open_files_limit = reader.open_files_limit(first);
    }
    if wanted.states {
        found.states = reader.states(cgroup)?;
    }
    Ok(Some(found))
}

/// What was found.
#[derive(Debug)]
pub(super) struct Reading {
    /// In nanoseconds since the epoch.
    pub(super) at: i64,
    /// The same moment.
    pub(super) moment: Instant,
    pub(super) stats: Stats,
    pub(super) processes: Option<ProcessUsage>,
}

impl Reading {
    /// Of what isn't there to be looked at.
    pub(super) fn none() -> Self {
        Self { at: clock::now(), moment: Instant::now(), stats: Stats::default(), processes: None }
    }

    /// Whether there was a cgroup.
    pub(super) fn is_there(&self) -> bool {
        self.stats.cpu.is_some() || self.stats.memory.is_some()
    }
}

type Found = (usize, Result<Reading, Error>);

/// Looks at one. Safe to cancel.
///
/// # Errors
/// [`Error::Step`], [`Error::Deadline`].
pub(super) async fn one(shared: &Shared, subject: Subject, wanted: &Wanted) -> Result<Reading, Error> {
    let name = subject.cgroup.clone();
    let mut found = begin(shared, vec![subject], wanted).await?;
    let late = || Error::Deadline { step: STEP, subject: name, after: PATIENCE };
    let (_, reading) = timeout(PATIENCE, found.recv()).await.ok().flatten().ok_or_else(late)?;
    reading
}

/// Looks at all; nothing for what can't be read, or not in time. Safe to cancel.
///
/// # Errors
/// [`Error::Deadline`] when nobody could begin to look.
pub(super) async fn all(
    shared: &Shared,
    subjects: Vec<Subject>,
    wanted: &Wanted,
) -> Result<Vec<Option<Reading>>, Error> {
    let mut readings: Vec<Option<Reading>> = subjects.iter().map(|_| None).collect();
    if subjects.is_empty() {
        return Ok(readings);
    }
    let mut found = begin(shared, subjects, wanted).await?;
    while let Ok(Some((at, reading))) = timeout(PATIENCE, found.recv()).await {
        match reading {
            Ok(reading) => readings[at] = Some(reading),
            Err(error) => tracing::debug!(error = chain(&error), "left out of the usage"),
        }
    }
    let missing = readings.iter().filter(|reading| reading.is_none()).count();
    if missing > 0 {
        tracing::warn!(missing, of = readings.len(), "the usage of some cgroups could not be read in time");
    }
    Ok(readings)
}

const STEP: &str = "reading the usage";

/// Begins to look. What is found comes in any order; after the last one there is nothing more.
async fn begin(
    shared: &Shared,
    subjects: Vec<Subject>,
    wanted: &Wanted,
) -> Result<mpsc::UnboundedReceiver<Found>, Error> {
    let threads = subjects.len().div_ceil(FEW).min(AT_ONCE);
    let work = Arc::new(Work {
        host: shared.host.clone(),
        wanted: wanted.clone(),
        subjects,
        next: AtomicUsize::new(0),
    });
    let (sender, found) = mpsc::unbounded_channel();
    for number in 0..threads {
        let seats = shared.looks.readers.clone();
        // Only the first is worth waiting for, and not for ever: all may hang.
        let seat = match seats.clone().try_acquire_owned() {
            Ok(seat) => Some(seat),
            Err(_) if number == 0 => timeout(PATIENCE, seats.acquire_owned()).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        let seat = match seat {
            Some(seat) => seat,
            None if number == 0 => {
                return Err(Error::Deadline {
                    step: STEP,
                    subject: "all cgroups".to_owned(),
                    after: PATIENCE,
                });
            }
            None => break,
        };
        let (work, sender) = (work.clone(), sender.clone());
        // Nobody's when nobody waits any more; it ends with the work.
        tokio::task::spawn_blocking(move || work.share(&sender, seat));
    }
    Ok(found)
}

struct Work {
    host: Host,
    wanted: Wanted,
    subjects: Vec<Subject>,
    next: AtomicUsize,
}

impl Work {
    fn share(&self, found: &mpsc::UnboundedSender<Found>, _seat: OwnedSemaphorePermit) {
        let mut reader = Reader::new();
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(subject) = self.subjects.get(at) else { break };
            if subject.under_way.hangs() {
                continue;
            }
            let _look = subject.under_way.begin();
            let reading = subject.read(&mut reader, &self.host, &self.wanted);
            let reading = reading.map_err(|cause| Error::step(STEP, subject.cgroup.clone(), cause));
            // Nobody waits any more.
            if found.send((at, reading)).is_err() {
                break;
            }
        }
    }
}
