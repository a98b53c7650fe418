//! Images and requests that want out.

use std::fs;
use std::os::unix::fs::symlink;

use runtime::plan::{PlanInput, plan};
use runtime::{FailedStep, FailureKind};

use crate::Test;
use crate::rig::{Rig, add_mount, edit_process, namespaces, shell, spec};

pub const TESTS: &[Test] = &[
    ("proc_that_is_a_link_is_refused", proc_link),
    ("dev_that_is_a_link_makes_nothing_outside", dev_link),
    ("targets_behind_links_stay_inside", target_links),
    ("a_volume_cannot_lie_on_proc", volume_on_proc),
    ("a_null_device_of_the_image_masks_nothing", false_null),
    ("a_working_directory_is_no_descriptor", descriptor_cwd),
    ("the_runtimes_own_executable_is_not_run", own_executable),
    ("descriptors_of_the_supervisor_do_not_leak", descriptors),
    ("a_plan_with_odd_fields_is_refused", odd_plans),
];

fn proc_link() {
    let rig = Rig::new();
    fs::create_dir(rig.image().join("elsewhere")).unwrap();
    symlink("/elsewhere", rig.image().join("proc")).unwrap();
    let outcome = rig.run(&shell("true"));
    let failure = outcome.failed();
    assert_eq!((failure.step, failure.kind), (FailedStep::Mount, FailureKind::Unsafe), "{failure:?}");
    assert_eq!(failure.subject, "/proc");
}

fn dev_link() {
    let rig = Rig::new();
    let target = rig.outside("host-dev");
    symlink(&target, rig.image().join("dev")).unwrap();
    let outcome = rig.run(&shell("true"));
    assert_eq!(outcome.failed().kind, FailureKind::Unsafe, "{outcome:?}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "nothing was made outside");
}

fn target_links() {
    let rig = Rig::new();
    let (volume, target) = (rig.outside("volume"), rig.outside("target"));
    fs::write(volume.join("file"), "inside\n").unwrap();
    fs::remove_dir(rig.image().join("etc")).unwrap_or(());
    symlink(&target, rig.image().join("climb")).unwrap();
    symlink("../../../../../../../../tmp/../climb/deeper", rig.image().join("again")).unwrap();
    let mut spec = shell("cat /climb/sub/file /again/sub/file");
    add_mount(&mut spec, &volume, "/climb/sub", &["rbind", "ro"]);
    add_mount(&mut spec, &volume, "/again/sub", &["rbind", "ro"]);
    assert_eq!(rig.run(&spec).lines(), ["inside", "inside"]);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "nothing was made outside");
}

fn volume_on_proc() {
    let rig = Rig::new();
    let volume = rig.outside("volume");
    let mut direct = shell("true");
    add_mount(&mut direct, &volume, "/proc/sys", &["rbind"]);
    let refused = plan(&PlanInput { spec: &direct, namespaces: namespaces(), seccomp: None }).unwrap_err();
    assert_eq!(refused.field, "mounts[7].destination", "{refused}");

    let mut whole = shell("true");
    add_mount(&mut whole, &volume, "/proc", &["rbind"]);
    assert_eq!(rig.run(&whole).failed().kind, FailureKind::Unsafe);

    symlink("/proc/sys", rig.image().join("innocent")).unwrap();
    let mut behind = shell("true");
    add_mount(&mut behind, &volume, "/innocent", &["rbind"]);
    let outcome = rig.run(&behind);
    assert_eq!(outcome.failed().subject, "/innocent", "{outcome:?}");
    assert_eq!(outcome.failed().kind, FailureKind::Unsafe);
}

fn false_null() {
    let rig = Rig::new();
    let dev = rig.outside("false-dev");
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    let mut spec = shell("true");
    add_mount(&mut spec, &dev, "/dev", &["rbind"]);
    for mount in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(mount)).unwrap();
    }
    let failure = rig.run(&spec).failed().clone();
    assert_eq!((failure.step, failure.kind), (FailedStep::MaskPath, FailureKind::Unsafe), "{failure:?}");
    fs::remove_file(dev.join("null")).unwrap();
    fs::write(dev.join("null"), "not a device").unwrap();
    let failure = rig.run(&spec).failed().clone();
    assert_eq!((failure.subject.as_str(), failure.kind), ("/dev/null", FailureKind::Unsafe), "{failure:?}");
}

fn descriptor_cwd() {
    let rig = Rig::new();
    let held: Vec<_> = (0..8).map(|_| fs::File::open("/").unwrap()).collect();
    for number in (3..24).map(|number| number.to_string()) {
        let mut spec = shell("true");
        edit_process(&mut spec, |process| {
            process.set_cwd(format!("/proc/self/fd/{number}").into());
        });
        let outcome = rig.run(&spec);
        assert_eq!(outcome.failed().step, FailedStep::WorkingDirectory, "{outcome:?}");
    }
    // The same by a link in the image.
    symlink("/proc/self/fd/3/", rig.image().join("way-out")).unwrap();
    let mut spec = shell("true");
    edit_process(&mut spec, |process| {
        process.set_cwd("/way-out".into());
    });
    assert_eq!(rig.run(&spec).failed().step, FailedStep::WorkingDirectory);
    drop(held);
}

fn own_executable() {
    let rig = Rig::new();
    symlink("/proc/self/exe", rig.image().join("bin/self")).unwrap();
    for command in ["/proc/self/exe", "self"] {
        let outcome = rig.run(&spec(&[command]));
        assert_eq!(outcome.failed().kind, FailureKind::Unsafe, "{outcome:?}");
    }
}

fn descriptors() {
    let rig = Rig::new();
    // On purpose without close-on-exec.
    let held: Vec<_> = (0..4)
        .map(|_| rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap())
        .collect();
    let outcome = rig.run(&shell("ls /proc/$$/fd; true"));
    let seen: Vec<&str> = outcome.lines();
    assert!(seen.iter().all(|fd| ["0", "1", "2"].contains(fd)) && seen.len() == 3, "{seen:?}");
    drop(held);
}

fn odd_plans() {
    let mut odd = shell("true");
    add_mount(&mut odd, "/".as_ref(), "relative", &[]);
    let refused = |spec: &runtime::spec::oci::Spec| {
        plan(&PlanInput { spec, namespaces: namespaces(), seccomp: None }).unwrap_err().field
    };
    assert_eq!(refused(&odd), "mounts[7].destination");
    let mut odd = shell("true");
    add_mount(&mut odd, "relative".as_ref(), "/x", &[]);
    assert_eq!(refused(&odd), "mounts[7].source");
    let mut odd = shell("true");
    add_mount(&mut odd, "/".as_ref(), "/x", &["rbind", "idmap"]);
    assert_eq!(refused(&odd), "mounts[7].options");
    assert_eq!(refused(&spec(&[""])), "process.args");
}
