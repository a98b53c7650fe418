//! The figures of a node that kubelet hands on: which there are, of what, and with which labels.
//!
//! [`Figures`] is a set of series, each with its rows; the fields of `/stats/summary` are series, too, called by their paths. A
//! [`Row`] says of whom it is in words that don't change from run to run, so that two runtimes can be compared:
//!
//! | subject | what it is |
//! |---|---|
//! | `pod/container` | a container |
//! | `pod/(sandbox)` | in `/metrics/cadvisor`: a row without a container, but with the id of a sandbox as its name |
//! | `pod/(pod)` | the pod itself |
//! | `(node)` | the machine, or what is said of nothing else |
//! | `(cgroup)` | a cgroup that kubelet calls by its path alone |
//!
//! `prometheus` and `summary` read what kubelet says, [`Figures`] can be written as text and read again. Not here: the pods
//! that are looked at, and which differences are as they should be (`tests/kube/figures`).

mod inventory;
mod prometheus;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One of kubelet's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Page {
    /// `/metrics/cadvisor`
    Cadvisor,
    /// `/metrics/resource`
    Resource,
    /// `/stats/summary`
    Summary,
}

/// All figures, by page and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures(pub BTreeMap<(Page, String), Series>);

/// A series, or a field.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// `counter` or `gauge`; of a field `number` or `string`.
    pub kind: String,
    /// The names of its labels.
    pub labels: BTreeSet<String>,
    /// What there is of it, with the value: of a string 0, of several rows that look the same the largest.
    pub rows: BTreeMap<Row, f64>,
}

/// Of what a value is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The values of the series' own labels, as in `cpu=total,state=running`; `*` for what differs from machine to machine.
    pub own: String,
    /// Of whom.
    pub subject: String,
}

/// What one has and another hasn't.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Where.
    pub page: Page,
    /// The series or field.
    pub name: String,
    /// What of it.
    pub what: What,
}

/// A part of a series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Another kind, or a label that isn't there.
    Form(String),
    /// A row that isn't there.
    Row(Row),
}

impl Page {
    const ALL: [Self; 3] = [Self::Cadvisor, Self::Resource, Self::Summary];

    /// Where kubelet serves it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Cadvisor => "/metrics/cadvisor",
            Self::Resource => "/metrics/resource",
            Self::Summary => "/stats/summary",
        }
    }
}

impl Figures {
    /// Reads a page; of pods, only those called `pods` are taken in, without the node's name that kubelet gives static ones.
    ///
    /// # Errors
    /// What of it can't be understood.
    pub fn read(&mut self, page: Page, text: &str, pods: &[&str]) -> Result<(), String> {
        match page {
            Page::Cadvisor | Page::Resource => prometheus::read(self, (page, text), pods),
            Page::Summary => summary::read(self, text, pods),
        }
    }

    /// The value of a row.
    pub fn value(&self, page: Page, name: &str, row: &Row) -> Option<f64> {
        self.0.get(&(page, name.to_owned()))?.rows.get(row).copied()
    }

    /// What these have and `other` hasn't.
    pub fn missing_in(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        for (key @ (page, name), series) in &self.0 {
            let nothing = Series { kind: series.kind.clone(), ..Series::default() };
            let there = other.0.get(key).unwrap_or(&nothing);
            let mut add = |what| found.push(Difference { page: *page, name: name.clone(), what });
            if there.kind != series.kind {
                add(What::Form(format!("a {} is a {}", series.kind, there.kind)));
            }
            let lacking = series.labels.difference(&there.labels).filter(|_| !there.rows.is_empty());
            lacking.for_each(|label| add(What::Form(format!("no label {label}"))));
            let rows = series.rows.keys().filter(|row| !there.rows.contains_key(row));
            rows.for_each(|row| add(What::Row(row.clone())));
        }
        found
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.0.values().map(|series| series.rows.len()).sum()
    }

    /// Takes in what `more` has, too.
    pub fn merge(&mut self, more: Self) {
        for (key, series) in more.0 {
            let into = self.0.entry(key).or_default();
            into.kind = series.kind;
            into.labels.extend(series.labels);
            into.rows.extend(series.rows);
        }
    }

    fn put(&mut self, (page, name): (Page, &str), row: Row, value: f64) -> &mut Series {
        let series = self.0.entry((page, name.to_owned())).or_default();
        let largest = series.rows.entry(row).or_insert(value);
        *largest = largest.max(value);
        series
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { page, name, what } = self;
        match what {
            What::Form(text) => write!(formatter, "{} {name}: {text}", page.path()),
            What::Row(Row { own, subject }) => {
                write!(formatter, "{} {name}{{{own}}} of {subject}", page.path())
            }
        }
    }
}

/// The pod's name as its manifest has it, if it is one of `pods`.
fn static_pod<'a>(name: &str, pods: &[&'a str]) -> Option<&'a str> {
    let manifest = name.strip_suffix(&format!("-{}", super::Ground::NAME))?;
    pods.iter().copied().find(|pod| *pod == manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP container_x What it \\\"is\n# TYPE container_x counter\n\
        container_x{container=\"a\",cpu=\"total\",id=\"/p/1\",name=\"n\",pod=\"p-knarr-node\"} 1.5e+01 1700\n\
        container_x{container=\"\",cpu=\"total\",id=\"/p\",name=\"\",pod=\"p-knarr-node\"} 20\n\
        container_x{container=\"\",cpu=\"total\",id=\"/p/2\",name=\"n, \\\"}\",pod=\"p-knarr-node\"} 3\n\
        container_x{container=\"\",cpu=\"total\",id=\"/\",name=\"\",pod=\"\"} 30\n\
        container_x{container=\"b\",cpu=\"total\",id=\"/q\",name=\"n\",pod=\"q-knarr-node\"} 4\n\
        # TYPE machine_y gauge\nmachine_y{boot_id=\"1\"} 4\n";

    const SUMMARY: &str = r#"{"node":{"nodeName":"n","fs":{"usedBytes":3}},"pods":[{"podRef":{"name":"p-knarr-node"},
        "cpu":{"time":"now"},"volume":[{"name":"v","usedBytes":5}],
        "containers":[{"name":"a","cpu":{"usageNanoCores":7}}]}]}"#;

    fn read(metrics: &str) -> Figures {
        let mut figures = Figures::default();
        figures.read(Page::Cadvisor, metrics, &["p"]).unwrap();
        figures.read(Page::Summary, SUMMARY, &["p"]).unwrap();
        figures
    }

    fn row(own: &str, subject: &str) -> Row {
        Row { own: own.into(), subject: subject.into() }
    }

    #[test]
    fn pages_become_rows() {
        let figures = read(METRICS);
        let value =
            |name: &str, subject: &str| figures.value(Page::Cadvisor, name, &row("cpu=total", subject));
        let values =
            ["p/a", "p/(pod)", "p/(sandbox)", "(node)", "q/b"].map(|subject| value("container_x", subject));
        assert_eq!(values, [Some(15.0), Some(20.0), Some(3.0), Some(30.0), None]);
        assert_eq!(figures.value(Page::Cadvisor, "machine_y", &row("boot_id=*", "(node)")), Some(4.0));
        let field = |name: &str, subject: &str| figures.value(Page::Summary, name, &row("", subject));
        assert_eq!(field("cpu.usageNanoCores", "p/a"), Some(7.0));
        assert_eq!(field("volume[v].usedBytes", "p/(pod)"), Some(5.0));
        assert_eq!((field("cpu.time", "p/(pod)"), field("fs.usedBytes", "(node)")), (Some(0.0), Some(3.0)));
    }

    #[test]
    fn what_lacks_is_found() {
        let whole = read(METRICS);
        assert_eq!(whole.missing_in(&whole), []);
        let less =
            METRICS.replace("cpu=\"total\",", "").replace("x counter", "x gauge").replace("usage", "use");
        let mut found: Vec<_> = whole.missing_in(&read(&less)).iter().map(ToString::to_string).collect();
        found.truncate(3);
        let wanted = ["a counter is a gauge", "no label cpu"];
        let at = "/metrics/cadvisor container_x";
        assert_eq!(found[..2], wanted.map(|text| format!("{at}: {text}")));
        assert_eq!(found[2], format!("{at}{{cpu=total}} of (node)"));
    }

    #[test]
    fn what_is_written_is_read() {
        let whole = read(METRICS);
        let again: Figures = whole.to_string().parse().unwrap();
        assert_eq!((again.missing_in(&whole), whole.missing_in(&again)), (vec![], vec![]));
    }
}
