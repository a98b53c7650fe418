//! `[nri]`: plugins of the node, which hear of pods and containers and change what containers are.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::{Fault, Faults, absolute, must};

/// The keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NriConfig {
    /// Whether there are plugins at all.
    pub(crate) enable: bool,
    /// The socket that they connect to.
    pub(crate) socket: PathBuf,
    /// Plugins that are started: executable files named `10-name`.
    pub(crate) plugin_dir: PathBuf,
    /// Their configurations: `10-name.conf` or `name.conf`.
    pub(crate) conf_dir: PathBuf,
    /// How many milliseconds a plugin may take to register, and to take in what there is.
    pub(crate) registration_timeout: u64,
    /// How many milliseconds it may take to answer; then it is cut off.
    pub(crate) request_timeout: u64,
    /// Whether only plugins are taken that were started.
    pub(crate) disable_connections: bool,
    /// What plugins may not change, and which have to be there.
    pub(crate) default_validator: ValidatorConfig,
}

/// `[nri.default_validator]`, with the keys of containerd and CRI-O.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "keys of a file")]
pub(crate) struct ValidatorConfig {
    /// Whether it is asked.
    pub(crate) enable: bool,
    /// Rejects hooks.
    pub(crate) reject_oci_hook_adjustment: bool,
    /// Rejects a seccomp policy for containers with the runtime's default.
    pub(crate) reject_runtime_default_seccomp_adjustment: bool,
    /// Rejects one for containers without a profile.
    pub(crate) reject_unconfined_seccomp_adjustment: bool,
    /// Rejects one for containers with a profile of the node's.
    pub(crate) reject_custom_seccomp_adjustment: bool,
    /// Rejects namespaces.
    pub(crate) reject_namespace_adjustment: bool,
    /// Rejects sysctls.
    pub(crate) reject_sysctl_adjustment: bool,
    /// Plugins without which no container is made.
    pub(crate) required_plugins: Vec<String>,
    /// The annotation by which a pod can do without them; empty for none.
    pub(crate) tolerate_missing_plugins_annotation: String,
}

/// Up to ten minutes: kubelet gives RunPodSandbox four.
const TIMEOUTS: RangeInclusive<u64> = 1..=600_000;

impl Default for NriConfig {
    fn default() -> Self {
        Self {
            enable: true,
            socket: "/run/nri/nri.sock".into(),
            plugin_dir: "/opt/nri/plugins".into(),
            conf_dir: "/etc/nri/conf.d".into(),
            // Those of containerd and CRI-O.
            registration_timeout: 5_000,
            request_timeout: 2_000,
            disable_connections: false,
            default_validator: ValidatorConfig::default(),
        }
    }
}

impl NriConfig {
    /// Checks every value that can be judged without touching the machine.
    pub(super) fn check(&self) -> Result<(), Faults> {
        let timeout = |key: &str, time: u64| {
            must(TIMEOUTS.contains(&time), || Fault::value(key, "must be 1 to 600000 milliseconds", time))
        };
        Faults::all([
            absolute("nri.socket", &self.socket),
            absolute("nri.plugin_dir", &self.plugin_dir),
            absolute("nri.conf_dir", &self.conf_dir),
            timeout("nri.registration_timeout", self.registration_timeout),
            timeout("nri.request_timeout", self.request_timeout),
        ])
    }

    /// For `nri`; `None` when there are to be no plugins.
    pub(crate) fn plugins(&self) -> Option<nri::Config> {
        self.enable.then(|| nri::Config {
            runtime_name: "knarr".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            registration_timeout: Duration::from_millis(self.registration_timeout),
            request_timeout: Duration::from_millis(self.request_timeout),
            validator: self.default_validator.enable.then(|| self.default_validator.validator()),
        })
    }
}

impl ValidatorConfig {
    fn validator(&self) -> nri::Validator {
        nri::Validator {
            reject_oci_hooks: self.reject_oci_hook_adjustment,
            reject_runtime_default_seccomp: self.reject_runtime_default_seccomp_adjustment,
            reject_unconfined_seccomp: self.reject_unconfined_seccomp_adjustment,
            reject_custom_seccomp: self.reject_custom_seccomp_adjustment,
            reject_namespaces: self.reject_namespace_adjustment,
            reject_sysctls: self.reject_sysctl_adjustment,
            required_plugins: self.required_plugins.clone(),
            tolerate_missing_annotation: self.tolerate_missing_plugins_annotation.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_nothing_is_left_out() {
        NriConfig::default().check().unwrap();
        type Break = fn(&mut NriConfig);
        let broken: [(&str, Break); 4] = [
            ("nri.socket", |c| c.socket = "nri.sock".into()),
            ("nri.plugin_dir", |c| c.plugin_dir = "plugins".into()),
            ("nri.request_timeout", |c| c.request_timeout = 0),
            ("nri.registration_timeout", |c| c.registration_timeout = 600_001),
        ];
        for (key, change) in broken {
            let mut config = NriConfig::default();
            change(&mut config);
            assert!(config.check().unwrap_err().to_string().contains(key));
        }
        let config = NriConfig { enable: false, ..NriConfig::default() };
        assert!(config.plugins().is_none());
        let keys = "enable = true\nreject_sysctl_adjustment = true\nrequired_plugins = [\"a\"]";
        let default_validator: ValidatorConfig = toml::from_str(keys).unwrap();
        let config = NriConfig { default_validator, ..NriConfig::default() };
        let validator = config.plugins().unwrap().validator.unwrap();
        assert!(validator.reject_sysctls && !validator.reject_namespaces);
        assert_eq!(validator.required_plugins, ["a"]);
    }
}
