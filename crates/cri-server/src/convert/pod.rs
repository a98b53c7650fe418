//! PodSandboxConfig, read.

use std::collections::HashSet;

use proto::runtime::v1 as cri;
use sandbox::{
    DnsConfig, Error, PodConfig, PodMetadata, PodResources, PodSecurity, PortMapping, Protocol, Resources,
    user_id,
};

use super::security::{apparmor, group_ids, groups_policy, namespaces, profile, selinux};
use super::{bandwidth, known, required, resources, sorted};

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
    let annotations = sorted(config.annotations);
    // For their value alone: a network reads them again when it has to do with them.
    bandwidth::read(&annotations)?;
    Ok(PodConfig {
        metadata: metadata(required(config.metadata, "metadata")?),
        hostname: config.hostname,
        log_directory: config.log_directory.into(),
        dns: config.dns_config.map(dns),
        port_mappings: ports(config.port_mappings)?,
        labels: sorted(config.labels),
        annotations,
        cgroup_parent: linux.cgroup_parent,
        sysctls: sorted(linux.sysctls),
        namespaces: namespaces(context.namespace_options.clone().unwrap_or_default())?,
        security: security(context)?,
        overhead: limits(linux.overhead, "linux.overhead")?,
        resources: limits(linux.resources, "linux.resources")?,
        runtime_handler,
    })
}

/// New limits of a pod.
///
/// # Errors
/// [`Error::Refused`] with the path of the field.
pub(crate) fn update(request: cri::UpdatePodSandboxResourcesRequest) -> Result<PodResources, Error> {
    Ok(PodResources {
        overhead: limits(request.overhead, "overhead")?,
        resources: limits(request.resources, "resources")?,
    })
}

fn limits(said: Option<cri::LinuxContainerResources>, path: &str) -> Result<Option<Resources>, Error> {
    said.map(|said| resources::read(said, path)).transpose()
}

fn metadata(metadata: cri::PodSandboxMetadata) -> PodMetadata {
    let cri::PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    PodMetadata { name, uid, namespace, attempt }
}

fn dns(config: cri::DnsConfig) -> DnsConfig {
    DnsConfig { servers: config.servers, searches: config.searches, options: config.options }
}

fn ports(mappings: Vec<cri::PortMapping>) -> Result<Vec<PortMapping>, Error> {
    let ports: Vec<PortMapping> = mappings.into_iter().enumerate().map(port).collect::<Result<_, _>>()?;
    let mut taken = HashSet::new();
    for (at, port) in ports.iter().enumerate().filter(|(_, port)| port.host_port != 0) {
        if !taken.insert((port.protocol as u8, port.host_port, port.host_ip)) {
            let why = format!("{} is mapped already by this request", port.host_port);
            return Err(Error::refused(format!("port_mappings[{at}].host_port"), why));
        }
    }
    Ok(ports)
}

fn port((at, mapping): (usize, cri::PortMapping)) -> Result<PortMapping, Error> {
    let path = |field: &str| format!("port_mappings[{at}].{field}");
    let number = |field: &str, value: i32| {
        u16::try_from(value).map_err(|_| Error::refused(path(field), format!("{value} is not a port")))
    };
    let address = mapping.host_ip.trim();
    let host_ip = if address.is_empty() { None } else { Some(address.parse()) };
    let not_address = |_| Error::refused(path("host_ip"), format!("\"{address}\" is not an IP address"));
    Ok(PortMapping {
        protocol: match known(mapping.protocol, &path("protocol"))? {
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
    let id = |field: &str, number: Option<cri::Int64Value>| {
        number.map(|number| user_id(format!("linux.security_context.{field}"), number.value)).transpose()
    };
    Ok(PodSecurity {
        privileged: context.privileged,
        // A group alone is fine here: kubelet passes what the Pod says, and nothing runs as the sandbox.
        run_as_user: id("run_as_user", context.run_as_user)?,
        run_as_group: id("run_as_group", context.run_as_group)?,
        supplemental_groups: group_ids(&context.supplemental_groups)?,
        supplemental_groups_policy: groups_policy(context.supplemental_groups_policy)?,
        readonly_rootfs: context.readonly_rootfs,
        seccomp: profile(context.seccomp, "linux.security_context.seccomp")?,
        apparmor: apparmor(context.apparmor, "")?,
        selinux: selinux(context.selinux_options),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Result<PodConfig, Error> {
        let metadata =
            cri::PodSandboxMetadata { name: "p".into(), namespace: "n".into(), ..Default::default() };
        let mut wanted = cri::PodSandboxConfig {
            metadata: Some(metadata),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext::default()),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut wanted);
        config(wanted, String::new())
    }

    fn context(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
        config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap()
    }

    #[test]
    fn a_group_without_a_user_is_a_valid_pod() {
        let number = |value| Some(cri::Int64Value { value });
        let pod = asked(|config| context(config).run_as_group = number(3000)).unwrap();
        assert_eq!((pod.security.run_as_user, pod.security.run_as_group), (None, Some(3000)));
        let refused = asked(|config| context(config).run_as_user = number(-1)).unwrap_err().to_string();
        assert!(refused.starts_with("linux.security_context.run_as_user: -1"), "{refused}");
    }

    #[test]
    fn fields_that_cannot_be_honoured_are_refused_by_path() {
        type Change = fn(&mut cri::PodSandboxConfig);
        #[allow(deprecated, reason = "refused for it")]
        let broken: [(&str, Change); 7] = [
            ("windows", |config| config.windows = Some(Default::default())),
            ("linux.security_context.seccomp_profile_path", |config| {
                context(config).seccomp_profile_path = "runtime/default".into();
            }),
            ("linux.security_context.namespace_options.target_id", |config| {
                context(config).namespace_options.get_or_insert_default().target_id = "other".into();
            }),
            ("annotations[\"kubernetes.io/ingress-bandwidth\"]", |config| {
                config.annotations = [("kubernetes.io/ingress-bandwidth".into(), "fast".into())].into();
            }),
            ("port_mappings[1].container_port", |config| {
                let port = |container_port| cri::PortMapping { container_port, ..Default::default() };
                config.port_mappings = vec![port(80), port(70_000)];
            }),
            ("metadata", |config| config.metadata = None),
            ("linux.security_context.supplemental_groups_policy", |config| {
                context(config).supplemental_groups_policy = 7;
            }),
        ];
        for (field, change) in broken {
            let refused = asked(change).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("{field}: ")), "{refused}");
        }
    }

    #[test]
    fn a_host_port_is_mapped_once() {
        let port = |protocol: cri::Protocol, host_port, host_ip: &str| cri::PortMapping {
            protocol: protocol.into(),
            container_port: 80,
            host_port,
            host_ip: host_ip.into(),
        };
        let tcp = cri::Protocol::Tcp;
        let fine = vec![
            port(tcp, 80, "10.0.0.1"),
            port(tcp, 80, "10.0.0.2"),
            port(cri::Protocol::Udp, 80, "10.0.0.1"),
            port(tcp, 0, ""),
            port(tcp, 0, ""),
        ];
        assert!(asked(|c| c.port_mappings = fine).is_ok());
        let twice = vec![port(tcp, 80, ""), port(tcp, 80, "")];
        let refused = asked(|c| c.port_mappings = twice).unwrap_err().to_string();
        assert!(refused.starts_with("port_mappings[1].host_port: 80 "), "{refused}");
    }
}
