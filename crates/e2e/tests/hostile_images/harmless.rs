//! Names that are odd and mean no harm: they are where the archive says, within the root.

use e2e::archive::{Packed, Raw, header};
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
