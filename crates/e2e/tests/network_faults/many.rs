//! A hundred pods at once, on a machine of its own.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use e2e::{Netns, Network, Setup, needs};
use serde_json::json;
use tonic::Code;

/// A hundred; on a machine that is some times slower as many times fewer, since no deadline of the daemon's is longer there.
static PODS: LazyLock<usize> = LazyLock::new(|| {
    let seconds = usize::try_from(e2e::patience(Duration::from_secs(1)).as_secs()).unwrap();
    100 / seconds
});

async fn a_hundred_pods_get_a_hundred_addresses(setup: Setup) {
    let node = setup.inside(&Arc::new(Netns::new())).start().await;
    let starting: Vec<_> = (0..*PODS)
        .map(|_| {
            let (client, config) = (node.client(), node.pod());
            tokio::spawn(async move {
                let pod = client.run_pod(config).await.map_err(|status| status.to_string())?;
                let status = client.pod(&pod).await.map_err(|status| status.to_string())?;
                Ok::<_, String>((pod, status.network.unwrap_or_default().ip))
            })
        })
        .collect();
    let (mut pods, mut addresses) = (Vec::new(), HashSet::new());
    for starting in starting {
        let (pod, address) = starting.await.unwrap().unwrap();
        pods.push(pod);
        addresses.insert(address);
    }
    assert_eq!(addresses.len(), *PODS, "{addresses:?}");
    assert!(!addresses.contains(""));
    let ending: Vec<_> = pods
        .into_iter()
        .map(|pod| {
            let client = node.client();
            tokio::spawn(async move {
                client.stop_pod(&pod).await.map_err(|status| status.to_string())?;
                client.remove_pod(&pod).await.map_err(|status| status.to_string())
            })
        })
        .collect();
    for ending in ending {
        ending.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_built_in_network() {
    a_hundred_pods_get_a_hundred_addresses(Setup::new(Network::BuiltIn)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_debians_plugins() {
    needs!("bridge", "host-local", "portmap");
    a_hundred_pods_get_a_hundred_addresses(Setup::new(Network::Plugins)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_plugins_served_in_process() {
    let chain = json!([
        { "type": "bridge", "bridge": "knemany0", "isGateway": true, "ipMasq": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.67.0.0/24" }], [{ "subnet": "fd00:67::/64" }]] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ]);
    let setup = Setup::new(Network::Plugins).conflist("many", chain).key("native = true");
    a_hundred_pods_get_a_hundred_addresses(setup).await;
}

/// With one address there is one pod at a time; the next may come as soon as the one before has been answered for.
#[tokio::test]
async fn a_range_that_is_used_up_says_so_and_the_next_pod_gets_what_the_last_had() {
    let chain = json!([{ "type": "bridge", "bridge": "kneone0", "isGateway": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.68.0.0/30" }]] } }]);
    let setup = Setup::new(Network::Plugins).conflist("one", chain).key("native = true");
    let node = setup.inside(&Arc::new(Netns::new())).start().await;
    let client = node.client();
    for _ in 0..20 {
        let pod = client.run_pod(node.pod()).await.unwrap();
        assert_eq!(client.pod(&pod).await.unwrap().network.unwrap().ip, "10.68.0.2");
        client.stop_pod(&pod).await.unwrap();
        client.remove_pod(&pod).await.unwrap();
    }
    let pod = client.run_pod(node.pod()).await.unwrap();
    let refused = client.run_pod(node.pod()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.message().matches("no address left in").count(), 1, "{refused}");
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
}
