//! `[streaming]`: where clients of Exec, Attach and PortForward are sent to.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::must;
use super::{Fault, Faults, absolute};

/// The keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StreamingConfig {
    /// Where the server for streams listens: an IP address. kubelet connects to it, on this node.
    pub(crate) address: String,
    /// Its port; 0 lets the kernel choose.
    pub(crate) port: u16,
    /// The server's certificate (PEM), read again when it changes; empty for plain HTTP. kubelet, which connects for kubectl,
    /// trusts the node's own authorities here (Go's default, no key of kubelet's changes it) and compares the name: the
    /// certificate must come from one of them and have the address as a subject alternative name.
    pub(crate) tls_cert_file: PathBuf,
    /// Its key.
    pub(crate) tls_key_file: PathBuf,
    /// Authorities that clients' certificates must come from; empty when clients need none. kubelet shows no certificate
    /// (Kubernetes 1.37: its proxy to the runtime has no transport of its own), so that with this key exec, attach and
    /// port-forward of kubectl fail: it is for nodes whose only clients connect by themselves.
    pub(crate) tls_client_ca_file: PathBuf,
    /// After how many seconds a stream ends in which nothing moves; also how long a client may pause before it reads the last of a
    /// command that has ended.
    pub(crate) idle_timeout: u64,
    /// How many streams there may be at a time.
    pub(crate) max_connections: u32,
}

/// Up to a week.
const IDLE_TIMEOUTS: RangeInclusive<u64> = 1..=604_800;

/// Each takes descriptors, of which a process has no more than so many.
const CONNECTIONS: RangeInclusive<u32> = 1..=65_536;

impl Default for StreamingConfig {
    fn default() -> Self {
        Self {
            address: "127.0.0.1".into(),
            port: 0,
            tls_cert_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            tls_client_ca_file: PathBuf::new(),
            // kubelet's own default for its streams, and the peers'.
            idle_timeout: 4 * 60 * 60,
            max_connections: 1_000,
        }
    }
}

impl StreamingConfig {
    /// For `streaming`, in a process that may have so many files open. Half of them are for forwarded connections, which any user may
    /// open by the hundred: the rest stays for the links of pods, calls and sessions.
    pub(crate) fn server(&self, open_files: u64) -> Result<streaming::Config, Faults> {
        Ok(streaming::Config {
            address: self.address()?,
            port: self.port,
            tls: self.tls()?,
            idle_timeout: Duration::from_secs(self.idle_timeout),
            max_connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            max_forwarded: usize::try_from(open_files / 2).unwrap_or(usize::MAX),
        })
    }

    /// Checks every value that can be judged without touching the machine.
    pub(super) fn check(&self) -> Result<(), Faults> {
        Faults::all([
            self.address().map(drop).map_err(Faults::from),
            self.tls().map(drop),
            must(IDLE_TIMEOUTS.contains(&self.idle_timeout), || {
                Fault::value("streaming.idle_timeout", "must be 1 to 604800 seconds", self.idle_timeout)
            }),
            must(CONNECTIONS.contains(&self.max_connections), || {
                Fault::value("streaming.max_connections", "must be 1 to 65536", self.max_connections)
            }),
        ])
    }

    fn address(&self) -> Result<IpAddr, Fault> {
        let why = "must be an IP address";
        self.address.parse().map_err(|_| Fault::value("streaming.address", why, &self.address))
    }

    fn tls(&self) -> Result<Option<streaming::TlsFiles>, Faults> {
        let certificate = given("streaming.tls_cert_file", &self.tls_cert_file)?;
        let key = given("streaming.tls_key_file", &self.tls_key_file)?;
        let client_ca = given("streaming.tls_client_ca_file", &self.tls_client_ca_file)?;
        let lonely = |key, path: &Path, why| Err(Fault::value(key, why, path.display()).into());
        match (certificate, key, client_ca) {
            (Some(certificate), Some(key), client_ca) => {
                Ok(Some(streaming::TlsFiles { certificate, key, client_ca }))
            }
            (None, None, None) => Ok(None),
            (Some(path), None, _) => {
                lonely("streaming.tls_cert_file", &path, "needs streaming.tls_key_file beside it")
            }
            (None, Some(path), _) => {
                lonely("streaming.tls_key_file", &path, "needs streaming.tls_cert_file beside it")
            }
            (None, None, Some(path)) => {
                lonely("streaming.tls_client_ca_file", &path, "needs streaming.tls_cert_file beside it")
            }
        }
    }
}

fn given(key: &'static str, path: &Path) -> Result<Option<PathBuf>, Faults> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    absolute(key, path).map(|()| Some(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_honoured_is_refused_with_its_key() {
        type Break = fn(&mut StreamingConfig);
        let broken: [(&str, Break); 8] = [
            ("streaming.address", |c| c.address = "localhost".into()),
            ("streaming.tls_cert_file", |c| c.tls_cert_file = "/crt".into()),
            ("streaming.tls_key_file", |c| c.tls_key_file = "/key".into()),
            ("streaming.tls_key_file", |c| {
                c.tls_cert_file = "/crt".into();
                c.tls_key_file = "key".into();
            }),
            ("streaming.tls_client_ca_file", |c| c.tls_client_ca_file = "/ca".into()),
            ("streaming.idle_timeout", |c| c.idle_timeout = 0),
            ("streaming.idle_timeout", |c| c.idle_timeout = u64::MAX),
            ("streaming.max_connections", |c| c.max_connections = 0),
        ];
        for (key, change) in broken {
            let mut config = StreamingConfig::default();
            config.check().unwrap();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("configuration key {key}:")), "{error}");
        }
    }

    #[test]
    fn half_of_the_files_stay_for_others() {
        assert_eq!(StreamingConfig::default().server(1_024).unwrap().max_forwarded, 512);
    }

    #[test]
    fn certificates_turn_tls_on() {
        let mut config = StreamingConfig::default();
        assert_eq!(config.server(1_024).unwrap().tls, None);
        config.tls_cert_file = "/crt".into();
        config.tls_key_file = "/key".into();
        config.check().unwrap();
        assert_eq!(config.server(1_024).unwrap().tls.unwrap().client_ca, None);
    }
}
