//! Links in images: CVE-2019-19921, 2023-27561, 2023-28642 (/proc and /sys), 2026-41579 and crun's 2026-47766 (/dev), 2019-18837 and
//! 2025-24965 of crun (files that the runtime sets up), 2024-5154 (/etc/mtab), 2022-23648 (VOLUME), kubelet's 2017-1002101 and 2021-25741 (a
//! part of a volume).

use e2e::config;
use e2e::image::{Image, Layer};
use serde_json::json;

use crate::rig::{Host, Outcome, Rig, bare_busybox, hostile, mount};

#[tokio::test]
async fn a_link_in_the_place_of_a_kernel_filesystem_ends_the_start() {
    let rig = Rig::new().await;
    let host = Host::new();
    let absolute = host.path().display().to_string();
    for (number, name) in ["proc", "sys", "dev"].into_iter().enumerate() {
        for (other, target) in
            [absolute.clone(), host.climb(), "/elsewhere".to_owned()].into_iter().enumerate()
        {
            let layer = Layer::new().directory("elsewhere", 0o755).symlink(name, &target);
            let image = rig.image(&format!("kernel-{number}-{other}:latest"), hostile(layer)).await;
            let attack = format!("/{name} is a link to {target}");
            rig.run(rig.of(&image, &["busybox", "true"])).await.prevented(&attack);
            host.untouched(&attack);
        }
    }
}

/// Whatever the runtime makes or mounts in a root, with a link to the host in its place.
#[tokio::test]
async fn nothing_that_is_set_up_in_a_root_is_made_on_the_host() {
    let rig = Rig::new().await;
    let host = Host::new();
    let volume = rig.node.path("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("file"), "from the volume\n").unwrap();
    for (number, base) in [host.path().display().to_string(), host.climb()].into_iter().enumerate() {
        let to = |name: &str| format!("{base}/{name}");
        let layer = Layer::new()
            .directory("etc", 0o755)
            .symlink("etc/hosts", &to("victim"))
            .symlink("etc/hostname", &to("new-hostname"))
            .symlink("etc/resolv.conf", &to("below/resolv.conf"))
            .symlink("etc/mtab", &to("mtab"))
            .symlink("work", &to("below"))
            .symlink("data", &to("made"))
            .symlink("file", &to("made-file"))
            .symlink("run", &base);
        let image = rig.image(&format!("links-{number}:latest"), hostile(layer)).await;
        let mut wanted = rig.of(&image, &["sh", "-c", "busybox cat /data/x/file; busybox cat /run/secret"]);
        wanted.working_dir = "/work/deeper".into();
        mount(&mut wanted, &volume, "/data/x");
        mount(&mut wanted, &volume.join("file"), "/file");
        mount(&mut wanted, &volume.join("file"), "/run/secret");
        let outcome = rig.run(wanted).await;
        host.untouched("links in the image");
        let Outcome::Ran { code: 0, output } = outcome else { panic!("{outcome:?}") };
        assert_eq!(output, "from the volume\nfrom the volume", "the volumes are where they were asked for");
    }
}

/// A device of the request's behind a link of the image's.
#[tokio::test]
async fn devices_are_not_made_on_the_host() {
    let rig = Rig::privileged().await;
    let host = Host::new();
    let layer = Layer::new().symlink("nodes", &host.path().display().to_string());
    let image = rig.image("nodes:latest", hostile(layer)).await;
    for privileged in [false, true] {
        let mut wanted = rig.of(&image, &["busybox", "true"]);
        config::security(&mut wanted).privileged = privileged;
        wanted.devices.push(e2e::cri::Device {
            container_path: "/nodes/made".into(),
            host_path: "/dev/null".into(),
            permissions: "rwm".into(),
        });
        rig.run(wanted).await;
        host.untouched("a device behind a link");
    }
}

/// What an image declares as a volume begins as a copy of what the image has there, and of nothing else.
#[tokio::test]
async fn declared_volumes_show_nothing_of_the_host() {
    let rig = Rig::new().await;
    let host = Host::new();
    let absolute = host.path().display().to_string();
    let declared = [
        format!("/{}", host.climb()),
        "/../../../../etc".to_owned(),
        "/link".to_owned(),
        "/link/below".to_owned(),
        "/climb".to_owned(),
    ];
    for (number, volume) in declared.iter().enumerate() {
        let layer = Layer::new().symlink("link", &absolute).symlink("climb", &host.climb());
        let image = Image::new(json!({ "Env": ["PATH=/bin"], "Volumes": { volume: {} } }))
            .layer(bare_busybox())
            .layer(layer);
        let image = rig.image(&format!("declared-{number}:latest"), image).await;
        let script = format!("busybox find / -xdev -name victim; busybox ls {volume}; busybox ls -R /etc");
        if let Outcome::Ran { output, .. } = rig.run(rig.of(&image, &["sh", "-c", &script])).await {
            assert!(!output.contains("victim"), "the attack succeeded: VOLUME {volume}: {output}");
            assert!(!output.contains("shadow"), "the attack succeeded: VOLUME {volume}: {output}");
        }
        host.untouched(volume);
    }
    for volume in ["/", "/proc", "/proc/sys", "/sys", "/dev", "/etc/.."] {
        let image =
            Image::new(json!({ "Env": ["PATH=/bin"], "Volumes": { volume: {} } })).layer(bare_busybox());
        let image = rig.image("declared-kernel:latest", image).await;
        let script = "busybox test -e /proc/self/status && busybox test -d /sys/kernel && busybox test -c /dev/null && echo kernel";
        if let Outcome::Ran { output, .. } = rig.run(rig.of(&image, &["sh", "-c", script])).await {
            assert_eq!(output, "kernel", "the attack succeeded: VOLUME {volume}");
        }
    }
}

/// A part of an image that is a volume, by a path that leads out of it, or through links that do.
#[tokio::test]
async fn a_part_of_an_image_volume_is_the_images() {
    let rig = Rig::new().await;
    let host = Host::new();
    let absolute = host.path().display().to_string();
    let layer = Layer::new()
        .directory("own", 0o755)
        .symlink("link", &absolute)
        .symlink("climb", &host.climb())
        .symlink("own/link", &format!("../../../..{absolute}"))
        .symlink("own/file", &format!("{absolute}/victim"))
        .symlink("own/proc", "/proc/1/root");
    let volume = rig.image("parts:latest", hostile(layer)).await;
    let climb = host.climb();
    let parts = [
        "link",
        "link/victim",
        "climb",
        "climb/victim",
        "own/link",
        "own/link/victim",
        "own/file",
        "own/proc",
        "own/proc/etc/passwd",
        "..",
        "own/../..",
        "../../etc/passwd",
        "/etc/passwd",
        climb.as_str(),
        absolute.as_str(),
    ];
    for (number, part) in parts.into_iter().enumerate() {
        let mut wanted = rig.script("find /volume; cat /volume; ls -R /volume/");
        wanted.metadata.as_mut().unwrap().name = format!("part-{number}");
        if let Outcome::Ran { output, .. } = rig.run_with_part(wanted, &volume, part).await {
            for word in ["victim", "shadow", "root:"] {
                assert!(!output.contains(word), "the attack succeeded: part {part}: {output}");
            }
        }
        host.untouched(part);
    }
}
