//! What each part of the daemon is told of the configuration: at the start, and again with a reload.
//!
//! Not here: what keys are called and what they must be (`config`), in which order the parts are opened (`serve`) or changed (`reload`).

use std::sync::Arc;
use std::time::Duration;

use sandbox::{CgroupDriver, Deadlines};

use crate::adapters::scopes::SystemdScopes;
use crate::config::{self, Config, Faults};
use crate::serve::ServeError;

/// The cgroup below which pods go whose request names none, and the slice with systemd.
const CGROUP_PARENT: &str = "/knarr";
const CGROUP_SLICE: &str = "knarr.slice";

/// For the networks.
///
/// # Errors
/// What is wrong with the configuration.
pub(crate) fn network(config: &Config) -> Result<cni::Config, Faults> {
    Ok(cni::Config {
        conf_dir: config.cni_conf_dir.clone(),
        bin_dirs: config.cni_bin_dir.clone(),
        state_dir: config.root.join("networks"),
        builtin: config.network.enabled()?,
        native: config.network.native,
        plugin_deadline: Duration::from_secs(config.network.plugin_deadline),
        selection: config.networks(),
    })
}

/// For the images.
pub(crate) fn images(config: &Config) -> image_service::Config {
    image_service::Config {
        credentials: config.registry.credentials(),
        credential_helper_dirs: config.registry.credential_helper_dirs.clone(),
        limits: config.images.limits(),
        layers: config.images.layers(),
        at_rest: sandbox::give_back_memory,
        pinned: config.images.pinned.clone(),
        care: config.images.care(),
        collect: config.images.collect(),
        writable: config.containers.writable(),
        ..image_service::Config::new(config.root.clone(), config.registry_config_dir.clone())
    }
}

/// For the pods, as far as it can change.
///
/// # Errors
/// What is wrong with the configuration.
pub(crate) fn pod_settings(config: &Config) -> Result<sandbox::Settings, Faults> {
    Ok(sandbox::Settings {
        handlers: config.handlers()?,
        cdi_spec_dirs: config.cdi_spec_dirs.clone(),
        logs: config.logs.wanted(),
    })
}

/// For the pods, in a process whose children may have so many files open.
///
/// # Errors
/// [`ServeError::Config`]; [`ServeError::File`] for a supervisor that isn't there.
pub(crate) fn pods(config: &Config, open_files: Option<u64>) -> Result<sandbox::Config, ServeError> {
    let supervisor = crate::beside("knarr-supervisor").map_err(|cause| ServeError::File {
        action: "finding",
        path: "knarr-supervisor".into(),
        cause,
    })?;
    let deadlines = Deadlines::default();
    let (cgroup_driver, parent) = match config.cgroup_driver {
        config::CgroupDriver::Cgroupfs => (CgroupDriver::Cgroupfs, CGROUP_PARENT),
        config::CgroupDriver::Systemd => {
            let scopes = SystemdScopes(systemd::Manager::new(deadlines.cgroup));
            (CgroupDriver::Systemd(Arc::new(scopes)), CGROUP_SLICE)
        }
    };
    Ok(sandbox::Config {
        state_dir: config.state.clone(),
        supervisor,
        open_files,
        cgroup_driver,
        default_cgroup_parent: parent.to_owned(),
        settings: pod_settings(config)?,
        apparmor: config.security.apparmor(),
        selinux: config.security.selinux(),
        plugins: None,
        prepared_networks: config.network.prepared_namespaces,
        exec_output: config.server.exec_output(),
        deadlines,
    })
}
