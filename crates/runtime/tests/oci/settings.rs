//! What configurations of other engines ask for, and CRI never does.

use std::fs;

use runtime::cgroup::{Cgroup, Host};
use serde_json::{Value, json};

use crate::rig::Rig;

fn run(rig: &Rig) -> String {
    let said = rig.make(&["run", "c"]);
    assert_eq!(said.code, 0, "{said:?}");
    said.out
}

#[test]
fn namespaces_are_new_the_runtimes_or_somebodys() {
    let mut rig =
        Rig::new("for kind in net ipc uts; do readlink /proc/self/ns/$kind; done; ls /dev/shm; hostname");
    let other = Rig::new("exec sleep 1000");
    other.make(&["create", "c"]).ok();
    let pid = other.state()["pid"].clone();
    let of = |pid: &str, kind: &str| {
        fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
    };
    let joined = |kind: &str, file: &str| json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") });
    rig.config["hostname"] = json!("given");
    rig.config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid" }, joined("network", "net"), joined("uts", "uts"), joined("ipc", "ipc")]);
    let pid = pid.to_string();
    let expected = [of(&pid, "net"), of(&pid, "ipc"), of(&pid, "uts"), "given".to_owned()];
    assert_eq!(run(&rig).lines().collect::<Vec<_>>(), expected);

    rig.config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts" }]);
    let said = run(&rig);
    assert!(said.starts_with(&format!("{}\n{}\n", of("self", "net"), of("self", "ipc"))), "{said}");

    // A namespace of another kind is no namespace of this one.
    rig.config["linux"]["namespaces"] = json!([{ "type": "mount" }, joined("uts", "net")]);
    assert!(rig.make(&["create", "c"]).refused().contains("cannot join namespace \"uts\""));
    other.call(&["delete", "--force", "c"]).ok();
}

#[test]
fn users_are_mapped() {
    let mut rig = Rig::new("id -u; head -1 /proc/self/uid_map; echo x >/tmp/made");
    rig.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    let mapping = json!([{ "containerID": 0, "hostID": 200_000, "size": 65_536 }]);
    rig.config["linux"]["uidMappings"] = mapping.clone();
    rig.config["linux"]["gidMappings"] = mapping;
    let tmp = rig.file("bundle/rootfs/tmp");
    fs::set_permissions(&tmp, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let said = run(&rig);
    let fields: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(fields, ["0", "0", "200000", "65536"]);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(tmp.join("made")).unwrap()), 200_000);
}

#[test]
fn scheduling_and_personality_are_set() {
    let mut rig = Rig::new("uname -m; cat /proc/self/stat");
    rig.config["linux"]["personality"] = json!({ "domain": "LINUX32" });
    rig.config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    rig.config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 });
    let said = run(&rig);
    let (machine, stat) = said.split_once('\n').unwrap();
    assert!(machine == "i686" || machine == "armv8l", "{machine}");
    // proc_pid_stat(5): field 19 is nice, field 41 the policy.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split_whitespace().collect();
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("5", "3"));
}

#[test]
fn the_root_has_the_propagation_that_is_asked_for() {
    let mut rig = Rig::new(
        "grep ' / / \\| /rootfs / \\|/bundle/rootfs / ' /proc/self/mountinfo; cat /proc/self/mountinfo",
    );
    for (asked, tag) in [("shared", "shared:"), ("unbindable", "unbindable")] {
        rig.config["linux"]["rootfsPropagation"] = json!(asked);
        let said = run(&rig);
        let root = said.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.contains(tag), "{root}");
    }
    rig.config["linux"]["rootfsPropagation"] = json!("private");
    rig.config["mounts"].as_array_mut().unwrap().push(
        json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["rshared", "size=1m"] }),
    );
    let said = run(&rig);
    let find =
        |target: &str| said.lines().find(|line| line.split(' ').nth(4) == Some(target)).unwrap().to_owned();
    assert!(!find("/").contains("shared:") && find("/tmp").contains("shared:"), "{said}");
}

#[test]
fn limits_are_set_and_updated() {
    let mut rig = Rig::new("exec sleep 1000");
    rig.config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    rig.make(&["create", "c"]).ok();
    let path = rig.config["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
    let cgroup = Cgroup::at(&Host::detect().unwrap(), &path).unwrap();
    assert_eq!(json!(cgroup.procs().unwrap()), json!([rig.state()["pid"]]));
    let limit = || {
        let tree = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].iter();
        tree.filter_map(|top| fs::read_to_string(format!("{top}{path}/pids.max")).ok()).next().unwrap()
    };
    assert_eq!(limit().trim(), "20");
    rig.call(&["update", "--pids-limit", "30", "c"]).ok();
    assert_eq!(limit().trim(), "30");
    let file = rig.file("limits");
    fs::write(&file, json!({ "pids": { "limit": 40 } }).to_string()).unwrap();
    rig.call(&["update", "--resources", file.to_str().unwrap(), "c"]).ok();
    assert_eq!(limit().trim(), "40");
}

#[test]
fn a_filter_of_the_configuration_counts() {
    let mut rig = Rig::new("id -u; cat /proc/self/comm; hostname changed");
    rig.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }],
    });
    let said = rig.make(&["run", "c"]);
    assert!(said.err.contains("No space left on device"), "{said:?}");
}

#[test]
fn features_are_told() {
    let rig = Rig::new("true");
    let features: Value = serde_json::from_str(&rig.call(&["features"]).ok()).unwrap();
    assert_eq!(features["hooks"].as_array().unwrap().len(), 6);
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert!(features["mountOptions"].as_array().unwrap().contains(&json!("rro")));
}
