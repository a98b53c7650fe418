//! What a verbose status tells of a pod: one JSON object under the key that crictl prints, with the names that its users
//! and their scripts know, and some of our own.
//!
//! | key | what |
//! |---|---|
//! | `pid` | the supervisor. It is in the host's namespaces: the pod's network is reached by `netns` |
//! | `netns`, `cgroup` | paths: the network namespace, none on the host's network; the cgroup below each hierarchy |
//! | `networks` | each interface with its network, addresses and hardware address |
//! | `cniResult` | the same with gateways, routes and name servers, in the form that containerd shows |
//! | `runtimeSpec` | what of the pod an OCI specification would say: namespaces and cgroup |
//! | `runtimeHandler`, `config` | as it was asked for, with the limits of now |
//! | `message` | why it is not ready, and what of it is left |

use std::collections::HashMap;

use cni::{Added, IpConfig};
use sandbox::{PodConfig, PodResources, PodStatus};
use serde_json::{Map, Value, json};

use super::Runtime;

/// The information. The limits are those of now, in the configuration too: that is what an update changes, as the contract has it.
pub(super) fn of(runtime: &Runtime, pod: &PodStatus) -> HashMap<String, String> {
    let PodResources { overhead, resources } = pod.limits.clone();
    let config = PodConfig { overhead, resources, ..(*pod.config).clone() };
    let (networks, result) = match runtime.networks.interfaces(pod.id.as_str()) {
        Ok(joined) => (joined.iter().map(shown).collect(), cni_result(&joined)),
        Err(error) => (json!({ "error": crate::chain(&error) }), Value::Null),
    };
    let info = json!({
        "pid": pod.supervisor,
        "netns": pod.netns,
        "networks": networks,
        "cniResult": result,
        "cgroup": pod.cgroup,
        "message": pod.message,
        "runtimeHandler": pod.config.runtime_handler,
        "runtimeSpec": spec(pod),
        "config": config,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// An interface that the pod has, with its network, addresses and hardware address. The status itself tells the first one's addresses
/// alone.
fn shown(joined: &Added) -> Value {
    let inside = |interface: &&cni::Interface| {
        !interface.sandbox.is_empty() && interface.name == joined.ifname && !interface.mac.is_empty()
    };
    let mac = joined.result.interfaces.iter().find(inside).map(|interface| &interface.mac);
    json!({ "interface": joined.ifname, "network": joined.network, "ips": joined.ips, "mac": mac })
}

/// What the plugins of all networks have answered.
fn cni_result(joined: &[Added]) -> Value {
    let mut interfaces = Map::new();
    for result in joined.iter().map(|joined| &joined.result) {
        for (at, interface) in result.interfaces.iter().enumerate() {
            let of_it = result.ips.iter().filter(|ip| ip.interface == Some(at));
            let addresses: Vec<Value> = of_it.map(address).collect();
            let shown = json!({ "IPConfigs": addresses, "Mac": interface.mac, "Sandbox": interface.sandbox });
            interfaces.insert(interface.name.clone(), shown);
        }
    }
    let results = || joined.iter().map(|joined| &joined.result);
    let routes: Vec<_> = results().flat_map(|result| &result.routes).collect();
    let dns: Vec<_> = results().map(|result| &result.dns).collect();
    json!({ "Interfaces": interfaces, "DNS": dns, "Routes": routes })
}

fn address(ip: &IpConfig) -> Value {
    json!({ "IP": ip.address.address, "Gateway": ip.gateway })
}

fn spec(pod: &PodStatus) -> Value {
    let network = pod.netns.as_ref().map(|path| json!({ "type": "network", "path": path }));
    let namespaces: Vec<Value> = network.into_iter().collect();
    json!({
        "hostname": pod.config.hostname,
        "linux": { "cgroupsPath": pod.cgroup, "namespaces": namespaces },
    })
}
