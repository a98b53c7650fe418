//! What goes wrong in pods, and what kubelet is told of it.

use std::time::Duration;

use e2e::kube::Space;
use e2e::until;
use serde_json::{Value, json};

use crate::objects::{STAYS, agnhost, pod, pod_of, shell, with};

pub(crate) async fn crash_loop(space: Space) {
    let script = "echo run; echo farewell >/dev/termination-log; exit 3";
    space.create(&pod_of("crashes", shell(&space.cluster.registry, script))).await;
    let status =
        space.until_container(("crashes", "main"), "/state/waiting/reason", &json!("CrashLoopBackOff")).await;
    let last = &status["lastState"]["terminated"];
    assert_eq!(
        (&last["exitCode"], &last["reason"], &last["message"]),
        (&json!(3), &json!("Error"), &json!("farewell\n")),
        "{status}"
    );
    space
        .until(("Pod", "crashes"), "three restarts", |pod| {
            let count = pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
            count.filter(|count| *count >= 3)
        })
        .await;
    // Again where kubelet has just taken the container away that was the previous one when kubectl asked.
    until(Duration::from_secs(60), "the log of the run before", || async {
        let previous = space.kubectl(&["logs", "crashes", "--previous"]).await;
        if previous.stdout == "run\n" { Ok(()) } else { Err(format!("{previous:?}")) }
    })
    .await;
}

pub(crate) async fn last_words(space: Space) {
    let container = with(
        shell(&space.cluster.registry, "echo first; echo last; exit 5"),
        json!({ "terminationMessagePolicy": "FallbackToLogsOnError" }),
    );
    space.create(&pod("words", json!({ "restartPolicy": "Never", "containers": [container] }))).await;
    assert_eq!(space.ended("words").await, "Failed");
    let status = space.until_container(("words", "main"), "/state/terminated/exitCode", &json!(5)).await;
    assert_eq!(status["state"]["terminated"]["message"], "first\nlast\n", "{status}");
}

pub(crate) async fn out_of_memory(space: Space) {
    let container = with(
        shell(&space.cluster.registry, "echo starting; exec tail /dev/zero"),
        json!({ "resources": { "limits": { "memory": "32Mi" } } }),
    );
    space.create(&pod("hungry", json!({ "restartPolicy": "Never", "containers": [container] }))).await;
    assert_eq!(space.ended("hungry").await, "Failed");
    let status = space.until_container(("hungry", "main"), "/state/terminated/exitCode", &json!(137)).await;
    assert_eq!(status["state"]["terminated"]["reason"], "OOMKilled", "{status}");
}

pub(crate) async fn no_such_program(space: Space) {
    let container = with(shell(&space.cluster.registry, ""), json!({ "command": ["/bin/no-such-program"] }));
    space.create(&pod_of("missing", container)).await;
    let status = space
        .until_container(("missing", "main"), "/lastState/terminated/reason", &json!("StartError"))
        .await;
    let terminated = &status["lastState"]["terminated"];
    assert_eq!(terminated["exitCode"], 128, "{status}");
    assert!(
        terminated["message"].as_str().is_some_and(|text| text.contains("/bin/no-such-program")),
        "{status}"
    );
}

/// A container's readiness, which a test takes away and gives back, by each kind of probe.
pub(crate) async fn readiness_comes_and_goes(space: Space) {
    let registry = &space.cluster.registry;
    let probed = |name: &str, container: Value, probe: Value| {
        let often = with(json!({ "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1 }), probe);
        with(container, json!({ "name": name, "readinessProbe": often }))
    };
    let stays = format!("touch /tmp/up; {STAYS}");
    let serves = "echo up >/tmp/up; while :; do if test -e /tmp/up; then httpd -f -p $PORT -h /tmp & wait $!; else sleep 1; fi; done";
    let at_port =
        |port: &str| with(shell(registry, serves), json!({ "env": [{ "name": "PORT", "value": port }] }));
    let grpc = agnhost(registry, &["grpc-health-checking", "--http-port=8083", "--port=5000"]);
    let containers = json!([
        probed("exec", shell(registry, &stays), json!({ "exec": { "command": ["test", "-e", "/tmp/up"] } })),
        probed("http", at_port("8081"), json!({ "httpGet": { "port": 8081, "path": "/up" } })),
        probed("tcp", at_port("8082"), json!({ "tcpSocket": { "port": 8082 } })),
        probed("grpc", grpc, json!({ "grpc": { "port": 5000 } })),
    ]);
    space.create(&pod("probed", json!({ "containers": containers }))).await;
    space.ready("probed").await;
    let steps = [
        ("exec", "rm /tmp/up", "touch /tmp/up"),
        ("http", "rm /tmp/up", "echo up >/tmp/up"),
        ("tcp", "rm /tmp/up; killall httpd", "echo up >/tmp/up"),
        (
            "grpc",
            "wget -qO- http://127.0.0.1:8083/make-not-serving",
            "wget -qO- http://127.0.0.1:8083/make-serving",
        ),
    ];
    for (name, away, back) in steps {
        let run = async |script: &str| {
            space.kubectl(&["exec", "probed", "-c", name, "--", "sh", "-c", script]).await.well()
        };
        run(away).await;
        space.until_container(("probed", name), "/ready", &json!(false)).await;
        run(back).await;
        let status = space.until_container(("probed", name), "/ready", &json!(true)).await;
        assert_eq!(status["restartCount"], 0, "{status}");
    }
    space.ready("probed").await;
}

/// A probe of liveness that fails ends the container, which is started again; so does one of the start that never holds.
pub(crate) async fn liveness_fails(space: Space) {
    let registry = &space.cluster.registry;
    let lives = |kind: &str, name: &str, container: Value, probe: Value| {
        let often = with(json!({ "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1 }), probe);
        with(container, json!({ "name": name, kind: often }))
    };
    let once = "test -e /kept/was && exec sleep 3600; touch /kept/was; touch /tmp/up; sleep 2; rm /tmp/up; exec sleep 3600";
    let kept = json!({ "volumeMounts": [{ "name": "kept", "mountPath": "/kept" }] });
    let fails_once = json!({ "exec": { "command": ["sh", "-c", "test -e /tmp/up || test $(cat /proc/1/cmdline | tr -d '\\0') = nothing"] } });
    let grpc = agnhost(registry, &["grpc-health-checking", "--delay-unhealthy-sec=2"]);
    let containers = json!([
        lives("livenessProbe", "exec", with(shell(registry, once), kept.clone()), fails_once),
        lives("livenessProbe", "grpc", grpc, json!({ "grpc": { "port": 5000 } })),
        lives(
            "startupProbe",
            "start",
            shell(registry, STAYS),
            json!({ "tcpSocket": { "port": 9999 }, "failureThreshold": 2 })
        ),
    ]);
    let spec = json!({ "containers": containers, "volumes": [{ "name": "kept", "emptyDir": {} }] });
    space.create(&pod("lives", spec)).await;
    for name in ["exec", "grpc", "start"] {
        space
            .until(("Pod", "lives"), &format!("{name} started again"), |pod| {
                let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
                let mut own = statuses.filter(|status| status["name"] == name);
                own.next()?["restartCount"].as_i64().filter(|count| *count >= 1)
            })
            .await;
    }
    let message = space.event("Unhealthy").await;
    assert!(message.contains("probe failed"), "{message}");
}

/// What a container writes counts against its limit; one that passes it is evicted.
pub(crate) async fn eviction_by_its_own_files(space: Space) {
    let registry = &space.cluster.registry;
    let limit = json!({ "resources": { "limits": { "ephemeral-storage": "4Mi" } } });
    let writes =
        |file: &str| shell(registry, &format!("dd if=/dev/urandom of={file} bs=1M count=8; exec sleep 3600"));
    space.create(&pod_of("layer", with(writes("/big"), limit.clone()))).await;
    let mounted = json!({ "volumeMounts": [{ "name": "kept", "mountPath": "/kept" }] });
    let volumes = json!([{ "name": "kept", "emptyDir": { "sizeLimit": "4Mi" } }]);
    space
        .create(&pod(
            "volume",
            json!({ "containers": [with(writes("/kept/big"), mounted)], "volumes": volumes }),
        ))
        .await;
    for (pod, word) in [("layer", "ephemeral local storage"), ("volume", "emptyDir volume")] {
        assert_eq!(space.ended(pod).await, "Failed");
        let status = space.get("Pod", pod).await.expect("a pod")["status"].clone();
        assert_eq!(status["reason"], "Evicted", "{status}");
        assert!(
            status["message"].as_str().is_some_and(|text| text.to_lowercase().contains(&word.to_lowercase())),
            "{status}"
        );
    }
}
