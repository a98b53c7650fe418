//! What runs on the host while a daemon starts: the plugins that its forerunner left at work are ended, all else is left
//! alone. That plugins are left at work by a daemon's end, and what becomes of their pods, is `kills`'.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::rig::is_alive;
use crate::support::{Node, attachment, some_netns, until};

/// Leaves something running at each ADD, as the plugins of DHCP and of name servers do.
const HELPFUL: &str = r#"[ "$CNI_COMMAND" = ADD ] || exit 0
setsid sleep 600 < /dev/null > /dev/null 2>&1 &
echo $! > "${0%/bin/*}/helper"
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.2/24"}]}'"#;

/// A process that is ended with the test.
struct Running(Child);

impl Running {
    fn with(environment: &[(&str, &str)]) -> Running {
        Running::seconds("600", environment)
    }

    /// A process that ends by itself.
    fn seconds(seconds: &str, environment: &[(&str, &str)]) -> Running {
        let mut sleep = Command::new("sleep");
        Running(sleep.arg(seconds).env_clear().envs(environment.iter().copied()).spawn().unwrap())
    }

    fn is_alive(&self) -> bool {
        is_alive(self.0.id().cast_signed())
    }

    fn still_runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that isn't our child.
struct Helper(i32);

impl Drop for Helper {
    fn drop(&mut self) {
        if is_alive(self.0) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0), nix::sys::signal::SIGKILL);
        }
    }
}

/// A node with an attached pod.
async fn attached() -> Node {
    let node = Node::new();
    node.plugin("helpful", HELPFUL);
    node.conf(
        "10-net.conflist",
        &json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "helpful"}]}),
    );
    node.open().add(&attachment("pod1", some_netns())).await.unwrap();
    node
}

/// What says of a plugin's process that another run of this daemon has started it.
fn of_another_run(node: &Node) -> String {
    let state = fs::metadata(node.path("state")).unwrap();
    format!("{}:{}/another run", state.dev(), state.ino())
}

/// As if the daemon had ended before the plugin.
fn cut_short(node: &Node) {
    let record = &node.records()[0];
    let mut text: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    text["result"] = Value::Null;
    fs::write(record, text.to_string()).unwrap();
}

#[tokio::test]
async fn what_serves_an_attached_pod_goes_on() {
    let node = attached().await;
    let helper = Helper(fs::read_to_string(node.path("helper")).unwrap().trim().parse().unwrap());
    // A collection begins when all have been looked for.
    node.open().gc(|| [attachment("pod1", some_netns()).id()].into()).await.unwrap();
    assert!(is_alive(helper.0), "a pod lost its helper");
    cut_short(&node);
    let _next = node.open();
    until("the end of what a cut-short ADD started", || is_alive(helper.0), |alive| !alive).await;
}

#[tokio::test]
async fn only_what_works_for_this_daemon_is_ended() {
    let node = attached().await;
    let _helper = Helper(fs::read_to_string(node.path("helper")).unwrap().trim().parse().unwrap());
    let path = std::env::join_paths(node.config().bin_dirs).unwrap().into_string().unwrap();
    let state = fs::metadata(node.path("state")).unwrap();
    let state = format!("{}:{}", state.dev(), state.ino());
    let about = |verb, pod| {
        [("CNI_PATH", path.as_str()), ("CNI_COMMAND", verb), ("CNI_CONTAINERID", pod), ("CNI_IFNAME", "eth0")]
    };
    let run = |environment: &[(&str, &str)], state: Option<&str>| {
        let state = state.map(|state| ("KNARR_STATE", state));
        Running::with(&environment.iter().copied().chain(state).collect::<Vec<_>>())
    };
    let (gc, ours) = ([("CNI_PATH", path.as_str()), ("CNI_COMMAND", "GC")], Some(state.as_str()));
    let mut others = [
        ("another runtime's GC", run(&gc, None)),
        ("another daemon's GC", run(&gc, Some("1:2"))),
        ("another runtime's DEL", run(&about("DEL", "pod1"), None)),
        ("a DEL of nobody's", run(&about("DEL", "pod2"), ours)),
        ("an ADD that is done", run(&about("ADD", "pod1"), ours)),
        ("a CHECK", run(&about("CHECK", "pod1"), ours)),
    ];
    let left = [("GC", run(&gc, ours)), ("DEL", run(&about("DEL", "pod1"), ours))];
    let _next = node.open();
    for (what, process) in &left {
        until(&format!("the end of a {what} of our own"), || process.is_alive(), |alive| !alive).await;
    }
    for (what, process) in &mut others {
        assert!(process.still_runs(), "{what} was ended");
    }
}

#[tokio::test]
async fn a_detach_that_is_left_is_waited_for_by_its_attachment_alone() {
    let node = attached().await;
    let _helper = Helper(fs::read_to_string(node.path("helper")).unwrap().trim().parse().unwrap());
    let state = of_another_run(&node);
    let mut left = Running::with(&[
        ("KNARR_STATE", &state),
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", "pod1"),
        ("CNI_IFNAME", "eth0"),
    ]);
    let next = node.open();
    next.add(&attachment("pod2", some_netns())).await.unwrap();
    assert!(left.still_runs(), "nobody else has to wait for it");
    next.del(&attachment("pod1", some_netns())).await.unwrap();
    assert!(!left.still_runs(), "it was still at work on what was called detached");
    next.del(&attachment("pod2", some_netns())).await.unwrap();
}

/// Killed between two of its steps it could leave what no DEL finds, such as a lease without an owner.
#[tokio::test]
async fn an_attach_that_is_left_may_come_to_its_end_before_it_is_undone() {
    let node = attached().await;
    drop(Helper(fs::read_to_string(node.path("helper")).unwrap().trim().parse().unwrap()));
    cut_short(&node);
    let state = of_another_run(&node);
    let about = [
        ("KNARR_STATE", state.as_str()),
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "pod1"),
        ("CNI_IFNAME", "eth0"),
    ];
    let mut left = Running::seconds("1", &about);
    node.open().del(&attachment("pod1", some_netns())).await.unwrap();
    let ended = left.0.try_wait().unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "{ended:?}: it runs, or was killed");
}
