//! Capabilities that executing a file could give: CVE-2022-24769, 2022-27650, 2022-27652, 2022-29162, youki's 2025-27612.

use e2e::config;
use e2e::cri::{Capability, ContainerConfig, Int64Value};

use crate::rig::Rig;

const SHOW: &str = "grep ^Cap /proc/self/status";

/// The inheritable set, and the others.
fn sets(status: &str) -> (u64, Vec<u64>) {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.expect(name).trim(), 16).expect("a number")
    };
    (set("CapInh:"), ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(set).into())
}

#[tokio::test]
async fn nothing_is_inheritable_in_the_first_process_or_in_one_that_joins() {
    let rig = Rig::privileged().await;
    let add = |names: &[&str]| {
        let add_capabilities = names.iter().map(ToString::to_string).collect();
        move |c: &mut ContainerConfig| {
            config::security(c).capabilities = Some(Capability { add_capabilities, ..Default::default() });
        }
    };
    let as_user =
        |c: &mut ContainerConfig| config::security(c).run_as_user = Some(Int64Value { value: 1000 });
    let privileged = |c: &mut ContainerConfig| config::security(c).privileged = true;
    type Change = Box<dyn Fn(&mut ContainerConfig)>;
    let cases: [(&str, Change); 5] = [
        ("default", Box::new(|_| {})),
        ("added", Box::new(move |c| add(&["NET_ADMIN", "SYS_PTRACE"])(c))),
        ("all", Box::new(move |c| add(&["ALL"])(c))),
        ("as a user", Box::new(as_user)),
        ("privileged", Box::new(privileged)),
    ];
    for (name, change) in cases {
        let mut wanted = rig.script(&format!("{SHOW}; sleep 1000"));
        change(&mut wanted);
        let log = rig.log(&wanted);
        let id = rig.running(wanted).await;
        let first = e2e::until(e2e::node::PATIENCE, "the first process' sets", || async {
            let text = crate::rig::output(&log);
            if text.lines().count() == 5 { Ok(text) } else { Err(text) }
        })
        .await;
        let joined = rig.client.exec(&id, &["sh", "-c", SHOW], 10).await.unwrap().stdout;
        let ((inherited, first), (inherited_by_joined, joined)) = (sets(&first), sets(&joined));
        assert_eq!((inherited, inherited_by_joined), (0, 0), "the attack succeeded: {name}");
        assert!(
            joined.iter().zip(&first).all(|(joined, first)| joined & !first == 0),
            "the attack succeeded: {name}: who joins has more: {joined:x?} than {first:x?}"
        );
        rig.client.remove(&id).await.unwrap();
        std::fs::remove_file(log).unwrap();
    }
}
