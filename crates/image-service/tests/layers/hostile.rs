//! Archives that want out. Whatever they ask for: an error or something harmless within the layer, nothing outside it
//! changed, and nothing left in the store.

use std::path::Path;

use image_service::{Digest, Error};

use crate::archive::{Tar, char_device, dir, fifo, file, hard_link, item, symlink};
use crate::store::{Form, Store, snapshot};

/// What an archive must lead to.
enum Fate {
    Refused,
    Harmless,
}

use Fate::{Harmless, Refused};

/// A directory that stands for the host, beside the store, and archives that aim at it by its real path and by many
/// steps upwards. (CVE-2021-32760, CVE-2025-47290, CVE-2022-23648, CVE-2024-3727 are of this kind.)
pub(crate) fn nothing_outside_the_layer_changes(form: Form) {
    let store = Store::new(form);
    let host = store.dir.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("victim"), "untouched").unwrap();
    let before = snapshot(&host);
    let absolute = host.to_str().unwrap().to_owned();
    let relative = format!("{}{absolute}", "../".repeat(20));
    for (name, tar, fate) in corpus(&absolute, &relative) {
        let outcome = store.unpack(&tar);
        match (fate, &outcome) {
            (
                Refused,
                Err(Error::EntryRefused { .. } | Error::EntryUnpack { .. } | Error::LayerArchive { .. }),
            ) => {}
            (Harmless, Ok(_)) => {}
            _ => panic!("{name}: {outcome:?}"),
        }
        assert_eq!(snapshot(&host), before, "{name}");
    }
    store.collect(&[]);
    store.wait_until_tidy();
    assert_eq!(snapshot(&host), before);
}

fn corpus(absolute: &str, relative: &str) -> Vec<(&'static str, Tar, Fate)> {
    let victim = |base: &str| format!("{base}/victim");
    let one = |item| Tar::new().with(item);
    let via = |target: &str| Tar::new().with(symlink("link", target));
    vec![
        ("a file up and out", one(file(&victim(relative), "owned")), Refused),
        ("a file at an absolute path", one(file(&victim(absolute), "owned")), Harmless),
        ("a directory up and out", one(dir(&format!("{relative}/new/"))), Refused),
        ("only dots", one(dir("../")), Refused),
        ("dots within", one(file("a/../../x", "")), Refused),
        ("a long name up and out", one(file("x", "").gnu_name(&victim(relative))), Refused),
        ("a record's name up and out", one(file("x", "").pax("path", victim(relative))), Refused),
        ("a sparse name up and out", sparse_name(&victim(relative)), Refused),
        ("a prefix up and out", one(file("victim", "owned").patch(345, "../../../../../..")), Refused),
        ("through an absolute link", via(absolute).with(file("link/victim", "owned")), Harmless),
        ("through a relative link", via(relative).with(file("link/victim", "owned")), Harmless),
        (
            "through a link to the root",
            via("/").with(file(&format!("link{absolute}/victim"), "owned")),
            Harmless,
        ),
        (
            "through two links",
            via(absolute).with(symlink("l2", "link")).with(file("l2/victim", "owned")),
            Harmless,
        ),
        ("through a loop", via("link").with(file("link/x", "")), Refused),
        (
            "through a link in proc",
            via("/proc/self/root").with(file(&format!("link{absolute}/victim"), "")),
            Harmless,
        ),
        ("over a link to a file", via(&victim(absolute)).with(file("link", "owned")), Harmless),
        ("a mode through a link", via(&victim(absolute)).with(file("link", "").mode(0o4777)), Harmless),
        ("a directory over a link", via(absolute).with(dir("link/").mode(0o777)), Harmless),
        ("a link's own owner", one(symlink("link", &victim(absolute)).owner(1, 1)), Harmless),
        (
            "a link's own attributes",
            one(symlink("l", &victim(absolute)).pax("SCHILY.xattr.trusted.x", "y")),
            Harmless,
        ),
        ("a hard link at an absolute path", one(hard_link("h", &victim(absolute))), Refused),
        ("a hard link up and out", one(hard_link("h", &victim(relative))), Refused),
        ("a hard link through a link", via(absolute).with(hard_link("h", "link/victim")), Refused),
        (
            "a hard link to a link",
            via(&victim(absolute)).with(hard_link("h", "link")).with(file("h", "owned")),
            Harmless,
        ),
        (
            "attributes through a hard link to a link",
            via(&victim(absolute)).with(hard_link("h", "link").mode(0o777).owner(1, 1)),
            Harmless,
        ),
        ("a hard link to a directory", one(dir("d/")).with(hard_link("h", "d")), Refused),
        ("a hard link to itself", one(file("f", "x")).with(hard_link("f", "f")), Refused),
        ("a hard link to the root", one(hard_link("h", "/")), Refused),
        ("a whiteout of the parent", one(file("d/.wh...", "")), Refused),
        ("a whiteout of here", one(file("d/.wh..", "")), Refused),
        ("a whiteout of nothing", one(file(".wh.", "")), Refused),
        ("a whiteout through a link", via(absolute).with(file("link/.wh.victim", "")), Harmless),
        ("an opaque mark through a link", via(absolute).with(file("link/.wh..wh..opq", "")), Harmless),
        ("an opaque mark up and out", one(file(&format!("{relative}/.wh..wh..opq"), "")), Refused),
        ("below a whiteout", one(file(".wh.x/y", "")), Refused),
        ("below a file", one(file("f", "")).with(file("f/x", "")), Refused),
        ("below a device", one(char_device("dev", 1, 3)).with(file("dev/x", "")), Refused),
        ("content for a fifo", one(fifo("f")).with(file("f", "owned")), Harmless),
        ("a device with a huge number", one(char_device("dev", 0o7777, 0o7_777_777)), Refused),
        ("the root as a file", one(file("./", "x")), Refused),
        ("the root as a link", one(symlink(".", absolute)), Refused),
        ("an owner that is none", one(file("f", "").pax("uid", "4294967295")), Refused),
        ("an owner beyond any", one(file("f", "").pax("gid", "4294967296")), Refused),
        ("a negative owner", one(file("f", "").patch(108, [0xff; 8])), Refused),
        ("a link without a target", one(symlink("l", "")), Refused),
        ("a path with a null byte", one(file("x", "").pax("path", b"a\0b")), Refused),
        ("a path too long", one(file("x", "").pax("path", "a/".repeat(3000))), Refused),
        ("a name too long", one(file("x", "").pax("path", "a".repeat(300))), Refused),
        ("an unknown type", one(item("x", b'Q')), Refused),
    ]
}

fn sparse_name(name: &str) -> Tar {
    let entry = file("x", "").pax("GNU.sparse.major", "0").pax("GNU.sparse.minor", "1");
    Tar::new().with(entry.pax("GNU.sparse.size", "0").pax("GNU.sparse.name", name))
}

/// Entries hidden in what another reader takes for content, or the other way round (CVE-2025-62518).
pub(crate) fn contradicting_sizes_are_refused(form: Form) {
    let store = Store::new(form);
    let inner = Tar::new().with(file("smuggled", "x")).unended();
    let size = inner.len();
    let record_larger = file("outer", "").pax("size", size.to_string());
    let mut tar = Tar::new().with(record_larger);
    tar.padded(&inner);
    assert!(matches!(store.unpack(&tar), Err(Error::EntryRefused { .. })));
    let tar = Tar::new().with(file("outer", &inner).pax("size", "0"));
    assert!(matches!(store.unpack(&tar), Err(Error::EntryRefused { .. })));
    // Both say the same: fine, whatever the content looks like.
    let tar = Tar::new().with(file("outer", &inner).pax("size", size.to_string()));
    let root = store.image(&[tar]);
    assert_eq!(root.names("."), ["outer"]);
    // The size of one entry must not reach the headers of the next.
    let long = "n".repeat(150);
    let tar = Tar::new().with(file("x", "abc").pax("size", "3").gnu_name(&long)).with(file("y", "z"));
    let layer = store.unpack(&tar).unwrap();
    assert_eq!(store.mount("second", &[layer]).names("."), [long, "y".into()]);
}

/// A directory of the layer's own with many names, said to hide what is below it over and over: who looks through it each time
/// looks at billions (GHSA-rp3h-jf77-q9p4). It would be hours.
pub(crate) fn marks_without_end_cost_a_mark_each(form: Form) {
    const MANY: usize = 60_000;
    let store = Store::new(form);
    let names = (0..MANY).fold(Tar::new().with(dir("d/")), |tar, n| tar.with(file(&format!("d/{n}"), "")));
    let tar = (0..MANY).fold(names, |tar, _| tar.with(file("d/.wh..wh..opq", "")));
    let root = store.image(&[tar]);
    assert_eq!(root.names("d").len(), MANY);
}

/// Small archives that would be large in memory (CVE-2025-58183), and numbers that overflow.
pub(crate) fn bombs_are_refused(form: Form) {
    let store = Store::new(form);
    let refused = |name: &str, tar: &Tar| {
        let outcome = store.unpack(tar);
        assert!(
            matches!(outcome, Err(Error::LayerArchive { .. } | Error::EntryRefused { .. })),
            "{name}: {outcome:?}"
        );
    };
    refused("a huge record", &Tar::new().with(file("f", "").pax("comment", vec![b'a'; 2 << 20])));
    refused("a huge name", &Tar::new().with(file("f", "").gnu_name(&"a".repeat(2 << 20))));
    refused("a header that claims all", &Tar::new().with(item("x", b'x').claims_size(0o77_777_777_777)));
    refused("a name that claims all", &Tar::new().with(item("x", b'L').gnu().claims_size(0o77_777_777_777)));
    refused("a negative size", &Tar::new().with(file("f", "").patch(124, [0xff; 12])));
    let largest = [&[0x80][..], &[0; 3], &i64::MAX.to_be_bytes()].concat();
    refused("a size beyond the end", &Tar::new().with(file("f", "").patch(124, largest)));
    refused(
        "a size in a record beyond the end",
        &Tar::new().with(file("f", "").pax("size", u64::MAX.to_string())),
    );
    refused(
        "an attribute too large",
        &Tar::new().with(file("f", "").pax("SCHILY.xattr.user.x", vec![1; 70_000])),
    );
    let long = format!("SCHILY.xattr.user.{}", "x".repeat(300));
    refused("a name of an attribute too long", &Tar::new().with(file("f", "").pax(&long, "v")));
    let v1 = |map: &str| {
        let mut bytes = map.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let entry = file("x", bytes).pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0");
        Tar::new().with(entry.pax("GNU.sparse.realsize", "10"))
    };
    refused("a map that claims many parts", &v1("99999999999\n"));
    refused("a map of many parts", &v1(&format!("100000\n{}", "0\n0\n".repeat(100_000))));
    refused("a map beyond the file", &v1("1\n100\n0\n"));
    refused("a map out of order", &v1("2\n5\n0\n1\n0\n"));
    refused("a map that overflows", &v1(&format!("1\n{}\n{}\n", u64::MAX, u64::MAX)));
    refused("a map with junk", &v1("1\nx\n0\n"));
    refused("a map that is cut off", &v1("1\n5"));
    let many = file("x", "").pax("GNU.sparse.size", "0").pax("GNU.sparse.map", "0,0,".repeat(200_000));
    refused("a map in a record of many parts", &Tar::new().with(many));
    // What would be kept of it, for good, is many times what it has itself: the same long way to each.
    let way = vec!["w".repeat(255); 14].join("/");
    let undescribed = |count| {
        (0..count).fold(Tar::new(), |tar, n| tar.with(file("", "").pax("path", format!("{way}/{n:03}/f"))))
    };
    refused("many directories that no entry describes", &undescribed(4_800));
    assert!(store.unpack(&undescribed(10)).is_ok());
    store.collect(&[]);
    store.wait_until_tidy();
    assert_eq!(store.layers.usage().inodes, 0);
}

/// Broken in all the other ways.
pub(crate) fn malformed_archives_are_refused(form: Form) {
    let store = Store::new(form);
    let good = Tar::new().with(file("f", vec![b'x'; 2000])).unended();
    let mut checksum = good.clone();
    checksum[0] ^= 1;
    let single_zero_block = [&[0; 512][..], &good].concat();
    let dangling = Tar::new().with(item("x", b'x')).bytes();
    let mut two_records = Tar::new();
    two_records.add(item("x", b'x'));
    two_records.add(file("f", "").pax("comment", "c"));
    for (name, bytes) in [
        ("a wrong checksum", checksum),
        ("cut off in the content", good[..1500].to_vec()),
        ("cut off in a header", good[..300].to_vec()),
        ("zeros before entries", single_zero_block),
        ("a header without an entry", dangling),
        ("two extended headers", two_records.bytes()),
        ("no archive at all", b"{\"not\": \"a tar\"}".repeat(100)),
        ("a short text", b"hello".to_vec()),
    ] {
        let outcome = store.unpack_bytes(&bytes, &bytes);
        assert!(matches!(outcome, Err(Error::LayerArchive { .. })), "{name}: {outcome:?}");
    }
    // A whole archive that only lacks its end is what some programs write.
    store.unpack_bytes(&good, &good).unwrap();
    store.wait_until_tidy();
}

/// An error names layer and entry.
pub(crate) fn errors_say_what_and_why(form: Form) {
    let store = Store::new(form);
    let tar = Tar::new().with(file("fine", "")).with(file("../evil", ""));
    let error = store.unpack(&tar).unwrap_err();
    let diff_id = Digest::of(&tar.bytes());
    let expected =
        format!("entry \"../evil\" of layer \"{diff_id}\" is refused: its path climbs out of the layer");
    assert_eq!(error.to_string(), expected);
}

/// Leaves of the store's own directories are reached by none of it.
pub(crate) fn the_store_itself_is_private(form: Form) {
    use std::os::unix::fs::PermissionsExt as _;
    let store = Store::new(form);
    store.unpack(&Tar::new().with(file("setuid", "").mode(0o4755))).unwrap();
    for dir in ["images/layers", "images/ingest", "images/trash", "images/layers/sha256", "containers"] {
        let mode = std::fs::metadata(store.dir.path().join(Path::new(dir))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{dir}");
    }
}
