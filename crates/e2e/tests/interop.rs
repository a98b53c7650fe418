//! Images that others make and copy: Debian's umoci builds them, Debian's skopeo brings them to a registry in either format and
//! compression, and knarr pulls and runs them.
//!
//! What knarr itself writes for others to read is tested where it writes (`image_commands`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Network, Node, Registry, config, needs};
use tempfile::TempDir;

/// An image of umoci's, as an OCI layout: two layers, the second of which takes away, replaces and adds.
struct Built {
    directory: TempDir,
}

impl Built {
    fn new() -> Self {
        let built = Self { directory: tempfile::Builder::new().prefix("e2e-umoci-").tempdir().unwrap() };
        built.umoci(&["init", "--layout", &built.path("layout")]);
        built.umoci(&["new", "--image", &built.image()]);
        built.layer("first", first);
        built.layer("second", second);
        let settings = [
            "--config.user=33:33",
            "--config.env=MADE=by umoci",
            "--config.workingdir=/srv",
            "--config.entrypoint=/bin/sh",
            "--config.cmd=-c",
            "--config.cmd=echo $MADE; id -u; pwd",
            "--architecture=amd64",
        ];
        let image = built.image();
        built.umoci(&[&["config", "--image", image.as_str()], &settings[..]].concat());
        built
    }

    fn path(&self, below: &str) -> String {
        self.directory.path().join(below).display().to_string()
    }

    fn image(&self) -> String {
        format!("{}:v1", self.path("layout"))
    }

    fn layer(&self, name: &str, change: fn(&Path)) {
        let bundle = self.path(name);
        self.umoci(&["unpack", "--image", &self.image(), &bundle]);
        change(&PathBuf::from(&bundle).join("rootfs"));
        self.umoci(&["repack", "--image", &self.image(), &bundle]);
    }

    fn umoci(&self, arguments: &[&str]) {
        run("umoci", arguments);
    }
}

fn first(root: &Path) {
    for directory in ["bin", "srv/kept", "srv/emptied", "etc"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("Debian's busybox-static");
    for applet in ["sh", "cat", "id", "ls", "sleep", "stat", "getfattr"] {
        std::fs::hard_link(root.join("bin/busybox"), root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nwww:x:33:33::/:/bin/sh\n").unwrap();
    for file in ["srv/kept/file", "srv/emptied/gone", "srv/replaced"] {
        std::fs::write(root.join(file), "first\n").unwrap();
    }
}

fn second(root: &Path) {
    std::fs::remove_file(root.join("srv/emptied/gone")).unwrap();
    std::fs::remove_file(root.join("srv/replaced")).unwrap();
    std::os::unix::fs::symlink("kept/file", root.join("srv/replaced")).unwrap();
    std::fs::write(root.join("srv/ünicode and spaces"), "odd\n").unwrap();
    std::fs::write(root.join("srv/setuid"), "").unwrap();
    std::os::unix::fs::chown(root.join("srv/setuid"), Some(7), Some(8)).unwrap();
    std::fs::set_permissions(root.join("srv/setuid"), std::fs::Permissions::from_mode(0o4711)).unwrap();
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("a program");
    assert!(
        output.status.success(),
        "{program} {arguments:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn copy(arguments: &[&str], from: &str, to: &str) {
    let plain = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    run("skopeo", &[&plain[..], arguments, &[from, to]].concat());
}

/// How skopeo is to write an image, and what its manifest then names. Each goes to a registry of its own: skopeo takes what a registry
/// has of the same content already, in whatever compression.
const FORMS: [(&str, &[&str], &str); 3] = [
    (
        "oci-gzip",
        &["--format=oci", "--dest-compress-format=gzip"],
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    (
        "oci-zstd",
        &["--format=oci", "--dest-compress-format=zstd"],
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
    (
        "docker-gzip",
        &["--format=v2s2", "--dest-compress-format=gzip"],
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
];

#[tokio::test]
async fn images_of_umoci_and_skopeo_run() {
    needs!("umoci", "skopeo");
    let built = Built::new();
    let node = Node::start(Network::None).await;
    let mut ids = Vec::new();
    for (form, arguments, media_type) in FORMS {
        let registry = Registry::start().await;
        let reference = registry.image("interop/app:v1");
        copy(arguments, &format!("oci:{}", built.image()), &format!("docker://{reference}"));
        assert!(manifest(&registry).await.contains(media_type), "{form} has layers of another type");
        ids.push(runs(&node, &reference).await);
    }
    // What is in it is the same, so only the form of the configuration may tell them apart.
    assert_eq!(ids[0], ids[1], "the same configuration under either compression");
}

/// A chain of copies: Docker's format, OCI's by zstd made of that, OCI's by gzip made of that; all of them run.
#[tokio::test]
async fn copies_of_copies_run() {
    needs!("umoci", "skopeo");
    let built = Built::new();
    let node = Node::start(Network::None).await;
    let (mut from, mut registries) = (format!("oci:{}", built.image()), Vec::new());
    for (form, arguments, media_type) in [FORMS[2], FORMS[1], FORMS[0]] {
        let registry = Registry::start().await;
        let reference = registry.image("interop/app:v1");
        let to = format!("docker://{reference}");
        copy(arguments, &from, &to);
        assert!(manifest(&registry).await.contains(media_type), "{form} has layers of another type");
        runs(&node, &reference).await;
        from = to;
        registries.push(registry);
    }
}

async fn manifest(registry: &Registry) -> String {
    let url = format!("http://{}/v2/interop/app/manifests/v1", registry.address());
    let accept =
        "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
    let request = reqwest::Client::new().get(url).header("accept", accept);
    request.send().await.unwrap().text().await.unwrap()
}

/// Pulls the image, has it run as it is configured, and looks at its files. Gives its id.
async fn runs(node: &Node, reference: &str) -> String {
    let client = node.client();
    let id = client.pull(reference).await.unwrap_or_else(|status| panic!("{reference}: {status}"));
    let sandbox = node.pod();
    let pod = client.run_pod(sandbox.clone()).await.unwrap();
    let own = client.create(&pod, config::container("own", reference, &[]), &sandbox).await.unwrap();
    client.start(&own).await.unwrap();
    assert_eq!(client.exited(&own).await.exit_code, 0, "{reference}");
    let log = Path::new(&sandbox.log_directory).join("own.log");
    let said: Vec<String> = std::fs::read_to_string(log)
        .unwrap()
        .lines()
        .filter_map(|line| line.splitn(4, ' ').nth(3).map(str::to_owned))
        .collect();
    assert_eq!(said, ["by umoci", "33", "/srv"], "{reference}");

    let main = client
        .create(&pod, config::container("main", reference, &["/bin/sleep", "1000"]), &sandbox)
        .await
        .unwrap();
    client.start(&main).await.unwrap();
    let script =
        "cat replaced 'ünicode and spaces'; ls emptied kept; stat -c '%a %u %g' setuid; stat -c '%h' /bin/sh";
    let shown = client.exec(&main, &["/bin/sh", "-c", script], 10).await.unwrap();
    assert_eq!(
        shown.stdout, "first\nodd\nemptied:\n\nkept:\nfile\n4711 7 8\n8\n",
        "{reference}: {}",
        shown.stderr
    );
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    id
}
