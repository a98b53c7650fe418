//! Manifests and configurations that mean two things, or too much. (CVE-2021-41190, 2023-25153, 2024-3727.)

use e2e::archive::{digest, documents};
use serde_json::{Value, json};

use crate::rig::{Rig, layer};

/// A sound image's documents, whose parts are in the registry under "evil".
fn sound(rig: &Rig) -> (Value, Value) {
    let layers = [layer("good", b"first")];
    rig.registry.content().image("evil", "sound", &layers);
    documents(&layers)
}

#[tokio::test]
async fn a_manifest_that_means_two_things_is_refused() {
    let rig = Rig::new().await;
    let (_, manifest) = sound(&rig);
    let text = manifest.to_string();
    let child = json!([{ "mediaType": e2e::archive::MANIFEST, "digest": digest(text.as_bytes()), "size": text.len() }]);
    let with = |key: &str, value: &Value| text.replacen('{', &format!("{{\"{key}\":{value},"), 1);
    let layers = &manifest["layers"];
    let cases = [
        ("an index, too", with("manifests", &child), "manifest"),
        ("an empty index, too", with("manifests", &json!([])), "manifest"),
        ("an index to who doesn't mind case", with("Manifests", &child), "anifests"),
        ("layers twice", with("layers", layers), "layers"),
        ("layers again, to who doesn't mind case", with("Layers", layers), "ayers"),
        ("layers again, in letters that count as the same", with("layer\u{17f}", layers), "layer"),
        ("a configuration again", with("CONFIG", &manifest["config"]), "onfig"),
        ("a digest again", text.replacen("\"digest\"", "\"Digest\":\"sha256:0\",\"digest\"", 1), "igest"),
        ("another type", text.replacen("image.manifest.v1", "image.index.v1", 1), "image.index.v1"),
        (
            "a version that is none",
            text.replacen("\"schemaVersion\":2", "\"schemaVersion\":3", 1),
            "schema version",
        ),
        ("a path for a digest", text.replacen("sha256:", "../sha256:", 1), "is not a digest"),
        (
            "a path for a layer's digest",
            text.replace(
                manifest["layers"][0]["digest"].as_str().unwrap(),
                "sha256:../../../../../../etc/passwd",
            ),
            "is not a digest",
        ),
        ("a digest in upper case", text.replacen("sha256:", "SHA256:", 1), "is not a digest"),
    ];
    for (attack, text, word) in cases {
        rig.manifest_refused(attack, text.as_bytes(), &[word]).await;
    }
    let mut bytes = text.clone().into_bytes();
    bytes.splice(1..1, b"\"x\xff\":0,".iter().copied());
    rig.manifest_refused("names that aren't UTF-8", &bytes, &["evil:latest"]).await;
    rig.unharmed().await;
}

#[tokio::test]
async fn documents_without_bounds_are_refused() {
    let rig = Rig::new().await;
    let (config, mut manifest) = sound(&rig);
    let one = manifest["layers"][0].clone();
    manifest["layers"] = vec![one; 10_000].into();
    rig.manifest_refused("10,000 layers", manifest.to_string().as_bytes(), &["499", "layers"]).await;
    let deep = format!("{{\"x\":{}", "[".repeat(1 << 20));
    rig.manifest_refused("a million brackets", deep.as_bytes(), &["cannot read"]).await;
    let spaces = " ".repeat(9 << 20);
    rig.manifest_refused("9 MiB", spaces.as_bytes(), &["larger than"]).await;

    let variables = |count: usize| {
        let mut config = config.clone();
        config["config"]["Env"] = (0..count).map(|_| "A=").collect::<Vec<_>>().into();
        config.to_string()
    };
    rig.config_refused("a million variables", variables(1_000_000).as_bytes(), &["configuration"]).await;
    let labels: serde_json::Map<_, _> = (0..200_000).map(|n| (n.to_string(), json!(""))).collect();
    let mut labelled = config.clone();
    labelled["config"]["Labels"] = labels.into();
    rig.config_refused("labels without number", labelled.to_string().as_bytes(), &["configuration"]).await;
    let mut long = config.clone();
    long["config"]["Cmd"] = json!(["x".repeat(7 << 20)]);
    rig.config_refused("a command of 7 MiB", long.to_string().as_bytes(), &["configuration"]).await;
    let mut many = config.clone();
    many["rootfs"]["diff_ids"] = vec![config["rootfs"]["diff_ids"][0].clone(); 10_000].into();
    let mut path = config.clone();
    path["rootfs"]["diff_ids"] = json!([format!("sha256:{}", "../".repeat(21) + "x")]);
    rig.config_refused("a path for an archive's digest", path.to_string().as_bytes(), &["configuration"])
        .await;
    rig.config_refused("more archives than layers", many.to_string().as_bytes(), &["layers"]).await;
    rig.unharmed().await;
}
