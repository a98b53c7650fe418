//! Overwriting the host's program from a container: CVE-2019-5736.

use std::os::unix::fs::MetadataExt;

use e2e::image::Layer;
use e2e::node::binary;

use crate::rig::{Rig, hostile, output};

#[tokio::test]
async fn the_runtimes_own_program_is_not_what_a_container_runs() {
    let rig = Rig::new().await;
    let image = rig.image("self:latest", hostile(Layer::new().symlink("bin/self", "/proc/self/exe"))).await;
    for command in ["/proc/self/exe", "self", "/proc/thread-self/exe"] {
        rig.run(rig.of(&image, &[command])).await.prevented(command);
        let id = rig.running(rig.of(&image, &["busybox", "sleep", "1000"])).await;
        let joined = rig.client.exec(&id, &[command], 10).await;
        assert!(
            joined.as_ref().is_err() || joined.as_ref().is_ok_and(|output| output.exit_code != 0),
            "the attack succeeded: {command} by exec: {joined:?}"
        );
        rig.client.remove(&id).await.unwrap();
    }
}

/// What the kernel runs for a script is whatever its first line names: there the host's program does run in the container, and
/// somebody who watches gets hold of it. Nothing can be done with what he holds.
#[tokio::test]
async fn who_gets_hold_of_the_runtimes_program_cannot_change_it() {
    let rig = Rig::new().await;
    let script = Layer::new().file("bin/again", 0o755, b"#!/proc/self/exe\n");
    let program = binary("knarr-supervisor");
    let before = (std::fs::metadata(&program).unwrap(), std::fs::read(&program).unwrap());
    let (id, log) = rig.attacker((&["hunt", "program"], "hunting"), script, |_| {}).await;
    for _ in 0..200 {
        let _usage = rig.client.exec(&id, &["/bin/again"], 10).await;
        if output(&log).matches("opening to write").count() >= 3 {
            break;
        }
    }
    rig.client.exec(&id, &["touch", "/stop"], 10).await.unwrap();
    rig.client.exited(&id).await;
    let found = output(&log);
    assert!(found.contains("change of mode"), "nobody got hold of it, so nothing was tried: {found}");
    assert!(!found.contains(": done"), "the attack succeeded: {found}");
    let after = std::fs::metadata(&program).unwrap();
    let facts = |meta: &std::fs::Metadata| (meta.mode(), meta.uid(), meta.mtime(), meta.ctime(), meta.len());
    assert_eq!(facts(&before.0), facts(&after), "the attack succeeded: the host's program has changed");
    assert!(before.1 == std::fs::read(&program).unwrap(), "the attack succeeded: other bytes");
}
