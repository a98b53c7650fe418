//! Plugins that are started: what they find, and that nothing is left of them.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::world::{World, world_with};

fn script(directory: &Path, name: &str, text: &str, mode: u32) {
    let file = directory.join(name);
    std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The descriptors of this process that stay open over an exec.
fn inherited() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let stays = |text: String| {
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?.trim().to_owned();
        Some(i32::from_str_radix(&flags, 8).unwrap() & nix::libc::O_CLOEXEC == 0)
    };
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    named
        .filter(|(_, path)| std::fs::read_to_string(path).ok().and_then(stays) == Some(true))
        .map(|(fd, _)| fd)
        .collect()
}

async fn launch(world: &World) {
    let (plugins, configurations) =
        (world.directory.path().join("plugins"), world.directory.path().join("conf"));
    tokio::time::timeout(crate::stub::PATIENCE, world.nri.launch(&plugins, &configurations))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn they_find_their_connection_and_who_they_are_and_nothing_else() {
    let world = world_with(Duration::from_millis(300), None);
    let plugins = world.directory.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    let out = world.directory.path().display();
    script(
        &plugins,
        "20-told",
        &format!(
            "/usr/bin/env > {out}/env; ls /proc/self/fd > {out}/fds; grep ^Sig /proc/self/status > {out}/signals; readlink /proc/$$/fd/3 > {out}/three; exec sleep 1000"
        ),
        0o755,
    );
    script(&plugins, "30-ends", "exit 1", 0o755);
    script(&plugins, "noname", "touch ran; sleep 1000", 0o755);
    script(&plugins, "40-data", "sleep 1000", 0o644);
    launch(&world).await;
    let read = |file: &str| std::fs::read_to_string(world.directory.path().join(file)).unwrap();
    let env = read("env");
    // A shell has some of its own.
    let of_shell = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
    let told: BTreeSet<&str> =
        env.lines().filter(|line| !of_shell.iter().any(|own| line.starts_with(own))).collect();
    assert_eq!(told, BTreeSet::from(["NRI_PLUGIN_IDX=20", "NRI_PLUGIN_NAME=told", "NRI_PLUGIN_SOCKET=3"]));
    // Whoever started this process may have left it something that it can't help passing on.
    let (left, passed_on) = (inherited(), read("fds"));
    let own: Vec<&str> =
        passed_on.lines().filter(|fd| fd.len() > 1 || *fd > "3").filter(|fd| !left.contains(*fd)).collect();
    assert!(own.len() <= 1, "{own:?}: not only what lists them");
    let signals = read("signals");
    for none in ["SigBlk:", "SigIgn:"] {
        let line = signals.lines().find_map(|line| line.strip_prefix(none)).unwrap().trim();
        // The C library keeps 32 and 33 to itself.
        assert_eq!(u64::from_str_radix(line, 16).unwrap() & !0x1_8000_0000, 0, "{signals}");
    }
    assert!(read("three").starts_with("socket:"));
    // One that does not register is ended, and waited for.
    let left = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| {
                std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| {
                    stat.rsplit(')')
                        .next()
                        .and_then(|rest| rest.split_whitespace().nth(1))
                        .is_some_and(|parent| parent == std::process::id().to_string())
                })
            })
            .count()
    };
    let gone = async {
        while left() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await
        }
    };
    tokio::time::timeout(crate::stub::PATIENCE, gone).await.expect("nothing is left of it");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_no_plugin() {
    let world = world_with(crate::stub::PATIENCE, None);
    launch(&world).await;
    assert!(world.nri.is_idle());
}
