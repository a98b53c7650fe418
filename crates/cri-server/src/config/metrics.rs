//! `[metrics]`: where Prometheus reads figures of the daemon, and which of pods kubelet is given.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Fault, Faults};

/// The keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MetricsConfig {
    /// Where `/metrics` is served, by plain HTTP to whoever asks: an IP address and a port (0 lets the kernel choose, and the log
    /// says which). Empty: nowhere.
    pub(crate) listen: String,
    /// Which groups of series about pods and containers kubelet is given, for its /metrics/cadvisor (ListPodSandboxMetrics). All of them by
    /// default; `load` and `process` cost as much as there are threads and open files.
    pub(crate) pods: Vec<SeriesGroup>,
}

/// A group of series; docs/stats.md lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SeriesGroup {
    /// Processor time and what quotas held back.
    Cpu,
    /// States of threads and averages of them.
    Load,
    /// Memory and swap.
    Memory,
    /// Kills for want of memory.
    Oom,
    /// Huge pages.
    Hugetlb,
    /// Time lost by waiting.
    Pressure,
    /// Writable layers.
    Disk,
    /// Block devices.
    DiskIo,
    /// Interfaces of pods.
    Network,
    /// Processes, descriptors, sockets, threads.
    Process,
    /// Limits and times of containers.
    Spec,
}

impl SeriesGroup {
    /// All.
    pub(crate) const ALL: [Self; 11] = [
        Self::Cpu,
        Self::Load,
        Self::Memory,
        Self::Oom,
        Self::Hugetlb,
        Self::Pressure,
        Self::Disk,
        Self::DiskIo,
        Self::Network,
        Self::Process,
        Self::Spec,
    ];
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: String::new(), pods: SeriesGroup::ALL.to_vec() }
    }
}

impl MetricsConfig {
    /// # Errors
    /// All that is wrong.
    pub(crate) fn check(&self) -> Result<(), Faults> {
        let twice = self.pods.iter().enumerate().find(|(at, group)| self.pods[..*at].contains(group));
        let once = twice.map_or(Ok(()), |(_, group)| {
            let name = toml::Value::try_from(group).unwrap_or_else(|_| format!("{group:?}").into());
            Err(Fault::value("metrics.pods", "must name each group once", format!("{name} twice")))
        });
        Faults::all([self.address().map(drop).map_err(Faults::from), once.map_err(Faults::from)])
    }

    /// The address, if they are to be served.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn address(&self) -> Result<Option<SocketAddr>, Fault> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let why = "must be an IP address and a port, such as 127.0.0.1:9323, or empty";
        self.listen.parse().map(Some).map_err(|_| Fault::value("metrics.listen", why, &self.listen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_all_or_those_that_are_named() {
        let of = |text: &str| toml::from_str::<MetricsConfig>(text).map(|config| config.pods);
        assert_eq!(of("").unwrap(), SeriesGroup::ALL);
        assert_eq!(of("pods = ['disk-io', 'cpu']").unwrap(), [SeriesGroup::DiskIo, SeriesGroup::Cpu]);
        assert_eq!(of("pods = []").unwrap(), []);
        let refused = of("pods = ['diskIO']").unwrap_err().to_string();
        assert!(refused.contains("diskIO") && refused.contains("`disk-io`"), "{refused}");
        let check = |text: &str| toml::from_str::<MetricsConfig>(text).unwrap().check();
        check("pods = ['cpu', 'load']").unwrap();
        let refused = check("pods = ['cpu', 'load', 'cpu']").unwrap_err().to_string();
        assert!(refused.contains("metrics.pods"), "{refused}");
    }

    #[test]
    fn an_address_is_an_ip_and_a_port() {
        let address =
            |listen: &str| MetricsConfig { listen: listen.to_owned(), ..Default::default() }.address();
        assert_eq!(address("").unwrap(), None);
        assert_eq!(address("[::1]:9323").unwrap(), Some("[::1]:9323".parse().unwrap()));
        for wrong in ["9323", "localhost:9323", ":9323", "127.0.0.1", "http://127.0.0.1:9323"] {
            let refused = address(wrong).unwrap_err().to_string();
            assert!(refused.contains("metrics.listen") && refused.contains(wrong), "{refused}");
        }
    }
}
