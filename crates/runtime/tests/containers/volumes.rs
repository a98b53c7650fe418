//! Volumes: their flags, and what happens when something is mounted below them later.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use runtime::Error;
use runtime::container::Launched;
use runtime::mount::open_source;
use runtime::plan::{Access, Depth, MountAttributes, Propagation, Source, process as plan_process};
use runtime::spec::oci;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{Signal, pidfd_send_signal};

use crate::Test;
use crate::rig::{Rig, add_mount, edit_process, handshake, line, planned, process, shell, wait};

pub const TESTS: &[Test] = &[
    ("later_mounts_reach_a_slave_and_not_a_private_volume", slave),
    ("a_containers_mounts_reach_the_host_when_shared", shared),
    ("propagation_that_the_host_does_not_give_is_refused", refused),
    ("a_missing_source_is_named", missing),
    ("recursive_read_only_reaches_below", recursive),
];

/// A filesystem of the test's own, shared, and unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        mount("test", path, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(path, MountPropagationFlags::SHARED).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

fn running(rig: &Rig, mut spec: oci::Spec) -> (Launched, File) {
    edit_process(&mut spec, |process| {
        let all: oci::Capabilities = process
            .capabilities()
            .as_ref()
            .unwrap()
            .bounding()
            .iter()
            .flatten()
            .copied()
            .chain([oci::Capability::SysAdmin])
            .collect();
        let mut sets = process.capabilities().clone().unwrap();
        sets.set_bounding(Some(all.clone())).set_permitted(Some(all.clone())).set_effective(Some(all));
        process.set_capabilities(Some(sets));
    });
    let (read, write): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut launched = rig.start(&planned(&spec), &write).unwrap();
    handshake(&mut launched.handshake).1.unwrap();
    let mut output = File::from(read);
    assert_eq!(line(&mut output), "up");
    (launched, output)
}

fn stop(launched: &Launched) {
    pidfd_send_signal(&launched.pidfd, Signal::KILL).unwrap();
    wait(&launched.pidfd);
}

fn slave() {
    let rig = Rig::new();
    let volume = Mounted::at(&rig.outside("volume"));
    fs::create_dir(volume.0.join("sub")).unwrap();
    let mut spec = shell("echo up; exec sleep 1000");
    add_mount(&mut spec, &volume.0, "/slave", &["rbind", "rslave", "ro"]);
    add_mount(&mut spec, &volume.0, "/private", &["rbind", "rprivate"]);
    let (container, _output) = running(&rig, spec);
    let later = Mounted::at(&volume.0.join("sub"));
    fs::write(later.0.join("note"), "later\n").unwrap();
    let script = "cat /slave/sub/note; cat /private/sub/note 2>/dev/null || echo nothing";
    let outcome = rig.exec(&container, &plan_process(&process(&["sh", "-c", script]), None).unwrap());
    assert_eq!(outcome.lines(), ["later", "nothing"]);
    stop(&container);
}

fn shared() {
    let rig = Rig::new();
    let volume = Mounted::at(&rig.outside("volume"));
    fs::create_dir(volume.0.join("sub")).unwrap();
    let mut spec =
        shell("mount -t tmpfs inner /volume/sub && echo note > /volume/sub/note; echo up; exec sleep 1000");
    add_mount(&mut spec, &volume.0, "/volume", &["rbind", "rshared"]);
    let (container, _output) = running(&rig, spec);
    assert_eq!(fs::read_to_string(volume.0.join("sub/note")).unwrap(), "note\n");
    stop(&container);
    unmount(volume.0.join("sub"), UnmountFlags::DETACH).unwrap();
}

fn source(path: &Path, propagation: Propagation) -> Source {
    Source {
        path: path.to_owned(),
        depth: Depth::Recursive,
        attributes: MountAttributes::default(),
        propagation,
        ids: None,
    }
}

fn refused() {
    let rig = Rig::new();
    let place = rig.outside("place");
    for propagation in [Propagation::Slave, Propagation::Shared] {
        let refused = open_source(&source(&place, propagation)).unwrap_err();
        assert!(matches!(&refused, Error::NotShared { path, .. } if *path == place), "{refused:?}");
    }
}

fn missing() {
    let missing = open_source(&source(Path::new("/nowhere/at all"), Propagation::Private)).unwrap_err();
    assert_eq!(missing.to_string(), "cannot open mount source \"/nowhere/at all\"");
    assert!(
        matches!(missing, Error::MountSource { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );
}

fn recursive() {
    let rig = Rig::new();
    let volume = Mounted::at(&rig.outside("volume"));
    let below = Mounted::at(&volume.0.join("sub"));
    let mut spec = shell(
        "for v in ro rro; do touch /$v/x 2>/dev/null && echo $v; touch /$v/sub/x 2>/dev/null && echo $v/sub; done; true",
    );
    add_mount(&mut spec, &volume.0, "/ro", &["rbind", "ro"]);
    add_mount(&mut spec, &volume.0, "/rro", &["rbind", "rro"]);
    assert_eq!(rig.run(&spec).lines(), ["ro/sub"]);
    let attributes = MountAttributes { access: Access::RecursiveReadOnly, ..MountAttributes::default() };
    assert!(open_source(&Source { attributes, ..source(&below.0, Propagation::Private) }).is_ok());
    drop(below);
}
