//! What plugins hear, in which order, and what becomes of what they say.

use nri::api::{self, Event};
use nri::{Error, PluginStatus, Question, Validator};

use crate::stub::{Stub, bit};
use crate::world::{container, creation, pod, world, world_with};

fn variable(key: &str, value: &str) -> api::ContainerAdjustment {
    let env = vec![api::KeyValue { key: key.into(), value: value.into() }];
    api::ContainerAdjustment { env, ..api::ContainerAdjustment::default() }
}

fn adjusting(adjust: api::ContainerAdjustment) -> api::CreateContainerResponse {
    api::CreateContainerResponse { adjust: Some(adjust), ..api::CreateContainerResponse::default() }
}

#[tokio::test]
async fn a_plugin_is_told_of_all_that_there_is_and_then_of_what_it_wants_in_order() {
    let world = world();
    *world.node.all.lock().unwrap() =
        nri::Snapshot { pods: vec![pod("p"), pod("q")], containers: vec![container("c")] };
    let mut plugin = Stub::silent(&world.socket).await;
    let request =
        api::RegisterPluginRequest { plugin_name: "a".into(), plugin_idx: "10".into(), ..Default::default() };
    plugin.call("RegisterPlugin", &request).await.unwrap();
    let configure = plugin.expect("Configure").await;
    let told: api::ConfigureRequest = configure.read();
    assert_eq!((told.runtime_name.as_str(), told.request_timeout), ("test", 20_000));
    assert!(told.nri_version.starts_with("v0.12"));
    let events = bit(Event::StopContainer) | bit(Event::RemoveContainer);
    plugin.answer(&configure, &api::ConfigureResponse { events }).await;
    let all = plugin.synchronize().await;
    assert_eq!((all.pods.len(), all.containers.len(), all.more), (2, 1, false));
    for event in [Event::PostStartContainer, Event::StopContainer, Event::RemoveContainer] {
        world.tell(event, Some("c"));
    }
    let stopped = plugin.expect("StopContainer").await;
    assert_eq!(stopped.timeout, 20_000_000_000, "it knows how long it has");
    assert_eq!(stopped.read::<api::StopContainerRequest>().container.unwrap().id, "c");
    assert!(plugin.is_quiet(), "nothing is said while something is being answered");
    plugin.answer(&stopped, &api::StopContainerResponse::default()).await;
    let removed = plugin.expect("RemoveContainer").await;
    plugin.answer(&removed, &api::Empty {}).await;
    world.nri.stop().await;
    plugin.closed().await;
}

#[tokio::test]
async fn plugins_are_asked_by_index_and_each_sees_what_came_before() {
    let world = world();
    let create = [Event::CreateContainer];
    let mut late = Stub::joined(&world.socket, ("90", "late"), &create).await;
    let mut early = Stub::joined(&world.socket, ("05", "early"), &create).await;
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("c")).await });
    let call = early.expect("CreateContainer").await;
    assert!(late.is_quiet());
    let told = |name: &str| PluginStatus { name: name.into(), events: vec!["CreateContainer"] };
    assert_eq!(world.nri.plugins(), [told("05-early"), told("90-late")]);
    early.answer(&call, &adjusting(variable("A", "1"))).await;
    let call = late.expect("CreateContainer").await;
    assert_eq!(call.read::<api::CreateContainerRequest>().container.unwrap().env, ["A=1"]);
    late.answer(&call, &adjusting(variable("B", "2"))).await;
    let (adjusted, _window) = asked.await.unwrap().unwrap();
    assert_eq!(adjusted.adjust.env.len(), 2);
}

#[tokio::test]
async fn what_two_plugins_both_set_fails_the_container_and_names_them() {
    let world = world();
    let mut one = Stub::joined(&world.socket, ("10", "one"), &[Event::CreateContainer]).await;
    let mut two = Stub::joined(&world.socket, ("20", "two"), &[Event::CreateContainer]).await;
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("c")).await });
    for plugin in [&mut one, &mut two] {
        let call = plugin.expect("CreateContainer").await;
        plugin.answer(&call, &adjusting(variable("A", "1"))).await;
    }
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the plugins \"20-two\" and \"10-one\" both want to set Env \"A\"");
}

#[tokio::test]
async fn a_plugin_that_refuses_has_the_last_word() {
    let world = world();
    let mut one = Stub::joined(&world.socket, ("10", "one"), &[Event::RunPodSandbox]).await;
    let mut two = Stub::joined(&world.socket, ("20", "two"), &[Event::RunPodSandbox]).await;
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.run_pod(pod("p")).await });
    let call = one.expect("RunPodSandbox").await;
    one.refuse(&call, 2, "not today").await;
    let error = asked.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Refused { plugin, why, .. } if plugin == "10-one" && why == "not today"),
        "{error}"
    );
    // It is in all the same.
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.run_pod(pod("p")).await });
    for plugin in [&mut one, &mut two] {
        let call = plugin.expect("RunPodSandbox").await;
        plugin.answer(&call, &api::Empty {}).await;
    }
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn validators_see_all_of_it_with_its_owners() {
    let world = world();
    let mut plugin = Stub::joined(&world.socket, ("10", "one"), &[Event::CreateContainer]).await;
    let mut judge = Stub::joined(&world.socket, ("99", "judge"), &[Event::ValidateContainerAdjustment]).await;
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("c")).await });
    let call = plugin.expect("CreateContainer").await;
    plugin.answer(&call, &adjusting(variable("A", "1"))).await;
    let call = judge.expect("ValidateContainerAdjustment").await;
    let request: api::ValidateContainerAdjustmentRequest = call.read();
    assert_eq!(request.container.unwrap().env, Vec::<String>::new(), "as it was before");
    assert_eq!(request.adjust.unwrap().env[0].key, "A");
    let owners = &request.owners.unwrap().owners["c"].compound[&(api::Field::Env as i32)].owners;
    assert_eq!(owners["A"], "10-one");
    assert_eq!(request.plugins.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["one", "judge"]);
    let verdict = api::ValidateContainerAdjustmentResponse { reject: true, reason: "no".into() };
    judge.answer(&call, &verdict).await;
    let error = asked.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Rejected { validator, why } if validator.contains("99-judge") && why == "no"),
        "{error}"
    );
}

#[tokio::test]
async fn a_required_plugin_has_to_be_there_though_there_is_none() {
    let validator = Validator { required_plugins: vec!["gpu".into()], ..Validator::default() };
    let world = world_with(crate::stub::PATIENCE, Some(validator));
    assert!(world.nri.pass().is_none());
    let error = world.nri.create(creation("c")).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected { why, .. } if why.contains("gpu")), "{error}");
    let mut plugin = Stub::joined(&world.socket, ("10", "gpu"), &[Event::StopContainer]).await;
    world.nri.create(creation("c")).await.unwrap();
    assert!(plugin.is_quiet());
}

#[tokio::test]
async fn updates_are_what_plugins_make_of_them_and_others_are_changed_too() {
    let world = world();
    let mut plugin = Stub::joined(&world.socket, ("10", "one"), &[Event::UpdateContainer]).await;
    let limits = |shares: u64| {
        let cpu = api::LinuxCpu { shares: Some(api::OptionalUInt64 { value: shares }), ..Default::default() };
        api::LinuxResources { cpu: Some(cpu), ..Default::default() }
    };
    let request = api::UpdateContainerRequest {
        pod: Some(pod("p")),
        container: Some(container("c")),
        linux_resources: Some(limits(2)),
    };
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.update(request).await });
    let call = plugin.expect("UpdateContainer").await;
    assert_eq!(call.read::<api::UpdateContainerRequest>().linux_resources, Some(limits(2)));
    let update = |id: &str, shares: u64| api::ContainerUpdate {
        container_id: id.into(),
        linux: Some(api::LinuxContainerUpdate { resources: Some(limits(shares)) }),
        ignore_failure: false,
    };
    let evict = vec![api::ContainerEviction { container_id: "old".into(), reason: "room".into() }];
    plugin
        .answer(&call, &api::UpdateContainerResponse { update: vec![update("c", 7), update("x", 8)], evict })
        .await;
    assert_eq!(asked.await.unwrap().unwrap(), limits(7));
    assert_eq!(*world.node.updated.lock().unwrap(), [update("x", 8)]);
    assert_eq!(world.node.evicted.lock().unwrap()[0].container_id, "old");
}

#[tokio::test]
async fn a_plugin_changes_containers_by_itself_and_hears_what_failed() {
    let world = world();
    let mut plugin = Stub::registered(&world.socket, ("10", "one"), 0).await;
    let update = |id: &str| api::ContainerUpdate { container_id: id.into(), ..Default::default() };
    let request = api::UpdateContainersRequest {
        update: vec![update("c"), update("unknown")],
        evict: vec![api::ContainerEviction { container_id: "e".into(), reason: "why".into() }],
    };
    // At any time, also before it was told what there is: then it has to wait for that, and isn't refused.
    let early = plugin.begin_call("UpdateContainers", &api::UpdateContainersRequest::default()).await;
    plugin.synchronize().await;
    let answer = plugin.call("UpdateContainers", &request).await.unwrap();
    let failed = <api::UpdateContainersResponse as prost::Message>::decode(answer.as_slice()).unwrap().failed;
    assert_eq!(failed, [update("unknown")]);
    assert_eq!(*world.node.updated.lock().unwrap(), [update("c")]);
    assert_eq!(world.node.evicted.lock().unwrap().len(), 1);
    tokio::time::timeout(crate::stub::PATIENCE, early).await.unwrap().unwrap().unwrap();
    let (code, _) = plugin.call("Nonsense", &api::Empty {}).await.unwrap_err();
    assert_eq!(code, 12);
}

#[tokio::test]
async fn nothing_is_lost_that_is_made_while_a_plugin_comes() {
    let world = world();
    // Told of when nobody was there, and not listed yet.
    let window = world.nri.pass().expect("nobody is there");
    let mut plugin = Stub::registered(
        &world.socket,
        ("10", "one"),
        bit(Event::CreateContainer) | bit(Event::StopContainer),
    )
    .await;
    world.idle(false).await;
    assert!(world.nri.pass().is_none(), "nobody passes once somebody waits");
    let nri = world.nri.clone();
    let later = tokio::spawn(async move { nri.create(creation("later")).await });
    // What opens no window goes on meanwhile.
    world.nri.consent(Question::StopPod(pod("p"))).await.unwrap();
    assert!(plugin.is_quiet(), "it is not let in while something is neither told nor listed");
    world.node.all.lock().unwrap().containers.push(container("early"));
    drop(window);
    let all = plugin.synchronize().await;
    assert_eq!(all.containers.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["early"]);
    let call = plugin.expect("CreateContainer").await;
    assert_eq!(call.read::<api::CreateContainerRequest>().container.unwrap().id, "later");
    plugin.answer(&call, &api::CreateContainerResponse::default()).await;
    later.await.unwrap().unwrap();
}

#[tokio::test]
async fn many_containers_come_in_several_messages() {
    let world = world();
    let big = |id: usize| api::Container {
        id: id.to_string(),
        args: vec!["x".repeat(1 << 20)],
        ..Default::default()
    };
    world.node.all.lock().unwrap().containers = (0..9).map(big).collect();
    let mut plugin = Stub::registered(&world.socket, ("10", "one"), 0).await;
    let (mut seen, mut messages) = (Vec::new(), 0);
    loop {
        let part = plugin.synchronize().await;
        seen.extend(part.containers.into_iter().map(|it| it.id));
        messages += 1;
        if !part.more {
            break;
        }
    }
    assert_eq!(seen, (0..9).map(|id| id.to_string()).collect::<Vec<_>>());
    assert!(messages > 1);
}

#[tokio::test]
async fn a_plugin_of_before_0_12_hears_of_events_by_the_method_that_it_has() {
    let world = world();
    let mut plugin = Stub::joined(&world.socket, ("10", "old"), &[Event::PostStartContainer]).await;
    world.tell(Event::PostStartContainer, Some("c"));
    let call = plugin.expect("PostStartContainer").await;
    plugin.refuse(&call, 12, "method PostStartContainer").await;
    let call = plugin.expect("StateChange").await;
    let event: api::StateChangeEvent = call.read();
    assert_eq!((event.event(), event.container.unwrap().id.as_str()), (Event::PostStartContainer, "c"));
    plugin.answer(&call, &api::Empty {}).await;
}
