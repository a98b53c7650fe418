//! What Debian's plugins of CNI 1.0.0 know nothing of, or do otherwise: GC, STATUS, the fields of results and routes of 1.1.0,
//! newer options, and that a call that failed leaves nothing. Not here: anything that both sides can be asked.

use serde_json::{Value, json};

use super::bridge::{bridge, dual, merged};
use crate::case::{Call, Case, NEWEST, OURS, Step, add, check, del, gc, status, story, version};
use crate::probe::{By, Question};
use crate::run::{Observation, run};
use crate::scratch::Place;

/// A case of ours alone, and what it must show: `<step> / <path>` and what is there at least. Of an object the fields that
/// are named, of a list for each element one like it; null is nothing at all.
struct Promise {
    case: Case,
    shows: Vec<(&'static str, Value)>,
}

fn promise(case: Case, shows: &[(&'static str, Value)]) -> Promise {
    Promise { case, shows: shows.to_vec() }
}

fn keep(promises: &[Promise]) {
    if let Err(why) = crate::side::installed() {
        println!("skipped: {why}");
        return;
    }
    let mut broken = Vec::new();
    for Promise { case, shows } in promises {
        let observations = run(case, NEWEST, OURS);
        for (at, expected) in shows {
            let found = look_up(&observations, at);
            if !contains(&found, expected) {
                broken.push(format!("{}: {at}\n  expected: {expected}\n  found: {found}", case.name));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn look_up(observations: &[Observation], at: &str) -> Value {
    let mut parts = at.split(" / ");
    let step = parts.next().unwrap_or_default();
    let shown = observations.iter().find(|observation| observation.step == step);
    let shown = shown.unwrap_or_else(|| {
        panic!("no step \"{step}\" in {:?}", observations.iter().map(|o| &o.step).collect::<Vec<_>>())
    });
    parts.fold(shown.shown.clone(), |value, part| match part.parse::<usize>() {
        Ok(index) if value.is_array() => value[index].clone(),
        _ => value[part].clone(),
    })
}

fn contains(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(key, value)| contains(found.get(key).unwrap_or(&Value::Null), value))
        }
        (Value::Array(found), Value::Array(expected)) if !expected.is_empty() => {
            expected.iter().all(|value| found.iter().any(|found| contains(found, value)))
        }
        (found, expected) => found == expected,
    }
}

/// No rules are left.
const EMPTY: Step = Step::On(Place::Host, "test -z \"$(nft list ruleset)\" || { nft list ruleset; false; }");

fn gateway() -> Value {
    merged(dual(), json!({"isGateway": true}))
}

fn alone(name: &str, config: Value, steps: Vec<Step>) -> Case {
    Case::new(name, config).steps(steps)
}

fn chain(name: &str, steps: Vec<Step>) -> Case {
    let below = bridge(merged(gateway(), json!({"ipMasq": true})));
    Case::chain(name, &[below, json!({"type": "portmap", "capabilities": {"portMappings": true}})])
        .steps(steps)
}

fn with_port(call: Call, port: u16) -> Call {
    let mapping = json!({"hostPort": port, "containerPort": 7000, "protocol": "tcp"});
    call.with(json!({"runtimeConfig": {"portMappings": [mapping]}}))
}

fn results() -> Vec<Promise> {
    let versions = json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let route = json!({
        "dst": "10.99.0.0/24", "gw": "10.77.0.9", "mtu": 1300, "advmss": 1200, "priority": 50, "table": 77,
    });
    let knows = |kind: &str| {
        let case = alone("knows its versions", json!({"type": kind}), story![version()]);
        promise(
            case,
            &[(
                "1 VERSION / outcome / 0 / result",
                json!({"cniVersion": "1.1.0", "supportedVersions": versions}),
            )],
        )
    };
    vec![
        knows("bridge"),
        knows("host-local"),
        knows("loopback"),
        knows("portmap"),
        promise(
            alone("mtu in results", bridge(json!({"mtu": 1400})), story![add(1), check(1)]),
            &[
                ("1 ADD pod1 / outcome / 0 / result / cniVersion", json!("1.1.0")),
                (
                    "1 ADD pod1 / outcome / 0 / result / interfaces",
                    json!([
                        {"name": "cni7", "mtu": 1400},
                        {"name": "<veth of eth0 in pod1>", "mtu": 1400},
                        {"name": "eth0", "mtu": 1400, "sandbox": "$/pod1"},
                    ]),
                ),
                ("2 CHECK pod1 / outcome / 0", json!({"result": null})),
            ],
        ),
        promise(
            alone(
                "fields of routes",
                bridge(json!({"ipam": {"routes": [route.clone()]}})),
                story![add(1), check(1)],
            ),
            &[
                ("1 ADD pod1 / outcome / 0 / result / routes", json!([route])),
                (
                    "1 ADD pod1 / pod1 / routes",
                    json!({"10.99.0.0/24 77 unicast 10.77.0.9 eth0 50": {
                        "metrics": [{"mtu": 1300, "advmss": 1200}],
                    }}),
                ),
                ("2 CHECK pod1 / outcome / 0", json!({"result": null})),
            ],
        ),
        promise(
            alone(
                "the allocator's dns",
                bridge(json!({"ipam": {"resolvConf": "$DATA/resolv.conf"}})),
                story![add(1)],
            )
            .after(Place::Host, "printf 'nameserver 10.0.0.53\\nsearch example.org\\n' > $DATA/resolv.conf"),
            &[(
                "2 ADD pod1 / outcome / 0 / result / dns",
                json!({"nameservers": ["10.0.0.53"], "search": ["example.org"]}),
            )],
        ),
        promise(
            alone(
                "the same name for the same interface",
                bridge(json!({})),
                story![
                    add(1).outcome(),
                    Step::On(
                        Place::Host,
                        "ip -o link show type veth | grep -oE ' veth[0-9a-f]{11}@' > $DATA/first",
                    ),
                    del(1).outcome(),
                    add(1).outcome(),
                    Step::On(
                        Place::Host,
                        "ip -o link show type veth | grep -oE ' veth[0-9a-f]{11}@' | cmp - $DATA/first",
                    ),
                ],
            ),
            &[],
        ),
    ]
}

fn options() -> Vec<Promise> {
    let isolated = |pod: &str| -> Value {
        json!({format!("<veth of eth0 in {pod}>"): {"linkinfo": {"info_slave_data": {"isolated": true}}}})
    };
    let ask = |from, to: &str| Question { from, to: to.to_owned(), by: By::Tcp };
    let refused = |name: &str, config: Value| {
        let no_port = Step::On(Place::Host, "! ip -o link show type veth | grep .");
        let case = alone(&format!("refused: {name}"), bridge(config), story![add(1), no_port, EMPTY]);
        promise(
            case,
            &[
                ("1 ADD pod1 / outcome / 0 / result", Value::Null),
                ("1 ADD pod1 / pod1 / links / eth0", Value::Null),
                ("1 ADD pod1 / files / reference/10.77.0.2", Value::Null),
            ],
        )
    };
    vec![
        promise(
            alone(
                "isolated ports",
                bridge(merged(gateway(), json!({"portIsolation": true}))),
                story![
                    add(1),
                    add(2),
                    Step::Serve(Place::Pod(1), 7000),
                    Step::Ask(vec![
                        ask(Place::Host, "10.77.0.2:7000"),
                        ask(Place::Pod(2), "10.77.0.2:7000"),
                        ask(Place::Pod(2), "[fd77::2]:7000"),
                    ]),
                ],
            ),
            &[
                ("1 ADD pod1 / host / links", isolated("pod1")),
                (
                    "4 questions",
                    json!({
                        "host asks 10.77.0.2:7000 by Tcp": "pod1 sees 10.77.0.1",
                        "pod2 asks 10.77.0.2:7000 by Tcp": "no answer",
                        "pod2 asks [fd77::2]:7000 by Tcp": "no answer",
                    }),
                ),
            ],
        ),
        promise(
            alone(
                "an interface left down",
                bridge(json!({"ipam": null, "disableContainerInterface": true})),
                story![add(1)],
            ),
            &[("1 ADD pod1 / pod1 / links / eth0", json!({"operstate": "DOWN"}))],
        ),
        refused("an interface left down, with addresses", json!({"disableContainerInterface": true})),
        refused("hairpin and promiscuous", json!({"hairpinMode": true, "promiscMode": true})),
        refused("a VLAN of a trunk too large", json!({"vlanTrunk": [{"id": 4095}]})),
        refused("VLANs of a trunk without an end", json!({"vlanTrunk": [{"minID": 100}]})),
        refused("VLANs of a trunk backwards", json!({"vlanTrunk": [{"minID": 200, "maxID": 100}]})),
        refused("an allocator that isn't there", json!({"ipam": {"type": "nothing-of-this-name"}})),
        refused(
            "addresses that are all taken",
            json!({"ipam": {"rangeStart": "10.77.0.1", "rangeEnd": "10.77.0.1"}}),
        ),
        refused("an mtu too small", json!({"mtu": 10})),
        refused(
            "a gateway for a route out of reach",
            json!({"ipam": {"routes": [{"dst": "10.99.0.0/24", "gw": "10.5.0.1"}]}}),
        ),
        refused("no address but one's own", json!({"macspoofchk": true})),
        refused("masquerade by another's rules", json!({"ipMasq": true, "ipMasqBackend": "iptables"})),
    ]
}

/// A field of portmap that only another plugin can honour (code 2, "unsupported field").
fn left_to_others(name: &str, more: Value) -> Promise {
    let mut call = with_port(add(1), 8001).outcome();
    call.config = merged(call.config, more);
    promise(
        chain(&format!("not ours: {name}"), story![call, del(1).outcome(), EMPTY]),
        &[("1 ADD pod1 / outcome / 1 / error", json!(2))],
    )
}

fn collections() -> Vec<Promise> {
    let add_three = || -> Vec<Step> {
        (1..=3).map(|pod| with_port(add(pod), 8000 + u16::from(pod)).outcome().into()).collect()
    };
    let ask = |port: u16| Question { from: Place::World, to: format!("192.0.2.1:{port}"), by: By::Tcp };
    let asked = || Step::Ask(vec![ask(8001), ask(8002), ask(8003)]);
    let serve = || (1..=3).map(|pod| Step::Serve(Place::Pod(pod), 7000)).collect::<Vec<_>>();
    vec![
        promise(
            chain(
                "collected but one",
                [add_three(), serve(), story![asked(), gc(&[("container-2", "eth0")]), asked()]].concat(),
            ),
            &[
                (
                    "7 questions",
                    json!({
                        "world asks 192.0.2.1:8001 by Tcp": "pod1 sees 192.0.2.2",
                        "world asks 192.0.2.1:8002 by Tcp": "pod2 sees 192.0.2.2",
                    }),
                ),
                ("8 GC / outcome", json!([{"result": null}])),
                ("8 GC / files / reference/10.77.0.2", Value::Null),
                ("8 GC / files / reference/fd77::2", Value::Null),
                ("8 GC / files / reference/10.77.0.4", Value::Null),
                (
                    "8 GC / files",
                    json!({
                        "reference/10.77.0.3": ["container-2\r\neth0"], "reference/fd77::3": ["container-2\r\neth0"],
                    }),
                ),
                (
                    "9 questions",
                    json!({
                        "world asks 192.0.2.1:8001 by Tcp": "no answer",
                        "world asks 192.0.2.1:8002 by Tcp": "pod2 sees 192.0.2.2",
                        "world asks 192.0.2.1:8003 by Tcp": "no answer",
                    }),
                ),
            ],
        ),
        promise(
            chain("all collected", [add_three(), story![gc(&[]), EMPTY]].concat()),
            &[
                ("4 GC / files / reference/10.77.0.2", Value::Null),
                ("4 GC / files / reference/10.77.0.4", Value::Null),
            ],
        ),
        promise(
            chain(
                "an interface of two collected",
                story![
                    add(1).outcome(),
                    add(1).on_interface("net1").outcome(),
                    gc(&[("container-1", "net1")]),
                ],
            ),
            &[
                ("3 GC / files / reference/10.77.0.2", Value::Null),
                ("3 GC / files", json!({"reference/10.77.0.3": ["container-1\r\nnet1"]})),
            ],
        ),
        promise(
            chain("nothing to collect", story![gc(&[("container-1", "eth0")]), EMPTY]),
            &[("1 GC / outcome", json!([{"result": null}]))],
        ),
        promise(
            chain(
                "nothing left after the last",
                story![
                    with_port(add(1), 8001).outcome(),
                    with_port(add(2), 8002).outcome(),
                    with_port(del(1), 8001).outcome(),
                    with_port(del(2), 8002).outcome(),
                    EMPTY,
                ],
            ),
            &[],
        ),
        left_to_others("conditions", json!({"conditionsV4": ["-d", "192.0.2.1"]})),
        left_to_others("a chain of another's", json!({"externalSetMarkChain": "KUBE-MARK-MASQ"})),
        left_to_others("another's rules", json!({"backend": "iptables"})),
        promise(
            chain(
                "a port refused",
                story![
                    add(1)
                        .with(json!({"runtimeConfig": {"portMappings": [
                            {"hostPort": 8001, "containerPort": 7000, "protocol": "tcp"},
                            {"hostPort": 8002, "containerPort": 70000, "protocol": "tcp"},
                        ]}}))
                        .outcome(),
                    del(1).outcome(),
                    EMPTY,
                ],
            ),
            &[
                ("1 ADD pod1 / outcome / 1 / result", Value::Null),
                ("2 DEL pod1 / outcome", json!([{"result": null}, {"result": null}])),
            ],
        ),
        promise(
            chain(
                "a port that another pod has",
                story![
                    with_port(add(1), 8001).outcome(),
                    with_port(add(2), 8001).outcome(),
                    with_port(del(2), 8001).outcome(),
                    Step::Serve(Place::Pod(1), 7000),
                    Step::Ask(vec![ask(8001)]),
                ],
            ),
            &[
                ("2 ADD pod2 / outcome / 1 / result", Value::Null),
                ("5 questions / world asks 192.0.2.1:8001 by Tcp", json!("pod1 sees 192.0.2.2")),
            ],
        ),
        promise(
            alone(
                "GC before it was",
                bridge(json!({})),
                story![
                    gc(&[]).with(json!({"cniVersion": "1.0.0", "cni.dev/valid-attachments": []})),
                    status().with(json!({"cniVersion": "1.0.0"})),
                ],
            ),
            &[("1 GC / outcome / 0 / error", json!(1)), ("2 STATUS / outcome / 0 / error", json!(1))],
        ),
    ]
}

fn readiness() -> Vec<Promise> {
    let ready = |name: &str, config: Value| {
        promise(alone(name, config, story![status()]), &[("1 STATUS / outcome / 0", json!({"result": null}))])
    };
    let unready = |name: &str, config: Value| {
        promise(alone(name, config, story![status()]), &[("1 STATUS / outcome / 0 / result", Value::Null)])
    };
    vec![
        ready("bridge is ready", bridge(json!({}))),
        ready(
            "host-local is ready",
            json!({"type": "host-local", "ipam": {"type": "host-local", "dataDir": "$DATA", "subnet": "10.77.0.0/24"}}),
        ),
        ready("loopback is ready", json!({"type": "loopback"})),
        ready("portmap is ready", json!({"type": "portmap"})),
        unready("an allocator that isn't there", bridge(json!({"ipam": {"type": "nothing-of-this-name"}}))),
        unready("no ranges", bridge(json!({"ipam": {"subnet": null}}))),
    ]
}

#[test]
fn results_are_of_the_newest_version() {
    keep(&results());
}

#[test]
fn newer_options_hold_and_what_fails_leaves_nothing() {
    keep(&options());
}

#[test]
fn what_is_not_valid_is_collected() {
    keep(&collections());
}

#[test]
fn status_says_whether_pods_can_be_added() {
    keep(&readiness());
}
