//! A thousand pods come and go, and nothing of them is left; or as many as `KNARR_E2E_CYCLES` says, where a thousand take too
//! long.

use std::time::Duration;

use e2e::leaks::{descriptors, network_namespaces};
use e2e::{Client, Network, Node, until};

/// How long what is freed in the background may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pods under way at once.
const AT_ONCE: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pods_leave_nothing() {
    let count = std::env::var("KNARR_E2E_CYCLES").map_or(1000, |count| count.parse().expect("a number"));
    let node = Node::start(Network::BuiltIn).await;
    let client = node.client();
    client.pull(&node.registry.image("busybox:latest")).await.unwrap();
    // The first ones make what the daemon then keeps: connections, threads, directories.
    cycles(&node, &client, AT_ONCE).await;
    let before = until(PATIENCE, "the first pods to be gone for good", || async {
        let (now, prepared) = (Census::take(&node), prepared(&client).await);
        if now.leftovers.is_empty() && prepared == 2 { Ok(now) } else { Err(format!("{prepared}, {now:?}")) }
    })
    .await;
    let begun = std::time::Instant::now();
    cycles(&node, &client, count).await;
    let took = begun.elapsed();
    let after = until(PATIENCE, "what is freed in the background", || async {
        let now = Census::take(&node);
        if now.has_grown_nowhere_since(&before) {
            Ok(now)
        } else {
            Err(format!("before {before:?}, now {now:?}"))
        }
    })
    .await;
    println!("{count} cycles in {took:.1?}: before {before:?}, after {after:?}");
}

/// How many network namespaces the daemon has ready: two by default, once the first pods have asked for theirs.
async fn prepared(client: &Client) -> u64 {
    let request = e2e::cri::StatusRequest { verbose: true };
    let status = client.runtime.clone().status(request).await.unwrap().into_inner();
    let daemon: serde_json::Value = serde_json::from_str(&status.info["daemon"]).unwrap();
    daemon["preparedNamespaces"].as_u64().unwrap()
}

async fn cycles(node: &Node, client: &Client, count: usize) {
    let mut begun = 0;
    while begun < count {
        let batch = AT_ONCE.min(count - begun);
        let lives = (0..batch).map(|_| life(client.clone(), node.pod(), node.busybox("main", &["true"])));
        let lives: Vec<_> = lives.map(tokio::spawn).collect();
        for life in lives {
            life.await.unwrap();
        }
        begun += batch;
    }
}

async fn life(client: Client, config: e2e::cri::PodSandboxConfig, wanted: e2e::cri::ContainerConfig) {
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, wanted, &config).await.unwrap();
    client.start(&container).await.unwrap();
    assert_eq!(client.exited(&container).await.reason, "Completed");
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    std::fs::remove_dir_all(&config.log_directory).unwrap();
}

/// What could grow.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    processes: usize,
    mounts: usize,
    namespaces: usize,
    cgroups: usize,
    descriptors: usize,
    files: usize,
    leftovers: Vec<String>,
}

impl Census {
    /// What the first pods used may be given back only now.
    fn has_grown_nowhere_since(&self, before: &Self) -> bool {
        let counts = |census: &Self| {
            let Self { processes, mounts, namespaces, cgroups, descriptors, files, leftovers } = census;
            [*processes, *mounts, *namespaces, *cgroups, *descriptors, *files, leftovers.len()]
        };
        counts(self).iter().zip(counts(before)).all(|(now, before)| *now <= before)
    }

    fn take(node: &Node) -> Self {
        let traces = node.traces();
        // The daemon itself carries the directory in its command line.
        let leftovers = traces.leftovers().into_iter().filter(|line| !line.contains("knarr serve")).collect();
        Self {
            processes: traces.processes().len(),
            mounts: std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            namespaces: network_namespaces().len(),
            cgroups: traces.cgroups().len(),
            descriptors: descriptors(node.pid()),
            files: files(&node.path("state")) + files(&node.path("root")),
            leftovers,
        }
    }
}

fn files(directory: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            1 + if entry.path().is_dir() && !entry.path().is_symlink() { files(&entry.path()) } else { 0 }
        })
        .sum()
}
