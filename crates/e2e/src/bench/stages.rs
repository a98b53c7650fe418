//! The parts of a pod's life, as our daemon's own figures have them: the time that goes to each stage.
//!
//! Read from where Prometheus reads (`[metrics] listen`). Peers say nothing of the kind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::measure::{Figures, add};

/// What the daemon is configured with, so that it can be asked.
pub(super) const CONFIGURATION: &str = "[metrics]\nlisten = \"127.0.0.1:0\"\n";

/// Before the daemon's word of where it can be asked, in its log.
const WHERE: &str = "serving metrics address=";

/// The histogram of stages: its sums.
const SUM: &str = "knarr_stage_duration_seconds_sum{stage=\"";

/// The histogram of calls of CNI plugins: its sums, by plugin and command.
const PLUGINS: &str = "knarr_cni_plugin_duration_seconds_sum{";

/// What attaching to a network takes of plugins, all of them.
const ADD: &str = "plugins' ADD";

/// The stages of RunPodSandbox, CreateContainer and StartContainer (docs/observability.md). A stage inside of another one isn't
/// among them.
const OF_A_START: [&str; 11] = [
    "record",
    "cgroup",
    "supervisor",
    "namespaces",
    "network",
    "rootfs",
    "volumes",
    "look",
    "spec",
    "nri",
    "prepare",
];

/// The last of them, which has a call's name.
const LAST: &str = "start";

/// The seconds that stages have taken so far, by their names.
#[derive(Debug, Default)]
pub(super) struct Sums(BTreeMap<String, f64>);

impl Sums {
    /// Asks the daemon that writes this log; nothing from one that can't be asked.
    pub(super) fn read(log: &str) -> Self {
        let address = log
            .lines()
            .rev()
            .find_map(|line| line.split_once(WHERE)?.1.split_whitespace().next()?.parse().ok());
        Self::parse(&address.and_then(|address| ask(address).ok()).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let sum = |line: &str| {
            let (stage, value) = match line.strip_prefix(PLUGINS) {
                Some(plugin) => {
                    (ADD, plugin.split_once("} ").filter(|(labels, _)| labels.contains("\"ADD\""))?.1)
                }
                None => line.strip_prefix(SUM)?.split_once("\"} ")?,
            };
            Some((stage.to_owned(), value.parse::<f64>().ok()?))
        };
        let mut sums = Self::default();
        for (stage, seconds) in text.lines().filter_map(sum) {
            *sums.0.entry(stage).or_default() += seconds;
        }
        sums
    }

    /// Adds a row for each stage: what one pod's life has taken of it on average since `before`.
    pub(super) fn add_since(&self, before: &Self, (network, cycles): (&str, usize), figures: &mut Figures) {
        for (stage, sum) in &self.0 {
            let taken = sum - before.0.get(stage).unwrap_or(&0.0);
            if taken > 0.0 {
                add(figures, &row(network, stage), taken * 1000.0 / cycles as f64);
            }
        }
        if let (Some(whole), Some(plugins)) =
            (mean(figures, &format!("{network}: pod start, ms")), mean(figures, &row(network, ADD)))
        {
            add(figures, &format!("{network}: pod start without its plugins, ms"), whole - plugins);
        }
    }
}

fn mean(figures: &Figures, name: &str) -> Option<f64> {
    let values = figures.get(name)?;
    Some(values.iter().sum::<f64>() / values.len() as f64)
}

fn row(network: &str, stage: &str) -> String {
    format!("{network}: stage {stage}, ms")
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(connection, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the start of a pod consists of, a line for each network: the mean of each stage and its share of the mean start. What
/// is left over are the calls themselves and what lies between stages.
pub fn shares(figures: &Figures) -> String {
    let mut text = String::new();
    for network in ["host network", "CNI", "native CNI"] {
        let Some(whole) = mean(figures, &format!("{network}: pod start, ms")) else { continue };
        let of_a_start = OF_A_START.iter().chain([&LAST]);
        let parts: Vec<_> =
            of_a_start.filter_map(|stage| Some((*stage, mean(figures, &row(network, stage))?))).collect();
        if parts.is_empty() {
            continue;
        }
        let rest = whole - parts.iter().map(|(_, time)| time).sum::<f64>();
        let _ = write!(text, "Pod start, {network}: {whole:.2} ms on average =");
        for (stage, time) in parts.into_iter().chain([("between them", rest)]) {
            let _ = write!(text, " {stage} {time:.2} ({:.0} %) +", time / whole * 100.0);
        }
        text.truncate(text.len() - 2);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_what_its_sum_has_grown_by() {
        let text = |start: f64| {
            let stage = format!("knarr_stage_duration_seconds_sum{{stage=\"start\"}} {start}\nx 9\n");
            let plugin = |name: &str, command: &str, seconds: f64| {
                format!("{PLUGINS}plugin=\"{name}\",command=\"{command}\"}} {seconds}\n")
            };
            let plugins = [("a", "ADD", 2.0 * start), ("b", "ADD", start), ("b", "DEL", 9.0 * start)];
            stage + &plugins.map(|(name, command, seconds)| plugin(name, command, seconds)).concat()
        };
        let (before, after) = (Sums::parse(&text(1.0)), Sums::parse(&text(1.5)));
        let mut figures = Figures::from([("CNI: pod start, ms".to_owned(), vec![18.0, 22.0])]);
        after.add_since(&before, ("CNI", 100), &mut figures);
        assert_eq!(figures["CNI: stage start, ms"], [5.0]);
        assert_eq!(figures["CNI: stage plugins' ADD, ms"], [15.0], "of all plugins, and of no DEL");
        assert_eq!(figures["CNI: pod start without its plugins, ms"], [5.0]);
    }

    #[test]
    fn shares_are_of_the_whole_and_say_what_no_stage_has() {
        let figures = Figures::from([
            ("CNI: pod start, ms".to_owned(), vec![9.0, 11.0]),
            ("CNI: stage network, ms".to_owned(), vec![6.0]),
            ("CNI: stage start, ms".to_owned(), vec![2.0]),
            // Of another part of a pod's life.
            ("CNI: stage remove_cgroup, ms".to_owned(), vec![2.0]),
        ]);
        let shown = "Pod start, CNI: 10.00 ms on average = network 6.00 (60 %) + start 2.00 (20 %) + between them 2.00 (20 %)\n";
        assert_eq!(shares(&figures), shown);
    }
}
