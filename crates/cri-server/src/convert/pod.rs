//! PodSandboxConfig, read.

use std::path::PathBuf;

use proto::runtime::v1 as cri;
use sandbox::{DnsConfig, Error, PodConfig, PodMetadata, PodSecurity, PortMapping, Protocol, RunAs};

use super::security::{group_ids, namespaces, profile, selinux};
use super::{known, required, resources, sorted};

/// A pod as it was asked for.
///
/// # Errors
/// [`Error::Refused`] with the path of the field.
pub(crate) fn config(config: cri::PodSandboxConfig, runtime_handler: String) -> Result<PodConfig, Error> {
    if config.windows.is_some() {
        return Err(Error::refused("windows", "this node runs Linux"));
    }
    let linux = config.linux.unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    Ok(PodConfig {
        metadata: metadata(required(config.metadata, "metadata")?)?,
        hostname: config.hostname,
        log_directory: log_directory(config.log_directory)?,
        dns: config.dns_config.map(dns),
        port_mappings: config.port_mappings.into_iter().map(port).collect::<Result<_, _>>()?,
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        cgroup_parent: linux.cgroup_parent,
        sysctls: sorted(linux.sysctls),
        namespaces: namespaces(context.namespace_options.clone().unwrap_or_default())?,
        security: security(context)?,
        overhead: linux.overhead.map(resources::read).transpose()?,
        resources: linux.resources.map(resources::read).transpose()?,
        runtime_handler,
    })
}

fn metadata(metadata: cri::PodSandboxMetadata) -> Result<PodMetadata, Error> {
    if metadata.name.is_empty() {
        return Err(Error::refused("metadata.name", "is empty"));
    }
    let cri::PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    Ok(PodMetadata { name, uid, namespace, attempt })
}

fn log_directory(directory: String) -> Result<PathBuf, Error> {
    let path = PathBuf::from(directory);
    if path.as_os_str().is_empty() || path.is_absolute() {
        return Ok(path);
    }
    Err(Error::refused("log_directory", format!("\"{}\" is not an absolute path", path.display())))
}

fn dns(config: cri::DnsConfig) -> DnsConfig {
    DnsConfig { servers: config.servers, searches: config.searches, options: config.options }
}

fn port(mapping: cri::PortMapping) -> Result<PortMapping, Error> {
    let number = |field: &str, value: i32| {
        u16::try_from(value)
            .map_err(|_| Error::refused(format!("port_mappings.{field}"), format!("{value} is not a port")))
    };
    let address = mapping.host_ip.trim();
    let host_ip = if address.is_empty() { None } else { Some(address.parse()) };
    let not_address =
        |_| Error::refused("port_mappings.host_ip", format!("\"{address}\" is not an IP address"));
    Ok(PortMapping {
        protocol: match known(mapping.protocol, "port_mappings.protocol")? {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: number("container_port", mapping.container_port)?,
        host_port: number("host_port", mapping.host_port)?,
        host_ip: host_ip.transpose().map_err(not_address)?,
    })
}

#[allow(deprecated, reason = "what the contract has deprecated is refused by name")]
fn security(context: cri::LinuxSandboxSecurityContext) -> Result<PodSecurity, Error> {
    if !context.seccomp_profile_path.is_empty() {
        return Err(Error::refused(
            "linux.security_context.seccomp_profile_path",
            "is deprecated, use seccomp",
        ));
    }
    let value = |number: Option<cri::Int64Value>| number.map(|number| number.value);
    Ok(PodSecurity {
        privileged: context.privileged,
        run_as: RunAs::new(value(context.run_as_user), "", value(context.run_as_group))?,
        supplemental_groups: group_ids(&context.supplemental_groups)?,
        readonly_rootfs: context.readonly_rootfs,
        seccomp: profile(context.seccomp, "linux.security_context.seccomp")?,
        apparmor: profile(context.apparmor, "linux.security_context.apparmor")?,
        selinux: selinux(context.selinux_options),
    })
}
