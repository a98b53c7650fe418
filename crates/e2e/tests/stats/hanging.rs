//! Pods that hang, and what they cost others: nothing.

use std::time::Duration;

use e2e::{Network, Pod, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::runtime::v1 as cri;

use super::{container, sandboxes, value};

fn supervisor(pod: &Pod) -> Pid {
    let record = pod.node.path("state/pods").join(&pod.id).join("record.json");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let found = find(&record, "supervisor").expect("a supervisor in the record");
    Pid::from_raw(i32::try_from(found["pid"].as_i64().unwrap()).unwrap())
}

fn find<'a>(value: &'a serde_json::Value, key: &str) -> Option<&'a serde_json::Value> {
    match value {
        serde_json::Value::Object(map) => {
            map.get(key).or_else(|| map.values().find_map(|value| find(value, key)))
        }
        _ => None,
    }
}

/// All pods, while one of them hangs: who waited for it would not be back, or come without it.
async fn meanwhile(pod: &Pod) -> Vec<cri::PodSandboxStats> {
    sandboxes(pod, cri::PodSandboxStatsFilter::default()).await
}

/// A supervisor that doesn't answer isn't asked; that it lives is enough to trust what it holds.
#[tokio::test]
async fn a_pod_whose_supervisor_is_stopped_is_told_of_as_before() {
    let pod = Pod::new(Network::BuiltIn, |_| ()).await;
    let id = pod.waiting("main", |_| ()).await;
    let other = pod.another(|_| ()).await.unwrap();
    let supervisor = supervisor(&pod);
    kill(supervisor, Signal::SIGSTOP).unwrap();
    let all = meanwhile(&pod).await;
    let of = |id: &str| all.iter().find(|stats| stats.attributes.as_ref().unwrap().id == id).unwrap();
    for id in [&pod.id, &other] {
        let linux = of(id).linux.as_ref().unwrap();
        assert!(linux.network.is_some() && value(&linux.memory.as_ref().unwrap().usage_bytes) > 0, "{id}");
    }
    assert!(value(&container(&pod, &id).await.memory.unwrap().usage_bytes) > 0);
    kill(supervisor, Signal::SIGCONT).unwrap();
}

#[tokio::test]
async fn a_frozen_container_is_told_of_as_before() {
    let pod = Pod::new(Network::None, |_| ()).await;
    let id = pod.waiting("main", |_| ()).await;
    let freezer = pod.cgroup_path(&id, &["freezer.state", "cgroup.freeze"]).expect("a freezer");
    let (frozen, thawed) = if freezer.ends_with("freezer.state") { ("FROZEN", "THAWED") } else { ("1", "0") };
    std::fs::write(&freezer, frozen).unwrap();
    let all = meanwhile(&pod).await;
    let request = cri::ListPodSandboxMetricsRequest {};
    let metrics =
        pod.runtime.clone().list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics;
    std::fs::write(&freezer, thawed).unwrap();
    assert_eq!(value(&all[0].linux.as_ref().unwrap().process.as_ref().unwrap().process_count), 1);
    assert!(!metrics[0].container_metrics[0].metrics.is_empty());
}

#[tokio::test]
async fn a_pod_whose_supervisor_was_killed_costs_others_nothing() {
    let pod = Pod::new(Network::BuiltIn, |_| ()).await;
    let other = pod.another(|_| ()).await.unwrap();
    kill(supervisor(&pod), Signal::SIGKILL).unwrap();
    let all = meanwhile(&pod).await;
    let of_other = all.iter().find(|stats| stats.attributes.as_ref().unwrap().id == other).unwrap();
    assert!(of_other.linux.as_ref().unwrap().network.is_some());
    until(Duration::from_secs(20), "the pod to be left out", || async {
        let left = meanwhile(&pod).await;
        if left.len() == 1 { Ok(()) } else { Err(left.len()) }
    })
    .await;
}
