//! The table of keys: what becomes of each when it changes while the daemon runs.
//!
//! A key that isn't here fails a test. Not here: applying them (see `crate::reload`), reading them.

/// A key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// Its path.
    pub(crate) path: &'static str,
    /// What applies another value.
    pub(crate) change: Change,
}

/// When another value of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// With a reload: for what begins from then on, by these parts.
    Reload(&'static [Part]),
    /// When the daemon is started again, for this reason. Pods go on meanwhile.
    Restart(&'static str),
}

/// A part of the daemon that can take another configuration while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// What is logged.
    Log,
    /// How pods and containers are made.
    Pods,
    /// Which networks there are, and how plugins are run.
    Networks,
    /// What pods ask networks for, and how their addresses are told.
    Addresses,
    /// Registries, and the care of images.
    Images,
}

use Change::{Reload, Restart};
use Part::{Addresses, Images, Log, Networks, Pods};

const OPENED_ONCE: &str = "what is in use is opened at the start";
const LOCATION: &str = "what is there would have to be moved";
const PODS_HAVE_IT: &str = "pods that are there were made by it";
const ASKED_ONCE: &str = "kubelet asks at its own start what there is";
const LISTENS: &str = "an address is taken at the start";

/// All keys. That of a map stands for all that is in it.
pub(crate) const KEYS: &[Key] = &[
    key("listen", Restart(LISTENS)),
    key("root", Restart(LOCATION)),
    key("state", Restart(LOCATION)),
    key("cni_conf_dir", Reload(&[Networks])),
    key("cni_bin_dir", Reload(&[Networks])),
    key("registry_config_dir", Reload(&[Images])),
    key("cdi_spec_dirs", Reload(&[Pods])),
    key("cgroup_driver", Restart(PODS_HAVE_IT)),
    key("log_level", Reload(&[Log])),
    key("log_format", Restart(OPENED_ONCE)),
    key("default_handler", Reload(&[Pods, Networks])),
    key("handlers", Reload(&[Pods, Networks])),
    key("security.apparmor", Restart(PODS_HAVE_IT)),
    key("security.apparmor_default_profile", Restart(PODS_HAVE_IT)),
    key("security.selinux", Restart(PODS_HAVE_IT)),
    key("server.max_connections", Restart(OPENED_ONCE)),
    key("server.max_calls", Restart(OPENED_ONCE)),
    key("server.max_exec_syncs", Restart(OPENED_ONCE)),
    key("server.max_exec_output", Restart(OPENED_ONCE)),
    key("network.plugin_deadline", Reload(&[Networks])),
    key("network.default", Reload(&[Networks])),
    key("network.networks", Reload(&[Networks])),
    key("network.ip_preference", Reload(&[Addresses])),
    key("network.unprivileged_ports", Reload(&[Pods])),
    key("network.unprivileged_icmp", Reload(&[Pods])),
    key("network.native", Reload(&[Networks])),
    key("network.builtin", Restart(PODS_HAVE_IT)),
    key("network.bridge", Restart(PODS_HAVE_IT)),
    key("network.subnets", Restart(PODS_HAVE_IT)),
    key("network.prepared_namespaces", Restart(OPENED_ONCE)),
    key("network.pod_cidr", Restart(OPENED_ONCE)),
    key("network.annotations.ips", Reload(&[Addresses])),
    key("network.annotations.mac", Reload(&[Addresses])),
    key("network.annotations.infiniband_guid", Reload(&[Addresses])),
    key("network.annotations.ip_ranges", Reload(&[Addresses])),
    key("streaming.address", Restart(LISTENS)),
    key("streaming.port", Restart(LISTENS)),
    key("streaming.tls_cert_file", Restart(LISTENS)),
    key("streaming.tls_key_file", Restart(LISTENS)),
    key("streaming.tls_client_ca_file", Restart(LISTENS)),
    key("streaming.idle_timeout", Restart(OPENED_ONCE)),
    key("streaming.max_connections", Restart(OPENED_ONCE)),
    key("images.pinned", Reload(&[Images])),
    key("images.max_pulls", Restart(OPENED_ONCE)),
    key("images.layers", Restart(OPENED_ONCE)),
    key("images.verity", Restart(OPENED_ONCE)),
    key("images.confined", Restart(OPENED_ONCE)),
    key("images.check_days", Reload(&[Images])),
    key("images.check_rate", Reload(&[Images])),
    key("images.repair", Reload(&[Images])),
    key("images.collect_above", Reload(&[Images])),
    key("images.collect_min_age", Reload(&[Images])),
    key("containers.writable_bytes", Restart(OPENED_ONCE)),
    key("containers.writable_inodes", Restart(OPENED_ONCE)),
    key("logs.rate_limit", Reload(&[Pods])),
    key("logs.size_limit", Reload(&[Pods])),
    key("logs.journald", Reload(&[Pods])),
    key("metrics.listen", Restart(LISTENS)),
    key("metrics.pods", Restart(ASKED_ONCE)),
    key("nri.enable", Restart(OPENED_ONCE)),
    key("nri.socket", Restart(LISTENS)),
    key("nri.plugin_dir", Restart(OPENED_ONCE)),
    key("nri.conf_dir", Restart(OPENED_ONCE)),
    key("nri.registration_timeout", Restart(OPENED_ONCE)),
    key("nri.request_timeout", Restart(OPENED_ONCE)),
    key("nri.disable_connections", Restart(LISTENS)),
    key("nri.default_validator.enable", Restart(OPENED_ONCE)),
    key("nri.default_validator.reject_oci_hook_adjustment", Restart(OPENED_ONCE)),
    key("nri.default_validator.reject_runtime_default_seccomp_adjustment", Restart(OPENED_ONCE)),
    key("nri.default_validator.reject_unconfined_seccomp_adjustment", Restart(OPENED_ONCE)),
    key("nri.default_validator.reject_custom_seccomp_adjustment", Restart(OPENED_ONCE)),
    key("nri.default_validator.reject_namespace_adjustment", Restart(OPENED_ONCE)),
    key("nri.default_validator.reject_sysctl_adjustment", Restart(OPENED_ONCE)),
    key("nri.default_validator.required_plugins", Restart(OPENED_ONCE)),
    key("nri.default_validator.tolerate_missing_plugins_annotation", Restart(OPENED_ONCE)),
    key("tracing.endpoint", Restart(OPENED_ONCE)),
    key("tracing.insecure", Restart(OPENED_ONCE)),
    key("tracing.ca", Restart(OPENED_ONCE)),
    key("tracing.sampling_per_million", Restart(OPENED_ONCE)),
    key("registry.credentials", Reload(&[Images])),
    key("registry.credential_helper_dirs", Reload(&[Images])),
];

const fn key(path: &'static str, change: Change) -> Key {
    Key { path, change }
}

/// What somebody may have meant by a key that there isn't: one of those beside it, or one of that name elsewhere.
pub(crate) fn meant(key: &str, beside: &[&'static str]) -> Option<&'static str> {
    let name = key.rsplit('.').next()?;
    // Two slips in a word of six letters make another word.
    let close = |known: &&'static str| strsim::damerau_levenshtein(name, known) <= (name.len() / 3).max(1);
    let nearest = beside.iter().copied().filter(close);
    let nearest = nearest.min_by_key(|known| strsim::damerau_levenshtein(name, known));
    nearest.or_else(|| KEYS.iter().map(|row| row.path).find(|path| path.rsplit('.').next() == Some(name)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Config;
    use super::*;

    /// The paths of all values of a configuration.
    fn paths(table: &toml::Table, above: &str, found: &mut BTreeSet<String>) {
        for (name, value) in table {
            let path = format!("{above}{name}");
            match value {
                toml::Value::Table(below) if path != "handlers" => paths(below, &format!("{path}."), found),
                _ => drop(found.insert(path)),
            }
        }
    }

    #[test]
    fn every_key_of_the_configuration_is_in_the_table_and_no_other() {
        let mut there = BTreeSet::new();
        paths(&toml::Table::try_from(Config::default()).unwrap(), "", &mut there);
        let table: BTreeSet<String> = KEYS.iter().map(|row| row.path.to_owned()).collect();
        assert_eq!(table.len(), KEYS.len(), "a key is there twice");
        assert_eq!(table, there);
    }

    #[test]
    fn what_was_meant_is_close_or_elsewhere() {
        let beside = ["log_level", "log_format", "root"];
        assert_eq!(meant("log_levle", &beside), Some("log_level"));
        assert_eq!(meant("rot", &beside), Some("root"));
        assert_eq!(meant("builtin", &beside), Some("network.builtin"));
        assert_eq!(meant("network.listen", &["bridge"]), Some("listen"));
        assert_eq!(meant("colour", &beside), None);
    }
}
