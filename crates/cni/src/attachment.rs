//! What a caller asks for: one network namespace to be attached under one interface name.
//!
//! How these values reach a plugin (environment, `runtimeConfig`) is `plugin`'s and `capabilities`' affair.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::result::Dns;

/// The longest name a network interface may have, in bytes (IFNAMSIZ less its NUL).
const IFNAME_MAX: usize = 15;

/// Names one attachment: CNI's tuple of container and interface (SPEC.md section 2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`, the interface's name inside the namespace.
    pub ifname: String,
}

/// One attachment of a network namespace, and everything a plugin may want to know about it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// `CNI_CONTAINERID`: letters, digits, `_`, `.` and `-`, beginning with a letter or digit.
    pub container_id: String,
    /// The namespace's path. Required by [`crate::Networks::add`]; `None` when it is gone already.
    pub netns: Option<PathBuf>,
    /// The interface's name inside the namespace, `eth0` for pods.
    pub ifname: String,
    /// `CNI_ARGS`, in order (`K8S_POD_NAMESPACE` and so on).
    pub args: Vec<(String, String)>,
    /// Host ports, capability `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// Traffic limits, capability `bandwidth`.
    pub bandwidth: Option<Bandwidth>,
    /// Name service settings, capability `dns`.
    pub dns: Option<Dns>,
    /// Address ranges wanted, a list for each family, capability `ipRanges`.
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// Addresses wanted (with or without a prefix length), capability `ips`.
    pub ips: Vec<String>,
    /// Hardware address wanted, capability `mac`.
    pub mac: Option<String>,
    /// InfiniBand GUID wanted, capability `infinibandGUID`.
    pub infiniband_guid: Option<String>,
    /// The pod's cgroup, capability `cgroupPath`.
    pub cgroup_path: Option<String>,
    /// The pod's annotations, capability `io.kubernetes.cri.pod-annotations`.
    pub pod_annotations: BTreeMap<String, String>,
}

/// A port of the host that leads to one of the namespace's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The port on the host, 1 to 65535.
    pub host_port: u16,
    /// The port inside the namespace, 1 to 65535.
    pub container_port: u16,
    /// The transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The host's address that the port is bound to; every one when `None`.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none", default)]
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

/// Traffic limits as the `bandwidth` plugin takes them; zero means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Into the namespace, bits a second.
    pub ingress_rate: u64,
    /// Burst into the namespace, bits.
    pub ingress_burst: u64,
    /// Out of the namespace, bits a second.
    pub egress_rate: u64,
    /// Burst out of the namespace, bits.
    pub egress_burst: u64,
}

/// A range of addresses wanted from the address management plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpRange {
    /// The subnet, in CIDR notation.
    pub subnet: String,
    /// The first address to hand out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    /// The last address to hand out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
    /// The subnet's gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

impl Attachment {
    /// The attachment's name.
    #[must_use]
    pub fn id(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    /// Checks the characters of the names that end up in environments and file names.
    ///
    /// # Errors
    /// [`Error::InvalidAttachment`], naming the field.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.id().check()?;
        for (key, value) in &self.args {
            // CNI_ARGS has no quoting: these separate its pairs.
            if key.is_empty() || key.contains(['=', ';', '\0']) || value.contains([';', '\0']) {
                return Err(Error::InvalidAttachment { field: "args", value: format!("{key}={value}") });
            }
        }
        for mapping in &self.port_mappings {
            if mapping.host_port == 0 || mapping.container_port == 0 {
                let value = format!("{}:{}", mapping.host_port, mapping.container_port);
                return Err(Error::InvalidAttachment { field: "port mapping", value });
            }
        }
        Ok(())
    }
}

impl AttachmentId {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !is_identifier(&self.container_id) {
            return Err(Error::InvalidAttachment { field: "container id", value: self.container_id.clone() });
        }
        if !is_ifname(&self.ifname) {
            return Err(Error::InvalidAttachment { field: "interface name", value: self.ifname.clone() });
        }
        Ok(())
    }
}

/// The rule for container ids and network names: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$` (SPEC.md sections 1 and 2).
pub(crate) fn is_identifier(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= 200
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// What the kernel takes as an interface's name (`dev_valid_name`), and the spec besides.
pub(crate) fn is_ifname(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= IFNAME_MAX
        && text != "."
        && text != ".."
        && !text.chars().any(|c| c == '/' || c == ':' || c == '\0' || c.is_whitespace())
}

impl Protocol {
    /// The number in the IP header (IANA protocol numbers).
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// All of them.
    pub(crate) const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The protocol of that number.
    pub(crate) fn numbered(number: u8) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// The protocol of that name, in whatever case.
    pub(crate) fn named(name: &str) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }

    /// The name, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { container_id: "abc".into(), ifname: "eth0".into(), ..Attachment::default() }
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in ["", ".", "../x", "a/b", "-a", "a b", "\u{e4}"] {
            let bad = Attachment { container_id: bad.into(), ..attachment() };
            assert!(bad.check().is_err(), "{bad:?}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-chars-16"] {
            let bad = Attachment { ifname: bad.into(), ..attachment() };
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(attachment().check().is_ok());
    }

    #[test]
    fn arguments_cannot_smuggle_others_in() {
        let smuggling = Attachment { args: vec![("A".into(), "b;C=d".into())], ..attachment() };
        assert!(smuggling.check().is_err());
    }

    #[test]
    fn port_mappings_have_the_names_that_portmap_reads() {
        let mapping = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Sctp,
            host_ip: Some(IpAddr::from([127, 0, 0, 1])),
        };
        let json = serde_json::to_value(mapping).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"hostPort": 8080, "containerPort": 80, "protocol": "sctp", "hostIP": "127.0.0.1"})
        );
    }
}
