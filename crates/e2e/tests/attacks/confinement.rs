//! What could be made of the daemon's own threads and memory: by whoever gets one that unpacks to do something else, and by whoever
//! gets it to crash.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use e2e::archive::{Packed, Raw};
use e2e::scripted::{Content, Manner};
use e2e::{Network, Scripted, Setup};
use nix::sys::signal::Signal;

use crate::rig::Rig;

/// What is left where layers are directories (bits of linux/capability.h): CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SYS_ADMIN,
/// MKNOD, SETFCAP. Images take none.
const OVER_FILES: u64 = 0b1_1111 | 1 << 21 | 1 << 27 | 1 << 31;

/// The byte of a layer at which nothing more comes.
const STOP: usize = 50_000;

/// What a thread or process may do (proc_pid_status(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    name: String,
    capabilities: String,
    no_new_privileges: String,
    seccomp: String,
}

fn standing(directory: &Path) -> Option<Standing> {
    let status = std::fs::read_to_string(directory.join("status")).ok()?;
    let lines: BTreeMap<&str, &str> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
    let of = |key: &str| lines.get(key).map(|value| value.trim().to_owned());
    Some(Standing {
        name: of("Name")?,
        capabilities: of("CapEff")?,
        no_new_privileges: of("NoNewPrivs")?,
        seccomp: of("Seccomp")?,
    })
}

impl Standing {
    fn is_free(&self) -> bool {
        self.no_new_privileges == "0" && self.seccomp == "0"
    }

    fn is_confined(&self) -> bool {
        let capabilities = u64::from_str_radix(&self.capabilities, 16).unwrap();
        capabilities & !OVER_FILES == 0 && self.no_new_privileges == "1" && self.seccomp == "2"
    }

    /// Whether it is what it has to be. What deletes and checks is confined from its first work on.
    fn is_right(&self) -> bool {
        match self.name.as_str() {
            "unpack" | "digest" => self.is_confined(),
            "check" => self.is_confined() || self.is_free(),
            // Its place alone is bounded, from its first work on.
            "trash" => self.seccomp == "0",
            _ => self.is_free(),
        }
    }

    /// Whether it works on a layer.
    fn unpacks(&self) -> bool {
        ["unpack", "digest"].contains(&self.name.as_str())
    }
}

fn threads(pid: u32) -> Vec<Standing> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    entries.flatten().filter_map(|entry| standing(&entry.path())).collect()
}

/// A layer of some hundred kilobytes that don't compress.
fn large() -> Packed {
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(200_000)
    .collect();
    Packed::gzip(&Raw::new().file("noise", &noise).done())
}

/// While a layer is being unpacked, the threads at it have nothing that isn't needed for it; all others, and what is made
/// meanwhile and afterwards, have what they had.
#[tokio::test]
async fn who_unpacks_a_strangers_archive_can_do_nothing_else() {
    let rig = Rig::new().await;
    let before: Vec<_> = threads(rig.node.pid()).into_iter().filter(|thread| !thread.is_right()).collect();
    assert!(before.is_empty(), "the test needs a daemon that isn't confined itself: {before:?}");
    let content = Content::default();
    content.image("slow", "latest", &[large()]);
    let slow = Scripted::start(content, Manner { stops: Some(STOP), ..Manner::default() }).await;
    let (client, reference) = (rig.client.clone(), slow.image("slow:latest"));
    let pull = tokio::spawn(async move { client.pull(&reference).await });
    e2e::until(e2e::node::PATIENCE, "a thread that unpacks, and one that digests", || async {
        let found: Vec<_> = threads(rig.node.pid()).into_iter().filter(Standing::unpacks).collect();
        if found.len() >= 2 && slow.given().iter().any(|given| given.bytes == STOP) {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
    let id = rig.running(rig.script("sleep 1000")).await;
    for thread in threads(rig.node.pid()) {
        assert!(thread.is_right(), "the attack succeeded: {thread:?}");
    }
    for (pid, command) in rig.node.traces().processes() {
        let found = standing(Path::new(&format!("/proc/{pid}"))).unwrap();
        assert!(found.is_free(), "{command} has inherited something: {found:?}");
    }
    assert!(!rig.node.processes_of(&id).is_empty());
    pull.abort();
}

/// Registries' credentials and tokens of streams stay in memory, also when it crashes. What it starts can be dumped as ever.
#[tokio::test]
async fn a_crash_of_the_daemon_writes_no_secrets_to_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let free = format!("ulimit -c unlimited; cd {}", directory.path().display());
    let crash = Command::new("sh").args(["-ec", &format!("{free}; kill -ABRT $$")]).status().unwrap();
    if !crash.core_dumped() {
        println!("skipped: nothing leaves a core file on this machine");
        return;
    }
    let mut node = Setup::new(Network::None).launched_after(&free).start().await;
    let crash = node.crash_daemon();
    node.start_daemon();
    assert_eq!(crash.signal(), Some(Signal::SIGABRT as i32), "{crash}");
    assert!(!crash.core_dumped(), "the attack succeeded: the daemon's memory is in a file");
}
