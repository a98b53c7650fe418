//! Runs what of the table is wished for, says how it went, and looks for what is left over.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use e2e::kube::{Cluster, Kind, Programs, Standalone};
use futures::{FutureExt, StreamExt};

use crate::table::{Lone, SCENARIOS, STANDALONE, Scenario, Size, Turn};

/// How many scenarios run side by side: pods are mostly waited for, and there may be two processors.
const SIDE_BY_SIDE: usize = 6;

/// Which scenarios, on what.
pub(crate) struct Wishes {
    kind: Kind,
    size: Size,
    names: Vec<String>,
}

impl Wishes {
    /// Those of the command line: parts of names (all that have one of them, else all), and `KNARR_KUBE_SIZE`, `short` or
    /// `full`. Options are cargo's for other kinds of tests.
    pub(crate) fn of_this_run() -> Self {
        let names: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
        let full = Self::insist() || !names.is_empty();
        Self { kind: Kind::of_this_run(), size: if full { Size::Full } else { Size::Short }, names }
    }

    /// Whether a machine that lacks something for them has failed: all were asked for, and not whatever the machine can do.
    pub(crate) fn insist() -> bool {
        std::env::var("KNARR_KUBE_SIZE").is_ok_and(|size| size == "full")
    }

    fn include(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }

    fn lone(&self) -> Vec<&'static Lone> {
        let wished = |scenario: &&Lone| scenario.size <= self.size && self.include(scenario.name);
        STANDALONE.iter().filter(wished).collect()
    }

    fn scenarios(&self, turn: Turn) -> Vec<&'static Scenario> {
        let wished = |scenario: &&Scenario| scenario.size <= self.size && self.include(scenario.name);
        SCENARIOS.iter().filter(wished).filter(|scenario| scenario.turn == turn).collect()
    }
}

/// Runs them and gives the names of those that failed.
pub(crate) async fn run(programs: &Programs, wishes: &Wishes) -> Vec<&'static str> {
    let mut failed = Vec::new();
    if !wishes.lone().is_empty() {
        failed.extend(report("standalone", standalone(programs, wishes)).await.unwrap_or_default());
    }
    if SCENARIOS.iter().any(|scenario| wishes.include(scenario.name)) {
        failed.extend(report("cluster", cluster(programs, wishes)).await.unwrap_or_default());
    }
    failed
}

async fn standalone(programs: &Programs, wishes: &Wishes) -> Vec<&'static str> {
    let mut failed = Vec::new();
    let mut rig = match report("standalone starts", Standalone::start(programs.clone(), wishes.kind)).await {
        Ok(rig) => rig,
        Err(name) => return name,
    };
    for scenario in wishes.lone() {
        let ended = report(scenario.name, (scenario.run)(&mut rig)).await;
        if let Err(names) = ended {
            println!("{}{}", rig.ground.logs(), rig.runtime.log_tail());
            failed.extend(names);
        }
    }
    let end = async { assert_eq!(rig.finish().await, Vec::<String>::new(), "left over") };
    failed.extend(report("standalone leaves nothing", end).await.err().into_iter().flatten());
    failed
}

async fn cluster(programs: &Programs, wishes: &Wishes) -> Vec<&'static str> {
    let mut failed = Vec::new();
    let cluster = match report("cluster starts", Cluster::start(programs.clone(), wishes.kind)).await {
        Ok(cluster) => Arc::new(cluster),
        Err(name) => return name,
    };
    let together = wishes.scenarios(Turn::Together).into_iter().map(|scenario| one(&cluster, scenario));
    let ended = futures::stream::iter(together).buffer_unordered(SIDE_BY_SIDE);
    failed.extend(ended.collect::<Vec<_>>().await.into_iter().flatten());
    for scenario in wishes.scenarios(Turn::Alone) {
        failed.extend(one(&cluster, scenario).await);
    }
    let end = async { assert_eq!(cluster.finish().await, Vec::<String>::new(), "left over") };
    failed.extend(report("cluster leaves nothing", end).await.err().into_iter().flatten());
    failed
}

/// Runs a scenario in a namespace of its own, and removes that.
async fn one(cluster: &Arc<Cluster>, scenario: &Scenario) -> Option<&'static str> {
    let whole = async {
        let space = cluster.space(scenario.name).await;
        let name = space.name.clone();
        let result = AssertUnwindSafe((scenario.run)(space.clone())).catch_unwind().await;
        if let Err(panic) = result {
            println!("--- {}\n{}", scenario.name, space.diagnosis().await);
            let removed = AssertUnwindSafe(cluster.remove(&name)).catch_unwind().await;
            let stays = removed.err().map(|second| format!("\n    and then: {}", text(&*second)));
            panic!("{}{}", text(&*panic), stays.unwrap_or_default());
        }
        cluster.remove(&name).await;
    };
    report(scenario.name, whole).await.err().map(|_| scenario.name)
}

/// Awaits a part of the run and says how it went and how long it took.
///
/// # Errors
/// Its name when it panicked.
async fn report<T>(name: &'static str, part: impl Future<Output = T>) -> Result<T, Vec<&'static str>> {
    let began = Instant::now();
    let result = AssertUnwindSafe(part).catch_unwind().await;
    let seconds = began.elapsed().as_secs_f32();
    match result {
        Ok(value) => {
            println!("{name} ... ok ({seconds:.1} s)");
            Ok(value)
        }
        Err(panic) => {
            println!("{name} ... FAILED ({seconds:.1} s)\n    {}", text(&*panic));
            Err(vec![name])
        }
    }
}

/// What was panicked with.
fn text(panic: &(dyn Any + Send)) -> &str {
    let formatted = panic.downcast_ref::<String>().map(String::as_str);
    formatted.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}
