//! A node whose kubelet has a small disk and is told when the machine goes down.

use std::time::Duration;

use e2e::kube::{Ground, Space};
use e2e::until;
use serde_json::{Value, json};

use crate::objects::{STAYS, pod, pod_of, shell, with};

/// kubelet's disk is filled by a pod: that goes, the others stay, and the node recovers.
pub(crate) async fn disk_is_full(space: Space) {
    let registry = &space.cluster.registry;
    space.create(&pod_of("stays", shell(registry, STAYS))).await;
    space.ready("stays").await;
    let fills = shell(registry, "dd if=/dev/zero of=/kept/big bs=1M count=300; exec sleep 3600");
    let mounted = json!({ "volumeMounts": [{ "name": "kept", "mountPath": "/kept" }] });
    let volumes = json!([{ "name": "kept", "emptyDir": {} }]);
    space.create(&pod("fills", json!({ "containers": [with(fills, mounted)], "volumes": volumes }))).await;
    // kubelet says so before it looks for a pod to end.
    condition(&space, "DiskPressure", "True").await;
    assert_eq!(space.ended("fills").await, "Failed");
    let status = space.get("Pod", "fills").await.expect("a pod")["status"].clone();
    let message = status["message"].as_str().unwrap_or_default();
    assert!(status["reason"] == "Evicted" && message.contains("ephemeral-storage"), "{status}");
    condition(&space, "DiskPressure", "False").await;
    space.cluster.until_ready().await;
    space.create(&pod_of("next", shell(registry, STAYS))).await;
    space.ready("next").await;
    let stays = space.ready("stays").await;
    assert_eq!(stays["status"]["containerStatuses"][0]["restartCount"], 0, "{}", stays["status"]);
}

/// kubelet ends the pods in their time before it lets the machine go down; then the machine doesn't, after all.
pub(crate) async fn machine_goes_down(space: Space) {
    let registry = &space.cluster.registry;
    let logind = space.cluster.ground.logind().expect("a logind");
    let script = "trap 'sleep 2; echo farewell >/out/said; exit 3' TERM; echo here; while :; do sleep 1 & wait $!; done";
    let directory = space.cluster.ground.path(&space.name);
    std::fs::create_dir_all(&directory).expect("a directory");
    let container =
        with(shell(registry, script), json!({ "volumeMounts": [{ "name": "out", "mountPath": "/out" }] }));
    let volumes = json!([{ "name": "out", "hostPath": { "path": directory } }]);
    let spec = json!({ "containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 10 });
    space.create(&pod("runs", spec)).await;
    space.ready("runs").await;
    assert!(!logind.is_released(), "kubelet holds a lock");
    logind.goes_down(true);
    assert_eq!(space.ended("runs").await, "Failed");
    let status = space.get("Pod", "runs").await.expect("a pod")["status"].clone();
    assert_eq!(status["reason"], "Terminated", "{status}");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3, "{status}");
    let said = std::fs::read_to_string(directory.join("said")).expect("what the container wrote");
    assert_eq!(said, "farewell\n", "it had the time that it is to have");
    until(Duration::from_secs(60), "the lock to be given back", || async {
        if logind.is_released() { Ok(()) } else { Err("it is held") }
    })
    .await;
    condition(&space, "Ready", "False").await;
    logind.goes_down(false);
    space.cluster.until_ready().await;
    space.create(&pod_of("next", shell(registry, STAYS))).await;
    space.ready("next").await;
}

/// Waits until a condition of the node has a status.
async fn condition(space: &Space, kind: &str, status: &str) {
    let path = format!("/api/v1/nodes/{}", Ground::NAME);
    until(Duration::from_secs(90), &format!("{kind} to be {status}"), || async {
        let node = space.cluster.api.json(&path).await?;
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let is_it = |one: &&Value| one["type"] == kind && one["status"] == status;
        conditions.into_iter().find(is_it).map(drop).ok_or_else(|| node["status"]["conditions"].to_string())
    })
    .await;
}
