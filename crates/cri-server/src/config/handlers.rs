//! `[handlers.<name>]`: what a pod can ask for by `runtime_handler`, and what each handler changes.
//!
//! Not here: what the values mean (see `sandbox::Handler`, which also checks them).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sandbox::{ExternalRuntime, Handler, Handlers, Ulimit, Unprivileged, UnsetSeccomp};
use serde::{Deserialize, Serialize};

use super::{Config, Fault, Faults};

/// One handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HandlerConfig {
    /// `internal`, or the path of an OCI runtime with the command line of runc.
    pub(crate) runtime: String,
    /// What the command line of an external runtime begins with; `--root` is added unless it is there.
    pub(crate) args: Vec<String>,
    /// Privileged containers get the devices of an ordinary one.
    pub(crate) privileged_without_host_devices: bool,
    /// Annotations of a pod that the specifications of its containers have, by their exact names.
    pub(crate) pod_annotations: BTreeSet<String>,
    /// Annotations of a container that its specification has, by their exact names.
    pub(crate) container_annotations: BTreeSet<String>,
    /// The capabilities of a container before it adds and drops some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default_capabilities: Option<Vec<String>>,
    /// What becomes of a container that says nothing of seccomp.
    pub(crate) unset_seccomp: SeccompChoice,
    /// Kernel parameters of pods that don't set them themselves.
    pub(crate) default_sysctls: BTreeMap<String, String>,
    /// Limits of processes by their names in setrlimit(2), without `RLIMIT_` and in lower case.
    pub(crate) default_ulimits: BTreeMap<String, UlimitConfig>,
    /// Where CNI configuration files are looked for instead of the node's `cni_conf_dir`, or of its built-in network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
}

impl Default for HandlerConfig {
    fn default() -> Self {
        Self {
            runtime: INTERNAL_RUNTIME.to_owned(),
            args: Vec::new(),
            privileged_without_host_devices: false,
            pod_annotations: BTreeSet::new(),
            container_annotations: BTreeSet::new(),
            default_capabilities: None,
            unset_seccomp: SeccompChoice::default(),
            default_sysctls: BTreeMap::new(),
            default_ulimits: BTreeMap::new(),
            cni_conf_dir: None,
        }
    }
}

/// The value of `runtime` that means this program's own.
const INTERNAL_RUNTIME: &str = "internal";

/// `unset_seccomp`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SeccompChoice {
    /// No filter.
    #[default]
    Unconfined,
    /// The default profile.
    RuntimeDefault,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UlimitConfig {
    /// What applies; -1 for no limit.
    pub(crate) soft: i64,
    /// How far a process may raise it; -1 for no limit.
    pub(crate) hard: i64,
}

/// The handlers of a configuration.
///
/// # Errors
/// What can't be honoured, of all handlers.
pub(crate) fn handlers(config: &Config) -> Result<Handlers, Faults> {
    let network = &config.network;
    let unprivileged = Unprivileged { ports: network.unprivileged_ports, icmp: network.unprivileged_icmp };
    let (mut by_name, mut wrong) = (BTreeMap::new(), Vec::new());
    for (name, handler) in &config.handlers {
        match check_name(name)
            .and_then(|()| handler.read(name, &config.state))
            .and_then(|own| alone(name, own))
        {
            Ok(handler) => drop(by_name.insert(name.clone(), Handler { unprivileged, ..handler })),
            Err(fault) => wrong.push(Err(fault.into())),
        }
    }
    Faults::all(wrong)?;
    by_name
        .entry(sandbox::handler::INTERNAL.to_owned())
        .or_insert_with(|| Handler { unprivileged, ..Handler::default() });
    Handlers::new(&config.default_handler, by_name).map_err(|refused| fault(refused).into())
}

/// A handler, if the domain takes it.
fn alone(name: &str, handler: Handler) -> Result<Handler, Fault> {
    let handlers =
        Handlers::new(sandbox::handler::INTERNAL, BTreeMap::from([(name.to_owned(), handler.clone())]));
    handlers.map(|_| handler).map_err(fault)
}

/// What the domain refuses, which names the key.
fn fault(refused: sandbox::Error) -> Fault {
    match refused {
        sandbox::Error::Refused { field, why } => Fault { key: field, why },
        other => Fault { key: "handlers".to_owned(), why: crate::chain(&other) },
    }
}

/// The directories of network configurations that handlers have of their own, by the names that requests may use.
pub(crate) fn cni_conf_dirs(config: &Config) -> BTreeMap<String, PathBuf> {
    let own =
        config.handlers.iter().filter_map(|(name, handler)| Some((name, handler.cni_conf_dir.clone()?)));
    let named = |(name, dir): (&String, PathBuf)| {
        let unnamed = (*name == config.default_handler).then(|| (String::new(), dir.clone()));
        std::iter::once((name.clone(), dir)).chain(unnamed)
    };
    own.flat_map(named).collect()
}

/// RuntimeClass takes no other names of handlers (a DNS label, RFC 1123).
fn check_name(name: &str) -> Result<(), Fault> {
    let inside = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if inside && (1..=63).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-') {
        return Ok(());
    }
    let why = "the name of a handler must be a DNS label of 1 to 63 bytes";
    Err(Fault::value(&format!("handlers.{name}"), why, name))
}

impl HandlerConfig {
    fn read(&self, name: &str, state: &Path) -> Result<Handler, Fault> {
        let limit = |(kind, limit): (&String, &UlimitConfig)| {
            let side = |value: i64| match value {
                -1 => Ok(u64::MAX),
                other => u64::try_from(other).map_err(|_| Fault {
                    key: format!("handlers.{name}.default_ulimits.{kind}"),
                    why: format!("{other} is neither a limit nor -1 for none"),
                }),
            };
            Ok((kind.clone(), Ulimit { soft: side(limit.soft)?, hard: side(limit.hard)? }))
        };
        if let Some(dir) = self.cni_conf_dir.as_ref().filter(|dir| !dir.is_absolute()) {
            let key = format!("handlers.{name}.cni_conf_dir");
            return Err(Fault::value(&key, "must be an absolute path", dir.display()));
        }
        Ok(Handler {
            external: self.external(name, state)?,
            privileged_without_host_devices: self.privileged_without_host_devices,
            pod_annotations: self.pod_annotations.clone(),
            container_annotations: self.container_annotations.clone(),
            default_capabilities: self.default_capabilities.clone(),
            default_sysctls: self.default_sysctls.clone(),
            default_ulimits: self.default_ulimits.iter().map(limit).collect::<Result<_, Fault>>()?,
            unset_seccomp: match self.unset_seccomp {
                SeccompChoice::Unconfined => UnsetSeccomp::Unconfined,
                SeccompChoice::RuntimeDefault => UnsetSeccomp::RuntimeDefault,
            },
            unprivileged: Unprivileged::default(),
        })
    }
}

impl HandlerConfig {
    /// The runtime, with a place of its own for what it writes down.
    fn external(&self, name: &str, state: &Path) -> Result<Option<ExternalRuntime>, Fault> {
        let refuse =
            |key: &str, why: &str| Err(Fault { key: format!("handlers.{name}.{key}"), why: why.to_owned() });
        if self.runtime == INTERNAL_RUNTIME {
            return match self.args.is_empty() {
                true => Ok(None),
                false => refuse("args", "is for an external runtime"),
            };
        }
        if !Path::new(&self.runtime).is_absolute() {
            return refuse("runtime", "must be \"internal\" or an absolute path");
        }
        let mut args = self.args.clone();
        if !args.iter().any(|arg| arg == "--root" || arg.starts_with("--root=")) {
            let root = state.join("runtimes").join(name);
            args.extend(["--root".to_owned(), root.display().to_string()]);
        }
        Ok(Some(ExternalRuntime { path: self.runtime.clone().into(), args }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    const ALL_KEYS: &str = r#"
        default_handler = "strict"
        [handlers.strict]
        privileged_without_host_devices = true
        pod_annotations = ["example.com/pod"]
        container_annotations = ["example.com/container"]
        default_capabilities = ["CHOWN", "CAP_KILL"]
        unset_seccomp = "runtime-default"
        cni_conf_dir = "/etc/cni/strict.d"
        [handlers.strict.default_sysctls]
        "net.ipv4.ping_group_range" = "0 0"
        [handlers.strict.default_ulimits]
        nofile = { soft = 1024, hard = -1 }
        [handlers.plain]
        [handlers.runc]
        runtime = "/usr/bin/runc"
        args = ["--systemd-cgroup=false"]
    "#;

    #[test]
    fn every_key_is_read_and_written_again() {
        let config: Config = toml::from_str(ALL_KEYS).unwrap();
        config.check().unwrap();
        let handlers = config.handlers().unwrap();
        let strict = handlers.get("").unwrap();
        assert!(strict.privileged_without_host_devices);
        assert_eq!(strict.default_ulimits["nofile"].hard, u64::MAX);
        assert_eq!(strict.unset_seccomp, sandbox::UnsetSeccomp::RuntimeDefault);
        assert!(strict.pod_annotations.contains("example.com/pod"));
        assert!(strict.container_annotations.contains("example.com/container"));
        assert_eq!(strict.default_sysctls["net.ipv4.ping_group_range"], "0 0");
        assert_eq!(handlers.names().collect::<Vec<_>>(), ["", "knarr", "plain", "runc", "strict"]);
        let runc = handlers.get("runc").unwrap().external.as_ref().unwrap();
        assert_eq!(runc.args, ["--systemd-cgroup=false", "--root", "/run/knarr/runtimes/runc"]);
        assert_eq!(handlers.get("plain").unwrap().external, None);
        let dirs = super::cni_conf_dirs(&config);
        assert_eq!(dirs.keys().collect::<Vec<_>>(), ["", "strict"], "the default handler has two names");
        assert_eq!(dirs[""], std::path::Path::new("/etc/cni/strict.d"));
        let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn what_everybody_may_do_is_the_nodes_word_for_all_handlers() {
        let handlers = |text: &str| toml::from_str::<Config>(text).unwrap().handlers().unwrap();
        let all = |handlers: &sandbox::Handlers| {
            ["", "knarr", "x"].map(|name| {
                let said = handlers.get(name).unwrap().unprivileged;
                (said.ports, said.icmp)
            })
        };
        assert_eq!(all(&handlers("[handlers.x]")), [(true, true); 3]);
        let off = "[network]\nunprivileged_ports = false\n[handlers.x]";
        assert_eq!(all(&handlers(off)), [(false, true); 3]);
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_key() {
        let wrong = [
            ("default_handler = \"kata\"", "default_handler"),
            ("[handlers.UPPER]", "UPPER"),
            ("[handlers.x]\nruntime = \"runc\"", "handlers.x.runtime"),
            ("[handlers.x]\nargs = [\"--debug\"]", "handlers.x.args"),
            ("[handlers.x]\nruntme = 1", "runtme"),
            ("[handlers.x]\ncni_conf_dir = \"net.d\"", "handlers.x.cni_conf_dir"),
            ("[handlers.x]\nunset_seccomp = \"none\"", "unset_seccomp"),
            ("[handlers.x]\npod_annotations = [\"io.example.*\"]", "handlers.x.pod_annotations"),
            ("[handlers.x]\ndefault_capabilities = [\"FLY\"]", "handlers.x.default_capabilities"),
            (
                "[handlers.x.default_ulimits]\nnofile = { soft = -2, hard = 1 }",
                "handlers.x.default_ulimits.nofile",
            ),
            ("[handlers.x.default_sysctls]\n\"vm.swappiness\" = \"1\"", "handlers.x.default_sysctls"),
        ];
        for (text, key) in wrong {
            let refused = match toml::from_str::<Config>(text) {
                Err(error) => error.to_string(),
                Ok(config) => crate::chain(&config.check().unwrap_err()),
            };
            assert!(refused.contains(key), "{text}: {refused}");
        }
    }
}
