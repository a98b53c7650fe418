//! Connections to ports of pods.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sandbox::error::chain;
use sandbox::{Error, NamespaceMode, PodId, UserNamespace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, here, until};

/// A listener in a pod's network namespace.
fn listening(world: &World, pod: &PodId, address: &str) -> TcpListener {
    let netns = world.pods().pod(pod.as_str()).unwrap().netns.clone().expect("a namespace of its own");
    let address: SocketAddr = address.parse().unwrap();
    let inside = move || {
        let namespace = std::fs::File::open(netns).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind(address).unwrap()
    };
    std::thread::spawn(inside).join().unwrap()
}

/// Says its name to one client, and then what that has said.
fn serve(listener: TcpListener, name: &'static str) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(name.as_bytes()).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        stream.write_all(&said).unwrap();
    })
}

/// What a pod's port says: its name, and back what it was told.
async fn ask(world: &World, pod: &PodId, port: u16) -> String {
    let mut stream =
        world.pods().connect(pod.as_str(), port).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    stream.write_all(b", hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_that_of_its_pod() {
    let world = World::new().await;
    let (one, two) = (world.pod("one").await, world.pod("two").await);
    let servers = [
        serve(listening(&world, &one, "127.0.0.1:80"), "one"),
        serve(listening(&world, &two, "127.0.0.1:80"), "two"),
        serve(listening(&world, &two, "[::1]:81"), "two by IPv6"),
        serve(listening(&world, &one, "0.0.0.0:82"), "one on all addresses"),
    ];
    assert_eq!(ask(&world, &one, 80).await, "one, hello");
    assert_eq!(ask(&world, &two, 80).await, "two, hello");
    assert_eq!(ask(&world, &two, 81).await, "two by IPv6, hello");
    assert_eq!(ask(&world, &one, 82).await, "one on all addresses, hello");
    servers.into_iter().for_each(|server| server.join().unwrap());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_network_is_reached_by_pods_on_it() {
    let world = World::new().await;
    let mut config = world.pod_config("host");
    config.namespaces.network = NamespaceMode::Node;
    let pod = world.pods().run(config).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = serve(listener, "the node");
    assert_eq!(ask(&world, &pod, port).await, "the node, hello");
    server.join().unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_with_users_of_their_own_are_reached() {
    let world = World::new().await;
    if let Err(why) = world.pods().user_namespaces().await {
        eprintln!("skipped: no user namespaces: {}", chain(&why));
        return world.end().await;
    }
    let mut config = world.pod_config("users");
    let range = vec![(0, 500_000, 65_536)];
    config.namespaces.user = Some(UserNamespace { uids: range.clone(), gids: range });
    let pod = world.pods().run(config).await.unwrap();
    let server = serve(listening(&world, &pod, "127.0.0.1:8080"), "users");
    assert_eq!(ask(&world, &pod, 8080).await, "users, hello");
    server.join().unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_said() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    let refused = chain(&pods.connect(pod.as_str(), 9).await.unwrap_err());
    assert_eq!(
        refused,
        "nobody could be reached at port 9: 127.0.0.1: Connection refused (os error 111); [::1]: Connection refused (os error 111)"
    );
    let none = pods.connect(pod.as_str(), 0).await.unwrap_err();
    assert!(matches!(none, Error::Refused { .. }), "{none:?}");
    let unknown = pods.connect("unknown", 9).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
    // Whoever listens and accepts nobody: a queue of one, and that is full.
    let full = listening_to_nobody(&world, &pod);
    let mut waiting = Vec::new();
    let late = loop {
        match pods.connect(pod.as_str(), 83).await {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10, "nothing waits");
    };
    let said = chain(&late);
    assert!(said.starts_with("nobody could be reached at port 83: nobody has answered within "), "{said}");
    drop((full, waiting));
    pods.stop(pod.as_str()).await.unwrap();
    let stopped = pods.connect(pod.as_str(), 9).await.unwrap_err();
    assert!(matches!(stopped, Error::WrongState { .. }), "{stopped:?}");
    world.end().await;
}

fn listening_to_nobody(world: &World, pod: &PodId) -> std::os::fd::OwnedFd {
    let netns = world.pods().pod(pod.as_str()).unwrap().netns.clone().unwrap();
    let inside = move || {
        let namespace = std::fs::File::open(netns).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &"127.0.0.1:83".parse::<SocketAddr>().unwrap()).unwrap();
        listen(&socket, 0).unwrap();
        socket
    };
    std::thread::spawn(inside).join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_supervisor_is_gone_is_not_reached() {
    let world = World::new().await;
    let pod = world.pod("p").await;
    let listener = listening(&world, &pod, "127.0.0.1:80");
    let supervisor = world.pods().pod(pod.as_str()).unwrap().supervisor.unwrap();
    let supervisor = rustix::process::Pid::from_raw(supervisor.cast_signed()).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    let gone = world.pods().connect(pod.as_str(), 80).await.unwrap_err();
    assert!(
        matches!(gone, Error::WrongState { .. } | Error::OutOfTouch { .. } | Error::Step { .. }),
        "{gone:?}"
    );
    until("the pod to be not ready", || match world.pods().pod(pod.as_str()).unwrap().phase {
        sandbox::PodPhase::NotReady => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let gone = world.pods().connect(pod.as_str(), 80).await.unwrap_err();
    assert!(matches!(gone, Error::WrongState { .. }), "{gone:?}");
    drop(listener);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_leave_no_thread() {
    let world = World::new().await;
    let pod = world.pod("many").await;
    let listener = listening(&world, &pod, "127.0.0.1:80");
    let (done, told) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        for stream in listener.incoming().take(200) {
            stream.unwrap().write_all(b"x").unwrap();
        }
        done.send(()).unwrap();
    });
    for _ in 0..200 {
        let mut stream = world.pods().connect(pod.as_str(), 80).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
    told.recv_timeout(here(Duration::from_secs(10))).unwrap();
    server.join().unwrap();
    until("threads to be gone", || {
        let names = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        // Other tests' may be at work, but not this many.
        let left = names.filter(|name| name.trim() == "pod-socket").count();
        if left < 5 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    world.end().await;
}
