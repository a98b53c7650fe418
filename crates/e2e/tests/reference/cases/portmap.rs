//! portmap: who reaches a pod by a port of the host, and whom the pod sees. Not here: how either side writes its rules.

use serde_json::{Value, json};

use super::bridge::{bridge, dual, merged};
use crate::case::{Call, Case, MIXED_CHAINS, Names, Previous, Step, add, check, del, story};
use crate::compare::hold;
use crate::probe::{By, Question};
use crate::scratch::Place;

/// Both families, a bridge that sends back where it came from, and `portmap` after it.
fn chain(name: &str, portmap: Value) -> Case {
    let below = merged(dual(), json!({"isGateway": true, "hairpinMode": true}));
    let above = merged(json!({"type": "portmap", "capabilities": {"portMappings": true}}), portmap);
    Case::chain(format!("portmap: {name}"), &[bridge(below), above])
}

/// What a runtime gives as host ports.
fn mapped(call: Call, mappings: Value) -> Call {
    call.with(json!({"runtimeConfig": {"portMappings": mappings}}))
}

/// One port for each protocol.
fn ports(host_ip: Option<&str>) -> Value {
    let mapping = |protocol: &str| match host_ip {
        Some(ip) => json!({"hostPort": 8080, "containerPort": 7000, "protocol": protocol, "hostIP": ip}),
        None => json!({"hostPort": 8080, "containerPort": 7000, "protocol": protocol}),
    };
    json!([mapping("tcp"), mapping("udp")])
}

/// Servers in both pods and on the host, which has another one on a port that is mapped.
fn servers() -> [Step; 3] {
    [Step::Serve(Place::Pod(1), 7000), Step::Serve(Place::Pod(2), 7000), Step::Serve(Place::Host, 8081)]
}

/// From everywhere to all of the host's addresses.
fn everybody(port: u16) -> Step {
    let ask = |from, targets: &[&str]| -> Vec<Question> {
        let question = |to: &str, by| Question { from, to: format!("{to}:{port}"), by };
        targets.iter().flat_map(|to| [question(to, By::Tcp), question(to, By::Udp)]).collect()
    };
    let reachable = ["192.0.2.1", "192.0.2.9", "[2001:db8::1]", "10.77.0.1", "[fd77::1]"];
    let own = ["127.0.0.1", "127.0.0.9", "[::1]"];
    let mut questions: Vec<Question> = [Place::World, Place::Pod(1), Place::Pod(2), Place::Host]
        .into_iter()
        .flat_map(|from| ask(from, &reachable))
        .collect();
    questions.extend(ask(Place::Host, &own));
    questions.extend(ask(Place::Pod(2), &own));
    Step::Ask(questions)
}

/// The host has a second address.
const SECOND: &str = "ip address add 192.0.2.9/24 dev uplink";

/// A pod with `mappings` and one without, and everybody asks.
fn reach(name: &str, portmap: Value, mappings: Value) -> Case {
    let mut steps = story![Step::Serve(Place::World, 7000), Step::On(Place::Host, SECOND)];
    steps.extend(story![mapped(add(1), mappings.clone()).outcome(), add(2).outcome()]);
    steps.extend(servers());
    steps.extend(story![everybody(8080), mapped(del(1), mappings).outcome(), everybody(8080), Step::Rules]);
    chain(name, portmap).steps(steps)
}

fn reachable() -> Vec<Case> {
    vec![
        reach("any address", json!({}), ports(None)).casts(MIXED_CHAINS),
        reach("any address of IPv4", json!({}), ports(Some("0.0.0.0"))),
        reach("any address of IPv6", json!({}), ports(Some("::"))),
        reach("one address", json!({}), ports(Some("192.0.2.9"))),
        reach("one address of IPv6", json!({}), ports(Some("2001:db8::1"))),
        reach("the host's own address", json!({}), ports(Some("127.0.0.1"))),
        reach("the host's own address of IPv6", json!({}), ports(Some("::1")))
            .differs("3 ADD pod1", "nobody reaches a pod from ::1; Debian's makes rules that do nothing"),
        reach("an address that the host hasn't", json!({}), ports(Some("192.0.2.77"))),
        reach("no source address changed", json!({"snat": false}), ports(None)),
        reach("another mark", json!({"markMasqBit": 5}), ports(None)),
        reach(
            "one protocol",
            json!({}),
            json!([{"hostPort": 8080, "containerPort": 7000, "protocol": "tcp"}]),
        ),
        reach(
            "protocols in capitals",
            json!({}),
            json!([
                {"hostPort": 8080, "containerPort": 7000, "protocol": "TCP"},
            {"hostPort": 8080, "containerPort": 7000, "protocol": "UDP"},
            ]),
        ),
        reach(
            "a port of its own for each address",
            json!({}),
            json!([
                {"hostPort": 8080, "containerPort": 7000, "protocol": "tcp", "hostIP": "192.0.2.1"},
                {"hostPort": 8080, "containerPort": 7001, "protocol": "tcp", "hostIP": "192.0.2.9"},
            ]),
        ),
        reach("none", json!({}), json!([])),
    ]
}

/// More ports than fit into one rule of iptables.
fn many() -> Value {
    let mapping = |port: u16| json!({"hostPort": port, "containerPort": 7000, "protocol": "tcp"});
    (8070..8110).map(mapping).collect()
}

fn lives() -> Vec<Case> {
    let both = || ports(None);
    vec![
        chain("results", json!({}))
            .steps(story![mapped(add(1), both()), mapped(del(1), both()), Step::Rules])
            .in_all_versions(),
        chain("results without ports", json!({})).steps(story![add(1), check(1), del(1), Step::Rules,]),
        chain("many ports", json!({})).steps(story![
            mapped(add(1), many()).outcome(),
            Step::Serve(Place::Pod(1), 7000),
            everybody(8070),
            everybody(8109),
            everybody(8110),
            mapped(del(1), many()).outcome(),
            Step::Rules,
        ]),
        chain("a server of the host's own gives way", json!({}))
            .steps(story![
                Step::Serve(Place::World, 7000),
                Step::On(Place::Host, SECOND),
                add(1).outcome(),
                add(2).outcome(),
                Step::Serve(Place::Pod(1), 7000),
                Step::Serve(Place::Host, 8080),
                everybody(8080),
                mapped(add(3), both()).outcome(),
                Step::Serve(Place::Pod(3), 7000),
                everybody(8080),
                mapped(del(3), both()).outcome(),
                everybody(8080),
            ])
            .differs(
                "10 questions / host asks [::1]:8080",
                "nobody reaches a pod from ::1, so the host's own server answers",
            ),
        chain("deleted without a result", json!({})).steps(story![
            mapped(add(1), both()).outcome(),
            mapped(del(1), both()).previous(Previous::Nothing).outcome(),
            Step::Rules,
        ]),
        chain("deleted twice", json!({})).steps(story![
            mapped(add(1), both()).outcome(),
            mapped(del(1), both()).outcome(),
            mapped(del(1), both()).outcome(),
            Step::Rules,
        ]),
        chain("SCTP", json!({})).steps(story![
            mapped(add(1), json!([{"hostPort": 8080, "containerPort": 7000, "protocol": "sctp"}])).outcome(),
            mapped(del(1), json!([{"hostPort": 8080, "containerPort": 7000, "protocol": "sctp"}])).outcome(),
            Step::Rules,
        ]),
        chain("deleted before it was added", json!({}))
            .steps(story![mapped(del(1), both()).outcome(), Step::Rules]),
        chain("the namespace is gone", json!({})).steps(story![
            mapped(add(1), both()).outcome(),
            Step::End(Place::Pod(1)),
            mapped(del(1), both()).netns(Names::NothingThere).outcome(),
            Step::Rules,
        ]),
        chain("the namespace is unknown", json!({})).steps(story![
            mapped(add(1), both()).outcome(),
            mapped(del(1), both()).netns(Names::Nothing).outcome(),
            Step::Rules,
        ]),
        ipv4("added twice with other ports").steps(story![
            mapped(add(1), both()).outcome(),
            Step::Serve(Place::Pod(1), 7000),
            everybody(8080),
            mapped(del(1), both()).outcome(),
            mapped(add(1), many()).outcome(),
            everybody(8080),
            everybody(8090),
        ]),
        ipv4("a flow of datagrams finds the new pod").steps(story![
            mapped(add(1), both()).outcome(),
            Step::Serve(Place::Pod(1), 7000),
            Step::Flow(Place::World, "192.0.2.1:8080"),
            mapped(del(1), both()).outcome(),
            mapped(add(2), both()).outcome(),
            Step::Serve(Place::Pod(2), 7000),
            Step::Flow(Place::World, "192.0.2.1:8080"),
        ]),
        ipv4("checked")
            .steps(story![mapped(add(1), both()).outcome(), mapped(check(1), both())])
            .differs("2 CHECK pod1", "Debian's looks for the ports of IPv4 among the rules of IPv6, too"),
        ipv4("checked after a flush").steps(story![
            mapped(add(1), both()).outcome(),
            Step::On(Place::Host, "nft flush ruleset"),
            mapped(check(1), both()),
        ]),
    ]
}

/// The same with addresses of one family.
fn ipv4(name: &str) -> Case {
    let above = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    Case::chain(
        format!("portmap: {name}"),
        &[bridge(json!({"isGateway": true, "ipam": {"routes": [{"dst": "0.0.0.0/0"}]}})), above],
    )
}

fn refusals() -> Vec<Case> {
    let refused = |name: &str, config: Value| {
        let step = add(1).with(config).outcome();
        chain(&format!("refused: {name}"), json!({})).steps(story![step, del(1).outcome()])
    };
    let mapping = |mapping: Value| json!({"runtimeConfig": {"portMappings": [mapping]}});
    let alone = |name: &str, call: Call| {
        Case::new(format!("portmap: {name}"), json!({"type": "portmap"})).steps(story![call.outcome()])
    };
    vec![
        refused(
            "port 0 of the host",
            mapping(json!({"hostPort": 0, "containerPort": 80, "protocol": "tcp"})),
        )
        .differs("1 ADD pod1", "to Kubernetes port 0 is none"),
        refused("port 0 of the pod", mapping(json!({"hostPort": 80, "containerPort": 0, "protocol": "tcp"}))),
        refused(
            "a port below none",
            mapping(json!({"hostPort": -1, "containerPort": 80, "protocol": "tcp"})),
        ),
        refused(
            "a port too large",
            mapping(json!({"hostPort": 65536, "containerPort": 80, "protocol": "tcp"})),
        ),
        refused(
            "a port of the pod too large",
            mapping(json!({"hostPort": 80, "containerPort": 65536, "protocol": "tcp"})),
        ),
        refused("no protocol", mapping(json!({"hostPort": 80, "containerPort": 80})))
            .differs("1 ADD pod1", "to Kubernetes no protocol is TCP"),
        refused(
            "a protocol unknown",
            mapping(json!({"hostPort": 80, "containerPort": 80, "protocol": "carrier pigeon"})),
        ),
        refused(
            "an address that is none",
            mapping(json!({"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": "here"})),
        ),
        refused(
            "a port that is none",
            mapping(json!({"hostPort": "80", "containerPort": 80, "protocol": "tcp"})),
        ),
        refused("a list that is none", json!({"runtimeConfig": {"portMappings": "80:80"}})),
        refused("a mark too large", json!({"markMasqBit": 32})),
        refused("a mark and a chain", json!({"markMasqBit": 5, "externalSetMarkChain": "MARK"})),
        alone("alone", mapped(add(1), ports(None))),
        alone("alone without ports", add(1)),
        alone(
            "a result that is none",
            mapped(add(1), ports(None)).previous(Previous::This(json!({"cniVersion": "9.9.9"}))),
        ),
        alone(
            "a result without addresses",
            mapped(add(1), ports(None)).previous(Previous::This(json!({"cniVersion": "1.0.0"}))),
        ),
        alone("checked without a result", mapped(check(1), ports(None)).previous(Previous::Nothing)),
        alone("deleted alone", mapped(del(1), ports(None))),
    ]
}

#[test]
fn host_ports_are_reached_like_the_reference() {
    hold(&reachable());
}

#[test]
fn lives_of_host_ports_are_like_the_reference() {
    hold(&lives());
}

#[test]
fn refusals_of_host_ports_are_like_the_reference() {
    hold(&refusals());
}
