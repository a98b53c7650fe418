//! The plugin as a whole, on "hosts" of the tests' own: what the themes have in common.

mod conf;
mod connections;
mod cost;
mod owners;
mod reach;

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
