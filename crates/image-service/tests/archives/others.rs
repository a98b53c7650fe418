//! Archives of other tools, and what these make of ours: skopeo, umoci, GNU tar.

use std::path::Path;
use std::process::Command;

use image_service::{ArchiveForm, Compression};
use serde_json::Value;

use crate::packed::{docker, image};
use crate::store::Store;
use crate::{needs_program, needs_root};

/// Runs a program, and gives its output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn policy(dir: &Path) -> String {
    let path = dir.join("policy.json");
    std::fs::write(&path, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn skopeo_reads_and_copies_what_is_saved() {
    needs_root!();
    needs_program!("skopeo");
    let store = Store::new();
    let (one, two) = (image("one"), image("two"));
    store.load(docker(&one, &["r.example/one:1"])).await.unwrap();
    store.load(docker(&two, &["r.example/two:1"])).await.unwrap();
    let policy = policy(store.dir.path());
    for (form, transport) in [(ArchiveForm::Oci, "oci-archive"), (ArchiveForm::Docker, "docker-archive")] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let path = store.path(&format!("{transport}-{compression:?}.tar"));
            let both =
                store.save(&["r.example/one:1", "r.example/two:1"], (form, compression)).await.unwrap();
            std::fs::write(&path, both).unwrap();
            for (packed, name) in [(&one, "r.example/one:1"), (&two, "r.example/two:1")] {
                let from = format!("{transport}:{}:{name}", path.display());
                let told: Value = serde_json::from_str(&run("skopeo", &["inspect", &from])).unwrap();
                assert_eq!(told["Layers"].as_array().unwrap().len(), 2, "{told}");
                let config = run("skopeo", &["inspect", "--raw", "--config", &from]);
                assert_eq!(config.as_bytes(), packed.config, "the id stays");
                let to = store.path(&format!("copy-{transport}-{compression:?}-{}", packed.id()));
                let to = format!("dir:{}", to.display());
                run("skopeo", &["--policy", &policy, "copy", &from, &to]);
            }
        }
        // With one image no name is needed.
        let path = store.path("one.tar");
        std::fs::write(&path, store.save(&["r.example/one:1"], (form, Compression::None)).await.unwrap())
            .unwrap();
        run("skopeo", &["inspect", &format!("{transport}:{}", path.display())]);
    }
    // The OCI form is Docker's too.
    let path = store.path("both.tar");
    let archive = store.save(&["r.example/one:1"], (ArchiveForm::Oci, Compression::None)).await.unwrap();
    std::fs::write(&path, archive).unwrap();
    let config =
        run("skopeo", &["inspect", "--raw", "--config", &format!("docker-archive:{}", path.display())]);
    assert_eq!(config.as_bytes(), one.config);
}

#[tokio::test]
async fn what_skopeo_writes_is_loaded() {
    needs_root!();
    needs_program!("skopeo");
    let store = Store::new();
    let packed = image("through skopeo");
    let source = store.path("source.tar");
    std::fs::write(&source, docker(&packed, &["r.example/source:1"])).unwrap();
    let policy = policy(store.dir.path());
    let source = format!("docker-archive:{}", source.display());
    for (to, name, id_stays) in [
        ("docker-archive:{}:r.example/copy:1", "r.example/copy:1", true),
        ("oci-archive:{}:r.example/copy:2", "r.example/copy:2", false),
        ("--dest-compress-format=zstd oci-archive:{}:r.example/copy:3", "r.example/copy:3", false),
    ] {
        let path = store.path(&name.replace(['/', ':'], "-"));
        let to = to.replace("{}", path.to_str().unwrap());
        let mut arguments = vec!["--policy", &policy, "copy"];
        arguments.extend(to.split(' ').filter(|word| word.starts_with("--")));
        arguments.push(&source);
        arguments.extend(to.split(' ').filter(|word| !word.starts_with("--")));
        run("skopeo", &arguments);
        let fresh = Store::new();
        let loaded = fresh.load(std::fs::read(&path).unwrap()).await.unwrap();
        assert_eq!(loaded[0].names, [name]);
        assert_eq!(loaded[0].id.to_string() == packed.id(), id_stays, "{loaded:?}");
        assert_eq!(fresh.layers(), 2);
        let status = fresh.images.status(name).unwrap().unwrap();
        let diff_ids: Vec<String> = status.layers.iter().map(ToString::to_string).collect();
        let ours: Vec<String> =
            packed.layers.iter().map(|layer| image_service::Digest::of(layer).to_string()).collect();
        assert_eq!(diff_ids, ours);
    }
}

/// A layout in a directory, changed by umoci and packed by GNU tar, and one of ours unpacked by umoci.
#[tokio::test]
async fn umoci_and_tar_understand_us_and_we_them() {
    needs_root!();
    needs_program!("skopeo");
    needs_program!("umoci");
    let store = Store::new();
    let packed = image("through umoci");
    store.load(docker(&packed, &["r.example/app:1"])).await.unwrap();
    let path = store.path("ours.tar");
    let archive = store.save(&["r.example/app:1"], (ArchiveForm::Oci, Compression::Gzip)).await.unwrap();
    std::fs::write(&path, archive).unwrap();
    let policy = policy(store.dir.path());
    let layout = store.path("layout");
    let (from, to) = (format!("oci-archive:{}", path.display()), format!("oci:{}:v1", layout.display()));
    run("skopeo", &["--policy", &policy, "copy", &from, &to]);
    let bundle = store.path("bundle");
    let image = format!("{}:v1", layout.display());
    run("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(bundle.join("rootfs/content")).unwrap(), "through umoci");
    assert!(!bundle.join("rootfs/gone").exists());
    std::fs::write(bundle.join("rootfs/added"), "by umoci").unwrap();
    run("umoci", &["repack", "--image", &format!("{}:v2", layout.display()), bundle.to_str().unwrap()]);
    let tar = store.path("layout.tar");
    run("tar", &["-C", layout.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]);
    let loaded = store.load_as(std::fs::read(&tar).unwrap(), Some("r.example/app")).await.unwrap();
    let names: Vec<&str> = loaded.iter().flat_map(|image| &image.names).map(String::as_str).collect();
    assert_eq!(names, ["r.example/app:v1", "r.example/app:v2"]);
    let again = store.images.status("r.example/app:v2").unwrap().unwrap();
    assert_eq!(again.layers.len(), 3);
}
