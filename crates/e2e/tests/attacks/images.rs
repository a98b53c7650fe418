//! What a registry says of an image: CVE-2021-41190 (a manifest that is two), content that isn't what its digest says, and 2026-53488
//! (labels that a runtime obeys). Archives and the rest of what no registry should give are in `hostile_images`.

use e2e::Scripted;
use e2e::archive::{Packed, Raw, documents};
use e2e::scripted::{Content, Manner};
use serde_json::json;

use crate::rig::{Host, Outcome, Rig};

/// An image of the attacker's, that prints which of its layers is there.
fn layer(word: &str) -> Packed {
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    Packed::gzip(&Raw::new().file("bin/busybox", &busybox).file("word", word.as_bytes()).done())
}

/// Layers again under a key in other letter case: to a reader that doesn't mind it, such as most scanners are, they are the image.
#[tokio::test]
async fn a_manifest_says_the_same_to_every_reader() {
    let rig = Rig::new().await;
    let content = Content::default();
    let (seen, run) = (layer("what was scanned"), layer("what runs"));
    content.image("two", "latest", std::slice::from_ref(&run));
    content.image("two", "scanned", std::slice::from_ref(&seen));
    let (_, manifest) = documents(std::slice::from_ref(&run));
    let (_, other) = documents(std::slice::from_ref(&seen));
    let keys = [
        ("Layers", "layers"),
        ("LAYER\u{17f}", "layers"),
        ("Config", "config"),
        ("manifest\u{17f}", "layers"),
    ];
    let registry = Scripted::start(content, Manner::default()).await;
    for (key, of) in keys {
        let text = manifest.to_string().replacen('{', &format!("{{\"{key}\":{},", other[of]), 1);
        registry.content().manifest("two", "latest", text.as_bytes());
        let pulled = rig.client.pull(&registry.image("two:latest")).await;
        assert!(pulled.is_err(), "the attack succeeded: a manifest with \"{key}\", too, was pulled");
    }
}

/// The registry answers for a configuration's digest with another one of the same length.
#[tokio::test]
async fn content_is_what_its_digest_says() {
    let rig = Rig::new().await;
    let content = Content::default();
    let layers = [layer("good")];
    content.image("lies", "latest", &layers);
    let (config, manifest) = documents(&layers);
    let digest = manifest["config"]["digest"].as_str().unwrap().to_owned();
    let changed = config.to_string().replace("PATH=/bin", "PATH=/own");
    assert_eq!(changed.len(), config.to_string().len());
    content.put(&format!("/v2/lies/blobs/{digest}"), "application/octet-stream", changed);
    let registry = Scripted::start(content, Manner::default()).await;
    let pulled = rig.client.pull(&registry.image("lies:latest")).await;
    assert!(pulled.is_err(), "the attack succeeded: another configuration was taken for {digest}");
}

/// Labels in names that runtimes and their shims obey elsewhere: nothing is run, and no log goes elsewhere.
#[tokio::test]
async fn labels_of_an_image_are_only_labels() {
    let rig = Rig::new().await;
    let host = Host::new();
    let made = host.path().join("made").display().to_string();
    let binary = format!("binary:///bin/busybox?touch={made}");
    let labels = json!({
        "containerd.io/restart.loguri": binary, "containerd.io/restart.status": "running",
        "containerd.io/restart.logpath": made, "containerd.io/restart.policy": "always",
        "io.kubernetes.cri-o.LogPath": made, "io.kubernetes.cri-o.seccomp": "unconfined",
        "io.containerd.runc.v2.group": made, "run.oci.handler": "wasm", "run.oci.hooks.stdout": made,
        "module.wasm.image/variant": "compat", "org.systemd.property.ExecStopPost": format!("['/bin/touch', '{made}']"),
    });
    let image = e2e::image::busybox().configured(json!({ "Env": ["PATH=/bin"], "Labels": labels }));
    let image = rig.image("labels:latest", image).await;
    let wanted = rig.of(&image, &["sh", "-c", "echo said"]);
    let Outcome::Ran { code, output } = rig.run(wanted).await else { panic!("it was to run") };
    assert_eq!((code, output.as_str()), (0, "said"), "the attack succeeded: a label changed what runs");
    host.untouched("labels of the image");
}
