//! A kubelet without a cluster: static pods, and what happens to them when a daemon is killed.

use std::time::Duration;

use e2e::cri::{ContainerState, PodSandbox, PodSandboxState};
use e2e::kube::Standalone;
use e2e::{Client, until};
use serde_json::{Value, json};

use crate::objects::{STAYS, agnhost, pod_of, shell, with};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn static_pod_comes_and_goes(rig: &mut Standalone) {
    rig.place(
        "web",
        &pod_of("web", json!({ "name": "main", "image": rig.runtime.registry().image("kube/web:1") })),
    );
    let pod = ready(rig, "web", |_| true).await;
    let address = pod["status"]["podIP"].as_str().expect("an address").to_owned();
    let page = rig.ground.host.sh(&format!("wget -qO- http://{address}/ || curl -s http://{address}/"));
    assert_eq!(page, "one\n", "what the pod serves at its address");
    rig.withdraw("web");
    gone(rig, "web").await;
}

pub(crate) async fn manifest_changes(rig: &mut Standalone) {
    let registry = rig.runtime.registry().clone();
    let says = |word: &str| {
        pod_of(
            "changing",
            with(shell(&registry, STAYS), json!({ "env": [{ "name": "WORD", "value": word }] })),
        )
    };
    rig.place("changing", &says("first"));
    let before = container_id(&ready(rig, "changing", |_| true).await);
    rig.place("changing", &says("second"));
    let client = Client::new(&rig.runtime.socket());
    until(PATIENCE, "the container of the new manifest", || async {
        let id = container_id(&rig.pod("changing").await?);
        let output =
            client.exec(&id, &["sh", "-c", "echo $WORD"], 5).await.map_err(|status| status.to_string())?;
        if id != before && output.stdout == "second\n" { Ok(()) } else { Err(format!("{id}: {output:?}")) }
    })
    .await;
    rig.withdraw("changing");
    gone(rig, "changing").await;
}

pub(crate) async fn container_that_ends_is_started_again(rig: &mut Standalone) {
    // The first time it ends at once, the second it stays: the file is on a volume, which is the pod's.
    let script = format!("test -e /kept/file || {{ touch /kept/file; exit 7; }}; {STAYS}");
    let container = with(
        shell(rig.runtime.registry(), &script),
        json!({ "volumeMounts": [{ "name": "kept", "mountPath": "/kept" }] }),
    );
    let mut pod = pod_of("again", container);
    pod["spec"]["volumes"] = json!([{ "name": "kept", "emptyDir": {} }]);
    rig.place("again", &pod);
    let pod = ready(rig, "again", |status| status["restartCount"] == 1).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 7, "{status}");
    rig.withdraw("again");
    gone(rig, "again").await;
}

pub(crate) async fn probes_of_all_kinds(rig: &mut Standalone) {
    let registry = rig.runtime.registry().clone();
    let soon = |probe: Value| with(json!({ "periodSeconds": 1, "timeoutSeconds": 5 }), probe);
    let probed = [
        ("exec", shell(&registry, STAYS), json!({ "exec": { "command": ["true"] } })),
        (
            "http",
            agnhost(&registry, &["netexec"]),
            json!({ "httpGet": { "port": 8080, "path": "/healthz" } }),
        ),
        ("tcp", agnhost(&registry, &["netexec"]), json!({ "tcpSocket": { "port": 8080 } })),
        ("grpc", agnhost(&registry, &["grpc-health-checking"]), json!({ "grpc": { "port": 5000 } })),
    ];
    for (name, container, probe) in probed.clone() {
        let probes = json!({ "startupProbe": soon(probe.clone()), "readinessProbe": soon(probe.clone()), "livenessProbe": soon(probe) });
        rig.place(name, &pod_of(name, with(container, probes)));
    }
    for (name, _, _) in &probed {
        ready(rig, name, |_| true).await;
        rig.withdraw(name);
    }
    for (name, _, _) in &probed {
        gone(rig, name).await;
    }
}

pub(crate) async fn kubelet_is_killed(rig: &mut Standalone) {
    rig.place("stays", &pod_of("stays", shell(rig.runtime.registry(), STAYS)));
    let before = container_id(&ready(rig, "stays", |_| true).await);
    rig.restart_kubelet();
    let pod = ready(rig, "stays", |_| true).await;
    assert_eq!(container_id(&pod), before, "the container that ran before kubelet was killed");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    rig.withdraw("stays");
    gone(rig, "stays").await;
}

pub(crate) async fn runtime_is_killed(rig: &mut Standalone) {
    rig.place("stays", &pod_of("stays", shell(rig.runtime.registry(), STAYS)));
    let before = container_id(&ready(rig, "stays", |_| true).await);
    rig.runtime.kill();
    rig.runtime.start_again(&rig.ground);
    // kubelet needs the runtime for what it does next.
    rig.place("next", &pod_of("next", shell(rig.runtime.registry(), STAYS)));
    ready(rig, "next", |_| true).await;
    let pod = ready(rig, "stays", |_| true).await;
    assert_eq!(container_id(&pod), before, "the container that ran before the runtime was killed");
    for name in ["stays", "next"] {
        rig.withdraw(name);
        gone(rig, name).await;
    }
}

/// Waits until a static pod is ready, with a container whose status is as wished and which the runtime runs.
async fn ready(rig: &Standalone, name: &str, wish: impl Fn(&Value) -> bool) -> Value {
    let client = Client::new(&rig.runtime.socket());
    until(PATIENCE, &format!("{name} to be ready"), || async {
        let pod = rig.pod(name).await?;
        let container = client.container(&container_id(&pod)).await.map_err(|status| status.to_string())?;
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let mut ready =
            conditions.filter(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        let runs = container.state() == ContainerState::ContainerRunning;
        let is_ready = ready.next().is_some() && runs && wish(&pod["status"]["containerStatuses"][0]);
        if is_ready { Ok(pod) } else { Err(format!("{} {container:?}", pod["status"])) }
    })
    .await
}

/// Waits until neither kubelet nor the runtime has a static pod any more, but for records of what ended.
pub(crate) async fn gone(rig: &Standalone, name: &str) {
    let client = Client::new(&rig.runtime.socket());
    until(PATIENCE, &format!("the end of {name}"), || async {
        if rig.pod(name).await.is_ok() {
            return Err("kubelet has it".to_owned());
        }
        let pods = client.pods().await.map_err(|status| status.to_string())?;
        let ours = |pod: &PodSandbox| {
            pod.metadata.as_ref().is_some_and(|metadata| metadata.name.starts_with(&format!("{name}-")))
        };
        let ready = pods.iter().find(|pod| pod.state() == PodSandboxState::SandboxReady && ours(pod));
        ready.map_or(Ok(()), |pod| Err(format!("{pod:?}")))
    })
    .await;
}

fn container_id(pod: &Value) -> String {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    id.rsplit('/').next().unwrap_or_default().to_owned()
}
