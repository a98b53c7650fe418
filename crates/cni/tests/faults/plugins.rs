//! Each verb with each fault at each place of a chain.

use std::collections::HashSet;

use cni::{AttachmentId, Networks, Status};

use crate::cases::{Case, Fault, Heard, cases, run};
use crate::rig::{Chain, Pod, Rig};
use crate::support::{installed, shown, until};

fn all(_: &Fault, _: &str) -> bool {
    true
}

/// Those that Debian's plugins could take differently from scripted ones: its work is done, but nobody is told.
fn harmful(fault: &Fault, when: &str) -> bool {
    ["killed", "hang", "error"].contains(&fault.name) && when == "after" || ["missing"].contains(&fault.name)
}

fn open(case: &Case, rig: &Rig) -> Networks {
    if case.hangs() { rig.open_impatient() } else { rig.open() }
}

fn nothing_left(rig: &Rig) {
    let left = rig.left();
    assert!(left.is_empty(), "{left:#?}");
}

/// Attaches and detaches as if nothing had ever been wrong.
async fn goes_well(rig: &Rig, networks: &Networks, pod: Pod) {
    networks.add(&pod.attachment).await.unwrap_or_else(|error| panic!("the retry: {}", shown(&error)));
    assert!(!pod.links().is_empty());
    let gone = networks.del(&pod.attachment).await;
    gone.unwrap_or_else(|error| panic!("the end of the retry: {}", shown(&error)));
    networks.settle().await.unwrap();
    assert!(pod.links().is_empty());
    nothing_left(rig);
}

async fn add(case: Case, rig: Rig) {
    let (networks, pod) = (open(&case, &rig), Pod::new("pod1"));
    case.order(&rig);
    let outcome = networks.add(&pod.attachment).await;
    case.judge(outcome.as_ref().err());
    if matches!(case.heard(), Heard::Nothing) {
        networks.del(&pod.attachment).await.unwrap();
    }
    nothing_left(&rig);
    assert!(pod.links().is_empty(), "{:?}", pod.links());
    if !case.is_once() {
        rig.heal();
    }
    goes_well(&rig, &rig.open(), pod).await;
}

async fn del(case: Case, rig: Rig) {
    let (networks, pod) = (open(&case, &rig), Pod::new("pod1"));
    networks.add(&pod.attachment).await.unwrap();
    rig.calls();
    case.order(&rig);
    let outcome = networks.del(&pod.attachment).await;
    let calls = rig.calls();
    if case.fault.name == "missing" {
        // What it would have to undo is put off; its absence blocks nobody.
        outcome.unwrap();
        assert_eq!(rig.node.records().len(), 1, "what is put off is written down");
    } else {
        case.judge(outcome.as_ref().err());
    }
    let expected: Vec<String> =
        case.chain.plugins().iter().rev().map(|plugin| format!("DEL {plugin}")).collect();
    let present = |call: &&String| case.fault.name != "missing" || !call.ends_with(case.plugin);
    assert_eq!(
        calls.iter().collect::<Vec<_>>(),
        expected.iter().filter(present).collect::<Vec<_>>(),
        "each is asked"
    );
    if !case.is_once() && !case.hangs() && case.fault.name != "missing" {
        let again = networks.del(&pod.attachment).await;
        assert_eq!(again.is_err(), outcome_is_failure(&case), "as long as it goes wrong it is told");
    }
    if !case.is_once() {
        rig.heal();
    }
    // Its pod is gone by the time that a missing plugin is back; but of a namespace that is gone Debian's bridge 1.1.1
    // doesn't find the addresses, and leaves the rules of its masquerade.
    if case.fault.name == "missing" && case.chain == Chain::Scripted {
        drop(pod);
        networks.gc(HashSet::new).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    } else {
        networks.del(&pod.attachment).await.unwrap_or_else(|error| panic!("the retry: {}", shown(&error)));
        assert!(pod.links().is_empty());
    }
    nothing_left(&rig);
    goes_well(&rig, &rig.open(), Pod::new("pod1")).await;
}

fn outcome_is_failure(case: &Case) -> bool {
    matches!(case.heard(), Heard::Error(..))
}

async fn check(case: Case, rig: Rig) {
    let (networks, pod) = (open(&case, &rig), Pod::new("pod1"));
    networks.add(&pod.attachment).await.unwrap();
    case.order(&rig);
    let outcome = networks.check(&pod.attachment).await;
    case.judge(outcome.as_ref().err());
    if !case.is_once() {
        rig.heal();
    }
    networks.check(&pod.attachment).await.unwrap_or_else(|error| panic!("the retry: {}", shown(&error)));
    networks.del(&pod.attachment).await.unwrap();
    assert!(pod.links().is_empty());
    nothing_left(&rig);
}

/// A collection with one attachment that is valid, one that isn't, and an address without any.
async fn gc(case: Case, rig: Rig) {
    let (networks, pod, stray) = (open(&case, &rig), Pod::new("pod1"), Pod::new("pod2"));
    networks.add(&pod.attachment).await.unwrap();
    networks.add(&stray.attachment).await.unwrap();
    let lost = rig.node.path("leases/10.9.0.77");
    std::fs::write(&lost, "nobody\n").unwrap();
    rig.calls();
    case.order(&rig);
    let valid: AttachmentId = pod.attachment.id();
    let valid = move || HashSet::from([valid.clone()]);
    let outcome = networks.gc(valid.clone()).await;
    // A missing plugin is missed twice: by the DEL of what isn't valid, which is put off, and by GC.
    case.judge(outcome.as_ref().err());
    let asked = rig.calls().iter().filter(|call| call.starts_with("GC")).count();
    assert_eq!(asked, if case.fault.name == "missing" { 2 } else { 3 }, "the others are asked all the same");
    if !case.is_once() {
        rig.heal();
    }
    drop(stray);
    networks.gc(valid).await.unwrap_or_else(|error| panic!("the retry: {}", shown(&error)));
    assert!(!lost.exists());
    assert!(!pod.links().is_empty(), "what is valid stays");
    networks.check(&pod.attachment).await.unwrap();
    networks.del(&pod.attachment).await.unwrap();
    nothing_left(&rig);
}

async fn status(case: Case, rig: Rig) {
    case.order(&rig);
    let networks = open(&case, &rig);
    let not_ready =
        |status: &Status| matches!(status, Status::NotReady { reason } if !reason.contains("waiting"));
    let ready = |status: &Status| matches!(status, Status::Ready { .. });
    match case.heard() {
        Heard::Nothing => {
            until("readiness", || networks.status(), ready).await;
        }
        Heard::Error(_, words) => {
            let Status::NotReady { reason } = until("the fault", || networks.status(), not_ready).await
            else {
                unreachable!("it isn't ready")
            };
            case.says_once(&reason, words);
            case.says_once(&reason, &[&format!("'{}'", case.plugin), "network 'faults'"]);
        }
    }
    if !case.is_once() {
        rig.heal();
        // Else it is asked again when the answer is old, which takes its time.
        rig.configure("1.1.0", true);
    }
    until("readiness", || networks.status(), ready).await;
    goes_well(&rig, &networks, Pod::new("pod1")).await;
}

#[test]
fn at_add() {
    run(cases(Chain::Scripted, "ADD", all), "1.0.0", add);
}

#[test]
fn at_del() {
    run(cases(Chain::Scripted, "DEL", all), "1.0.0", del);
}

#[test]
fn at_check() {
    run(cases(Chain::Scripted, "CHECK", all), "1.0.0", check);
}

#[test]
fn at_gc() {
    run(cases(Chain::Scripted, "GC", all), "1.1.0", gc);
}

#[test]
fn at_status() {
    run(cases(Chain::Scripted, "STATUS", all), "1.1.0", status);
}

#[test]
fn at_add_with_debians_plugins() {
    if installed() {
        run(cases(Chain::Debian, "ADD", harmful), "1.0.0", add);
    }
}

#[test]
fn at_del_with_debians_plugins() {
    if installed() {
        run(cases(Chain::Debian, "DEL", harmful), "1.0.0", del);
    }
}
