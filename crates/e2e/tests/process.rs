//! What a process finds about itself: rights for run and exec, identity, limits, masks of modes, time, children, signals, sysctls.

use e2e::image::{Image, Layer};
use e2e::newest::Newest;
use e2e::pod::{context, linux, resources, security};
use e2e::{Network, Pod};
use proto::runtime::v1 as cri;
use serde_json::json;

/// Numbers of capabilities (linux/capability.h).
const CHOWN: u64 = 1 << 0;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;

/// The sets of a process: inheritable, permitted, effective, bounding, ambient.
fn sets(status: &str) -> [u64; 5] {
    ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    })
}

#[tokio::test]
async fn capabilities_are_those_asked_for_in_every_set_of_run_and_exec() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let all = sets(&std::fs::read_to_string("/proc/self/status").unwrap())[3];
    let default = 0xa804_25fb;
    type Names = &'static [&'static str];
    // Added, dropped, ambient; what all of permitted, effective and bounding are.
    let cases: [(Names, Names, Names, u64); 7] = [
        (&[], &[], &[], default),
        (&["NET_ADMIN"], &["CHOWN"], &[], (default | NET_ADMIN) & !CHOWN),
        (&["ALL"], &[], &[], all),
        (&["ALL"], &["SYS_ADMIN"], &[], all & !SYS_ADMIN),
        (&[], &["ALL"], &[], 0),
        (&["CAP_NET_ADMIN"], &["all"], &[], NET_ADMIN),
        (&[], &["ALL"], &["NET_BIND_SERVICE"], NET_BIND_SERVICE),
    ];
    for (at, (add, drop, ambient, expected)) in cases.into_iter().enumerate() {
        let words = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<String>>();
        let id = pod
            .waiting(&format!("case-{at}"), |wanted| {
                security(wanted).capabilities = Some(cri::Capability {
                    add_capabilities: words(add),
                    drop_capabilities: words(drop),
                    add_ambient_capabilities: words(ambient),
                });
            })
            .await;
        // Nothing is inheritable (CVE-2022-24769) but what is ambient, which has to be.
        let raised = if ambient.is_empty() { 0 } else { expected };
        let expected = [raised, expected, expected, expected, raised];
        for who in ["1", "self"] {
            let found = sets(&pod.exec(&id, &format!("cat /proc/{who}/status")).await);
            assert_eq!(found, expected, "case {at}, process {who}: {found:x?} is not {expected:x?}");
        }
        pod.client.stop(&id, 0).await.unwrap();
    }
}

#[tokio::test]
async fn an_ordinary_user_has_no_capability_but_the_ambient_ones() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let of_user = |ambient: &[&str]| {
        let add_ambient_capabilities = ambient.iter().map(ToString::to_string).collect();
        move |wanted: &mut cri::ContainerConfig| {
            let context = security(wanted);
            context.run_as_user = Some(cri::Int64Value { value: 1000 });
            context.no_new_privs = true;
            context.capabilities = Some(cri::Capability { add_ambient_capabilities, ..Default::default() });
        }
    };
    for (name, ambient, raised) in
        [("plain", &[][..], 0), ("raised", &["NET_BIND_SERVICE"][..], NET_BIND_SERVICE)]
    {
        let id = pod.waiting(name, of_user(ambient)).await;
        for who in ["1", "self"] {
            let status = pod.exec(&id, &format!("cat /proc/{who}/status")).await;
            let [inheritable, permitted, effective, bounding, in_ambient] = sets(&status);
            assert_eq!([inheritable, permitted, effective, in_ambient], [raised; 4], "{name}, process {who}");
            assert_eq!(bounding & (CHOWN | SYS_ADMIN), CHOWN, "what a setuid program could still be given");
            assert!(status.contains("NoNewPrivs:\t1"), "{name}, process {who}: {status}");
        }
        pod.client.stop(&id, 0).await.unwrap();
    }
}

#[tokio::test]
async fn the_status_says_who_the_process_is() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let shown = |status: cri::ContainerStatus| {
        let user = status.user.unwrap().linux.unwrap();
        (user.uid, user.gid, user.supplemental_groups)
    };
    let number = |value| Some(cri::Int64Value { value });
    // The image has `www` as user 33 in the group 33, and in `extra`, 50.
    for (policy, groups) in [(0, vec![33, 50, 77]), (1, vec![33, 77])] {
        let id = pod
            .waiting(&format!("www-{policy}"), |wanted| {
                let context = security(wanted);
                context.run_as_username = "www".into();
                context.supplemental_groups = vec![77];
                context.supplemental_groups_policy = policy;
            })
            .await;
        assert_eq!(shown(pod.container(&id).await.0), (33, 33, groups.clone()), "policy {policy}");
        let words: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let mut inside: Vec<String> =
            pod.exec(&id, "id -G").await.split_whitespace().map(str::to_owned).collect();
        inside.sort_by_key(|group| group.parse::<i64>().unwrap());
        assert_eq!(inside, words, "policy {policy}: an exec is who the container is");
    }
    let id = pod
        .waiting("number", |wanted| {
            let context = security(wanted);
            context.run_as_user = number(1234);
            context.run_as_group = number(5678);
        })
        .await;
    assert_eq!(shown(pod.container(&id).await.0), (1234, 5678, vec![5678]));
    let features = Newest::of(&pod.client).status().await.unwrap().features.unwrap();
    assert!(features.supplemental_groups_policy, "the node says so");
}

/// What an image calls /etc/passwd is a stranger's, and not waited for. (One without end: the tests of `runtime::identity`.)
#[tokio::test]
async fn databases_of_users_that_are_no_files_hold_nobody_up() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let layers = [
        ("device", Layer::new().symlink("etc/passwd", "/dev/zero")),
        ("loop", Layer::new().symlink("etc/passwd", "passwd")),
        ("directory", Layer::new().directory("etc/passwd/deeper", 0o755)),
        ("pipe", Layer::new().fifo("etc/passwd")),
    ];
    for (name, layer) in layers {
        let image = format!("passwd-{name}:1");
        // Nothing of it is ever executed.
        Image::new(json!({})).layer(layer).push(pod.node.registry.address(), &image).await;
        let image = pod.node.registry.image(&image);
        pod.client.pull(&image).await.unwrap();
        let mut wanted = pod.script(name, "true");
        wanted.image = Some(cri::ImageSpec { image, ..Default::default() });
        security(&mut wanted).run_as_username = "www".into();
        let begun = std::time::Instant::now();
        let refused = pod.create(wanted).await.expect_err(name);
        assert!(begun.elapsed() < e2e::node::PATIENCE, "{name} took {:?}", begun.elapsed());
        assert!(
            refused.message().contains("passwd") || refused.message().contains("www"),
            "{name}: {refused}"
        );
    }
}

#[tokio::test]
async fn modes_time_and_limits_are_as_images_expect_them() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let image = e2e::image::busybox().layer(Layer::new().file("etc/localtime", 0o644, b"TZif-of-the-image"));
    image.push(pod.node.registry.address(), "zoned:1").await;
    let image = pod.node.registry.image("zoned:1");
    pod.client.pull(&image).await.unwrap();
    let id = pod
        .waiting("main", |wanted| {
            wanted.image = Some(cri::ImageSpec { image, ..Default::default() });
            wanted.envs = vec![cri::KeyValue { key: "TZ".into(), value: b"UTC-3".to_vec() }];
        })
        .await;
    let log = pod.prints("umask; touch /made; stat -c %a /made; ulimit -n; ulimit -c", |_| {}).await;
    let [umask, mode, files, core] = log.lines().collect::<Vec<_>>()[..] else { panic!("{log}") };
    assert_eq!((umask, mode), ("0022", "644"));
    assert_eq!(pod.exec(&id, "umask").await, "0022", "of an exec, too");
    assert_eq!(pod.exec(&id, "cat /etc/localtime").await, "TZif-of-the-image", "of the image, untouched");
    assert_eq!(pod.exec(&id, "date +%z").await, "+0300", "what the request says");
    // What the daemon was started with, and not what it has raised its own to.
    let own = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(files, own.0.to_string(), "open files");
    let own = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap();
    assert!(
        core == own.0.to_string() || (own.0 == nix::libc::RLIM_INFINITY && core == "unlimited"),
        "{core}"
    );
    assert_eq!(pod.exec(&id, "ulimit -n").await, files);
    let own = pod.client.exec(&id, &["cat", "/proc/self/status"], 10).await.unwrap().stdout;
    for name in ["SigBlk:", "SigIgn:"] {
        let line = own.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some("0000000000000000"), "{line}");
    }
}

/// In a namespace of its own the container's first process is init: the kernel gives it orphans, and what it doesn't reap goes with it.
#[tokio::test]
async fn processes_that_are_left_behind_go_with_the_container() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let id = pod
        .waiting("parent", |wanted| {
            wanted.command = ["sh", "-c", "trap : USR1; while :; do sleep 1000 & wait $!; done"]
                .map(str::to_owned)
                .to_vec()
        })
        .await;
    pod.exec(&id, "(sleep 2000 &) ; (sleep 0 &)").await;
    assert_eq!(
        pod.exec(&id, "ps -o ppid,args | grep -c '^ *1 sleep 2000'").await,
        "1",
        "an orphan is init's"
    );
    // The shell reaps what it is given.
    e2e::until(e2e::node::PATIENCE, "no zombie", || async {
        let states = pod.exec(&id, "cat /proc/[0-9]*/stat | cut -d' ' -f3 | sort -u | xargs").await;
        if states.contains('Z') { Err(states) } else { Ok(()) }
    })
    .await;
    pod.client.stop(&id, 0).await.unwrap();
    let left = pod.node.traces().processes();
    assert!(!left.iter().any(|(_, command)| command.contains("sleep 2000")), "{left:?}");
}

#[tokio::test]
async fn the_stop_signal_is_the_requests_or_the_images_and_shown() {
    let pod = Pod::new(Network::None, |_| {}).await;
    e2e::image::busybox()
        .configured(json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"], "StopSignal": "SIGUSR2" }))
        .push(pod.node.registry.address(), "signalled:1")
        .await;
    let image = pod.node.registry.image("signalled:1");
    pod.client.pull(&image).await.unwrap();
    let script = "trap 'exit 10' USR1; trap 'exit 12' USR2; trap 'exit 15' TERM; touch /ready; while :; do sleep 0.05; done";
    let of_image = |wanted: &mut cri::ContainerConfig| {
        wanted.image = Some(cri::ImageSpec { image: image.clone(), ..Default::default() });
    };
    let cases: [(cri::Signal, bool, i32); 3] = [
        (cri::Signal::RuntimeDefault, false, 15),
        (cri::Signal::RuntimeDefault, true, 12),
        (cri::Signal::Sigusr1, true, 10),
    ];
    for (at, (signal, from_image, code)) in cases.into_iter().enumerate() {
        let id = pod
            .waiting(&format!("case-{at}"), |wanted| {
                wanted.command = ["sh", "-c", script].map(str::to_owned).to_vec();
                wanted.stop_signal = signal as i32;
                if from_image {
                    of_image(wanted);
                }
            })
            .await;
        let shown = match code {
            15 => cri::Signal::Sigterm,
            12 => cri::Signal::Sigusr2,
            _ => cri::Signal::Sigusr1,
        };
        assert_eq!(pod.container(&id).await.0.stop_signal, shown as i32, "case {at}");
        // Not before the shell has set its traps.
        pod.exec(&id, "until test -e /ready; do sleep 0.05; done").await;
        pod.client.stop(&id, 20).await.unwrap();
        assert_eq!(pod.client.container(&id).await.unwrap().exit_code, code, "case {at}");
    }
}

#[tokio::test]
async fn sysctls_are_written_verbatim_and_only_where_the_pod_is_alone() {
    let set = |pairs: &[(&str, &str)]| {
        let pairs: std::collections::HashMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        move |sandbox: &mut cri::PodSandboxConfig| linux(sandbox).sysctls = pairs
    };
    let pod = Pod::new(
        Network::BuiltIn,
        set(&[
            // Of the safe ones of Kubernetes, one with a blank in its value; and an unsafe one of each namespace.
            ("net.ipv4.ping_group_range", "0 2147483647"),
            ("net.ipv4.ip_unprivileged_port_start", "80"),
            ("kernel.shm_rmid_forced", "1"),
            ("net.core.somaxconn", "4321"),
            ("kernel.msgmax", "65530"),
            ("fs.mqueue.msg_max", "17"),
            // Slashes first: dots are part of names.
            ("net/ipv4/conf/lo/log_martians", "1"),
        ]),
    )
    .await;
    let files = "cd /proc/sys; cat net/ipv4/ping_group_range net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced \
                 net/core/somaxconn kernel/msgmax fs/mqueue/msg_max net/ipv4/conf/lo/log_martians | xargs";
    assert_eq!(pod.prints(files, |_| {}).await, "0 2147483647 80 1 4321 65530 17 1");
    for (name, value) in [
        ("kernel.core_pattern", "|/bin/sh"),
        ("vm.overcommit_memory", "1"),
        ("kernel.hostname", "x"),
        ("net/../kernel/core_pattern", "x"),
        ("net.core.somaxconn", "1\n2"),
        // What only the kernel knows to be wrong.
        ("net.core.somaxconn", "many"),
        ("net.ipv4.tcp_knarr", "1"),
        ("", "1"),
    ] {
        let refused = pod.another(set(&[(name, value)])).await.expect_err(name);
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{name}: {refused}");
        assert!(refused.message().starts_with("linux.sysctls["), "{name}: {refused}");
    }
    // On namespaces of the host, those of the host would be set.
    let node = cri::NamespaceMode::Node as i32;
    for (name, network, ipc) in
        [("net.core.somaxconn", node, 0), ("kernel.msgmax", 0, node), ("fs.mqueue.msg_max", 0, node)]
    {
        let before = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let refused = pod
            .another(|sandbox| {
                set(&[(name, "77")])(sandbox);
                let options = context(sandbox).namespace_options.get_or_insert_default();
                (options.network, options.ipc) = (network, ipc);
            })
            .await
            .expect_err(name);
        assert!(refused.message().contains("would be set on the host"), "{name}: {refused}");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(), before);
    }
    // One of the right namespace that the kernel doesn't have.
    let unknown = pod.another(set(&[("net.core.no_such_thing", "1")])).await.expect_err("unknown");
    assert!(unknown.message().contains("no_such_thing"), "{unknown}");
    assert_eq!(pod.client.pods().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_child_that_is_killed_for_memory_is_told_of_when_the_container_ends() {
    let pod = Pod::new(Network::None, |_| {}).await;
    let script =
        "sh -c 'dd if=/dev/zero of=/dev/null bs=100M count=1' >/dev/null 2>&1; touch /survived; exit 3";
    let mut wanted = pod.script("hungry", script);
    resources(&mut wanted).memory_limit_in_bytes = 16 << 20;
    let id = pod.create(wanted).await.unwrap();
    pod.client.start(&id).await.unwrap();
    let status = pod.client.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "OOMKilled"), "{status:?}");
}

#[tokio::test]
async fn a_privileged_container_has_what_the_node_has() {
    let pod = Pod::new(Network::None, |sandbox| context(sandbox).privileged = true).await;
    let id = pod
        .waiting("main", |wanted| {
            let context = security(wanted);
            context.privileged = true;
            // Without a meaning here.
            context.masked_paths = vec!["/proc/keys".into()];
            context.readonly_paths = vec!["/proc/sys".into()];
            context.seccomp = Some(cri::SecurityProfile { profile_type: 0, localhost_ref: String::new() });
        })
        .await;
    let mounts = pod.exec(&id, "cat /proc/mounts").await;
    for path in ["/sys", "/proc"] {
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(path)).unwrap();
        assert!(line.split(' ').nth(3).unwrap().starts_with("rw"), "{line}");
    }
    assert!(!mounts.contains("/proc/keys") && !mounts.contains("/proc/sys"), "{mounts}");
    let cgroups: Vec<&str> = mounts
        .lines()
        .filter(|line| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup")))
        .collect();
    assert!(
        !cgroups.is_empty() && cgroups.iter().all(|line| line.split(' ').nth(3).unwrap().starts_with("rw")),
        "{cgroups:?}"
    );
    let status = pod.exec(&id, "cat /proc/1/status").await;
    let all = sets(&std::fs::read_to_string("/proc/self/status").unwrap())[3];
    assert_eq!(sets(&status), [0, all, all, all, 0]);
    assert!(status.contains("Seccomp:\t0"), "{status}");
    for device in ["/dev/kmsg", "/dev/loop-control", "/dev/fuse"] {
        let there = std::path::Path::new(device).exists();
        let inside = pod.client.exec(&id, &["test", "-c", device], 10).await.unwrap().exit_code == 0;
        assert_eq!(inside, there, "{device}");
    }
}
