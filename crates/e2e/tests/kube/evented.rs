//! kubelet's evented PLEG: it is told what happens to containers, and lists them every five minutes only.

use e2e::Client;
use e2e::kube::{Http, Runtime, Standalone};

use crate::objects::{pod_of, shell};
use crate::standalone::{container_id, gone, ready};

/// What kubelet counts of events, by the names of its metrics.
#[derive(Debug)]
struct Counts {
    /// Streams of events that it has got.
    streams: f64,
    /// Those that have broken.
    broken: f64,
    /// Events that came.
    events: f64,
    /// How often it has listed all pods.
    lists: f64,
}

impl Counts {
    async fn of(kubelet: &Http) -> Self {
        let text = kubelet.get("/metrics").await.expect("kubelet's metrics");
        let count = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.map_or(0.0, |count| count.parse().expect("a number"))
        };
        Self {
            streams: count("kubelet_evented_pleg_connection_success_count"),
            broken: count("kubelet_evented_pleg_connection_error_count"),
            events: count("kubelet_evented_pleg_connection_latency_seconds_count"),
            lists: count("kubelet_pleg_relist_duration_seconds_count"),
        }
    }
}

pub(crate) async fn exit_and_restart_are_seen_by_events(rig: &mut Standalone) {
    let container = evented_with(rig, "told").await;
    let before = Counts::of(&rig.kubelet).await;
    end(rig, &container).await;
    let pod = ready(rig, "told", |status| status["restartCount"] == 1).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 7, "{status}");
    let after = Counts::of(&rig.kubelet).await;
    assert!((after.streams, after.broken) == (1.0, 0.0), "one stream that holds: {after:?}");
    // The end of the one; that the next is there, and runs.
    assert!(after.events >= before.events + 3.0, "{before:?}, then {after:?}");
    assert!(after.lists == before.lists, "seen without a list: {before:?}, then {after:?}");
    as_before(rig, "told").await;
}

pub(crate) async fn exit_without_a_runtime_is_seen(rig: &mut Standalone) {
    let container = evented_with(rig, "untold").await;
    end(rig, &container).await;
    rig.runtime.kill();
    rig.runtime.start_again(&rig.ground);
    // By an event, or by a list: kubelet goes over to lists when it can't have its stream back soon enough.
    let pod = ready(rig, "untold", |status| status["restartCount"] == 1).await;
    let status = &pod["status"]["containerStatuses"][0];
    if !matches!(rig.runtime, Runtime::Containerd(_)) {
        assert_eq!(status["lastState"]["terminated"]["exitCode"], 7, "{status}");
    }
    as_before(rig, "untold").await;
}

/// Starts kubelet anew, with events, and a pod on it whose container ends when it is told to: gives its id. Two pods of one name and
/// specification would be the same static pod.
async fn evented_with(rig: &mut Standalone, name: &str) -> String {
    rig.gates(&["EventedPLEG"]).await;
    let script = "until test -e /end; do sleep 0.1; done; exit 7";
    rig.place(name, &pod_of(name, shell(rig.runtime.registry(), script)));
    container_id(&ready(rig, name, |_| true).await)
}

async fn end(rig: &Standalone, container: &str) {
    let client = Client::new(&rig.runtime.socket());
    client.exec(container, &["touch", "/end"], 5).await.expect("a file");
}

async fn as_before(rig: &mut Standalone, name: &str) {
    rig.withdraw(name);
    gone(rig, name).await;
    rig.gates(&[]).await;
}
