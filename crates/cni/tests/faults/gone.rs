//! Pods that go while their plugins, their configuration or the whole machine is gone.

use std::collections::HashSet;
use std::fs;

use cni::{Error, Status};

use crate::cases::warm_up;
use crate::rig::{Chain, Pod, Rig, addresses};
use crate::support::netns::on_own_host;
use crate::support::{installed, shown, until};

fn nothing_left(rig: &Rig) {
    let left = rig.left();
    assert!(left.is_empty(), "{left:#?}");
}

fn uninstall(rig: &Rig) {
    for plugin in rig.chain.plugins() {
        rig.order(plugin, "missing");
    }
}

#[test]
fn pods_go_while_all_plugins_are_uninstalled() {
    on_own_host(|| async {
        let rig = Rig::new(Chain::Scripted, "1.0.0");
        let networks = rig.open();
        let (first, second) = (Pod::new("pod1"), Pod::new("pod2"));
        for pod in [&first, &second] {
            networks.add(&pod.attachment).await.unwrap();
        }
        uninstall(&rig);
        for pod in [&first, &second, &first] {
            networks.del(&pod.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        }
        let attachments = [first.attachment.clone(), second.attachment.clone()];
        drop((first, second));
        networks.gc(HashSet::new).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        drop(networks);
        let networks = rig.open();
        networks.gc(HashSet::new).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        assert_eq!(rig.node.records().len(), 2, "what is to be caught up with isn't forgotten");
        rig.heal();
        // Nobody lists them any more, or somebody does still.
        networks.gc(move || HashSet::from([attachments[0].id()])).await.unwrap();
        nothing_left(&rig);
    });
}

#[test]
fn pods_go_while_nothing_is_configured() {
    on_own_host(|| async {
        let rig = Rig::new(Chain::Scripted, "1.0.0");
        let networks = rig.open();
        let (first, second, third) = (Pod::new("pod1"), Pod::new("pod2"), Pod::new("pod3"));
        for pod in [&first, &second, &third] {
            networks.add(&pod.attachment).await.unwrap();
        }
        fs::remove_file(rig.node.path("net.d/10-faults.conflist")).unwrap();
        until("the change", || networks.status(), |status| matches!(status, Status::NotReady { .. })).await;
        networks.del(&first.attachment).await.unwrap();
        drop(networks);
        fs::remove_dir(rig.node.path("net.d")).unwrap();
        let networks = rig.open();
        networks.del(&second.attachment).await.unwrap();
        drop(third);
        networks.gc(HashSet::new).await.unwrap();
        nothing_left(&rig);
    });
}

#[test]
fn each_plugin_is_asked_to_detach_though_one_is_missing_and_another_fails() {
    on_own_host(|| async {
        let rig = Rig::new(Chain::Scripted, "1.0.0");
        let (networks, pod) = (rig.open(), Pod::new("pod1"));
        networks.add(&pod.attachment).await.unwrap();
        rig.calls();
        rig.order("table", "missing");
        rig.order("rule", "DEL before error");
        let error = networks.del(&pod.attachment).await.unwrap_err();
        let text = shown(&error);
        assert!(text.contains("'table'") && text.contains("'rule'") && text.contains("107"), "{text}");
        assert_eq!(rig.calls(), ["DEL rule", "DEL link"]);
        assert!(pod.links().is_empty());
        rig.heal();
        networks.del(&pod.attachment).await.unwrap();
        nothing_left(&rig);
    });
}

/// Its configuration has changed meanwhile, so that the plugins of the new one could be run.
#[test]
fn what_only_a_missing_plugin_can_undo_is_not_forgotten_by_a_retry() {
    on_own_host(|| async {
        let rig = Rig::new(Chain::Scripted, "1.0.0");
        let (networks, pod) = (rig.open(), Pod::new("pod1"));
        // The third fails, and the second is gone when its part is to be undone.
        rig.order("table", "ADD before uninstall-rule");
        let error = networks.add(&pod.attachment).await.unwrap_err();
        assert!(matches!(error, Error::PluginFailed { code: 107, .. }), "{}", shown(&error));
        assert_eq!(rig.node.records().len(), 1);
        let other =
            serde_json::json!({"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "link"}]});
        rig.node.conf("05-other.conflist", &other);
        let other = |status: &Status| *status == Status::Ready { network: "other".into() };
        until("the other network", || networks.status(), other).await;
        let error = networks.add(&pod.attachment).await.unwrap_err();
        let text = shown(&error);
        assert!(text.contains("'rule'") && text.contains("detach"), "{text}");
        rig.heal();
        networks.add(&pod.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        networks.del(&pod.attachment).await.unwrap();
        nothing_left(&rig);
    });
}

/// Written by a newer version, for one.
#[test]
fn a_record_that_cannot_be_used_keeps_neither_its_pod_nor_the_collection_of_others() {
    on_own_host(|| async {
        let rig = Rig::new(Chain::Scripted, "1.1.0");
        let (networks, pod, lost) = (rig.open(), Pod::new("pod1"), Pod::new("pod2"));
        for pod in [&pod, &lost] {
            networks.add(&pod.attachment).await.unwrap();
        }
        let record = rig.node.records().remove(0);
        let good = fs::read_to_string(&record).unwrap();
        let mut unusable: serde_json::Value = serde_json::from_str(&good).unwrap();
        unusable["via"]["chain"]["plugins"] = "of another form".into();
        fs::write(&record, unusable.to_string()).unwrap();
        let valid = HashSet::from([pod.attachment.id()]);
        networks.gc(move || valid.clone()).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        assert_eq!(rig.node.records(), [record.as_path()]);
        networks.del(&pod.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        // What it stands for isn't forgotten: whoever can use it again undoes it.
        let mut usable: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        assert_eq!(usable["detached"], true);
        usable["via"] = serde_json::from_str::<serde_json::Value>(&good).unwrap()["via"].take();
        fs::write(&record, usable.to_string()).unwrap();
        networks.gc(HashSet::new).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        drop((pod, lost));
        nothing_left(&rig);
    });
}

/// Spoilt by a power cut, for one. Only its name is left, by which whatever is configured is asked.
#[test]
fn what_a_damaged_record_stood_for_is_undone() {
    on_own_host(|| async {
        let rig = Rig::new(Chain::Scripted, "1.0.0");
        let pods = ["pod1", "pod2", "pod3", "pod4"].map(Pod::new);
        let networks = rig.open();
        for pod in &pods {
            networks.add(&pod.attachment).await.unwrap();
        }
        drop(networks);
        for (record, text) in rig.node.records().iter().zip(["", "{", "\0\0\0", "{\"version\":2}"]) {
            fs::write(record, text).unwrap();
        }
        let networks = rig.open();
        let [again, del, collect, kept] = &pods;
        networks.add(&again.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        networks.del(&again.attachment).await.unwrap();
        networks.del(&del.attachment).await.unwrap();
        assert!(again.links().is_empty() && del.links().is_empty());
        rig.calls();
        let valid = HashSet::from([kept.attachment.id()]);
        networks.gc(move || valid.clone()).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        assert_eq!(rig.calls(), ["DEL table", "DEL rule", "DEL link"]);
        assert!(collect.links().is_empty() && !kept.links().is_empty());
        assert_eq!(rig.node.records().len(), 1);
        networks.gc(HashSet::new).await.unwrap();
        drop(pods);
        nothing_left(&rig);
    });
}

#[test]
fn a_damaged_record_that_nothing_can_be_done_about_is_kept_and_keeps_no_pod() {
    on_own_host(|| async {
        let rig = Rig::new(Chain::Scripted, "1.0.0");
        let (networks, pod) = (rig.open(), Pod::new("pod1"));
        networks.add(&pod.attachment).await.unwrap();
        fs::write(&rig.node.records()[0], "").unwrap();
        let left = [rig.node.records()[0].clone()];
        // A plugin is missing, fails, or nothing is configured.
        rig.order("link", "missing");
        networks.del(&pod.attachment).await.unwrap();
        assert_eq!(rig.node.records(), left);
        rig.heal();
        rig.order("link", "DEL before error");
        networks.del(&pod.attachment).await.unwrap();
        let error = networks.gc(HashSet::new).await.unwrap_err();
        assert_eq!(shown(&error).matches("107").count(), 1, "{}", shown(&error));
        assert_eq!(rig.node.records(), left);
        rig.heal();
        let conf = rig.node.path("net.d/10-faults.conflist");
        fs::rename(&conf, rig.node.path("aside")).unwrap();
        until("the change", || networks.status(), |status| matches!(status, Status::NotReady { .. })).await;
        networks.del(&pod.attachment).await.unwrap();
        networks.gc(HashSet::new).await.unwrap();
        assert_eq!(rig.node.records(), left);
        fs::rename(rig.node.path("aside"), &conf).unwrap();
        until("the change", || networks.status(), |status| matches!(status, Status::Ready { .. })).await;
        networks.gc(HashSet::new).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        drop(pod);
        nothing_left(&rig);
    });
}

/// What the kernel knew is gone, what was on disk isn't.
fn after_a_reboot_the_addresses_come_back(chain: Chain) {
    on_own_host(move || async move {
        let rig = Rig::new(chain, "1.0.0");
        let networks = rig.open();
        for name in ["pod1", "pod2"] {
            let added = networks.add(&Pod::new(name).attachment).await;
            added.unwrap_or_else(|error| panic!("{}", shown(&error)));
        }
        assert_eq!(addresses(&rig.node.path("leases")).len(), 2);
        drop(networks);
        let booted = std::thread::spawn(move || on_own_host(move || booted(rig)));
        booted.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

async fn booted(mut rig: Rig) {
    if rig.chain == Chain::Debian {
        warm_up().await;
    }
    rig.boot();
    let networks = rig.open();
    networks.gc(HashSet::new).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    nothing_left(&rig);
    let pod = Pod::new("pod1");
    networks.add(&pod.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    networks.del(&pod.attachment).await.unwrap();
    nothing_left(&rig);
}

#[test]
fn after_a_reboot_the_addresses_of_scripted_plugins_come_back() {
    after_a_reboot_the_addresses_come_back(Chain::Scripted);
}

#[test]
fn after_a_reboot_the_addresses_of_debians_plugins_come_back() {
    if installed() {
        after_a_reboot_the_addresses_come_back(Chain::Debian);
    }
}
