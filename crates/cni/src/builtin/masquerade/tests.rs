use super::*;
use crate::builtin::netlink::spent;
use crate::builtin::tables::ground::{at, forward, link};
use crate::builtin::tables::netns::{Netns, on_own_host, sh};

fn owner(network: &str, container: &str) -> Owner {
    Owner { network: network.into(), container_id: container.into(), ifname: "eth0".into() }
}

fn cidrs(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| Cidr::parse(text).unwrap()).collect()
}

#[test]
fn what_leaves_the_subnet_has_the_hosts_address_and_nothing_else() {
    on_own_host(|| async {
        forward();
        let before = sh("nft list ruleset");
        let (one, other, world) = (Netns::new(), Netns::new(), Netns::new());
        // Two pods of a subnet that lies behind two links, so that what goes between them is routed, too.
        link(&one, "one", &["10.1.0.1", "fd01::1"], &["10.1.0.2", "fd01::2"]);
        link(&other, "other", &["10.1.0.1", "fd01::1"], &["10.1.0.3", "fd01::3"]);
        link(&world, "world", &["192.0.2.1", "2001:db8::1"], &["192.0.2.2", "2001:db8::2"]);
        world.tcp_server("[::]:80");
        other.tcp_server("[::]:80");
        let seen = |from: &Netns, to| from.ask_tcp(at(to)).map(|seen| seen.to_canonical().to_string());
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(seen(&one, "192.0.2.2:80"), ok("10.1.0.2"), "not asked for");
        let addresses = cidrs(&["10.1.0.2/16", "fd01::2/64"]);
        for _ in 0..2 {
            add(&owner("n", "one"), &addresses).unwrap();
        }
        check(&owner("n", "one"), &addresses).unwrap();
        assert_eq!(seen(&one, "192.0.2.2:80"), ok("192.0.2.1"));
        assert_eq!(seen(&one, "[2001:db8::2]:80"), ok("2001:db8::1"));
        assert_eq!(seen(&one, "10.1.0.3:80"), ok("10.1.0.2"), "within the subnet");
        assert_eq!(seen(&one, "[fd01::3]:80"), ok("fd01::2"), "within the subnet");
        assert_eq!(seen(&other, "192.0.2.2:80"), ok("10.1.0.3"), "another's");
        let shown = sh("nft list map ip knarr masqueraded; nft list map ip6 knarr masqueraded");
        for line in [
            "10.1.0.2 comment \"n/one/eth0\" : goto masquerade-10.1.0.0/16",
            "fd01::2 comment \"n/one/eth0\" : goto masquerade-fd01--/64",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
        remove(&owner("n", "one")).unwrap();
        assert!(!sh("nft list ruleset").contains("10.1.0.0"), "the chain goes with its last user");
        tables::clear_if_unused().unwrap();
        assert_eq!(sh("nft list ruleset"), before);
        assert!(matches!(check(&owner("n", "one"), &addresses), Err(Error::Unlike { .. })));
        remove(&owner("n", "one")).unwrap();
    });
}

#[test]
fn an_address_is_its_last_owners_and_a_collection_keeps_who_is_valid() {
    on_own_host(|| async {
        let before = sh("nft list ruleset");
        let addresses = cidrs(&["10.1.0.2/16"]);
        add(&owner("n", "gone"), &addresses).unwrap();
        add(&owner("n", "one"), &addresses).unwrap();
        remove(&owner("n", "gone")).unwrap();
        check(&owner("n", "one"), &addresses).unwrap();
        add(&owner("n", "two"), &cidrs(&["10.1.0.3/16"])).unwrap();
        add(&owner("other", "three"), &cidrs(&["10.2.0.3/16"])).unwrap();
        let one = AttachmentId { container_id: "one".into(), ifname: "eth0".into() };
        retain("n", &[one].into()).unwrap();
        check(&owner("n", "one"), &addresses).unwrap();
        check(&owner("other", "three"), &cidrs(&["10.2.0.3/16"])).unwrap();
        check(&owner("n", "two"), &cidrs(&["10.1.0.3/16"])).unwrap_err();
        retain("n", &HashSet::new()).unwrap();
        tables::clear_if_unused().unwrap();
        check(&owner("other", "three"), &cidrs(&["10.2.0.3/16"])).unwrap();
        retain("other", &HashSet::new()).unwrap();
        tables::clear_if_unused().unwrap();
        assert_eq!(sh("nft list ruleset"), before);
    });
}

#[test]
fn what_others_take_away_is_noticed_and_made_again() {
    on_own_host(|| async {
        let addresses = cidrs(&["10.1.0.2/16"]);
        let installed = || tables::is_installed(addresses.iter().map(|cidr| cidr.address)).unwrap();
        assert!(!installed());
        for flush in ["nft flush ruleset", "nft flush table ip knarr", "nft delete table ip knarr"] {
            add(&owner("n", "one"), &addresses).unwrap();
            assert!(installed());
            sh(flush);
            assert!(!installed(), "{flush}");
            check(&owner("n", "one"), &addresses).unwrap_err();
        }
    });
}

/// A map of hundreds isn't listed for one of them, nor to see whether there is any at all.
#[test]
fn it_costs_the_same_however_many_others_there_are() {
    on_own_host(|| async {
        let before = sh("nft list ruleset");
        let addresses = cidrs(&["10.1.0.2/16", "fd01::2/64"]);
        let mut costs = HashSet::new();
        for others in [1, 500] {
            let other = |n: u32| Cidr { address: Ipv4Addr::from_bits(0x0a01_0100 + n).into(), prefix: 16 };
            let others: Vec<Cidr> = (0..others).map(other).chain(cidrs(&["fd01::3/64"])).collect();
            add(&owner("n", "others"), &others).unwrap();
            costs.insert([
                spent::by(|| add(&owner("n", "one"), &addresses).unwrap()),
                spent::by(|| check(&owner("n", "one"), &addresses).unwrap()),
                spent::by(|| assert!(remove_of(&owner("n", "one"), &addresses).unwrap())),
                spent::by(|| tables::clear_if_unused().unwrap()),
            ]);
            // The others' chains have stayed, and go with the last.
            assert!(sh("nft list ruleset").contains("masquerade-10.1.0.0/16"));
            assert!(!remove_of(&owner("n", "one"), &addresses).unwrap(), "there is none any more");
            assert!(remove_of(&owner("n", "others"), &others).unwrap());
            assert!(!sh("nft list ruleset").contains("masquerade-"));
            tables::clear_if_unused().unwrap();
            assert_eq!(sh("nft list ruleset"), before);
        }
        assert_eq!(costs.len(), 1, "{costs:?}");
    });
}

#[test]
fn a_chain_that_somebody_emptied_is_filled_anew() {
    on_own_host(|| async {
        let chain = || sh("nft list chain ip knarr masquerade-10.1.0.0/16");
        add(&owner("n", "one"), &cidrs(&["10.1.0.2/16"])).unwrap();
        let whole = chain();
        sh("nft flush table ip knarr");
        add(&owner("n", "one"), &cidrs(&["10.1.0.2/16"])).unwrap();
        assert_eq!(chain(), whole);
    });
}

#[test]
fn a_rule_of_others_in_our_tables_keeps_nobody() {
    on_own_host(|| async {
        let before = sh("nft list ruleset");
        let addresses = cidrs(&["10.1.0.2/16"]);
        add(&owner("n", "one"), &addresses).unwrap();
        sh("nft add rule ip knarr postrouting ip saddr 10.1.0.9 jump masquerade-10.1.0.0/16");
        remove(&owner("n", "one")).unwrap();
        let chain = || sh("nft list chain ip knarr masquerade-10.1.0.0/16");
        assert!(!sh("nft list map ip knarr masqueraded").contains("n/one"));
        let left = chain();
        // The chain that stayed is as good as a new one.
        add(&owner("n", "other"), &addresses).unwrap();
        check(&owner("n", "other"), &addresses).unwrap();
        assert_eq!(chain(), left);
        remove(&owner("n", "other")).unwrap();
        tables::clear_if_unused().unwrap();
        assert_eq!(sh("nft list ruleset"), before);
    });
}
