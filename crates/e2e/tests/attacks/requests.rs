//! Requests that are too long, and paths that lead elsewhere: CVE-2021-43784 (lengths), 2021-21334 (variables), 2025-0750 (logs), 2022-0811 and 2022-0532
//! (kernel parameters).

use std::os::unix::fs::symlink;

use e2e::cri::{ContainerConfig, KeyValue, PodSandboxConfig};
use e2e::{Network, config};
use tonic::Code;

use crate::rig::{Host, Rig, mount};

/// More than any length of 16 bits holds.
fn long() -> String {
    "x".repeat(70_000)
}

/// Each of them is refused, or does what it says; none is cut, and nobody falls over it.
#[tokio::test]
async fn nothing_is_so_long_that_it_means_something_else() {
    let rig = Rig::new().await;
    let neighbour = rig.running(rig.node.busybox("neighbour", &["sleep", "1000"])).await;
    let shared = rig.node.path("shared");
    std::fs::create_dir_all(&shared).unwrap();
    type Change = Box<dyn Fn(&mut ContainerConfig)>;
    let many = shared.clone();
    let changes: [(&str, Change); 10] = [
        ("working_dir", Box::new(|c| c.working_dir = format!("/{}", long()))),
        ("log_path", Box::new(|c| c.log_path = long())),
        ("command", Box::new(|c| c.command = vec![long()])),
        ("run_as_username", Box::new(|c| config::security(c).run_as_username = long())),
        ("masked_paths", Box::new(|c| config::security(c).masked_paths = vec![format!("/{}", long())])),
        ("mounts", Box::new(move |c| mount(c, &shared, &format!("/{}", long())))),
        ("mounts", Box::new(|c| mount(c, format!("/{}", long()).as_ref(), "/x"))),
        ("mounts", Box::new(move |c| (0..5_000).for_each(|n| mount(c, &many, &format!("/m/{n}"))))),
        ("envs", Box::new(|c| c.envs = vec![variable("X", long().repeat(8))])),
        ("args", Box::new(|c| c.args = vec![long(); 100])),
    ];
    for (field, change) in changes {
        let mut wanted = rig.script("echo $X | wc -c");
        change(&mut wanted);
        let outcome = rig.run(wanted).await;
        let status = outcome.prevented(field);
        let clean = [Code::InvalidArgument, Code::Internal, Code::ResourceExhausted];
        assert!(clean.contains(&status.code()), "the attack succeeded: {field}: {status}");
        rig.client
            .exec(&neighbour, &["true"], 10)
            .await
            .expect("the attack succeeded: the neighbour is gone");
    }
    let mut wanted = rig.script("echo $X | wc -c");
    wanted.envs = vec![variable("X", long())];
    assert_eq!(rig.prints(wanted).await, "70001", "what is not too long is whole");
    let words = vec!["x"; 70_000];
    let echo: Vec<&str> = ["sh", "-c", "echo $#", "sh"].into_iter().chain(words).collect();
    let counted = rig.client.exec(&neighbour, &echo, 10).await.unwrap();
    assert_eq!(counted.stdout.trim(), "70000");
}

fn variable(key: &str, value: String) -> KeyValue {
    KeyValue { key: key.into(), value }
}

#[tokio::test]
async fn a_pod_of_too_many_words_is_refused_whole() {
    let rig = Rig::new().await;
    type Change = fn(&mut PodSandboxConfig);
    let changes: [(&str, Change); 4] = [
        ("hostname", |pod| pod.hostname = long()),
        ("linux.cgroup_parent", |pod| pod.linux.as_mut().unwrap().cgroup_parent = format!("/{}", long())),
        ("linux.security_context.namespace_options.userns_options", |pod| {
            let context = pod.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            let users = vec![e2e::cri::IdMapping { host_id: 1 << 20, container_id: 0, length: 1 }; 70_000];
            context.namespace_options.as_mut().unwrap().userns_options = Some(e2e::cri::UserNamespace {
                mode: e2e::cri::NamespaceMode::Pod as i32,
                uids: users.clone(),
                gids: users,
            });
        }),
        ("linux.sysctls", |pod| {
            pod.linux.as_mut().unwrap().sysctls = [("net.".to_owned() + &long(), "1".to_owned())].into();
        }),
    ];
    for (field, change) in changes {
        let mut pod = rig.node.pod();
        change(&mut pod);
        let status = rig.client.run_pod(pod).await.expect_err(field);
        assert!(
            [Code::InvalidArgument, Code::Internal].contains(&status.code()),
            "the attack succeeded: {field}: {status}"
        );
        let left = rig.client.pods().await.unwrap().len();
        assert_eq!(left, 1, "the attack succeeded: {field}: something is left after {status}");
    }
}

/// CVE-2021-21334.
#[tokio::test]
async fn containers_of_one_image_have_their_own_variables() {
    let rig = Rig::new().await;
    let create = |number: usize| {
        let mut wanted = rig.node.busybox(&format!("own-{number}"), &["sh", "-c", "echo $OWN"]);
        wanted.envs = vec![variable("OWN", number.to_string())];
        let rig = &rig;
        async move {
            let log = rig.log(&wanted);
            let id = rig.running(wanted).await;
            rig.client.exited(&id).await;
            assert_eq!(
                crate::rig::output(&log),
                number.to_string(),
                "the attack succeeded: another's variable"
            );
        }
    };
    futures::future::join_all((0..32).map(create)).await;
}

#[tokio::test]
async fn a_log_is_written_nowhere_else() {
    let rig = Rig::new().await;
    let host = Host::new();
    for path in [host.climb(), host.path().join("new.log").display().to_string(), "a/../../x.log".to_owned()]
    {
        let mut wanted = rig.script("echo evil");
        wanted.log_path = path.clone();
        rig.run(wanted).await.prevented(&path);
    }
    let wanted = rig.script("echo evil");
    symlink(host.path().join("victim"), rig.log(&wanted)).unwrap();
    rig.run(wanted).await.prevented("the log is a link");
    host.untouched("logs");
}

/// A name is one file, and a value goes into that one as it is.
#[tokio::test]
async fn a_kernel_parameter_brings_no_other_along() {
    let pattern = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = pattern();
    let node = e2e::Node::start(Network::BuiltIn).await;
    let client = node.client();
    let injections = [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/evil"),
        ("kernel.shm_rmid_forced+kernel.core_pattern", "|/evil"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "|/evil"),
        ("net.ipv4.ip_forward/../../../kernel.core_pattern", "|/evil"),
        ("net/../kernel/core_pattern", "|/evil"),
        ("kernel.core_pattern", "|/evil"),
        ("fs.mqueue.../../kernel/core_pattern", "|/evil"),
    ];
    for (name, value) in injections {
        let mut pod = node.pod();
        pod.linux.as_mut().unwrap().sysctls = [(name.to_owned(), value.to_owned())].into();
        let status = client.run_pod(pod).await;
        assert!(status.is_err(), "the attack succeeded: {name}={value}");
        assert_eq!(pattern(), before, "the attack succeeded: {name}={value}");
    }
    for name in ["net.ipv4.ip_forward", "net.ipv4.ip_unprivileged_port_start"] {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let before = std::fs::read_to_string(&path).unwrap();
        let mut pod = config::on_host_network(node.pod());
        pod.linux.as_mut().unwrap().sysctls = [(name.to_owned(), "7".to_owned())].into();
        let status = client.run_pod(pod).await.expect_err("the attack succeeded: set on the host");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before, "the attack succeeded: {name}");
    }
}
