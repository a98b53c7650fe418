//! Which details of an attachment a plugin gets to see: those whose capability it declares, in `runtimeConfig`.
//!
//! The names and shapes are those of CONVENTIONS.md ("Dynamic Plugin specific fields"), and two that containerd and
//! CRI-O agree on.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::attachment::Attachment;
use crate::result::Dns;

/// Of who is told of host ports.
pub(crate) const PORT_MAPPINGS: &str = "portMappings";

/// The `runtimeConfig` for a plugin with these capabilities; `None` when nothing is to be said.
pub(crate) fn runtime_config(declared: &BTreeSet<String>, attachment: &Attachment) -> Option<Value> {
    let known = known(attachment);
    let fields: Map<String, Value> = known
        .into_iter()
        .filter(|(name, _)| declared.contains(*name))
        .filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)))
        .collect();
    (!fields.is_empty()).then_some(Value::Object(fields))
}

fn known(attachment: &Attachment) -> [(&'static str, Option<Value>); 9] {
    [
        (PORT_MAPPINGS, list(&attachment.port_mappings)),
        ("ipRanges", list(&attachment.ip_ranges)),
        ("ips", list(&attachment.ips)),
        ("bandwidth", attachment.bandwidth.and_then(|limits| serde_json::to_value(limits).ok())),
        ("dns", attachment.dns.as_ref().map(dns)),
        ("mac", attachment.mac.clone().map(Value::String)),
        ("infinibandGUID", attachment.infiniband_guid.clone().map(Value::String)),
        ("cgroupPath", attachment.cgroup_path.clone().map(Value::String)),
        (
            "io.kubernetes.cri.pod-annotations",
            (!attachment.pod_annotations.is_empty()).then(|| json!(attachment.pod_annotations)),
        ),
    ]
}

fn list<T: Serialize>(items: &[T]) -> Option<Value> {
    if items.is_empty() { None } else { serde_json::to_value(items).ok() }
}

/// The capability's own shape, which isn't that of a result's `dns`.
fn dns(dns: &Dns) -> Value {
    json!({ "servers": dns.nameservers, "searches": dns.search, "options": dns.options })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::{Bandwidth, PortMapping, Protocol};

    fn attachment() -> Attachment {
        Attachment {
            port_mappings: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: Protocol::Udp,
                host_ip: None,
            }],
            bandwidth: Some(Bandwidth { ingress_rate: 1000, ..Bandwidth::default() }),
            dns: Some(Dns { nameservers: vec!["10.0.0.10".into()], ..Dns::default() }),
            mac: Some("02:00:00:00:00:01".into()),
            ..Attachment::default()
        }
    }

    #[test]
    fn only_what_is_declared_is_said() {
        let declared = BTreeSet::from(["portMappings".to_owned(), "ips".to_owned(), "unheard".to_owned()]);
        let config = runtime_config(&declared, &attachment()).unwrap();
        let expected = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]});
        assert_eq!(config, expected);
        assert_eq!(runtime_config(&BTreeSet::new(), &attachment()), None);
    }

    #[test]
    fn the_shapes_are_those_of_the_conventions() {
        let declared = ["bandwidth", "dns", "mac"].map(str::to_owned).into();
        let config = runtime_config(&declared, &attachment()).unwrap();
        assert_eq!(config["bandwidth"]["ingressRate"], 1000);
        assert_eq!(config["dns"]["servers"], json!(["10.0.0.10"]));
        assert_eq!(config["mac"], "02:00:00:00:00:01");
    }
}
