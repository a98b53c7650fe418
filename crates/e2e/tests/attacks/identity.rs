//! Who a process runs as: crun's CVE-2026-30892 and CVE-2024-40635, 2026-46680 (numbers), 2026-47262 and CRI-O's 2025-4437 (databases
//! without a bound), 2022-4318 and 2026-15809 (HOME), 2024-9676 (a fifo).

use e2e::config;
use e2e::image::{Image, Layer};
use serde_json::json;

use crate::rig::{Outcome, Rig, bare_busybox};

const ODD: [&str; 12] = [
    "1000x",
    "+0",
    "-1",
    "0x0",
    "00x",
    "2147483648",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "1e3",
    "root ",
    "0:4294967296",
];

#[tokio::test]
async fn an_odd_user_is_nobody_and_never_root() {
    let rig = Rig::new().await;
    let passwd =
        b"root:x:0:0:root:/root:/bin/sh\n4294967296:x:0:0::/:/bin/sh\nbig:x:4294967296:0::/:/bin/sh\n\
                   minus:x:-1:0::/:/bin/sh\nplus:x:+0:0::/:/bin/sh\nempty:x::0::/:/bin/sh\n";
    let etc = || Layer::new().directory("etc", 0o755).file("etc/passwd", 0o644, passwd);
    let named = ["big", "minus", "plus", "empty"];
    for (number, user) in ODD.into_iter().chain(named).enumerate() {
        let image =
            Image::new(json!({ "Env": ["PATH=/bin"], "User": user })).layer(bare_busybox()).layer(etc());
        let image = rig.image(&format!("user-{number}:latest"), image).await;
        let wanted = rig.of(&image, &["busybox", "id"]);
        rig.run(wanted.clone()).await.prevented(&format!("USER {user}"));
        let mut by_name = rig.script("id");
        config::security(&mut by_name).run_as_username = user.into();
        rig.run(by_name).await.prevented(&format!("run_as_username {user}"));
    }
    for number in [-1, i64::from(i32::MAX) + 1, i64::from(u32::MAX), 1 << 32, i64::MAX] {
        let mut wanted = rig.script("id");
        config::security(&mut wanted).run_as_user = Some(e2e::cri::Int64Value { value: number });
        rig.run(wanted).await.prevented(&format!("run_as_user {number}"));
    }
}

#[tokio::test]
async fn a_database_that_is_none_is_not_read() {
    let rig = Rig::new().await;
    let etc = || Layer::new().directory("etc", 0o755);
    const WWW: &[u8] = b"www:x:33:33::/:/bin/sh\n";
    let giant = [WWW, &vec![b'x'; 11 << 20]].concat();
    let cases = [
        ("giant", "www", etc().file("etc/passwd", 0o644, &giant)),
        ("giant-group", "www:www", etc().file("etc/passwd", 0o644, WWW).file("etc/group", 0o644, &giant)),
        ("fifo", "www", etc().fifo("etc/passwd")),
        ("fifo-group", "www:www", etc().file("etc/passwd", 0o644, WWW).fifo("etc/group")),
        ("zero", "www", etc().device("etc/passwd", (1, 5))),
        ("zero-link", "www", etc().symlink("etc/passwd", "/dev/zero")),
        ("directory", "www", etc().directory("etc/passwd", 0o755)),
        // The hosts that tests run on know him.
        ("host-link", "daemon", etc().symlink("etc/passwd", "../../../../../../../../etc/passwd")),
        ("proc-link", "daemon", etc().symlink("etc/passwd", "/proc/self/root/etc/passwd")),
    ];
    for (name, user, layer) in cases {
        let config = json!({ "Env": ["PATH=/bin"], "User": user });
        let image = Image::new(config).layer(bare_busybox()).layer(layer);
        let image = rig.image(&format!("database-{name}:latest"), image).await;
        let begun = std::time::Instant::now();
        rig.run(rig.of(&image, &["busybox", "id"])).await.prevented(name);
        assert!(begun.elapsed().as_secs() < 10, "the attack succeeded: {name}: it hangs");
    }
}

#[tokio::test]
async fn a_home_forges_no_line() {
    let rig = Rig::new().await;
    let passwd = b"www:x:33:33::/home\revil:/bin/sh\n";
    let layer = Layer::new().directory("etc", 0o755).file("etc/passwd", 0o644, passwd);
    let env = json!({ "Env": ["PATH=/bin", "HOME=/home\nevil:x:0:0::/:/bin/sh"], "User": "www" });
    let image = rig.image("home:latest", Image::new(env).layer(bare_busybox()).layer(layer)).await;
    let wanted = rig.of(&image, &["sh", "-c", "busybox cat /etc/passwd; busybox id -u"]);
    if let Outcome::Ran { output, .. } = rig.run(wanted).await {
        assert_eq!(
            output.lines().filter(|line| line.contains("evil:x:0:0")).count(),
            0,
            "the attack succeeded"
        );
        assert!(output.ends_with("33"), "{output}");
    }
}
