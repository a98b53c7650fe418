//! Looks at cgroups and at processes, many of them by a few threads.
//!
//! Each thread takes the next one when it has finished the last, so that one which doesn't come back (a file of the kernel's that
//! hangs) holds up nobody else. As long as somebody finds something the answer waits; then another thread goes on behind what hangs, and
//! the answer goes without it. What hangs has one thread that waits for it: later answers go without it at once.

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

/// Threads that visit network namespaces, for all requests together.
const VISITORS: usize = 4;

/// Who may look.
#[derive(Debug)]
pub(crate) struct Looks {
    readers: Arc<Semaphore>,
    pub(super) walkers: Arc<Semaphore>,
    pub(super) visitors: Arc<Semaphore>,
}

impl Default for Looks {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { readers: semaphore(THREADS), walkers: semaphore(WALKS), visitors: semaphore(VISITORS) }
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
    pub(super) fn hangs(&self) -> bool {
        self.since().is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    pub(super) fn begin(&self) -> Option<Look<'_>> {
        let mut since = self.since();
        since.is_none().then(|| {
            *since = Some(Instant::now());
            Look(self)
        })
    }
}

/// A look that is under way until it is dropped.
pub(super) struct Look<'a>(&'a UnderWay);

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
    let place = (&shared.host, &shared.looks);
    let mut found = Looking::begin(place, vec![subject], wanted).await?.found;
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
    all_of((&shared.host, &shared.looks), subjects, wanted).await
}

async fn all_of(
    place: (&Host, &Looks),
    subjects: Vec<Subject>,
    wanted: &Wanted,
) -> Result<Vec<Option<Reading>>, Error> {
    let mut readings: Vec<Option<Reading>> = subjects.iter().map(|_| None).collect();
    if subjects.is_empty() {
        return Ok(readings);
    }
    let mut looking = Looking::begin(place, subjects, wanted).await?;
    loop {
        match timeout(PATIENCE, looking.found.recv()).await {
            Ok(Some((at, Ok(reading)))) => readings[at] = Some(reading),
            Ok(Some((_, Err(error)))) => tracing::debug!(error = chain(&error), "left out of the usage"),
            Ok(None) => break,
            Err(_) if looking.go_on(place.1) => {}
            Err(_) => break,
        }
    }
    let missing = readings.iter().filter(|reading| reading.is_none()).count();
    if missing > 0 {
        tracing::warn!(missing, of = readings.len(), "the usage of some cgroups could not be read in time");
    }
    Ok(readings)
}

const STEP: &str = "reading the usage";

/// Some threads at work. What they find comes in any order; after the last one there is nothing more.
struct Looking {
    work: Arc<Work>,
    sender: mpsc::WeakUnboundedSender<Found>,
    found: mpsc::UnboundedReceiver<Found>,
}

impl Looking {
    /// Begins to look.
    async fn begin(
        (host, looks): (&Host, &Looks),
        subjects: Vec<Subject>,
        wanted: &Wanted,
    ) -> Result<Self, Error> {
        let threads = subjects.len().div_ceil(FEW).min(AT_ONCE);
        let (host, wanted) = (host.clone(), wanted.clone());
        let work = Arc::new(Work { host, wanted, subjects, next: AtomicUsize::new(0) });
        let (sender, found) = mpsc::unbounded_channel();
        // Only the first is worth waiting for, and not for ever: all may hang.
        let first = timeout(PATIENCE, looks.readers.clone().acquire_owned()).await.ok().and_then(Result::ok);
        let nobody = || Error::Deadline { step: STEP, subject: "all cgroups".to_owned(), after: PATIENCE };
        work.clone().spawn(sender.clone(), first.ok_or_else(nobody)?);
        for _ in 1..threads {
            let Ok(seat) = looks.readers.clone().try_acquire_owned() else { break };
            work.clone().spawn(sender.clone(), seat);
        }
        Ok(Self { work, sender: sender.downgrade(), found })
    }

    /// Has one more thread look at what nobody has begun to look at, if there is anything, and anybody.
    fn go_on(&self, looks: &Looks) -> bool {
        let is_left = self.work.next.load(Ordering::Relaxed) < self.work.subjects.len();
        let seat = looks.readers.clone().try_acquire_owned();
        match (is_left, self.sender.upgrade(), seat) {
            (true, Some(sender), Ok(seat)) => {
                self.work.clone().spawn(sender, seat);
                true
            }
            _ => false,
        }
    }
}

struct Work {
    host: Host,
    wanted: Wanted,
    subjects: Vec<Subject>,
    next: AtomicUsize,
}

impl Work {
    /// Nobody's when nobody waits any more; it ends with the work.
    fn spawn(self: Arc<Self>, found: mpsc::UnboundedSender<Found>, seat: OwnedSemaphorePermit) {
        tokio::task::spawn_blocking(move || self.share(&found, seat));
    }

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
    use std::path::Path;

    use runtime::cgroup::Part;

    use super::*;

    /// A host whose cgroups are directories below this one, with the files of version 2.
    fn host(top: &Path) -> Host {
        serde_json::from_value(serde_json::json!({ "unified": top, "legacy": [] })).unwrap()
    }

    /// A file that whoever opens it waits for, as a file of the kernel's may: 10 lists lose one thread to it, and nobody else.
    #[tokio::test]
    async fn what_hangs_costs_one_thread_and_itself() {
        let top = tempfile::tempdir().unwrap();
        for name in ["hangs", "other", "behind"] {
            std::fs::create_dir(top.path().join(name)).unwrap();
            std::fs::write(top.path().join(name).join("cpu.stat"), "usage_usec 7\n").unwrap();
        }
        let hanging = top.path().join("hangs/memory.current");
        nix::unistd::mkfifo(&hanging, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (host, looks) = (host(top.path()), Looks::default());
        let kept: [Arc<UnderWay>; 3] = Default::default();
        let wanted = Wanted { parts: vec![Part::Cpu, Part::Memory], ..Wanted::default() };
        let list = async || {
            let subject = |(name, under_way): (&str, &Arc<UnderWay>)| Subject {
                cgroup: format!("/{name}"),
                whose: Whose::PodWithLimits,
                under_way: under_way.clone(),
            };
            let subjects = ["other", "hangs", "behind"].into_iter().zip(&kept).map(subject).collect();
            let found = all_of((&host, &looks), subjects, &wanted).await.unwrap();
            found.iter().map(Option::is_some).collect::<Vec<_>>()
        };
        for _ in 0..10 {
            assert_eq!(list().await, [true, false, true]);
            assert_eq!(looks.readers.available_permits(), THREADS - 1);
        }
        // It comes back to somebody who doesn't wait any more, and is looked at again.
        std::fs::write(&hanging, "4096\n").unwrap();
        let all = u32::try_from(THREADS).unwrap();
        drop(looks.readers.acquire_many(all).await.unwrap());
        std::fs::remove_file(&hanging).unwrap();
        assert_eq!(list().await, [true; 3]);
    }

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
