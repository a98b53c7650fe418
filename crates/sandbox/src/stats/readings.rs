//! Looks at cgroups and at processes, many of them by a few threads.
//!
//! Each thread takes the next one when it has finished the last, so that one which doesn't come back (a file of the kernel's that
//! hangs) holds up nobody else. As long as somebody finds something the answer waits; then it goes without what is missing. What
//! hangs has one thread that waits for it: later answers go without it at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime::cgroup::{Cgroup, Host, Quota, Reader, Stats};
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
    whose: Whose,
    under_way: Arc<UnderWay>,
}

#[derive(Debug, Clone, Copy)]
enum Whose {
    /// A container's, with its first process.
    Container(u32),
    /// A pod's, which kubelet has set the pod's limits on.
    PodWithLimits,
    /// A pod's, which has none: they would be on the one above.
    Pod,
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
        let cgroup = cgroup_of(status);
        let whose = if cgroup == status.cgroup { Whose::Pod } else { Whose::PodWithLimits };
        Self { cgroup: cgroup.to_owned(), whose, under_way: under_way.clone() }
    }

    pub(super) fn container(
        (id, pid): (&ContainerId, u32),
        pod: &PodStatus,
        under_way: &Arc<UnderWay>,
    ) -> Self {
        let cgroup = format!("{}/{id}", pod.cgroup);
        Self { cgroup, whose: Whose::Container(pid), under_way: under_way.clone() }
    }

    fn read(&self, reader: &mut Reader, host: &Host, wanted: &Wanted) -> Result<Reading, runtime::Error> {
        let cgroup = Cgroup::at(host, &self.cgroup)?;
        let (at, moment) = (clock::now(), Instant::now());
        let mut reading = Reading { at, moment, ..Reading::none() };
        reading.stats = reader.stats(&cgroup, &wanted.parts)?;
        match self.whose {
            Whose::Container(pid) => reading.processes = processes(reader, (&cgroup, pid), wanted)?,
            Whose::PodWithLimits => {}
            Whose::Pod => {
                if let Some(memory) = &mut reading.stats.memory {
                    memory.limit = limit_above(reader, host, &cgroup)?;
                }
            }
        }
        if wanted.quotas && !matches!(self.whose, Whose::Container(_)) {
            reading.quota = reader.quota(&cgroup)?;
        }
        Ok(reading)
    }
}

/// The cgroup that has the usage of a pod: the one above its own, if that is the pod's alone, as it is with kubelet, which calls it after
/// the pod. There are the pod's limits and what they held back, and what containers that are gone have left behind.
pub(super) fn cgroup_of(pod: &PodStatus) -> &str {
    let uid = &pod.config.metadata.uid;
    // In names of systemd's slices a dash stands for a level (kubelet's ToSystemd).
    let is_called_after =
        |name: &str| [uid.clone(), uid.replace('-', "_")].iter().any(|uid| names(name, uid));
    let above = pod.cgroup.rsplit_once('/').map(|(above, _)| above);
    let named = above.filter(|above| is_called_after(above.rsplit('/').next().unwrap_or_default()));
    named.unwrap_or(&pod.cgroup)
}

/// `pod<uid>` or `…-pod<uid>.slice`.
fn names(cgroup: &str, uid: &str) -> bool {
    let name = cgroup.strip_suffix(".slice").unwrap_or(cgroup);
    let before = name.strip_suffix(uid).filter(|_| !uid.is_empty());
    before.is_some_and(|before| before == "pod" || before.ends_with("-pod"))
}

/// The limit of memory of the cgroup above.
fn limit_above(reader: &mut Reader, host: &Host, pod: &Cgroup) -> Result<Option<u64>, runtime::Error> {
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
    /// Of pods, where it is wanted.
    pub(super) quota: Option<Quota>,
}

impl Reading {
    /// Of what isn't there to be looked at.
    pub(super) fn none() -> Self {
        let (at, moment) = (clock::now(), Instant::now());
        Self { at, moment, stats: Stats::default(), processes: None, quota: None }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_cgroup_of_a_pod_is_known_by_its_name() {
        for (cgroup, uid, is_it) in [
            ("pod1-2", "1-2", true),
            ("kubepods-burstable-pod1_2.slice", "1_2", true),
            ("kubepods-pod1_2.slice", "1_2", true),
            ("pod1-2", "2", false),
            ("pod", "", false),
            ("knarr", "1-2", false),
        ] {
            assert_eq!(names(cgroup, uid), is_it, "{cgroup} {uid}");
        }
    }
}
