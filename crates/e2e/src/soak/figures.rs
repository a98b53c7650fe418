//! The table of figures: what each is called, whether it has to come back, and how much it may grow.

/// A figure that is taken again and again.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// What it is called in tables.
    pub name: &'static str,
    /// What it is measured in.
    pub unit: Unit,
    /// What is asked of it.
    pub bound: Bound,
    /// Whether it has to be what it was, or less, when everybody has gone.
    pub after: After,
}

/// What a figure is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Memory or files.
    KiB,
    /// Milliseconds.
    Time,
}

/// How much a figure may grow, by its slope, from the warm-up to the end of the churn.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// So much in its unit: what it swings by itself, whatever the length of the run.
    Most(f64),
    /// Such a share of its median, where times are judged.
    Share(f64),
}

/// What is asked of a figure at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It is no more than before the first phase.
    AsBefore,
    /// Nothing: memory is what the allocator keeps, and a time has no end.
    Open,
}

/// How many figures there are before the times.
pub const COUNTED: usize = 18;

/// All figures.
pub const FIGURES: [Figure; COUNTED + 12] = [
    // The allocator keeps now more and now less of what was freed (see tests/stream_cycles.rs).
    open("daemon, RSS", Unit::KiB, Bound::Most(2048.0)),
    open("daemon, PSS", Unit::KiB, Bound::Most(2048.0)),
    open("daemon, anonymous memory", Unit::KiB, Bound::Most(1536.0)),
    // Shared pages are more of each where fewer have them.
    open("a supervisor, PSS", Unit::KiB, Bound::Most(8.0)),
    // What is on its way at the moment: pods being made, probes, sessions, pulls.
    returns("daemon, descriptors", Unit::Count, Bound::Most(8.0)),
    // Threads that wait for work in the file system end by themselves.
    returns("daemon, threads", Unit::Count, Bound::Most(6.0)),
    returns("daemon, tasks", Unit::Count, Bound::Most(12.0)),
    returns("processes", Unit::Count, Bound::Most(10.0)),
    returns("supervisors", Unit::Count, Bound::Most(4.0)),
    returns("cgroups of pods, in all hierarchies", Unit::Count, Bound::Most(36.0)),
    returns("mounts", Unit::Count, Bound::Most(0.0)),
    returns("network namespaces", Unit::Count, Bound::Most(4.0)),
    returns("network links", Unit::Count, Bound::Most(8.0)),
    returns("addresses", Unit::Count, Bound::Most(4.0)),
    returns("files below state", Unit::Count, Bound::Most(80.0)),
    returns("files below root", Unit::Count, Bound::Most(80.0)),
    returns("bytes below state", Unit::KiB, Bound::Most(512.0)),
    // One image more or less is there at the moment.
    returns("bytes below root", Unit::KiB, Bound::Most(2048.0)),
    time("start a pod, p50"),
    time("start a pod, p99"),
    time("stop and remove a pod, p50"),
    time("stop and remove a pod, p99"),
    time("exec probe, p50"),
    time("exec probe, p99"),
    time("list pods and containers, p50"),
    time("list pods and containers, p99"),
    time("statistics of all, p50"),
    time("statistics of all, p99"),
    time("pull, p50"),
    time("pull, p99"),
];

const fn returns(name: &'static str, unit: Unit, bound: Bound) -> Figure {
    Figure { name, unit, bound, after: After::AsBefore }
}

const fn open(name: &'static str, unit: Unit, bound: Bound) -> Figure {
    Figure { name, unit, bound, after: After::Open }
}

/// A third of its median: what a machine does beside weighs more than what a leak would.
const fn time(name: &'static str) -> Figure {
    open(name, Unit::Time, Bound::Share(0.33))
}

/// All figures at one moment; those that nobody had a value for are NaN.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Seconds since the beginning of the churn.
    pub at: f64,
    /// Pods made by then.
    pub made: usize,
    /// In the order of [`FIGURES`].
    pub values: [f64; FIGURES.len()],
}

/// The place of a figure.
///
/// # Panics
/// When there is none of this name: the caller's is wrong.
pub fn place_of(name: &str) -> usize {
    FIGURES.iter().position(|figure| figure.name == name).expect("a figure of the table")
}
