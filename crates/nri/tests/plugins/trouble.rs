//! Plugins that hang, die, flood and lie: they are cut off, and nobody else notices.

use std::time::Duration;

use nri::api::{self, Event};
use nri::{Error, Validator};
use tokio::io::AsyncWriteExt;

use crate::stub::Stub;
use crate::world::{creation, pod, world, world_with};

/// Of a plugin that is to be given up.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn one_that_hangs_is_cut_off_and_the_container_goes_on_without() {
    let world = world_with(SHORT, None);
    let mut hangs = Stub::joined(&world.socket, ("10", "hangs"), &[Event::CreateContainer]).await;
    let mut works = Stub::joined(&world.socket, ("20", "works"), &[Event::CreateContainer]).await;
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("c")).await });
    let call = works.expect("CreateContainer").await;
    works.answer(&call, &api::CreateContainerResponse::default()).await;
    asked.await.unwrap().unwrap();
    hangs.expect("CreateContainer").await;
    hangs.closed().await;
    // And is not asked any more.
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("d")).await });
    let call = works.expect("CreateContainer").await;
    works.answer(&call, &api::CreateContainerResponse::default()).await;
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn one_that_hangs_while_it_is_told_of_all_is_not_let_in() {
    let world = world_with(SHORT, None);
    let mut hangs = Stub::registered(&world.socket, ("10", "hangs"), 0).await;
    hangs.expect("Synchronize").await;
    let (_, _window) = world.nri.create(creation("c")).await.unwrap();
    hangs.closed().await;
    world.idle(true).await;
}

#[tokio::test]
async fn one_that_comes_while_something_is_made_for_ever_is_sent_away_and_nobody_waits_longer() {
    let world = world_with(SHORT, None);
    let window = world.nri.pass().expect("nobody is there");
    let mut late = Stub::registered(&world.socket, ("10", "late"), 0).await;
    world.idle(false).await;
    let (_, other) = world.nri.create(creation("c")).await.unwrap();
    assert_eq!(late.closed().await, Vec::<String>::new(), "it was told of nothing");
    drop((window, other));
    Stub::joined(&world.socket, ("10", "again"), &[Event::RunPodSandbox]).await;
}

#[tokio::test]
async fn one_that_dies_in_the_middle_takes_nothing_along() {
    let world = world();
    let mut dies = Stub::joined(&world.socket, ("10", "dies"), &[Event::RunPodSandbox]).await;
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.run_pod(pod("p")).await });
    dies.expect("RunPodSandbox").await;
    drop(dies);
    asked.await.unwrap().unwrap();
    world.idle(true).await;
    assert!(world.nri.pass().is_some(), "there is nobody to ask any more");
    let seen = async {
        while !world.nri.plugins().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::stub::PATIENCE, seen).await.expect("nobody is seen any more");
}

#[tokio::test]
async fn a_validator_that_does_not_answer_rejects() {
    let world = world_with(SHORT, None);
    let mut judge = Stub::joined(&world.socket, ("10", "judge"), &[Event::ValidateContainerAdjustment]).await;
    let error = world.nri.create(creation("c")).await.unwrap_err();
    assert!(error.to_string().contains("did not answer"), "{error}");
    judge.closed().await;
}

#[tokio::test]
async fn one_that_does_not_register_is_sent_away() {
    let world = world_with(SHORT, None);
    let mut silent = Stub::silent(&world.socket).await;
    silent.closed().await;
}

#[tokio::test]
async fn names_and_events_that_cannot_be_are_refused() {
    let world = world();
    for (index, name) in [("1", "a"), ("xx", "a"), ("10", ""), ("10", "a/b")] {
        let mut plugin = Stub::silent(&world.socket).await;
        let request = api::RegisterPluginRequest {
            plugin_name: name.into(),
            plugin_idx: index.into(),
            ..Default::default()
        };
        let (code, _) = plugin.call("RegisterPlugin", &request).await.unwrap_err();
        assert_eq!(code, 3, "{index}-{name}");
        plugin.closed().await;
    }
    let mut plugin = Stub::registered(&world.socket, ("10", "new"), 1 << 20).await;
    plugin.closed().await;
    let mut plugin = Stub::registered(&world.socket, ("10", "twice"), 0).await;
    let request =
        api::RegisterPluginRequest { plugin_name: "x".into(), plugin_idx: "10".into(), ..Default::default() };
    let (code, _) = plugin.call("RegisterPlugin", &request).await.unwrap_err();
    assert_eq!(code, 9);
    plugin.synchronize().await;
}

#[tokio::test]
async fn one_that_speaks_something_else_is_cut_off() {
    let world = world();
    // A frame that is too long; a message that is too long, of no known kind, and that is none; an answer on the wrong connection.
    let frame = |connection: u8, body: &[u8]| {
        let length = u8::try_from(body.len()).unwrap();
        [&[0, 0, 0, connection, 0, 0, 0, length][..], body].concat()
    };
    let nonsense = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        frame(2, &[0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0]),
        frame(2, &[0, 0, 0, 0, 0, 0, 0, 1, 9, 0]),
        frame(2, &[0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0xff]),
        frame(2, &[0, 0, 0, 0, 0, 0, 0, 1, 2, 0]),
    ];
    for bytes in nonsense {
        let mut plugin = Stub::joined(&world.socket, ("10", "lies"), &[Event::RunPodSandbox]).await;
        plugin.writer.write_all(&bytes).await.unwrap();
        plugin.closed().await;
        world.idle(true).await;
    }
    // An answer that is none, to a question: it is asked no more, and the pod goes on.
    let mut plugin = Stub::joined(&world.socket, ("10", "lies"), &[Event::CreateContainer]).await;
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.create(creation("c")).await });
    let call = plugin.expect("CreateContainer").await;
    plugin.answer(&call, &api::PodSandbox { id: "not an adjustment".into(), ..Default::default() }).await;
    asked.await.unwrap().unwrap();
    plugin.closed().await;
}

#[tokio::test]
async fn one_that_floods_and_does_not_read_is_cut_off() {
    let world = world();
    let mut floods = Stub::joined(&world.socket, ("10", "floods"), &[Event::RunPodSandbox]).await;
    let mut other = Stub::joined(&world.socket, ("20", "other"), &[Event::RunPodSandbox]).await;
    floods.deafen();
    // Until the runtime is gone for it: answers fill the socket that nobody reads.
    let flood = async {
        while floods.calls_on("UpdateContainers", &api::UpdateContainersRequest::default()).await {}
    };
    tokio::time::timeout(crate::stub::PATIENCE, flood).await.expect("it is cut off");
    // And the other one is asked without waiting for it.
    let nri = world.nri.clone();
    let asked = tokio::spawn(async move { nri.run_pod(pod("p")).await });
    let call = other.expect("RunPodSandbox").await;
    other.answer(&call, &api::Empty {}).await;
    asked.await.unwrap().unwrap();
    // It counts no more, though its end of the socket is still open.
    drop(other);
    world.idle(true).await;
}

#[tokio::test]
async fn one_that_is_required_and_hangs_in_this_very_question_is_not_there() {
    let validator = Validator { required_plugins: vec!["hangs".into()], ..Validator::default() };
    let world = world_with(SHORT, Some(validator));
    let mut hangs = Stub::joined(&world.socket, ("10", "hangs"), &[Event::CreateContainer]).await;
    let error = world.nri.create(creation("c")).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected { why, .. } if why.contains("hangs")), "{error}");
    hangs.closed().await;
}

#[tokio::test]
async fn two_runtimes_do_not_share_a_socket_and_a_dead_one_is_in_nobody_s_way() {
    let world = world();
    let error = world.nri.listen(&world.socket).unwrap_err().to_string();
    assert!(error.starts_with("listening on"), "{error}");
    let stale = world.directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    world.nri.listen(&stale).unwrap();
    Stub::joined(&stale, ("10", "one"), &[]).await;
}
