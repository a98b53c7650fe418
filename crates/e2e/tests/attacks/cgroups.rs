//! Cgroups: CVE-2023-25809 (the host's, writable), 2025-47291 (processes beside the pod's), 2019-14891 (a monitor that dies), and
//! release_agent.

use e2e::{Network, config};

use crate::rig::Rig;

const TRY: &str = "for d in $(grep ' /sys/fs/cgroup' /proc/self/mountinfo | cut -d' ' -f5); do \
                   mkdir $d/made 2>/dev/null && echo made $d; \
                   (echo 0 > $d/cgroup.procs) 2>/dev/null && echo moved $d; \
                   (echo /x > $d/release_agent) 2>/dev/null && echo agent $d; \
                   (echo 1 > $d/notify_on_release) 2>/dev/null && echo notify $d; done; echo tried";

#[tokio::test]
async fn no_cgroup_can_be_written() {
    let rig = Rig::new().await;
    assert_eq!(rig.prints(rig.script(TRY)).await, "tried", "the attack succeeded");
    let mut wanted = rig.script(TRY);
    config::security(&mut wanted).capabilities =
        Some(e2e::cri::Capability { add_capabilities: vec!["ALL".into()], ..Default::default() });
    assert_eq!(rig.prints(wanted).await, "tried", "the attack succeeded, with all capabilities");
}

/// Root of a user namespace, with a cgroup namespace and without.
#[tokio::test]
async fn no_cgroup_can_be_written_from_a_user_namespace() {
    if !std::path::Path::new("/proc/self/ns/user").exists() {
        println!("skipped: {} needs user namespaces", module_path!());
        return;
    }
    let users = e2e::cri::IdMapping { host_id: 300_000, container_id: 0, length: 65_536 };
    let options = move |network| {
        let mut options = config::namespaces(network, e2e::cri::NamespaceMode::Container);
        options.userns_options = Some(e2e::cri::UserNamespace {
            mode: e2e::cri::NamespaceMode::Pod as i32,
            uids: vec![users],
            gids: vec![users],
        });
        options
    };
    let network = e2e::cri::NamespaceMode::Pod;
    let for_pod = options(network);
    let rig = Rig::with(Network::BuiltIn, |sandbox| {
        sandbox.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(for_pod);
    })
    .await;
    let mut wanted = rig.script(TRY);
    config::security(&mut wanted).namespace_options = Some(options(network));
    assert_eq!(rig.prints(wanted).await, "tried", "the attack succeeded");

    let mut wanted = rig.script("echo up; exec sleep 4711");
    config::security(&mut wanted).namespace_options = Some(options(network));
    let id = rig.running(wanted).await;
    let found = rig.node.traces().processes();
    let (pid, _) =
        found.iter().find(|(_, command)| command.contains("4711")).expect("the container's process");
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let outside: Vec<&str> = cgroups
        .lines()
        .filter(|line| is_limited(line) && !(line.contains(&rig.pod) && line.ends_with(&id)))
        .collect();
    assert!(outside.is_empty(), "the attack succeeded: it runs outside of its pod's: {outside:?}");
}

/// Whether a line of /proc/PID/cgroup is of a hierarchy that limits something.
fn is_limited(line: &str) -> bool {
    ["memory", "pids", "cpu,", ":cpu:", "devices", "0::"].iter().any(|name| line.contains(name))
}
