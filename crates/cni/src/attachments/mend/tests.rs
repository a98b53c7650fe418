use super::*;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::timeout;

use serde_json::json;

use super::looking::{Seen, look};
use crate::attachment::Attachment;
use crate::builtin::broken;
use crate::builtin::hosts::{on_own_host, sh};
use crate::cache::Via;
use crate::networks::{Config, Selection};

#[allow(unreachable_pub, reason = "shared with the tests of the crate")]
#[path = "../../../tests/support/log.rs"]
mod log;

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

/// What it comes to without waiting for who won't come.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), work).await.expect("it waits")
}

fn attached(pod: &str) -> Record {
    let mut record = record(pod);
    record.result = Some(json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24"}]}));
    record
}

/// Who is to be seen to by the next who mends, of whom it is known.
async fn missed(attachments: &Attachments) -> HashSet<AttachmentId> {
    let missed = attachments.mending.lock().await;
    assert!(!missed.anybody, "{missed:?}");
    missed.ids.clone()
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
    attachments.mending.lock().await.ids.insert(half_gone.attachment.id());
    attachments.ground.lay(&["fd00::2".parse().unwrap()]);
    soon(attachments.mend_what_is_missing()).await;
    // Who may want their entries later: the one that comes may have had some already.
    assert_eq!(missed(&attachments).await, HashSet::from([coming.attachment.id(), busy.attachment.id()]));
    let laid = format!("{:?}", attachments.laid().borrow());
    assert!(laid.contains("[10.9.0.2]"), "nobody has IPv6: {laid}");
    attachments.ground.forget();
    // The one has gone meanwhile, the other hasn't got anywhere.
    attachments.journal.remove(&busy.attachment.id()).unwrap();
    drop(locks);
    soon(attachments.mend_if_flushed()).await;
    assert!(!attachments.mending.lock().await.is_any());
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
        let mut seen = Seen::default();
        assert!(look(&weak, &mut seen).await);
        let first = handles();
        assert!(first.contains("net/pod/eth0"), "{first}");
        assert!(look(&weak, &mut seen).await, "mending has changed them");
        for _ in 0..3 {
            assert!(!look(&weak, &mut seen).await, "nobody has changed anything");
        }
        // A storm is one change.
        let storm: String = (0..500).map(|i| format!("add table ip others{i}\n")).collect();
        std::fs::write(dir.path().join("storm"), storm + "delete table ip others7\n").unwrap();
        for _ in 0..3 {
            sh(&format!("nft -f {}; nft flush table ip others8", dir.path().join("storm").display()));
        }
        assert!(look(&weak, &mut seen).await);
        assert!(!look(&weak, &mut seen).await);
        assert_eq!(handles(), first, "ours were none of theirs");
        for flush in ["nft flush ruleset", "nft delete table ip knarr", "nft flush table ip knarr"] {
            sh(flush);
            assert!(look(&weak, &mut seen).await, "{flush}");
            assert!(handles().contains("net/pod/eth0"), "{flush}: {}", handles());
            assert!(look(&weak, &mut seen).await, "mending has changed them");
            assert!(!look(&weak, &mut seen).await, "{flush}");
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
        let mut seen = Seen::default();
        assert!(look(&weak, &mut seen).await);
        assert!(!laid.borrow().is_any() && sh("nft list ruleset").is_empty());
        // One who has entries of one family only.
        attachments.journal.store(&attached("pod")).unwrap();
        attachments.ground.lay(&["10.9.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        assert!(look(&weak, &mut Seen::default()).await);
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
        let mut seen = Seen::default();
        assert!(look(&weak, &mut seen).await && look(&weak, &mut seen).await);
        assert!(sh("nft list ruleset").is_empty());
        drop(lock);
        assert!(look(&weak, &mut seen).await);
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
        let mut seen = Seen::default();
        let mut looking = pin!(look(&weak, &mut seen));
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

/// No change tells of it: somebody was out of descriptors while the only one there was to be seen was looked at.
#[test]
fn who_could_not_be_mended_is_at_the_next_look() {
    on_own_host(|| async {
        let log = log::Log::default();
        let _listening = tracing::subscriber::set_default(log.clone());
        let dir = tempfile::tempdir().unwrap();
        let attachments = Arc::new(attachments(&dir));
        let (weak, mut seen) = (Arc::downgrade(&attachments), Seen::default());
        let record = dir.path().join("state/attachments/pod@eth0.json");
        attachments.journal.store(&attached("pod")).unwrap();
        attachments.ground.lay(&["10.9.0.2".parse().unwrap()]);
        for _ in 0..2 {
            look(&weak, &mut seen).await;
        }
        sh("nft flush ruleset");
        std::fs::remove_file(&record).unwrap();
        std::os::unix::fs::symlink(&record, &record).unwrap();
        for _ in 0..4 {
            assert!(look(&weak, &mut seen).await);
            assert!(attachments.laid().borrow().is_any(), "nobody would look any more");
        }
        let (failing, over) = ("can't be made anew", "can be made anew again");
        assert_eq!((log.said("WARN"), log.said(failing), log.said(over)), (1, 4, 0));
        attachments.journal.store(&attached("pod")).unwrap();
        look(&weak, &mut seen).await;
        assert!(handles().contains("net/pod/eth0"));
        assert_eq!((log.said("WARN"), log.said(failing), log.said(over)), (1, 4, 1));
        look(&weak, &mut seen).await;
        assert!(!look(&weak, &mut seen).await);
    });
}

/// Whoever mends: a pod that comes, a collection, who looks.
#[test]
fn who_mends_and_is_kept_from_it_forgets_nobody() {
    on_own_host(|| async {
        let log = log::Log::default();
        let _listening = tracing::subscriber::set_default(log.clone());
        let dir = tempfile::tempdir().unwrap();
        let attachments = Arc::new(attachments(&dir));
        let (weak, mut seen) = (Arc::downgrade(&attachments), Seen::default());
        let mut busy = attached("busy");
        busy.result = Some(json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.3/24"}]}));
        for record in [&attached("pod"), &busy] {
            attachments.journal.store(record).unwrap();
        }
        attachments.ground.lay(&["10.9.0.2".parse().unwrap()]);
        let lock = attachments.locks.lock(busy.attachment.id()).await;
        for _ in 0..3 {
            look(&weak, &mut seen).await;
        }
        assert_eq!(missed(&attachments).await, HashSet::from([busy.attachment.id()]));
        broken::begin(broken::TAKING);
        attachments.mend_what_is_missing().await;
        sh("nft flush ruleset");
        attachments.mend_if_flushed().await;
        for _ in 0..3 {
            assert!(look(&weak, &mut seen).await);
            assert!(attachments.laid().borrow().is_any(), "nobody would look any more");
        }
        assert_eq!((log.said("WARN"), log.said("Too many open files")), (1, 5));
        broken::end(broken::TAKING);
        drop(lock);
        look(&weak, &mut seen).await;
        assert!(handles().contains("net/pod/eth0") && handles().contains("net/busy/eth0"), "{}", handles());
        assert_eq!((log.said("WARN"), log.said("made anew again")), (1, 1));
        assert!(missed(&attachments).await.is_empty());
        // Those who were missed have all they are to have, but what was open without a guard may still be.
        attachments.mending.lock().await.ids.insert(busy.attachment.id());
        broken::begin(broken::SHUTTING);
        for _ in 0..3 {
            look(&weak, &mut seen).await;
        }
        assert_eq!((log.said("WARN"), log.said("made anew again")), (2, 1));
        broken::end(broken::SHUTTING);
        look(&weak, &mut seen).await;
        assert_eq!((log.said("WARN"), log.said("made anew again")), (2, 2));
    });
}

/// A daemon that may not ask is not to fill its log, nor to take it for granted that all is there.
#[test]
fn what_cannot_be_looked_at_is_said_once() {
    on_own_host(|| async {
        let log = log::Log::default();
        let _listening = tracing::subscriber::set_default(log.clone());
        let dir = tempfile::tempdir().unwrap();
        let attachments = Arc::new(attachments(&dir));
        let (weak, mut seen) = (Arc::downgrade(&attachments), Seen::default());
        attachments.journal.store(&attached("pod")).unwrap();
        attachments.ground.lay(&["10.9.0.2".parse().unwrap()]);
        let (unknown, known) = ("isn't known", "is known again");
        for row in 1..3 {
            look(&weak, &mut seen).await;
            sh("nft flush map ip knarr masqueraded");
            broken::begin(broken::LOOKING);
            for _ in 0..5 {
                assert!(look(&weak, &mut seen).await);
            }
            assert_eq!((log.said("WARN"), log.said(known)), (row, row - 1));
            sh("nft flush ruleset");
            look(&weak, &mut seen).await;
            assert!(handles().contains("net/pod/eth0"), "whether the tables are there can be asked");
            sh("nft flush map ip knarr masqueraded");
            broken::end(broken::LOOKING);
            look(&weak, &mut seen).await;
            assert!(handles().contains("net/pod/eth0"));
            assert_eq!((log.said("WARN"), log.said(known)), (row, row));
            assert_eq!(log.said(unknown), 6 * row, "each is there for who debugs");
        }
    });
}
