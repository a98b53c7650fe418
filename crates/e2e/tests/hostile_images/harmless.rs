//! Names that are odd and mean no harm: they are where the archive says, within the root.

use e2e::archive::{Packed, Raw, header};
use e2e::newest::{self, Newest};
use e2e::scripted::{Content, Manner};
use e2e::{Network, Node, Scripted, config};

#[tokio::test]
async fn odd_names_are_kept_within_the_root() {
    let node = Node::start(Network::None).await;
    let client = node.client();
    let registry = Scripted::start(Content::default(), Manner::default()).await;
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    let base = Raw::new().file("bin/busybox", &busybox).entry(("bin/sh", b'1'), "bin/busybox", b"").done();
    let tar = Raw::new()
        .file("/absolute/file", b"absolute")
        .file("./a/./b/../dotted", b"dotted")
        .entry(("usr/lib", b'5'), "", b"")
        .entry(("lib", b'2'), "usr/lib", b"")
        .file("lib/through", b"through a link")
        .entry(("up", b'2'), "../../../../../..", b"")
        .file("up/climbed", b"climbed")
        .raw(header(b"not-\xff-text", b'0', 5), b"bytes")
        .raw(header(b"line\nbreak", b'0', 4), b"line")
        .done();
    registry.content().image("odd", "latest", &[Packed::gzip(&base), Packed::gzip(&tar)]);
    let reference = registry.image("odd:latest");
    client.pull(&reference).await.unwrap();
    let sandbox = node.pod();
    let pod = client.run_pod(sandbox.clone()).await.unwrap();
    let wanted = config::container("main", &reference, &["/bin/busybox", "sleep", "1000"]);
    let container = client.create(&pod, wanted, &sandbox).await.unwrap();
    client.start(&container).await.unwrap();
    let script = "cat /absolute/file /a/dotted /usr/lib/through /climbed /not-*-text /line*break; echo /not-* | od -An -c | grep -c 377";
    let shown =
        client.exec(&container, &["/bin/busybox", "sh", "-c", &for_busybox(script)], 10).await.unwrap();
    assert_eq!(shown.stdout, "absolutedottedthrough a linkclimbedbytesline1\n", "{}", shown.stderr);
}

/// As a container's root, as a volume and as a mount on the node, each of which is another stack of overlay's.
#[tokio::test]
async fn an_image_of_as_many_layers_as_there_may_be_is_used_in_every_way() {
    const MOST: usize = 499;
    let node = Node::start(Network::None).await;
    let client = node.client();
    let registry = Scripted::start(Content::default(), Manner::default()).await;
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    let base = Raw::new().file("bin/busybox", &busybox).done();
    let more = (1..MOST).map(|number| Raw::new().file(&format!("files/{number}"), b"x").done());
    let layers: Vec<Packed> = std::iter::once(base).chain(more).map(|tar| Packed::gzip(&tar)).collect();
    registry.content().image("tall", "latest", &layers);
    let reference = registry.image("tall:latest");
    client.pull(&reference).await.unwrap();
    let sandbox = node.pod();
    let pod = client.run_pod(sandbox.clone()).await.unwrap();
    let wanted = config::container("main", &reference, &["/bin/busybox", "sleep", "1000"]);
    let mut wanted = newest::container(&wanted);
    wanted.mounts.push(proto::runtime::v1::Mount {
        image: Some(proto::runtime::v1::ImageSpec { image: reference.clone(), ..Default::default() }),
        container_path: "/volume".into(),
        readonly: true,
        ..Default::default()
    });
    let container = Newest::of(&client).create(&pod, wanted, &sandbox).await.unwrap();
    client.start(&container).await.unwrap();
    for path in ["/files", "/volume/files"] {
        let shown = client.exec(&container, &["/bin/busybox", "ls", path], 10).await.unwrap();
        assert_eq!(shown.stdout.lines().count(), MOST - 1, "{path}: {}", shown.stderr);
    }
    let mount = node.path("mount");
    std::fs::create_dir(&mount).unwrap();
    let knarr = |arguments: &[&str]| {
        let endpoint = format!("unix://{}", node.socket().display());
        let mut command = std::process::Command::new(e2e::node::binary("knarr"));
        let output = command.args(arguments).args(["--endpoint", &endpoint]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    knarr(&["image", "mount", &reference, mount.to_str().unwrap()]);
    assert_eq!(std::fs::read_dir(mount.join("files")).unwrap().count(), MOST - 1);
    knarr(&["image", "unmount", mount.to_str().unwrap()]);
}

/// The script with busybox' applets, which have no names of their own here.
fn for_busybox(script: &str) -> String {
    ["cat", "od", "grep"].into_iter().fold(script.to_owned(), |script, applet| {
        script
            .split(' ')
            .map(|word| if word == applet { format!("/bin/busybox {applet}") } else { word.to_owned() })
            .collect::<Vec<_>>()
            .join(" ")
    })
}
