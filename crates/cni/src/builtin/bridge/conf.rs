//! The configuration of `bridge`.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::attachment::is_ifname;
use crate::builtin::link::{Mac, parse_mac};
use crate::builtin::{Unserved, fields};
use crate::error::Error;
use crate::request::Request;
use crate::result::Dns;

const DEFAULT_BRIDGE: &str = "cni0";
/// The alias of a bridge that was made for the built-in network, and goes with its last port.
pub(super) const MARK: &str = "knarr";
/// VLANs 0 and 4095 are reserved (IEEE 802.1Q).
const LAST_VLAN: i64 = 4094;

/// Who gives addresses in a request's network; all that needs to be understood of it to undo what ADD made.
pub(super) fn ipam(request: &Request) -> Option<String> {
    fields::ipam(&request.config).map(str::to_owned)
}

/// What is to be made.
#[derive(Debug, Clone)]
pub(super) struct Conf {
    pub(super) bridge: String,
    /// What the bridge is to bear as its alias if it is made here.
    pub(super) mark: Option<&'static str>,
    /// Whether the bridge has the gateways' addresses, and the host forwards.
    pub(super) is_gateway: bool,
    pub(super) is_default_gateway: bool,
    /// Whether another address that the bridge has gives way.
    pub(super) force_address: bool,
    pub(super) masquerade: bool,
    pub(super) mtu: Option<u32>,
    pub(super) hairpin: bool,
    pub(super) promiscuous: bool,
    pub(super) vlans: Vlans,
    pub(super) isolated: bool,
    /// Whether addresses are only used once nobody else is found to have them.
    pub(super) detect_duplicates: bool,
    /// Whether the interface inside stays down.
    pub(super) without_interface: bool,
    pub(super) mac: Option<Mac>,
    /// Who gives addresses; none are given when `None`.
    pub(super) ipam: Option<String>,
    /// Instead of those that come with the addresses.
    pub(super) dns: Option<Dns>,
}

/// The VLANs of a port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Vlans {
    /// That of untagged packets; 0: none is chosen.
    pub(super) native: u16,
    /// Those that pass with their tags.
    pub(super) trunk: Vec<u16>,
    /// Whether the port stays in those that it is born in.
    pub(super) keep_default: bool,
}

impl Vlans {
    /// Whether the bridge has to tell VLANs apart.
    pub(super) fn are_used(&self) -> bool {
        self.native != 0 || !self.trunk.is_empty()
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase", default)]
struct Fields {
    bridge: Option<String>,
    #[serde(rename = "knarr.marked")]
    marked: bool,
    isgateway: bool,
    isdefaultgateway: bool,
    forceaddress: bool,
    ipmasq: bool,
    mtu: i64,
    hairpinmode: bool,
    promiscmode: bool,
    vlan: i64,
    vlantrunk: Vec<TrunkFields>,
    preservedefaultvlan: bool,
    enabledad: bool,
    disablecontainerinterface: bool,
    portisolation: bool,
    ipam: IpamFields,
    dns: Dns,
    args: ArgsFields,
    runtimeconfig: MacField,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TrunkFields {
    minid: Option<i64>,
    maxid: Option<i64>,
    id: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct IpamFields {
    r#type: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ArgsFields {
    cni: MacField,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MacField {
    mac: String,
}

/// Whether all that the configuration asks for is served.
pub(super) fn serves(config: &Map<String, Value>) -> Result<(), Unserved> {
    let fields = fields::folded(config);
    if fields.get("macspoofchk") == Some(&Value::Bool(true)) {
        return Err(Unserved { field: "macspoofchk".into() });
    }
    let masquerades = fields.get("ipmasq") == Some(&Value::Bool(true));
    match fields.get("ipmasqbackend").and_then(Value::as_str) {
        Some(backend) if masquerades && backend != "nftables" => {
            Err(Unserved { field: format!("ipMasqBackend: {backend}") })
        }
        _ => Ok(()),
    }
}

impl Conf {
    /// Reads it.
    ///
    /// # Errors
    /// [`Error::PluginConf`], [`Error::PluginEnvironment`].
    pub(super) fn read(request: &Request) -> Result<Conf, Error> {
        let fields: Fields = fields::read(request)?;
        let invalid = |problem: String| Err(request.invalid(problem));
        let bridge = fields.bridge.unwrap_or_else(|| DEFAULT_BRIDGE.to_owned());
        if !is_ifname(&bridge) {
            return invalid(format!("'bridge' {bridge} can't be an interface's name"));
        }
        if fields.hairpinmode && fields.promiscmode {
            return invalid("'hairpinMode' and 'promiscMode' exclude each other".into());
        }
        let ipam = Some(fields.ipam.r#type).filter(|kind| !kind.is_empty());
        if ipam.is_some() && fields.disablecontainerinterface {
            return invalid("'disableContainerInterface' excludes 'ipam'".into());
        }
        let mac = chosen_mac(request, &fields.args.cni.mac, &fields.runtimeconfig.mac)?;
        let vlans = Vlans {
            native: vlan("vlan", fields.vlan, 0).map_err(|problem| request.invalid(problem))?,
            trunk: trunk(&fields.vlantrunk).map_err(|problem| request.invalid(problem))?,
            keep_default: fields.preservedefaultvlan,
        };
        let dns = Some(fields.dns).filter(|dns| *dns != Dns::default());
        Ok(Conf {
            bridge,
            mark: fields.marked.then_some(MARK),
            is_gateway: fields.isgateway || fields.isdefaultgateway,
            is_default_gateway: fields.isdefaultgateway,
            force_address: fields.forceaddress,
            masquerade: fields.ipmasq && ipam.is_some(),
            mtu: u32::try_from(fields.mtu).ok().filter(|mtu| *mtu > 0),
            hairpin: fields.hairpinmode,
            promiscuous: fields.promiscmode,
            vlans,
            isolated: fields.portisolation,
            detect_duplicates: fields.enabledad,
            without_interface: fields.disablecontainerinterface,
            mac,
            ipam,
            dns,
        })
    }
}

/// The runtime's word counts most, an argument of the environment least.
fn chosen_mac(request: &Request, of_args: &str, of_runtime: &str) -> Result<Option<Mac>, Error> {
    let of_environment = fields::argument(request, "MAC")?.unwrap_or_default();
    let chosen = [of_runtime, of_args, of_environment].into_iter().find(|text| !text.is_empty());
    let parse = |text| parse_mac(text).ok_or_else(|| request.invalid(format!("'mac' {text} can't be used")));
    chosen.map(parse).transpose()
}

fn vlan(name: &str, id: i64, least: i64) -> Result<u16, String> {
    let valid = (least..=LAST_VLAN).contains(&id).then(|| u16::try_from(id).ok()).flatten();
    valid.ok_or_else(|| format!("'{name}' {id} is no VLAN: {least} to {LAST_VLAN} are"))
}

fn trunk(items: &[TrunkFields]) -> Result<Vec<u16>, String> {
    let mut vlans = BTreeSet::new();
    for item in items {
        match (item.minid, item.maxid) {
            (Some(least), Some(most)) => {
                let (first, last) = (vlan("minID", least, 1)?, vlan("maxID", most, 1)?);
                if first > last {
                    return Err(format!("'minID' {first} is more than 'maxID' {last}"));
                }
                vlans.extend(first..=last);
            }
            (None, None) => {}
            _ => return Err("'minID' and 'maxID' of 'vlanTrunk' need each other".into()),
        }
        if let Some(id) = item.id {
            vlans.insert(vlan("id", id, 1)?);
        }
    }
    Ok(vlans.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use serde_json::json;

    fn read(config: Value) -> Result<Conf, Error> {
        Conf::read(&Request::about_network("bridge", Command::Add, config.as_object().unwrap().clone()))
    }

    #[test]
    fn what_is_not_said_is_as_in_the_reference_plugin() {
        let conf = read(json!({"name": "n"})).unwrap();
        assert_eq!((conf.bridge.as_str(), conf.mtu, conf.ipam), ("cni0", None, None));
        assert!(!conf.is_gateway && !conf.vlans.are_used() && conf.dns.is_none());
        let conf = read(json!({"isdefaultgateway": true, "mtu": 1400, "ipMasq": true})).unwrap();
        assert!(conf.is_gateway && conf.is_default_gateway && conf.mtu == Some(1400));
        assert!(!conf.masquerade, "without addresses there is nothing to masquerade");
    }

    #[test]
    fn the_runtimes_hardware_address_counts_most() {
        let mac = |config: Value| read(config).map(|conf| conf.mac.map(|mac| mac[5]));
        let of_args = json!({"cni": {"mac": "02:00:00:00:00:01"}});
        assert_eq!(mac(json!({"args": of_args})).unwrap(), Some(1));
        let both = json!({"args": of_args, "runtimeConfig": {"mac": "02:00:00:00:00:02"}});
        assert_eq!(mac(both).unwrap(), Some(2));
        assert!(mac(json!({"runtimeConfig": {"mac": "03:00:00:00:00:02"}})).is_err());
    }

    #[test]
    fn trunks_are_lists_of_ranges_and_single_vlans() {
        let trunk = |items: Value| read(json!({"vlanTrunk": items})).map(|conf| conf.vlans.trunk);
        let several = json!([{"minID": 5, "maxID": 7}, {"id": 6}, {"id": 100}]);
        assert_eq!(trunk(several).unwrap(), [5, 6, 7, 100]);
        for bad in [json!([{"minID": 5}]), json!([{"minID": 7, "maxID": 5}]), json!([{"id": 4095}])] {
            assert!(trunk(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for bad in [
            json!({"hairpinMode": true, "promiscMode": true}),
            json!({"disableContainerInterface": true, "ipam": {"type": "host-local"}}),
            json!({"vlan": 4095}),
            json!({"bridge": "a-very-long-bridge"}),
            json!({"mtu": "1400"}),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err().code(), 7, "{bad}");
        }
    }

    #[test]
    fn what_is_left_to_the_executable_is_named() {
        let unserved = |config: Value| serves(config.as_object().unwrap()).map_err(|unserved| unserved.field);
        assert_eq!(unserved(json!({"ipMasq": true})), Ok(()));
        assert_eq!(unserved(json!({"ipMasqBackend": "iptables"})), Ok(()));
        let iptables = json!({"ipMasq": true, "ipMasqBackend": "iptables"});
        assert_eq!(unserved(iptables), Err("ipMasqBackend: iptables".into()));
        assert_eq!(unserved(json!({"macspoofchk": true})), Err("macspoofchk".into()));
    }
}
