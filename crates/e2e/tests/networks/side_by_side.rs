//! Networks of users' own beside each other on a node: a directory for a handler each, the node's for all others; several
//! ranges, both families, and networks that lead nowhere.

use std::net::IpAddr;

use e2e::node::PATIENCE;
use e2e::{Network, Setup};
use serde_json::{Value, json};
use tonic::Status;

use crate::rig::{Member, Site};
use crate::traffic::{ask_tcp, at, serve_tcp};

by_every_kind_of_plugins!(
    pods_of_one_network_are_together_and_of_others_apart,
    the_default_is_the_one_that_is_named,
    ranges_are_used_up_one_after_another,
);

/// A bridge with these ranges; with a gateway, and so routed by the host, or without.
fn bridge(name: &str, ranges: Value, has_gateway: bool) -> Value {
    let routes = if has_gateway { json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]) } else { json!([]) };
    json!([
        { "type": "bridge", "bridge": name, "isGateway": has_gateway, "ipMasq": false,
          "ipam": { "type": "host-local", "ranges": ranges, "routes": routes } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ])
}

async fn of(site: &Site, handler: &str) -> Member {
    site.member_of(handler, |_| {}).await.expect("a pod")
}

fn is_in(address: IpAddr, network: &str) -> bool {
    address.to_string().starts_with(network)
}

async fn pods_of_one_network_are_together_and_of_others_apart(plugins: Network) {
    let front = json!([[{ "subnet": "10.91.1.0/24" }], [{ "subnet": "fd00:91:1::/64" }]]);
    let back = json!([[{ "subnet": "10.91.2.0/24" }], [{ "subnet": "fd00:91:2::/64" }]]);
    let vault = json!([[{ "subnet": "10.91.3.0/24" }], [{ "subnet": "fd00:91:3::/64" }]]);
    let setup = Setup::new(plugins)
        .conflist("front", bridge("front0", front, true))
        .handler("back", &[("back", bridge("back0", back, true))])
        .handler("vault", &[("vault", bridge("vault0", vault, false))]);
    let site = Site::new(setup).await;
    let (front, other_front, back, vault, other_vault) =
        tokio::join!(of(&site, ""), of(&site, ""), of(&site, "back"), of(&site, "vault"), of(&site, "vault"));
    for (member, v4, v6) in [
        (&front, "10.91.1.", "fd00:91:1:"),
        (&other_front, "10.91.1.", "fd00:91:1:"),
        (&back, "10.91.2.", "fd00:91:2:"),
        (&vault, "10.91.3.", "fd00:91:3:"),
        (&other_vault, "10.91.3.", "fd00:91:3:"),
    ] {
        let addresses = &member.addresses;
        assert!(is_in(addresses[0], v4) && is_in(addresses[1], v6), "{addresses:?} in {v4} and {v6}");
    }

    for (one, other) in [(&front, &other_front), (&vault, &other_vault), (&front, &back), (&back, &front)] {
        one.reaches(other, other.v4()).await;
        one.reaches(other, other.v6()).await;
    }
    let _servers = [serve_tcp(&vault.inside, 8080), serve_tcp(&front.inside, 8080)];
    for (who, netns, address) in [
        ("front", &front.inside, vault.v4()),
        ("front", &front.inside, vault.v6()),
        ("the vault", &vault.inside, front.v4()),
        ("the vault", &vault.inside, front.v6()),
        ("the host", &*site.host, vault.v4()),
    ] {
        let seen = ask_tcp(netns, at(&address.to_string(), 8080)).await;
        assert!(seen.is_err(), "{who} reaches {address}: {seen:?}");
    }
    let ports = |bridge: &str| site.host.links(&format!("master {bridge}")).len();
    assert_eq!((ports("front0"), ports("back0"), ports("vault0")), (2, 1, 2));
    site.remove(&vault).await;
    e2e::until(PATIENCE, "the port of a pod that is gone", || async {
        if ports("vault0") == 1 { Ok(()) } else { Err(ports("vault0")) }
    })
    .await;
}

/// The first by file name is everybody's, unless another is configured.
async fn the_default_is_the_one_that_is_named(plugins: Network) {
    let first = json!([[{ "subnet": "10.91.4.0/24" }]]);
    let second = json!([[{ "subnet": "10.91.5.0/24" }]]);
    let setup = Setup::new(plugins)
        .conflist("first", bridge("first0", first, true))
        .conflist("second", bridge("second0", second, true));
    let site = Site::new(setup.key("default = \"second\"")).await;
    let pod = site.member().await;
    assert!(is_in(pod.v4(), "10.91.5."), "{}", pod.v4());
    assert_eq!(pod.inside.links("up"), ["lo", "eth0"], "and no other");
}

async fn ranges_are_used_up_one_after_another(plugins: Network) {
    let range =
        |start: &str, end: &str| json!({ "subnet": "10.92.0.0/16", "rangeStart": start, "rangeEnd": end });
    let ranges = json!([
        [range("10.92.1.10", "10.92.1.11"), range("10.92.7.10", "10.92.7.10")],
        [{ "subnet": "fd00:92::/64" }],
    ]);
    let site = Site::new(Setup::new(plugins).conflist("few", bridge("few0", ranges, true))).await;
    let members = [site.member().await, site.member().await, site.member().await];
    let mut taken: Vec<String> = members.iter().map(|member| member.v4().to_string()).collect();
    taken.sort();
    assert_eq!(taken, ["10.92.1.10", "10.92.1.11", "10.92.7.10"]);
    members[0].reaches(&members[2], members[2].v4()).await;
    members[2].reaches(&members[0], members[0].v6()).await;

    let refused = site.member_of("", |_| {}).await.map(|member| member.addresses);
    let refused = refused.expect_err("no address is left");
    assert!(says_that_none_is_left(&refused), "{refused:?}");
    site.remove(&members[1]).await;
    let again = e2e::until(PATIENCE, "the address that came back", || site.member_of("", |_| {})).await;
    assert_eq!(again.v4(), members[1].v4());
}

/// In the words of Debian's plugin, or in ours.
pub(crate) fn says_that_none_is_left(refused: &Status) -> bool {
    ["no IP addresses available", "no address left"].iter().any(|words| refused.message().contains(words))
}
