//! Who reaches a host port, from where, and as whom.

use super::*;

#[test]
fn a_host_port_answers_from_everywhere_and_leaves_nothing() {
    on_own_host(|| async {
        forward();
        bridge();
        let (host, world, server, other) = (Netns::current(), world(), pod(2), pod(3));
        let before = ruleset();
        let printed = add_to("c", 2, web()).unwrap().unwrap();
        assert_eq!(printed["ips"][0]["address"], "10.1.0.2/16", "the result is passed on");
        for (of_host, of_world) in [("192.0.2.1", "192.0.2.2"), ("[2001:db8::1]", "2001:db8::2")] {
            let target = at(&format!("{of_host}:8080"));
            assert_eq!(plain(world.ask_tcp(target)), Ok(of_world.into()), "source kept");
            assert_eq!(plain(world.ask_udp(target)), Ok(of_world.into()), "source kept");
            host.ask_tcp(target).expect("from the host itself");
            // Whether what goes within the bridge passes the rules or not.
            for filtered in [0, 1] {
                let names =
                    ["iptables", "ip6tables"].map(|of| format!("net.bridge.bridge-nf-call-{of}={filtered}"));
                sh(&format!("sysctl -qw {} || true", names.join(" ")));
                other.ask_tcp(target).unwrap_or_else(|error| panic!("another pod, {filtered}: {error}"));
                server.ask_tcp(target).unwrap_or_else(|error| panic!("itself, {filtered}: {error}"));
                server.ask_udp(target).unwrap_or_else(|error| panic!("itself, {filtered}: {error}"));
            }
        }
        host.ask_tcp(at("127.0.0.1:8080")).expect("by the host's loopback");
        host.ask_udp(at("127.0.0.1:8080")).expect("by the host's loopback");
        let shown = ruleset();
        for entry in [
            "sctp . 8081 comment \"n/c/eth0\" : 10.1.0.2 . 80",
            "sctp . 8081 comment \"n/c/eth0\" : fd01::2 . 80",
            "tcp . 10.1.0.2 . 80 . 8080 comment \"n/c/eth0\" : jump hairpin-10.1.0.0/16",
            "\"br0\" comment \"route_localnet\"",
        ] {
            assert!(shown.contains(entry), "{entry}: {shown}");
        }
        del("c");
        assert_eq!(ruleset(), before);
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/br0/route_localnet").trim(), "0");
        world.ask_tcp(at("192.0.2.1:8080")).unwrap_err();
        del("c");
    });
}

#[test]
fn nobody_waits_at_the_hosts_ipv6_loopback() {
    on_own_host(|| async {
        forward();
        bridge();
        let (host, _server) = (Netns::current(), pod(2));
        add_to("c", 2, web()).unwrap();
        // A time-out would keep who tries ::1 before 127.0.0.1 for long.
        let error =
            host.run(|| TcpStream::connect_timeout(&at("[::1]:8080"), Duration::from_secs(5))).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let refused = add_to("d", 3, json!([{"hostPort": 8085, "containerPort": 80, "hostIP": "::1"}]));
        assert!(matches!(refused, Err(Error::PortMapping { .. })));
    });
}

#[test]
fn pods_on_links_of_their_own_are_reached_too() {
    on_own_host(|| async {
        forward();
        let (host, world, server, other) = (Netns::current(), world(), Netns::new(), Netns::new());
        link(&server, "server", &["10.1.0.1", "fd01::1"], &["10.1.0.2", "fd01::2"]);
        link(&other, "other", &["10.1.0.1", "fd01::1"], &["10.1.0.3", "fd01::3"]);
        server.tcp_server("[::]:80");
        let mapping = json!([{"hostPort": 8080, "containerPort": 80}]);
        let request = |command| {
            let mapping = mapped(mapping.clone());
            call(command, "c", &["10.1.0.2/32", "fd01::2/128"], mapping)
        };
        run(&request(Command::Add)).unwrap();
        assert_eq!(plain(world.ask_tcp(at("192.0.2.1:8080"))), Ok("192.0.2.2".into()));
        assert_eq!(
            plain(other.ask_tcp(at("10.1.0.1:8080"))),
            Ok("10.1.0.3".into()),
            "nothing bypasses us here"
        );
        assert_eq!(plain(other.ask_tcp(at("[fd01::1]:8080"))), Ok("fd01::3".into()));
        server.ask_tcp(at("192.0.2.1:8080")).expect("itself");
        server.ask_tcp(at("[2001:db8::1]:8080")).expect("itself");
        host.ask_tcp(at("127.0.0.1:8080")).expect("by the host's loopback");
        assert_ne!(sh("cat /proc/sys/net/ipv4/conf/server/route_localnet").trim(), "0");
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/other/route_localnet").trim(), "0");
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/world/route_localnet").trim(), "0");
        run(&request(Command::Check)).unwrap();
        run(&request(Command::Del)).unwrap();
        assert!(matches!(run(&request(Command::Check)), Err(Error::Unlike { .. })));
    });
}

#[test]
fn a_host_port_of_one_address_answers_there_only() {
    on_own_host(|| async {
        forward();
        bridge();
        let (host, world, one, _other) = (Netns::current(), world(), pod(2), pod(3));
        sh("ip address add 192.0.2.9/32 dev world");
        world.run(|| sh("ip route add 192.0.2.9 via 192.0.2.1"));
        one.tcp_server("[::]:81");
        let of = |address: &str, port: u16, to: u16| json!({"hostPort": port, "containerPort": to, "hostIP": address});
        let mappings = [of("192.0.2.9", 8080, 81), of("0.0.0.0", 8082, 80), of("127.0.0.1", 8083, 80)];
        add_to("c", 2, json!(mappings)).unwrap();
        world.ask_tcp(at("192.0.2.9:8080")).unwrap();
        world.ask_tcp(at("192.0.2.1:8080")).unwrap_err();
        world.ask_tcp(at("192.0.2.1:8082")).unwrap();
        host.ask_tcp(at("127.0.0.1:8083")).unwrap();
        world.ask_tcp(at("192.0.2.1:8083")).unwrap_err();
        // The port of all addresses is the same, and refused to another in either order; the pod itself may have both.
        let refused = add_to("other", 3, json!([of("", 8080, 80)]));
        assert!(matches!(refused, Err(Error::HostPortTaken { port: 8080, .. })));
        let refused = add_to("other", 3, json!([of("192.0.2.1", 8082, 80)]));
        assert!(matches!(refused, Err(Error::HostPortTaken { port: 8082, .. })));
        add_to("other", 3, json!([of("192.0.2.1", 8080, 80), of("::ffff:192.0.2.1", 8084, 80)])).unwrap();
        world.ask_tcp(at("192.0.2.1:8080")).unwrap();
        world.ask_tcp(at("192.0.2.1:8084")).unwrap();
        assert!(!sh("nft list ruleset").contains("fd01::2 . 80"), "{}", ruleset());
        del("other");
        add_to("c", 2, json!([of("192.0.2.9", 8080, 81), of("", 8080, 80)])).unwrap();
        world.ask_tcp(at("192.0.2.9:8080")).unwrap();
        world.ask_tcp(at("192.0.2.1:8080")).unwrap();
    });
}

#[test]
fn what_comes_by_anothers_rule_keeps_its_source() {
    on_own_host(|| async {
        forward();
        bridge();
        let (_server, client) = (pod(2), pod(3));
        add_to("c", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        // As a service's rule does, to the very port; answers on a bridge come back through it only with br_netfilter.
        sh("sysctl -qw net.bridge.bridge-nf-call-iptables=1");
        sh(
            "nft 'table ip services { chain c { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 tcp dport 90 dnat to 10.1.0.2:80; }; }'",
        );
        assert_eq!(plain(client.ask_tcp(at("10.96.0.1:90"))), Ok("10.1.0.3".into()));
        assert_eq!(plain(client.ask_tcp(at("10.1.0.1:8080"))), Ok("10.1.0.1".into()));
    });
}

#[test]
fn whose_source_changes_is_the_configurations_to_say() {
    on_own_host(|| async {
        forward();
        bridge();
        let (host, world, server) = (Netns::current(), world(), pod(2));
        let with = |field: &str, value: bool| {
            let mut config = mapped(json!([{"hostPort": 8080, "containerPort": 80}]));
            config[field] = value.into();
            run(&call(Command::Add, "c", &["10.1.0.2/16"], config)).unwrap();
        };
        with("snat", false);
        assert_eq!(plain(world.ask_tcp(at("192.0.2.1:8080"))), Ok("192.0.2.2".into()));
        let refused = host.run(|| TcpStream::connect_timeout(&at("127.0.0.1:8080"), Duration::from_secs(1)));
        refused.map(drop).unwrap_err();
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/br0/route_localnet").trim(), "0");
        with("masqAll", true);
        assert_eq!(plain(world.ask_tcp(at("192.0.2.1:8080"))), Ok("10.1.0.1".into()));
        host.ask_tcp(at("127.0.0.1:8080")).unwrap();
        server.ask_tcp(at("192.0.2.1:8080")).unwrap();
        assert!(!ruleset().contains("hairpin-10"));
        with("snat", true);
        assert_eq!(plain(world.ask_tcp(at("192.0.2.1:8080"))), Ok("192.0.2.2".into()));
        assert!(!ruleset().contains("hairpin-all"));
    });
}

#[test]
fn the_hosts_loopback_is_shut_to_pods() {
    on_own_host(|| async {
        forward();
        bridge();
        let (host, neighbour) = (Netns::current(), pod(3));
        host.tcp_server("127.0.0.1:9000");
        neighbour.run(|| {
            sh("ip route add 127.0.0.1/32 via 10.1.0.1 table 5; ip rule add pref 0 to 127.0.0.1 table 5");
            sh("ip rule add pref 1 table local; ip rule del pref 0 table local; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
        });
        // What is dropped is waited for in vain; a second, as the answers here come at once.
        let shut = |when: &str| {
            let connect = || TcpStream::connect_timeout(&at("127.0.0.1:9000"), Duration::from_secs(1));
            neighbour.run(|| connect().map(drop)).expect_err(when);
        };
        sh("echo 1 > /proc/sys/net/ipv4/conf/br0/route_localnet");
        neighbour.ask_tcp(at("127.0.0.1:9000")).expect("as it would be without us");
        sh("echo 0 > /proc/sys/net/ipv4/conf/br0/route_localnet");
        add_to("c", 2, web()).unwrap();
        shut("with host ports");
        crate::builtin::masquerade::add(
            &Owner { network: "n".into(), container_id: "d".into(), ifname: "eth0".into() },
            &[Cidr::parse("10.1.0.3/16").unwrap()],
        )
        .unwrap();
        del("c");
        shut("while the table is there for others");
        crate::builtin::masquerade::retain("n", &HashSet::new()).unwrap();
        tables::clear_if_unused().unwrap();
        shut("without a table");
    });
}
