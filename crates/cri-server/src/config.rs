//! The daemon's configuration: its keys, their defaults, and what they must be.
//!
//! | module | what it is |
//! |---|---|
//! | `load` | where it comes from: files and the command line |
//! | `tree`, `read` | what was written, with its places; from that to values |
//! | `fault` | what is wrong with values |
//! | `keys` | the table of keys: which a reload applies |
//! | the others | the sections |
//!
//! Every flag of `knarr serve` is a key here too. What is not known is refused by name, so that a misspelt key can't be
//! silently without effect.

mod containers;
mod fault;
mod handlers;
mod images;
pub(crate) mod keys;
mod load;
mod logs;
mod metrics;
mod network;
mod nri;
mod read;
mod registry;
mod server;
mod streaming;
mod tracing;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use self::nri::NriConfig;
pub(crate) use containers::ContainersConfig;
pub(crate) use fault::{Fault, Faults};
use fault::{absolute, all_absolute};
use handlers::HandlerConfig;
pub(crate) use images::ImagesConfig;
pub(crate) use load::{ConfigError, Loaded, Sources, USUAL};
pub(crate) use logs::{JOURNALD, LogsConfig};
pub(crate) use metrics::{MetricsConfig, SeriesGroup};
pub(crate) use network::{AnnotationsConfig, NetworkConfig};
use registry::RegistryConfig;
pub(crate) use server::ServerConfig;
pub(crate) use streaming::StreamingConfig;
use tracing::TracingConfig;

/// What `knarr serve` runs by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where the daemon listens: `unix://` and an absolute path.
    pub(crate) listen: String,
    /// What survives a reboot: images, writable layers, addresses.
    pub(crate) root: PathBuf,
    /// What dies with the boot: sockets, records of pods. Best on a tmpfs.
    pub(crate) state: PathBuf,
    /// Where CNI configuration files are looked for.
    pub(crate) cni_conf_dir: PathBuf,
    /// Where CNI plugins are looked for, in order.
    pub(crate) cni_bin_dir: Vec<PathBuf>,
    /// `<host>/hosts.toml` per registry, `_default` included.
    pub(crate) registry_config_dir: PathBuf,
    /// Where files of the Container Device Interface are looked for; later directories go before earlier ones.
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
    /// Who makes the cgroups of pods; as kubelet has it, which asks from 1.31 on.
    pub(crate) cgroup_driver: CgroupDriver,
    /// The least important level that is logged: error, warn, info, debug, trace.
    pub(crate) log_level: LogLevel,
    /// How log lines look on standard error.
    pub(crate) log_format: LogFormat,
    /// What is done with the security modules of the kernel.
    pub(crate) security: SecurityConfig,
    /// The runtime handler of pods that ask for none.
    pub(crate) default_handler: String,
    /// How much comes in at the socket.
    pub(crate) server: ServerConfig,
    /// How pods get their network.
    pub(crate) network: NetworkConfig,
    /// Where clients of exec, attach and port-forward are sent to.
    pub(crate) streaming: StreamingConfig,
    /// How images are kept.
    pub(crate) images: ImagesConfig,
    /// How much containers may write.
    pub(crate) containers: ContainersConfig,
    /// Limits of containers' logs, and their copy in the journal.
    pub(crate) logs: LogsConfig,
    /// Figures of the daemon for Prometheus.
    pub(crate) metrics: MetricsConfig,
    /// Where spans of calls go, for OpenTelemetry.
    pub(crate) tracing: TracingConfig,
    /// Whose credentials registries see when a pull brings none.
    pub(crate) registry: RegistryConfig,
    /// Plugins of the node.
    pub(crate) nri: NriConfig,
    /// What pods can ask for by `runtime_handler`. `knarr`, the internal runtime with nothing changed, is there without being named.
    pub(crate) handlers: BTreeMap<String, HandlerConfig>,
}

/// `[security]`: which of the kernel's security modules are used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SecurityConfig {
    /// Whether AppArmor is used where the host has it.
    pub(crate) apparmor: bool,
    /// The profile of the node's that stands for RuntimeDefault; empty for `knarr-default`, which is loaded when it is needed.
    pub(crate) apparmor_default_profile: String,
    /// Whether SELinux is used where the host has it and its policy knows containers.
    pub(crate) selinux: bool,
}

/// Levels of `tracing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    /// Only what failed and stays failed.
    Error,
    /// Also what an operator should look at.
    Warn,
    /// Also a line for each call.
    Info,
    /// Also each step.
    Debug,
    /// Everything.
    Trace,
}

/// Who makes the cgroups of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CgroupDriver {
    /// This daemon, by directories.
    Cgroupfs,
    /// systemd, by a scope for each pod.
    Systemd,
}

impl Default for CgroupDriver {
    /// systemd where it runs the host (sd_booted(3)) and has all controllers in one hierarchy (cgroup v2), as kubeadm takes for granted.
    fn default() -> Self {
        let has = |path: &str| Path::new(path).exists();
        if has("/run/systemd/system") && has("/sys/fs/cgroup/cgroup.controllers") {
            Self::Systemd
        } else {
            Self::Cgroupfs
        }
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "unix:///run/knarr/knarr.sock".into(),
            root: "/var/lib/knarr".into(),
            state: "/run/knarr".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dir: vec!["/opt/cni/bin".into()],
            registry_config_dir: "/etc/knarr/certs.d".into(),
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            cgroup_driver: CgroupDriver::default(),
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            security: SecurityConfig::default(),
            default_handler: sandbox::handler::INTERNAL.into(),
            server: ServerConfig::default(),
            network: NetworkConfig::default(),
            streaming: StreamingConfig::default(),
            images: ImagesConfig::default(),
            containers: ContainersConfig::default(),
            logs: LogsConfig::default(),
            metrics: MetricsConfig::default(),
            tracing: TracingConfig::default(),
            registry: RegistryConfig::default(),
            nri: NriConfig::default(),
            handlers: BTreeMap::new(),
        }
    }
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self { apparmor: true, apparmor_default_profile: String::new(), selinux: true }
    }
}

impl LogLevel {
    /// As a directive of `tracing_subscriber::EnvFilter`.
    pub(crate) fn directive(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Config {
    /// Checks every value that can be judged without touching the machine.
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn check(&self) -> Result<(), Faults> {
        let paths = [
            ("root", &self.root),
            ("state", &self.state),
            ("cni_conf_dir", &self.cni_conf_dir),
            ("registry_config_dir", &self.registry_config_dir),
        ];
        let lists = [("cni_bin_dir", &self.cni_bin_dir), ("cdi_spec_dirs", &self.cdi_spec_dirs)];
        let listed = lists.iter().flat_map(|(key, paths)| all_absolute(key, paths));
        let paths = paths.into_iter().map(|(key, path)| absolute(key, path)).chain(listed);
        let sections = [
            self.socket().map(drop).map_err(Faults::from),
            self.handlers().map(drop),
            self.server.check(),
            self.streaming.check(),
            self.logs.check(),
            self.metrics.check(),
            self.tracing.check(),
            self.images.check(),
            self.containers.check(),
            self.registry.check(),
            self.nri.check(),
            self.network.check(),
        ];
        Faults::all(paths.chain(sections))
    }

    /// The runtime handlers.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn handlers(&self) -> Result<sandbox::Handlers, Faults> {
        handlers::handlers(self)
    }

    /// Which networks pods join.
    pub(crate) fn networks(&self) -> cni::Selection {
        self.network.selection(handlers::cni_conf_dirs(self))
    }

    /// The path of the socket in `listen`.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn socket(&self) -> Result<&Path, Fault> {
        let path = self.listen.strip_prefix("unix://").map(Path::new).filter(|path| path.is_absolute());
        path.ok_or_else(|| Fault::value("listen", "must be unix:// and an absolute path", &self.listen))
    }
}

impl SecurityConfig {
    /// What the domain is told of SELinux.
    pub(crate) fn selinux(&self) -> sandbox::LsmUsage {
        usage(self.selinux)
    }

    /// What the domain is told of AppArmor.
    pub(crate) fn apparmor(&self) -> sandbox::ApparmorConfig {
        sandbox::ApparmorConfig {
            usage: usage(self.apparmor),
            default_profile: Some(self.apparmor_default_profile.clone()).filter(|name| !name.is_empty()),
        }
    }
}

fn usage(is_on: bool) -> sandbox::LsmUsage {
    if is_on { sandbox::LsmUsage::AsHost } else { sandbox::LsmUsage::Off }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_a_round_trip() {
        let text = toml::to_string(&Config::default()).unwrap();
        let read: Config = toml::from_str(&text).unwrap();
        assert_eq!(read, Config::default());
        read.check().unwrap();
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = toml::from_str::<Config>("colour = 1").unwrap_err().to_string();
        assert!(error.contains("colour"), "{error}");
    }

    #[test]
    fn values_that_cannot_be_honoured_are_refused_with_their_key() {
        type Break = fn(&mut Config);
        let broken: [(&str, Break); 4] = [
            ("listen", |c| c.listen = "tcp://127.0.0.1:1".into()),
            ("root", |c| c.root = "relative".into()),
            ("cni_bin_dir", |c| c.cni_bin_dir.push("bin".into())),
            ("cdi_spec_dirs", |c| c.cdi_spec_dirs.push("cdi".into())),
        ];
        for (key, change) in broken {
            let mut config = Config::default();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
