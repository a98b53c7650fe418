//! Bundles and command lines that are refused, by name and before anything is made.

use std::fs;

use serde_json::{Value, json};

use crate::rig::Rig;

#[test]
fn bundles_that_cannot_be_are_refused_by_field() {
    let mut rig = Rig::new("true");
    let good = rig.config.clone();
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit); 13] = [
        ("ociVersion: \"2.0.0\"", |c| c["ociVersion"] = json!("2.0.0")),
        ("ociVersion: \"one\"", |c| c["ociVersion"] = json!("one")),
        ("root.path: ", |c| c["root"]["path"] = json!("bin/sh")),
        ("process.args: names no command", |c| c["process"]["args"] = json!([])),
        ("process.execCPUAffinity: is not supported", |c| {
            c["process"]["execCPUAffinity"] = json!({ "initial": "0" });
        }),
        ("process.ioPriority.priority: 9", |c| {
            c["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 9 });
        }),
        ("linux.namespaces[6].path: time: is not supported", |c| {
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "time" }));
        }),
        ("linux.namespaces: a container on the runtime's mount namespace", |c| {
            c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "mount");
        }),
        ("linux.namespaces[6]: net is there twice", |c| {
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "network" }));
        }),
        ("linux.seccomp.listenerPath: ", |c| {
            c["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x" });
        }),
        ("linux.rootfsPropagation: \"sideways\"", |c| c["linux"]["rootfsPropagation"] = json!("sideways")),
        ("linux.sysctl[\"kernel.core_pattern\"]", |c| {
            c["linux"]["sysctl"] = json!({ "kernel.core_pattern": "x" });
        }),
        ("mounts[7].options: \"tmpcopyup\"", |c| {
            let mount =
                json!({ "destination": "/x", "type": "tmpfs", "source": "x", "options": ["tmpcopyup"] });
            c["mounts"].as_array_mut().unwrap().push(mount);
        }),
    ];
    for (says, edit) in cases {
        rig.config = good.clone();
        edit(&mut rig.config);
        let error = rig.make(&["create", "c"]).refused();
        assert!(error.contains(says), "{says:?}: {error}");
        rig.assert_nothing_left();
    }
    fs::remove_file(rig.file("bundle/config.json")).unwrap();
    let missing = rig.call(&["create", "--bundle", &rig.bundle(), "c"]).refused();
    assert!(missing.contains("config.json: No such file"), "{missing}");
}

#[test]
fn a_container_without_a_process_is_not_started() {
    let mut rig = Rig::new("true");
    rig.config.as_object_mut().unwrap().remove("process");
    rig.make(&["create", "c"]).ok();
    assert!(rig.call(&["start", "c"]).refused().contains("process: is missing"));
    assert_eq!(rig.state()["status"], "created");
    rig.call(&["delete", "--force", "c"]).ok();
}

#[test]
fn command_lines_are_refused_by_flag() {
    let rig = Rig::new("true");
    for (words, says) in [
        (&["--systemd-cgroup", "create", "c"][..], "--systemd-cgroup is not supported"),
        (&["create", "--no-pivot", "c"], "--no-pivot is not supported"),
        (&["create", "--preserve-fds", "1", "c"], "--preserve-fds is not supported"),
        (&["create", "--bundle"], "--bundle has no value"),
        (&["create"], "the container's id is missing"),
        (&["create", "a", "b"], "unexpected argument \"b\""),
        (&["create", "../c"], "\"../c\" is not a container's id"),
        (&["state", ".."], "\"..\" is not a container's id"),
        (&["pause", "c"], "\"pause\" is not a command"),
        (&["kill", "c"], "container \"c\" does not exist"),
        (&["delete", "c"], "container \"c\" does not exist"),
    ] {
        let error = rig.call(words).refused();
        assert!(error.contains(says), "{says:?}: {error}");
    }
    let log = rig.file("log");
    rig.call(&["--log", log.to_str().unwrap(), "--log-format", "json", "state", "c"]).refused();
    let line: Value = serde_json::from_slice(&fs::read(log).unwrap()).unwrap();
    assert_eq!((&line["level"], &line["msg"]), (&json!("error"), &json!("container \"c\" does not exist")));
}

#[test]
fn a_start_that_fails_after_it_was_begun_leaves_nothing() {
    let mut rig = Rig::new("true");
    rig.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "destination": "/x", "type": "tmpfs", "source": "x", "options": ["no-such-option"] }));
    let error = rig.make(&["create", "c"]).refused();
    assert!(error.contains("cannot mount \"/x\""), "{error}");
    rig.assert_nothing_left();
    rig.config["mounts"].as_array_mut().unwrap().pop();
    rig.config["process"]["args"] = json!(["/not/there"]);
    rig.make(&["create", "c"]).ok();
    assert!(rig.call(&["start", "c"]).refused().contains("cannot execute \"/not/there\""));
    assert_eq!(rig.state()["status"], "stopped");
    rig.call(&["delete", "c"]).ok();
}
