//! What is told to whom, and when it is said to have been.

use std::cell::Cell;

use super::*;
use crate::pod::status::PodPhase;

fn status(id: &PodId) -> PodStatus {
    PodStatus {
        id: id.clone(),
        config: Arc::default(),
        phase: PodPhase::Ready,
        created_at: 1,
        ips: Vec::new(),
        supervisor: None,
        netns: None,
        cgroup: String::new(),
        limits: Default::default(),
        message: String::new(),
    }
}

fn happened(events: &Events, pod: &PodId, kind: EventKind) {
    let note = Note { pod: pod.clone(), container: None, kind };
    events.publish(note, || (Arc::new(status(pod)), Vec::new()));
}

/// Finds every pod.
fn all(id: &PodId) -> Option<Statuses> {
    Some((Arc::new(status(id)), Vec::new()))
}

fn pods(count: usize) -> Vec<PodId> {
    (0..count).map(|_| PodId::random()).collect()
}

#[tokio::test]
async fn what_nobody_heard_is_for_the_first_listener_alone_and_in_order() {
    let (events, pods) = (Events::new(), pods(10));
    pods.iter().for_each(|pod| happened(&events, pod, EventKind::Stopped));
    let (mut first, mut second) = (events.subscribe(all), events.subscribe(all));
    let last = PodId::random();
    happened(&events, &last, EventKind::Stopped);
    let mut times = vec![];
    for pod in pods.iter().chain([&last]) {
        let event = first.recv().await.unwrap();
        assert_eq!(event.id, pod.to_string());
        times.push(event.at);
    }
    assert!(times.is_sorted_by(|one, next| one < next), "{times:?}");
    assert_eq!(second.recv().await.unwrap().id, last.to_string());
}

#[tokio::test]
async fn the_first_listener_is_told_when_not_everything_could_be_kept() {
    let (events, pods) = (Events::new(), pods(EVENT_BACKLOG + 7));
    pods.iter().for_each(|pod| happened(&events, pod, EventKind::Created));
    let mut first = events.subscribe(all);
    let lost = first.recv().await;
    assert!(matches!(lost, Err(RecvError::Lagged(lost)) if lost == pods.len() as u64), "{lost:?}");
    happened(&events, &pods[0], EventKind::Started);
    assert_eq!(first.recv().await.unwrap().id, pods[0].to_string(), "from then on");
}

/// kubelet lets go of all it knows of a pod when it hears that a sandbox of it is gone, whenever that was.
#[tokio::test]
async fn what_has_gone_is_not_told_to_who_comes_later() {
    let (events, pods) = (Events::new(), pods(3));
    for pod in &pods {
        happened(&events, pod, EventKind::Stopped);
    }
    happened(&events, &pods[0], EventKind::Deleted);
    let container = ContainerId::random();
    let of_container = |kind| {
        let note = Note { pod: pods[2].clone(), container: Some(container.clone()), kind };
        events.publish(note, || (Arc::new(status(&pods[2])), Vec::new()));
    };
    of_container(EventKind::Created);
    of_container(EventKind::Deleted);
    // The second goes without a word: between the time that notes are taken and the time that it is looked at.
    let mut first = events.subscribe(|pod| all(pod).filter(|_| *pod != pods[1]));
    happened(&events, &pods[1], EventKind::Created);
    let told = first.recv().await.unwrap();
    assert_eq!((told.id, told.kind), (pods[2].to_string(), EventKind::Stopped));
    assert_eq!(first.recv().await.unwrap().id, pods[1].to_string());
}

#[tokio::test]
async fn nothing_is_looked_at_while_nobody_listens() {
    let (events, pod, looks) = (Events::new(), PodId::random(), Cell::new(0));
    let happens = || {
        let note = Note { pod: pod.clone(), container: None, kind: EventKind::Created };
        events.publish(note, || {
            looks.set(looks.get() + 1);
            (Arc::new(status(&pod)), Vec::new())
        });
    };
    happens();
    assert_eq!(looks.get(), 0, "somebody may come, and will look then");
    let listener = events.subscribe(all);
    happens();
    assert_eq!(looks.get(), 1);
    drop(listener);
    happens();
    assert_eq!(looks.get(), 1);
}

#[tokio::test]
async fn nothing_is_kept_once_somebody_came_or_nobody_did_for_long() {
    let events = Events::new();
    happened(&events, &PodId::random(), EventKind::Created);
    assert_eq!(events.lock().kept.as_ref().unwrap().notes.len(), 1);
    drop(events.subscribe(all));
    assert!(events.lock().kept.is_none());
    let quiet = Events::new();
    happened(&quiet, &PodId::random(), EventKind::Created);
    quiet.lock().begun -= KEPT_FOR;
    quiet.give_up_on_listeners();
    assert!(quiet.lock().kept.is_none());
}

#[tokio::test]
async fn who_is_too_slow_is_told() {
    let (events, pods) = (Events::new(), pods(EVENT_BACKLOG + 5));
    let mut slow = events.subscribe(all);
    pods.iter().for_each(|pod| happened(&events, pod, EventKind::Created));
    assert!(matches!(slow.recv().await, Err(RecvError::Lagged(5))));
    assert_eq!(slow.recv().await.unwrap().id, pods[5].to_string());
}

/// kubelet refuses an event that is older than the status it has, and a status that is older than the event.
#[test]
fn events_and_looks_have_one_order_even_where_the_clock_goes_back() {
    let mut order = Order { last: 0, kept: None, begun: Instant::now() };
    let looked = order.now(1_000);
    let happened = order.times(1, 400);
    assert!(happened > looked, "what was not seen yet is news");
    let looked = order.now(400);
    assert!(looked >= happened, "what was seen is no older than what is known");
    assert!(order.times(3, 400) > looked);
    assert_eq!(order.times(1, 400), looked + 4, "each of the three has a time of its own");
}
