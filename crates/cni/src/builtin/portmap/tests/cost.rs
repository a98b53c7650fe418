//! What it costs, in requests to the kernel and in what is read of it, however many others there are on the node.

use super::*;
use crate::attachment::{Attachment, PortMapping};
use crate::builtin::netlink::spent;
use crate::carrier::{Carrier, Means};
use crate::network::Chain;
use crate::plugin::Runner;

/// Another pod with so many host ports.
fn add_other(count: u16) {
    let mapping = |n: u16| json!({"hostPort": 10_000 + n, "containerPort": 80});
    add_to("other", 9, json!((0..count).map(mapping).collect::<Vec<_>>())).unwrap();
}

#[test]
fn a_pod_without_host_ports_costs_a_question_a_family_however_many_others_have_some() {
    on_own_host(|| async {
        bridge();
        let ips = both(2);
        let request =
            |command| call(command, "c", &[&ips[0], &ips[1]], mapped(json!([{"containerPort": 80}])));
        for others in [0, 5, 500] {
            add_other(others);
            for (command, most) in [(Command::Add, 2), (Command::Check, 0), (Command::Del, 2)] {
                let (requests, receipts) = spent::by(|| run(&request(command)).unwrap());
                assert!(
                    requests <= most && receipts <= most,
                    "{command:?}, {others}: {requests}, {receipts}"
                );
            }
            let (requests, receipts) = spent::by(|| cut(&request(Command::Del)).unwrap());
            assert!(requests <= 2 && receipts <= 2, "first half, {others}: {requests}, {receipts}");
            del("other");
        }
    });
}

#[test]
fn host_ports_are_withdrawn_though_a_detach_tells_of_none() {
    on_own_host(|| async {
        bridge();
        let before = ruleset();
        add_to("c", 2, web()).unwrap();
        for (container, ips) in [("other", vec!["10.1.0.2/16"]), ("c", vec!["10.1.0.2/16"])] {
            run(&call(Command::Del, container, &ips, json!({}))).unwrap();
            assert_eq!(ruleset().contains("8080"), container == "other");
        }
        tables::clear_if_unused().unwrap();
        // Nor does one whose result another plugin has rid of its addresses.
        add_to("c", 2, web()).unwrap();
        run(&call(Command::Del, "c", &[], json!({}))).unwrap();
        tables::clear_if_unused().unwrap();
        assert_eq!(ruleset(), before);
    });
}

/// What somebody puts there between the halves, which nobody does, shows whether the second looks.
#[test]
fn what_the_first_half_of_a_detach_withdrew_the_second_does_not_look_for() {
    on_own_host(|| async {
        bridge();
        let conf = json!({"cniVersion": "1.1.0", "name": "n",
            "plugins": [{"type": "portmap", "capabilities": {"portMappings": true}}]});
        let conf = crate::conf::parse(std::path::Path::new("n"), &conf).unwrap();
        let carrier = Carrier { runner: Runner::default(), means: Means::Native };
        let (host_port, container_port) = (8080, 80);
        let mapping = PortMapping { host_port, container_port, protocol: Protocol::Tcp, host_ip: None };
        let attachment = Attachment {
            container_id: "c".into(),
            ifname: "eth0".into(),
            port_mappings: vec![mapping],
            ..Attachment::default()
        };
        let chain = Chain { conf: &conf, carrier: &carrier, attachment: &attachment };
        let ips = both(2);
        let added = call(Command::Add, "c", &[&ips[0], &ips[1]], json!({})).config["prevResult"].clone();
        let mapped = || add_to("c", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        mapped();
        assert!(chain.cut(Some(&added)).await.is_empty());
        assert!(!ruleset().contains("8080"));
        mapped();
        assert!(chain.del_after_cut(Some(&added)).await.is_empty());
        assert!(ruleset().contains("8080"));
        // Who doesn't know of the first half does both.
        assert!(chain.del(Some(&added)).await.is_empty());
        assert!(!ruleset().contains("8080"));
    });
}

/// The kernel tells of none but those that may be meant, and what it tells isn't kept.
#[test]
fn connections_of_others_are_not_listed() {
    on_own_host(|| async {
        bridge();
        add_to("keeper", 9, json!([{"hostPort": 9999, "containerPort": 80}])).unwrap();
        for of in ["udp", "tcp"] {
            let way = json!([{"hostPort": 53, "containerPort": 80, "protocol": of}]);
            let mut costs = HashSet::new();
            for others in [10, 2000] {
                remember(of, others);
                let add = spent::by(|| add_to("c", 2, way.clone()).unwrap());
                let del = spent::by(|| drop(super::super::cut(&removal(way.clone()))));
                costs.insert((add, del));
                let listed = |family| sh(&format!("conntrack -L -f {family} -p {of} 2>/dev/null"));
                let left = ["ipv4", "ipv6"].map(|family| listed(family).lines().count());
                assert_eq!(left, [others; 2], "others' are left alone");
                sh("conntrack -F 2>/dev/null");
            }
            assert_eq!(costs.len(), 1, "{of}: {costs:?}");
        }
    });
}

fn removal(way: Value) -> Request {
    let ips = both(2);
    call(Command::Del, "c", &[&ips[0], &ips[1]], mapped(way))
}

/// Has the kernel remember so many connections of each family that the host has nothing to do with.
fn remember(protocol: &str, count: usize) {
    let state = if protocol == "tcp" { "--state ESTABLISHED" } else { "" };
    let mut lines = String::new();
    for (from, to) in [("192.0.2.2", "198.51.100.1"), ("2001:db8::2", "2001:db8:1::1")] {
        for port in 20_000..20_000 + count {
            lines += &format!(
                "-I -p {protocol} -s {from} -d {to} -r {to} -q {from} --sport {port} --dport 54 \
                 --reply-port-src 54 --reply-port-dst {port} -t 600 {state}\n"
            );
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    sh(&format!("conntrack -R {} >/dev/null 2>&1", file.path().display()));
}
