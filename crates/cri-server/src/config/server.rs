//! `[server]`: how much comes in at the socket of calls.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::fault::must;
use super::{Fault, Faults};
use crate::door::Bounds;

/// The keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerConfig {
    /// How many connections there may be at a time. When there are more, the one that has been silent longest makes room; while all
    /// of them have calls under way, calls on the next are refused.
    pub(crate) max_connections: u32,
    /// How many calls may be under way at a time, of all connections together; the next is refused.
    pub(crate) max_calls: u32,
    /// How many ExecSync may run at a time; the next wait for their turn, no longer than their own time-out.
    pub(crate) max_exec_syncs: u32,
    /// Bytes of output of all ExecSync together that are kept while they run; one that prints more fails.
    pub(crate) max_exec_output: u64,
}

/// kubelet has up to four connections, and whoever looks at a node has one. Each takes a descriptor.
const CONNECTIONS: RangeInclusive<u32> = 8..=65_536;

/// kubelet has a handful under way for each pod at most: below so many, it would be refused what it needs for a node's pods.
const CALLS: RangeInclusive<u32> = 64..=1_048_576;

/// Each takes four descriptors, two pipes and a process.
const EXEC_SYNCS: RangeInclusive<u32> = 1..=65_536;

/// What a single one may print.
const LEAST_OUTPUT: u64 = 16 << 20;

impl Default for ServerConfig {
    fn default() -> Self {
        // 500 pods with two probes each, all at once, and what kubelet does besides.
        Self { max_connections: 256, max_calls: 4_096, max_exec_syncs: 1_024, max_exec_output: 128 << 20 }
    }
}

impl ServerConfig {
    /// For the door.
    pub(crate) fn bounds(&self) -> Bounds {
        let of = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Bounds { connections: of(self.max_connections), calls: of(self.max_calls) }
    }

    /// How many commands of ExecSync may run at a time.
    pub(crate) fn exec_syncs(&self) -> usize {
        usize::try_from(self.max_exec_syncs).unwrap_or(usize::MAX)
    }

    /// Bytes that are kept of what they print.
    pub(crate) fn exec_output(&self) -> usize {
        usize::try_from(self.max_exec_output).unwrap_or(usize::MAX)
    }

    /// Checks every value that can be judged without touching the machine.
    pub(super) fn check(&self) -> Result<(), Faults> {
        let counts = [
            ("server.max_connections", self.max_connections, CONNECTIONS),
            ("server.max_calls", self.max_calls, CALLS),
            ("server.max_exec_syncs", self.max_exec_syncs, EXEC_SYNCS),
        ];
        let counts = counts.map(|(key, value, range)| {
            let why = format!("must be {} to {}", range.start(), range.end());
            must(range.contains(&value), || Fault::value(key, &why, value))
        });
        let output = must(self.max_exec_output >= LEAST_OUTPUT, || {
            Fault::value("server.max_exec_output", "must be at least 16777216", self.max_exec_output)
        });
        Faults::all(counts.into_iter().chain([output]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_honoured_is_refused_with_its_key() {
        type Break = fn(&mut ServerConfig);
        let broken: [(&str, Break); 5] = [
            ("server.max_connections", |c| c.max_connections = 7),
            ("server.max_connections", |c| c.max_connections = 65_537),
            ("server.max_calls", |c| c.max_calls = 0),
            ("server.max_exec_syncs", |c| c.max_exec_syncs = 0),
            ("server.max_exec_output", |c| c.max_exec_output = (16 << 20) - 1),
        ];
        for (key, change) in broken {
            let mut config = ServerConfig::default();
            config.check().unwrap();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("configuration key {key}: must be ")), "{error}");
        }
    }
}
