//! The port that exec, attach and port-forward are served at is no pod's: one that mapped it as a host port would be handed the
//! connections of kubelet, with what is typed into other pods' terminals.

use std::net::SocketAddr;
use std::sync::Arc;

use sandbox::{Error, NamespaceMode, PodConfig, PortMapping, Protocol};

/// How many ports of the kernel's choice are looked at for one that no pod maps.
pub(crate) const ATTEMPTS: usize = 64;

#[derive(Debug, thiserror::Error)]
#[error("{port} (port_mappings[{at}].host_port) is where this node serves exec, attach and port-forward")]
struct Served {
    port: u16,
    at: usize,
}

/// Sees that a pod doesn't map it.
///
/// # Errors
/// [`Error::Taken`].
pub(crate) fn spare(config: &PodConfig, streams: SocketAddr) -> Result<(), Error> {
    match taken_by(config, streams) {
        Some(at) => Err(Error::Taken {
            step: "mapping host ports",
            subject: config.metadata.name.clone(),
            cause: Arc::new(Served { port: streams.port(), at }),
        }),
        None => Ok(()),
    }
}

/// Which of a pod's mappings it is that leads to the pod what is meant for the address. On the host's network nothing is mapped.
pub(crate) fn taken_by(config: &PodConfig, streams: SocketAddr) -> Option<usize> {
    let is_mapped = config.namespaces.network == NamespaceMode::Pod;
    config.port_mappings.iter().position(|mapping| is_mapped && takes(mapping, streams))
}

fn takes(mapping: &PortMapping, streams: SocketAddr) -> bool {
    let covers = match mapping.host_ip {
        None => true,
        Some(ip) => ip.is_unspecified() || streams.ip().is_unspecified() || ip == streams.ip(),
    };
    mapping.protocol == Protocol::Tcp && mapping.host_port == streams.port() && covers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_taken_wherever_its_address_is_covered() {
        let cases = [
            (Protocol::Tcp, 4000, None, "127.0.0.1:4000", true),
            (Protocol::Tcp, 4000, Some("0.0.0.0"), "127.0.0.1:4000", true),
            (Protocol::Tcp, 4000, Some("127.0.0.1"), "127.0.0.1:4000", true),
            (Protocol::Tcp, 4000, Some("192.0.2.1"), "127.0.0.1:4000", false),
            (Protocol::Tcp, 4000, Some("192.0.2.1"), "0.0.0.0:4000", true),
            (Protocol::Tcp, 4001, None, "127.0.0.1:4000", false),
            (Protocol::Udp, 4000, None, "127.0.0.1:4000", false),
            (Protocol::Tcp, 4000, None, "[::1]:4000", true),
        ];
        for (protocol, host_port, host_ip, streams, taken) in cases {
            let host_ip = host_ip.map(|ip| ip.parse().unwrap());
            let mapping = PortMapping { protocol, container_port: 80, host_port, host_ip };
            assert_eq!(takes(&mapping, streams.parse().unwrap()), taken, "{mapping:?} {streams}");
        }
    }
}
