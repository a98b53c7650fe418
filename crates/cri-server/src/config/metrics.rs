//! `[metrics]`: where Prometheus reads figures.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Fault;

/// The keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MetricsConfig {
    /// Where `/metrics` is served, by plain HTTP to whoever asks: an IP address and a port (0 lets the kernel choose, and the log
    /// says which). Empty: nowhere.
    pub(crate) listen: String,
}

impl MetricsConfig {
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
    fn an_address_is_an_ip_and_a_port() {
        let address = |listen: &str| MetricsConfig { listen: listen.to_owned() }.address();
        assert_eq!(address("").unwrap(), None);
        assert_eq!(address("[::1]:9323").unwrap(), Some("[::1]:9323".parse().unwrap()));
        for wrong in ["9323", "localhost:9323", ":9323", "127.0.0.1", "http://127.0.0.1:9323"] {
            let refused = address(wrong).unwrap_err().to_string();
            assert!(refused.contains("metrics.listen") && refused.contains(wrong), "{refused}");
        }
    }
}
