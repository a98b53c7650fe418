//! Limits and their change in place, and what kubelet asks for by default.

use e2e::kube::Space;
use serde_json::{Value, json};

use crate::objects::{pod, pod_of, shell, with};

/// What a container's cgroup says, of version 1 or 2: its limit of memory, its quota of processor time and its weight.
const LIMITS: &str = "cd /sys/fs/cgroup; cat memory.max cpu.max 2>/dev/null || cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us";

pub(crate) async fn resized_in_place(space: Space) {
    let resources = |memory: &str, cpu: &str| json!({ "limits": { "memory": memory, "cpu": cpu }, "requests": { "memory": memory, "cpu": cpu } });
    let container = with(
        shell(&space.cluster.registry, "exec sleep 3600"),
        json!({ "resources": resources("64Mi", "200m") }),
    );
    space.create(&pod_of("resized", container)).await;
    space.ready("resized").await;
    let before = space.sh("resized", LIMITS).await;
    assert!(before.contains("67108864") && before.contains("20000"), "{before}");
    let change =
        json!({ "spec": { "containers": [{ "name": "main", "resources": resources("128Mi", "500m") }] } });
    let arguments = ["patch", "pod", "resized", "--subresource=resize", "--patch", &change.to_string()];
    space.kubectl(&arguments).await.well();
    let status = space
        .until_container(
            ("resized", "main"),
            "/resources/limits",
            &json!({ "memory": "128Mi", "cpu": "500m" }),
        )
        .await;
    assert_eq!(status["restartCount"], 0, "{status}");
    let after = space.sh("resized", LIMITS).await;
    assert!(after.contains("134217728") && after.contains("50000"), "{after}");
}

pub(crate) async fn seccomp_by_default(space: Space) {
    let registry = &space.cluster.registry;
    let script = "grep Seccomp: /proc/self/status; sleep 3600";
    let unconfined =
        json!({ "name": "free", "securityContext": { "seccompProfile": { "type": "Unconfined" } } });
    let privileged = json!({ "name": "all", "securityContext": { "privileged": true } });
    let containers = json!([
        shell(registry, script),
        with(shell(registry, script), unconfined),
        with(shell(registry, script), privileged)
    ]);
    space.create(&pod("seccomp", json!({ "containers": containers }))).await;
    space.ready("seccomp").await;
    for (container, mode) in [("main", "2"), ("free", "0"), ("all", "0")] {
        let log = space.kubectl(&["logs", "seccomp", "-c", container]).await.well();
        assert_eq!(log, format!("Seccomp:\t{mode}\n"), "{container}");
    }
}

/// The classes of pods have cgroups of their own, and a pod's limits are on its cgroup.
pub(crate) async fn classes_of_pods(space: Space) {
    let registry = &space.cluster.registry;
    let both = json!({ "memory": "32Mi", "cpu": "100m" });
    let classes = [
        ("guaranteed", json!({ "limits": both, "requests": both })),
        ("burstable", json!({ "requests": { "memory": "16Mi", "cpu": "50m" } })),
        ("besteffort", json!({})),
    ];
    for (name, resources) in &classes {
        space
            .create(&pod_of(
                name,
                with(shell(registry, "exec sleep 3600"), json!({ "resources": resources })),
            ))
            .await;
    }
    for (name, _) in &classes {
        let pod = space.ready(name).await;
        assert_eq!(pod["status"]["qosClass"].as_str().map(str::to_lowercase).as_deref(), Some(*name));
        let uid = pod["metadata"]["uid"].as_str().expect("an id").to_owned();
        let traces = space.cluster.node.lock().await.runtime.traces();
        let all: Vec<String> = traces.processes().iter().map(|(pid, _)| cgroups_of(*pid)).collect();
        let whose = all.iter().find(|cgroups| cgroups.contains(&format!("pod{uid}")));
        let parent =
            if *name == "guaranteed" { "/kubepods/pod".into() } else { format!("/kubepods/{name}/pod") };
        assert!(whose.is_some_and(|cgroups| cgroups.contains(&parent)), "{parent}{uid}: {whose:?}");
    }
}

fn cgroups_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

/// kubelet's summary has each pod's usage, from the runtime.
pub(crate) async fn summary(space: Space) {
    let script = "dd if=/dev/zero of=/file bs=1M count=3; exec sleep 3600";
    space.create(&pod_of("used", shell(&space.cluster.registry, script))).await;
    space.ready("used").await;
    let path = "/api/v1/nodes/knarr-node/proxy/stats/summary";
    let usage = e2e::until(std::time::Duration::from_secs(60), "the pod's usage", || async {
        let summary = space.cluster.api.json(path).await?;
        let pods = summary["pods"].as_array().into_iter().flatten();
        let ours = pods.into_iter().find(|pod| pod["podRef"]["namespace"] == *space.name).cloned();
        let whole = |pod: &Value| {
            let container = &pod["containers"][0];
            container["memory"]["workingSetBytes"].as_u64() > Some(0)
                && container["rootfs"]["usedBytes"].as_u64() >= Some(3 << 20)
        };
        ours.filter(whole).ok_or_else(|| summary["pods"].to_string())
    })
    .await;
    assert!(usage["containers"][0]["cpu"]["usageCoreNanoSeconds"].as_u64() > Some(0), "{usage}");
}
