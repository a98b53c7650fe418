//! Having labels and kernel parameters written, and masks put, where an image or volume wants: CVE-2019-16884, 2025-31133, 2025-52881,
//! youki's merge of November 2025; and the RAPL counters (GHSA-7ww5-4wqc-m92c).

use std::os::unix::fs::symlink;
use std::path::Path;

use e2e::config;
use e2e::image::{Image, Layer};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;

use crate::rig::{Outcome, Rig, Swapper, bare_busybox, hostile, mount};

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

#[tokio::test]
async fn nothing_lies_over_proc() {
    let rig = Rig::new().await;
    let fake = rig.node.path("fake");
    std::fs::create_dir_all(fake.join("self/attr")).unwrap();
    std::fs::create_dir_all(fake.join("sys/kernel")).unwrap();
    let layer = Layer::new().symlink("innocent", "/proc/self/attr").symlink("climb", "../../proc/sys");
    let image = rig.image("innocent:latest", hostile(layer)).await;
    for target in ["/proc", "/proc/self/attr", "/proc/sys", "/proc/1", "/innocent", "/climb", "/climb/kernel"]
    {
        let mut wanted = rig.of(&image, &["busybox", "true"]);
        mount(&mut wanted, &fake, target);
        rig.run(wanted).await.prevented(&format!("a volume on {target}"));
    }
    let image = Image::new(json!({ "Env": ["PATH=/bin"], "Volumes": { "/proc": {} } }))
        .layer(bare_busybox())
        .layer(Layer::new().directory("proc", 0o755).file("proc/status", 0o644, b"fake\n"));
    let image = rig.image("fake-proc:latest", image).await;
    if let Outcome::Ran { output, .. } = rig.run(rig.of(&image, &["busybox", "cat", "/proc/mounts"])).await {
        let on_proc: Vec<&str> = output.lines().filter(|line| line.contains(" /proc ")).collect();
        assert!(
            on_proc.iter().all(|line| line.starts_with("proc /proc proc ")) && !on_proc.is_empty(),
            "the attack succeeded: VOLUME /proc: {on_proc:?}"
        );
    }
}

/// A /dev of the caller's, in which the null device is something else: what is masked with it would be that.
#[tokio::test]
async fn a_null_device_that_is_none_masks_nothing() {
    let rig = Rig::new().await;
    let before = std::fs::read_to_string(CORE_PATTERN).unwrap();
    let dev = rig.node.path("dev");
    for (name, link) in [("absolute", CORE_PATTERN.to_owned()), ("climbing", format!("../..{CORE_PATTERN}"))]
    {
        devices(&dev);
        symlink(&link, dev.join("null")).unwrap();
        rig.run(masked(&rig, &dev)).await.prevented(&format!("/dev/null is a link, {name}"));
    }
    devices(&dev);
    std::fs::write(dev.join("null"), "no device").unwrap();
    rig.run(masked(&rig, &dev)).await.prevented("/dev/null is a file");
    devices(&dev);
    mknod(&dev.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 5)).unwrap();
    rig.run(masked(&rig, &dev)).await.prevented("/dev/null is another device");
    assert_eq!(std::fs::read_to_string(CORE_PATTERN).unwrap(), before, "the attack succeeded");
}

#[tokio::test]
async fn a_null_device_that_is_swapped_masks_nothing_else() {
    let rig = Rig::new().await;
    let before = std::fs::read_to_string(CORE_PATTERN).unwrap();
    let dev = rig.node.path("dev");
    devices(&dev);
    mknod(&dev.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
    symlink(CORE_PATTERN, dev.join("other")).unwrap();
    let swapper = Swapper::between(&dev.join("null"), &dev.join("other"));
    let mut ran = 0;
    for _ in 0..40 {
        if let Outcome::Ran { output, .. } = rig.run(masked(&rig, &dev)).await {
            ran += 1;
            assert_eq!(output, "masked", "the attack succeeded: the mask is something else");
        }
    }
    drop(swapper);
    println!("{ran} of 40 started");
    assert_eq!(std::fs::read_to_string(CORE_PATTERN).unwrap(), before, "the attack succeeded");
}

/// A container that says whether its masked file is empty and cannot be changed.
fn masked(rig: &Rig, dev: &Path) -> e2e::cri::ContainerConfig {
    let script = format!(
        "[ -z \"$(head -c 1 /proc/keys)\" ] && echo masked; {{ cat {CORE_PATTERN} > /proc/keys; }} 2>&-; true"
    );
    let mut wanted = rig.script(&script);
    config::security(&mut wanted).masked_paths = vec!["/proc/keys".into()];
    mount(&mut wanted, dev, "/dev");
    wanted
}

/// A directory to be mounted as /dev, without a null device.
fn devices(dev: &Path) {
    let _ = std::fs::remove_dir_all(dev);
    for below in ["pts", "shm", "mqueue"] {
        std::fs::create_dir_all(dev.join(below)).unwrap();
    }
}

#[tokio::test]
async fn masked_paths_show_nothing_whatever_leads_to_them() {
    let rig = Rig::new().await;
    let layer = Layer::new().symlink("proc-again", "/proc").symlink("keys", "/proc/keys");
    let image = rig.image("masks:latest", hostile(layer)).await;
    let script = "for f in /proc/keys /proc-again/keys /keys; do busybox head -c 1 $f | busybox wc -c; done; \
                  busybox ls /sys/firmware /sys/devices/virtual/powercap 2>/dev/null | busybox grep -v : | busybox wc -w";
    let mut wanted = rig.of(&image, &["sh", "-c", script]);
    let context = config::security(&mut wanted);
    context.masked_paths = ["/proc/keys", "/proc/kcore", "/sys/firmware", "/sys/devices/virtual/powercap"]
        .map(str::to_owned)
        .into();
    assert_eq!(
        rig.prints(wanted).await,
        "0\n0\n0\n0",
        "the attack succeeded: something is seen through a mask"
    );
}
