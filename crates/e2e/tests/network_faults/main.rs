//! Networks that fail a whole node: the daemon killed while a plugin works, plugins and configurations that are gone when
//! pods go, a reboot, a hundred pods at once.
//!
//! Every node has a network namespace of its own for a host. A node that ends sees that no link, rule or address is left.
//! What a single plugin can do wrong is `cni`'s affair (`cni/tests/faults`).

use std::path::PathBuf;
use std::sync::Arc;

use e2e::{Client, Netns, Network, Node, Setup};
use serde_json::{Value, json};

mod kills;
mod many;
mod removal;

/// A plugin that does what Debian's of its name does, or nothing but pass on what came before it. It waits before or after
/// its work if the file `order` has `<verb> <before|after> <name>`, and says so by the file `reached`.
const PLUGIN: &str = r#"#!/bin/sh
name=${0##*/}
node=${0%/plugins/*}
config=$(cat)

at() {
    [ "$(cat "$node/order" 2>/dev/null)" = "$CNI_COMMAND $1 $name" ] || return 0
    : > "$node/reached"
    until [ -e "$node/go" ]; do sleep 0.02; done
}

echo "$CNI_COMMAND $name" >> "$node/calls"
at before
if [ -e "/usr/lib/cni/$name" ]; then
    out=$(printf '%s' "$config" | "/usr/lib/cni/$name") || { printf '%s' "$out"; exit 1; }
elif [ "$CNI_COMMAND" = ADD ]; then
    out=${config#*\"prevResult\":}
    out=${out%,\"runtimeConfig\"*}
    out=${out%,\"type\"*}
fi
at after
printf '%s' "$out"
"#;

/// A bridge with addresses and masquerade, a plugin of the test's, host ports.
fn chain() -> Value {
    json!([
        { "type": "bridge", "bridge": "knefault0", "isGateway": true, "ipMasq": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.66.0.0/24" }]] } },
        { "type": "between" },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ])
}

/// A node whose plugins wait on order.
async fn node() -> Node {
    node_on(&Arc::new(Netns::new())).await
}

/// The same on a host that the test has its hands on.
async fn node_on(host: &Arc<Netns>) -> Node {
    let mut setup = Setup::new(Network::Plugins).inside(host).conflist("faults", chain());
    for kind in ["bridge", "host-local", "between", "portmap"] {
        setup = setup.plugin(kind, PLUGIN);
    }
    setup.start().await
}

/// Addresses that are taken, and attachments that are written down.
fn kept(node: &Node) -> Vec<PathBuf> {
    let mut kept = files(&node.path("ipam/faults"));
    kept.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("10.")));
    kept.extend(files(&node.path("root/networks/attachments")));
    kept
}

fn files(directory: &std::path::Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Waits until nothing is kept.
async fn nothing_is_kept(node: &Node) {
    e2e::until(e2e::node::PATIENCE, "addresses and attachments to be given back", || async {
        let kept = kept(node);
        if kept.is_empty() { Ok(()) } else { Err(kept) }
    })
    .await;
}

/// A pod comes and goes as if nothing had been wrong.
async fn all_is_well(node: &Node, client: &Client) {
    let pod = client.run_pod(node.pod()).await.unwrap();
    assert!(client.pod(&pod).await.unwrap().network.unwrap().ip.starts_with("10.66.0."));
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    nothing_is_kept(node).await;
}
