//! `[tracing]`: where spans of calls go.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::fault::{absolute, must};
use super::{Fault, Faults};
use crate::telemetry::traces::Target;

/// All of those that `sampling_per_million` is said of.
const ALL: u32 = 1_000_000;

/// How long a connection to the collector may take.
const CONNECTING: Duration = Duration::from_secs(5);

/// The keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TracingConfig {
    /// A collector that takes OTLP over gRPC: a host and a port, as kubelet has it. Empty: none, and no span is made for one.
    pub(crate) endpoint: String,
    /// Whether it is spoken to without TLS.
    pub(crate) insecure: bool,
    /// The authorities that its certificate may come from, as PEM; empty for those of the system.
    pub(crate) ca: PathBuf,
    /// Of a million calls whose callers say nothing of a trace, so many begin one. What a caller records (kubelet, where its own
    /// tracing is on) is gone on with whatever this is.
    pub(crate) sampling_per_million: u32,
}

impl TracingConfig {
    /// Checks every value that can be judged without touching the machine.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn check(&self) -> Result<(), Faults> {
        let share = self.sampling_per_million;
        let too_many = || Fault::value("tracing.sampling_per_million", "must be at most 1000000", share);
        let ca = match self.ca.as_os_str().is_empty() {
            true => Ok(()),
            false => absolute("tracing.ca", &self.ca),
        };
        Faults::all([self.endpoint().map(drop).map_err(Faults::from), must(share <= ALL, too_many), ca])
    }

    /// Where spans go, if they go anywhere. The file of authorities is read.
    ///
    /// # Errors
    /// The first value that can't be used.
    pub(crate) fn target(&self) -> Result<Option<Target>, Fault> {
        let Some(endpoint) = self.endpoint()? else { return Ok(None) };
        let name = self.endpoint.clone();
        if self.insecure {
            return Ok(Some(Target { endpoint, name }));
        }
        let mut tls = ClientTlsConfig::new();
        if self.ca.as_os_str().is_empty() {
            tls = tls.with_native_roots();
        } else {
            let file = self.ca.display();
            let unreadable =
                |error| Fault { key: "tracing.ca".to_owned(), why: format!("\"{file}\": {error}") };
            tls = tls.ca_certificate(Certificate::from_pem(std::fs::read(&self.ca).map_err(unreadable)?));
        }
        let unusable = |_| Fault::value("tracing.ca", "must be certificates in PEM", self.ca.display());
        let endpoint = endpoint.tls_config(tls).map_err(unusable)?;
        Ok(Some(Target { endpoint, name }))
    }

    fn endpoint(&self) -> Result<Option<Endpoint>, Fault> {
        if self.endpoint.is_empty() {
            return Ok(None);
        }
        let must = "must be a host and a port, such as 127.0.0.1:4317, or empty";
        let wrong = || Fault::value("tracing.endpoint", must, &self.endpoint);
        let has_port = self.endpoint.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok()
        });
        let scheme = if self.insecure { "http" } else { "https" };
        let parsed = Endpoint::from_shared(format!("{scheme}://{}", self.endpoint));
        let endpoint = parsed.ok().filter(|_| has_port).ok_or_else(wrong)?;
        Ok(Some(endpoint.connect_timeout(CONNECTING)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let of = |endpoint: &str| TracingConfig { endpoint: endpoint.to_owned(), ..Default::default() };
        assert!(of("").target().unwrap().is_none());
        for right in ["127.0.0.1:4317", "[::1]:4317", "collector.monitoring.svc:4317"] {
            assert!(of(right).check().is_ok(), "{right}");
        }
        for wrong in
            ["4317", ":4317", "localhost", "http://localhost:4317", "localhost:port", "a/b:1", "u@h:1"]
        {
            let refused = of(wrong).check().unwrap_err().to_string();
            assert!(refused.contains("tracing.endpoint") && refused.contains(wrong), "{refused}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_its_key() {
        let all = TracingConfig { sampling_per_million: ALL + 1, ..Default::default() };
        assert!(all.check().unwrap_err().to_string().contains("tracing.sampling_per_million"));
        let relative = TracingConfig { ca: "ca.pem".into(), ..Default::default() };
        assert!(relative.check().unwrap_err().to_string().contains("tracing.ca"));
        let endpoint = "127.0.0.1:4317".to_owned();
        let absent = TracingConfig { endpoint, ca: "/does/not/exist".into(), ..Default::default() };
        assert!(absent.target().unwrap_err().to_string().contains("/does/not/exist"));
    }
}
