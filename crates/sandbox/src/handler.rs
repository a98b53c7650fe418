//! Runtime handlers: what a pod can ask for by name (CRI `runtime_handler`, RuntimeClass), and what each changes.
//!
//! A pod is recorded with its handler as it was when the pod was made: a handler that is changed or taken away later has no effect on pods
//! that are there.
//!
//! Not here: reading a configuration file, and what a container's specification looks like (see `spec`).

use std::collections::{BTreeMap, BTreeSet};

use runtime::external::ExternalRuntime;
use runtime::plan::{IdMappings, PodNamespace, PodPlan};
use runtime::spec::oci;
use serde::{Deserialize, Serialize};

use crate::config::Features;
use crate::error::Error;
use crate::spec::{capabilities, process};

/// The name of the handler that is there without any configuration.
pub const INTERNAL: &str = "knarr";

/// All handlers of a node. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handlers {
    default: String,
    by_name: BTreeMap<String, Handler>,
}

/// What a handler changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handler {
    /// The OCI runtime that makes its containers; `None` for the internal one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalRuntime>,
    /// Privileged containers get the devices of an ordinary one, not all of the host's.
    pub privileged_without_host_devices: bool,
    /// Annotations of a pod that its containers' specifications have, by their exact names: what a runtime does upon an annotation is
    /// the operator's to allow (CVE-2023-6476).
    pub pod_annotations: BTreeSet<String>,
    /// Annotations of a container that its specification has, by their exact names.
    pub container_annotations: BTreeSet<String>,
    /// The capabilities of a container before it adds and drops some; `None` for the usual ones.
    pub default_capabilities: Option<Vec<String>>,
    /// Kernel parameters of a pod that doesn't set them itself, as far as they are of namespaces that it has of its own.
    pub default_sysctls: BTreeMap<String, String>,
    /// Limits of a container's processes, by their names in setrlimit(2) without `RLIMIT_`, in lower case.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    /// What becomes of a container that says nothing of seccomp.
    pub unset_seccomp: UnsetSeccomp,
    /// What everybody may do in a network namespace of a pod's own, unless the pod or `default_sysctls` say otherwise.
    #[serde(skip_serializing_if = "Unprivileged::is_nothing")]
    pub unprivileged: Unprivileged,
}

/// What everybody may do in a pod's own network namespace; by the kernel's defaults nothing of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unprivileged {
    /// Listen on the ports below 1024 (`net.ipv4.ip_unprivileged_port_start`).
    pub ports: bool,
    /// Send echo requests (`net.ipv4.ping_group_range`).
    pub icmp: bool,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// What applies; `u64::MAX` for no limit.
    pub soft: u64,
    /// How far a process may raise it.
    pub hard: u64,
}

/// What becomes of a container that says nothing of seccomp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnsetSeccomp {
    /// It is not confined, as CRI has it.
    #[default]
    Unconfined,
    /// It gets the default profile.
    RuntimeDefault,
}

/// A handler, as the node shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerStatus {
    /// Its name; empty for the default one.
    pub name: String,
    /// What it can do.
    ///
    /// # Errors
    /// Why it can't be used.
    pub features: Result<Features, String>,
}

impl Default for Handlers {
    fn default() -> Self {
        Self {
            default: INTERNAL.to_owned(),
            by_name: BTreeMap::from([(INTERNAL.to_owned(), Handler::default())]),
        }
    }
}

impl Handlers {
    /// Handlers by name, and the name of the one that pods get which ask for none. [`INTERNAL`] is there whether it is among them
    /// or not.
    ///
    /// # Errors
    /// [`Error::Refused`] with `default_handler` when that one is not there, with `handlers.<name>.<field>` for what can't be done.
    pub fn new(default: &str, mut by_name: BTreeMap<String, Handler>) -> Result<Self, Error> {
        by_name.entry(INTERNAL.to_owned()).or_default();
        for (name, handler) in &by_name {
            let of = |what: &str| format!("handlers.{name}.{what}");
            handler.check().map_err(|(field, why)| Error::refused(of(&field), why))?;
        }
        let handlers = Self { default: default.to_owned(), by_name };
        match handlers.get(default) {
            Some(_) if !default.is_empty() => Ok(handlers),
            _ => Err(Error::refused("default_handler", handlers.unknown(default))),
        }
    }

    /// The handler that a request names; the empty name means the default one.
    pub fn get(&self, name: &str) -> Option<&Handler> {
        self.by_name.get(self.resolve(name))
    }

    /// The name by which a handler is known here.
    pub(crate) fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        if name.is_empty() { &self.default } else { name }
    }

    /// The external runtimes of handlers, by the names of those.
    pub fn external(&self) -> impl Iterator<Item = (&String, &ExternalRuntime)> {
        self.by_name.iter().filter_map(|(name, handler)| Some((name, handler.external.as_ref()?)))
    }

    /// The names that requests may use: the empty one first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once("").chain(self.by_name.keys().map(String::as_str))
    }

    /// What to say of a name that none has.
    pub(crate) fn unknown(&self, name: &str) -> String {
        let known: Vec<_> = self.by_name.keys().map(|known| format!("\"{known}\"")).collect();
        format!("\"{name}\" is not configured; there is {}", known.join(", "))
    }
}

impl Handler {
    /// Checks what can be judged without the machine.
    fn check(&self) -> Result<(), (String, String)> {
        let lists = [
            ("pod_annotations", &self.pod_annotations),
            ("container_annotations", &self.container_annotations),
        ];
        for (field, names) in lists {
            if let Some(name) = names.iter().find(|name| name.is_empty() || name.contains('*')) {
                return Err((field.to_owned(), format!("\"{name}\" is not the exact name of an annotation")));
            }
        }
        let names = self.default_capabilities.as_deref().unwrap_or_default();
        capabilities::named(names)
            .map_err(|name| ("default_capabilities".to_owned(), format!("\"{name}\" is not a capability")))?;
        self.check_sysctls()?;
        for (name, limit) in &self.default_ulimits {
            let field = || format!("default_ulimits.{name}");
            process::rlimit(name, *limit)
                .ok_or_else(|| (field(), "is not a limit that there is".to_owned()))?;
            if limit.soft > limit.hard {
                let why = format!("its soft limit {} is above its hard limit {}", limit.soft, limit.hard);
                return Err((field(), why));
            }
        }
        Ok(())
    }

    fn check_sysctls(&self) -> Result<(), (String, String)> {
        for (name, value) in &self.default_sysctls {
            let one = BTreeMap::from([(name.clone(), value.clone())]);
            let refused = runtime::plan::check_pod(&isolated(one));
            refused.map_err(|refusal| (format!("default_sysctls.\"{name}\""), refusal.why))?;
        }
        Ok(())
    }

    /// Whether it changes nothing.
    pub(crate) fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The kernel parameters of a pod: its own, and those of the handler that it can have.
    pub(crate) fn sysctls(&self, mut plan: PodPlan) -> PodPlan {
        let defaults = self.default_sysctls.clone().into_iter().chain(self.unprivileged.sysctls(&plan));
        for (name, value) in defaults {
            if plan.sysctls.contains_key(&name) {
                continue;
            }
            let mut with = plan.clone();
            with.sysctls.insert(name, value);
            // Not where the namespace is the host's, nor where the pod has it by its other name.
            if runtime::plan::check_pod(&with).is_ok() {
                plan = with;
            }
        }
        plan
    }

    /// The limits of a container's processes; `None` for those of the supervisor.
    pub(crate) fn rlimits(&self) -> Option<Vec<oci::PosixRlimit>> {
        let limits = self.default_ulimits.iter().filter_map(|(name, limit)| process::rlimit(name, *limit));
        Some(limits.collect()).filter(|limits: &Vec<_>| !limits.is_empty())
    }
}

/// The highest group that the kernel takes for `net.ipv4.ping_group_range` (net/ipv4/sysctl_net_ipv4.c, `ip_ping_group_range_max`).
const HIGHEST_PING_GROUP: u32 = i32::MAX as u32;

impl Unprivileged {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn sysctls(self, plan: &PodPlan) -> Vec<(String, String)> {
        let mut sysctls = Vec::new();
        if self.ports {
            sysctls.push(("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()));
        }
        if let (true, Some(highest)) = (self.icmp, highest_group(plan.user.as_ref())) {
            sysctls.push(("net.ipv4.ping_group_range".to_owned(), format!("0 {highest}")));
        }
        sysctls
    }
}

/// The highest group, from 0 on, of which all are somebody in the pod: the kernel refuses a range with an end that is mapped to
/// nobody. None where not even group 0 is.
fn highest_group(user: Option<&IdMappings>) -> Option<u32> {
    let Some(user) = user else { return Some(HIGHEST_PING_GROUP) };
    let lowest = user.gids.iter().find(|mapping| mapping.inside == 0)?;
    Some(lowest.length.checked_sub(1)?.min(HIGHEST_PING_GROUP))
}

/// A pod that has every namespace of its own.
fn isolated(sysctls: BTreeMap<String, String>) -> PodPlan {
    PodPlan {
        network: PodNamespace::Own,
        ipc: PodNamespace::Own,
        uts: PodNamespace::Own,
        pid: PodNamespace::Own,
        hostname: None,
        sysctls,
        shared_memory: None,
        user: None,
        joined: None,
        mount_label: None,
    }
}

#[cfg(test)]
mod tests {
    use runtime::plan::IdMapping;

    use super::*;

    fn with(handler: Handler) -> Result<Handlers, Error> {
        Handlers::new("own", BTreeMap::from([("own".to_owned(), handler)]))
    }

    fn one<T>(key: &str, value: T) -> BTreeMap<String, T> {
        BTreeMap::from([(key.to_owned(), value)])
    }

    #[test]
    fn the_empty_name_and_the_name_of_the_default_mean_the_same() {
        let handlers =
            with(Handler { privileged_without_host_devices: true, ..Handler::default() }).expect("handlers");
        assert_eq!(handlers.get(""), handlers.get("own"));
        assert!(handlers.get("").expect("the default").privileged_without_host_devices);
        assert_eq!(handlers.get(INTERNAL), Some(&Handler::default()), "there without being configured");
        assert_eq!(handlers.get("kata"), None);
        assert_eq!(handlers.names().collect::<Vec<_>>(), ["", INTERNAL, "own"]);
        assert_eq!(handlers.unknown("kata"), "\"kata\" is not configured; there is \"knarr\", \"own\"");
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        type Change = fn(&mut Handler);
        let broken: [(&str, Change); 7] = [
            ("handlers.own.pod_annotations", |h| {
                h.pod_annotations = BTreeSet::from(["io.example.*".to_owned()])
            }),
            ("handlers.own.container_annotations", |h| {
                h.container_annotations = BTreeSet::from([String::new()])
            }),
            ("handlers.own.default_capabilities", |h| h.default_capabilities = Some(vec!["FLY".to_owned()])),
            ("handlers.own.default_sysctls.\"kernel.core_pattern\"", |h| {
                h.default_sysctls = one("kernel.core_pattern", "|/x".to_owned());
            }),
            ("handlers.own.default_sysctls.\"net.ipv4.x\"", |h| {
                h.default_sysctls = one("net.ipv4.x", "1\n2".to_owned());
            }),
            ("handlers.own.default_ulimits.files", |h| {
                h.default_ulimits = one("files", Ulimit { soft: 1, hard: 1 });
            }),
            ("handlers.own.default_ulimits.nofile", |h| {
                h.default_ulimits = one("nofile", Ulimit { soft: 2, hard: 1 });
            }),
        ];
        for (field, change) in broken {
            let mut handler = Handler::default();
            change(&mut handler);
            match with(handler) {
                Err(Error::Refused { field: refused, .. }) => assert_eq!(refused, field),
                other => panic!("{field}: {other:?}"),
            }
        }
        let unknown = Handlers::new("kata", BTreeMap::new());
        assert!(matches!(unknown, Err(Error::Refused { field, .. }) if field == "default_handler"));
        assert!(Handlers::new("", BTreeMap::new()).is_err(), "the empty name is no name of a handler");
    }

    #[test]
    fn kernel_parameters_of_a_handler_are_set_where_the_pod_owns_them_and_says_nothing() {
        let mut handler = Handler::default();
        for (name, value) in
            [("net.core.somaxconn", "7"), ("kernel.shmmax", "8"), ("net.ipv4.ip_forward", "1")]
        {
            handler.default_sysctls.insert(name.to_owned(), value.to_owned());
        }
        let asked = isolated(one("net/core/somaxconn", "9".to_owned()));
        let plan = handler.sysctls(PodPlan { ipc: PodNamespace::Host, ..asked });
        let set: Vec<_> = plan.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(set, [("net.ipv4.ip_forward", "1"), ("net/core/somaxconn", "9")]);
    }

    #[test]
    fn everybody_may_listen_and_ping_where_neither_pod_nor_handler_says_otherwise() {
        let unprivileged = Unprivileged { ports: true, icmp: true };
        let (ports, groups) = ("net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range");
        let set = |handler: &Handler, plan: PodPlan| {
            let sysctls = handler.sysctls(plan).sysctls;
            [ports, groups].map(|name| sysctls.get(name).cloned().unwrap_or_default())
        };
        let handler = Handler { unprivileged, ..Handler::default() };
        assert_eq!(set(&handler, isolated(BTreeMap::new())), ["0", "0 2147483647"]);
        assert_eq!(set(&Handler::default(), isolated(BTreeMap::new())), ["", ""]);
        let on_host = PodPlan { network: PodNamespace::Host, ..isolated(BTreeMap::new()) };
        assert_eq!(set(&handler, on_host), ["", ""]);
        let asked = isolated(one(ports, "80".to_owned()));
        assert_eq!(set(&handler, asked), ["80", "0 2147483647"]);
        let by_its_other_name = isolated(one("net/ipv4/ping_group_range", "5 5".to_owned()));
        assert_eq!(set(&handler, by_its_other_name), ["0", ""]);
        let strict = Handler { default_sysctls: one(ports, "1024".to_owned()), ..handler.clone() };
        assert_eq!(set(&strict, isolated(BTreeMap::new())), ["1024", "0 2147483647"]);
        // All groups of the range have to be somebody's in the pod's user namespace.
        let mapped = |inside, length| {
            let ids = vec![IdMapping { inside, outside: 100_000, length }];
            let user = Some(IdMappings { uids: ids.clone(), gids: ids });
            PodPlan { user, ..isolated(BTreeMap::new()) }
        };
        assert_eq!(set(&handler, mapped(0, 65536)), ["0", "0 65535"]);
    }
}
