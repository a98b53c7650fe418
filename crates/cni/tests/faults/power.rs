//! A power cut: what the disk holds at that moment is all that there is afterwards. What a file system has been told but has
//! not written isn't there. The disk is a file with ext4 on it, and a copy of the file is what it holds.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use cni::{Config, Networks};
use serde_json::json;

use crate::disk::on_disk;
use crate::support::netns::sh;
use crate::support::{Node, attachment, shown, some_netns};

/// A mounted image.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, at: PathBuf) -> Mounted {
        std::fs::create_dir_all(&at).unwrap();
        // What nobody asks to be written stays in memory for the time of the test.
        sh(&format!("mount -o loop,commit=300 {} {}", image.display(), at.display()));
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        sh(&format!("umount {}", self.0.display()));
    }
}

#[allow(clippy::print_stdout, reason = "a test says what it skips")]
fn is_possible() -> bool {
    let possible = std::process::Command::new("sh")
        .args(["-c", "command -v mkfs.ext4 e2fsck debugfs && losetup -f"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !possible {
        println!("skipped: no mkfs.ext4 (Debian: e2fsprogs), or no loop devices");
    }
    possible
}

#[test]
fn what_executed_plugins_have_done_is_known_after_a_power_cut() {
    if !is_possible() {
        return;
    }
    on_disk(|| async {
        let node = Node::new();
        let image = node.path("disk");
        sh(&format!("truncate -s 8M {0} && mkfs.ext4 -q {0}", image.display()));
        // It is synced while plugins are at work, or behind the answer; that is waited for, but not for ever.
        let copy = |moment: &str, known: &str| {
            let copy = node.path(moment);
            format!(
                "n=0; until [ $((n=n+1)) = 200 ] || {{ cp {} {copy} && e2fsck -fy {copy} > /dev/null 2>&1; \
                 debugfs -R 'cat /attachments/pod1@eth0.json' {copy} 2>/dev/null | grep -q {known}; }}; \
                 do sleep 0.05; done",
                image.display(),
                copy = copy.display()
            )
        };
        node.plugin(
            "leases",
            &format!(
                "[ $CNI_COMMAND != ADD ] || {{ {}; echo '{}'; }}",
                copy("attaching", "pod1"),
                r#"{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.2/24"}]}"#
            ),
        );
        let conf = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "leases"}]});
        node.conf("10-net.conflist", &conf);
        let disk = Mounted::new(&image, node.path("state"));
        let networks = node.open();
        networks.add(&attachment("pod1", some_netns())).await.unwrap();
        sh(&copy("attached", "10.9.0.2/24"));
        drop(networks);
        drop(disk);
        for (moment, address) in [("attaching", None), ("attached", Some("10.9.0.2/24"))] {
            let disk = Mounted::new(&node.path(moment), node.path(&format!("after-{moment}")));
            let networks = Networks::open(Config { state_dir: disk.0.clone(), ..node.config() }).unwrap();
            networks.gc(HashSet::new).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
            let calls = node.calls();
            let (verb, _, config) = calls.last().unwrap();
            assert_eq!(verb, "DEL", "of {moment}, nothing is known");
            assert_eq!(config["prevResult"]["ips"][0]["address"].as_str(), address, "{moment}");
            drop(networks);
        }
        assert_eq!(node.verbs(), ["ADD leases", "DEL leases", "DEL leases"]);
    });
}
