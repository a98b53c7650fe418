use super::*;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use serde_json::json;

use crate::attachment::Attachment;
use crate::builtin::hosts::{on_own_host, sh};
use crate::cache::Via;
use crate::networks::{Config, Selection};

fn attachments(dir: &tempfile::TempDir) -> Attachments {
    std::fs::create_dir(dir.path().join("net.d")).unwrap();
    let config = Config {
        conf_dir: dir.path().join("net.d"),
        bin_dirs: vec![dir.path().join("bin")],
        state_dir: dir.path().join("state"),
        builtin: None,
        native: true,
        plugin_deadline: Duration::from_secs(20),
        selection: Selection::default(),
    };
    Attachments::open(config).unwrap()
}

/// A network whose pods have entries in the tables.
fn record(pod: &str) -> Record {
    let bridge = json!({"type": "bridge", "ipMasq": true, "ipam": {"type": "host-local"}});
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [bridge]});
    let attachment = Attachment { container_id: pod.into(), ifname: "eth0".into(), ..Attachment::default() };
    Record::intent("net", &attachment, Via::Chain(conf), true)
}

/// What it comes to without waiting.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

fn attached(pod: &str) -> Record {
    let mut record = record(pod);
    record.result = Some(json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24"}]}));
    record
}

/// Everybody who is being attached holds a lock while somebody mends, who mends first of all.
#[tokio::test]
async fn those_who_are_being_attached_or_detached_are_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let attachments = attachments(&dir);
    let (coming, mut half_gone, busy) = (record("coming"), attached("half-gone"), attached("busy"));
    half_gone.detached = true;
    let mut locks = Vec::new();
    for record in [&coming, &half_gone, &busy] {
        attachments.journal.store(record).unwrap();
        locks.push(attachments.locks.lock(record.attachment.id()).await);
    }
    let mut missed = HashSet::from([half_gone.attachment.id()]);
    attachments.ground.lay(&["fd00::2".parse().unwrap()]);
    let failures = at_once(attachments.mend_all(&mut missed));
    assert!(failures.is_empty(), "{failures:?}");
    // Who may want their entries later: the one that comes may have had some already.
    assert_eq!(missed, HashSet::from([coming.attachment.id(), busy.attachment.id()]));
    assert_eq!(attachments.ground.forget(), ["10.9.0.2".parse::<IpAddr>().unwrap()], "nobody has IPv6");
    // The one has gone meanwhile, the other hasn't got anywhere.
    attachments.journal.remove(&busy.attachment.id()).unwrap();
    drop(locks);
    *attachments.mending.lock().await = missed;
    assert!(at_once(attachments.mend_if_flushed()));
    assert!(attachments.mending.lock().await.is_empty());
}

/// The numbers that the kernel gives rules and elements when they are made.
fn handles() -> String {
    sh("nft -a list table ip knarr")
}

#[test]
fn who_looks_reads_only_what_may_have_changed_and_mends_only_what_is_ours() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let attachments = Arc::new(attachments(&dir));
        let weak = Arc::downgrade(&attachments);
        attachments.journal.store(&attached("pod")).unwrap();
        attachments.ground.lay(&["10.9.0.2".parse().unwrap()]);
        let mut changes = Changes::default();
        assert!(look(&weak, &mut changes).await);
        let first = handles();
        assert!(first.contains("net/pod/eth0"), "{first}");
        assert!(look(&weak, &mut changes).await, "mending has changed them");
        for _ in 0..3 {
            assert!(!look(&weak, &mut changes).await, "nobody has changed anything");
        }
        // A storm is one change.
        let storm: String = (0..500).map(|i| format!("add table ip others{i}\n")).collect();
        std::fs::write(dir.path().join("storm"), storm + "delete table ip others7\n").unwrap();
        for _ in 0..3 {
            sh(&format!("nft -f {}; nft flush table ip others8", dir.path().join("storm").display()));
        }
        assert!(look(&weak, &mut changes).await);
        assert!(!look(&weak, &mut changes).await);
        assert_eq!(handles(), first, "ours were none of theirs");
        for flush in ["nft flush ruleset", "nft delete table ip knarr", "nft flush table ip knarr"] {
            sh(flush);
            assert!(look(&weak, &mut changes).await, "{flush}");
            assert!(handles().contains("net/pod/eth0"), "{flush}: {}", handles());
            assert!(look(&weak, &mut changes).await, "mending has changed them");
            assert!(!look(&weak, &mut changes).await, "{flush}");
        }
    });
}

/// Our own executable, for one, takes away what nobody has anything in.
#[test]
fn tables_that_nobody_needs_are_looked_for_once() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let attachments = Arc::new(attachments(&dir));
        let weak = Arc::downgrade(&attachments);
        let laid = attachments.laid();
        let mut executed = attached("executed");
        executed.native = false;
        attachments.journal.store(&executed).unwrap();
        attachments.ground.lay(&["10.9.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        let mut changes = Changes::default();
        assert!(look(&weak, &mut changes).await);
        assert!(!laid.borrow().is_any() && sh("nft list ruleset").is_empty());
        // One who has entries of one family only.
        attachments.journal.store(&attached("pod")).unwrap();
        attachments.ground.lay(&["10.9.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        assert!(look(&weak, &mut Changes::default()).await);
        assert!(!attachments.ground.is_flushed().await.unwrap(), "IPv6 is nobody's");
    });
}

/// What is asked again when nobody could answer.
#[test]
fn who_was_busy_is_looked_for_though_nothing_has_changed() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let attachments = Arc::new(attachments(&dir));
        let weak = Arc::downgrade(&attachments);
        let pod = attached("pod");
        attachments.journal.store(&pod).unwrap();
        attachments.ground.lay(&["10.9.0.2".parse().unwrap()]);
        let lock = attachments.locks.lock(pod.attachment.id()).await;
        let mut changes = Changes::default();
        assert!(look(&weak, &mut changes).await && look(&weak, &mut changes).await);
        assert!(sh("nft list ruleset").is_empty());
        drop(lock);
        assert!(look(&weak, &mut changes).await);
        assert!(handles().contains("net/pod/eth0"));
    });
}

/// Who drops the last handle has given up a bridge when that returns, for one.
#[test]
fn while_the_kernel_is_asked_nobody_is_held() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let attachments = Arc::new(attachments(&dir));
        let weak = Arc::downgrade(&attachments);
        attachments.ground.lay(&["10.9.0.2".parse().unwrap()]);
        let mut changes = Changes::default();
        let mut looking = pin!(look(&weak, &mut changes));
        let _ = looking.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(Arc::strong_count(&attachments), 1);
        drop(attachments);
        looking.await;
    });
}

/// A daemon ends with its handles, and what it has open.
#[tokio::test]
async fn who_looks_keeps_nobody_and_needs_nothing_while_there_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let attachments = Arc::new(attachments(&dir));
    let laid = attachments.laid();
    let mut watching = pin!(watch_tables(Arc::downgrade(&attachments), laid));
    let poll =
        |watching: Pin<&mut _>| Future::poll(watching, &mut Context::from_waker(Waker::noop())).is_ready();
    assert!(!poll(watching.as_mut()));
    attachments.ground.lay(&["10.9.0.2".parse().unwrap()]);
    assert!(!poll(watching.as_mut()));
    assert_eq!(Arc::strong_count(&attachments), 1);
    drop(attachments);
    assert!(poll(watching.as_mut()));
}
