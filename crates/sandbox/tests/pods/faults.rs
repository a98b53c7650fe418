//! Bad input and steps that fail: an error that names the thing, nothing left, and the retry works.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sandbox::{
    ContainerConfig, ContainerPhase, Error, Mount, MountAccess, MountSource, NamespaceMode, PodConfig,
    Profile, Propagation, Reason, Resources, RunAs,
};

use crate::world::{World, shell, until};

/// Makes a good request bad.
type Change<T> = fn(&mut T);

fn text(error: &Error) -> String {
    sandbox::error::chain(error)
}

fn mount(host: &str, container: &str) -> Mount {
    Mount {
        container_path: container.into(),
        source: MountSource::Host(host.into()),
        access: MountAccess::ReadWrite,
        propagation: Propagation::Private,
        selinux_relabel: false,
        id_mapping: None,
        options: vec![],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_fails_leaves_nothing() {
    let world = World::new().await;
    world.net.fail_attach.store(true, Ordering::SeqCst);
    let failed = world.pods().run(world.pod_config("p")).await.unwrap_err();
    assert!(
        matches!(failed, Error::Step { .. }) && text(&failed).contains("ordered by the test"),
        "{failed:?}"
    );
    world.assert_clean().await;
    world.net.fail_attach.store(false, Ordering::SeqCst);
    world.pod("p").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_undone_stays_visible_and_can_be_removed() {
    let world = World::new().await;
    let pods = world.pods();
    world.net.fail_attach.store(true, Ordering::SeqCst);
    world.net.fail_detach.store(true, Ordering::SeqCst);
    let failed = pods.run(world.pod_config("p")).await.unwrap_err();
    assert!(matches!(failed, Error::Undone { .. }), "{failed:?}");
    let left = pods.pods(&Default::default());
    assert_eq!(left.len(), 1);
    assert!(left[0].message.contains("ordered by the test"), "{}", left[0].message);
    assert!(world.processes().is_empty(), "the rest was undone");
    let id = left[0].id.clone();
    pods.stop(id.as_str()).await.expect_err("the network still does not give the address back");
    world.net.fail_detach.store(false, Ordering::SeqCst);
    pods.stop(id.as_str()).await.expect("the retry works");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_broken_does_not_keep_a_pod() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    world.started(&pod, "exec sleep 1000").await;
    world.net.fail_detach.store(true, Ordering::SeqCst);
    pods.stop(pod.as_str()).await.expect_err("the failure is told");
    assert!(world.processes().is_empty(), "everything else is stopped");
    pods.remove(pod.as_str()).await.expect("removal is never blocked by it");
    world.net.attached.lock().unwrap().clear();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pod_is_refused_by_field() {
    let world = World::new().await;
    let cases: [(&str, Change<PodConfig>); 10] = [
        ("runtime_handler", |c| c.runtime_handler = "kata".to_owned()),
        ("hostname", |c| c.hostname = "h".repeat(65)),
        ("linux.security_context.namespace_options.userns_options.uids", |c| {
            c.namespaces.user = Some(Default::default())
        }),
        ("linux.cgroup_parent", |c| c.cgroup_parent = "/a/../b".to_owned()),
        ("linux.cgroup_parent", |c| c.cgroup_parent = "/a\0b".to_owned()),
        ("linux.cgroup_parent", |c| c.cgroup_parent = format!("/{}", "x".repeat(256))),
        ("linux.cgroup_parent", |c| c.cgroup_parent = "/x".repeat(1025)),
        ("dns_config.searches[0]", |c| {
            c.dns = Some(sandbox::DnsConfig { searches: vec!["a b".to_owned()], ..Default::default() });
        }),
        ("linux.sysctls", |c| {
            c.sysctls.insert("kernel.core_pattern".to_owned(), "|/x".to_owned());
        }),
        ("linux.sysctls", |c| {
            c.namespaces.network = NamespaceMode::Node;
            c.sysctls.insert("net.core.somaxconn".to_owned(), "1024".to_owned());
        }),
    ];
    for (field, change) in cases {
        let mut config = world.pod_config("bad");
        change(&mut config);
        let refused = world.pods().run(config).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Refused { field: f, .. } if f.starts_with(field)),
            "{field}: {refused:?}"
        );
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_container_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    let cases: [(&str, Change<ContainerConfig>); 19] = [
        ("linux.resources.cpu_period", |c| c.resources.cpu_period = Some(5)),
        ("linux.resources.cpu_quota", |c| c.resources.cpu_quota = Some(5)),
        ("linux.resources.cpuset_cpus", |c| c.resources.cpuset_cpus = "zero".to_owned()),
        ("linux.resources.cpuset_mems", |c| c.resources.cpuset_mems = "4000".to_owned()),
        ("linux.resources.memory_swap_limit_in_bytes", |c| {
            c.resources = Resources {
                memory_limit: Some(64 << 20),
                memory_swap_limit: Some(32 << 20),
                ..Resources::default()
            };
        }),
        ("linux.resources.unified", |c| {
            c.resources.unified.insert("cgroup.freeze".to_owned(), "1".to_owned());
        }),
        ("linux.security_context.namespace_options.network", |c| {
            c.security.namespaces.network = NamespaceMode::Container;
        }),
        ("linux.security_context.namespace_options.ipc", |c| {
            c.security.namespaces.ipc = NamespaceMode::Target("0123".to_owned());
        }),
        ("log_path", |c| c.log_path = "../../etc/cron.d/x".to_owned()),
        ("mounts[0].host_path", |c| c.mounts = vec![mount("/no/such/source", "/data")]),
        ("mounts[0].container_path", |c| c.mounts = vec![mount("/tmp", "data")]),
        ("image.image", |c| c.security.run_as = RunAs::Image),
        ("linux.security_context.run_as_username", |c| {
            c.security.run_as = RunAs::Username { name: "nobody-here".to_owned(), gid: None };
        }),
        ("linux.security_context.capabilities", |c| c.security.capabilities_add = vec!["FLY".to_owned()]),
        ("linux.security_context.seccomp.localhost_ref", |c| {
            c.security.seccomp = Some(Profile::Localhost("profiles/relative.json".to_owned()));
        }),
        ("linux.security_context.seccomp.localhost_ref", |c| {
            c.security.seccomp = Some(Profile::Localhost("/no/such/profile.json".to_owned()));
        }),
        ("CDI_devices", |c| c.cdi_devices = vec!["vendor.com/gpu=0".to_owned()]),
        ("linux.security_context.privileged", |c| c.security.privileged = true),
        ("command", |c| c.command.clear()),
    ];
    world.images.config.lock().unwrap().user = "nobody-here".to_owned();
    for (field, change) in cases {
        let mut config = shell("main", "true");
        if field != "image.image" {
            config.security.run_as = RunAs::Uid { uid: 0, gid: None };
        }
        change(&mut config);
        let refused = pods.create_container(pod.as_str(), config).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Refused { field: f, .. } if f.starts_with(field)),
            "{field}: {refused:?}"
        );
        assert_eq!(world.images.layers(), 0, "{field}");
    }
    world.images.config.lock().unwrap().user.clear();
    let mut missing = shell("main", "true");
    missing.image.reference = "no-such-image".to_owned();
    let refused = pods.create_container(pod.as_str(), missing).await.unwrap_err();
    assert!(matches!(&refused, Error::NoImage { image } if image == "no-such-image"), "{refused:?}");
    world.images.fail_mount.store(true, Ordering::SeqCst);
    pods.create_container(pod.as_str(), shell("main", "true")).await.expect_err("no mount");
    assert_eq!(world.images.layers(), 0);
    world.images.fail_mount.store(false, Ordering::SeqCst);
    pods.create_container(pod.as_str(), shell("main", "true")).await.expect("the retry works");
    let group = RunAs::new(None, "", Some(5)).unwrap_err();
    assert!(matches!(&group, Error::Refused { field, .. } if field == "linux.security_context.run_as_group"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_run_says_why() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    for (name, command) in
        [("missing", "/no/such/command"), ("plain", "/bin/not-executable"), ("directory", "/tmp")]
    {
        let mut config = shell(name, "");
        config.command = vec![command.to_owned()];
        let id = pods.create_container(pod.as_str(), config).await.unwrap();
        let failed = pods.start_container(id.as_str()).await.unwrap_err();
        assert!(
            matches!(failed, Error::Start { .. }) && text(&failed).contains(command),
            "{}",
            text(&failed)
        );
        let ContainerPhase::Exited(exited) = world.phase(&id) else { panic!("{:?}", world.phase(&id)) };
        assert_eq!((exited.exit_code, exited.reason), (128, Reason::StartError));
        assert!(exited.message.contains("execute") && exited.message.contains(command), "{}", exited.message);
        pods.remove_container(id.as_str()).await.unwrap();
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wishes_that_do_not_fit_the_state_are_refused() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let twice = pods.start_container(id.as_str()).await.unwrap_err();
    assert!(matches!(twice, Error::WrongState { .. }), "{twice:?}");
    let created = pods.create_container(pod.as_str(), shell("two", "true")).await.unwrap();
    let early = pods.exec_sync(created.as_str(), Default::default()).await.unwrap_err();
    assert!(matches!(early, Error::WrongState { .. }), "{early:?}");
    pods.stop(pod.as_str()).await.unwrap();
    let late = pods.create_container(pod.as_str(), shell("three", "true")).await.unwrap_err();
    assert!(matches!(late, Error::WrongState { .. }), "{late:?}");
    let late = pods.start_container(created.as_str()).await.unwrap_err();
    assert!(matches!(late, Error::WrongState { .. }), "{late:?}");
    assert_eq!(world.exit(&id).await.exit_code, 137);
    for unknown in ["0123", &"0".repeat(64)] {
        assert!(matches!(pods.start_container(unknown).await, Err(Error::NotFound { .. })));
        assert!(matches!(pods.create_container(unknown, shell("x", "")).await, Err(Error::NotFound { .. })));
        assert!(matches!(pods.pod(unknown), Err(Error::NotFound { .. })));
        pods.stop_container(unknown, Duration::ZERO).await.expect("what is unknown is stopped");
        pods.remove_container(unknown).await.expect("what is unknown is removed");
        pods.stop(unknown).await.expect("what is unknown is stopped");
        pods.remove(unknown).await.expect("what is unknown is removed");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_hangs_is_passed_over() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let pid = pods.pod(pod.as_str()).unwrap().supervisor.unwrap();
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    pods.stop_container(id.as_str(), Duration::ZERO).await.expect("killed by its cgroup");
    assert_eq!(world.exit(&id).await.exit_code, 137);
    pods.stop(pod.as_str()).await.expect("the supervisor is killed");
    until("the supervisor's end", || {
        let left = world.processes();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_none_leaves_nothing() {
    // One that ends at once, and one that never answers and never joins its cgroup.
    for impostor in ["false", "yes"] {
        let mut world = World::new().await;
        let good = world.supervisor.clone();
        world.kill_daemon();
        let path = world.directory.path().join(impostor);
        std::fs::copy("/bin/busybox", &path).unwrap();
        world.supervisor = path;
        world.open().await;
        let failed = world.pods().run(world.pod_config("p")).await.unwrap_err();
        assert!(text(&failed).contains("supervisor"), "{impostor}: {}", text(&failed));
        world.assert_clean().await;
        world.kill_daemon();
        world.supervisor = good;
        world.open().await;
        world.pod("p").await;
        world.end().await;
    }
}

/// What isn't written down would be taken for half made by the next daemon.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_record_cannot_be_written_is_not_made() {
    let world = World::new().await;
    world.net.hold.store(true, Ordering::SeqCst);
    let making = {
        let (pods, config) = (world.pods(), world.pod_config("p"));
        tokio::spawn(async move { pods.run(config).await })
    };
    until("the network to be reached", || match world.net.attached.lock().unwrap().keys().next() {
        Some(_) => Ok(()),
        None => Err(String::new()),
    })
    .await;
    let pods = std::fs::read_dir(world.directory.path().join("state/pods")).unwrap();
    let record = pods.flatten().next().unwrap().path().join("record.json");
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    world.net.hold.store(false, Ordering::SeqCst);
    world.net.go_on.notify_one();
    let failed = making.await.unwrap().unwrap_err();
    assert!(text(&failed).contains("record.json"), "{}", text(&failed));
    world.assert_clean().await;
    world.pod("p").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_that_cannot_be_made_are_refused_when_created() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    let mut many = shell("many", "true");
    many.mounts = (0..300).map(|at| mount("/tmp", &format!("/volumes/{at}"))).collect();
    let refused = pods.create_container(pod.as_str(), many.clone()).await.unwrap_err();
    let Error::Refused { field, why } = &refused else { panic!("{refused:?}") };
    assert_eq!(field, "mounts");
    let most: usize = why.rsplit(' ').next().unwrap().parse().expect("the number that would do");
    assert_eq!(world.images.layers(), 0);
    many.mounts.truncate(most);
    let id = pods.create_container(pod.as_str(), many).await.expect("as many as it says");
    pods.start_container(id.as_str()).await.expect("they can be carried");
    assert_eq!(world.exit(&id).await.exit_code, 0);

    let private = Private::new(world.directory.path().join("private"));
    for propagation in [Propagation::Bidirectional, Propagation::HostToContainer] {
        let mut config = shell("spread", "true");
        config.mounts = vec![Mount { propagation, ..mount(private.0.to_str().unwrap(), "/data") }];
        let refused = pods.create_container(pod.as_str(), config).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Refused { field, .. } if field == "mounts[0].propagation"),
            "{refused:?}"
        );
    }
    drop(private);
    world.end().await;
}

/// A mount that nothing spreads from or to.
struct Private(std::path::PathBuf);

impl Private {
    fn new(path: std::path::PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        rustix::mount::mount("tmpfs", &path, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        rustix::mount::mount_change(&path, rustix::mount::MountPropagationFlags::PRIVATE).unwrap();
        Self(path)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// A filesystem whose server never answers, as that of a dead network filesystem.
struct Dead {
    path: std::path::PathBuf,
    server: Option<std::fs::File>,
}

impl Dead {
    /// `None` where this host has no FUSE.
    fn new(path: std::path::PathBuf) -> Option<Self> {
        use std::os::fd::AsRawFd;
        let server = std::fs::File::options().read(true).write(true).open("/dev/fuse").ok()?;
        std::fs::create_dir_all(&path).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("dead", &path, "fuse", flags, Some(options.as_c_str())).ok()?;
        Some(Self { path, server: Some(server) })
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // The end of the server is an error for everybody who waits for it.
        self.server = None;
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_mount_source_holds_nobody_else_up() {
    let world = World::new().await;
    let pods = world.pods();
    let Some(dead) = Dead::new(world.directory.path().join("dead")) else {
        eprintln!("skipped: this host has no FUSE");
        return world.end().await;
    };
    let pod = world.pod("p").await;
    let source = dead.path.to_str().unwrap().to_owned();
    let mut config = shell("main", "true");
    config.mounts = vec![mount("/tmp", "/tmp"), mount(&source, "/data")];
    for attempt in 0..40 {
        let begun = std::time::Instant::now();
        let late = pods.create_container(pod.as_str(), config.clone()).await.unwrap_err();
        assert!(matches!(&late, Error::Deadline { subject, .. } if *subject == source), "{late:?}");
        // Only the first one waits for an answer.
        assert!(attempt == 0 || begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    config.mounts.pop();
    let id = pods.create_container(pod.as_str(), config.clone()).await.expect("other sources are looked at");
    pods.start_container(id.as_str()).await.expect("started");
    assert_eq!(world.exit(&id).await.exit_code, 0);
    drop(dead);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_container_goes_with_its_pod() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    world.images.fail_mount.store(true, Ordering::SeqCst);
    world.images.fail_release.store(true, Ordering::SeqCst);
    let failed = pods.create_container(pod.as_str(), shell("main", "true")).await.unwrap_err();
    assert!(matches!(failed, Error::Undone { .. }), "{failed:?}");
    assert_eq!(world.images.layers(), 1);
    pods.remove(pod.as_str()).await.expect_err("it is still there");
    world.images.fail_release.store(false, Ordering::SeqCst);
    pods.remove(pod.as_str()).await.expect("the retry works");
    assert_eq!(world.images.layers(), 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_cannot_be_measured_is_left_out() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    let held = world.started(&pod, "exec sleep 1000").await;
    let other = pods.create_container(pod.as_str(), shell("other", "exec sleep 1000")).await.unwrap();
    pods.start_container(other.as_str()).await.unwrap();
    *world.images.hold_usage.lock().unwrap() = Some(held.clone());
    for _ in 0..3 {
        let found = pods.containers_stats(&Default::default()).await.unwrap();
        let is_held = world.images.hold_usage.lock().unwrap().is_some();
        assert!(is_held, "the answer is there, and the walk isn't");
        let layer =
            |id| found.iter().find(|(status, _)| status.id == id).map(|(_, used)| used.layer.is_some());
        assert_eq!((layer(held.clone()), layer(other.clone())), (Some(false), Some(true)));
    }
    assert_eq!(world.images.held_usages.load(Ordering::SeqCst), 1, "one walk at a time");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_reference_is_refused_by_field() {
    let world = World::new().await;
    let pods = world.pods();
    let pod = world.pod("p").await;
    let mut config = shell("main", "true");
    config.image.reference = "::::".to_owned();
    let refused = pods.create_container(pod.as_str(), config).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { field, .. } if field == "image.image"), "{refused:?}");
    let mut config = shell("main", "true");
    let image = config.image.clone();
    let volume = |reference: &str| {
        let image = sandbox::ImageReference { reference: reference.to_owned(), ..image.clone() };
        let source = MountSource::Image { image, sub_path: String::new() };
        Mount { source, access: MountAccess::ReadOnly, ..mount("/", reference) }
    };
    config.mounts = vec![mount("/tmp", "/tmp"), volume("::::")];
    config.mounts[1].container_path = "/volume".into();
    let refused = pods.create_container(pod.as_str(), config).await.unwrap_err();
    assert!(text(&refused).starts_with("ImageVolumeMountFailed: mounts[1].image.image: "), "{refused:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn less_memory_than_is_used_is_no_state_for_that_limit() {
    let world = World::new().await;
    let pods = world.pods();
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        || std::fs::read_to_string("/proc/swaps").unwrap().lines().count() > 1
    {
        eprintln!("skipped: only without swap and on cgroup v1 does the kernel refuse such a limit");
        return world.end().await;
    }
    let pod = world.pod("p").await;
    let script = "head -c 33554432 /dev/zero >/dev/shm/held; exec sleep 1000";
    let mut config = shell("main", script);
    config.resources.memory_limit = Some(128 << 20);
    let id = pods.create_container(pod.as_str(), config).await.unwrap();
    pods.start_container(id.as_str()).await.unwrap();
    until("the memory to be used", || {
        // The shell's own command line has these words too.
        let holds = world.processes().iter().any(|line| line.ends_with(": sleep 1000 "));
        if holds { Ok(()) } else { Err(format!("{:?}", world.processes())) }
    })
    .await;
    let less = Resources { memory_limit: Some(4 << 20), ..Resources::default() };
    let refused = pods.update_resources(id.as_str(), less).await.unwrap_err();
    assert!(matches!(refused, Error::WrongState { .. }), "{refused:?}");
    assert!(!text(&refused).contains("/sys/"), "{}", text(&refused));
    world.end().await;
}
