//! `knarr doctor`: what is found has a reason and a remedy.

use serde_json::Value;

use super::command::{Ran, knarr};

fn report(ran: Ran) -> (Value, Option<i32>) {
    let told = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    (told, ran.code)
}

fn find<'a>(report: &'a Value, area: &str, what: &str) -> &'a Value {
    let found = report["areas"][area].as_array().unwrap().iter().find(|finding| finding["what"] == what);
    found.unwrap_or_else(|| panic!("no {what} in {area}: {report}"))
}

#[test]
fn all_areas_are_looked_at_and_the_exit_status_says_whether_pods_run() {
    let (report, code) = report(knarr(&["doctor", "--json"]));
    let areas: Vec<&String> = report["areas"].as_object().unwrap().keys().collect();
    for area in [
        "kernel",
        "cgroups",
        "kubelet",
        "mounts",
        "limits",
        "security",
        "network",
        "registries",
        "socket",
        "disk",
    ] {
        assert!(areas.iter().any(|name| *name == area), "{area}: {areas:?}");
    }
    assert_eq!(code == Some(0), report["missing"] == 0, "{report}");
    assert_eq!(find(&report, "kernel", "root")["state"], "ok");
    for finding in report["areas"].as_object().unwrap().values().flat_map(|found| found.as_array().unwrap()) {
        let is_told = finding["why"].is_string() && finding["remedy"].is_string();
        assert_eq!(finding["state"] != "ok", is_told, "{finding}");
    }
}

#[test]
fn what_is_broken_is_found_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir_all(path("certs.d/registry.test")).unwrap();
    std::fs::write(path("certs.d/registry.test/hosts.toml"), "[host.\"https://x\"]\ncapabilities = 7")
        .unwrap();
    std::fs::create_dir(path("net.d")).unwrap();
    let conflist = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"no-such-plugin"}]}"#;
    std::fs::write(path("net.d/10-pods.conflist"), conflist).unwrap();
    let config = format!(
        "registry_config_dir = \"{0}/certs.d\"\ncni_conf_dir = \"{0}/net.d\"\nlisten = \"unix://{0}/none.sock\"\nstate = \"{0}/state\"",
        directory.path().display()
    );
    std::fs::write(path("knarr.toml"), config).unwrap();
    let (report, _) = report(knarr(&["doctor", "--json", "--config", path("knarr.toml").to_str().unwrap()]));
    let registries = find(&report, "registries", "registries");
    assert!(registries["seen"].as_str().unwrap().contains("registry.test/hosts.toml"), "{registries}");
    let network = find(&report, "network", "network");
    assert!(network["seen"].as_str().unwrap().contains("no-such-plugin"), "{network}");
    assert!(network["why"].as_str().unwrap().contains("NetworkReady=false"), "{network}");
    let socket = find(&report, "socket", "socket");
    assert_eq!(socket["remedy"], "systemctl start knarr", "{socket}");
}

#[test]
fn registries_are_asked_when_that_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let answers = listener.local_addr().unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = directory.path().join("certs.d/registry.test");
    std::fs::create_dir_all(&place).unwrap();
    let hosts = format!("[host.\"http://{answers}\"]\n[host.\"http://{gone}\"]\n");
    std::fs::write(place.join("hosts.toml"), hosts).unwrap();
    let config = directory.path().join("knarr.toml");
    std::fs::write(&config, format!("registry_config_dir = \"{}/certs.d\"", directory.path().display()))
        .unwrap();
    let asked = ["doctor", "--json", "--reach", "--config", config.to_str().unwrap()];
    let (report, _) = report(knarr(&asked));
    assert_eq!(find(&report, "registries", &format!("registry {answers}"))["state"], "ok");
    let lost = find(&report, "registries", &format!("registry {gone}"));
    assert!(lost["state"] == "without" && lost["seen"].as_str().unwrap().contains("refused"), "{lost}");
}
