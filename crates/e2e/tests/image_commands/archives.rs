//! `knarr image save` and `load`, between nodes and with skopeo.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use e2e::{Network, Node};
use serde_json::Value;

use crate::command::{Ran, knarr, pushed, run};

#[tokio::test]
async fn an_image_goes_from_node_to_node_in_a_file() {
    let from = Node::start(Network::None).await;
    let name = pushed(&from, "moved", "commands/moved:1").await;
    let id = from.client().pull(&name).await.unwrap();
    for (at, options) in
        [&[][..], &["--compress", "zstd"], &["--format", "docker", "--compress", "gzip"]].iter().enumerate()
    {
        let to = Node::start(Network::None).await;
        let file = to.path(&format!("archive-{at}"));
        let path = file.to_str().unwrap();
        let arguments = [&["image", "save", "-o", path, &name][..], options].concat();
        assert_eq!(run(&from, &arguments).well(), "");
        assert_eq!(run(&to, &["image", "load", "-i", path]).well(), format!("loaded {name}\n"));
        let listed = run(&to, &["image", "ls", "--json"]).json();
        assert_eq!(
            (&listed[0]["id"], &listed[0]["tags"]),
            (&Value::from(id.clone()), &Value::from(vec![name.clone()]))
        );
        let saved = run(&to, &["image", "inspect", &name]).json();
        assert!(
            saved[0]["layers"].as_array().unwrap().iter().all(|layer| layer["canBeSaved"] == true),
            "{saved}"
        );
    }
}

/// A busybox that came in an archive runs as any other.
#[tokio::test]
async fn a_loaded_image_runs() {
    let from = Node::start(Network::None).await;
    from.client().pull(&from.registry.image("busybox:latest")).await.unwrap();
    let to = Node::start(Network::None).await;
    let archive = to.path("busybox.tar.gz");
    let mut save = knarr(&from, &["image", "save", &from.registry.image("busybox:latest")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let gzip = Command::new("gzip")
        .stdin(save.stdout.take().unwrap())
        .stdout(File::create(&archive).unwrap())
        .status()
        .unwrap();
    assert!(gzip.success() && save.wait().unwrap().success());
    let ran: Ran =
        knarr(&to, &["image", "load"]).stdin(File::open(&archive).unwrap()).output().unwrap().into();
    assert!(ran.well().starts_with("loaded "));
    let client = to.client();
    let config = to.pod();
    let pod = client.run_pod(config.clone()).await.unwrap();
    let container = client.create(&pod, to.busybox("main", &["sleep", "1000"]), &config).await.unwrap();
    client.start(&container).await.unwrap();
    assert_eq!(client.exec(&container, &["echo", "loaded"], 10).await.unwrap().stdout, "loaded\n");
}

/// A run whose standard error is a terminal.
struct OnTerminal {
    child: Child,
    shown: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl OnTerminal {
    fn start(mut command: Command) -> Self {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(terminal.slave).spawn().unwrap();
        let shown = Arc::<Mutex<String>>::default();
        let (to, mut from) = (Arc::clone(&shown), File::from(terminal.master));
        let reader = std::thread::spawn(move || {
            let mut part = [0; 4096];
            // Ends with EIO when the last of the other side is gone.
            while let Ok(count @ 1..) = from.read(&mut part) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..count]));
            }
        });
        Self { child, shown, reader }
    }

    /// What it printed, and what was shown.
    fn end(self) -> (Ran, String) {
        let ran: Ran = self.child.wait_with_output().unwrap().into();
        self.reader.join().unwrap();
        let shown = self.shown.lock().unwrap().clone();
        (ran, shown)
    }
}

/// A terminal sees how much of an archive has gone, and nothing of that when it is over.
#[tokio::test]
async fn a_terminal_sees_how_far_an_archive_is() {
    let node = Node::start(Network::None).await;
    // More than can have gone before it is looked at first.
    let name = pushed(&node, &"shown ".repeat(500_000), "commands/shown:1").await;
    node.client().pull(&name).await.unwrap();
    let archive = node.path("archive.tar");
    let path = archive.to_str().unwrap();
    let on_terminal = |arguments: &[&str]| OnTerminal::start(knarr(&node, arguments)).end();
    let is_gone = |shown: &str| shown.starts_with('\r') && shown.ends_with("\r\x1b[K");
    let (ran, shown) = on_terminal(&["image", "save", "-o", path, &name]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{shown:?}");
    assert!(is_gone(&shown) && shown.contains("B\x1b[K"), "{shown:?}");
    let (ran, shown) = on_terminal(&["image", "load", "-i", path]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), format!("loaded {name}\n").as_str()), "{shown:?}");
    assert!(is_gone(&shown) && shown.contains(" %   ") && shown.contains(" of "), "{shown:?}");
    for quiet in [&["image", "save", "-q", "-o", path, &name][..], &["image", "load", "-q", "-i", path]] {
        let (ran, shown) = on_terminal(quiet);
        assert_eq!((ran.code, shown.as_str()), (Some(0), ""));
    }
    // What reads the pipe may show something itself.
    let mut save = OnTerminal::start(knarr(&node, &["image", "save", &name]));
    let mut saved = Vec::new();
    save.child.stdout.take().unwrap().read_to_end(&mut saved).unwrap();
    let (ran, shown) = save.end();
    assert_eq!((ran.code, shown.as_str()), (Some(0), ""));
    assert_eq!(saved, std::fs::read(path).unwrap());
    let mut command = knarr(&node, &["image", "load", "--json"]);
    command.stdin(Stdio::piped());
    let mut load = OnTerminal::start(command);
    let mut input = load.child.stdin.take().unwrap();
    let (first, rest) = saved.split_at(saved.len() / 2);
    input.write_all(first).unwrap();
    let shown = Arc::clone(&load.shown);
    e2e::until(e2e::node::PATIENCE, "what has gone to be shown", || async {
        let shown = shown.lock().unwrap().clone();
        if shown.contains(" MB") && !shown.contains('%') { Ok(()) } else { Err(shown) }
    })
    .await;
    input.write_all(rest).unwrap();
    drop(input);
    let (ran, shown) = load.end();
    assert!(ran.code == Some(0) && is_gone(&shown), "{shown:?}");
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap()[0]["tags"][0], name);
}

/// The complaint is the last thing that a terminal sees, on a line of its own.
#[tokio::test]
async fn a_terminal_sees_why_an_archive_is_refused() {
    let node = Node::start(Network::None).await;
    let mut command = knarr(&node, &["image", "load"]);
    command.stdin(Stdio::piped());
    let mut load = OnTerminal::start(command);
    let mut input = load.child.stdin.take().unwrap();
    // It is refused before its end, which never comes, and maybe before all this is written.
    let _broken_off = input.write_all(&vec![0xff; 1 << 20]);
    let (ran, shown) = load.end();
    drop(input);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{shown:?}");
    let (before, complaint) = shown.split_once("\r\x1b[Kknarr: ").unwrap_or_else(|| panic!("{shown:?}"));
    assert!(!before.contains('\n') && complaint.lines().count() == 1, "{shown:?}");
    assert!(complaint.ends_with("\n"), "{shown:?}");
}

#[tokio::test]
async fn a_layout_in_a_directory_is_loaded_and_skopeo_reads_what_is_saved() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("skipped: needs skopeo");
        return;
    }
    let node = Node::start(Network::None).await;
    let name = pushed(&node, "through skopeo", "commands/skopeo:1").await;
    let id = node.client().pull(&name).await.unwrap();
    let archive = node.path("saved.tar");
    run(&node, &["image", "save", "--output", archive.to_str().unwrap(), &name]).well();
    let policy = node.path("policy.json");
    std::fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let layout = node.path("layout");
    let copied = Command::new("skopeo")
        .arg("--policy")
        .arg(&policy)
        .args([
            "copy",
            &format!("oci-archive:{}", archive.display()),
            &format!("oci:{}:v2", layout.display()),
        ])
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    run(&node, &["image", "rm", &name]).well();
    let loaded = run(
        &node,
        &["image", "load", "-i", layout.to_str().unwrap(), "--json", "--name", "r.example/by/skopeo"],
    )
    .json();
    assert_eq!(
        (&loaded[0]["id"], &loaded[0]["tags"][0]),
        (&Value::from(id), &Value::from("r.example/by/skopeo:v2"))
    );
}

#[tokio::test]
async fn what_fails_leaves_no_file_and_no_image() {
    let node = Node::start(Network::None).await;
    let name = pushed(&node, "half", "commands/half:1").await;
    node.client().pull(&name).await.unwrap();
    let archive = node.path("archive.tar");
    let path = archive.to_str().unwrap();
    let complaint = run(&node, &["image", "save", "-o", path, &name, "nothing"]).complaint();
    assert_eq!((complaint.as_str(), archive.exists()), ("knarr: image \"nothing\" does not exist", false));
    run(&node, &["image", "save", "-o", path, &name]).well();
    run(&node, &["image", "rm", &name]).well();
    let whole = std::fs::read(&archive).unwrap();
    std::fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    let complaint = run(&node, &["image", "load", "-i", path]).complaint();
    assert!(complaint.starts_with("knarr: the archive is refused: it ends"), "{complaint}");
    let complaint = run(&node, &["image", "load", "-i", node.path("none").to_str().unwrap()]).complaint();
    assert!(complaint.contains("none\": No such file"), "{complaint}");
    assert_eq!(run(&node, &["image", "ls", "-q"]).well(), "");
    let left = std::fs::read_dir(node.path("root/images/ingest")).unwrap().flatten();
    assert_eq!(left.filter(|entry| entry.file_name() != "blobs").count(), 0);
}

/// A client that is killed half-way through loads nothing.
#[tokio::test]
async fn a_client_that_goes_is_no_end_of_an_archive() {
    let node = Node::start(Network::None).await;
    let name = pushed(&node, "given up", "commands/given-up:1").await;
    node.client().pull(&name).await.unwrap();
    let archive = node.path("archive.tar");
    run(&node, &["image", "save", "-o", archive.to_str().unwrap(), &name]).well();
    run(&node, &["image", "rm", &name]).well();
    let mut load = knarr(&node, &["image", "load"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = load.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &std::fs::read(&archive).unwrap()).unwrap();
    load.kill().unwrap();
    load.wait().unwrap();
    drop(input);
    e2e::until(e2e::node::PATIENCE, "the files of the archive to go", || async {
        let left = std::fs::read_dir(node.path("root/images/ingest")).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != "blobs").collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(run(&node, &["image", "ls", "-q"]).well(), "");
}
