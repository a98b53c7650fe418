//! The daemon is killed before, during and after each plugin of the chain: what was being attached or detached is done
//! again or undone by the next one, whatever the plugin that was left running does. One that detaches goes on meanwhile,
//! one that attaches only when the next daemon has done what it was asked for, and so has ended it.

use std::collections::HashSet;
use std::fs;
use std::sync::Mutex;

use crate::daemon::{Daemon, Verb, Work};
use crate::rig::{Chain, Pod, Rig};
use crate::support::netns::on_own_host;
use crate::support::{installed, shown, until};

/// A place to be killed at: a plugin that waits there.
type Place = (&'static str, &'static str);

const SCRIPTED: &[Place] = &[
    ("link", "before"),
    ("link", "during"),
    ("link", "after"),
    ("rule", "before"),
    ("rule", "after"),
    ("table", "before"),
    ("table", "after"),
];

/// host-local is called by bridge, which is in the middle of its work then.
const DEBIAN: &[Place] = &[
    ("bridge", "before"),
    ("host-local", "before"),
    ("host-local", "after"),
    ("bridge", "after"),
    ("portmap", "before"),
    ("portmap", "after"),
];

/// What the next daemon is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Again,
    Del,
    Collect,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    chain: Chain,
    verb: Verb,
    place: Place,
    next: Next,
}

fn name(verb: Verb) -> &'static str {
    match verb {
        Verb::Add => "ADD",
        Verb::Del => "DEL",
    }
}

fn cases(chain: Chain, places: &[Place], nexts: &[Next]) -> Vec<Case> {
    let mut cases = Vec::new();
    for place in places {
        for verb in [Verb::Add, Verb::Del] {
            // The next daemon asked to detach again is asked to detach.
            let fits = |next: &&Next| verb == Verb::Add || **next != Next::Again;
            for next in nexts.iter().filter(fits) {
                cases.push(Case { chain, verb, place: *place, next: *next });
            }
        }
    }
    cases
}

async fn killed(case: Case) {
    if case.chain == Chain::Debian {
        crate::cases::warm_up().await;
    }
    let (rig, pod) = (Rig::new(case.chain, "1.0.0"), Pod::new("pod1"));
    rig.wrap_ipam();
    if case.verb == Verb::Del {
        rig.open().add(&pod.attachment).await.unwrap();
    }
    let (plugin, when) = case.place;
    rig.order(plugin, &format!("{} {when} pause", name(case.verb)));
    let daemon = Daemon::start(&Work {
        dir: rig.node.dir.path().into(),
        bin_dirs: vec![rig.node.path("bin")],
        builtin: None,
        native: false,
        verb: case.verb,
        attachment: pod.attachment.clone(),
    });
    until("the plugin to be there", || rig.node.path("pids").exists(), |there| *there).await;
    assert!(daemon.kill());
    rig.heal();
    let go_on = || fs::write(rig.node.path("go"), "").unwrap();
    if case.verb == Verb::Del {
        // Debian's bridge 1.1.1 takes its rules away behind its link, and doesn't find them again without.
        go_on();
    }
    let networks = rig.open();
    let outcome = match case.next {
        Next::Again => networks.add(&pod.attachment).await.map(drop),
        Next::Del => networks.del(&pod.attachment).await,
        Next::Collect => networks.gc(HashSet::new).await,
    };
    go_on();
    outcome.unwrap_or_else(|error| panic!("{}", shown(&error)));
    if case.next == Next::Again {
        // Debian's portmap 1.1.1 looks for host ports of IPv4 among those of IPv6.
        if case.chain == Chain::Scripted {
            let checked = networks.check(&pod.attachment).await;
            checked.unwrap_or_else(|error| panic!("{}", shown(&error)));
        }
        networks.del(&pod.attachment).await.unwrap();
    }
    if case.next != Next::Collect {
        assert!(pod.links().is_empty(), "{:?}", pod.links());
    }
    drop(pod);
    until("everything to be gone", || rig.left(), Vec::is_empty).await;
}

fn run(cases: Vec<Case>) {
    let (todo, failed) = (Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let next = || todo.lock().unwrap().pop();
                while let Some(case) = next() {
                    let outcome = std::panic::catch_unwind(|| on_own_host(move || killed(case)));
                    if outcome.is_err() {
                        failed.lock().unwrap().push(case);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} cases failed: {failed:#?}", failed.len());
}

#[test]
fn a_killed_daemon_leaves_nothing_to_the_next() {
    run(cases(Chain::Scripted, SCRIPTED, &[Next::Again, Next::Del, Next::Collect]));
}

#[test]
fn nor_with_debians_plugins() {
    if installed() {
        run(cases(Chain::Debian, DEBIAN, &[Next::Again, Next::Del]));
    }
}
