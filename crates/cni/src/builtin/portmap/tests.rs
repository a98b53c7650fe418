use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::builtin::tables::ground::{at, bridge, forward, link, port, world};
use crate::builtin::tables::netns::{Netns, on_own_host, sh};

/// A call about a pod of the network `n` with these addresses.
fn call(command: Command, container: &str, ips: &[&str], config: Value) -> Request {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"address": ip, "interface": 1})).collect();
    let interfaces = json!([{"name": "br0"}, {"name": "eth0", "sandbox": "/x"}]);
    let mut whole = json!({"cniVersion": "1.1.0", "name": "n", "type": "portmap",
        "prevResult": {"cniVersion": "1.1.0", "interfaces": interfaces, "ips": ips}});
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Request {
        container_id: container.into(),
        ifname: "eth0".into(),
        ..Request::about_network("portmap", command, whole.as_object().unwrap().clone())
    }
}

fn mapped(mappings: Value) -> Value {
    json!({"runtimeConfig": {"portMappings": mappings}})
}

fn both(number: u8) -> [String; 2] {
    [format!("10.1.0.{number}/16"), format!("fd01::{number}/64")]
}

fn add_to(container: &str, number: u8, mappings: Value) -> Result<Option<Value>, Error> {
    let ips = both(number);
    run(&call(Command::Add, container, &[&ips[0], &ips[1]], mapped(mappings)))
}

/// As after a crash: without a result.
fn del(container: &str) {
    let mut request = call(Command::Del, container, &[], mapped(json!([])));
    request.config.remove("prevResult");
    run(&request).unwrap();
    tables::clear_if_unused().unwrap();
}

fn ruleset() -> String {
    sh("nft list ruleset")
}

/// A pod at the bridge with servers for both transports on port 80.
fn pod(number: u8) -> Netns {
    let netns = Netns::new();
    port(&netns, number);
    netns.tcp_server("[::]:80");
    netns.udp_server("[::]:80");
    netns
}

/// Whom a server saw; IPv4 seen through a dual-stack socket is mapped.
fn plain(seen: Result<IpAddr, String>) -> Result<String, String> {
    seen.map(|address| address.to_canonical().to_string())
}

fn web() -> Value {
    json!([{"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": ""},
        {"hostPort": 8081, "containerPort": 80, "protocol": "sctp"},
        {"hostPort": 0, "containerPort": 81}, {"containerPort": 82}])
}

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
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/server/route_localnet").trim(), "1");
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
fn a_taken_host_port_is_refused_with_all_others_of_the_request() {
    on_own_host(|| async {
        bridge();
        add_to("first", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        let before = ruleset();
        let wanted =
            json!([{"hostPort": 8083, "containerPort": 80}, {"hostPort": 8080, "containerPort": 80}]);
        for _ in 0..2 {
            let error = add_to("second", 3, wanted.clone()).unwrap_err();
            assert!(matches!(error, Error::HostPortTaken { port: 8080, protocol: "tcp" }), "{error}");
            // What undoes the failed one touches nothing of the first.
            del("second");
            assert_eq!(ruleset(), before);
        }
        add_to("first", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        assert_eq!(ruleset(), before, "the same again");
        del("first");
        add_to("second", 3, wanted).unwrap();
    });
}

#[test]
fn an_address_that_came_back_belongs_to_who_has_it_now() {
    on_own_host(|| async {
        bridge();
        add_to("gone", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        // Its address was given to another without a DEL.
        add_to("new", 2, json!([])).unwrap();
        assert!(!ruleset().contains("8080"));
        add_to("newer", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        del("gone");
        del("new");
        assert!(ruleset().contains("n/newer/eth0"));
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
fn datagrams_from_one_port_find_the_pod_that_is_there() {
    on_own_host(|| async {
        forward();
        bridge();
        let world = world();
        let _pods = [pod(2), pod(3)];
        // So that connections are remembered from the beginning.
        add_to("keeper", 9, json!([{"hostPort": 9999, "containerPort": 80, "protocol": "udp"}])).unwrap();
        for (of_host, of_world) in [("192.0.2.1", "192.0.2.2"), ("[2001:db8::1]", "[2001:db8::2]")] {
            let client = world.run(|| UdpSocket::bind(format!("{of_world}:4000")).unwrap());
            client.connect(format!("{of_host}:8080")).unwrap();
            // The kernel looks for a new neighbour once a second.
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let ask = || client.send(b"?").and_then(|_| client.recv(&mut [0; 100]));
            for number in [2, 3] {
                assert_eq!(
                    ask().unwrap_err().kind(),
                    std::io::ErrorKind::ConnectionRefused,
                    "before {number}"
                );
                let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]);
                add_to("c", number, mapping).unwrap();
                ask().unwrap_or_else(|error| panic!("{number}: {error}"));
                del("c");
            }
            assert_eq!(ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "after both");
        }
    });
}

#[test]
fn only_connections_that_went_to_the_pod_are_forgotten() {
    on_own_host(|| async {
        forward();
        bridge();
        let (world, server) = (world(), pod(2));
        let udp = json!([{"hostPort": 53, "containerPort": 80, "protocol": "udp"}]);
        world.udp_server("[::]:53");
        add_to("keeper", 9, json!([{"hostPort": 9999, "containerPort": 80, "protocol": "udp"}])).unwrap();
        let listed = || sh("conntrack -L -p udp --orig-port-dst 53 2>/dev/null");
        let passing = || listed().lines().filter(|line| line.contains("dst=192.0.2.2")).count();
        server.ask_udp(at("192.0.2.2:53")).unwrap();
        assert_eq!(passing(), 1);
        add_to("c", 3, udp.clone()).unwrap();
        assert_eq!(passing(), 1, "what passes the host isn't meant for it");
        del("c");
        add_to("c", 2, udp.clone()).unwrap();
        world.ask_udp(at("192.0.2.1:53")).unwrap();
        let ours = || listed().lines().filter(|line| line.contains("dst=192.0.2.1 ")).count();
        assert_eq!(ours(), 1);
        add_to("c", 2, udp.clone()).unwrap();
        assert_eq!(ours(), 1, "what goes there already stays");
        del("c");
        assert_eq!((ours(), passing()), (0, 1));
        // Told by the configuration alone, as by a DEL that comes after one which was cut short.
        add_to("c", 2, udp.clone()).unwrap();
        world.ask_udp(at("192.0.2.1:53")).unwrap();
        tables::withdraw(MAPS, |of| of == "n/c/eth0").unwrap();
        assert_eq!(ours(), 1);
        run(&call(Command::Del, "c", &["10.1.0.2/16"], mapped(udp.clone()))).unwrap();
        assert_eq!(ours(), 0);
        // But not when it is another's by now.
        add_to("new", 2, udp.clone()).unwrap();
        world.ask_udp(at("192.0.2.1:53")).unwrap();
        run(&call(Command::Del, "c", &["10.1.0.2/16"], mapped(udp))).unwrap();
        assert_eq!(ours(), 1);
    });
}

#[test]
fn a_connection_to_a_pod_that_is_gone_ends_instead_of_reaching_the_next() {
    on_own_host(|| async {
        forward();
        bridge();
        let (world, server) = (world(), pod(2));
        let listener = server.run(|| TcpListener::bind("0.0.0.0:90").unwrap());
        add_to("keeper", 9, json!([{"hostPort": 9999, "containerPort": 80}])).unwrap();
        add_to("c", 2, json!([{"hostPort": 8090, "containerPort": 90}])).unwrap();
        let mut client = world.run(|| TcpStream::connect("192.0.2.1:8090").unwrap());
        let _server = listener.accept().unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        del("c");
        client.write_all(b"x").unwrap();
        let error = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    });
}

#[test]
fn thousands_of_host_ports_are_mapped_at_once() {
    on_own_host(|| async {
        forward();
        bridge();
        let (world, _server) = (world(), pod(2));
        let before = ruleset();
        for count in [2000, 6000] {
            let mapping = |n: u32| json!({"hostPort": 10_000 + n, "containerPort": 80});
            let mappings: Vec<Value> = (0..count).map(mapping).collect();
            add_to("c", 2, json!(mappings)).unwrap();
            for port in [10_000, 10_000 + count - 1] {
                world.ask_tcp(at(&format!("192.0.2.1:{port}"))).unwrap();
                world.ask_tcp(at(&format!("[2001:db8::1]:{port}"))).unwrap();
            }
            // One too many: none of as many others.
            let mapping = |n: u32| json!({"hostPort": 9_999 - n, "containerPort": 80});
            let mappings: Vec<Value> = (0..count.min(2000))
                .map(mapping)
                .chain([json!({"hostPort": 10_000, "containerPort": 80})])
                .collect();
            assert!(matches!(
                add_to("d", 3, json!(mappings)),
                Err(Error::HostPortTaken { port: 10_000, .. })
            ));
            assert!(!ruleset().contains("n/d/eth0"));
            del("c");
            assert_eq!(ruleset(), before);
        }
    });
}

#[test]
fn a_collection_keeps_who_is_valid_and_whoever_flushed_is_mended() {
    on_own_host(|| async {
        bridge();
        let before = ruleset();
        let web = |port: u16| json!([{"hostPort": port, "containerPort": 80}]);
        add_to("one", 2, web(8080)).unwrap();
        add_to("two", 3, web(8081)).unwrap();
        let collect = |valid: Value| {
            let config = json!({"name": "n", "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid});
            let config = config.as_object().unwrap().clone();
            run(&Request::about_network("portmap", Command::Gc, config)).unwrap();
            tables::clear_if_unused().unwrap();
        };
        collect(json!([{"containerID": "one", "ifname": "eth0"}]));
        assert!(ruleset().contains("8080") && !ruleset().contains("8081"));
        let (whole, pod): (_, IpAddr) = (ruleset(), [10, 1, 0, 2].into());
        sh("nft flush ruleset");
        assert!(!tables::is_installed([pod]).unwrap());
        add_to("one", 2, web(8080)).unwrap();
        assert!(tables::is_installed([pod]).unwrap());
        assert_eq!(ruleset(), whole);
        // What was listed can be loaded.
        sh(
            "nft list ruleset > /dev/shm/$$.nft; nft flush ruleset; nft -f /dev/shm/$$.nft; status=$?; rm /dev/shm/$$.nft; exit $status",
        );
        assert_eq!(ruleset(), whole);
        collect(json!([]));
        assert_eq!(ruleset(), before);
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
        add_to("c", 2, web()).unwrap();
        shut("with host ports");
        super::super::masquerade::add(
            &Owner { network: "n".into(), container_id: "d".into(), ifname: "eth0".into() },
            &[Cidr::parse("10.1.0.3/16").unwrap()],
        )
        .unwrap();
        del("c");
        shut("while the table is there for others");
        super::super::masquerade::retain("n", &HashSet::new()).unwrap();
        tables::clear_if_unused().unwrap();
        shut("without a table");
    });
}

#[test]
fn of_many_who_want_a_host_port_at_once_one_gets_it() {
    on_own_host(|| async {
        bridge();
        let before = ruleset();
        let host = Netns::current();
        for _ in 0..10 {
            let won = std::thread::scope(|scope| {
                let attempt = |number: u8| {
                    let host = &host;
                    let mappings = json!([{"hostPort": 7000 + u16::from(number), "containerPort": 80}, {"hostPort": 8080, "containerPort": 80}]);
                    scope.spawn(move || host.run(|| add_to(&format!("c{number}"), number, mappings).is_ok()))
                };
                let attempts: Vec<_> = (10..18).map(attempt).collect();
                attempts.into_iter().filter_map(|attempt| attempt.join().unwrap().then_some(())).count()
            });
            assert_eq!(won, 1);
            // Two entries in each family, all of one owner.
            let owners: HashSet<String> =
                ruleset().split("comment \"n/").skip(1).map(|rest| rest[..3].to_owned()).collect();
            assert_eq!((ruleset().matches("comment \"n/").count(), owners.len()), (8, 1));
            (10..18).for_each(|number: u8| del(&format!("c{number}")));
            assert_eq!(ruleset(), before);
        }
    });
}

#[test]
fn what_cannot_be_honoured_is_named() {
    let served = |config: Value| serves(config.as_object().unwrap()).map_err(|unserved| unserved.field);
    for config in [
        json!({}),
        json!({"backend": "nftables", "conditionsV4": null, "conditionsV6": [], "markMasqBit": 5, "snat": true}),
    ] {
        assert_eq!(served(config), Ok(()));
    }
    for (config, field) in [
        (json!({"backend": "iptables"}), "backend: iptables"),
        (json!({"backend": 1}), "backend: ?"),
        (json!({"conditionsV4": ["!", "-d", "192.0.2.0/24"]}), "conditionsV4"),
        (json!({"conditionsV6": "x"}), "conditionsV6"),
        (json!({"conditionsv4": ["!", "-d", "192.0.2.0/24"]}), "conditionsV4"),
        (json!({"Backend": "iptables"}), "backend: iptables"),
        (json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}), "externalSetMarkChain"),
    ] {
        assert_eq!(served(config), Err(field.to_owned()));
    }
}

#[test]
fn whose_source_is_changed_is_found_in_any_case() {
    for (config, whose) in [
        (json!({}), Snat::Near),
        (json!({"SNAT": false}), Snat::Nobodys),
        (json!({"masqall": true}), Snat::Everybodys),
        (json!({"snat": null, "MasqAll": null}), Snat::Near),
    ] {
        assert_eq!(snat(&call(Command::Add, "c", &[], config.clone())).unwrap(), whose, "{config}");
    }
}

#[test]
fn what_is_wrong_with_a_configuration_is_said() {
    let refused = |config: Value| match run(&call(Command::Add, "c", &["10.1.0.2/16"], config)).unwrap_err() {
        Error::PluginConf { problem, .. } => problem,
        other => panic!("{other}"),
    };
    for (mapping, words) in [
        (json!({"hostPort": 80, "containerPort": 0}), "containerPort is 0"),
        (json!({"hostPort": 70000, "containerPort": 80}), "70000"),
        (json!({"hostPort": -1, "containerPort": 80}), "-1"),
        (json!({"hostPort": 80}), "containerPort"),
        (json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}), "'icmp'"),
        (json!({"hostPort": 80, "containerPort": 80, "hostIP": "localhost"}), "'localhost'"),
    ] {
        let problem = refused(mapped(json!([mapping])));
        assert!(problem.contains("portMappings") && problem.contains(words), "{problem}");
    }
    let twice = json!([{"hostPort": 80, "containerPort": 80}, {"hostPort": 80, "containerPort": 81}]);
    let refusal = add_to("c", 2, twice).unwrap_err().to_string();
    assert_eq!(refusal, "host port 80/tcp is to lead to two ports");
    assert!(refused(json!({"markMasqBit": 32})).contains("markMasqBit"));
    assert!(refused(json!({"snat": "yes"})).contains("snat"));
    assert!(refused(json!({"prevResult": null})).contains("prevResult"));
}

#[test]
fn the_pods_addresses_are_those_of_the_interface_one_of_each_family() {
    let interfaces =
        json!([{"name": "eth0"}, {"name": "eth0", "sandbox": "/x"}, {"name": "eth1", "sandbox": "/x"}]);
    let ips = json!([
        {"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.2/24", "interface": 2},
        {"address": "10.0.0.3/24", "interface": 1}, {"address": "10.0.0.4/24"}, {"address": "fd00::5/64"}]);
    let previous = json!({"cniVersion": "1.0.0", "interfaces": interfaces, "ips": ips});
    let request = call(Command::Add, "c", &[], json!({"prevResult": previous}));
    let found = addresses(&request, &request.previous().unwrap().unwrap());
    let shown: Vec<String> = found.iter().map(Cidr::to_string).collect();
    assert_eq!(shown, ["10.0.0.3/24", "fd00::5/64"]);
}
