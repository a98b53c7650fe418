//! Volumes that kubelet makes, and those that the runtime does from images.

use e2e::kube::Space;
use serde_json::json;

use crate::objects::{pod, pod_of, shell, with};

pub(crate) async fn projected(space: Space) {
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "map" }, "data": { "key": "mapped\n" } });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "secret" }, "stringData": { "key": "hidden\n" } });
    space.create(&map).await;
    space.create(&secret).await;
    let sources = json!([
        { "configMap": { "name": "map", "items": [{ "key": "key", "path": "map" }] } },
        { "secret": { "name": "secret", "items": [{ "key": "key", "path": "secret", "mode": 0o400 }] } },
        { "downwardAPI": { "items": [{ "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } },
        { "serviceAccountToken": { "path": "token", "audience": "test" } },
    ]);
    let script = "cd /all; cat map secret name; echo; stat -Lc %a secret; cut -d. -f1 token | base64 -d 2>/dev/null; touch new || echo read-only; sleep 3600";
    let mounts = json!({ "volumeMounts": [{ "name": "all", "mountPath": "/all", "readOnly": true }] });
    let volumes = json!([{ "name": "all", "projected": { "sources": sources } }]);
    space.create(&pod("projected", json!({ "containers": [with(shell(&space.cluster.registry, script), mounts)], "volumes": volumes }))).await;
    let log = space.logged("projected", "read-only").await;
    assert!(log.starts_with("mapped\nhidden\nprojected\n400\n"), "{log}");
    assert!(log.contains("{\"alg\":\"ES256\""), "a token: {log}");
}

pub(crate) async fn config_map_changes(space: Space) {
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "map" }, "data": { "key": "before" } });
    space.create(&map).await;
    let script = "while :; do echo $(cat /live/key) $(cat /fixed); sleep 1; done";
    let mounts = json!({ "volumeMounts": [
        { "name": "map", "mountPath": "/live" }, { "name": "map", "mountPath": "/fixed", "subPath": "key" },
    ] });
    let volumes = json!([{ "name": "map", "configMap": { "name": "map" } }]);
    space.create(&pod("live", json!({ "containers": [with(shell(&space.cluster.registry, script), mounts)], "volumes": volumes }))).await;
    space.logged("live", "before before\n").await;
    space.patch(("ConfigMap", "map"), &json!({ "data": { "key": "after" } })).await;
    // A path within a volume is mounted as it is when the container starts.
    space.logged("live", "after before\n").await;
}

pub(crate) async fn empty_dir_in_memory(space: Space) {
    let script = "grep ' /fast ' /proc/mounts; dd if=/dev/zero of=/fast/file bs=1M count=8 2>&1; stat -c %s /fast/file; sleep 3600";
    let mounts = json!({ "volumeMounts": [{ "name": "fast", "mountPath": "/fast" }] });
    let volumes = json!([{ "name": "fast", "emptyDir": { "medium": "Memory", "sizeLimit": "4Mi" } }]);
    let container = with(shell(&space.cluster.registry, script), mounts);
    space.create(&pod("fast", json!({ "containers": [container], "volumes": volumes }))).await;
    let log = space.logged("fast", "\n4194304\n").await;
    assert!(log.contains("tmpfs") && log.contains("No space left"), "{log}");
}

/// The volume is both containers', and outlives them.
pub(crate) async fn empty_dir_is_the_pods(space: Space) {
    let registry = &space.cluster.registry;
    let mounts = json!({ "volumeMounts": [{ "name": "kept", "mountPath": "/kept" }] });
    let named = |name: &str, script: &str| {
        with(with(shell(registry, script), json!({ "name": name })), mounts.clone())
    };
    let writes =
        "if test -e /kept/file; then cat /kept/file; exec sleep 3600; fi; echo here >/kept/file; exit 1";
    let containers = json!([
        named("main", writes),
        named("other", "until test -e /kept/file; do sleep 1; done; exec sleep 3600")
    ]);
    space
        .create(&pod(
            "kept",
            json!({ "containers": containers, "volumes": [{ "name": "kept", "emptyDir": {} }] }),
        ))
        .await;
    space.until_container(("kept", "main"), "/restartCount", &json!(1)).await;
    space.ready("kept").await;
    assert_eq!(space.kubectl(&["logs", "kept", "-c", "main"]).await.well(), "here\n");
}

pub(crate) async fn image_volume(space: Space) {
    let script = "cat /whole/data/hello /part/hello; touch /whole/new || echo read-only; sleep 3600";
    let mounts = json!({ "volumeMounts": [
        { "name": "files", "mountPath": "/whole" }, { "name": "files", "mountPath": "/part", "subPath": "data" },
    ] });
    let volumes = json!([{ "name": "files", "image": { "reference": space.image("kube/files:1") } }]);
    let container = with(shell(&space.cluster.registry, script), mounts);
    space.create(&pod("files", json!({ "containers": [container], "volumes": volumes }))).await;
    let log = space.logged("files", "read-only").await;
    assert!(log.starts_with("from an image\nfrom an image\n"), "{log}");
}

/// With a group for its files, root filesystem read-only, and no root.
pub(crate) async fn files_of_a_group(space: Space) {
    let script = "id -u; id -G; touch /kept/file && stat -c %u:%g /kept/file; touch /new 2>/dev/null || echo read-only; sleep 3600";
    let container = with(
        shell(&space.cluster.registry, script),
        json!({
            "securityContext": { "runAsUser": 1234, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false },
            "volumeMounts": [{ "name": "kept", "mountPath": "/kept" }],
        }),
    );
    let mut pod = pod_of("group", container);
    pod["spec"]["volumes"] = json!([{ "name": "kept", "emptyDir": {} }]);
    pod["spec"]["securityContext"] = json!({ "fsGroup": 4321, "supplementalGroups": [777] });
    space.create(&pod).await;
    let log = space.logged("group", "read-only").await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!((lines[0], lines[2]), ("1234", "1234:4321"), "{log}");
    let mut groups: Vec<&str> = lines[1].split(' ').collect();
    groups.sort_unstable();
    assert_eq!(groups, ["0", "4321", "777"], "{log}");
}
