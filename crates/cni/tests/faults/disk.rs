//! A disk that is full when something is to be written down, at each write in turn: what was being attached is undone, what
//! is detached goes all the same.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use cni::{BuiltinNetwork, Cidr, Config, Error, Networks, Subnet};

use nix::sched::{CloneFlags, unshare};

use crate::cases::warm_up;
use crate::rig::{Chain, Pod, Rig};
use crate::support::netns::{on_own_host, sh};
use crate::support::{installed, shown, until};

/// A file system with room for few blocks and files.
struct Disk {
    path: PathBuf,
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Scripted,
    Debian,
    BuiltIn,
}

impl Disk {
    fn new(path: PathBuf) -> Disk {
        fs::create_dir_all(&path).unwrap();
        sh(&format!("mount -t tmpfs -o size=64k,nr_inodes=24 none {}", path.display()));
        Disk { path }
    }

    /// Leaves so many files' room.
    fn fill_up_to(&self, left: usize) {
        let ballast = self.path.join("ballast");
        fs::create_dir_all(&ballast).unwrap();
        let fill = |number: usize| fs::File::create(ballast.join(number.to_string()));
        let made = (0..).take_while(|number| fill(*number).is_ok()).count();
        for number in made.saturating_sub(left)..made {
            fs::remove_file(ballast.join(number.to_string())).unwrap();
        }
    }

    /// Leaves no block, though files can be made.
    fn fill_blocks(&self) {
        let mut file = fs::File::create(self.path.join("ballast-of-blocks")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn clear(&self) {
        let _ = fs::remove_dir_all(self.path.join("ballast"));
        let _ = fs::remove_file(self.path.join("ballast-of-blocks"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        sh(&format!("umount -l {}", self.path.display()));
    }
}

fn open(rig: &Rig, who: Who) -> Networks {
    let subnet = Subnet { network: Cidr { address: [10, 235, 0, 0].into(), prefix: 24 }, gateway: None };
    let builtin =
        BuiltinNetwork { name: "disk".into(), bridge: "knarrdisk0".into(), subnets: vec![subnet], mtu: None };
    let builtin = (who == Who::BuiltIn).then_some(builtin);
    Networks::open(Config { builtin, bin_dirs: vec![rig.node.path("bin")], ..rig.node.config() }).unwrap()
}

fn rig(who: Who) -> Rig {
    Rig::new(if who == Who::Debian { Chain::Debian } else { Chain::Scripted }, "1.0.0")
}

async fn nothing_left(rig: &Rig, networks: &Networks) {
    networks.settle().await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    until("everything to be gone", || rig.left(), Vec::is_empty).await;
}

/// Room for nothing, for one file, for two …, until there is enough for all of it.
async fn attaching(who: Who, dir: &str) {
    if who == Who::Debian {
        warm_up().await;
    }
    let rig = rig(who);
    let disk = Disk::new(rig.node.path(dir));
    let mut failures = 0;
    for room in 0.. {
        let networks = open(&rig, who);
        disk.fill_up_to(room);
        let pod = Pod::new("pod1");
        let outcome = networks.add(&pod.attachment).await;
        if let Err(error) = &outcome {
            failures += 1;
            let text = shown(error);
            let said = text.to_lowercase().matches("no space left").count();
            if matches!(error, Error::Undo { .. }) {
                // host-local can't take its lock to give an address back.
                assert_eq!((who, dir, said), (Who::Debian, "leases", 2), "with room for {room}: {text}");
                disk.clear();
            } else {
                assert_eq!(said, 1, "with room for {room}: {text}");
                nothing_left(&rig, &networks).await;
            }
        }
        networks.del(&pod.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        nothing_left(&rig, &networks).await;
        disk.clear();
        networks.add(&pod.attachment).await.unwrap_or_else(|error| panic!("the retry: {}", shown(&error)));
        networks.del(&pod.attachment).await.unwrap();
        nothing_left(&rig, &networks).await;
        if outcome.is_ok() {
            break;
        }
    }
    assert!(failures > 0, "it has always found room");
}

/// Neither files nor blocks: the answer may wait, but nothing keeps the pod.
async fn detaching(who: Who) {
    if who == Who::Debian {
        warm_up().await;
    }
    let rig = rig(who);
    for (full, remove) in [(true, false), (false, false), (true, true)] {
        // Debian's bridge 1.1.1 doesn't find its masquerade rules once the namespace is gone.
        if remove && who == Who::Debian {
            break;
        }
        let disk = Disk::new(rig.node.path("state"));
        let networks = open(&rig, who);
        let pod = Pod::new("pod1");
        networks.add(&pod.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        if full {
            disk.fill_up_to(0)
        } else {
            disk.fill_blocks()
        }
        if remove {
            drop(pod);
            networks.gc(HashSet::new).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        } else {
            networks.del(&pod.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
            networks.settle().await.unwrap();
            assert!(pod.links().is_empty());
        }
        nothing_left(&rig, &networks).await;
        drop(networks);
    }
}

/// The small disks are mounted for the test alone.
pub(crate) fn on_disk<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    on_own_host(|| async {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        sh("mount --make-rprivate /");
        test().await;
    });
}

#[test]
fn attaching_by_scripted_plugins() {
    on_disk(|| attaching(Who::Scripted, "state"));
}

#[test]
fn attaching_by_debians_plugins() {
    if installed() {
        on_disk(|| attaching(Who::Debian, "state"));
        on_disk(|| attaching(Who::Debian, "leases"));
    }
}

#[test]
fn attaching_to_the_built_in_network() {
    on_disk(|| attaching(Who::BuiltIn, "state"));
}

#[test]
fn detaching_from_scripted_plugins() {
    on_disk(|| detaching(Who::Scripted));
}

#[test]
fn detaching_from_debians_plugins() {
    if installed() {
        on_disk(|| detaching(Who::Debian));
    }
}

#[test]
fn detaching_from_the_built_in_network() {
    on_disk(|| detaching(Who::BuiltIn));
}
