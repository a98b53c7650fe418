//! A network as an attachment is made in it: its chain, and by which means the plugins are carried out.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::attachment::Attachment;
use crate::builtin;
use crate::builtin_network::BuiltinNetwork;
use crate::cache::{Record, Via};
use crate::capabilities::PORT_MAPPINGS;
use crate::carrier::{Carrier, Means};
use crate::conf::{self, NetworkConf, PluginConf};
use crate::error::Error;
use crate::network::Chain;
use crate::networks::Added;

/// A network, and how its plugins are carried out.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) conf: Arc<NetworkConf>,
    pub(crate) carrier: Carrier,
}

/// A network that an attachment can be made in.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) served: Served,
    /// What a record needs to find it again.
    pub(crate) via: Via,
}

impl Served {
    /// The built-in network, with addresses below that directory.
    ///
    /// # Errors
    /// [`Error::InvalidConf`].
    pub(crate) fn builtin(
        settings: &BuiltinNetwork,
        addresses: &Path,
        carrier: &Carrier,
        mtu: Option<u32>,
    ) -> Result<Served, Error> {
        let conf = Arc::new(settings.conf(addresses, mtu)?);
        Ok(Served { conf, carrier: carrier.by(Means::Native) })
    }

    /// The network of a record, by the means that it was attached by.
    ///
    /// # Errors
    /// [`Error::InvalidConf`].
    pub(crate) fn of(record: &Record, addresses: &Path, carrier: &Carrier) -> Result<Served, Error> {
        match &record.via {
            Via::Builtin(settings) => Served::builtin(settings, addresses, carrier, None),
            Via::Chain(value) => {
                let means = if record.native { Means::Native } else { Means::Executed };
                let conf = Arc::new(conf::parse(Path::new(&record.network), value)?);
                Ok(Served { conf, carrier: carrier.by(means) })
            }
        }
    }

    /// The chain at work on an attachment.
    pub(crate) fn chain<'a>(&'a self, attachment: &'a Attachment) -> Chain<'a> {
        Chain { conf: &self.conf, carrier: &self.carrier, attachment }
    }

    /// Whether its standard plugins are served in-process.
    pub(crate) fn is_native(&self) -> bool {
        self.carrier.means == Means::Native
    }

    /// Whether its attachments have links of ours, by which they are known.
    pub(crate) fn makes_links(&self) -> bool {
        self.conf.plugins.iter().any(|plugin| plugin.kind == "bridge" && self.carrier.serves(plugin))
    }

    /// Whether nothing of it is executed, so that its end can be told apart from its cutting off.
    pub(crate) fn is_native_throughout(&self) -> bool {
        self.conf.plugins.iter().all(|plugin| self.carrier.serves(plugin))
    }

    /// Those of an attachment's addresses that have entries in the tables that are ours.
    pub(crate) fn in_tables(&self, attachment: &Attachment, added: &Added) -> Vec<IpAddr> {
        let served = |kind| self.conf.plugins.iter().filter(move |plugin| self.carries(plugin, kind));
        if served("bridge").any(|plugin| builtin::masquerades(&plugin.fields)) {
            return added.ips.clone();
        }
        let is_mapped = |address: &IpAddr| {
            attachment.port_mappings.iter().any(|port| {
                let host = port.host_ip.map(|host| host.to_canonical());
                port.host_port != 0 && host.is_none_or(|host| host.is_ipv4() == address.is_ipv4())
            })
        };
        let mut mapped = added.result.addresses_of(&attachment.ifname);
        let maps = served("portmap").any(|plugin| plugin.capabilities.contains(PORT_MAPPINGS));
        mapped.retain(|cidr| maps && is_mapped(&cidr.address));
        mapped.into_iter().map(|cidr| cidr.address).collect()
    }

    /// Whether a plugin is of that kind, and served in-process.
    fn carries(&self, plugin: &PluginConf, kind: &str) -> bool {
        plugin.kind == kind && self.is_native() && self.carrier.serves_alone(plugin)
    }
}

impl Chosen {
    /// One of a directory.
    pub(crate) fn chain(conf: Arc<NetworkConf>, carrier: &Carrier) -> Chosen {
        let via = Via::Chain(conf.to_value());
        Chosen { served: Served { conf, carrier: carrier.clone() }, via }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    use crate::attachment::{PortMapping, Protocol};
    use crate::plugin::Runner;
    use crate::result::NetworkResult;
    use crate::version::Version;

    /// Who is taken to have entries, and has none, makes every look at the tables end in a mending.
    #[test]
    fn who_has_entries_is_known_from_what_was_asked_for() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.9.0.2".parse().unwrap(), "fd00::2".parse().unwrap());
        let result = json!({"interfaces": [{"name": "eth0", "sandbox": "/x"}, {"name": "net1", "sandbox": "/x"}], "ips": [
            {"address": "10.9.0.2/24", "interface": 0}, {"address": "fd00::2/64"}, {"address": "fd00::3/64", "interface": 1}]});
        let result = NetworkResult::parse(&result, Version::V1_0_0).unwrap();
        let ips = result.addresses();
        let added = Added { ifname: "eth0".into(), network: "n".into(), ips: ips.clone(), result };
        let port = |host_port, host_ip: Option<&str>| PortMapping {
            host_port,
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|host| host.parse().unwrap()),
        };
        let bridge = json!({"type": "bridge"});
        let masquerading = json!({"type": "bridge", "IPMASQ": true, "ipam": {"type": "dhcp"}});
        let without_addresses = json!({"type": "bridge", "ipMasq": true});
        let executed =
            json!({"type": "bridge", "ipMasq": true, "ipam": {"type": "dhcp"}, "macspoofchk": true});
        let others = json!({"type": "other", "ipMasq": true, "capabilities": {"portMappings": true}});
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let deaf = json!({"type": "portmap"});
        let iptables =
            json!({"type": "portmap", "backend": "iptables", "capabilities": {"portMappings": true}});
        for (plugins, ports, expected) in [
            (vec![&masquerading], vec![], ips),
            (vec![&bridge, &portmap], vec![], vec![]),
            (vec![&bridge, &portmap], vec![port(80, None)], vec![v4, v6]),
            (vec![&bridge, &portmap], vec![port(0, None)], vec![]),
            (vec![&bridge, &portmap], vec![port(80, Some("0.0.0.0"))], vec![v4]),
            (vec![&bridge, &portmap], vec![port(80, Some("::ffff:192.0.2.1"))], vec![v4]),
            (vec![&bridge, &portmap], vec![port(80, Some("::")), port(0, None)], vec![v6]),
            (vec![&executed, &others, &without_addresses, &deaf, &iptables], vec![port(80, None)], vec![]),
        ] {
            let plugins: Vec<&Value> = plugins;
            let conf = json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins});
            let conf = Arc::new(conf::parse(Path::new("x"), &conf).unwrap());
            let attachment =
                Attachment { port_mappings: ports, ifname: "eth0".into(), ..Attachment::default() };
            for (means, expected) in [(Means::Native, expected), (Means::Executed, vec![])] {
                let served =
                    Served { conf: Arc::clone(&conf), carrier: Carrier { runner: Runner::default(), means } };
                assert_eq!(served.in_tables(&attachment, &added), expected, "{conf:?} {attachment:?}");
            }
        }
    }
}
