//! The plugin as a whole, on directories of the tests' own.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn call(dir: &Path, command: Command, container_id: &str, ipam: Value, more: Value) -> Request {
    let mut config =
        json!({"cniVersion": "1.0.0", "name": "net", "ipam": {"type": "host-local", "dataDir": dir}});
    config["ipam"].as_object_mut().unwrap().extend(ipam.as_object().unwrap().clone());
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut request = Request::about_network("host-local", command, config.as_object().unwrap().clone());
    (request.container_id, request.ifname) = (container_id.into(), "eth0".into());
    request
}

fn add(dir: &Path, container_id: &str, subnet: &str) -> Result<String, Error> {
    let request = call(dir, Command::Add, container_id, json!({"subnet": subnet}), json!({}));
    run(&request).map(|result| result.unwrap().ips[0].address.to_string())
}

fn del(dir: &Path, container_id: &str, subnet: &str) {
    run(&call(dir, Command::Del, container_id, json!({"subnet": subnet}), json!({}))).unwrap();
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("net")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const SUBNET: &str = "10.0.0.0/29";

#[test]
fn addresses_go_round_and_are_used_up_with_a_word() {
    let dir = dir();
    assert_eq!(add(dir.path(), "a", SUBNET).unwrap(), "10.0.0.2/29");
    assert_eq!(add(dir.path(), "b", SUBNET).unwrap(), "10.0.0.3/29");
    del(dir.path(), "a", SUBNET);
    for (name, address) in [("c", 4), ("d", 5), ("e", 6), ("f", 2)] {
        assert_eq!(add(dir.path(), name, SUBNET).unwrap(), format!("10.0.0.{address}/29"));
    }
    let error = add(dir.path(), "g", SUBNET).unwrap_err();
    assert!(matches!(error, Error::AddressesExhausted { .. }), "{error}");
}

#[test]
fn the_files_are_those_of_the_reference_plugin() {
    let dir = dir();
    add(dir.path(), "a", SUBNET).unwrap();
    assert_eq!(files(dir.path()), ["10.0.0.2", "last_reserved_ip.0", "lock"]);
    assert_eq!(fs::read(dir.path().join("net/10.0.0.2")).unwrap(), b"a\r\neth0");
    assert_eq!(fs::read(dir.path().join("net/last_reserved_ip.0")).unwrap(), b"10.0.0.2");
    // An address of an old version has no interface.
    fs::write(dir.path().join("net/10.0.0.3"), "old").unwrap();
    assert_eq!(add(dir.path(), "b", SUBNET).unwrap(), "10.0.0.4/29");
    del(dir.path(), "old", SUBNET);
    del(dir.path(), "b", SUBNET);
    assert_eq!(files(dir.path()), ["10.0.0.2", "last_reserved_ip.0", "lock"]);
}

#[test]
fn a_second_address_of_a_set_is_refused() {
    let dir = dir();
    add(dir.path(), "a", SUBNET).unwrap();
    assert!(matches!(add(dir.path(), "a", SUBNET).unwrap_err(), Error::AddressHeld { .. }));
    run(&call(dir.path(), Command::Check, "a", json!({"subnet": SUBNET}), json!({}))).unwrap();
    run(&call(dir.path(), Command::Check, "b", json!({"subnet": SUBNET}), json!({}))).unwrap_err();
}

#[test]
fn every_set_gives_an_address_and_none_is_kept_when_one_cannot() {
    let dir = dir();
    let sets = json!({"ranges": [[{"subnet": "fd00::/64", "gateway": "fd00::ff"}],
        [{"subnet": "10.0.0.0/30"}, {"subnet": "10.0.1.0/30"}]], "routes": [{"dst": "::/0"}]});
    let add = |name: &str| run(&call(dir.path(), Command::Add, name, sets.clone(), json!({})));
    let first = add("a").unwrap().unwrap();
    let shown: Vec<String> = first.ips.iter().map(|ip| ip.address.to_string()).collect();
    assert_eq!(shown, ["fd00::1/64", "10.0.0.2/30"]);
    assert_eq!(first.ips[0].gateway, Some("fd00::ff".parse().unwrap()));
    assert_eq!(first.routes[0].dst.to_string(), "::/0");
    assert_eq!(add("b").unwrap().unwrap().ips[1].address.to_string(), "10.0.1.2/30");
    assert!(matches!(add("c").unwrap_err(), Error::AddressesExhausted { .. }));
    assert!(!files(dir.path()).contains(&"fd00::3".to_owned()));
}

#[test]
fn addresses_asked_for_are_given_or_refused() {
    let dir = dir();
    let range = json!({"subnet": "10.0.0.0/24"});
    let with = |name: &str, more: Value| {
        run(&call(dir.path(), Command::Add, name, range.clone(), more)).map(|result| result.unwrap())
    };
    let first = with("a", json!({"runtimeConfig": {"ips": ["10.0.0.77/24"]}})).unwrap();
    assert_eq!(first.ips[0].address.to_string(), "10.0.0.77/24");
    let second = with("b", json!({"args": {"cni": {"ips": ["10.0.0.78"]}}})).unwrap();
    assert_eq!(second.ips[0].address.to_string(), "10.0.0.78/24");
    for (name, address) in [("c", "10.0.0.77"), ("d", "10.0.0.1"), ("e", "192.0.2.1")] {
        let error = with(name, json!({"runtimeConfig": {"ips": [address]}})).unwrap_err();
        assert!(matches!(error, Error::AddressUnavailable { .. }), "{error}");
    }
    assert!(with("f", json!({"runtimeConfig": {"ips": ["no address"]}})).is_err());
    let mut request = call(dir.path(), Command::Add, "g", range.clone(), json!({}));
    request.args = vec![("IP".into(), "10.0.0.99".into())];
    assert_eq!(run(&request).unwrap().unwrap().ips[0].address.to_string(), "10.0.0.99/24");
    assert_eq!(files(dir.path()).len(), 5, "{:?}", files(dir.path()));
}

#[test]
fn ranges_of_the_runtime_come_first() {
    let dir = dir();
    let more =
        json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.50"}]]}});
    let request = call(dir.path(), Command::Add, "a", json!({"subnet": SUBNET}), more);
    let ips = run(&request).unwrap().unwrap().ips;
    assert_eq!(ips[0].address.to_string(), "10.9.0.50/24");
    assert_eq!(ips[1].address.to_string(), "10.0.0.2/29");
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let dir = dir();
    for (ipam, word) in [
        (json!({}), "no address ranges"),
        (json!({"subnet": "10.0.0.0"}), "prefix length"),
        (json!({"subnet": "10.0.0.0/24", "ranges": [[{"subnet": "10.0.0.0/25"}]]}), "overlap"),
        (json!({"ranges": [[]]}), "empty"),
        (json!({"ranges": [[{}]]}), "without a subnet"),
    ] {
        let error = run(&call(dir.path(), Command::Add, "a", ipam, json!({}))).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.code(), 7);
    }
    // Who couldn't be attached is detached all the same.
    run(&call(dir.path(), Command::Del, "a", json!({"subnet": "nonsense"}), json!({}))).unwrap();
    let twice = json!({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.1.0/24"}]]});
    let first_form = call(dir.path(), Command::Add, "a", twice, json!({"cniVersion": "0.2.0"}));
    assert!(run(&first_form).unwrap_err().to_string().contains("0.2.0"));
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn what_is_not_valid_is_collected_and_nothing_without_a_list() {
    let dir = dir();
    for name in ["a", "b"] {
        add(dir.path(), name, SUBNET).unwrap();
    }
    let gc = |more: Value| {
        let mut request = call(dir.path(), Command::Gc, "", json!({"subnet": SUBNET}), more);
        request.ifname.clear();
        run(&request)
    };
    gc(json!({})).unwrap_err();
    assert_eq!(files(dir.path()).len(), 4);
    gc(json!({"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]})).unwrap();
    assert_eq!(files(dir.path()), ["10.0.0.3", "last_reserved_ip.0", "lock"]);
}

#[test]
fn a_file_cut_short_loses_no_address() {
    let dir = dir();
    add(dir.path(), "a", SUBNET).unwrap();
    fs::write(dir.path().join("net/10.0.0.3"), "").unwrap();
    fs::write(dir.path().join("net/last_reserved_ip.0"), "").unwrap();
    assert_eq!(add(dir.path(), "b", SUBNET).unwrap(), "10.0.0.3/29");
    assert_eq!(fs::read(dir.path().join("net/10.0.0.3")).unwrap(), b"b\r\neth0");
}

/// Nobody is kept by what only looks like an address, or like a file of ours; nor is anything written to where a link leads.
#[test]
fn entries_that_are_no_files_are_passed_over() {
    let dir = dir();
    let net = dir.path().join("net");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let pipe = |name: &str| rustix::fs::mkfifoat(rustix::fs::CWD, net.join(name), mode).unwrap();
    fs::create_dir(&net).unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    pipe("10.0.0.2");
    fs::create_dir(net.join("10.0.0.3")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", net.join("10.0.0.4")).unwrap();
    std::os::unix::fs::symlink(&victim, net.join("last_reserved_ip.0")).unwrap();
    // Whether it is read for the first time or known from before.
    for _ in 0..4 {
        std::os::unix::fs::symlink(&victim, net.join(".knarr")).unwrap();
        assert_eq!(add(dir.path(), "a", SUBNET).unwrap(), "10.0.0.5/29");
        run(&call(dir.path(), Command::Check, "a", json!({"subnet": SUBNET}), json!({}))).unwrap();
        del(dir.path(), "a", SUBNET);
        let none = json!({"cni.dev/valid-attachments": []});
        let mut request = call(dir.path(), Command::Gc, "", json!({"subnet": SUBNET}), none);
        request.ifname.clear();
        run(&request).unwrap();
    }
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    fs::remove_file(net.join("last_reserved_ip.0")).unwrap();
    pipe("last_reserved_ip.0");
    assert_eq!(add(dir.path(), "a", SUBNET).unwrap(), "10.0.0.5/29");
    // What has become readable is somebody's.
    fs::remove_file(net.join("10.0.0.2")).unwrap();
    fs::write(net.join("10.0.0.2"), "b\r\neth0").unwrap();
    del(dir.path(), "b", SUBNET);
    assert!(!net.join("10.0.0.2").exists());
    fs::remove_file(net.join("lock")).unwrap();
    pipe("lock");
    let refused = add(dir.path(), "c", SUBNET).unwrap_err();
    assert!(matches!(refused, Error::Record { action: "lock", .. }), "{refused}");
}

#[test]
fn the_settings_of_a_file_come_with_the_addresses() {
    let dir = dir();
    let path = dir.path().join("resolv.conf");
    fs::write(&path, "# x\nnameserver 10.0.0.10\nsearch a.b  c.d\noptions ndots:5\ndomain e.f\nnameserver\n")
        .unwrap();
    let ipam = json!({"subnet": SUBNET, "resolvConf": path});
    let dns = run(&call(dir.path(), Command::Add, "a", ipam, json!({}))).unwrap().unwrap().dns;
    assert_eq!((dns.nameservers, dns.search), (vec!["10.0.0.10".into()], vec!["a.b".into(), "c.d".into()]));
    assert_eq!((dns.options, dns.domain.as_str()), (vec!["ndots:5".into()], "e.f"));
}

#[test]
fn settings_are_read_of_a_file_of_reasonable_size_alone() {
    let dir = dir();
    let large = dir.path().join("large");
    fs::write(&large, "# \n".repeat(64 << 10)).unwrap();
    let pipe = dir.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    for (path, problem) in
        [(large.as_path(), "larger"), (&pipe, "regular file"), (Path::new("/dev/zero"), "regular file")]
    {
        let ipam = json!({"subnet": SUBNET, "resolvConf": path});
        let error = run(&call(dir.path(), Command::Add, "a", ipam, json!({}))).unwrap_err();
        let error = crate::error::chain(&error);
        assert!(error.contains(problem) && error.contains(path.to_str().unwrap()), "{error}");
    }
    assert!(!dir.path().join("net").exists(), "an address was taken");
}

#[test]
fn many_at_once_get_different_ones() {
    let dir = dir();
    let taken = std::thread::scope(|scope| {
        let one = |thread: usize| {
            let dir = dir.path();
            move || {
                let add = |n| add(dir, &format!("{thread}-{n}"), "10.0.0.0/24").unwrap();
                (0..25).map(add).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(one(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(taken.len(), 200);
    assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 200);
}
