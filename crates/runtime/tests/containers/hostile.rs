//! Images and requests that want out.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;

use runtime::plan::{PlanInput, plan};
use runtime::thread::SingleThread;
use runtime::{FailedStep, FailureKind};

use crate::Test;
use crate::patience::until;
use crate::rig::{Rig, add_mount, edit_process, finish, namespaces, planned, shell, spec};

pub const TESTS: &[Test] = &[
    ("proc_that_is_a_link_is_refused", proc_link),
    ("dev_that_is_a_link_makes_nothing_outside", dev_link),
    ("targets_behind_links_stay_inside", target_links),
    ("a_volume_cannot_lie_on_proc", volume_on_proc),
    ("a_null_device_of_the_image_masks_nothing", false_null),
    ("a_working_directory_is_no_descriptor", descriptor_cwd),
    ("the_runtimes_own_executable_is_not_run", own_executable),
    ("descriptors_of_the_supervisor_do_not_leak", descriptors),
    ("a_target_that_is_swapped_meanwhile_stays_inside", swapped_target),
    ("the_supervisors_executable_can_be_write_protected", protected_executable),
    ("a_process_with_threads_does_not_clone", threads),
    ("a_plan_with_odd_fields_is_refused", odd_plans),
    ("a_label_that_cannot_be_given_is_not_passed_over", unknown_labels),
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
    let refused = plan(&PlanInput { spec: &whole, namespaces: namespaces(), seccomp: None }).unwrap_err();
    assert_eq!(refused.field, "mounts[7].destination", "{refused}");
    // What it is in truth counts, not its name.
    let mut named = shell("true");
    add_mount(&mut named, "/proc".as_ref(), "/proc", &["rbind"]);
    let mut named = planned(&named);
    named.sources[0].path = volume.clone();
    assert_eq!(rig.run_planned(&named).failed().kind, FailureKind::OverProcfs);

    symlink("/proc/sys", rig.image().join("innocent")).unwrap();
    let mut behind = shell("true");
    add_mount(&mut behind, &volume, "/innocent", &["rbind"]);
    let outcome = rig.run(&behind);
    let says = "cannot bind mount on \"/innocent\": it would cover procfs, which nothing else may";
    assert_eq!(outcome.failed().to_string(), says);

    let mut new = shell("true");
    add_mount(&mut new, "tmpfs".as_ref(), "/innocent", &[]);
    let mut mounts = new.mounts().clone().unwrap();
    mounts.last_mut().unwrap().set_typ(Some("tmpfs".to_owned()));
    new.set_mounts(Some(mounts));
    let failure = rig.run(&new).failed().clone();
    assert_eq!((failure.step, failure.kind), (FailedStep::Mount, FailureKind::OverProcfs), "{failure}");
}

/// On a kernel without the security module and on one that doesn't know the label.
fn unknown_labels() {
    let rig = Rig::new();
    let (apparmor, selinux) = ("knarr-test-no-such-profile", "no_u:such_r:label_t:s0");
    let mut labelled = [shell("true"), shell("true")];
    edit_process(&mut labelled[0], |process| {
        process.set_apparmor_profile(Some(apparmor.to_owned()));
    });
    edit_process(&mut labelled[1], |process| {
        process.set_selinux_label(Some(selinux.to_owned()));
    });
    for (spec, subject) in labelled.iter().zip([apparmor, selinux]) {
        let failure = rig.run(spec).failed().clone();
        assert_eq!((failure.step, failure.subject.as_str()), (FailedStep::SecurityLabel, subject));
    }
    let (read, write) = rustix::pipe::pipe().unwrap();
    let container = rig.start(&planned(&shell("read forever || true")), &write).unwrap();
    let joining = planned(&labelled[0]).process;
    assert_eq!(rig.exec(&container, &joining).failed().step, FailedStep::SecurityLabel);
    drop((read, write));
    finish(container, fs::File::open("/dev/null").unwrap());
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

/// The directory in which a copy of this program swaps `a` and `b`.
pub const SWAP: &str = "KNARR_TEST_SWAP";

pub fn swap_until_end_of_input(directory: &Path) {
    let directory = fs::File::open(directory).unwrap();
    rustix::io::ioctl_fionbio(std::io::stdin(), true).unwrap();
    loop {
        rustix::fs::renameat_with(&directory, "a", &directory, "b", rustix::fs::RenameFlags::EXCHANGE)
            .unwrap();
        if matches!(rustix::io::read(std::io::stdin(), &mut [0; 1]), Ok(0)) {
            return;
        }
    }
}

/// CVE-2021-30465: a volume that two containers share changes under the feet of the mount.
fn swapped_target() {
    let rig = Rig::new();
    let (volume, target) = (rig.outside("volume"), rig.outside("host"));
    fs::create_dir(volume.join("a")).unwrap();
    symlink(&target, volume.join("b")).unwrap();
    let mut swapper = std::process::Command::new(std::env::current_exe().unwrap())
        .env(SWAP, &volume)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut spec = spec(&["/bin/busybox", "true"]);
    add_mount(&mut spec, &volume, "/volume", &["rbind"]);
    add_mount(&mut spec, &rig.image(), "/volume/a/x/y", &["rbind"]);
    let mut ran = 0;
    for _ in 0..200 {
        let outcome = rig.run(&spec);
        match &outcome.failure {
            None => ran += 1,
            Some(failure) => assert_eq!(failure.step, FailedStep::BindMount, "{failure:?}"),
        }
    }
    drop(swapper.stdin.take());
    swapper.wait().unwrap();
    assert!(ran > 0, "the race was never won by the good side");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "nothing was made outside");
}

/// CVE-2019-5736: what runs from such a mount cannot be written through /proc.
fn protected_executable() {
    let rig = Rig::new();
    let program = rig.image().join("bin/busybox");
    let mount = runtime::mount::open_executable(&program).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount));
    let mut child = std::process::Command::new(path).arg0("sleep").arg("1000").spawn().unwrap();
    drop(mount);
    let exe = format!("/proc/{}/exe", child.id());
    let own = fs::read_link("/proc/self/exe").unwrap();
    // The kernel lets the parent go on a moment before the child is another program.
    until("it executes", || (fs::read_link(&exe).ok()? != own).then_some(()));
    let held = fs::File::open(exe);
    child.kill().unwrap();
    child.wait().unwrap();
    // Now that nothing executes it, only the mount protects it.
    let held = held.unwrap();
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    // Whoever looks through /proc at that moment keeps the ended program's memory a little longer.
    let denied = until("nothing executes it", || {
        let denied = fs::OpenOptions::new().write(true).open(&again).unwrap_err();
        (denied.raw_os_error() != Some(libc::ETXTBSY)).then_some(denied)
    });
    assert_eq!(denied.raw_os_error(), Some(libc::EROFS), "{denied}");
    let mount = rustix::fs::fstatvfs(&held).unwrap();
    assert!(mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{:?}", mount.f_flag);
}

fn threads() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || receiver.recv());
    assert!(matches!(SingleThread::prove(), Err(runtime::Error::Threads { threads: 2 })));
    drop(sender);
    let _ = other.join();
    // A thread that was joined may still be on its way out.
    let begun = std::time::Instant::now();
    while SingleThread::prove().is_err() {
        assert!(begun.elapsed().as_secs() < 10);
        std::thread::yield_now();
    }
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
