//! What kubelet hands on about pods, compared with what it gives with containerd: `/metrics/cadvisor`, `/metrics/resource` and
//! `/stats/summary`.
//!
//! [`load`] has the pods that are looked at. `containerd.txt` says which series, labels, rows and fields kubelet has of them with
//! containerd and the cAdvisor in it; `KNARR_KUBE_FIGURES=write` with `KNARR_KUBE_RUNTIME=containerd` makes it anew. On knarr
//! none of them may be missing but for what [`excuses`] explains, and an excuse that isn't needed any more is an error, too.
//! [`plausible`] has what values must be like; what more there is than with containerd is nobody's loss.

mod excuses;
mod load;
mod plausible;

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::kube::figures::{Figures, Page, Row};
use e2e::kube::{Runtime, Standalone};
use e2e::until_each;

use self::excuses::Excuse;

/// kubelet's gate for figures from the runtime alone.
const GATE: &str = "PodAndContainerStatsFromCRI";

/// cAdvisor looks at a container each 10 to 15 seconds, and rates need two looks.
const PATIENCE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(500);

/// So many different looks of cAdvisor are taken together for `containerd.txt`: some series come late.
const LOOKS: usize = 9;

pub(crate) async fn nothing_that_containerd_has_is_missing(rig: &mut Standalone) {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("skipped: figures: containerd.txt is of cgroup v1");
        return;
    }
    load::start(rig).await;
    if matches!(rig.runtime, Runtime::Containerd(_)) {
        if std::env::var("KNARR_KUBE_FIGURES").as_deref() == Ok("write") {
            write(rig).await;
        }
        compare(rig, ("containerd", &[])).await;
    } else {
        compare(rig, ("knarr without the gate", excuses::WITHOUT_GATE)).await;
        rig.gates(&[GATE]).await;
        compare(rig, ("knarr with the gate", excuses::WITH_GATE)).await;
        rig.gates(&[]).await;
    }
    load::end(rig).await;
}

/// Waits until nothing is missing that isn't excused, and all values are plausible.
async fn compare(rig: &Standalone, (whose, excuses): (&str, &'static [Excuse])) {
    let wanted: Figures =
        std::fs::read_to_string(golden()).expect("containerd.txt").parse().expect("an inventory");
    let figures = until_each((INTERVAL, PATIENCE), &format!("all figures of {whose}"), || async {
        let figures = look(rig).await?;
        let missing = wanted.missing_in(&figures);
        let inexcusable = missing.iter().filter(|difference| !excuses::any(excuses, difference));
        let mut wrong: Vec<String> = inexcusable.map(|difference| format!("missing: {difference}")).collect();
        wrong.extend(plausible::wrong(&figures, excuses));
        if wrong.is_empty() { Ok(figures) } else { Err(Wrong(wrong)) }
    })
    .await;
    let missing = wanted.missing_in(&figures);
    let unused = excuses.iter().filter(|excuse| !missing.iter().any(|difference| excuse.is_for(difference)));
    assert_eq!(
        unused.collect::<Vec<_>>(),
        Vec::<&Excuse>::new(),
        "excuses of {whose} for what isn't missing"
    );
    let more = figures.missing_in(&wanted);
    println!(
        "figures: {whose}: {} of {} rows as with containerd, the others explained; {} more",
        wanted.rows() - missing.len(),
        wanted.rows(),
        more.len()
    );
    if std::env::var_os("KNARR_KUBE_FIGURES").is_some() {
        more.iter().for_each(|difference| println!("  more: {difference}"));
    }
}

async fn look(rig: &Standalone) -> Result<Figures, Wrong> {
    let mut figures = Figures::default();
    for page in [Page::Cadvisor, Page::Resource, Page::Summary] {
        let text = rig.kubelet.get(page.path()).await?;
        figures.read(page, &text, &load::PODS)?;
    }
    Ok(figures)
}

/// Writes `containerd.txt`.
async fn write(rig: &Standalone) {
    let mut all = Figures::default();
    let mut last = None;
    for number in 0..LOOKS {
        let figures = until_each((INTERVAL, PATIENCE), "cAdvisor to look again", || async {
            let figures = look(rig).await?;
            let seen = seen(&figures);
            if seen.is_some() && seen != last { Ok(figures) } else { Err(Wrong(vec![format!("{seen:?}")])) }
        })
        .await;
        last = seen(&figures);
        // At the first one kubelet still has fields that it makes up for what cAdvisor hasn't looked at.
        if number > 0 {
            all.merge(figures);
        }
    }
    let head = "# What kubelet has of these pods with containerd, on cgroup v1: made by KNARR_KUBE_FIGURES=write (docs/stats.md).\n";
    std::fs::write(golden(), format!("{head}{all}")).expect("containerd.txt");
}

/// What cAdvisor has seen of the containers that changes with each look of its, if it knows them all.
fn seen(figures: &Figures) -> Option<Vec<f64>> {
    let of = |subject: &&str| {
        let row = Row { own: "cpu=total".into(), subject: (*subject).to_owned() };
        figures.value(Page::Cadvisor, "container_cpu_usage_seconds_total", &row)
    };
    load::CONTAINERS.iter().map(of).collect()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube/figures/containerd.txt")
}

/// What is wrong, a line each.
struct Wrong(Vec<String>);

impl From<String> for Wrong {
    fn from(text: String) -> Self {
        Self(vec![text])
    }
}

impl std::fmt::Debug for Wrong {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|line| write!(formatter, "\n    {line}"))
    }
}
