//! loopback: the interface that every pod has.

use serde_json::{Value, json};

use crate::case::{Case, Names, Previous, add, check, del, story};
use crate::compare::hold;
use crate::scratch::Place;

fn loopback() -> Value {
    json!({"type": "loopback"})
}

/// A result of a plugin that came before.
fn of_another() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth9", "mac": "02:00:00:00:00:09", "sandbox": "/elsewhere"}],
        "ips": [{"interface": 0, "address": "10.9.0.9/16", "gateway": "10.9.0.1"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}],
        "dns": {"nameservers": ["10.9.0.53"]},
    })
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("loopback", loopback()),
        Case::new("loopback: formats before 1.0.0", loopback())
            .in_versions(&["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0"])
            .differs("1 ADD pod1 / outcome", "Debian's has one format for all versions, whatever they say"),
        Case::new("loopback: whatever the interface is called", loopback())
            .steps(story![add(1).on_interface("eth3"), del(1).on_interface("eth3")]),
        Case::new("loopback: without IPv6", loopback())
            .after(Place::Pod(1), "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"),
        Case::new("loopback: is up already", loopback()).after(Place::Pod(1), "ip link set lo up"),
        Case::new("loopback: has an address that isn't one of its own", loopback())
            .after(Place::Pod(1), "ip link set lo up; ip address add 10.7.0.1/32 dev lo")
            .steps(story![add(1).outcome(), del(1)]),
        Case::new("loopback: hands on what came before", loopback()).steps(story![
            add(1).previous(Previous::This(of_another())),
            check(1).previous(Previous::This(of_another())),
            del(1).previous(Previous::This(of_another())),
        ]),
        Case::new("loopback: down again", loopback()).steps(story![
            add(1),
            crate::case::Step::On(Place::Pod(1), "ip link set lo down"),
            check(1),
            add(1),
            check(1),
        ]),
        Case::new("loopback: no namespace any more", loopback()).steps(story![
            add(1),
            del(1).netns(Names::NothingThere),
            del(1).netns(Names::Nothing),
        ]),
        Case::new("loopback: no namespace", loopback()).steps(story![
            add(1).netns(Names::NothingThere),
            add(1).netns(Names::AFile),
            add(1).netns(Names::Nothing),
            check(1).netns(Names::NothingThere),
            del(1).netns(Names::AFile),
        ]),
    ]
}

#[test]
fn loopback_is_like_the_reference() {
    hold(&cases());
}
