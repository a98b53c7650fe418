//! Shows that the comparison notices: Debian's plugins against themselves, told something a little different.

use serde_json::{Value, json};

use crate::case::{Case, DEBIAN, Step, add, del, story};
use crate::compare::compare;
use crate::run::run;
use crate::scratch::Place;

fn base() -> Value {
    json!({
        "type": "bridge", "bridge": "cni7", "isGateway": true,
        "ipam": {
            "type": "host-local", "dataDir": "$DATA",
            "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
        },
    })
}

fn told(more: &Value) -> Vec<crate::run::Observation> {
    let mut config = base();
    crate::run::lay_over(&mut config, more);
    let steps = story![add(1), del(1)];
    run(&Case::new("proof", config).steps(steps), "1.0.0", DEBIAN)
}

#[test]
fn the_same_is_equal_and_anything_else_is_noticed() {
    if let Err(why) = crate::side::installed() {
        println!("skipped: {why}");
        return;
    }
    let base = told(&json!({}));
    let same = compare(&base, &told(&json!({})));
    assert!(same.is_empty(), "{same:#?}");
    let noticed = [
        (
            json!({"hairpinMode": true}),
            "1 ADD pod1 / host / links / <veth of eth0 in pod1> / linkinfo / info_slave_data / hairpin",
        ),
        (json!({"mtu": 1400}), "1 ADD pod1 / pod1 / links / eth0 / mtu"),
        (json!({"mtu": 1400}), "1 ADD pod1 / host / links / cni7 / mtu"),
        (json!({"promiscMode": true}), "1 ADD pod1 / host / links / cni7 / promiscuity"),
        (json!({"isGateway": false}), "1 ADD pod1 / host / sysctls / ip_forward"),
        (json!({"isGateway": false}), "1 ADD pod1 / host / links / cni7 / addr_info"),
        (json!({"isGateway": false}), "1 ADD pod1 / host / routes"),
        (json!({"isDefaultGateway": true}), "1 ADD pod1 / pod1 / routes"),
        (json!({"isDefaultGateway": true}), "1 ADD pod1 / outcome / 0 / result / routes"),
        (json!({"enabledad": true}), "1 ADD pod1 / pod1 / sysctls / ipv6.eth0 / accept_dad"),
        (json!({"bridge": "cni8"}), "2 DEL pod1 / host / links / cni7"),
        (json!({"dns": {"domain": "example"}}), "1 ADD pod1 / outcome / 0 / result / dns"),
        (json!({"name": "another"}), "1 ADD pod1 / files / reference/"),
        (
            json!({"args": {"cni": {"mac": "02:00:00:00:00:01"}}}),
            "1 ADD pod1 / outcome / 0 / result / interfaces / 2 / mac",
        ),
        (json!({"hairpinMode": true, "promiscMode": true}), "1 ADD pod1 / outcome / 0 / error"),
    ];
    for (more, at) in noticed {
        let found = compare(&base, &told(&more));
        assert!(
            found.iter().any(|found| found.at.starts_with(at)),
            "{more} isn't noticed at \"{at}\": {found:#?}"
        );
    }
}

#[test]
fn a_neighbour_that_was_entered_is_noticed() {
    if let Err(why) = crate::side::installed() {
        println!("skipped: {why}");
        return;
    }
    let steps = |commands| story![add(1), Step::On(Place::Host, commands), del(1)];
    let told = |commands| run(&Case::new("proof", base()).steps(steps(commands)), "1.0.0", DEBIAN);
    let found = compare(
        &told("true"),
        &told("ip neighbour add 10.77.0.2 lladdr 02:00:00:00:00:03 dev cni7 nud permanent"),
    );
    assert!(found.iter().any(|found| found.at.starts_with("3 DEL pod1 / host / neighbours")), "{found:#?}");
}
