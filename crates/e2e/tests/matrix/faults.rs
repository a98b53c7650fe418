//! The table of faults, and the directory by which the daemon is told of them (`cri-server/src/faults.rs` has its files).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A way to fail.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// What the daemon knows it as.
    pub(super) word: &'static str,
    pub(super) times: &'static str,
    pub(super) kind: Kind,
}

/// What is right when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The step fails.
    Error,
    /// The step fails for want of what the answer has to name, in the words of pods or of images.
    Want([&'static str; 2]),
    /// The step takes longer than whoever asked for it waits.
    Hang,
    /// The daemon is killed.
    Daemon,
    /// The pod's supervisor is killed while the step is held.
    Supervisor,
    /// The container's processes are killed while the step is held.
    Workload,
}

const fn fault(name: &'static str, word: &'static str, times: &'static str, kind: Kind) -> Fault {
    Fault { name, word, times, kind }
}

pub(super) const FAULTS: &[Fault] = &[
    fault("error", "error", "once", Kind::Error),
    fault("error-always", "error", "always", Kind::Error),
    fault("full-disk", "full-disk", "once", Kind::Want(["space is exhausted", "no space is left"])),
    fault(
        "no-descriptors",
        "no-descriptors",
        "once",
        Kind::Want(["the number of open files is exhausted", "Too many open files"]),
    ),
    fault("no-memory", "no-memory", "once", Kind::Want(["memory is exhausted", "Cannot allocate memory"])),
    fault(
        "no-pids",
        "no-pids",
        "once",
        Kind::Want(["the number of processes is exhausted", "Resource temporarily unavailable"]),
    ),
    fault("hang", "hang", "once", Kind::Hang),
    fault("kill-daemon", "kill-daemon", "once", Kind::Daemon),
    fault("kill-supervisor", "kill-supervisor", "once", Kind::Supervisor),
    fault("kill-workload", "kill-workload", "once", Kind::Workload),
];

/// The daemon's directory of faults.
#[derive(Debug, Clone)]
pub(super) struct Armoury(PathBuf);

impl Armoury {
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    pub(super) fn arm(&self, step: &str, fault: &Fault) {
        let _none = fs::remove_file(self.0.join("struck"));
        if matches!(fault.kind, Kind::Hang | Kind::Supervisor | Kind::Workload) {
            fs::write(self.0.join("hold"), "").expect("holding a step");
        }
        let beside = self.0.join("new");
        fs::write(&beside, format!("{step} {} {}", fault.word, fault.times)).expect("a fault");
        fs::rename(beside, self.0.join("armed")).expect("arming a fault");
    }

    /// Nothing is to fail any more, and what is held goes on.
    pub(super) fn disarm(&self) {
        let _gone = fs::remove_file(self.0.join("armed"));
        self.release();
    }

    pub(super) fn release(&self) {
        let _gone = fs::remove_file(self.0.join("hold"));
    }

    /// Holds a step for as long as somebody would wait.
    #[expect(clippy::disallowed_methods, reason = "the time is what the fault is")]
    pub(super) fn lingers(&self) {
        std::thread::sleep(Duration::from_secs(1));
    }

    pub(super) fn has_struck(&self) -> bool {
        self.0.join("struck").exists()
    }

    /// Waits for the fault to strike, and says whether it did.
    pub(super) fn waits_for_the_blow(&self, patience: Duration) -> bool {
        let by = Instant::now() + patience;
        while !self.has_struck() && Instant::now() < by {
            pause();
        }
        self.has_struck()
    }

    pub(super) fn forget_passed(&self) {
        fs::write(self.0.join("passed"), "").expect("forgetting steps");
    }

    /// The steps that were passed since, each once, in the order of their first time; `None` when the daemon knows of no faults.
    pub(super) fn passed(&self) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.0.join("passed")).ok()?;
        let mut steps: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if steps.iter().all(|step| step != line) {
                steps.push(line.to_owned());
            }
        }
        Some(steps)
    }
}

#[expect(clippy::disallowed_methods, reason = "a file is looked at again, on a thread of its own")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}
