//! Pods with a user namespace: root inside is nobody on the host.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use runtime::plan::{
    IdMapping, IdMappings, NamespacePlan, NamespaceSource, Plan, PlanInput, PodNamespace, PodPlan, plan,
    process as plan_process,
};
use runtime::spec::oci;
use runtime::{FailedStep, FailureKind, mount};
use rustix::process::{Signal, pidfd_send_signal};

use crate::Test;
use crate::rig::{
    Rig, add_mount, edit_process, handshake, line, namespaces, pod_plan, process, shell,
    times_a_bare_process, wait,
};

pub const TESTS: &[Test] = &[
    ("users_root_inside_is_nobody_outside", identity),
    ("users_namespaces_belong_to_the_pods", owned),
    ("users_filesystems_and_devices_are_there", filesystems),
    ("users_files_belong_to_the_right_ones_on_both_sides", files),
    ("users_volumes_without_mappings_stay_the_hosts", unmapped_volume),
    ("users_paths_that_they_cannot_look_at_fail_the_start", hidden_paths),
    ("users_mounts_below_a_volume_are_mapped_or_stay_the_hosts", below),
    ("users_of_a_mount_can_be_mapped_without_a_user_namespace", mount_alone),
    ("users_join_a_running_container", joining),
    ("users_have_terminals", terminal),
    ("users_share_a_pid_namespace", shared_pid),
    ("users_settings_of_the_pods_namespaces_are_set", settings),
    ("users_on_the_hosts_network", host_network),
    ("users_who_are_not_mapped_are_refused", unmapped_user),
    ("users_a_filesystem_that_cannot_map_is_named", cannot_map),
    ("users_a_start_that_fails_leaves_nothing", failing),
    ("users_bad_mappings_make_no_pod", bad_mappings),
    ("users_starting_fits_its_budget", budget),
];

const OUTSIDE: u32 = 200_000;

fn ids() -> IdMappings {
    let mappings = vec![IdMapping { inside: 0, outside: OUTSIDE, length: 65_536 }];
    IdMappings { uids: mappings.clone(), gids: mappings }
}

fn pod() -> PodPlan {
    PodPlan { user: Some(ids()), ..pod_plan() }
}

fn inside() -> NamespacePlan {
    NamespacePlan { user: NamespaceSource::Pod, ..namespaces() }
}

fn planned(spec: &oci::Spec) -> Plan {
    plan(&PlanInput { spec, namespaces: inside(), seccomp: None }).unwrap()
}

fn add_mapped(spec: &mut oci::Spec, source: &Path, destination: &str, outside: u32) {
    add_mount(spec, source, destination, &["rbind"]);
    let mut mounts = spec.mounts().clone().unwrap();
    let mapping = oci::LinuxIdMappingBuilder::default().container_id(0u32).host_id(outside).size(65_536u32);
    let mappings = Some(vec![mapping.build().unwrap()]);
    mounts.last_mut().unwrap().set_uid_mappings(mappings.clone()).set_gid_mappings(mappings);
    spec.set_mounts(Some(mounts));
}

fn running(rig: &Rig) -> (runtime::container::Launched, File) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut launched = rig.start(&planned(&shell("echo up; exec sleep 1000")), &write).unwrap();
    drop(write);
    handshake(&mut launched.handshake).1.unwrap();
    let mut output = File::from(read);
    assert_eq!(line(&mut output), "up");
    (launched, output)
}

fn stop(launched: &runtime::container::Launched) {
    pidfd_send_signal(&launched.pidfd, Signal::KILL).unwrap();
    wait(&launched.pidfd);
}

fn status(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = status.lines().find_map(|line| line.strip_prefix(field)).unwrap().to_owned();
    found.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn identity() {
    let rig = Rig::with_pod(&pod());
    let outcome = rig
        .run_planned(&planned(&shell("id -u; id -g; cat /proc/self/uid_map /proc/self/setgroups; echo $$")));
    let words: Vec<Vec<&str>> = outcome.lines().iter().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words, [vec!["0"], vec!["0"], vec!["0", "200000", "65536"], vec!["allow"], vec!["1"]]);
    let (container, _output) = running(&rig);
    assert_eq!(status(container.pid, "Uid:"), "200000 200000 200000 200000");
    assert_eq!(status(container.pid, "Gid:"), "200000 200000 200000 200000");
    assert_eq!(status(container.pid, "Groups:"), "");
    assert_eq!(status(container.pid, "PPid:"), std::process::id().to_string());
    assert!(rig.cgroup.procs().unwrap().contains(&container.pid), "in its cgroup");
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    assert_ne!(fs::read_link(format!("/proc/{}/ns/user", container.pid)).unwrap(), own);
    stop(&container);
    let mut user = shell("id -u; id -g; id -G; touch /data/x 2>/dev/null || echo refused");
    edit_process(&mut user, |process| {
        let user = oci::UserBuilder::default().uid(33u32).gid(34u32).additional_gids(vec![50u32]);
        process.set_user(user.build().unwrap());
    });
    assert_eq!(rig.run_planned(&planned(&user)).lines(), ["33", "34", "34 50", "refused"]);
}

/// Namespaces that the pod's root has no power over would be the host's.
fn owned() {
    let rig = Rig::with_pod(&pod());
    let mut spec = shell(
        "hostname changed && hostname; mount -t tmpfs x /tmp && echo mounted; echo 5 > /proc/sys/net/ipv4/ip_default_ttl; cat /proc/sys/net/ipv4/ip_default_ttl; ls /sys/class/net",
    );
    with_system_rights(&mut spec);
    let linux = spec.linux().clone().map(|mut linux| {
        linux.set_readonly_paths(None);
        linux
    });
    spec.set_linux(linux);
    assert_eq!(rig.run_planned(&planned(&spec)).lines(), ["changed", "mounted", "5", "lo"]);
    assert_ne!(rustix::system::uname().nodename().to_bytes(), b"changed");
}

fn with_system_rights(spec: &mut oci::Spec) {
    edit_process(spec, |process| {
        let mut sets = process.capabilities().clone().unwrap();
        let wanted = [oci::Capability::SysAdmin, oci::Capability::NetAdmin, oci::Capability::DacOverride];
        let all: oci::Capabilities = wanted.into_iter().collect();
        sets.set_bounding(Some(all.clone())).set_permitted(Some(all.clone())).set_effective(Some(all));
        process.set_capabilities(Some(sets));
    });
}

fn filesystems() {
    let rig = Rig::with_pod(&pod());
    let script = "
        echo $(stat -f -c %T /proc /sys /dev/shm /dev/mqueue /dev/pts)
        echo $(stat -c '%u %t:%T %a' /dev/null /dev/tty)
        echo x > /dev/null && echo written
        echo $(stat -c %u / /etc /dev /dev/shm /dev/pts/ptmx /proc/1)
        echo $(ls -A /sys/firmware | wc -l) $(cat /proc/keys | wc -c)
        (echo 1 > /proc/sys/kernel/shmmax) 2>/dev/null || echo read-only
        mkdir /sys/fs/cgroup/x 2>/dev/null || echo read-only
        cat /proc/self/cgroup | wc -l
        touch /dev/made /dev/shm/made && echo made
        mknod /tmp/null c 1 3 2>/dev/null || echo no nodes
    ";
    std::os::unix::fs::symlink("busybox", rig.image().join("bin/mknod")).unwrap();
    let outcome = rig.run_planned(&planned(&shell(script)));
    let lines = outcome.lines();
    assert_eq!(lines[0], "proc sysfs tmpfs UNKNOWN devpts", "{lines:?}");
    assert_eq!(lines[1..3], ["0 1:3 666 0 5:0 666", "written"], "{lines:?}");
    assert_eq!(lines[3], "0 0 0 0 0 0", "{lines:?}");
    assert_eq!(lines[4..7], ["0 0", "read-only", "read-only"], "{lines:?}");
    assert_eq!(lines[8..], ["made", "no nodes"], "{lines:?}");
}

fn files() {
    let rig = Rig::with_pod(&pod());
    let volume = rig.outside("volume");
    for (name, owner) in [("roots", 0), ("users", 1000)] {
        fs::write(volume.join(name), name).unwrap();
        chown(volume.join(name), Some(owner), Some(owner)).unwrap();
    }
    let script = "
        stat -c '%u %g' / /bin/busybox /volume/roots /volume/users
        echo x > /new; echo x > /volume/new; chown 1000:1000 /volume/new; echo more >> /etc/passwd
        stat -c '%u %g' /new /volume/new /etc/passwd
    ";
    std::os::unix::fs::symlink("busybox", rig.image().join("bin/chown")).unwrap();
    let mut spec = shell(script);
    add_mapped(&mut spec, &volume, "/volume", OUTSIDE);
    let outcome = rig.run_planned(&planned(&spec));
    assert_eq!(
        outcome.lines(),
        ["0 0", "0 0", "0 0", "1000 1000", "0 0", "1000 1000", "0 0"],
        "seen from inside: {outcome:?}"
    );
    let owner = |path: &Path| fs::metadata(path).map(|meta| (meta.uid(), meta.gid())).unwrap();
    let upper = rig.image().with_file_name("upper");
    assert_eq!(owner(&volume.join("new")), (1000, 1000), "seen from outside");
    assert_eq!(owner(&volume.join("roots")), (0, 0), "nothing was changed on disk");
    let written = [owner(&upper.join("new")), owner(&upper.join("etc/passwd"))];
    assert_eq!(written, [(OUTSIDE, OUTSIDE); 2], "on the container's own layer nothing is the host's root's");
    assert_eq!(owner(&rig.image().join("etc/passwd")), (0, 0));
}

fn unmapped_volume() {
    let rig = Rig::with_pod(&pod());
    let volume = rig.outside("volume");
    let mut spec = shell("stat -c '%u %g' /volume; touch /volume/x 2>/dev/null || echo refused");
    add_mount(&mut spec, &volume, "/volume", &["rbind"]);
    assert_eq!(rig.run_planned(&planned(&spec)).lines(), ["65534 65534", "refused"]);
}

/// What cannot be looked at could be written by others all the same: a path on such a volume is not left as it is.
fn hidden_paths() {
    let rig = Rig::with_pod(&pod());
    let volume = rig.outside("volume");
    fs::create_dir_all(volume.join("private/path")).unwrap();
    fs::set_permissions(volume.join("private"), fs::Permissions::from_mode(0o700)).unwrap();
    let paths = Some(vec!["/volume/private/path".to_owned()]);
    for step in [FailedStep::MaskPath, FailedStep::ReadonlyPath] {
        let mut spec = shell("true");
        add_mount(&mut spec, &volume, "/volume", &["rbind"]);
        let mut linux = spec.linux().clone().unwrap();
        match step {
            FailedStep::MaskPath => linux.set_masked_paths(paths.clone()),
            _ => linux.set_readonly_paths(paths.clone()),
        };
        spec.set_linux(Some(linux));
        let failure = rig.run_planned(&planned(&spec)).failed().clone();
        assert_eq!((failure.step, failure.kind), (step, FailureKind::NotPermitted), "{failure:?}");
    }
}

fn below() {
    let rig = Rig::with_pod(&pod());
    let (volume, other) = (rig.outside("volume"), rig.outside("other"));
    let sub = volume.join("sub");
    fs::create_dir(&sub).unwrap();
    let mut spec = shell("stat -c %u /volume /volume/sub");
    add_mapped(&mut spec, &volume, "/volume", OUTSIDE);
    for (source, owner) in [(other.as_path(), "0"), (Path::new("/sys/kernel"), "65534")] {
        rustix::mount::mount_bind(source, &sub).unwrap();
        let outcome = rig.run_planned(&planned(&spec));
        rustix::mount::unmount(&sub, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(outcome.lines(), ["0", owner], "{source:?}");
    }
}

fn mount_alone() {
    let rig = Rig::new();
    let volume = rig.outside("volume");
    let mut spec = shell("stat -c '%u %g' /volume");
    add_mapped(&mut spec, &volume, "/volume", 7000);
    assert_eq!(rig.run(&spec).lines(), ["7000 7000"]);
    assert_eq!(fs::metadata(&volume).unwrap().uid(), 0);
}

fn joining() {
    let rig = Rig::with_pod(&pod());
    let (container, _output) = running(&rig);
    let script = "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; for n in mnt net pid cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done; touch /joined; stat -c %u /joined; echo > /dev/stdout; cat /proc/self/status";
    let outcome = rig.exec(&container, &plan_process(&process(&["sh", "-c", script]), None).unwrap());
    let lines = outcome.lines();
    assert_eq!(lines[0], "0");
    assert!(lines[1..11].chunks(2).all(|pair| pair[0] == pair[1]), "{lines:?}");
    assert_eq!(lines[11..13], ["0", ""], "{lines:?}");
    assert!(lines.contains(&"CapBnd:\t00000000a80425fb"), "{lines:?}");
    let mut user = process(&["sh", "-c", "id -u; echo again > /dev/stdout"]);
    user.set_user(oci::UserBuilder::default().uid(33u32).gid(33u32).build().unwrap());
    let outcome = rig.exec(&container, &plan_process(&user, None).unwrap());
    assert_eq!(outcome.lines(), ["33", "again"], "its streams are the user's");
    stop(&container);
    let upper = rig.image().with_file_name("upper");
    assert_eq!(fs::metadata(upper.join("joined")).unwrap().uid(), OUTSIDE);
}

fn terminal() {
    let rig = Rig::with_pod(&pod());
    let mut spec = shell("tty; stat -c '%u' /dev/console; echo word > /dev/console");
    edit_process(&mut spec, |process| {
        process.set_terminal(Some(true));
        process.set_user(oci::UserBuilder::default().uid(33u32).gid(33u32).build().unwrap());
    });
    let null = File::open("/dev/null").unwrap().into();
    let mut launched = rig.start(&planned(&spec), &null).unwrap();
    let (master, result) = handshake(&mut launched.handshake);
    result.unwrap();
    let mut master = File::from(master.unwrap());
    assert_eq!([line(&mut master), line(&mut master), line(&mut master)], ["/dev/pts/0", "33", "word"]);
    assert_eq!(wait(&launched.pidfd), (0, 0));
}

fn shared_pid() {
    let rig = Rig::with_pod(&PodPlan { pid: PodNamespace::Own, ..pod() });
    let init = rig.pod.pid.as_ref().unwrap().init;
    assert_eq!(status(init, "Uid:"), "200000 200000 200000 200000");
    assert_eq!(status(init, "CapEff:"), "0000000000000000");
    let shared = NamespacePlan { pid: NamespaceSource::Pod, ..inside() };
    let spec =
        shell("cat /proc/1/comm; test $$ -gt 1 && echo second; stat -c %u /proc/1/comm; kill 1; echo there");
    let plan = plan(&PlanInput { spec: &spec, namespaces: shared, seccomp: None }).unwrap();
    for _ in 0..2 {
        let outcome = rig.run_planned(&plan);
        // It is not dumpable, so that its files in procfs are those of the host's root.
        assert_eq!(outcome.lines(), ["knarr-pod", "second", "65534", "there"], "{outcome:?}");
    }
}

fn settings() {
    let sysctls = [
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "81".to_owned()),
        ("kernel.shmmax".to_owned(), "4096".to_owned()),
    ];
    let rig = Rig::with_pod(&PodPlan { sysctls: sysctls.into(), ..pod() });
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax /sys/class/net/lo/carrier; hostname; echo x > /dev/shm/x; stat -c %u /dev/shm/x";
    assert_eq!(rig.run_planned(&planned(&shell(script))).lines(), ["81", "4096", "1", "boat", "0"]);
    assert_eq!(rig.run_planned(&planned(&shell("cat /dev/shm/x"))).lines(), ["x"]);
}

fn host_network() {
    let on_host = PodPlan {
        network: PodNamespace::Host,
        uts: PodNamespace::Host,
        hostname: None,
        sysctls: [].into(),
        ..pod()
    };
    let rig = Rig::with_pod(&on_host);
    let mut spec = shell(
        "readlink /proc/self/ns/net; ls /sys/class/net | grep -x lo; touch /sys/x 2>/dev/null || echo read-only; mkdir /sys/fs/cgroup/x 2>/dev/null || echo read-only",
    );
    std::os::unix::fs::symlink("busybox", rig.image().join("bin/grep")).unwrap();
    let mut mounts = spec.mounts().clone().unwrap();
    let sys = mounts.iter_mut().find(|mount| mount.destination() == Path::new("/sys")).unwrap();
    sys.set_typ(Some("bind".to_owned()))
        .set_source(Some("/sys".into()))
        .set_options(Some(["bind", "ro", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec()));
    spec.set_mounts(Some(mounts));
    let namespaces = NamespacePlan { network: NamespaceSource::Host, uts: NamespaceSource::Host, ..inside() };
    let plan = plan(&PlanInput { spec: &spec, namespaces, seccomp: None }).unwrap();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(rig.run_planned(&plan).lines(), [own.to_str().unwrap(), "lo", "read-only", "read-only"]);
}

fn unmapped_user() {
    let rig = Rig::with_pod(&pod());
    let mut spec = shell("true");
    edit_process(&mut spec, |process| {
        process.set_user(oci::UserBuilder::default().uid(70_000u32).gid(0u32).build().unwrap());
    });
    let outcome = rig.run_planned(&planned(&spec));
    let failure = outcome.failed();
    assert_eq!(failure.step, FailedStep::User, "{failure}");
    assert!(failure.subject.contains("70000"), "{failure}");
}

fn cannot_map() {
    let rig = Rig::with_pod(&pod());
    let mut spec = shell("true");
    add_mapped(&mut spec, Path::new("/sys/kernel"), "/volume", OUTSIDE);
    let outcome = rig.run_planned(&planned(&spec));
    let failure = outcome.failed();
    assert_eq!((failure.step, failure.subject.as_str()), (FailedStep::MapIds, "/sys/kernel"), "{failure}");
    let attached = File::open("/").unwrap();
    let user = rig.pod.user.as_ref().unwrap();
    assert!(mount::map_ids(attached.as_fd(), user.namespace.as_fd()).is_err());
}

fn failing() {
    let rig = Rig::with_pod(&pod());
    let outcome = rig.run_planned(&planned(&crate::rig::spec(&["missing"])));
    assert_eq!((outcome.failed().step, outcome.failed().kind), (FailedStep::Exec, FailureKind::NotFound));
    let plan = Plan {
        namespaces: NamespacePlan { pid: NamespaceSource::Pod, ..inside() },
        ..planned(&shell("true"))
    };
    let outcome = rig.run_planned(&plan);
    assert_eq!(outcome.failed().kind, FailureKind::NotFound, "the pod has no pid namespace: {outcome:?}");
    let other = Rig::new();
    let outcome = other.run_planned(&planned(&shell("true")));
    assert_eq!(outcome.failed().kind, FailureKind::NotFound, "the pod has no user namespace: {outcome:?}");
}

/// The same fence as for other containers: a second clone costs next to nothing.
fn budget() {
    let rig = Rig::with_pod(&pod());
    let plan = planned(&crate::rig::spec(&["/bin/busybox", "true"]));
    let ratio = times_a_bare_process(|| {
        let (_read, write) = rustix::pipe::pipe().unwrap();
        let mut launched = rig.start(&plan, &write).unwrap();
        handshake(&mut launched.handshake).1.unwrap();
        wait(&launched.pidfd);
    });
    assert!(ratio < 12.0, "{ratio} times a bare process");
}

fn bad_mappings() {
    let mut ids = ids();
    ids.gids[0].length = 0;
    let plan = PodPlan { user: Some(ids), ..pod_plan() };
    let proof = runtime::thread::SingleThread::prove().unwrap();
    let refused = runtime::namespaces::create_pod(&proof, &plan, None).unwrap_err();
    assert_eq!(refused.subject, "linux.gidMappings[0]: maps no number", "{refused:?}");
}
