//! A hundred pods at once.

use std::collections::HashSet;
use std::sync::Arc;

use e2e::{Netns, Network, Setup, needs};
use serde_json::json;

const PODS: usize = 100;

async fn a_hundred_pods_get_a_hundred_addresses(setup: Setup) {
    let node = setup.inside(&Arc::new(Netns::new())).start().await;
    let starting: Vec<_> = (0..PODS)
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
    assert_eq!(addresses.len(), PODS, "{addresses:?}");
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
