use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::builtin::tables::ground::{at, bridge, forward, port};
use crate::builtin::tables::netns::{Netns, on_own_host, sh};
use crate::builtin::{clear_tables, portmap};
use crate::command::Command;
use crate::error::chain;
use crate::request::Request;

const SETTING: &str = "/proc/sys/net/ipv4/conf/br0/route_localnet";

/// A call about a pod with a host port of its own.
fn call(command: Command, number: u8) {
    let ips = json!([{"address": format!("10.1.0.{number}/16")}]);
    let config = json!({"cniVersion": "1.1.0", "name": "n", "type": "portmap",
        "runtimeConfig": {"portMappings": [{"hostPort": 8080 + u16::from(number), "containerPort": 80}]},
        "prevResult": {"cniVersion": "1.1.0", "ips": ips}});
    let request = Request {
        container_id: format!("pod{number}"),
        ifname: "eth0".into(),
        ..Request::about_network("portmap", command, config.as_object().unwrap().clone())
    };
    portmap::run(&request).unwrap_or_else(|error| panic!("{}", chain(&error)));
}

fn value() -> String {
    sh(&format!("cat {SETTING}")).trim().to_owned()
}

fn set(value: &str) {
    sh(&format!("echo {value} > {SETTING}"));
}

fn pod(number: u8) -> Netns {
    let netns = Netns::new();
    port(&netns, number);
    netns.tcp_server("[::]:80");
    netns
}

#[test]
fn what_we_set_is_taken_back_and_what_others_set_is_not() {
    on_own_host(|| async {
        forward();
        bridge();
        let (host, _pod) = (Netns::current(), pod(2));
        for (before, meanwhile, after) in [
            ("0", None, "0"),
            // An operator's, before us and beside us.
            ("1", None, "1"),
            ("0", Some("1"), "1"),
            ("0", Some("0"), "0"),
        ] {
            set(before);
            call(Command::Add, 2);
            host.ask_tcp(at("127.0.0.1:8082")).unwrap_or_else(|error| panic!("{before}: {error}"));
            assert_eq!(value(), if before == "0" { OURS } else { before });
            if let Some(meanwhile) = meanwhile {
                set(meanwhile);
            }
            // A second one finds it as it is.
            call(Command::Add, 3);
            call(Command::Del, 3);
            clear_tables().unwrap();
            assert_ne!(value(), "0", "it is in use");
            call(Command::Del, 2);
            clear_tables().unwrap();
            assert_eq!(value(), after, "{before} {meanwhile:?}");
        }
    });
}

/// Who knows nothing of what was before: the tables were flushed, and the daemon is another.
#[test]
fn what_we_set_is_known_without_the_tables() {
    on_own_host(|| async {
        bridge();
        for (others, after) in [("0", "0"), ("1", "1")] {
            set(others);
            call(Command::Add, 2);
            sh("nft flush ruleset");
            call(Command::Del, 2);
            clear_tables().unwrap();
            assert_eq!(value(), after);
            // The same without a DEL: the pods are gone, and so is who knew of them.
            call(Command::Add, 2);
            sh("nft flush ruleset");
            clear_tables().unwrap();
            assert_eq!(value(), after);
        }
    });
}

/// Others have host ports again before the first one, for whom it was set, has gone or comes back.
#[test]
fn tables_that_are_made_anew_guard_what_is_open_or_shut_it() {
    on_own_host(|| async {
        forward();
        bridge();
        sh("ip link add br1 type bridge; ip link set br1 up; ip address add 10.2.0.1/16 dev br1");
        let (host, pod) = (Netns::current(), pod(2));
        host.tcp_server("127.0.0.1:9000");
        pod.run(|| {
            sh("ip route add 127.0.0.1/32 via 10.1.0.1 table 5; ip rule add pref 0 to 127.0.0.1 table 5");
            sh("ip rule add pref 1 table local; ip rule del pref 0 table local; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
        });
        let connects = || {
            let connect = || TcpStream::connect_timeout(&at("127.0.0.1:9000"), Duration::from_secs(1));
            pod.run(|| connect().is_ok())
        };
        call(Command::Add, 2);
        sh("nft flush ruleset");
        assert!(connects(), "the test finds no way, and so proves nothing");
        // Somebody on another bridge.
        let config = json!({"cniVersion": "1.1.0", "name": "n", "type": "portmap",
            "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]},
            "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.2.0.2/16"}]}});
        let other = Request {
            container_id: "other".into(),
            ifname: "eth0".into(),
            ..Request::about_network("portmap", Command::Add, config.as_object().unwrap().clone())
        };
        portmap::run(&other).unwrap();
        assert_eq!(value(), "0");
        assert!(!connects());
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/br1/route_localnet").trim(), OURS);
        // Whose it was comes back.
        call(Command::Add, 2);
        host.ask_tcp(at("127.0.0.1:8082")).unwrap();
        assert!(!connects());
    });
}
