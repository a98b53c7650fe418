//! `[logs]`: limits of containers' logs, and their copy in the journal.

use serde::{Deserialize, Serialize};

use super::Faults;
use super::fault::none_or_at_least;

/// The keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogsConfig {
    /// Bytes that a container's log may grow by in a second; the rest is dropped, and the log says how much it was. 0 for no limit.
    pub(crate) rate_limit: u64,
    /// Bytes of a log's file: beyond that lines are dropped until kubelet rotates it, and the new file says how many. 0 for no limit.
    pub(crate) size_limit: u64,
    /// Whether journald gets a copy of what containers write.
    pub(crate) journald: bool,
}

/// A container has room for its words every second, and for the line that counts what is lost.
const LEAST_RATE: u64 = 1 << 10;

/// Some of the longest lines, which have 16 KiB, and what the log says of itself.
const LEAST_SIZE: u64 = 64 << 10;

/// Where journald takes entries (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md).
pub(crate) const JOURNALD: &str = "/run/systemd/journal/socket";

impl LogsConfig {
    /// For `sandbox`.
    pub(crate) fn wanted(&self) -> sandbox::LogConfig {
        let limit = |bytes: u64| (bytes > 0).then_some(bytes);
        sandbox::LogConfig {
            rate_limit: limit(self.rate_limit),
            size_limit: limit(self.size_limit),
            journald: self.journald.then(|| JOURNALD.into()),
        }
    }

    /// Checks every value that can be judged without touching the machine.
    pub(super) fn check(&self) -> Result<(), Faults> {
        let limits = [
            (
                "logs.rate_limit",
                self.rate_limit,
                LEAST_RATE,
                "must be 0 for none, or at least 1024 bytes a second",
            ),
            ("logs.size_limit", self.size_limit, LEAST_SIZE, "must be 0 for none, or at least 65536 bytes"),
        ];
        Faults::all(limits.into_iter().map(none_or_at_least))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn what_cannot_be_honoured_is_refused_with_its_key() {
        let wrong = [
            ("rate_limit = 1", "logs.rate_limit"),
            ("rate_limit = 1023", "logs.rate_limit"),
            ("size_limit = 65535", "logs.size_limit"),
            ("rate_limit = -1", "rate_limit"),
            ("size_limit = \"10Mi\"", "size_limit"),
            ("journald = \"yes\"", "journald"),
            ("rate = 1", "rate"),
        ];
        for (line, key) in wrong {
            let refused = match toml::from_str::<Config>(&format!("[logs]\n{line}")) {
                Err(error) => error.to_string(),
                Ok(config) => config.check().unwrap_err().to_string(),
            };
            assert!(refused.contains(key), "{line}: {refused}");
        }
    }

    #[test]
    fn nothing_is_limited_unless_asked_for() {
        assert_eq!(Config::default().logs.wanted(), sandbox::LogConfig::default());
        let text = "[logs]\nrate_limit = 1048576\nsize_limit = 65536\njournald = true";
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        let wanted = config.logs.wanted();
        assert_eq!((wanted.rate_limit, wanted.size_limit), (Some(1 << 20), Some(64 << 10)));
        assert_eq!(wanted.journald.as_deref(), Some(std::path::Path::new(JOURNALD)));
    }
}
