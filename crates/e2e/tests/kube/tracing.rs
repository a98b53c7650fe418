//! kubelet's own traces, gone on with by the daemon.

use e2e::collector::otel::span::SpanKind;
use e2e::collector::{Told, texts};
use e2e::kube::{Ground, Runtime, Standalone};

use crate::objects::{pod_of, shell};
use crate::standalone::gone;

pub(crate) async fn pod_start_is_in_kubelets_trace(rig: &mut Standalone) {
    if matches!(rig.runtime, Runtime::Containerd(_)) {
        println!("skipped: tracing::pod_start_is_in_kubelets_trace is not set up with containerd");
        return;
    }
    rig.place("traced", &pod_of("traced", shell(rig.runtime.registry(), "exec sleep 1000")));
    let pod = format!("traced-{}", Ground::NAME);
    let collector = rig.ground.collector.clone();
    for (method, stages) in [
        ("RunPodSandbox", &["supervisor", "namespaces", "network", "cni_plugin"][..]),
        ("CreateContainer", &["rootfs", "spec"]),
        ("StartContainer", &["prepare", "start"]),
    ] {
        let is_it = |told: &Told| {
            let said = texts(&told.span.attributes);
            let is_method = said.get("rpc.method").is_some_and(|said| said == method);
            told.service == "knarr" && is_method && said.get("k8s.pod.name") == Some(&pod)
        };
        let call = collector.find(method, is_it).await.span;
        let parent = collector.find("kubelet's span", |told| told.span.span_id == call.parent_span_id).await;
        assert_eq!(
            (parent.service.as_str(), parent.span.kind()),
            ("kubelet", SpanKind::Client),
            "{parent:?}"
        );
        assert_eq!(parent.span.trace_id, call.trace_id);
        collector.below_with(&call, stages).await;
        // It is a part of something larger: the pod's sync.
        assert!(!parent.span.parent_span_id.is_empty(), "{parent:?}");
    }
    rig.withdraw("traced");
    gone(rig, "traced").await;
}
