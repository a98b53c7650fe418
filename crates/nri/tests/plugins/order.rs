//! In which order plugins' wishes come about, and that those who are slow keep nobody.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use nri::api::{self, Event};
use nri::{Question, Snapshot};

use crate::stub::{Stub, bit};
use crate::world::{container, creation, pod, world, world_with};

fn update(id: &str, cpus: &str) -> api::ContainerUpdate {
    let cpu = api::LinuxCpu { cpus: cpus.into(), ..api::LinuxCpu::default() };
    let resources = Some(api::LinuxResources { cpu: Some(cpu), ..api::LinuxResources::default() });
    let linux = Some(api::LinuxContainerUpdate { resources });
    api::ContainerUpdate { container_id: id.into(), linux, ignore_failure: false }
}

fn wanting(updates: Vec<api::ContainerUpdate>) -> api::CreateContainerResponse {
    api::CreateContainerResponse { update: updates, ..api::CreateContainerResponse::default() }
}

/// Brings something to where it has to wait, and no further.
async fn begin<F: Future + Unpin>(future: &mut F) {
    std::future::poll_fn(|context| {
        assert!(std::pin::Pin::new(&mut *future).poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn changes_of_others_come_about_in_the_order_of_the_answers_whoever_waits_for_them() {
    let world = world();
    let mut pins = Stub::joined(&world.socket, ("10", "pins"), &[Event::CreateContainer]).await;
    // Who asks first isn't looked at again until the second one has been answered.
    let mut first = Box::pin(world.nri.create(creation("a")));
    begin(&mut first).await;
    let call = pins.expect("CreateContainer").await;
    pins.answer(&call, &wanting(vec![update("x", "0-3")])).await;
    let nri = world.nri.clone();
    let second = tokio::spawn(async move { nri.create(creation("b")).await });
    let call = pins.expect("CreateContainer").await;
    pins.answer(&call, &wanting(vec![update("x", "0-1")])).await;
    second.await.unwrap().unwrap();
    assert_eq!(*world.node.updated.lock().unwrap(), [update("x", "0-3"), update("x", "0-1")]);
    first.await.unwrap();
}

#[tokio::test]
async fn what_a_plugin_wants_when_it_is_let_in_comes_before_what_it_wants_later() {
    let world = world();
    let mut pins = Stub::registered(&world.socket, ("10", "pins"), bit(Event::CreateContainer)).await;
    let call = pins.expect("Synchronize").await;
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("b")).await });
    let answer = api::SynchronizeResponse { update: vec![update("x", "0-3")], more: false };
    pins.answer(&call, &answer).await;
    let call = pins.expect("CreateContainer").await;
    pins.answer(&call, &wanting(vec![update("x", "0-1")])).await;
    asked.await.unwrap().unwrap();
    let request = api::UpdateContainersRequest { update: vec![update("x", "2")], evict: vec![] };
    pins.call("UpdateContainers", &request).await.unwrap();
    let expected = ["0-3", "0-1", "2"].map(|cpus| update("x", cpus));
    assert_eq!(*world.node.updated.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_change_that_hangs_keeps_those_after_it_from_nothing() {
    let world = world_with(Duration::from_millis(300), None);
    let mut pins = Stub::joined(&world.socket, ("10", "pins"), &[Event::CreateContainer]).await;
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("a")).await });
    let call = pins.expect("CreateContainer").await;
    pins.answer(&call, &wanting(vec![update("hangs", "0")])).await;
    asked.await.unwrap().unwrap();
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("b")).await });
    let call = pins.expect("CreateContainer").await;
    pins.answer(&call, &wanting(vec![update("x", "1")])).await;
    asked.await.unwrap().unwrap();
    assert_eq!(*world.node.updated.lock().unwrap(), [update("x", "1")]);
}

#[tokio::test]
async fn what_was_told_before_a_plugin_is_in_is_not_told_to_it_again() {
    let world = world();
    let window = world.nri.pass().expect("nobody is there");
    let mut late = Stub::registered(&world.socket, ("10", "late"), 0).await;
    world.idle(false).await;
    // It has happened, and is on its way to the hub, when the last window closes.
    world.node.all.lock().unwrap().containers.push(container("early"));
    world.tell(Event::PostCreateContainer, Some("early"));
    drop(window);
    world.tell(Event::PostStartContainer, Some("early"));
    late.synchronize().await;
    world.tell(Event::RemoveContainer, Some("early"));
    late.expect("RemoveContainer").await;
}

#[tokio::test]
async fn who_has_given_up_is_not_asked_about() {
    let world = world();
    let window = world.nri.pass().expect("nobody is there");
    let mut plugin = Stub::registered(&world.socket, ("10", "one"), 0).await;
    world.idle(false).await;
    // It waits until the plugin is in, and nobody waits for it any more.
    let mut given_up = Box::pin(world.nri.create(creation("gone")));
    begin(&mut given_up).await;
    world.nri.consent(Question::StopPod(pod("p"))).await.unwrap();
    drop(given_up);
    world.tell(Event::RemoveContainer, Some("gone"));
    drop(window);
    plugin.synchronize().await;
    world.tell(Event::RemovePodSandbox, None);
    plugin.expect("RemovePodSandbox").await;
}

#[tokio::test]
async fn one_that_answers_slowly_but_in_time_is_cut_off_when_everybody_waits_for_it() {
    let patience = Duration::from_secs(1);
    let world = world_with(patience, None);
    let mut slow = Stub::joined(&world.socket, ("10", "slow"), &[Event::PostStartContainer]).await;
    let mut quick = Stub::joined(&world.socket, ("20", "quick"), &[Event::RunPodSandbox]).await;
    for _ in 0..100 {
        world.tell(Event::PostStartContainer, Some("c"));
    }
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.run_pod(pod("p")).await });
    let answering = tokio::spawn(async move {
        let mut answered = 0;
        while let Some(call) = slow.next_if_any().await {
            tokio::time::sleep(patience / 2).await;
            slow.answer(&call, &api::Empty {}).await;
            answered += 1;
        }
        answered
    });
    let call = quick.expect("RunPodSandbox").await;
    quick.answer(&call, &api::Empty {}).await;
    asked.await.unwrap().unwrap();
    let answered = answering.await.unwrap();
    assert!((2..100).contains(&answered), "it was cut off for {answered} answers together, not for one");
}

#[tokio::test]
async fn one_that_is_quick_is_waited_for_however_much_there_is_to_hear() {
    let world = world_with(Duration::from_secs(1), None);
    let mut quick = Stub::joined(&world.socket, ("10", "quick"), &[Event::PostStartContainer]).await;
    let all = 120;
    (0..all).for_each(|_| world.tell(Event::PostStartContainer, Some("c")));
    for _ in 0..all {
        let call = quick.expect("PostStartContainer").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        quick.answer(&call, &api::Empty {}).await;
    }
    world.nri.consent(Question::StopPod(pod("p"))).await.unwrap();
    assert!(!world.nri.is_idle());
}

#[tokio::test]
async fn one_that_comes_waits_no_longer_for_what_others_have_to_hear_than_it_may_for_anything() {
    let patience = Duration::from_secs(1);
    let world = world_with(patience, None);
    let mut slow = Stub::joined(&world.socket, ("10", "slow"), &[Event::PostStartContainer]).await;
    let (_, window) = world.nri.create(creation("a")).await.unwrap();
    let mut late = Stub::registered(&world.socket, ("20", "late"), 0).await;
    // From when it waits to be let in, nothing new is made.
    let made = || tokio::time::timeout(Duration::from_millis(20), world.nri.create(creation("b")));
    while made().await.is_ok() {}
    (0..100).for_each(|_| world.tell(Event::PostStartContainer, Some("c")));
    drop(window);
    let answering = tokio::spawn(async move {
        while let Some(call) = slow.next_if_any().await {
            tokio::time::sleep(patience / 2).await;
            slow.answer(&call, &api::Empty {}).await;
        }
    });
    assert_eq!(late.closed().await, Vec::<String>::new(), "it is sent away, and may come again");
    // The slow one is found all the same.
    answering.await.unwrap();
}

#[tokio::test]
async fn what_is_too_large_to_be_told_fails_by_itself_and_cuts_nobody_off() {
    let world = world();
    let mut plugin = Stub::joined(&world.socket, ("10", "one"), &[Event::CreateContainer]).await;
    let mut large = creation("large");
    large.container.get_or_insert_default().env = vec!["x".repeat(5 << 20)];
    let error = world.nri.create(large).await.unwrap_err().to_string();
    assert!(error.contains("a message that is too long"), "{error}");
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("c")).await });
    let call = plugin.expect("CreateContainer").await;
    plugin.answer(&call, &api::CreateContainerResponse::default()).await;
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_a_pod_waits_for_no_plugin_that_is_behind_and_is_told_all_the_same() {
    let patience = Duration::from_secs(2);
    let world = world_with(patience, None);
    let mut slow =
        Stub::joined(&world.socket, ("10", "slow"), &[Event::PostStartContainer, Event::StopPodSandbox])
            .await;
    for _ in 0..4 {
        world.tell(Event::PostStartContainer, Some("c"));
    }
    let mut stopping = Box::pin(world.nri.stop_pod(pod("p")));
    let mut heard = 0;
    loop {
        tokio::select! {
            biased;
            stopped = &mut stopping => break stopped.unwrap(),
            call = slow.expect("PostStartContainer") => {
                heard += 1;
                tokio::time::sleep(patience * 3 / 4).await;
                slow.answer(&call, &api::Empty {}).await;
            }
        }
    }
    assert!(heard < 4, "it was not waited for until it had heard of all");
    for _ in heard..4 {
        let call = slow.expect("PostStartContainer").await;
        slow.answer(&call, &api::Empty {}).await;
    }
    slow.expect("StopPodSandbox").await;
}

#[tokio::test]
async fn a_message_that_is_too_large_or_has_too_many_parts_is_refused_before_it_is_read() {
    let world = world();
    let mut plugin = Stub::joined(&world.socket, ("10", "one"), &[Event::CreateContainer]).await;
    let update = vec![api::ContainerUpdate::default(); 100_000];
    let request = api::UpdateContainersRequest { update, evict: vec![] };
    let (code, why) = plugin.call("UpdateContainers", &request).await.unwrap_err();
    assert_eq!((code, why.as_str()), (8, "a message of more than 16384 parts"));
    // As an answer it is none: the container goes on without it.
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("c")).await });
    let call = plugin.expect("CreateContainer").await;
    plugin.answer(&call, &wanting(request.update)).await;
    asked.await.unwrap().unwrap();
    plugin.closed().await;
    let mut plugin = Stub::joined(&world.socket, ("10", "two"), &[]).await;
    let long = api::ContainerUpdate { container_id: "x".repeat(1 << 20), ..Default::default() };
    let request = api::UpdateContainersRequest { update: vec![long], evict: vec![] };
    drop(plugin.begin_call("UpdateContainers", &request).await);
    plugin.closed().await;
}

#[tokio::test]
async fn what_cannot_be_read_of_the_node_keeps_no_plugin_and_no_question() {
    let world = world_with(Duration::from_millis(300), None);
    let mut plugin = Stub::joined(&world.socket, ("10", "one"), &[Event::PostStartContainer]).await;
    world.nri.tell(nri::News { event: Event::PostStartContainer, about: Box::pin(std::future::pending()) });
    world.tell(Event::PostStartContainer, Some("c"));
    let call = plugin.expect("PostStartContainer").await;
    let told: api::PostStartContainerRequest = call.read();
    assert_eq!(told.container.unwrap().id, "c");
    plugin.answer(&call, &api::Empty {}).await;
    *world.node.all.lock().unwrap() = Snapshot { pods: vec![pod("hangs")], containers: vec![] };
    let mut late = Stub::registered(&world.socket, ("20", "late"), 0).await;
    assert_eq!(late.closed().await, Vec::<String>::new());
}
