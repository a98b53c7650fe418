//! bridge and the protocol of every plugin: what is refused, and with which code. Not here: what a refused call leaves until
//! its DEL, which is nobody's promise; what DEL leaves is compared.

use serde_json::{Value, json};

use super::bridge::{bridge, option};
use crate::case::{Call, Case, Names, Step, add, check, del, story};
use crate::compare::hold;
use crate::scratch::Place;

/// Debian's leaves a bridge, ours none that has no port. Nobody is promised either.
const NO_BRIDGE: Step =
    Step::On(Place::Host, "ip link delete cni7 2>/dev/null; ip link delete cni0 2>/dev/null; true");

/// A configuration that ADD refuses; DEL takes away what there is of it.
fn refused(name: &str, more: Value) -> Case {
    option(&format!("refused: {name}"), more).steps(refusal(add(1)))
}

fn refusal(call: Call) -> Vec<Step> {
    story![call.outcome(), NO_BRIDGE, del(1)]
}

fn configurations() -> Vec<Case> {
    vec![
        refused("hairpin and promiscuous", json!({"hairpinMode": true, "promiscMode": true})),
        refused("a VLAN that there can't be", json!({"vlan": 4095})),
        refused("a VLAN below none", json!({"vlan": -1})),
        refused("a mac that is none", json!({"args": {"cni": {"mac": "c2:11:22:33:44"}}})),
        refused("a mac of many", json!({"args": {"cni": {"mac": "01:11:22:33:44:55"}}})),
        refused("an mtu that is none", json!({"mtu": "1400"})),
        refused("an mtu too small", json!({"mtu": 10})),
        refused("an mtu too large", json!({"mtu": 100000})),
        refused("a name too long", json!({"bridge": "a-name-of-sixteen"})),
        refused("a name with a slash", json!({"bridge": "a/b"})),
        refused("a name that is none", json!({"bridge": 7})),
        refused("a gateway that is none", json!({"isGateway": "yes"})),
        refused("an IPAM that isn't there", json!({"ipam": {"type": "nothing-of-this-name"}})),
        refused("an IPAM that refuses", json!({"ipam": {"subnet": "10.77.0.1/24"}})),
        refused(
            "addresses that are all taken",
            json!({"ipam": {"rangeStart": "10.77.0.1", "rangeEnd": "10.77.0.1"}}),
        ),
        refused("another link of that name", json!({}))
            .after(Place::Host, "ip link add cni7 type veth peer name other"),
        refused("an interface of that name", json!({})).after(Place::Pod(1), "ip link add eth0 type bridge"),
        refused("the address is there already", json!({"isGateway": true}))
            .after(Place::Pod(1), "ip link add eth7 up type bridge; ip address add 10.77.0.2/24 dev eth7"),
    ]
}

/// Calls that break the protocol.
fn calls() -> Vec<Case> {
    let broken: [(&str, Call); 22] = [
        ("no namespace there", add(1).netns(Names::NothingThere)),
        ("a file for a namespace", add(1).netns(Names::AFile)),
        ("no namespace", add(1).netns(Names::Nothing)),
        ("no namespace to check", check(1).netns(Names::Nothing)),
        ("no namespace there to check", check(1).netns(Names::NothingThere)),
        ("a file for a namespace to delete", del(1).netns(Names::AFile)),
        ("no container", add(1).env("CNI_CONTAINERID", None)),
        ("no container to delete", del(1).env("CNI_CONTAINERID", None)),
        ("a container that can't be", add(1).env("CNI_CONTAINERID", Some("../pod"))),
        ("no interface", add(1).env("CNI_IFNAME", None)),
        ("an interface too long", add(1).on_interface("a-name-of-sixteen")),
        ("an interface that is the directory", add(1).on_interface("..")),
        ("an interface with a slash", add(1).on_interface("a/b")),
        ("an interface with a colon", add(1).on_interface("a:b")),
        ("no path", add(1).env("CNI_PATH", None)),
        ("no such command", add(1).env("CNI_COMMAND", Some("MOVE"))),
        ("arguments that are none", add(1).args("MAC")),
        ("arguments unknown", add(1).args("K8S_POD_NAME=web")),
        ("no configuration", add(1).raw("")),
        ("a configuration that is none", add(1).raw("{\"cniVersion\": ")),
        ("no network name", add(1).with(json!({"name": null}))),
        ("a network name that can't be", add(1).with(json!({"name": "a/b"}))),
    ];
    let case = |(name, call): (&str, Call)| {
        Case::new(format!("call: {name}"), bridge(json!({}))).steps(refusal(call))
    };
    broken.into_iter().map(case).collect()
}

/// Versions that there aren't, aren't yet, or that don't go with a command.
fn versions() -> Vec<Case> {
    let asked: [(&str, Call); 6] = [
        ("a version unknown", add(1).with(json!({"cniVersion": "0.9.0"}))),
        ("a version that is none", add(1).with(json!({"cniVersion": "one"}))),
        ("a version that is a number", add(1).with(json!({"cniVersion": 1}))),
        ("no version", add(1).with(json!({"cniVersion": null}))),
        ("CHECK before it was", check(1).with(json!({"cniVersion": "0.3.1"}))),
        ("a version unknown to delete", del(1).with(json!({"cniVersion": "0.9.0"}))),
    ];
    let case = |(name, call): (&str, Call)| {
        Case::new(format!("version: {name}"), bridge(json!({}))).steps(refusal(call))
    };
    let mut cases: Vec<Case> = asked.into_iter().map(case).collect();
    cases.push(
        Case::new("version: CHECK", bridge(json!({})))
            .steps(story![add(1).outcome(), check(1).outcome()])
            .in_all_versions(),
    );
    cases
}

#[test]
fn configurations_are_refused_like_the_reference() {
    hold(&configurations());
}

#[test]
fn calls_are_refused_like_the_reference() {
    hold(&calls());
}

#[test]
fn versions_are_refused_like_the_reference() {
    hold(&versions());
}
