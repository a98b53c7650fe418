//! `cni` as the network that `sandbox` asks for: attachments and errors in each other's terms.
//!
//! Not here: what a network does, which is `cni`'s.

use std::sync::Arc;

use async_trait::async_trait;
use cni::Networks;
use sandbox::{Attached, Attachment, Census, DnsConfig, Network, NetworkError, PodId, PortMapping, Protocol};
use tokio::sync::watch;

use crate::config::Config;
use crate::convert::addresses::{self, Addresses};
use crate::convert::bandwidth;
use crate::pod_cidrs::{PodCidrs, WAITING};

/// Attaches pods through the node's network configuration.
pub(crate) struct CniNetwork {
    /// The networks.
    pub(crate) networks: Networks,
    /// What the daemon runs by: the annotations that ask for addresses, and the order in which a pod's addresses are told.
    pub(crate) config: watch::Receiver<Arc<Config>>,
    /// The node's pod CIDRs, where plugins are told them.
    pub(crate) pod_cidrs: Option<Arc<PodCidrs>>,
}

#[async_trait]
impl Network for CniNetwork {
    async fn attach(&self, attachment: &Attachment) -> Result<Attached, NetworkError> {
        let wanted = self.wanted(attachment)?;
        let joined = self.networks.join(&attachment.runtime_handler, &wanted).await.map_err(failure)?;
        // CRI has one network status a pod: that of the first network, which is the cluster's.
        let ips = joined.into_iter().next().map(|first| first.ips).unwrap_or_default();
        let preference = self.config.borrow().network.ip_preference;
        Ok(Attached { ips: preference.sort(ips) })
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), NetworkError> {
        // Without the limits: what was attached is detached by its record, and no annotation can stand in the way of that.
        self.networks.leave(&request(attachment)).await.map_err(failure)
    }

    async fn collect(&self, pods: Census) -> Result<(), NetworkError> {
        let valid = move || pods().iter().map(PodId::to_string).collect();
        self.networks.gc_containers(valid).await.map_err(failure)
    }
}

impl CniNetwork {
    /// What a pod's annotations ask for besides.
    fn wanted(&self, pod: &Attachment) -> Result<cni::Attachment, NetworkError> {
        let bandwidth = bandwidth::read(&pod.annotations).map_err(refused)?;
        let Addresses { ips, mac, infiniband_guid, mut ip_ranges } =
            addresses::read(&self.config.borrow().network.annotations, &pod.annotations).map_err(refused)?;
        if let Some(cidrs) = &self.pod_cidrs {
            let cidrs = cidrs.now();
            if cidrs.is_empty() {
                return Err(NetworkError::NotReady { reason: WAITING.to_owned() });
            }
            if ip_ranges.is_empty() {
                let range = |subnet| vec![cni::IpRange { subnet, ..cni::IpRange::default() }];
                ip_ranges = cidrs.into_iter().map(range).collect();
            }
        }
        Ok(cni::Attachment { bandwidth, ips, mac, infiniband_guid, ip_ranges, ..request(pod) })
    }
}

fn refused(error: sandbox::Error) -> NetworkError {
    match error {
        sandbox::Error::Refused { field, why } => NetworkError::Refused { field, why },
        other => NetworkError::Refused { field: "annotations".to_owned(), why: other.to_string() },
    }
}

fn failure(error: cni::Error) -> NetworkError {
    match error {
        cni::Error::NotReady { reason } => NetworkError::NotReady { reason },
        // Nothing has been run yet, and its installer may be on the way.
        error @ cni::Error::PluginMissing { .. } => NetworkError::NotReady { reason: error.to_string() },
        error if is_late(&error) => NetworkError::Deadline(Arc::new(error)),
        error if is_taken(&error) => NetworkError::Taken(Arc::new(error)),
        error if is_exhausted(&error) => NetworkError::Exhausted(Arc::new(error)),
        error => match refusal(&error) {
            Some((field, why)) => NetworkError::Refused { field: field.to_owned(), why },
            None => NetworkError::Failed(Arc::new(error)),
        },
    }
}

/// Whether a plugin that did not end in time is what made it fail.
fn is_late(error: &cni::Error) -> bool {
    match error {
        cni::Error::PluginTimedOut { .. } => true,
        cni::Error::Undo { failure, .. } => is_late(failure),
        cni::Error::Detach { failures, .. } => failures.iter().any(is_late),
        _ => false,
    }
}

/// Whether it failed for want of what another pod has.
fn is_taken(error: &cni::Error) -> bool {
    match error {
        cni::Error::HostPortTaken { .. } | cni::Error::AddressUnavailable { .. } => true,
        cni::Error::Undo { failure, .. } => is_taken(failure),
        _ => false,
    }
}

/// Whether it failed for want of an address.
fn is_exhausted(error: &cni::Error) -> bool {
    match error {
        cni::Error::AddressesExhausted { .. } => true,
        cni::Error::Undo { failure, .. } => is_exhausted(failure),
        _ => false,
    }
}

/// The field of the request, in CRI's terms, that an attachment can't be made with. The other parts of an attachment are made
/// by this daemon.
fn refusal(error: &cni::Error) -> Option<(&'static str, String)> {
    match error {
        cni::Error::InvalidAttachment { field: "args", value } => {
            Some(("metadata", format!("\"{value}\" can't be told to CNI plugins")))
        }
        cni::Error::InvalidAttachment { field: "port mapping", value } => {
            Some(("port_mappings", format!("\"{value}\" maps no port")))
        }
        cni::Error::PortMapping { .. } => Some(("port_mappings", error.to_string())),
        _ => None,
    }
}

fn request(pod: &Attachment) -> cni::Attachment {
    let args = [
        // Plugins fail on pairs they don't know unless told not to.
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", pod.namespace.as_str()),
        ("K8S_POD_NAME", pod.name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.pod_id.as_str()),
        ("K8S_POD_UID", pod.uid.as_str()),
    ];
    cni::Attachment {
        container_id: pod.pod_id.to_string(),
        netns: pod.netns.clone(),
        args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        port_mappings: pod.port_mappings.iter().filter_map(port).collect(),
        dns: pod.dns.as_ref().map(dns),
        cgroup_path: Some(pod.cgroup_parent.clone()).filter(|path| !path.is_empty()),
        pod_annotations: pod.annotations.clone(),
        ..cni::Attachment::default()
    }
}

/// A mapping without a host port maps nothing.
fn port(mapping: &PortMapping) -> Option<cni::PortMapping> {
    (mapping.host_port != 0).then_some(cni::PortMapping {
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            Protocol::Tcp => cni::Protocol::Tcp,
            Protocol::Udp => cni::Protocol::Udp,
            Protocol::Sctp => cni::Protocol::Sctp,
        },
        host_ip: mapping.host_ip,
    })
}

fn dns(config: &DnsConfig) -> cni::Dns {
    cni::Dns {
        nameservers: config.servers.clone(),
        search: config.searches.clone(),
        options: config.options.clone(),
        ..cni::Dns::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn late() -> cni::Error {
        let plugin = "bridge".to_owned();
        cni::Error::PluginTimedOut { plugin, command: cni::Command::Add, deadline: Duration::from_secs(50) }
    }

    #[test]
    fn a_plugin_that_hangs_is_late_however_deep_it_lies() {
        let id = || ("c".to_owned(), "eth0".to_owned());
        let ((container_id, ifname), undo) = (id(), vec![late()]);
        let undone = cni::Error::Undo { failure: Box::new(late()), undo };
        let detached = cni::Error::Detach { container_id, ifname, failures: vec![late()] };
        for error in [late(), undone, detached] {
            assert!(matches!(failure(error), NetworkError::Deadline(_)));
        }
        let (container_id, ifname) = id();
        let failed = cni::Error::AlreadyAttached { container_id, ifname };
        let undone = cni::Error::Undo { failure: Box::new(failed), undo: vec![late()] };
        assert!(matches!(failure(undone), NetworkError::Failed(_)), "what failed first decides");
    }

    #[test]
    fn what_another_has_is_told_from_a_failure() {
        let taken = || cni::Error::HostPortTaken { port: 8080, protocol: "tcp", owner: String::new() };
        let undone = cni::Error::Undo { failure: Box::new(taken()), undo: vec![late()] };
        let address = "10.0.0.2".parse().unwrap();
        for error in [taken(), undone, cni::Error::AddressUnavailable { network: "n".into(), address }] {
            assert!(matches!(failure(error), NetworkError::Taken(_)));
        }
    }

    #[test]
    fn that_no_address_is_left_is_told_from_a_failure() {
        let none = || cni::Error::AddressesExhausted { network: "n".into(), subnet: "10.0.0.0/30".into() };
        let undone = cni::Error::Undo { failure: Box::new(none()), undo: vec![late()] };
        for error in [none(), undone] {
            assert!(matches!(failure(error), NetworkError::Exhausted(_)));
        }
    }

    #[test]
    fn what_the_request_said_is_refused_and_what_we_said_is_not() {
        let invalid = |field| cni::Error::InvalidAttachment { field, value: "x;y".to_owned() };
        assert!(
            matches!(failure(invalid("args")), NetworkError::Refused { field, .. } if field == "metadata")
        );
        assert!(matches!(failure(invalid("container id")), NetworkError::Failed(_)));
    }
}
