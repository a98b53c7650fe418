//! `cni` as the network that `sandbox` asks for.

use std::sync::Arc;

use async_trait::async_trait;
use cni::{AttachmentId, Networks};
use sandbox::{Attached, Attachment, Census, DnsConfig, Network, NetworkError, PodId, PortMapping, Protocol};

/// The interface that a pod knows its network by.
const IFNAME: &str = "eth0";

/// Annotations that limit a pod's traffic, in bits a second, as kubelet's users know them.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Attaches pods through the node's network configuration.
pub(crate) struct CniNetwork(pub(crate) Networks);

#[async_trait]
impl Network for CniNetwork {
    async fn attach(&self, attachment: &Attachment) -> Result<Attached, NetworkError> {
        let wanted = request(attachment)?;
        let added = self.0.add(&wanted).await.map_err(failure)?;
        Ok(Attached { ips: added.ips })
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), NetworkError> {
        self.0.del(&request(attachment)?).await.map_err(failure)
    }

    async fn collect(&self, pods: Census) -> Result<(), NetworkError> {
        let id = |pod: &PodId| AttachmentId { container_id: pod.to_string(), ifname: IFNAME.to_owned() };
        self.0.gc(move || pods().iter().map(id).collect()).await.map_err(failure)
    }
}

fn failure(error: cni::Error) -> NetworkError {
    match error {
        cni::Error::NotReady { reason } => NetworkError::NotReady { reason },
        other => NetworkError::Failed(Arc::new(other)),
    }
}

fn request(pod: &Attachment) -> Result<cni::Attachment, NetworkError> {
    let args = [
        // Plugins fail on pairs they don't know unless told not to.
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", pod.namespace.as_str()),
        ("K8S_POD_NAME", pod.name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.pod_id.as_str()),
        ("K8S_POD_UID", pod.uid.as_str()),
    ];
    Ok(cni::Attachment {
        container_id: pod.pod_id.to_string(),
        netns: pod.netns.clone(),
        ifname: IFNAME.to_owned(),
        args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        port_mappings: pod.port_mappings.iter().filter_map(port).collect(),
        bandwidth: bandwidth(pod)?,
        dns: pod.dns.as_ref().map(dns),
        cgroup_path: Some(pod.cgroup_parent.clone()).filter(|path| !path.is_empty()),
        pod_annotations: pod.annotations.clone(),
        ..cni::Attachment::default()
    })
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

fn bandwidth(pod: &Attachment) -> Result<Option<cni::Bandwidth>, NetworkError> {
    let rate = |key: &'static str| match pod.annotations.get(key) {
        None => Ok(0),
        Some(text) => quantity(text).ok_or_else(|| {
            let value = text.clone();
            NetworkError::Failed(Arc::new(BadBandwidth { key, value }))
        }),
    };
    let (ingress_rate, egress_rate) = (rate(INGRESS)?, rate(EGRESS)?);
    // The plugin wants a burst with each rate; this is the largest that it takes, as with other runtimes.
    let burst = |rate: u64| if rate == 0 { 0 } else { u64::from(u32::MAX) };
    Ok((ingress_rate > 0 || egress_rate > 0).then(|| cni::Bandwidth {
        ingress_rate,
        ingress_burst: burst(ingress_rate),
        egress_rate,
        egress_burst: burst(egress_rate),
    }))
}

/// An annotation that is no amount of bits a second.
#[derive(Debug, thiserror::Error)]
#[error("annotation \"{key}\": \"{value}\" is not a quantity such as 10M")]
struct BadBandwidth {
    key: &'static str,
    value: String,
}

/// A whole Kubernetes quantity: digits and a decimal or binary suffix.
fn quantity(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u64); 9] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("", 1),
    ];
    let (digits, factor) =
        SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))?;
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        let cases =
            [("10M", Some(10_000_000)), ("1Ki", Some(1024)), ("512", Some(512)), ("M", None), ("-1", None)];
        for (text, expected) in cases {
            assert_eq!(quantity(text), expected, "{text}");
        }
        assert_eq!(quantity("99999999999T"), None, "an overflow is no quantity");
    }
}
