//! host-local: addresses, and the files that they are kept in. Not here: what a bridge makes of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::case::{Call, Case, Step, TAKEOVERS, add, check, del, story};
use crate::compare::hold;
use crate::plugin::{Invocation, invoke};
use crate::scratch::Place;
use crate::side::Side;

/// Addresses of `ipam`.
fn addresses(name: &str, ipam: Value) -> Case {
    let mut config = json!({"type": "host-local", "ipam": {"type": "host-local", "dataDir": "$DATA"}});
    crate::run::lay_over(&mut config["ipam"], &ipam);
    Case::new(format!("host-local: {name}"), config)
}

fn subnet() -> Value {
    json!({"subnet": "10.77.0.0/29"})
}

/// Adds as many pods as there are numbers, one after another.
fn adds(pods: impl IntoIterator<Item = u8>) -> Vec<Step> {
    pods.into_iter().map(|pod| here(add(pod)).into()).collect()
}

/// Addresses need no namespace: all calls name the first pod's.
fn here(call: Call) -> Call {
    let (pod, id) =
        (1, ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"][call.pod as usize]);
    Call { pod, ..call.env("CNI_CONTAINERID", Some(id)) }
}

fn ranges() -> Vec<Case> {
    let set = |ranges: Value| json!({"ranges": ranges});
    vec![
        addresses("one subnet", subnet()).in_all_versions(),
        addresses("the gateway elsewhere", json!({"subnet": "10.77.0.0/29", "gateway": "10.77.0.3"})).steps(adds(1..=6)),
        addresses("a part of it", json!({
            "subnet": "10.77.0.0/24", "rangeStart": "10.77.0.10", "rangeEnd": "10.77.0.12",
        })).steps(adds(1..=5)),
        addresses("from somewhere on", json!({"subnet": "10.77.0.0/29", "rangeStart": "10.77.0.5"})).steps(adds(1..=4)),
        addresses("up to somewhere", json!({"subnet": "10.77.0.0/29", "rangeEnd": "10.77.0.3"})).steps(adds(1..=4)),
        addresses("all taken", json!({"subnet": "10.77.0.0/30"})).steps(adds(1..=3)),
        addresses("IPv6", json!({"subnet": "fd77::/125"})).steps(adds(1..=9)),
        addresses("IPv6 written long", json!({
            "subnet": "fd77:0:0:0:0:0:0:0/64", "rangeStart": "fd77:0:0:0:0:0:0:00ff",
        })).steps(adds(1..=3)),
        addresses("two families", set(json!([[{"subnet": "10.77.0.0/29"}], [{"subnet": "fd77::/64"}]])))
            .in_all_formats(),
        addresses("two subnets at once", set(json!([[{"subnet": "10.77.0.0/29"}], [{"subnet": "10.78.0.0/29"}]])))
            .in_all_formats(),
        addresses("one after the other", set(json!([[{"subnet": "10.77.0.0/30"}, {"subnet": "10.78.0.0/30"}]])))
            .steps(adds(1..=4)),
        addresses("a subnet and ranges", json!({"subnet": "10.77.0.0/29", "ranges": [[{"subnet": "10.78.0.0/29"}]]})),
        addresses("the second is all taken", set(json!([[{"subnet": "10.77.0.0/29"}], [{"subnet": "10.78.0.0/30"}]])))
            .steps(adds(1..=3)),
        addresses("routes", json!({
            "subnet": "10.77.0.0/29", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.77.0.6"}],
        })).in_all_formats(),
        addresses("of the runtime", subnet()).steps(story![
            here(add(1)).with(json!({"runtimeConfig": {
                "ipRanges": [[{"subnet": "10.79.0.0/29"}], [{"subnet": "fd79::/64"}]],
            }})),
            here(add(2)),
            here(del(1)),
        ]),
        addresses("dns", json!({"subnet": "10.77.0.0/29", "resolvConf": "$DATA/resolv.conf"}))
            .after(Place::Host, "printf '%s\\n' 'nameserver 10.0.0.53' '# a word' 'search a.example b.example' 'domain example.org' \\
                'options ndots:5 attempts:1' 'nameserver fd00::53' '; more' 'sortlist 1' > $DATA/resolv.conf")
            .in_all_formats(),
        addresses("dns that isn't there", json!({"subnet": "10.77.0.0/29", "resolvConf": "$DATA/resolv.conf"})),
    ]
}

/// Addresses that are asked for, in each way.
fn wanted() -> Vec<Case> {
    let wants = |ips: Value| json!({"args": {"cni": {"ips": ips}}});
    let runtime = |ips: Value| json!({"runtimeConfig": {"ips": ips}});
    let both = json!({"ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]]});
    let one = |name: &str, call: Call| {
        addresses(&format!("wanted {name}"), both.clone()).steps(story![here(call), here(del(1))])
    };
    vec![
        one("by CNI_ARGS", add(1).args("IP=10.77.0.88")),
        one("by CNI_ARGS with a prefix", add(1).args("IP=10.77.0.88/24")),
        one("by CNI_ARGS, of IPv6", add(1).args("IP=fd77::88;IgnoreUnknown=1;K8S_POD_NAME=web")),
        one("by CNI_ARGS, not an address", add(1).args("IP=here")),
        one("by args", add(1).with(wants(json!(["10.77.0.88"])))),
        one("by args, both families", add(1).with(wants(json!(["fd77::88", "10.77.0.88"])))),
        one("by args, with a prefix", add(1).with(wants(json!(["10.77.0.88/24"])))),
        one("by the runtime", add(1).with(runtime(json!(["10.77.0.88", "fd77::0088"])))),
        one("by the runtime, with prefixes", add(1).with(runtime(json!(["10.77.0.88/24", "fd77::88/64"])))),
        one("by all of them", add(1).with(runtime(json!(["fd77::88"]))).args("IP=10.77.0.88")),
        addresses("wanted by all of them, too many", both.clone()).steps(story![
            here(add(1)).with(runtime(json!(["10.77.0.89"]))).args("IP=10.77.0.88").outcome(),
        ]),
        one("outside of all", add(1).args("IP=10.99.0.1")),
        one("the gateway's", add(1).args("IP=10.77.0.1")),
        one("the subnet's own", add(1).args("IP=10.77.0.0")),
        one("the broadcast's", add(1).args("IP=10.77.0.255")),
        addresses("wanted twice", both.clone()).steps(story![
            here(add(1)).args("IP=10.77.0.88"),
            here(add(2)).args("IP=10.77.0.88"),
            here(add(3)),
        ]),
        addresses(
            "wanted outside of the range",
            json!({"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.10", "rangeEnd": "10.77.0.20"}),
        )
        .steps(story![
            here(add(1)).args("IP=10.77.0.21"),
            here(add(2)).args("IP=10.77.0.9"),
            here(add(3)).args("IP=10.77.0.20"),
        ]),
        addresses("wanted by one that has it", both)
            .steps(story![here(add(1)), here(add(1)).args("IP=10.77.0.88"), here(del(1))])
            .differs(
                "2 ADD pod1 / files",
                "what refuses takes nothing away: Debian's gives the first ADD's addresses back",
            ),
    ]
}

/// The files: who wrote them, in what order, and what else lies there.
fn files() -> Vec<Case> {
    let with = |name: &str, commands: &'static str| {
        addresses(name, subnet()).steps(adds(1..=3)).after(Place::Host, commands)
    };
    let mut round = adds(1..=5);
    round.extend(story![here(del(2)), here(del(4)), here(add(6)), here(add(7)), here(add(8))]);
    vec![
        addresses("round and round", subnet()).steps(round),
        with(
            "goes on after the last",
            "mkdir $DATA/reference; printf 10.77.0.4 > $DATA/reference/last_reserved_ip.0",
        ),
        with(
            "begins anew at the end",
            "mkdir $DATA/reference; printf 10.77.0.6 > $DATA/reference/last_reserved_ip.0",
        ),
        with(
            "the last is of another subnet",
            "mkdir $DATA/reference; printf 10.1.0.6 > $DATA/reference/last_reserved_ip.0",
        ),
        with(
            "the last is no address",
            "mkdir $DATA/reference; printf there > $DATA/reference/last_reserved_ip.0",
        ),
        with(
            "the last ends with a line",
            "mkdir $DATA/reference; printf '10.77.0.4\\n' > $DATA/reference/last_reserved_ip.0",
        )
        .differs("*", "an editor's newline doesn't make an address another one"),
        with("the last is empty", "mkdir $DATA/reference; : > $DATA/reference/last_reserved_ip.0"),
        with(
            "others are taken",
            "cd $DATA; mkdir reference; printf 'x\\r\\neth0' > reference/10.77.0.2; : > reference/10.77.0.4",
        )
        .differs("*", "an empty file is what a writer left that died"),
        with(
            "other files lie there",
            "cd $DATA; mkdir -p reference/more; echo one > reference/note; : > reference/lock",
        ),
        addresses("written before there were interfaces", subnet())
            .steps(story![here(check(1)), here(add(1)), here(del(1)), here(check(1)),])
            .after(Place::Host, "mkdir $DATA/reference; printf one > $DATA/reference/10.77.0.5"),
        addresses("written with room", subnet()).steps(story![here(check(1)), here(del(1)),]).after(
            Place::Host,
            "mkdir $DATA/reference; printf ' one\\r\\neth0\\n' > $DATA/reference/10.77.0.5",
        ),
        addresses("two interfaces", subnet()).steps(story![
            here(add(1)),
            here(add(1)).on_interface("net1"),
            here(del(1)).on_interface("net1"),
            here(check(1)).on_interface("net1"),
            here(check(1)),
            here(del(1)),
            here(check(1)),
        ]),
        addresses("the same twice", subnet()).steps(story![
            here(add(1)),
            here(add(1)),
            here(del(1)),
            here(del(1))
        ]),
        addresses("an id with room around it", subnet())
            .steps(story![here(add(1)).env("CNI_CONTAINERID", Some(" one "))]),
        addresses(
            "a directory that can't be",
            json!({"subnet": "10.77.0.0/29", "dataDir": "$HERE/file/there"}),
        ),
        addresses("taken over", json!({"ranges": [[{"subnet": "10.77.0.0/29"}], [{"subnet": "fd77::/64"}]]}))
            .casts(TAKEOVERS)
            .steps(story![
                here(add(1)),
                here(add(2)),
                here(check(1)),
                here(del(1)),
                here(add(3)),
                here(check(3)),
                here(del(2)),
                here(add(4)),
                here(add(3)),
                here(del(3)),
                here(add(5)),
                here(add(6)),
                here(add(7)),
                here(add(8)),
                here(del(4)),
                here(add(9)),
            ]),
    ]
}

fn refusals() -> Vec<Case> {
    let set = |ranges: Value| json!({"ranges": ranges});
    let refused = |name: &str, ipam: Value| {
        addresses(&format!("refused: {name}"), ipam)
            .steps(story![here(add(1)), here(check(1)), here(del(1)),])
    };
    vec![
        refused("nothing", json!({})),
        refused("an empty list", set(json!([]))),
        refused("an empty set", set(json!([[]]))),
        refused("no subnet", set(json!([[{"rangeStart": "10.77.0.2"}]]))),
        refused("not a subnet", json!({"subnet": "here"})),
        refused("an address", json!({"subnet": "10.77.0.0"})),
        refused("bits of a host", json!({"subnet": "10.77.0.1/24"})),
        refused("bits of a host, IPv6", json!({"subnet": "fd77::1/64"})),
        refused("too small", json!({"subnet": "10.77.0.0/31"})),
        refused("one address", json!({"subnet": "10.77.0.0/32"})),
        refused("too small, IPv6", json!({"subnet": "fd77::/127"})),
        refused("begins outside", json!({"subnet": "10.77.0.0/24", "rangeStart": "10.78.0.1"})),
        refused("ends outside", json!({"subnet": "10.77.0.0/24", "rangeEnd": "10.78.0.1"})),
        refused(
            "ends before it begins",
            json!({"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.9", "rangeEnd": "10.77.0.5"}),
        ),
        refused("begins in another family", json!({"subnet": "10.77.0.0/24", "rangeStart": "fd77::1"})),
        refused("begins nowhere", json!({"subnet": "10.77.0.0/24", "rangeStart": "here"})),
        refused("a gateway of nowhere", json!({"subnet": "10.77.0.0/24", "gateway": "here"})),
        refused("a gateway outside", json!({"subnet": "10.77.0.0/24", "gateway": "10.99.0.1"})),
        refused("sets overlap", set(json!([[{"subnet": "10.77.0.0/24"}], [{"subnet": "10.77.0.128/25"}]]))),
        refused(
            "ranges of a set overlap",
            set(json!([[{"subnet": "10.77.0.0/24"}, {"subnet": "10.77.0.0/25"}]])),
        ),
        refused("families in one set", set(json!([[{"subnet": "10.77.0.0/24"}, {"subnet": "fd77::/64"}]]))),
        refused("a route to nowhere", json!({"subnet": "10.77.0.0/24", "routes": [{"dst": "there"}]})),
        refused(
            "a route by nobody",
            json!({"subnet": "10.77.0.0/24", "routes": [{"dst": "0.0.0.0/0", "gw": "there"}]}),
        ),
        refused("a list that is none", set(json!("10.77.0.0/24"))),
        addresses("refused: no ipam", json!({})).steps(story![
            here(add(1)).with(json!({"ipam": null})),
            here(del(1)).with(json!({"ipam": null})),
        ]),
    ]
}

#[test]
fn ranges_are_like_the_reference() {
    hold(&ranges());
}

#[test]
fn wanted_addresses_are_like_the_reference() {
    hold(&wanted());
}

#[test]
fn files_are_like_the_reference() {
    hold(&files());
}

#[test]
fn refusals_of_addresses_are_like_the_reference() {
    hold(&refusals());
}

/// How many of each side ask for an address at the same time.
const AT_ONCE: usize = 12;

#[test]
fn both_at_once_give_every_address_once() {
    if let Err(why) = crate::side::installed() {
        println!("skipped: {why}");
        return;
    }
    let directory = tempfile::Builder::new().prefix("knarr-reference-").tempdir().unwrap();
    let asked = [Side::DEBIAN, Side::OURS].map(|side| {
        side.install(directory.path());
        (0..AT_ONCE).map(move |number| (side, number))
    });
    let answers: Vec<Value> = thread::scope(|scope| {
        let all = asked.into_iter().flatten().map(|(side, number)| {
            let call = allocation(directory.path(), side, number);
            scope.spawn(move || invoke(&call))
        });
        all.collect::<Vec<_>>().into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    let given: BTreeSet<String> =
        answers.iter().map(|answer| answer["result"]["ips"][0]["address"].to_string()).collect();
    assert_eq!(given.len(), 2 * AT_ONCE, "{answers:#?}");
    assert!(!given.contains("null"), "{answers:#?}");
}

fn allocation(directory: &Path, side: Side, number: usize) -> Invocation {
    let path = directory.join(side.name);
    let environment = [
        ("CNI_COMMAND", "ADD".to_owned()),
        ("CNI_CONTAINERID", format!("{}-{number}", side.name)),
        ("CNI_NETNS", "/proc/self/ns/net".to_owned()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_PATH", path.to_string_lossy().into_owned()),
    ];
    let config = json!({
        "cniVersion": "1.0.0", "name": "reference", "type": "host-local",
        "ipam": {"type": "host-local", "dataDir": directory, "subnet": "10.77.0.0/24"},
    });
    Invocation {
        executable: path.join("host-local"),
        environment: environment.map(|(key, value)| (key.to_owned(), value)).into(),
        stdin: config.to_string(),
    }
}
