//! The budgets of ARCHITECTURE.md, by the rows that they are about, and whether a figure keeps them.
//!
//! How figures are gained and shown is not known here.

/// What one row promises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Budget {
    /// So many times better than the best peer.
    Better(f64),
    /// So many times better than the named one.
    BetterThan(&'static str, f64),
    /// At most so many times the floor.
    Floors(f64),
    /// At most this, in the row's unit.
    AtMost(f64),
    /// Even our p99 at most the best peer's p50 of another row.
    WorstWithin(&'static str),
}

/// The figures of one row that budgets are about.
#[derive(Clone, Copy)]
pub(super) struct Measured<'a> {
    /// How many times better than each peer, by its name.
    pub(super) better: &'a [(String, f64)],
    /// In the row's unit.
    pub(super) ours: f64,
    /// Our p99, in the row's unit.
    pub(super) worst: f64,
    /// How many times the floor.
    pub(super) floors: Option<f64>,
    /// The best peer's p50 of any row.
    pub(super) best: &'a dyn Fn(&str) -> Option<f64>,
}

/// The budgets of a row; most have none.
pub(super) fn of(figure: &str) -> &'static [Budget] {
    use Budget::{AtMost, Better, BetterThan, Floors, WorstWithin};
    if figure.starts_with("exec throughput") || figure.starts_with("attach throughput") {
        return &[Better(1.0)];
    }
    let (network, step) = figure.split_once(": ").unwrap_or(("", figure));
    match (network, step) {
        ("native CNI", "pod start, ms") => &[Better(6.0)],
        ("native CNI", "RunPodSandbox, ms") => &[BetterThan("containerd, runc", 10.0)],
        ("CNI", "pod start without its plugins, ms") => &[AtMost(4.0)],
        ("host network", "pod start, ms") => &[Better(8.0), Floors(3.0)],
        (_, "ExecSync, ms") => &[Better(4.0), BetterThan("containerd, runc", 15.0)],
        (_, "StopContainer, ms" | "StopPodSandbox, ms" | "RemovePodSandbox, ms") => &[Better(8.0)],
        (_, "pods started a second, 10 in flight" | "processor time per life cycle, ms") => &[Better(6.0)],
        (_, "ListContainerStats, ms" | "ListContainerStats of 1000 containers, ms") => &[Better(8.0)],
        (_, "ListContainers of 1000 containers, ms") => {
            &[WorstWithin("ListContainers of 100 containers, ms")]
        }
        (_, "per further container of a pod, PSS, MiB") => &[AtMost(0.02)],
        (_, "daemon PSS, idle, MiB") => &[AtMost(8.0)],
        (_, "daemon PSS, with standing pods, MiB") => &[AtMost(12.0)],
        (_, "per pod, all processes of the runtime, PSS, MiB") => &[AtMost(0.15)],
        (_, "pull of 8 layers, ms" | "pull of 8 zstd layers, ms") => &[Better(2.0)],
        (_, "pull of many small files, ms") => &[Better(4.0)],
        (_, "removal of many small files, ms") => &[Better(50.0)],
        // At most 60 % of it.
        (_, "disk used by all of them, MiB") => &[Better(1.0 / 0.6)],
        _ if network.starts_with("pull of ") && step == "peak memory above idle, MiB" => &[AtMost(64.0)],
        _ => &[],
    }
}

impl Budget {
    /// The budget in words, and how it went.
    pub(super) fn judged(self, measured: &Measured<'_>) -> String {
        let best = measured.better.iter().map(|(_, ratio)| *ratio).reduce(f64::min);
        let (words, kept) = match self {
            Self::Better(ratio) => (format!("≥ {}×", shown(ratio)), best.map(|best| best >= ratio)),
            Self::BetterThan(peer, ratio) => {
                let found = measured.better.iter().find(|(name, _)| name == peer);
                (format!("≥ {ratio}× {peer}"), found.map(|(_, better)| *better >= ratio))
            }
            Self::Floors(most) => (format!("≤ {most} floors"), measured.floors.map(|floors| floors <= most)),
            Self::AtMost(most) => (format!("≤ {most}"), Some(measured.ours <= most)),
            Self::WorstWithin(row) => {
                (format!("p99 ≤ p50 of \"{row}\""), (measured.best)(row).map(|best| measured.worst <= best))
            }
        };
        match kept {
            Some(true) => format!("{words}: kept"),
            Some(false) => format!("{words}: **missed**"),
            None => format!("{words}: not measured"),
        }
    }
}

/// Two digits behind the point where they say something.
fn shown(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_against_the_best_peer_is_missed_when_one_peer_is_close() {
        let better = [("containerd, runc".to_owned(), 20.0), ("containerd, crun".to_owned(), 7.0)];
        let measured = Measured {
            better: &better,
            ours: 1.0,
            worst: 2.0,
            floors: Some(3.5),
            best: &|row| (row == "l").then_some(2.5),
        };
        assert_eq!(Budget::WorstWithin("l").judged(&measured), "p99 ≤ p50 of \"l\": kept");
        assert_eq!(Budget::WorstWithin("m").judged(&measured), "p99 ≤ p50 of \"m\": not measured");
        assert_eq!(
            Budget::WorstWithin("l").judged(&Measured { worst: 3.0, ..measured }),
            "p99 ≤ p50 of \"l\": **missed**"
        );
        assert_eq!(Budget::Better(8.0).judged(&measured), "≥ 8×: **missed**");
        assert_eq!(
            Budget::BetterThan("containerd, runc", 15.0).judged(&measured),
            "≥ 15× containerd, runc: kept"
        );
        assert_eq!(Budget::Floors(3.0).judged(&measured), "≤ 3 floors: **missed**");
        assert_eq!(Budget::Better(2.0).judged(&Measured { better: &[], ..measured }), "≥ 2×: not measured");
    }
}
