//! A collection that hangs, with pods that come meanwhile.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cni::{Config, Error, Networks, Selection, Status};
use serde_json::json;

use crate::rig::is_alive;
use crate::support::{Node, attachment, shown, some_netns, until};

/// Hangs in GC; sees at ADD whether it still does.
const HANGING: &str = r#"home=${0%/bin/*}
case $CNI_COMMAND in
GC) echo $$ > "$home/collecting"; sleep 600 ;;
ADD)
    if [ -e "$home/collecting" ] && kill -0 "$(cat "$home/collecting")" 2>/dev/null; then touch "$home/together"; fi
    echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.2/24"}]}' ;;
esac"#;

const FINE: &str =
    r#"[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"10.8.0.2/24"}]}'"#;

/// The process that hangs, ended with the test.
struct Collecting(PathBuf);

impl Drop for Collecting {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.0).unwrap_or_default().trim().parse();
        if let Some(pid) = pid.ok().filter(|pid| is_alive(*pid)) {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }
}

#[tokio::test]
async fn a_collection_that_hangs_keeps_no_other_network_and_its_own_not_for_long() {
    let node = Node::new();
    let network = |name: &str| json!({"cniVersion": "1.1.0", "name": name, "plugins": [{"type": name}]});
    node.plugin("hanging", HANGING);
    node.plugin("fine", FINE);
    node.conf("10.conflist", &network("hanging"));
    fs::create_dir(node.path("own.d")).unwrap();
    fs::write(node.path("own.d/10.conflist"), network("fine").to_string()).unwrap();
    let selection =
        Selection { handlers: [("own".to_owned(), node.path("own.d"))].into(), ..Selection::default() };
    let plugin_deadline = Config::PLUGIN_DEADLINE;
    let networks = Networks::open(Config { selection, plugin_deadline, ..node.config() }).unwrap();
    for handler in ["", "own"] {
        let is_ready = |status: &Status| matches!(status, Status::Ready { .. });
        until("readiness", || networks.status_for(handler), is_ready).await;
    }
    let _hanging = Collecting(node.path("collecting"));
    let collecting = tokio::spawn({
        let networks = networks.clone();
        async move { networks.gc(HashSet::new).await }
    });
    until("the collection to hang", || node.path("collecting").exists(), |hangs| *hangs).await;
    let waiting = tokio::spawn({
        let networks = networks.clone();
        async move { networks.join("", &attachment("pod1", some_netns())).await }
    });
    networks.join("own", &attachment("pod2", some_netns())).await.unwrap();
    networks.leave(&attachment("pod2", some_netns())).await.unwrap();
    assert!(!collecting.is_finished() && !waiting.is_finished());
    waiting.await.unwrap().unwrap_or_else(|error| panic!("{}", shown(&error)));
    assert!(!node.path("together").exists(), "GC and ADD of a network at the same time");
    let Err(Error::Collect { failures }) = collecting.await.unwrap() else { panic!("it hasn't hung") };
    let [Error::PluginTimedOut { deadline, .. }] = failures[..] else { panic!("{failures:?}") };
    assert_eq!(deadline, Duration::from_secs(10));
}
