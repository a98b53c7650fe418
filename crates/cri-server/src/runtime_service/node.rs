//! What the node says about itself.

use std::collections::HashMap;
use std::sync::Arc;

use proto::runtime::v1 as cri;
use sandbox::{Features, HandlerStatus};
use serde_json::json;
use tonic::Status;

use super::Runtime;
use crate::config::CgroupDriver;
use crate::convert;
use crate::pod_cidrs::WAITING;
use crate::status::of_sandbox;

/// The version of CRI that is spoken: the contract's own version field, not its package.
const KUBELET_API_VERSION: &str = "0.1.0";

pub(super) fn version() -> cri::VersionResponse {
    cri::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: "knarr".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

/// Conditions, handlers and features. Safe to cancel.
///
/// # Errors
/// Internal, when the verbose information can't be written as JSON.
pub(super) async fn status(runtime: &Runtime, verbose: bool) -> Result<cri::StatusResponse, Status> {
    // Before the handlers, which tell what came of it last.
    let user_namespaces = runtime.pods.user_namespaces().await.is_ok();
    let handlers = runtime.pods.handlers().into_iter().map(|HandlerStatus { name, features }| {
        // One that can't be used can do nothing; who asks for it is told why.
        let features = features.map_or_else(
            |_| cri::RuntimeHandlerFeatures::default(),
            |Features { recursive_read_only_mounts, user_namespaces }| cri::RuntimeHandlerFeatures {
                recursive_read_only_mounts,
                user_namespaces,
            },
        );
        cri::RuntimeHandler { name, features: Some(features) }
    });
    Ok(cri::StatusResponse {
        status: Some(cri::RuntimeStatus {
            conditions: vec![condition("RuntimeReady", None), network(runtime)],
        }),
        info: if verbose { info(runtime)? } else { HashMap::new() },
        runtime_handlers: handlers.collect(),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            mount_options: true,
            user_namespaces_host_network: user_namespaces,
        }),
    })
}

fn network(runtime: &Runtime) -> cri::RuntimeCondition {
    match status_of_network(runtime) {
        cni::Status::Ready { .. } => condition("NetworkReady", None),
        // The word that kubelet's users know from other runtimes.
        cni::Status::NotReady { reason } => {
            condition("NetworkReady", Some(("NetworkPluginNotReady", reason)))
        }
    }
}

fn status_of_network(runtime: &Runtime) -> cni::Status {
    match &runtime.pod_cidrs {
        Some(cidrs) if cidrs.now().is_empty() => cni::Status::NotReady { reason: WAITING.to_owned() },
        _ => runtime.networks.status(),
    }
}

fn condition(kind: &str, unmet: Option<(&str, String)>) -> cri::RuntimeCondition {
    let status = unmet.is_none();
    let (reason, message) = unmet.unwrap_or_default();
    cri::RuntimeCondition { r#type: kind.to_owned(), status, reason: reason.to_owned(), message }
}

fn info(runtime: &Runtime) -> Result<HashMap<String, String>, Status> {
    let readiness = |status: cni::Status| match status {
        cni::Status::Ready { network } => json!({ "ready": true, "name": network }),
        cni::Status::NotReady { reason } => json!({ "ready": false, "reason": reason }),
    };
    let mut network = readiness(status_of_network(runtime));
    // CRI has one condition for the network; a handler's own is seen here, and by its pods.
    let running = Arc::clone(&runtime.config.borrow());
    let own = running.networks().handlers;
    let handlers = own.into_keys().map(|name| (name.clone(), readiness(runtime.networks.status_for(&name))));
    if let Some(cidrs) = &runtime.pod_cidrs {
        network["podCIDRs"] = cidrs.now().into();
    }
    network["handlers"] = handlers.collect::<serde_json::Map<_, _>>().into();
    let config = serde_json::to_string(&*running);
    let config =
        config.map_err(|error| Status::internal(format!("writing the configuration as JSON: {error}")))?;
    let module = |state: Result<String, String>| match state {
        Ok(state) => json!({ "enabled": true, "state": state }).to_string(),
        Err(reason) => json!({ "enabled": false, "reason": reason }).to_string(),
    };
    let parts = [
        ("config", config),
        ("network", network.to_string()),
        ("daemon", daemon(runtime).to_string()),
        ("lastCNILoadStatus", loaded(status_of_network(runtime)).to_string()),
        ("runtimeHandlers", features_of_handlers(runtime).to_string()),
        ("plugins", crate::adapters::plugins::shown(runtime.plugins.as_deref()).to_string()),
        ("apparmor", module(runtime.pods.apparmor())),
        ("selinux", module(runtime.pods.selinux())),
    ];
    Ok(parts.into_iter().map(|(name, text)| (name.to_owned(), text)).collect())
}

/// The word that containerd's users look for.
fn loaded(status: cni::Status) -> serde_json::Value {
    match status {
        cni::Status::Ready { .. } => json!("OK"),
        cni::Status::NotReady { reason } => json!(reason),
    }
}

/// What each handler can do, and why one can't be used: the answer proper has no place for that.
fn features_of_handlers(runtime: &Runtime) -> serde_json::Value {
    let shown = |HandlerStatus { name, features }: HandlerStatus| {
        let said = match features {
            Ok(features) => json!({
                "usable": true,
                "recursiveReadOnlyMounts": features.recursive_read_only_mounts,
                "userNamespaces": features.user_namespaces,
            }),
            Err(reason) => json!({ "usable": false, "reason": reason }),
        };
        (name, said)
    };
    runtime.pods.handlers().into_iter().map(shown).collect::<serde_json::Map<_, _>>().into()
}

/// What shows whether something is left behind: the tasks of this process, and what it keeps for pods to come.
fn daemon(runtime: &Runtime) -> serde_json::Value {
    json!({
        "tasks": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        "preparedNamespaces": runtime.pods.prepared_networks(),
    })
}

/// What kubelet has to have alike.
pub(super) fn runtime_config(runtime: &Runtime) -> cri::RuntimeConfigResponse {
    let cgroup_driver = match runtime.config.borrow().cgroup_driver {
        CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
    } as i32;
    cri::RuntimeConfigResponse { linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver }) }
}

/// kubelet tells the node's pod CIDRs here. Addresses are the network configuration's to choose, so the word is only noted,
/// unless the configuration has it that plugins are told (`network.pod_cidr`).
///
/// # Errors
/// InvalidArgument for what is no list of CIDRs, Internal when it can't be kept.
pub(super) fn update(
    runtime: &Runtime,
    request: cri::UpdateRuntimeConfigRequest,
) -> Result<cri::UpdateRuntimeConfigResponse, Status> {
    let network = request.runtime_config.and_then(|config| config.network_config);
    let told = network.map(|network| network.pod_cidr).filter(|told| !told.is_empty());
    match (told, &runtime.pod_cidrs) {
        (None, _) => {}
        (Some(pod_cidr), None) => {
            tracing::info!(pod_cidr, "the pod CIDR is left to the network configuration");
        }
        (Some(pod_cidr), Some(kept)) => {
            let cidrs = convert::addresses::pod_cidrs(&pod_cidr).map_err(|error| of_sandbox(&error))?;
            let failed = |error| Status::internal(format!("keeping the node's pod CIDR: {error}"));
            kept.set(cidrs).map_err(failed)?;
            tracing::info!(pod_cidr, "networks are told the pod CIDR");
        }
    }
    Ok(cri::UpdateRuntimeConfigResponse {})
}
