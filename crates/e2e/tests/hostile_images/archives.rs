//! Archives whose entries ask for what no entry gets. (CVE-2021-32760, 2025-47290, 2025-62518, 2025-58183 and their kind.)

use std::os::unix::fs::MetadataExt as _;

use e2e::archive::{Packed, Raw, header};
use e2e::image::Packing;

use crate::rig::Rig;

#[tokio::test]
async fn entries_that_want_out_are_refused_and_change_nothing() {
    let rig = Rig::new().await;
    let host = tempfile::Builder::new().prefix("attacked-").tempdir().unwrap();
    let victim = host.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let before = seen(&victim);
    let absolute = victim.display().to_string();
    let climb = format!("{}{absolute}", "../".repeat(20));
    let out = ["climbs out of the layer", climb.as_str()];
    let link = ["a hard link to a file that the layer doesn't have", "hard"];
    let cases = [
        ("a file", Raw::new().file(&climb, b"owned"), &out[..]),
        ("a file behind a good one", Raw::new().file("good", b"").file(&climb, b"owned"), &out),
        ("a name in a record", Raw::new().pax(&[("path", climb.as_bytes())]).file("x", b"owned"), &out),
        ("a name of GNU's", gnu_name(&climb), &out),
        ("a directory", Raw::new().entry((&climb, b'5'), "", b""), &out),
        ("a link", Raw::new().entry((&climb, b'2'), "/", b""), &out),
        ("a whiteout", Raw::new().file(&format!("{climb}/.wh.x"), b""), &["climbs out of the layer"]),
        (
            "an opaque mark",
            Raw::new().file(&format!("{climb}/.wh..wh..opq"), b""),
            &["climbs out of the layer"],
        ),
        (
            "a whiteout of what is above",
            Raw::new().file("a/.wh...", b""),
            &["a whiteout of no file", "a/.wh..."],
        ),
        ("a hard link by its path", Raw::new().entry(("hard", b'1'), &absolute, b""), &link),
        (
            "a hard link upwards",
            Raw::new().entry(("hard", b'1'), &climb, b""),
            &["a hard link to a path outside", "hard"],
        ),
        (
            "a hard link through a link",
            Raw::new().entry(("link", b'2'), "/tmp", b"").entry(("hard", b'1'), "link/victim", b""),
            &link,
        ),
        ("a hard link to nothing", Raw::new().entry(("hard", b'1'), "nothing", b""), &link),
        (
            "links that lead in a ring",
            Raw::new().entry(("a", b'2'), "b", b"").entry(("b", b'2'), "a", b"").file("a/x", b""),
            &["a/x"],
        ),
    ];
    for (attack, tar, words) in cases {
        rig.archive_refused(attack, &tar.done(), words).await;
        assert_eq!(seen(&victim), before, "the attack succeeded: {attack}: the host's file has changed");
        assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 1, "the attack succeeded: {attack}");
    }
    rig.unharmed().await;
}

#[tokio::test]
async fn numbers_and_sizes_that_lie_are_refused() {
    let rig = Rig::new().await;
    let inner = Raw::new().file("smuggled", b"x").done();
    let device = |major: &[u8], minor: &[u8]| {
        let mut header = header(b"device", b'3', 0);
        header[329..329 + major.len()].copy_from_slice(major);
        header[337..337 + minor.len()].copy_from_slice(minor);
        Raw::new().raw(header, b"")
    };
    let owner = |value: &[u8]| Raw::new().pax(&[("uid", value)]).file("f", b"");
    let size = |bytes: [u8; 12]| {
        let mut header = header(b"f", b'0', 0);
        header[124..136].copy_from_slice(&bytes);
        Raw::new().raw(header, b"")
    };
    let cases = [
        (
            "a device without bounds",
            device(b"0007777", b"7777777"),
            &["device number is out of bounds", "device"][..],
        ),
        ("a device that is no number", device(b"xyz", b"1"), &["device number is out of bounds", "device"]),
        ("an owner that is none", owner(b"4294967295"), &["no user or group id", "\"f\""]),
        ("an owner beyond any", owner(b"4294967296"), &["no user or group id", "\"f\""]),
        (
            "a record with a larger size than the header's",
            Raw::new()
                .pax(&[("size", inner.len().to_string().as_bytes())])
                .file("outer", b"")
                .raw(header(b"f", b'0', 0), b""),
            &["headers disagree about its size", "outer"],
        ),
        (
            "a record with a smaller one",
            Raw::new().pax(&[("size", b"0")]).file("outer", &inner),
            &["headers disagree about its size", "outer"],
        ),
        ("a negative size", size([0xff; 12]), &["size"]),
        ("a size beyond the end", size(*b"77777777777\0"), &["it ends within an entry"]),
        ("the root as a file", Raw::new().file("./", b"x"), &["the layer's root must be a directory"]),
        ("a type that nobody knows", Raw::new().entry(("odd", b'Q'), "", b""), &["its type is none", "odd"]),
        (
            "an attribute without bounds",
            attribute(70_000),
            &["an extended attribute is beyond the kernel's bounds"],
        ),
    ];
    for (attack, tar, words) in cases {
        rig.archive_refused(attack, &tar.done(), words).await;
    }
    rig.unharmed().await;
}

#[tokio::test]
async fn archives_that_would_be_large_in_memory_are_refused() {
    let rig = Rig::new().await;
    // Sizes that headers state, and a GiB that is really there, as zeros in few bytes.
    for (attack, flag) in [("a record", b'x'), ("a name", b'L'), ("a link", b'K')] {
        let huge = Raw::new().raw(header(b"huge", flag, 1 << 30), b"");
        let words = ["an extended header is larger than 1 MiB"];
        rig.archive_refused(&format!("{attack} that claims a GiB"), &huge.clone().done(), &words).await;
        let (diff_id, blob) = zeros_behind(huge.done(), 1 << 30);
        let layer = Packed::of(diff_id.clone(), blob);
        rig.layers_refused(&format!("{attack} of a GiB"), &[layer], &[words[0], &diff_id]).await;
    }
    let map = "0,0,".repeat(100_000);
    let sparse = |records: &[(&str, &[u8])], content: &[u8]| Raw::new().pax(records).file("sparse", content);
    let first: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")];
    let in_content = |text: &str| {
        let mut content = text.as_bytes().to_vec();
        content.resize(content.len().next_multiple_of(512), 0);
        sparse(&[first[0], first[1], ("GNU.sparse.realsize", b"10")], &content)
    };
    let cases = [
        (
            "a map in a record",
            sparse(&[("GNU.sparse.size", b"0"), ("GNU.sparse.map", map.as_bytes())], b""),
            "too many parts",
        ),
        (
            "a map in the content",
            in_content(&format!("100000\n{}", "0\n0\n".repeat(100_000))),
            "too many parts",
        ),
        ("a map that claims them", in_content("99999999999\n"), "map has no number"),
        ("parts beyond the end", in_content("1\n100\n0\n"), "disagree with its size"),
        ("parts out of order", in_content("2\n5\n0\n1\n0\n"), "overlap or are out of order"),
    ];
    for (attack, tar, words) in cases {
        rig.archive_refused(&format!("a sparse file: {attack}"), &tar.done(), &[words]).await;
    }
    rig.unharmed().await;
}

/// An archive with a name in front of its entry, as GNU writes long ones.
fn gnu_name(name: &str) -> Raw {
    let mut before = header(b"././@LongLink", b'L', name.len() as u64 + 1);
    before[257..265].copy_from_slice(b"ustar  \0");
    Raw::new().raw(before, &[name.as_bytes(), b"\0"].concat()).file("x", b"owned")
}

fn attribute(length: usize) -> Raw {
    Raw::new().pax(&[("SCHILY.xattr.user.x", &vec![b'x'; length])]).file("f", b"")
}

/// The bytes and so many zeros behind them: their digest, and what gzip makes of them.
fn zeros_behind(bytes: Vec<u8>, count: usize) -> (String, Vec<u8>) {
    use std::io::Write as _;
    const PIECE: usize = 1 << 20;
    let mut hash = <sha2::Sha256 as sha2::Digest>::new();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let pieces = std::iter::once(bytes).chain((0..count / PIECE).map(|_| vec![0; PIECE]));
    for piece in pieces {
        sha2::Digest::update(&mut hash, &piece);
        encoder.write_all(&piece).unwrap();
    }
    let hex: String = sha2::Digest::finalize(hash).iter().map(|byte| format!("{byte:02x}")).collect();
    (format!("sha256:{hex}"), encoder.finish().unwrap())
}

/// All of a file that an archive might change.
fn seen(path: &std::path::Path) -> (u32, u32, u64, i64, i64, String) {
    let meta = path.symlink_metadata().unwrap();
    (
        meta.mode(),
        meta.uid(),
        meta.nlink(),
        meta.mtime(),
        meta.mtime_nsec(),
        std::fs::read_to_string(path).unwrap(),
    )
}

/// The forms of compression are the same to the reader of archives: one case by zstd.
#[tokio::test]
async fn zstd_hides_nothing() {
    let rig = Rig::new().await;
    let tar = Raw::new().file("../../evil", b"x").done();
    let layer = Packed::new(&tar, Packing::Zstd.pack(&tar));
    let words = ["climbs out of the layer", "../../evil", layer.diff_id.as_str()].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    rig.layers_refused("up and out, by zstd", &[layer], &words).await;
    rig.unharmed().await;
}
