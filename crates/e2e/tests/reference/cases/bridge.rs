//! bridge: what its options make. Not here: what is there before (`bridge_life`), what it refuses (`bridge_refusals`).

use serde_json::{Value, json};

use crate::case::{Case, add, check, del, story};
use crate::compare::hold;
use crate::scratch::Place;

/// A bridge with one subnet, and `more`.
pub(crate) fn bridge(more: Value) -> Value {
    let mut config = json!({
        "type": "bridge",
        "bridge": "cni7",
        "ipam": {"type": "host-local", "dataDir": "$DATA", "subnet": "10.77.0.0/24"},
    });
    crate::run::lay_over(&mut config, &more);
    config
}

/// Addresses of both families, with routes out.
pub(crate) fn dual() -> Value {
    json!({"ipam": {
        "subnet": null,
        "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }})
}

pub(crate) fn option(name: &str, more: Value) -> Case {
    Case::new(format!("bridge: {name}"), bridge(more))
}

/// Options of the bridge itself and of its gateway's addresses.
fn bridges() -> Vec<Case> {
    vec![
        option("plain", json!({})).in_all_versions(),
        Case::new("bridge: its default name", bridge(json!({"bridge": null, "isGateway": true}))),
        option("gateway", json!({"isGateway": true})).in_all_formats(),
        option("default gateway", json!({"isDefaultGateway": true})).in_all_formats(),
        option("both families", dual()),
        option("both families, gateway", merged(dual(), json!({"isGateway": true}))).in_all_formats(),
        option(
            "both families, default gateway",
            merged(dual(), json!({"isDefaultGateway": true, "ipam": {"routes": null}})),
        ),
        option(
            "default gateway, with such a route already",
            json!({
                "isDefaultGateway": true, "ipam": {"routes": [{"dst": "0.0.0.0/0", "gw": "10.77.0.1"}]},
            }),
        ),
        option(
            "default gateway, with such a route without gateway",
            json!({
                "isDefaultGateway": true, "ipam": {"routes": [{"dst": "0.0.0.0/0"}]},
            }),
        )
        .steps(story![add(1).outcome(), del(1).outcome()]),
        option(
            "a gateway elsewhere in the subnet",
            json!({"isGateway": true, "ipam": {"gateway": "10.77.0.200"}}),
        ),
        option(
            "several ranges of a family",
            json!({"isGateway": true, "ipam": {
                "subnet": null,
                "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}], [{"subnet": "fd78::/64"}]],
            }}),
        ),
        option(
            "two subnets of IPv4",
            json!({"ipam": {
                "subnet": null, "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "10.78.0.0/24"}]],
            }}),
        ),
        option(
            "two subnets of IPv4, gateway",
            json!({"isGateway": true, "ipam": {
                "subnet": null, "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "10.78.0.0/24"}]],
            }}),
        )
        .steps(story![add(1).outcome(), del(1).outcome()])
        .differs("1 ADD pod1 / outcome", "a bridge may be the gateway of two subnets"),
        option("promiscuous", json!({"isGateway": true, "promiscMode": true})),
        option("mtu", json!({"isGateway": true, "mtu": 1400})),
        option("no addresses", json!({"ipam": null}))
            .in_versions(&["0.4.0", "1.0.0"])
            .differs("2 CHECK pod1 / outcome", "Debian's CHECK calls an allocator without a name"),
        option("no addresses in the oldest format", json!({"ipam": null}))
            .in_versions(&["0.2.0"])
            .steps(story![add(1).outcome(), del(1)])
            .differs(
                "1 ADD pod1 / outcome",
                "Debian's can't write a result without addresses, when all is done",
            ),
        option("no addresses, empty", json!({"ipam": null}))
            .steps(story![add(1).with(json!({"ipam": {}})), del(1).with(json!({"ipam": {}}))]),
        // Where the kernel knows no VLANs both refuse them.
        option("a VLAN", json!({"vlan": 100, "preserveDefaultVlan": true, "ipam": null}))
            .steps(story![add(1).outcome(), del(1)]),
        option("a VLAN with a gateway", json!({"vlan": 100, "preserveDefaultVlan": true, "isGateway": true}))
            .steps(story![add(1).outcome(), add(2).outcome(), del(1)]),
        option(
            "no addresses, gateway",
            json!({"isGateway": true, "ipMasq": true, "mtu": 9000, "ipam": null}),
        )
        .steps(story![add(1), del(1)])
        .after(Place::Host, "ip link add cni7 address 02:00:00:00:00:07 mtu 9000 type bridge"),
    ]
}

pub(crate) fn merged(mut below: Value, above: Value) -> Value {
    crate::run::lay_over(&mut below, &above);
    below
}

/// What is written in other ways.
fn writings() -> Vec<Case> {
    let raw = |name: &str, text: &'static str| {
        option(name, json!({})).steps(story![add(1).raw(text), del(1).raw(text)])
    };
    vec![
        raw(
            "fields in any case",
            r#"{"cniVersion": "1.0.0", "name": "reference", "type": "bridge", "BRIDGE": "cni7",
            "IsGateway": true, "hairpinmode": true, "MTU": 1400,
            "IPAM": {"Type": "host-local", "datadir": "$DATA", "SUBNET": "10.77.0.0/24",
                "Routes": [{"Dst": "0.0.0.0/0", "GW": "10.77.0.9"}]}}"#,
        ),
        raw(
            "fields that are null",
            r#"{"cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni7",
            "isGateway": null, "mtu": null, "dns": null, "args": null, "runtimeConfig": null, "prevResult": null, "vlan": null,
            "ipam": {"type": "host-local", "dataDir": "$DATA", "subnet": "10.77.0.0/24", "gateway": null, "routes": null,
                "ranges": null, "rangeStart": null, "resolvConf": null}}"#,
        ),
        raw(
            "fields unknown",
            r#"{"cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni7", "colour": [1],
            "capabilities": {"mac": true}, "args": {"k8s": {"mac": 7}}, "runtimeConfig": {"portMappings": [], "dns": {}},
            "ipam": {"type": "host-local", "dataDir": "$DATA", "subnet": "10.77.0.0/24", "colour": {}}}"#,
        ),
        raw(
            "a field twice",
            r#"{"cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni6", "bridge": "cni7",
            "ipam": {"type": "host-local", "dataDir": "$DATA", "subnet": "10.77.0.0/24"}}"#,
        ),
        raw(
            "an mtu of 0",
            r#"{"cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni7", "mtu": 0,
            "ipam": {"type": "host-local", "dataDir": "$DATA", "subnet": "10.77.0.0/24"}}"#,
        ),
        raw(
            "an mtu below 0",
            r#"{"cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni7", "mtu": -5,
            "ipam": {"type": "host-local", "dataDir": "$DATA", "subnet": "10.77.0.0/24"}}"#,
        ),
    ]
}

const NO_IPV6: &str = "for all in all default; do echo 1 > /proc/sys/net/ipv6/conf/$all/disable_ipv6; done";

/// Options of the pod's interface and its port.
fn ports() -> Vec<Case> {
    let mac = json!({"isGateway": true});
    vec![
        option("hairpin", json!({"isGateway": true, "hairpinMode": true})),
        option("hairpin without addresses", json!({"hairpinMode": true, "ipam": null}))
            .steps(story![add(1), del(1)]),
        option("mac of CNI_ARGS", mac.clone()).steps(story![
            add(1).args("IgnoreUnknown=1;MAC=c2:11:22:33:44:55"),
            check(1),
            del(1),
        ]),
        // host-local is given them, too.
        option("mac of CNI_ARGS that the allocator doesn't know", mac.clone())
            .steps(story![add(1).args("MAC=c2:11:22:33:44:55").outcome(),]),
        option("mac of CNI_ARGS with others unknown", mac.clone())
            .steps(story![add(1).args("IgnoreUnknown=true;K8S_POD_NAME=web;MAC=c2:11:22:33:44:55"), del(1),]),
        option("mac of args", json!({"args": {"cni": {"mac": "c2:11:22:33:44:66"}}})).steps(story![
            add(1),
            add(2)
                .args("IgnoreUnknown=1;MAC=c2:11:22:33:44:55")
                .with(json!({"args": {"cni": {"mac": "c2:11:22:33:44:67"}}})),
        ]),
        option("mac of the runtime", mac.clone()).steps(story![
            add(1).with(json!({
                "args": {"cni": {"mac": "c2:11:22:33:44:66"}}, "runtimeConfig": {"mac": "c2:11:22:33:44:77"},
            })).args("IgnoreUnknown=1;MAC=c2:11:22:33:44:55"),
            check(1), del(1),
        ]),
        option("duplicate address detection", merged(dual(), json!({"isGateway": true, "enabledad": true}))),
        option("another interface name", mac.clone()).steps(story![
            add(1).on_interface("net1"),
            check(1).on_interface("net1"),
            del(1).on_interface("net1"),
        ]),
        option("two interfaces of a pod", mac.clone()).steps(story![
            add(1),
            add(1).on_interface("net1"),
            check(1),
            del(1).on_interface("net1"),
            check(1),
            del(1),
        ]),
        option("IPv6 disabled in the pod", merged(dual(), json!({"isGateway": true})))
            .after(Place::Pod(1), NO_IPV6),
        option("IPv6 disabled on the host", mac).after(Place::Host, NO_IPV6),
    ]
}

/// Routes and DNS of the result.
fn routes() -> Vec<Case> {
    vec![
        option("routes", json!({"isGateway": true, "ipam": {"routes": [
            {"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.77.0.9"}, {"dst": "10.99.0.0/28", "gw": "10.77.0.8"},
        ]}})).in_all_formats(),
        option("a route to one address", json!({"ipam": {"routes": [{"dst": "10.99.0.1/32"}]}}))
            .differs("2 CHECK pod1 / outcome", "Debian's CHECK expects no gateway where it took the network's"),
        option("routes of both families", merged(dual(), json!({"isGateway": true, "ipam": {"routes": [
            {"dst": "::/0"}, {"dst": "fd99::/64", "gw": "fd77::9"}, {"dst": "0.0.0.0/0", "gw": "10.77.0.200"},
        ]}}))),
        option("one destination by two gateways", json!({"ipam": {"routes": [
            {"dst": "10.99.0.0/24", "gw": "10.77.0.8"}, {"dst": "10.99.0.0/24", "gw": "10.77.0.9"},
        ]}})),
        option("a route twice", json!({"ipam": {"routes": [{"dst": "10.99.0.0/24"}, {"dst": "10.99.0.0/24"}]}}))
            .steps(story![add(1).outcome(), del(1).outcome()]),
        option("a route by a gateway out of reach", json!({"ipam": {"routes": [{"dst": "10.99.0.0/24", "gw": "10.5.0.1"}]}}))
            .steps(story![add(1).outcome(), del(1).outcome()]),
        option("a route of a family without address", json!({"ipam": {"routes": [{"dst": "fd99::/64"}]}})),
        option("another allocator", json!({"isGateway": true, "ipam": {
            "type": "static", "dataDir": null, "subnet": null,
            "addresses": [{"address": "10.77.0.7/24"}, {"address": "fd77::7/64", "gateway": "fd77::1"}],
            "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["10.77.0.53"]},
        }})).differs("* / outcome / 0 / result / dns", "the allocator's dns isn't lost, as upstream has it since 1.4"),
        option("dns", json!({"dns": {
            "nameservers": ["10.77.0.53"], "domain": "example.org", "search": ["a.example.org"], "options": ["ndots:5"],
        }})).in_all_formats(),
    ]
}

#[test]
fn bridges_are_like_the_reference() {
    hold(&bridges());
}

#[test]
fn writings_are_read_like_the_reference() {
    hold(&writings());
}

#[test]
fn ports_are_like_the_reference() {
    hold(&ports());
}

#[test]
fn routes_and_dns_are_like_the_reference() {
    hold(&routes());
}
