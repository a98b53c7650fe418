//! How long things take: figures to look at, not promises (those are e2e's).

use std::time::{Duration, Instant};

use sandbox::{ExecRequest, NamespaceMode};

use crate::world::{World, shell};

const ROUNDS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures; run it alone, in release"]
async fn figures() {
    let world = World::new().await;
    let pods = world.pods();
    let mut times: Vec<(&str, Vec<Duration>)> =
        ["run", "create", "start", "exec", "stop", "stop pod", "remove pod"]
            .map(|name| (name, Vec::new()))
            .into();
    for round in 0..ROUNDS {
        let mut config = world.pod_config(&format!("p{round}"));
        config.namespaces.network =
            if std::env::var_os("POD_NETWORK").is_some() { NamespaceMode::Pod } else { NamespaceMode::Node };
        config.namespaces.pid = NamespaceMode::Container;
        let mut container = shell("main", "");
        container.command = ["/bin/sleep", "1000"].map(str::to_owned).to_vec();
        container.security.namespaces.pid = NamespaceMode::Container;
        container.security.seccomp = Some(sandbox::Profile::RuntimeDefault);
        let mut at = Instant::now();
        let mut lap = |index: usize| {
            times[index].1.push(at.elapsed());
            at = Instant::now();
        };
        let pod = pods.run(config).await.unwrap();
        lap(0);
        let id = pods.create_container(pod.as_str(), container).await.unwrap();
        lap(1);
        pods.start_container(id.as_str()).await.unwrap();
        lap(2);
        pods.exec_sync(id.as_str(), ExecRequest { command: vec!["/bin/true".to_owned()], timeout: None })
            .await
            .unwrap();
        lap(3);
        pods.stop_container(id.as_str(), Duration::ZERO).await.unwrap();
        lap(4);
        pods.stop(pod.as_str()).await.unwrap();
        lap(5);
        pods.remove(pod.as_str()).await.unwrap();
        lap(6);
    }
    for (name, mut times) in times {
        times.sort();
        eprintln!("{name:>12}  p50 {:>9.3?}  p95 {:>9.3?}", times[ROUNDS / 2], times[ROUNDS * 95 / 100]);
    }
    world.end().await;
}
