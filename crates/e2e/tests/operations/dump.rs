//! `knarr debug dump`: what it has, and that no secret is in it.

use std::collections::BTreeMap;
use std::path::Path;

use e2e::cri::KeyValue;
use e2e::{Network, Setup};

use super::command::at;

/// In every place where somebody might put a secret.
const PLANTED: &str = "hunter2-planted-9f31";

/// All files of a directory by their names below it.
fn files(top: &Path, below: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(top, &path, found);
        } else {
            let name = path.strip_prefix(top).unwrap().display().to_string();
            found.insert(name, String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned());
        }
    }
}

#[tokio::test]
async fn a_dump_has_what_a_bug_report_needs_and_no_secret() {
    let credentials = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        credentials.path(),
        format!(r#"{{"auths":{{"registry.test":{{"username":"u","password":"{PLANTED}"}}}}}}"#),
    )
    .unwrap();
    let section = format!("[registry]\ncredentials = \"{}\"", credentials.path().display());
    let handler = format!("[handlers.x]\nruntime = \"/bin/false\"\nargs = [\"--token\", \"{PLANTED}\"]");
    let node = Setup::new(Network::None).section(&section).section(&handler).start().await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    let mut sandbox = node.pod();
    sandbox.annotations.insert("example.com/api-token".to_owned(), PLANTED.to_owned());
    let applied = format!("{{\"env\":\"{PLANTED}\"}}");
    sandbox.annotations.insert("kubectl.kubernetes.io/last-applied-configuration".to_owned(), applied);
    sandbox.labels.insert("example.com/password".to_owned(), PLANTED.to_owned());
    let pod = client.run_pod(sandbox.clone()).await.unwrap();
    let mut wanted = node.busybox("main", &["sleep", "1000"]);
    wanted.envs = vec![KeyValue { key: "API".to_owned(), value: PLANTED.to_owned() }];
    let container = client.create(&pod, wanted, &sandbox).await.unwrap();
    client.start(&container).await.unwrap();
    let mut with_arguments = node.busybox("second", &["sleep"]);
    with_arguments.args = vec!["1000".to_owned(), format!("--password={PLANTED}"), PLANTED.to_owned()];
    client.create(&pod, with_arguments, &sandbox).await.unwrap();

    let output = node.path("dump");
    let config = node.path("knarr.toml");
    let arguments =
        ["debug", "dump", "--output", output.to_str().unwrap(), "--config", config.to_str().unwrap()];
    at(&node, &arguments).well();
    let mut found = BTreeMap::new();
    files(&output, &output, &mut found);
    for (name, text) in &found {
        assert!(!text.contains(PLANTED), "{name} has the secret: {text}");
    }
    // What is tested is there: the same names without their values.
    let record = format!("records/{pod}/containers/{container}/record.json");
    assert!(found[&record].contains("API") && found[&record].contains("(removed)"), "{}", found[&record]);
    assert!(found[&format!("records/{pod}/record.json")].contains("example.com/api-token"));
    for name in [
        "version.json",
        "config.toml",
        "doctor.json",
        "daemon.json",
        "supervisors.json",
        "mounts.txt",
        "cgroups.json",
    ] {
        assert!(found.contains_key(name), "{name}: {:?}", found.keys());
    }
    let daemon: serde_json::Value = serde_json::from_str(&found["daemon.json"]).unwrap();
    assert_eq!(daemon["pods"][0]["id"], pod.as_str());
    assert_eq!(daemon["containers"].as_array().unwrap().len(), 2);
    assert_eq!((&daemon["mailboxes"][0]["waiting"], &daemon["pid"]), (&0.into(), &node.pid().into()));
    let minder = daemon["pods"][0]["supervisor"].as_u64().unwrap();
    assert!(
        found["supervisors.json"].contains(&format!("\"pid\": \"{minder}\"")),
        "{}",
        found["supervisors.json"]
    );
    assert!(found["cgroups.json"].contains(&container), "{}", found["cgroups.json"]);
}

#[tokio::test]
async fn a_dump_is_an_archive_for_its_owner_alone_even_when_no_daemon_answers() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("dump.tar.gz");
    let endpoint = format!("unix://{}/none.sock", directory.path().display());
    let ran = super::command::knarr(&[
        "debug",
        "dump",
        "--output",
        output.to_str().unwrap(),
        "--endpoint",
        &endpoint,
    ]);
    assert!(ran.well().contains("without daemon.json: no daemon answers at"));
    assert_eq!(output.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let archive = flate2::read::GzDecoder::new(std::fs::File::open(&output).unwrap());
    let mut archive = tar::Archive::new(archive);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.iter().any(|name| name == "knarr-dump/doctor.json"), "{names:?}");
    assert!(names.iter().any(|name| name == "knarr-dump/errors.txt"), "{names:?}");
}
