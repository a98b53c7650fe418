//! The pods whose figures are compared: what they use is known beforehand.

use std::time::Duration;

use e2e::kube::Standalone;
use e2e::until;
use serde_json::{Value, json};

use crate::objects::{STAYS, pod, shell, with};
use crate::standalone::gone;

/// The pods, as their manifests call them.
pub(super) const PODS: [&str; 2] = ["loaded", "on-host"];

/// Their containers, but for the one that ends at the beginning.
pub(super) const CONTAINERS: [&str; 4] = ["loaded/again", "loaded/busy", "loaded/holder", "on-host/main"];

/// Bytes that are sent by "loaded": so many times the page.
pub(super) const SENT: f64 = 2.0 * PAGE;
const PAGE: f64 = (5 << 20) as f64;

/// What "holder" does: 8 MiB in its memory, 10 MiB in its own layer, 4 MiB and 2 MiB in volumes; it serves a page of 5 MiB.
const HOLD: &str = "v=$(head -c 8388608 /dev/zero | tr '\\0' x)
    mkdir /srv; for file in /own /srv/page; do head -c 5242880 /dev/zero >$file; done
    head -c 4194304 /dev/zero >/files/held; head -c 2097152 /dev/zero >/memory/held
    httpd -p 8080 -h /srv; echo started; touch /ready; while :; do sleep 1; done";

/// Half of a processor.
const BUSY: &str = "while :; do head -c 1000000 /dev/zero | md5sum >/dev/null; done";

/// Ends once and stays then.
const AGAIN: &str = "[ -e /files/again ] || { touch /files/again; exit 3; }";

/// Starts them and waits until they have done what they do.
pub(super) async fn start(rig: &Standalone) {
    let registry = rig.runtime.registry();
    rig.place("loaded", &loaded(&|name, script| with(shell(registry, script), json!({ "name": name }))));
    rig.place(
        "on-host",
        &pod("on-host", json!({ "hostNetwork": true, "containers": [shell(registry, STAYS)] })),
    );
    for name in PODS {
        until(Duration::from_secs(60), &format!("{name} to be ready"), || async {
            let status = rig.pod(name).await?["status"].take();
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let ready =
                conditions.into_iter().any(|told| told["type"] == "Ready" && told["status"] == "True");
            let containers = status["containerStatuses"].as_array().into_iter().flatten();
            let again =
                containers.into_iter().all(|told| told["name"] != "again" || told["restartCount"] == 1);
            if ready && again { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
    let address = rig.pod("loaded").await.expect("the pod")["status"]["podIP"].take();
    let url = format!("http://{}:8080/page", address.as_str().expect("an address"));
    for _ in 0..2 {
        let got = rig.ground.host.sh(&format!("(wget -qO- {url} || curl -s {url}) | wc -c"));
        assert_eq!(got.trim(), "5242880", "bytes of {url}");
    }
}

/// Lets them go, and waits until kubelet has taken their volumes away.
pub(super) async fn end(rig: &Standalone) {
    for name in PODS {
        rig.withdraw(name);
        gone(rig, name).await;
    }
    let pods = rig.ground.path("kubelet/pods");
    until(Duration::from_secs(60), "the end of the volumes", || async {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let below = mounts.lines().find(|line| line.contains(&*pods.to_string_lossy()));
        below.map_or(Ok(()), |line| Err(line.to_owned()))
    })
    .await;
}

fn loaded(container: &dyn Fn(&str, &str) -> Value) -> Value {
    let mounts = json!({ "volumeMounts": [{ "name": "files", "mountPath": "/files" }, { "name": "memory", "mountPath": "/memory" }] });
    let limits = json!({ "resources": { "limits": { "cpu": "500m", "memory": "64Mi" }, "requests": { "cpu": "100m", "memory": "32Mi" } } });
    let whole =
        |name: &str, script: &str| with(with(container(name, script), mounts.clone()), limits.clone());
    let ready =
        json!({ "readinessProbe": { "exec": { "command": ["test", "-e", "/ready"] }, "periodSeconds": 1 } });
    pod(
        "loaded",
        json!({
            "volumes": [
                { "name": "files", "emptyDir": {} },
                { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } },
            ],
            "initContainers": [whole("first", "head -c 3145728 /dev/zero >/files/first")],
            "containers": [
                whole("busy", BUSY), with(whole("holder", HOLD), ready), whole("again", &format!("{AGAIN}; {STAYS}")),
            ],
        }),
    )
}
