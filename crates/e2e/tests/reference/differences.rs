//! Where ours differs on purpose in every case, and why. Not here: what single cases say of themselves.

use serde_json::json;

use crate::case::{Call, Case, DEBIAN, Difference, OURS, Step, add, del, story};
use crate::compare::{compare, matches};
use crate::run::run;
use crate::scratch::Place;

/// What isn't compared anywhere.
pub(crate) const EVERYWHERE: &[Difference] = &[
    of("* / links / <veth of * / ifalias", "tells an operator whose link it is"),
    of(
        "* / links / <veth of * / txqlen",
        "Debian's 1.1.1 leaves a queue of length 0, upstream since 1.2 doesn't",
    ),
    of("* / links / eth0 / txqlen", "the same"),
    of("* / links / net1 / txqlen", "the same"),
    of("* / addr_info / * / nodad", "nobody else is asked about an address that the allocator gave"),
    of("* / files / *lock / 1", "the mode of a lock"),
    of(
        "* DEL * / files / reference/lock",
        "DEL makes no directory and no lock where there is nothing to give back",
    ),
    of("* DEL * / files / reference/", "the same"),
    of("* / host / sysctls / ipv6.lo / accept_ra", "a host that forwards goes on hearing its router"),
    of("* / host / sysctls / ipv6.uplink / accept_ra", "the same"),
    of(
        "* DEL * / host / sysctls / ipv4.cni7 / route_localnet",
        "what the last host port needed is taken back",
    ),
    of("* / host / links / <veth of * / addr_info", "a port of a bridge needs no address, and gets none"),
    of("* / host / routes / fe80::/64 *<veth of ", "the same"),
    of("* / host / sysctls / ipv6.<veth of * / addr_gen_mode", "the same"),
    of("* / host / sysctls / ipv6.<veth of * / accept_ra", "the same: no advertisement is heard without one"),
    of("* / pod* / sysctls / ipv6.eth0 / accept_ra", "a neighbour that says it is the router isn't believed"),
    of("* / pod* / sysctls / ipv6.net1 / accept_ra", "the same"),
    of("* / pod* / sysctls / ipv6.eth0 / keep_addr_on_down", "addresses survive that the link goes down"),
    of("* / pod* / sysctls / ipv6.net1 / keep_addr_on_down", "the same"),
];

const fn of(at: &'static str, reason: &'static str) -> Difference {
    Difference { at, reason }
}

/// A story that meets all of them.
fn story() -> Case {
    let mapping = json!({"hostPort": 80, "containerPort": 80, "protocol": "tcp"});
    let with_port = |call: Call| call.with(json!({"runtimeConfig": {"portMappings": [mapping]}}));
    let bridge = json!({
        "type": "bridge", "bridge": "cni7", "isGateway": true,
        "ipam": {
            "type": "host-local", "dataDir": "$DATA",
            "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
        },
    });
    Case::chain("differences", &[bridge, json!({"type": "portmap"})]).steps(story![
        Step::On(Place::World, "true"),
        del(1),
        with_port(add(1)),
        add(1).on_interface("net1"),
        with_port(del(1)),
    ])
}

#[test]
fn what_differs_everywhere_still_does() {
    if let Err(why) = crate::side::installed() {
        println!("skipped: {why}");
        return;
    }
    let found = compare(&run(&story(), "1.0.0", DEBIAN), &run(&story(), "1.0.0", OURS));
    let stale: Vec<_> =
        EVERYWHERE.iter().filter(|known| !found.iter().any(|found| matches(known.at, &found.at))).collect();
    assert!(stale.is_empty(), "{stale:#?} in {found:#?}");
}
