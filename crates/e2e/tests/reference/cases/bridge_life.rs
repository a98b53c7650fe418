//! bridge: what it finds when it comes, what it takes away, what CHECK notices, and who may take over. Not here: what its
//! options make.

use serde_json::json;

use super::bridge::{dual, merged, option};
use crate::case::{Case, Names, Previous, Step, TAKEOVERS, add, check, del, story};
use crate::compare::hold;
use crate::scratch::Place;

/// A bridge with a gateway.
fn gateway(name: &str) -> Case {
    option(name, json!({"isGateway": true}))
}

/// What is there already.
fn surroundings() -> Vec<Case> {
    let with = |name: &str, commands: &'static str| gateway(name).after(Place::Host, commands);
    let forced = |name: &str, commands: &'static str| {
        let config = merged(dual(), json!({"isGateway": true, "forceAddress": true}));
        option(name, config).after(Place::Host, commands)
    };
    vec![
        with("it exists", "ip link add cni7 type bridge"),
        with("it has its address", "ip link add cni7 up type bridge; ip address add 10.77.0.1/24 dev cni7"),
        with(
            "it has an address of IPv6",
            "ip link add cni7 up type bridge; ip address add fd01::1/64 dev cni7",
        ),
        gateway("it has another address")
            .steps(story![add(1).outcome(), del(1)])
            .after(Place::Host, "ip link add cni7 up type bridge; ip address add 10.77.0.9/24 dev cni7"),
        forced(
            "it has another address, forced",
            "ip link add cni7 up type bridge; ip address add 10.76.0.9/24 dev cni7",
        ),
        forced(
            "it has addresses of IPv6, forced",
            "ip link add cni7 up type bridge; ip address add fd77::9/64 dev cni7; ip address add fd79::1/64 dev cni7",
        ),
        with(
            "it has options of its own",
            "ip link add cni7 mtu 1300 address 02:00:00:00:00:07 type bridge stp_state 0 ageing_time 100",
        ),
        with(
            "it has another port",
            "ip link add cni7 up type bridge; ip link add name a type veth peer name b;
             ip link set dev a up master cni7; ip link set dev b up",
        ),
        with(
            "forwarding is on",
            "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        ),
        with("router advertisements are accepted", "echo 2 > /proc/sys/net/ipv6/conf/default/accept_ra"),
        with(
            "the pods' subnet is routed elsewhere",
            "ip link add name a up type veth peer name b; ip link set dev b up; ip route add 10.77.0.0/16 dev a",
        ),
    ]
}

/// Several calls.
fn lives() -> Vec<Case> {
    vec![
        gateway("two pods").steps(story![
            add(1),
            add(2),
            check(1),
            check(2),
            del(1),
            check(2),
            del(2),
            del(1),
        ]),
        // CHECK compares the bridge's mac, and a bridge without address takes over the lowest of its ports' at any time.
        option("two pods without gateway", json!({})).steps(story![add(1), add(2), del(2), del(1),]),
        gateway("added twice").steps(story![add(1), add(1).outcome(), check(1), del(1),]),
        gateway("deleted without a result")
            .steps(story![add(1), del(1).previous(Previous::Nothing)])
            .in_all_formats(),
        // A route that can't be is found after the address was given.
        option(
            "an address is given back when it can't be used",
            json!({"ipam": {"routes": [{"dst": "10.9.0.0/16", "gw": "10.5.0.1"}]}}),
        )
        .steps(story![
            add(1).outcome(),
            Step::On(
                Place::Host,
                "test -e $DATA/reference/last_reserved_ip.0 && test ! -e $DATA/reference/10.77.0.2",
            ),
            del(1),
        ]),
        gateway("deleted before it was added").steps(story![del(1), add(1), del(1)]),
        gateway("the namespace is gone").steps(story![
            add(1),
            add(2),
            Step::End(Place::Pod(1)),
            del(1).netns(Names::NothingThere),
            del(1).netns(Names::Nothing),
            check(2),
        ]),
        gateway("deleted without a namespace while it is there")
            .steps(story![add(1), del(1).netns(Names::Nothing), del(1)])
            .differs("2 DEL pod1 / host", "ours knows the link by its name on the host")
            .differs("2 DEL pod1 / pod1", "and its other end goes along"),
        gateway("taken over").casts(TAKEOVERS).steps(story![
            add(1),
            add(2),
            check(1),
            check(2),
            del(1),
            del(1),
            check(2),
            del(2),
        ]),
    ]
}

/// What CHECK notices, and what it doesn't; DEL succeeds all the same.
fn damages() -> Vec<Case> {
    let damages = [
        ("the interface is gone", Place::Pod(1), "ip link delete eth0"),
        ("the interface is another one", Place::Pod(1), "ip link delete eth0; ip link add eth0 type bridge"),
        ("the interface is down", Place::Pod(1), "ip link set eth0 down"),
        ("another mac", Place::Pod(1), "ip link set eth0 address 02:00:00:00:00:08"),
        ("another mtu", Place::Pod(1), "ip link set eth0 mtu 1000"),
        ("the address is gone", Place::Pod(1), "ip -4 address flush dev eth0"),
        ("the address of IPv6 is gone", Place::Pod(1), "ip -6 address flush dev eth0 scope global"),
        ("an address more", Place::Pod(1), "ip address add 10.1.1.1/24 dev eth0"),
        ("a route is gone", Place::Pod(1), "ip route delete default"),
        ("a route goes elsewhere", Place::Pod(1), "ip route replace default via 10.77.0.77"),
        ("a route more", Place::Pod(1), "ip route add 10.98.0.0/16 via 10.77.0.77"),
        ("the bridge is gone", Place::Host, "ip link delete cni7"),
        ("the bridge is another one", Place::Host, "ip link delete cni7; ip link add cni7 up type bridge"),
        ("the bridge is down", Place::Host, "ip link set cni7 down"),
        ("the bridge has another mac", Place::Host, "ip link set cni7 address 02:00:00:00:00:09"),
        ("the bridge is promiscuous", Place::Host, "ip link set cni7 promisc on"),
        ("the bridge has lost its address", Place::Host, "ip -4 address flush dev cni7"),
        (
            "no port of the bridge",
            Place::Host,
            "ip link set $(ip -o link show type veth | sed 's/.*: \\(.*\\)@.*/\\1/') nomaster",
        ),
        (
            "the port is down",
            Place::Host,
            "ip link set $(ip -o link show type veth | sed 's/.*: \\(.*\\)@.*/\\1/') down",
        ),
        (
            "the port is gone",
            Place::Host,
            "ip link delete $(ip -o link show type veth | sed 's/.*: \\(.*\\)@.*/\\1/')",
        ),
        ("the addresses are given back", Place::Host, "rm $DATA/reference/10.77.0.2 $DATA/reference/fd77::2"),
        ("one address is given back", Place::Host, "rm $DATA/reference/10.77.0.2"),
    ];
    let config = merged(dual(), json!({"isGateway": true}));
    let case = |(name, place, commands): (&str, Place, &'static str)| {
        let steps = story![add(1).outcome(), Step::On(place, commands), check(1).outcome(), del(1),];
        option(&format!("checked: {name}"), config.clone()).steps(steps)
    };
    let mut cases: Vec<Case> = damages.into_iter().map(case).collect();
    cases.push(
        option("checked: without a result", config.clone())
            .steps(story![add(1).outcome(), check(1).previous(Previous::Nothing).outcome()]),
    );
    cases.push(option("checked: another pod's result", config.clone()).steps(story![
        add(1).outcome(),
        check(1).previous(Previous::This(json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cni7"}, {"name": "veth0"}, {"name": "eth0", "sandbox": "/elsewhere"}],
        }))).outcome(),
    ]));
    cases.push(option("checked: an address that isn't there", config).steps(story![
            add(1).outcome(),
            check(1)
                .with(json!({"prevResult": {"ips": [{"address": "10.77.0.99/24", "interface": 2}]}}))
                .outcome()
                ,
        ]));
    cases
}

#[test]
fn surroundings_are_met_like_the_reference() {
    hold(&surroundings());
}

#[test]
fn lives_are_like_the_reference() {
    hold(&lives());
}

#[test]
fn damage_is_noticed_like_the_reference() {
    hold(&damages());
}
